//! Rules 2, 3 and 5: what is sent to a peer, and what is made of it there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};

use super::dot::{Dot, NodeId};
use super::entry::Entry;
use super::frame::{Frame, Range};
use super::vector::VersionVector;
use super::{Kind, Replica, Touch, Trees};

impl Replica {
    /// Rule 2: the next frame for a peer that has `have`, with at most `limit` events an origin; `only` narrows it to
    /// some origins. Rule 5: a peer behind our floor gets, of every origin, what it lacks and the list of what lives.
    pub fn frame<T: Trees>(
        &self,
        have: &VersionVector,
        limit: u64,
        only: impl Fn(NodeId) -> bool,
        trees: &T,
    ) -> Result<Frame, T::Error> {
        let resync = !have.covers_all(&self.floor);
        let mut entries: BTreeMap<(Kind, Vec<u8>), Entry> = BTreeMap::new();
        let mut ranges = Vec::new();
        for Dot { origin, seq: upto } in self.vv.iter() {
            let after = have.get(origin);
            let through = if resync { upto } else { upto.min(after.saturating_add(limit)) };
            if !resync && (after >= upto || !only(origin)) {
                continue;
            }
            let changes = trees.changes(origin, after, through, usize::MAX)?;
            for change in &changes {
                if let Vacant(slot) = entries.entry((change.kind, change.key.clone())) {
                    slot.insert(trees.entry(change.kind, &change.key)?);
                }
            }
            let alive = if resync { Some(alive(origin, through, trees)?) } else { None };
            ranges.push(Range { origin, after, through, changes, alive });
        }
        let entries = entries.into_iter().map(|((kind, key), entry)| (kind, key, entry)).collect();
        Ok(Frame { sender: self.me, vv: self.vv.clone(), ranges, entries })
    }

    /// Rule 3: takes a frame in. The touches come back in key order; once they are durable, [`Replica::vv`] is the
    /// answer to the sender.
    pub fn receive<T: Trees>(
        &mut self,
        frame: &Frame,
        trees: &T,
        now_ms: u64,
    ) -> Result<Vec<Touch>, T::Error> {
        let incorporated = self.vv.clone();
        // A range that begins beyond what we have is a gap: the answer says what we have.
        let accepted = || frame.ranges.iter().filter(|r| r.after <= incorporated.get(r.origin));
        let theirs: BTreeMap<(Kind, &[u8]), &Entry> =
            frame.entries.iter().map(|(kind, key, entry)| ((*kind, key.as_slice()), entry)).collect();
        let mut touches = Touches { trees, touched: BTreeMap::new() };
        for range in accepted() {
            for change in &range.changes {
                let fresh = !touches.contains(change.kind, &change.key);
                let touch = touches.at(change.kind, &change.key)?;
                if fresh {
                    if let Some(entry) = theirs.get(&(change.kind, change.key.as_slice())) {
                        touch.entry.merge(entry, &incorporated);
                    }
                    let new = touch.entry.dots().filter(|dot| !touch.before.contains(dot));
                    touch.logged.extend(new);
                }
                let dot = Dot::new(range.origin, change.seq);
                if !touch.logged.contains(&dot) {
                    touch.logged.push(dot);
                }
            }
        }
        for range in accepted() {
            if let Some(alive) = &range.alive {
                touches.drop_dead(range, alive)?;
            }
        }
        let touched: Vec<Touch> = touches.touched.into_values().collect();
        for range in accepted() {
            if range.alive.is_some() {
                self.floor.raise(Dot::new(range.origin, range.through));
            }
            self.vv.raise(Dot::new(range.origin, range.through));
        }
        for touch in &touched {
            self.recount(touch.kind, &touch.key, &touch.before, &touch.entry);
            for version in touch.entry.versions().iter().filter(|v| !touch.before.contains(&v.dot)) {
                if !self.clock.observe(version.hlc, now_ms) {
                    self.far_future += 1;
                }
            }
        }
        self.acknowledge(frame.sender, &frame.vv);
        Ok(touched)
    }
}

/// The seqs of all versions of `origin` up to `through` that live here, by seq.
fn alive<T: Trees>(origin: NodeId, through: u64, trees: &T) -> Result<Vec<u64>, T::Error> {
    let mut alive = Vec::new();
    for change in trees.changes(origin, 0, through, usize::MAX)? {
        if trees.entry(change.kind, &change.key)?.holds(Dot::new(origin, change.seq)) {
            alive.push(change.seq);
        }
    }
    Ok(alive)
}

/// The entries that one frame changes, each loaded once.
struct Touches<'a, T> {
    trees: &'a T,
    touched: BTreeMap<(Kind, Vec<u8>), Touch>,
}

impl<T: Trees> Touches<'_, T> {
    fn contains(&self, kind: Kind, key: &[u8]) -> bool {
        self.touched.contains_key(&(kind, key.to_vec()))
    }

    fn at(&mut self, kind: Kind, key: &[u8]) -> Result<&mut Touch, T::Error> {
        match self.touched.entry((kind, key.to_vec())) {
            Occupied(slot) => Ok(slot.into_mut()),
            Vacant(slot) => {
                let entry = self.trees.entry(kind, key)?;
                let before = entry.dots().collect();
                let key = key.to_vec();
                Ok(slot.insert(Touch { kind, key, entry, logged: Vec::new(), before, forgotten: Vec::new() }))
            }
        }
    }

    /// Rule 5: what lives here of this origin and is not listed, everybody has forgotten.
    fn drop_dead(&mut self, range: &Range, alive: &[u64]) -> Result<(), T::Error> {
        let dead = |dot: Dot| {
            dot.origin == range.origin && dot.seq <= range.through && alive.binary_search(&dot.seq).is_err()
        };
        for touch in self.touched.values_mut() {
            touch.entry.drop_versions(dead);
        }
        for change in self.trees.changes(range.origin, 0, range.through, usize::MAX)? {
            let dot = Dot::new(range.origin, change.seq);
            if !dead(dot) || self.contains(change.kind, &change.key) {
                continue;
            }
            if self.trees.entry(change.kind, &change.key)?.holds(dot) {
                self.at(change.kind, &change.key)?.entry.drop_versions(dead);
            }
        }
        Ok(())
    }
}
