//! What one node sends another: ranges of the change log with the entries that they touched, or a piece of a sweep.
//!
//! Plain data; how it becomes bytes is the network's affair. The promise of a frame: whoever takes in a range (origin, after,
//! through] and held everything up to `after` holds everything up to `through`. The promise of a sweep: whoever takes in
//! all of its pieces, in order, holds everything up to `target`.

use super::dot::NodeId;
use super::entry::Entry;
use super::vector::VersionVector;
use super::{Change, Kind};

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Who sends.
    pub sender: NodeId,
    /// What the sender has incorporated.
    pub vv: VersionVector,
    /// In any order; at most one an origin.
    pub ranges: Vec<Range>,
    /// The sender's entries of all keys in `ranges`.
    pub entries: Vec<(Kind, Vec<u8>, Entry)>,
}

/// A place in the order of all keys; the first is before them all.
pub type Bound = Option<(Kind, Vec<u8>)>;

/// The sender's whole state over one stretch of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The entries of these keys, by key; one may be missing when nothing lives in it and all that it has seen is in the
    /// target.
    pub entries: Vec<(Kind, Vec<u8>, Entry)>,
}
