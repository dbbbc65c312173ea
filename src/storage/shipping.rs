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

/// The newest commit that a key which was read may be of.
struct Seen<'a> {
    shared: &'a Shared,
    commit: Cell<u64>,
}

impl Seen<'_> {
    fn nothing(shared: &Shared) -> Seen<'_> {
        Seen { shared, commit: Cell::new(0) }
    }

    /// This key was read just now.
    fn see(&self, key: &[u8]) {
        let commit = self.shared.watermark.pending(key).unwrap_or(0);
        self.commit.set(self.commit.get().max(commit));
    }
}

/// What was written last, as far as that is in memory.
struct Recalling<'a>(Seen<'a>);

/// Something is not in memory.
struct Elsewhere;

/// The trees, as a peer is told of them: values whole, and what was seen remembered.
struct Reading<'a> {
    trees: &'a Trees,
    seen: Seen<'a>,
}

/// The next frame, of these origins, for a peer that has `have`, if everything for it is in memory, as it nearly always is. Does
/// not block.
pub fn recent_frame(
    shared: &Shared,
    replica: &Replica,
    have: &VersionVector,
    bounds: Bounds,
    origins: &BTreeSet<NodeId>,
) -> Option<(Frame, u64)> {
    let recalling = Recalling(Seen::nothing(shared));
    let frame = replica.frame(have, bounds, |origin| origins.contains(&origin), &recalling);
    frame.ok().map(|frame| (frame, recalling.0.commit.get()))
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
    let reading = Reading { trees, seen: Seen::nothing(shared) };
    let frame = replica.frame(have, bounds, |origin| origins.contains(&origin), &reading)?;
    Ok((frame, reading.seen.commit.get()))
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
    let reading = Reading { trees, seen: Seen::nothing(shared) };
    let sweep = replica(me, &published).sweep(target, after, bounds, &reading)?;
    // What is not there says something as well: it may be gone only since a commit that is under way.
    Ok((sweep, shared.watermark.begun()))
}

