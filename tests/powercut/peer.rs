//! A peer of the node under test: a real replica over trees in memory, which keep of a text no more than its id.

use std::collections::BTreeMap;
use std::convert::Infallible;

use dynarust::replica::{
    Bound, Bounds, Change, Clock, Digest, Dot, Entry, Held, Hlc, Kind, NodeId, Replaces, Replica, Taken,
    Token, Totals, Trees, Unit, Value, VersionVector, Write,
};
use serde::{Deserialize, Serialize};

use crate::note::{Offer, Version, bare, each, name, number};

/// No bound that matters.
pub const ALL: Bounds = Bounds { count: 1 << 40, bytes: usize::MAX };

/// A peer and its trees.
#[derive(Clone)]
pub struct Peer {
    pub replica: Replica,
    trees: Memory,
    /// Where its sweep of the store stands.
    pub sweep: Option<(VersionVector, Bound)>,
    /// Has it begun one whose end was not answered?
    pub sweeping: bool,
}

#[derive(Clone, Default)]
struct Memory {
    entries: BTreeMap<(Kind, Vec<u8>), Entry>,
    log: BTreeMap<Dot, (Kind, Vec<u8>)>,
}

/// A peer as it is written down.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Kept {
    pub me: NodeId,
    pub vv: VersionVector,
    floor: VersionVector,
    clock: Hlc,
    entries: Vec<(u32, Entry)>,
    log: Vec<(Dot, u32)>,
    sweep: Option<(VersionVector, Bound)>,
    sweeping: bool,
}

impl Trees for Memory {
    type Error = Infallible;

    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Infallible> {
        Ok(self.entries.get(&(kind, key.to_vec())).cloned().unwrap_or_default())
    }

    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Infallible> {
        let rows = self.log.range(Dot::new(origin, after + 1)..=Dot::new(origin, through));
        Ok(rows.map(|(dot, (kind, key))| Change { seq: dot.seq, kind: *kind, key: key.clone() }).collect())
    }

    fn entries_after(&self, after: Option<&(Kind, Vec<u8>)>, limit: usize) -> Result<Vec<Held>, Infallible> {
        let held = self.entries.iter().filter(|(name, _)| after.is_none_or(|after| *name > after));
        Ok(held.take(limit).map(|((kind, key), entry)| (*kind, key.clone(), entry.clone())).collect())
    }
}

impl Peer {
    pub fn new(me: NodeId) -> Peer {
        Peer { replica: Replica::new(me), trees: Memory::default(), sweep: None, sweeping: false }
    }

    /// As it was written down.
    pub fn of(kept: &Kept) -> Peer {
        let entries = kept.entries.iter().map(|(key, entry)| (name(*key), entry.clone())).collect();
        let log = kept.log.iter().map(|(dot, key)| (*dot, name(*key))).collect();
        let trees = Memory { entries, log };
        let (vv, floor, totals) = (kept.vv.clone(), kept.floor.clone(), trees.totals());
        let replica = Replica::resume(kept.me, vv, floor, Clock::from(kept.clock), totals);
        Peer { replica, trees, sweep: kept.sweep.clone(), sweeping: kept.sweeping }
    }

    pub fn keep(&self) -> Kept {
        let replica = &self.replica;
        let entries = self.trees.entries.iter();
        let log = self.trees.log.iter();
        Kept {
            me: replica.me(),
            vv: replica.vv().clone(),
            floor: replica.floor().clone(),
            clock: replica.clock().last(),
            entries: entries.map(|((kind, key), entry)| (number(*kind, key), entry.clone())).collect(),
            log: log.map(|(dot, (kind, key))| (*dot, number(*kind, key))).collect(),
            sweep: self.sweep.clone(),
            sweeping: self.sweeping,
        }
    }

    pub fn holds(&self, key: u32) -> Vec<Dot> {
        self.trees.entries.get(&name(key)).map(|entry| entry.dots().collect()).unwrap_or_default()
    }

    /// All that lives, by key.
    pub fn all(&self) -> BTreeMap<u32, Vec<Version>> {
        let version = |version: &dynarust::replica::Version| {
            let Value::Chunked { bytes, checksum } = version.value else { panic!("a text in a peer") };
            Version { dot: version.dot, id: checksum, bytes, chunked: false }
        };
        let held = self.trees.entries.iter().filter(|(_, entry)| !entry.versions().is_empty());
        let held = held.map(|((kind, key), entry)| {
            let mut versions: Vec<Version> = entry.versions().iter().map(version).collect();
            versions.sort_unstable_by_key(|version| version.dot);
            (number(*kind, key), versions)
        });
        held.collect()
    }

    pub fn totals(&self) -> (u64, u64, String) {
        let Totals { keys, versions, digest } = *self.replica.totals();
        (keys, versions, digest.to_string())
    }

