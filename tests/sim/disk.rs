//! What a machine of the simulation has on its disk: what a power cut leaves, what a backup holds, what a restart reads.
//!
//! It is written by whole units, as the store does it, or by a part of one, as a power cut leaves it (`storage/recover.rs`
//! says what is made of that). It must never know more than the real store would keep.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use dynarust::replica::{
    Change, Clock, Dot, Entry, Held, Hlc, Kind, Member, NodeId, Records, Replica, Totals, Trees, Unit, Value,
    Version, VersionVector,
};
use dynarust::storage::{Changes, Kept};

/// A row of the log: all events after its first, that one included, up to `through`.
#[derive(Clone)]
pub struct Row {
    pub through: u64,
    pub events: Vec<(u64, Kind, Vec<u8>)>,
}

#[derive(Clone)]
pub struct Disk {
    pub me: NodeId,
    /// Does it belong to the cluster? Not before it has joined, and not after it has left.
    pub belongs: bool,
    pub vv: VersionVector,
    pub floor: VersionVector,
    pub clock: Clock,
    pub totals: Totals,
    pub entries: BTreeMap<(Kind, Vec<u8>), Entry>,
    /// By the first event of the row.
    pub log: BTreeMap<Dot, Row>,
    /// The latest stamp that this node has given or could trust: what it stamps later must be later.
    pub latest: Hlc,
}

impl Disk {
    pub fn new(me: NodeId, belongs: bool) -> Disk {
        Disk {
            me,
            belongs,
            vv: VersionVector::new(),
            floor: VersionVector::new(),
            clock: Clock::default(),
            totals: Totals::default(),
            entries: BTreeMap::new(),
            log: BTreeMap::new(),
            latest: Hlc::default(),
        }
    }

    /// The small part, as a process reads it.
    pub fn replica(&self) -> Replica {
        Replica::resume(self.me, self.vv.clone(), self.floor.clone(), self.clock, self.totals)
    }

    /// The rows of the log, as a process reads them when it starts; whether forgetting has been there is not known.
    pub fn changes(&self, kept: usize, held: usize) -> Changes {
        let mut changes = Changes::new(kept, held);
        for (first, row) in &self.log {
            let bytes = row.events.len();
            changes.push(Kept { first: *first, through: row.through, bytes, leftover: true });
        }
        changes
    }

    pub fn put(&mut self, kind: Kind, key: Vec<u8>, entry: Entry) {
        if entry.is_gone() {
            self.entries.remove(&(kind, key));
        } else {
            self.entries.insert((kind, key), entry);
        }
    }

    /// Writes the rows of these origins.
    pub fn write_rows(&mut self, unit: &Unit, of: impl Fn(NodeId) -> bool) -> Vec<Kept> {
        let leftover = unit.changes().any(|touch| touch.entry.leftover());
        let mut rows = Vec::new();
        for (origin, stretch) in unit.stretches().filter(|(origin, _)| of(*origin)) {
            let event = |&(seq, place)| (seq, unit.at(place).kind, unit.at(place).key.clone());
            let events: Vec<_> = stretch.events.iter().map(event).collect();
            let (first, through, bytes) =
                (Dot::new(origin, stretch.after + 1), stretch.through, events.len());
            self.log.insert(first, Row { through, events });
            rows.push(Kept { first, through, bytes, leftover });
        }
        rows
    }

    /// The power goes while a unit is written: all rows have come, but only so many entries, and no summary.
    pub fn tear(&mut self, unit: Unit, entries: usize) {
        let me = self.me;
        for row in self.write_rows(&unit, |origin| origin == me) {
            self.vv.raise(Dot::new(me, row.through));
        }
        if unit.forgot() {
            self.floor.join(&self.vv);
        }
        for touch in unit.into_changes().take(entries) {
            self.put(touch.kind, touch.key, touch.entry);
        }
        self.totals = Totals::default();
        let mut latest = self.clock.last();
        for ((kind, key), entry) in &self.entries {
            self.totals.add(*kind, key, entry.dots());
            let own = entry.versions().iter().filter(|version| version.dot.origin == me);
            latest = own.map(|version| version.hlc).fold(latest, Hlc::max);
        }
        self.clock = Clock::from(latest);
    }

