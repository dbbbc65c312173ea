//! What the trace of a node in a cluster says beside the changes of its directory: what peers made, sent and were told.
//!
//! A text is a function of its id, which stands at its beginning; peers, parcels and reports carry the id only. The texts,
//! keys and lengths of a peer's events are a function of (seed, origin, seq).

use std::collections::BTreeMap;

use dynarust::replica::{Dot, Entry, Frame, Kind, NodeId, Sweep, Value, VersionVector};
use dynarust::storage::Parcel;
use serde::{Deserialize, Serialize};

use crate::peer::Kept;
use crate::workload::{key_name, text};

/// Keys from here on are records of members.
pub const MEMBERS: u32 = 1_000_000;

/// One thing that was said or promised.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Note {
    /// A store was opened and holds this.
    Found(Found),
    /// A peer made an event.
    Happened { dot: Dot, happening: Happening },
    /// All peers, as they are now.
    Peers(Vec<Kept>),
    /// A write was sent.
    Sent { id: u64, happening: Happening },
    /// It was acknowledged as this event.
    Done { id: u64, dot: Dot },
    /// It was refused.
    Refused { id: u64 },
    /// This was sent to the store.
    Offered { id: u64, offer: Offer },
    /// The answer was this.
    Taken { id: u64, vv: VersionVector },
    /// Somebody was shown all of this.
    Shown(VersionVector),
    /// The store was asked to take this name of its own, or of its cluster.
    Naming { node: bool, id: NodeId },
    /// It has it.
    Named,
}

/// What an event did.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Happening {
    /// To which key.
    pub key: u32,
    /// What it put: the id and the length of the text.
    pub text: Option<(u64, u64)>,
    /// What it took the place of.
    pub replaced: Vec<Dot>,
}

/// What a store was found to hold.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Found {
    pub me: NodeId,
    pub cluster: NodeId,
    pub vv: VersionVector,
    pub floor: VersionVector,
    /// Keys, versions, digest.
    pub totals: (u64, u64, String),
    pub holds: BTreeMap<u32, Vec<Version>>,
}

/// A live version.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Version {
    pub dot: Dot,
    /// The id of its text.
    pub id: u64,
    pub bytes: u64,
    pub chunked: bool,
}

/// What a peer sends, without its texts.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Offer {
    Frame(Frame),
    Sweep(Sweep),
}

impl Offer {
    pub fn sender(&self) -> NodeId {
        match self {
            Offer::Frame(frame) => frame.sender,
            Offer::Sweep(sweep) => sweep.sender,
        }
    }

    /// The keys whose entries are in it.
    pub fn entries(&self) -> &[(Kind, Vec<u8>, Entry)] {
        match self {
            Offer::Frame(frame) => &frame.entries,
            Offer::Sweep(sweep) => &sweep.entries,
        }
    }

    /// What the sender had.
    pub fn vv(&self) -> &VersionVector {
        match self {
            Offer::Frame(frame) => &frame.vv,
            Offer::Sweep(sweep) => &sweep.vv,
        }
    }

    /// With all texts, as it travels.
    pub fn parcel(&self) -> Parcel {
        match self.clone() {
            Offer::Frame(mut frame) => {
                each(&mut frame.entries, whole);
                Parcel::Frame(frame)
            }
            Offer::Sweep(mut sweep) => {
                each(&mut sweep.entries, whole);
                Parcel::Sweep(sweep)
            }
        }
    }
}

/// Changes the values of entries.
pub fn each(entries: &mut [(Kind, Vec<u8>, Entry)], change: impl Fn(&Value) -> Value) {
    for (_, _, entry) in entries {
        let mut versions = entry.versions().to_vec();
        versions.iter_mut().for_each(|version| version.value = change(&version.value));
        *entry = Entry::from_parts(versions, entry.context().clone());
    }
}

/// A value with its text, from one without.
pub fn whole(value: &Value) -> Value {
    match value {
        Value::Chunked { bytes, checksum } => Value::Inline(letter(*checksum, *bytes)),
        Value::Inline(_) => panic!("a text that should not be here"),
    }
}

/// A value without its text. The text must be what its id says.
pub fn bare(value: &Value) -> Value {
    let Value::Inline(text) = value else { panic!("a parcel without its text") };
    let (id, bytes) = read_letter(text);
    Value::Chunked { bytes, checksum: id }
}

/// The text with this id.
pub fn letter(id: u64, bytes: u64) -> Vec<u8> {
    let mut whole = id.to_be_bytes().to_vec();
    whole.extend(text(id, bytes as usize - 8));
    whole
}

/// The id and the length of a text, all of which must be right.
pub fn read_letter(text: &[u8]) -> (u64, u64) {
    let id = text.first_chunk().map(|id| u64::from_be_bytes(*id)).expect("a text with an id");
    assert!(letter(id, text.len() as u64) == text, "a text of {} bytes is damaged", text.len());
    (id, text.len() as u64)
}

/// The tree and the bytes of a key.
pub fn name(key: u32) -> (Kind, Vec<u8>) {
    match key.checked_sub(MEMBERS).filter(|member| *member < 100) {
        Some(member) => (Kind::Membership, peer_id(member).0.to_be_bytes().to_vec()),
        None => (Kind::Data, key_name(key)),
    }
}

/// The key with this name.
pub fn number(kind: Kind, name: &[u8]) -> u32 {
    match kind {
        Kind::Membership => {
            MEMBERS + (name[6..].iter().fold(0, |id, byte| id << 8 | u32::from(*byte)) - 0x1000)
        }
        Kind::Data => {
            let text = std::str::from_utf8(name).expect("names are ASCII");
            text.split('/').nth(1).and_then(|key| key.parse().ok()).expect("a name of ours")
        }
    }
}

/// The id of a peer.
pub fn peer_id(peer: u32) -> NodeId {
    NodeId(0x1000 + u64::from(peer))
}