/// The records of all members, and what is remembered of others, as a sweep that promises nothing. Blocks.
pub fn roster(trees: &Trees, shared: &Shared, me: NodeId) -> Result<(Sweep, u64), Error> {
    let reading = Reading { trees, seen: Seen::nothing(shared) };
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

/// Are all its texts in it, none in pieces?
fn is_whole(entry: &Entry) -> bool {
    entry.versions().iter().all(|version| matches!(version.value, Value::Inline(_)))
}

impl Reading<'_> {
    /// The same entry with all texts in it; `None` when one was superseded meanwhile.
    fn whole(&self, entry: &Entry) -> Result<Option<Entry>, Error> {
        if is_whole(entry) {
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
}

impl Rules for Recalling<'_> {
    type Error = Elsewhere;

    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Elsewhere> {
        let Recalling(seen) = self;
        let entry = if kind == Kind::Data { seen.shared.recent.entry(key) } else { None };
        let entry = entry.filter(is_whole).ok_or(Elsewhere)?;
        seen.see(key);
        Ok(entry)
    }

    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Elsewhere> {
        self.0.shared.recent.changes(origin, after, through).ok_or(Elsewhere)
    }

    fn entries_after(&self, _: Option<&(Kind, Vec<u8>)>, _: usize) -> Result<Vec<Held>, Elsewhere> {
        Err(Elsewhere)
    }
}

impl Rules for Reading<'_> {
    type Error = Error;

    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Error> {
        for _ in 0..CHUNK_READ_RETRIES_MAX {
            let recent = if kind == Kind::Data { self.seen.shared.recent.entry(key) } else { None };
            let entry = recent.map_or_else(|| self.trees.entry(kind, key), Ok)?;
            self.seen.see(key);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::settings;
    use super::super::{Action, Condition, Parcel, Request, Settings, Store};
    use super::*;
    use crate::limits::VALUE_INLINE_BYTES_MAX;
    use crate::replica::{Dot, Member, Wants};

    fn open(place: &tempfile::TempDir, random: fn() -> u64) -> Store {
        let small = settings(place.path());
        let settings = Settings { log_kept_bytes: 4 << 10, log_held_bytes: 1 << 20, random, ..small };
        Store::open(&settings, Default::default()).expect("a store")
    }

    async fn write(store: &Store, kind: Kind, key: &[u8], text: Option<Vec<u8>>) {
        let action = text.map_or(Action::Delete, |text| Action::Put(text, None));
        let condition = Condition::default();
        let request = Request { kind, key: key.to_vec(), action, condition, token: None, room: None };
        // Deleting what is not there is refused.
        let _ = store.write(request).await;
    }

    const MANY: Bounds = Bounds { count: 40, bytes: 1 << 20 };

    /// All that one lacks, or a part of a sweep, goes to the other.
    async fn ship(from: &Store, to: &Store, sweeps: bool) {
        let have = to.published().vv.clone();
        let target = from.published().vv.clone();
        let origins = target.iter().map(|dot| dot.origin).collect();
        let wants = Wants { have, origins, first: true, may_choose: false };
        let next = from.next_for(to.me(), &wants, MANY).await.expect("what it lacks");
        let parcel = match next {
            Next::Frame(frame) if !sweeps => Parcel::Frame(frame),
            _ => Parcel::Sweep(from.sweep_for(target, None, MANY_KEYS).await.expect("all of it")),
        };
        let vv = to.take(parcel, None).await.expect("taken");
        from.acknowledge(to.me(), &vv);
    }

    /// All there are.
    const MANY_KEYS: Bounds = Bounds { count: 4_096, bytes: 64 << 20 };

    /// What is told from memory is what the trees would tell.
    fn compare(store: &Store, lacks: u64) -> bool {
        let shared = &store.0.shared;
        let published = store.published();
        let replica = replica(store.me(), &published);
        let have = published.vv.iter().map(|mut dot| {
            dot.seq = dot.seq.saturating_sub(lacks);
            dot
        });
        let have: VersionVector = have.collect();
        let origins: BTreeSet<NodeId> = published.vv.iter().map(|dot| dot.origin).collect();
        if replica.must_sweep(&have, |_| true) {
            return false;
        }
        let only = |origin: NodeId| origins.contains(&origin);
        let stored = || replica.frame(&have, MANY, only, &store.0.trees).expect("a frame");
        // It may be forgetting something just now.
        let before = stored();
        let Some((recent, _)) = recent_frame(shared, &replica, &have, MANY, &origins) else { return false };
        let after = stored();
        assert_eq!(recent.ranges, before.ranges);
        for ((told, before), after) in recent.entries.iter().zip(&before.entries).zip(&after.entries) {
            assert!(told == before || told == after, "{told:?} is none of {before:?} and {after:?}");
        }
        assert_eq!(recent.entries.len(), before.entries.len());
        recent.ranges.len() > 1
    }

    /// Else each of its siblings would be sent with all the others.
    #[test]
    fn what_happened_to_a_key_that_fills_a_frame_goes_with_it() {
        let place = tempfile::tempdir().expect("a directory");
        let store = open(&place, || 0xa);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            for key in [b"k", b"k", b"k", b"l", b"k"] {
                write(&store, Kind::Data, key, Some(b"1".to_vec())).await;
            }
            let replica = replica(store.me(), &store.published());
            let (mut have, mut frames) = (VersionVector::new(), Vec::new());
            while !have.covers_all(replica.vv()) {
                let little = Bounds { count: 40, bytes: 1 };
                let frame = replica.frame(&have, little, |_| true, &store.0.trees).expect("a frame");
                have.raise(Dot::new(store.me(), frame.ranges[0].through));
                frames.push((frame.ranges[0].changes.len(), frame.entries.len()));
            }
            assert_eq!(frames, [(3, 1), (1, 1), (1, 1)]);
        });
        store.close();
    }

    async fn step(stores: &[Store; 2], what: u32, one: usize, key: u8) {
        let (store, other) = (&stores[one], &stores[1 - one]);
        let key = [b'k', key];
        match what {
            0..2 => {
                let record = Member { address: "there:1".into(), ..Member::default() };
                let gone = what == 0 && store.members().len() > 1;
                let id = other.me().0.to_be_bytes();
                write(store, Kind::Membership, &id, (!gone).then(|| record.text())).await;
            }
            2..4 => ship(store, other, true).await,
            4..30 => ship(store, other, false).await,
            30..40 => write(store, Kind::Data, &key, None).await,
            40..43 => write(store, Kind::Data, &key, Some(vec![b'1'; VALUE_INLINE_BYTES_MAX + 1])).await,
            _ => write(store, Kind::Data, &key, Some(b"1".to_vec())).await,
        }
    }

    #[test]
    fn memory_tells_what_the_trees_would_tell() {
        let told = Cell::new(0);
        let steps = proptest::collection::vec((0..100_u32, 0..2_usize, 0..20_u8, 0..12_u64), 150);
        proptest!(ProptestConfig::with_cases(20), |(steps in steps)| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let places = [tempfile::tempdir()?, tempfile::tempdir()?];
            let stores = [open(&places[0], || 0xa), open(&places[1], || 0xb)];
            runtime.block_on(async {
                step(&stores, 1, 0, 0).await;
                step(&stores, 1, 1, 0).await;
                for (what, one, key, lacks) in steps {
                    step(&stores, what, one, key).await;
                    let of_both = stores.iter().filter(|store| compare(store, lacks)).count();
                    told.set(told.get() + of_both);
                }
            });
            stores.iter().for_each(Store::close);
        });
        assert!(told.get() >= 50, "only {} frames were of memory and of both origins", told.get());
    }
}