    /// Writes; `replaced` of what it holds, or all.
    pub fn write(&mut self, key: u32, text: Option<(u64, u64)>, named: Option<Vec<Dot>>, now_ms: u64) -> Dot {
        let (kind, name) = name(key);
        let mut unit = Unit::new();
        let Ok(place) = unit.load(kind, &name, &self.trees);
        let value = text.map(|(id, bytes)| (Value::Chunked { bytes, checksum: id }, None));
        let replaces = named.map_or(Replaces::All, |named| Replaces::Named(Token::new(named)));
        let dot = self.replica.write(&mut unit, place, Write { replaces, value }, now_ms);
        self.commit(unit);
        dot
    }

    fn commit(&mut self, unit: Unit) {
        self.replica.count(&unit);
        for dot in unit.jumped().iter() {
            self.trees.log.retain(|old, _| old.origin != dot.origin);
        }
        for (origin, stretch) in unit.stretches() {
            for &(seq, place) in &stretch.events {
                let touch = unit.at(place);
                self.trees.log.insert(Dot::new(origin, seq), (touch.kind, touch.key.clone()));
            }
        }
        for touch in unit.into_changes() {
            let name = (touch.kind, touch.key);
            if touch.entry.is_gone() {
                self.trees.entries.remove(&name);
            } else {
                self.trees.entries.insert(name, touch.entry);
            }
        }
        assert!(self.trees.totals() == *self.replica.totals(), "counts and digest of a peer");
    }

    /// Takes in what was sent, texts and all.
    pub fn take(&mut self, mut offer: Offer, now_ms: u64) {
        match &mut offer {
            Offer::Frame(frame) => each(&mut frame.entries, bare),
            Offer::Sweep(sweep) => each(&mut sweep.entries, bare),
        }
        self.take_bare(&offer, now_ms);
    }

    /// The same without the texts, as peers send it to each other.
    pub fn take_bare(&mut self, offer: &Offer, now_ms: u64) {
        let mut unit = Unit::new();
        match offer {
            Offer::Frame(frame) => {
                let Ok(()) = self.replica.receive(frame, &mut unit, &self.trees, now_ms);
            }
            Offer::Sweep(sweep) => {
                let Ok(taken) =
                    self.replica.take_sweep(sweep.clone(), usize::MAX, &mut unit, &self.trees, now_ms);
                assert_eq!(taken, Taken::Whole, "a piece of a sweep is the next one");
            }
        }
        self.commit(unit);
    }

    /// What it would send next to somebody who has `have`. A sweep begins, or goes on where it stands.
    pub fn next(&mut self, have: &VersionVector, bounds: Bounds, own_only: bool) -> Offer {
        let me = self.replica.me();
        if self.sweep.is_none() && !self.replica.must_sweep(have, |_| true) {
            let Ok(frame) = self.replica.frame(have, bounds, |o| !own_only || o == me, &self.trees);
            return Offer::Frame(frame);
        }
        self.sweeping = true;
        let start = || (self.replica.vv().clone(), None);
        let (target, after) = self.sweep.clone().unwrap_or_else(start);
        let Ok(sweep) = self.replica.sweep(target, after, bounds, &self.trees);
        self.sweep = sweep.through.clone().map(|through| (sweep.target.clone(), Some(through)));
        Offer::Sweep(sweep)
    }

    /// Brings another peer up to date.
    pub fn bring(&mut self, other: &mut Peer, now_ms: u64) {
        let so_far = (self.sweep.take(), self.sweeping);
        let offer = self.next(other.replica.vv(), ALL, false);
        (self.sweep, self.sweeping) = so_far;
        other.take_bare(&offer, now_ms);
    }

    /// Forgets what everybody named here has.
    pub fn forget(&mut self, members: &[(NodeId, VersionVector)]) {
        let peers: Vec<NodeId> = self.replica.peers().collect();
        peers.into_iter().for_each(|peer| self.replica.dismiss(peer));
        for (member, vv) in members {
            self.replica.admit(*member);
            self.replica.acknowledge(*member, vv);
        }
        let mut unit = Unit::new();
        for (kind, key) in self.trees.entries.keys() {
            let Ok(place) = unit.load(*kind, key, &self.trees);
            self.replica.forget(&mut unit, place);
        }
        self.commit(unit);
    }

    /// Cuts the log of an origin.
    pub fn trim(&mut self, through: Dot) {
        self.replica.trim(through);
        self.trees.log.retain(|dot, _| dot.origin != through.origin || dot.seq > through.seq);
    }
}

impl Memory {
    fn totals(&self) -> Totals {
        let mut totals = Totals { keys: 0, versions: 0, digest: Digest::default() };
        self.entries.iter().for_each(|((kind, key), entry)| totals.add(*kind, key, entry.dots()));
        totals
    }
}
