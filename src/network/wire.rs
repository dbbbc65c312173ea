//! What peers say to each other, as bytes.
//!
//! ```text
//! envelope   "DYNA" protocol:2 check:8 body        check = XXH3 of the body; integers big endian
//! ```
//!
//! The body is postcard (its wire format is specified and stable); what stands before it is for ever. A node that reads
//! another protocol number says so, with both numbers, and reads no further. Nothing in a body is trusted: see `check`.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::error::Error;
use crate::limits::SWIM_PACKETS_MAX;
use crate::replica::{Dot, Frame, NodeId, Sweep, VersionVector};

/// The language spoken here. It grows with every release that changes a type in this file, or in `replica/` of what travels.
pub const PROTOCOL: u16 = 1;

const MAGIC: &[u8; 4] = b"DYNA";

/// A message, and who is meant.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The sender's cluster.
    pub cluster: NodeId,
    /// Who sends.
    pub from: NodeId,
    /// Drawn by the sender's process when it started: two of them under one id are two nodes.
    pub run: u64,
    /// The sender's clock, in ms since 1970.
    pub now_ms: u64,
    /// Where the sender is reached, as far as it knows; empty when it does not.
    pub address: String,
    /// What is said.
    pub body: T,
}

/// What a node asks of another.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// Take this in. Meant for one node: another one may have its address by now.
    Frame(NodeId, Frame),
    /// Take this in; it is too old for frames.
    Sweep(NodeId, Sweep),
    /// Take me into your cluster.
    Join(Join),
    /// Who is reachable: packets of SWIM.
    Pulse(NodeId, Pulse),
}

/// Packets of SWIM from one node to another.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Pulse {
    /// In a message: the sender's generation. In an answer: the asker's, if a later one than it goes by is known there.
    pub generation: u64,
    /// The packets.
    #[serde(deserialize_with = "few_packets")]
    pub packets: Vec<Vec<u8>>,
}

/// No more of them than there may be: an empty one takes one byte on its way, and many here.
fn few_packets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
    struct Packets;
    impl<'de> Visitor<'de> for Packets {
        type Value = Vec<Vec<u8>>;

        fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
            write!(to, "at most {SWIM_PACKETS_MAX} packets")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut packets = Vec::new();
            while let Some(packet) = all.next_element()? {
                if packets.len() == SWIM_PACKETS_MAX {
                    return Err(A::Error::invalid_length(packets.len() + 1, &self));
                }
                packets.push(packet);
            }
            Ok(packets)
        }
    }
    from.deserialize_seq(Packets)
}

/// Who wants to join.
#[derive(Debug, Serialize, Deserialize)]
pub struct Join {
    /// How many members its own cluster has, itself included.
    pub members: u64,
    /// Since when it is a member of that, in ms since 1970: whoever comes over to its cluster takes it for a member since then.
    pub since_ms: Option<u64>,
    /// What makes it ask.
    pub claim: Claim,
    /// How long its process has run, in ms: an eviction since then is not undone. Measured there: only the clocks of the evictor
    /// and of whom it asks have to agree.
    pub for_ms: u64,
    /// What there is in its cluster, as far as it knows: who comes there with nothing has arrived when it has that. Nothing of
    /// one that is alone and has no key.
    pub vv: VersionVector,
    /// What it got for asking before.
    pub ticket: Option<Ticket>,
    /// The cluster that it has left, if it belongs to none: it still holds what that one held.
    pub left: Option<NodeId>,
    /// Where it says that it can be reached.
    pub advertise: Option<String>,
    /// Its port, for when it can't say.
    pub port: u16,
}

/// What a node that asks to be taken in knows of its membership. An eviction ends it for as long as nobody starts the node again,
/// whatever the node, or whom it asks, has heard of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// Nobody has told it anything since it was started.
    Unaware {
        /// What it did know: the mark of the eviction that it comes back from.
        mark: Option<Dot>,
    },
    /// It was shown to be a member since it was started, by this record, and asks on for that membership.
    Again {
        /// Who has seen it, and holds no record any more, knows that the membership has ended.
        record: Dot,
    },
}

