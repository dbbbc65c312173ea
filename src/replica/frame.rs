//! What one node sends another: ranges of the change log with the entries that they touched, or a piece of a sweep.
//!
//! Plain data; how it becomes bytes is the network's affair. The promise of a frame: whoever takes in a range (origin, after,
//! through] and held everything up to `after` holds everything up to `through`. The promise of a sweep: whoever takes in
//! all of its pieces, in order, holds everything up to `target`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::dot::NodeId;
use super::entry::{Entry, Value};
use super::vector::VersionVector;
use super::{Change, Kind};
use crate::limits::{KEY_BYTES_MAX, ORIGINS_MAX, SEQ_MAX};

/// How much one frame or piece may hold; what reaches a bound is the last of it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events of a frame, keys of a sweep.
    pub count: u64,
    /// Bytes, about.
    pub bytes: usize,
}

/// What an entry takes on its way, about.
pub(super) fn size(key: &[u8], entry: &Entry) -> usize {
    let versions: usize = entry.versions().iter().map(|version| 48 + version.value.bytes() as usize).sum();
    key.len() + versions + 16 * entry.context().iter().len()
}

/// A stretch of one origin's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Whose events.
    pub origin: NodeId,
    /// The receiver must have everything up to here, or the range is a gap to it.
    pub after: u64,
    /// The receiver has everything up to here afterwards.
    pub through: u64,
    /// The events of the range, by seq.
    pub changes: Vec<Change>,
}

/// Ranges, and the current entry of each key that they name, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Who sends.
    pub sender: NodeId,
    /// What the sender has incorporated.
    pub vv: VersionVector,
    /// The sum over what lives at the sender, for whoever has incorporated the same.
    pub digest: Digest,
    /// In any order; at most one an origin.
    pub ranges: Vec<Range>,
    /// The sender's entries of all keys in `ranges`.
    pub entries: Vec<(Kind, Vec<u8>, Entry)>,
}

/// What is wrong with something that a peer has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came from the peer can't be: {0}")]
pub struct Malformed(&'static str);

/// What these entries take on their way, about.
fn sizes(entries: &[(Kind, Vec<u8>, Entry)]) -> usize {
    entries.iter().map(|(_, key, entry)| size(key, entry)).sum()
}

impl Frame {
    /// What it takes on its way, about.
    pub fn bytes(&self) -> usize {
        sizes(&self.entries)
    }

    /// Holds what comes from elsewhere to the promises that the rules rest on.
    pub fn check(&self) -> Result<(), Malformed> {
        check_vector(&self.vv)?;
        let mut origins = BTreeSet::new();
        for range in &self.ranges {
            if range.origin == NodeId(0) {
                return Err(Malformed("an origin that no node has"));
            }
            if range.through > self.vv.get(range.origin) {
                return Err(Malformed("a range promises more than its sender has"));
            }
            if range.through < range.after || !origins.insert(range.origin) {
                return Err(Malformed("a range ends before it begins, or its origin stands twice"));
            }
            let mut last = range.after;
            for change in &range.changes {
                if change.seq <= last || change.seq > range.through {
                    return Err(Malformed("events are out of order, or outside of their range"));
                }
                last = change.seq;
                check_key(change.kind, &change.key)?;
            }
        }
        check_entries(&self.entries)
    }
}

impl Sweep {
    /// What it takes on its way, about.
    pub fn bytes(&self) -> usize {
        sizes(&self.entries)
    }

    /// Is it a piece of a comparison?
    pub fn compares(&self) -> bool {
        self.target.is_empty()
    }

    /// Is this one of the keys that it tells of?
    pub(super) fn spans(&self, kind: Kind, key: &[u8]) -> bool {
        self.after.as_ref().is_none_or(|(k, after)| (kind, key) > (*k, after.as_slice()))
            && self.through.as_ref().is_none_or(|(k, through)| (kind, key) <= (*k, through.as_slice()))
    }

    /// Ends here, at one of its keys. What comes after that comes back.
    pub(super) fn split(&mut self, last: (Kind, Vec<u8>)) -> Sweep {
        let later = |(kind, key, _): &mut (Kind, Vec<u8>, Entry)| (*kind, &*key) > (last.0, &last.1);
        let entries = self.entries.extract_if(.., later).collect();
        let rest = Sweep { after: Some(last.clone()), through: self.through.take(), entries, ..self.clone() };
        self.through = Some(last);
        rest
    }

    /// Is it the first piece of a sweep?
    pub fn opens(&self) -> bool {
        self.after.is_none() && !self.compares()
    }

    /// Holds what comes from elsewhere to the promises that the rules rest on.
    pub fn check(&self) -> Result<(), Malformed> {
        check_vector(&self.vv)?;
        if !self.vv.covers_all(&self.target) {
            return Err(Malformed("a sweep promises more than its sender has"));
        }
        if !self.entries.iter().all(|(kind, key, _)| self.spans(*kind, key)) {
            return Err(Malformed("a key lies outside of its piece of the sweep"));
        }
        check_entries(&self.entries)
    }
}

/// Events that nodes can have made, and of no more nodes than there may be.
pub fn check_vector(vv: &VersionVector) -> Result<(), Malformed> {
    if vv.iter().len() > ORIGINS_MAX {
        return Err(Malformed("events of too many nodes"));
    }
    match vv.iter().all(|dot| dot.origin != NodeId::NOBODY && dot.seq <= SEQ_MAX) {
        true => Ok(()),
        false => Err(Malformed("an event that no node has made")),
    }
}

fn check_entries(entries: &[(Kind, Vec<u8>, Entry)]) -> Result<(), Malformed> {
    for (kind, key, entry) in entries {
        check_key(*kind, key)?;
        check_vector(entry.context())?;
        let mut dots: Vec<_> = entry.dots().collect();
        dots.sort_unstable();
        if !dots.windows(2).all(|pair| pair[0] != pair[1])
            || !dots.iter().all(|dot| dot.seq > 0 && entry.context().covers(*dot))
        {
            return Err(Malformed("a version stands twice, or outside of its context"));
        }
        if entry.versions().iter().any(|version| matches!(version.value, Value::Chunked { .. })) {
            return Err(Malformed("a value is not in it"));
        }
    }
    Ok(())
}

fn check_key(kind: Kind, key: &[u8]) -> Result<(), Malformed> {
    let fits = match kind {
        Kind::Data => (1..=KEY_BYTES_MAX).contains(&key.len()),
        Kind::Membership => key.len() == 8,
    };
    if fits { Ok(()) } else { Err(Malformed("a key is too long, or no node id")) }
}

/// A place in the order of all keys; the first is before them all.
pub type Bound = Option<(Kind, Vec<u8>)>;

/// The sender's whole state over one stretch of keys. With an empty target it promises nothing and calls nothing dead: it
/// shows what the sender holds, for two that have incorporated the same and hold different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// Who sends.
    pub sender: NodeId,
    /// What the sender had incorporated when the sweep began: what the receiver has when it is over.
    pub target: VersionVector,
    /// What the sender had incorporated when it read this piece.
    pub vv: VersionVector,
    /// The piece covers all keys after this one; the piece before it ended here.
    pub after: Bound,
    /// Up to and with this one; `None` is the end of all keys, and of the sweep.
    pub through: Bound,
    /// The entries of these keys, by key, of what was deleted as well.
    pub entries: Vec<(Kind, Vec<u8>, Entry)>,
}
