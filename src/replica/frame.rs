//! What one node sends another: ranges of the change log with the entries that they touched.
//!
//! A frame is plain data; how it becomes bytes is the network's affair. Its promise: whoever takes in a range
//! (origin, after, through] and held everything up to `after` holds everything up to `through`.

use super::dot::NodeId;
use super::entry::Entry;
use super::vector::VersionVector;
use super::{Change, Kind};

/// A stretch of one origin's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose events.
    pub origin: NodeId,
    /// The receiver must have everything up to here, or the range is a gap to it.
    pub after: u64,
    /// The receiver has everything up to here afterwards.
    pub through: u64,
    /// The events of the range that the sender still has in its log, by seq.
    pub changes: Vec<Change>,
    /// In a resync: the seqs of every version of this origin that lives at the sender, up to `through`, in order. What
    /// is not among them, everybody has forgotten.
    pub alive: Option<Vec<u64>>,
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