/// Shows that a question is not an old one. Who stood still, or is behind a slow line, may read it long after its sender gave up,
/// came in by another one, and was evicted, or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The process that gave it.
    pub run: u64,
    /// When it did, in ms since it was started.
    pub at_ms: u64,
}

/// What a new member is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The address under which others know it.
    pub address: String,
    /// All members, as a sweep that promises nothing: who knows nobody takes members for strangers.
    pub roster: Sweep,
    /// What the node that took it in has now.
    pub vv: VersionVector,
    /// What there is in the cluster, as far as that node knows: it may not have all of it itself.
    pub goal: VersionVector,
    /// Is that node no newcomer itself, and has it heard all other members?
    pub arrived: bool,
}

/// What a node answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// All of this is on the disk here.
    Have(VersionVector),
    /// You are a member.
    Joined(Joined),
    /// Packets of SWIM that could be answered at once.
    Pulse(Pulse),
    /// No.
    Refused(Refusal),
    /// Ask to join once more, with this; and so many events of the asker are known here: who has made fewer was set back.
    Ticket(Ticket, u64),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The sender is no member here: it was evicted, or the word that it joined has not come here yet.
    #[error("it does not know this node as a member")]
    Stranger,
    /// The sender belongs elsewhere.
    #[error(
        "it belongs to cluster {0}, and this node to another one of several members, which are never merged: to join that one, \
         give this node an empty --data-dir"
    )]
    OtherCluster(NodeId),
    /// The sender still holds what another cluster held, which it has left.
    #[error(
        "this node has left cluster {0} and still holds what that one held, its list of members too: let it join that one \
         again; or take what it holds with `DynaRust export`, and give it an empty --data-dir"
    )]
    Left(NodeId),
    /// Somebody else is meant.
    #[error("another node ({0}) answers there")]
    OtherNode(NodeId),
    /// Two processes run under the sender's id.
    #[error(
        "another process runs under this node's id: one of the two runs on a copy of the other's data directory"
    )]
    Twin,
    /// The sender has less of its own events than others know.
    #[error("it knows newer writes of this node (up to {0}) than this node itself")]
    RolledBack(u64),
    /// Not now.
    #[error("it can't take anything in now: {0}")]
    NotNow(String),
    /// It has nothing and looks for a cluster itself. This is its id.
    #[error("it looks for a cluster itself, as node {0}")]
    Asking(NodeId),
    /// What was sent can't be.
    #[error("{0}")]
    Malformed(String),
}

/// Bytes to send.
pub fn encode<T: Serialize>(envelope: &Envelope<T>) -> Result<Vec<u8>, Error> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(PROTOCOL.to_be_bytes());
    bytes.extend([0; 8]);
    let mut bytes = postcard::to_extend(envelope, bytes).map_err(|e| Error::Unreadable(e.to_string()))?;
    let check = xxh3_64(&bytes[HEAD_BYTES..]).to_be_bytes();
    bytes[HEAD_BYTES - 8..HEAD_BYTES].copy_from_slice(&check);
    Ok(bytes)
}

const HEAD_BYTES: usize = 14;

/// What came in.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Envelope<T>, Error> {
    postcard::from_bytes(body(bytes)?).map_err(|e| unreadable(&format!("a message can't be read: {e}")))
}

/// What stands at the front of a message: its sender's cluster, its sender, and whom it is meant for, if it is for one node only.
/// Read first, since a body may take many times its bytes in memory: what is of no member, or for somebody else, is read no
/// further.
pub fn glance(bytes: &[u8]) -> Result<(NodeId, NodeId, Option<NodeId>), Error> {
    let damaged = |e| unreadable(&format!("a message can't be read: {e}"));
    // An enum begins with the number of its variant, and each but one with whom it is for.
    let front = postcard::take_from_bytes::<Envelope<u32>>(body(bytes)?);
    let (Envelope { cluster, from, body, .. }, rest) = front.map_err(damaged)?;
    let to =
        (body != JOIN).then(|| postcard::take_from_bytes::<NodeId>(rest).map_err(damaged)).transpose()?;
    Ok((cluster, from, to.map(|(to, _)| to)))
}