    /// What must hold of it at every moment.
    pub fn check(&self) {
        let mut totals = Totals::default();
        for ((kind, key), entry) in &self.entries {
            totals.add(*kind, key, entry.dots());
            for dot in entry.dots() {
                assert!(entry.context().covers(dot), "{dot} lives outside of its context");
            }
        }
        assert_eq!(totals, self.totals, "counts and digest");
        let mut ends = VersionVector::new();
        for (first, row) in &self.log {
            let before = match ends.get(first.origin) {
                0 => first.seq - 1,
                end => end,
            };
            assert_eq!(before + 1, first.seq, "the log of {} is broken", first.origin);
            assert!(
                ends.get(first.origin) > 0 || self.floor.get(first.origin) >= before,
                "it is below the floor"
            );
            let seqs = row.events.iter().map(|(seq, ..)| *seq);
            assert!(seqs.eq(first.seq..=row.through), "events of {} are missing", first.origin);
            ends.raise(Dot::new(first.origin, row.through));
        }
        for dot in self.vv.iter() {
            let end = ends.get(dot.origin);
            assert!(end == dot.seq || (end == 0 && self.floor.covers(dot)), "the log ends before {dot}");
        }
    }

    /// The names of what lives under a key.
    pub fn live(&self, kind: Kind, key: &[u8]) -> BTreeSet<Dot> {
        self.entries.get(&(kind, key.to_vec())).map(|entry| entry.dots().collect()).unwrap_or_default()
    }

    /// The members, as far as it knows.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let records = self
            .entries
            .iter()
            .filter(|((kind, _), e)| *kind == Kind::Membership && Records::told(e).standing().is_some());
        let id = |key: &[u8]| NodeId(u64::from_be_bytes(key.try_into().expect("a node id")));
        records.map(|((_, key), _)| id(key)).collect()
    }

    /// What the records of a node say.
    pub fn records(&self, id: NodeId) -> Records {
        let entry = self.entries.get(&(Kind::Membership, id.0.to_be_bytes().to_vec()));
        entry.map(Records::told).unwrap_or_default()
    }

    /// The last membership of a node that is told of here, ended or not.
    pub fn last_joined(&self, id: NodeId) -> Option<u64> {
        let entry = self.entries.get(&(Kind::Membership, id.0.to_be_bytes().to_vec()))?;
        let joined = |version: &Version| match &version.value {
            Value::Inline(text) => Member::of(text).joined_at_ms,
            Value::Chunked { .. } => 0,
        };
        entry.versions().iter().map(joined).max()
    }

    /// Has it heard of this event of this key, in whatever way?
    pub fn knows(&self, dot: Dot, kind: Kind, key: &[u8]) -> bool {
        let seen = |entry: &Entry| entry.context().covers(dot);
        self.vv.covers(dot) || self.entries.get(&(kind, key.to_vec())).is_some_and(seen)
    }

    /// The newest event of an origin that anything here tells of.
    pub fn newest(&self, origin: NodeId) -> u64 {
        let contexts = self.entries.values().map(|entry| entry.context().get(origin));
        contexts.fold(self.vv.get(origin), u64::max)
    }
}

impl Trees for Disk {
    type Error = Infallible;

    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Infallible> {
        Ok(self.entries.get(&(kind, key.to_vec())).cloned().unwrap_or_default())
    }

    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Infallible> {
        let rows = self.log.range(Dot::new(origin, 0)..=Dot::new(origin, through));
        let events = rows.flat_map(|(_, row)| &row.events);
        let wanted = events.filter(|(seq, ..)| *seq > after && *seq <= through);
        Ok(wanted.map(|(seq, kind, key)| Change { seq: *seq, kind: *kind, key: key.clone() }).collect())
    }

    fn entries_after(&self, after: Option<&(Kind, Vec<u8>)>, limit: usize) -> Result<Vec<Held>, Infallible> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let held = self.entries.range((from, Unbounded)).take(limit);
        Ok(held.map(|((kind, key), entry)| (*kind, key.clone(), entry.clone())).collect())
    }
}
