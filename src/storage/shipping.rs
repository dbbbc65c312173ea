//! What a peer is sent, read from the trees beside the writers: nothing of it can be taken back by a crash.
//!
//! The vector that a frame is made under is the published one. Entries may be newer than that, since they are read as they
//! are now; so whoever has read waits until the commits that it may have seen are on the disk. And rows of the log may go
//! while they are read: the caller looks at the floor again afterwards.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::error::Error;
use super::trees::Trees;
use super::{Published, Shared};
use crate::limits::CHUNK_READ_RETRIES_MAX;
use crate::replica::{
    Bound, Bounds, Change, Entry, Frame, Held, Kind, NodeId, Replica, Sweep, Trees as Rules, Value,
    VersionVector,
};

/// What a peer that has so much needs next.
#[derive(Debug)]
pub enum Next {
    /// Events; it may be none.
    Frame(Frame),
    /// Everything, piece by piece: the log does not reach back so far, or it takes less than the log.
    Sweep {
        /// What it has when the sweep is over.
        target: VersionVector,
        /// It takes less than so many events.
        rather: Option<u64>,
    },
}

/// The trees, as a peer is told of them: values whole, and what was seen remembered.
struct Reading<'a> {
    trees: &'a Trees,
    shared: &'a Shared,
    /// The newest commit that a key which was read may be of.
    seen: Cell<u64>,
}

/// The next frame, of these origins, for a peer that has `have`. Blocks.
pub fn frame(
    trees: &Trees,
    shared: &Shared,
    replica: &Replica,
    have: &VersionVector,
    bounds: Bounds,
    origins: &BTreeSet<NodeId>,
) -> Result<(Frame, u64), Error> {
    let reading = Reading { trees, shared, seen: Cell::new(0) };
    let frame = replica.frame(have, bounds, |origin| origins.contains(&origin), &reading)?;
    Ok((frame, reading.seen.get()))
}

/// The next piece of a sweep. Blocks.
pub fn piece(
    trees: &Trees,
    shared: &Shared,
    me: NodeId,
    target: VersionVector,
    after: Bound,
    bounds: Bounds,
) -> Result<(Sweep, u64), Error> {
    let published = shared.published();
    let reading = Reading { trees, shared, seen: Cell::new(0) };
    let sweep = replica(me, &published).sweep(target, after, bounds, &reading)?;
    // What is not there says something as well: it may be gone only since a commit that is under way.
    Ok((sweep, shared.watermark.begun()))
}

/// The records of all members, and what is remembered of others, as a sweep that promises nothing. Blocks.
pub fn roster(trees: &Trees, shared: &Shared, me: NodeId) -> Result<(Sweep, u64), Error> {
    let reading = Reading { trees, shared, seen: Cell::new(0) };
    let after = Some((Kind::Membership, Vec::new()));
    let entries = reading.entries_after(after.as_ref(), usize::MAX)?;
    let (target, vv) = (VersionVector::new(), VersionVector::new());
    Ok((Sweep { sender: me, target, vv, after, through: None, entries }, shared.watermark.begun()))
}

/// The rules, as of the newest durable commit.
pub fn replica(me: NodeId, published: &Published) -> Replica {
    let Published { vv, floor, clock, totals, .. } = published.clone();
    Replica::resume(me, vv, floor, clock, totals)
}

impl Reading<'_> {
    /// The same entry with all texts in it; `None` when one was superseded meanwhile.
    fn whole(&self, entry: &Entry) -> Result<Option<Entry>, Error> {
        if !entry.versions().iter().any(|version| matches!(version.value, Value::Chunked { .. })) {
            return Ok(Some(entry.clone()));
        }
        let mut versions = entry.versions().to_vec();
        for version in &mut versions {
            match self.trees.text(version)? {
                Some(text) => version.value = Value::Inline(text),
                None => return Ok(None),
            }
        }
        Ok(Some(Entry::from_parts(versions, entry.context().clone())))
    }

    fn see(&self, key: &[u8]) {
        let commit = self.shared.watermark.pending(key).unwrap_or(0);
        self.seen.set(self.seen.get().max(commit));
    }
}

impl Rules for Reading<'_> {
    type Error = Error;

    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Error> {
        for _ in 0..CHUNK_READ_RETRIES_MAX {
            let recent = if kind == Kind::Data { self.shared.recent.get(key) } else { None };
            let entry = recent.map_or_else(|| self.trees.entry(kind, key), Ok)?;
            self.see(key);
            if let Some(whole) = self.whole(&entry)? {
                return Ok(whole);
            }
            if self.trees.entry(kind, key)? == entry {
                break;
            }
        }
        Err(Error::Damaged(format!("a large value of key '{}' is damaged", key.escape_ascii())))
    }

    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Error> {
        self.trees.changes(origin, after, through)
    }

    fn entries_after(&self, after: Option<&(Kind, Vec<u8>)>, limit: usize) -> Result<Vec<Held>, Error> {
        let mut held = self.trees.entries_after(after, limit)?;
        for (kind, key, entry) in &mut held {
            *entry = match self.whole(entry)? {
                Some(whole) => whole,
                None => self.entry(*kind, key)?,
            };
        }
        Ok(held)
    }
}