/// Who sends a message of which so much has come, if its front has; nothing of it is checked yet.
pub fn sender(so_far: &[u8]) -> Option<NodeId> {
    let body = so_far.get(HEAD_BYTES..)?;
    postcard::take_from_bytes::<(NodeId, NodeId)>(body).ok().map(|((_, from), _)| from)
}

/// The number of [`Message::Join`], the one message that is not meant for one node.
const JOIN: u32 = 2;

fn unreadable(what: &str) -> Error {
    Error::Unreadable(what.to_owned())
}

/// The body of a message whose front is as it must be.
fn body(bytes: &[u8]) -> Result<&[u8], Error> {
    let (head, body) = bytes
        .split_first_chunk::<HEAD_BYTES>()
        .ok_or_else(|| unreadable("this is no message of a DynaRust node"))?;
    if &head[..4] != MAGIC {
        return Err(unreadable("this is no message of a DynaRust node"));
    }
    let theirs = u16::from_be_bytes([head[4], head[5]]);
    if theirs != PROTOCOL {
        return Err(Error::Protocol { theirs });
    }
    if head[6..] != xxh3_64(body).to_be_bytes() {
        return Err(unreadable("a message was changed on its way"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope<Message> {
        let join = Join {
            members: 3,
            since_ms: Some(5),
            claim: Claim::Unaware { mark: None },
            for_ms: 6,
            vv: VersionVector::new(),
            ticket: None,
            left: None,
            advertise: Some("a:1".into()),
            port: 7,
        };
        Envelope {
            cluster: NodeId(1),
            from: NodeId(2),
            run: 3,
            now_ms: 4,
            address: "a:1".into(),
            body: Message::Join(join),
        }
    }

    #[test]
    fn messages_come_back() {
        let bytes = encode(&envelope()).expect("it can be encoded");
        let back: Envelope<Message> = decode(&bytes).expect("it can be read");
        assert_eq!((back.cluster, back.from, back.run, back.now_ms), (NodeId(1), NodeId(2), 3, 4));
        assert!(matches!(back.body, Message::Join(Join { members: 3, port: 7, .. })));
    }

    #[test]
    fn a_glance_tells_who_is_meant() {
        assert_eq!(glance(&encode(&envelope()).unwrap()).unwrap(), (NodeId(1), NodeId(2), None));
        let pulse = Message::Pulse(NodeId(9 << 40), Pulse::default());
        let frame = Frame {
            sender: NodeId(2),
            vv: VersionVector::new(),
            digest: Default::default(),
            ranges: Vec::new(),
            entries: Vec::new(),
        };
        for body in [pulse, Message::Frame(NodeId(9 << 40), frame)] {
            let bytes = encode(&Envelope { body, ..envelope() }).unwrap();
            assert_eq!(glance(&bytes).unwrap(), (NodeId(1), NodeId(2), Some(NodeId(9 << 40))));
        }
    }

    #[test]
    fn packets_are_not_read_beyond_their_bound() {
        let of = |count: usize| Pulse { generation: 1, packets: vec![Vec::new(); count] };
        let read = |count| postcard::from_bytes::<Pulse>(&postcard::to_stdvec(&of(count)).unwrap()).is_ok();
        assert!(read(SWIM_PACKETS_MAX) && !read(SWIM_PACKETS_MAX + 1));
    }

    #[test]
    fn what_was_changed_or_cut_off_is_refused() {
        let bytes = encode(&envelope()).expect("it can be encoded");
        for length in 0..bytes.len() {
            assert!(decode::<Message>(&bytes[..length]).is_err(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(decode::<Message>(&bytes).is_err(), "byte {at} changed");
        }
    }

    #[test]
    fn another_protocol_is_named() {
        let mut bytes = encode(&envelope()).expect("it can be encoded");
        bytes[5] = 99;
        let error = decode::<Message>(&bytes).expect_err("a protocol of the future");
        assert!(
            error.to_string().contains("99") && error.to_string().contains(&PROTOCOL.to_string()),
            "{error}"
        );
    }
}
