//! One node of the simulation: a real replica over trees in memory, and what must hold of it at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use dynarust::replica::{
    Bound, Change, Dot, Entry, Held, Kind, NodeId, Replaces, Replica, Totals, Trees, Unit, Value,
    VersionVector, Write,
};

/// The trees of one node, in memory.
#[derive(Default, Clone)]
pub struct Memory {
    pub entries: BTreeMap<Vec<u8>, Entry>,
    pub log: BTreeMap<Dot, Vec<u8>>,
    /// Of each origin the log has everything after this.
    pub start: VersionVector,
}

impl Trees for Memory {
    type Error = Infallible;

    fn entry(&self, _: Kind, key: &[u8]) -> Result<Entry, Infallible> {
        Ok(self.entries.get(key).cloned().unwrap_or_default())
    }

    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Infallible> {
        assert!(after >= self.start.get(origin), "the log of {origin} does not reach back to {after}");
        let rows = self.log.range(Dot::new(origin, after + 1)..=Dot::new(origin, through));
        let change =
            |(dot, key): (&Dot, &Vec<u8>)| Change { seq: dot.seq, kind: Kind::Data, key: key.clone() };
        Ok(rows.map(change).collect())
    }

    fn entries_after(&self, after: Option<&(Kind, Vec<u8>)>, limit: usize) -> Result<Vec<Held>, Infallible> {
        let beyond = |key: &Vec<u8>| after.is_none_or(|(_, after)| key > after);
        let held = self.entries.iter().filter(|(key, _)| beyond(key)).take(limit);
        Ok(held.map(|(key, entry)| (Kind::Data, key.clone(), entry.clone())).collect())
    }
}

/// A sweep of a peer, as its sender keeps it.
#[derive(Clone)]
pub struct Sweeping {
    pub target: VersionVector,
    pub after: Bound,
}

#[derive(Clone)]
pub struct Node {
    pub replica: Replica,
    pub trees: Memory,
    pub sweeps: BTreeMap<NodeId, Sweeping>,
}

impl Node {
    pub fn new(id: u64) -> Node {
        Node { replica: Replica::new(NodeId(id)), trees: Memory::default(), sweeps: BTreeMap::new() }
    }

    /// Writes and says which event that is.
    pub fn write(&mut self, key: &[u8], replaces: Replaces, lives: bool, now_ms: u64) -> Dot {
        let mut unit = Unit::new();
        let Ok(place) = unit.load(Kind::Data, key, &self.trees);
        let value = lives.then(|| (Value::Inline(now_ms.to_be_bytes().to_vec()), None));
        let dot = self.replica.write(&mut unit, place, Write { replaces, value }, now_ms);
        self.commit(unit);
        dot
    }

    /// Stores what a unit changes, as the vault does it.
    pub fn commit(&mut self, unit: Unit) {
        self.replica.count(&unit);
        for dot in unit.jumped().iter() {
            self.trees.log.retain(|old, _| old.origin != dot.origin);
            self.trees.start.raise(dot);
        }
        for (origin, stretch) in unit.stretches() {
            for &(seq, place) in &stretch.events {
                self.trees.log.insert(Dot::new(origin, seq), unit.at(place).key.clone());
            }
        }
        for touch in unit.into_changes() {
            if touch.entry.is_gone() {
                self.trees.entries.remove(&touch.key);
            } else {
                self.trees.entries.insert(touch.key, touch.entry);
            }
        }
    }

    /// Begins anew with what the last commit left.
    pub fn restart(&mut self) {
        let old = &self.replica;
        let (vv, floor) = (old.vv().clone(), old.floor().clone());
        self.replica = Replica::resume(old.me(), vv, floor, old.clock(), *old.totals());
        self.sweeps.clear();
    }

    /// Forgets whatever may be forgotten.
    pub fn forget(&mut self) {
        let mut unit = Unit::new();
        for key in self.trees.entries.keys() {
            let Ok(place) = unit.load(Kind::Data, key, &self.trees);
            self.replica.forget(&mut unit, place);
        }
        self.commit(unit);
    }

    /// Cuts the log of an origin down to what comes after this event.
    pub fn trim(&mut self, through: Dot) {
        self.replica.trim(through);
        self.trees.log.retain(|dot, _| dot.origin != through.origin || dot.seq > through.seq);
        self.trees.start.raise(through);
    }

    /// The invariants that hold at every moment at every node.
    pub fn check(&self) {
        let mut totals = Totals::default();
        for (key, entry) in &self.trees.entries {
            totals.add(Kind::Data, key, entry.dots());
            for dot in entry.dots() {
                assert!(entry.context().covers(dot), "{dot} lives outside of its context");
            }
        }
        assert_eq!(totals, *self.replica.totals(), "counts and digest");
        assert!(self.replica.floor().covers_all(&self.trees.start), "what left the log is below the floor");
        for Dot { origin, seq } in self.replica.vv().iter() {
            let start = self.trees.start.get(origin);
            let rows = self.trees.log.range(Dot::new(origin, 0)..=Dot::new(origin, u64::MAX));
            assert!(rows.map(|(dot, _)| dot.seq).eq(start + 1..=seq), "the log of {origin} is broken");
        }
    }

    pub fn live(&self, key: &[u8]) -> BTreeSet<Dot> {
        self.trees.entries.get(key).map(|entry| entry.dots().collect()).unwrap_or_default()
    }
}
