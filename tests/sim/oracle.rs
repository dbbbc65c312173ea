//! The true history: which write had seen which, by what its author replaced. It never looks into an entry's context.

use std::collections::{BTreeMap, BTreeSet};

use dynarust::replica::{Dot, Kind, NodeId, VersionVector};

#[derive(Default)]
pub struct Oracle {
    /// Every event: its key, whether it left a value, and all events of that key in its past.
    events: BTreeMap<Dot, Event>,
    /// What was replaced by events that were undone: a piece of a sweep may have told that it had gone, and not by what.
    replaced: BTreeSet<Dot>,
}

struct Event {
    kind: Kind,
    key: Vec<u8>,
    lives: bool,
    past: BTreeSet<Dot>,
    /// What of its past it took the place of itself.
    replaced: Vec<Dot>,
    /// All disks that had it are gone. What was sent of it may still arrive.
    lost: bool,
}

impl Oracle {
    /// An event that took the place of `replaced`.
    pub fn happened(&mut self, dot: Dot, (kind, key): (Kind, &[u8]), lives: bool, replaced: &[Dot]) {
        let mut past = BTreeSet::new();
        for gone in replaced {
            past.insert(*gone);
            past.extend(self.events.get(gone).iter().flat_map(|event| &event.past));
        }
        let event = Event { kind, key: key.to_vec(), lives, past, replaced: replaced.to_vec(), lost: false };
        assert!(self.events.insert(dot, event).is_none(), "one name for two events: {dot}");
    }

    /// Disks are gone: `known` says whether another one still tells of an event.
    pub fn lose(&mut self, known: impl Fn(Dot, Kind, &[u8]) -> bool) {
        for (dot, event) in &mut self.events {
            event.lost |= !known(*dot, event.kind, &event.key);
        }
    }

    /// Nobody has ever heard of what this node did after `seq`: it does something else under these names.
    pub fn undo(&mut self, origin: NodeId, seq: u64) {
        let undone = |dot: &Dot| dot.origin == origin && dot.seq > seq;
        let gone = self.events.extract_if(.., |dot, _| undone(dot));
        self.replaced.extend(gone.flat_map(|(_, event)| event.past));
        self.replaced.retain(|dot| !undone(dot));
    }

    /// Holds what lives under a key against what must live there once everybody knows everything.
    pub fn judge(&self, kind: Kind, key: &[u8], live: &BTreeSet<Dot>) {
        let here = || self.events.iter().filter(|(_, event)| event.kind == kind && event.key == key);
        let past = |lost: bool| -> BTreeSet<Dot> {
            here().filter(|(_, event)| event.lost == lost).flat_map(|(_, event)| event.past.clone()).collect()
        };
        let (dead, doubtful) = (past(false), &past(true) | &self.replaced);
        for (dot, event) in here().filter(|(_, event)| event.lives) {
            let lives = live.contains(dot);
            assert!(!lives || !dead.contains(dot), "{dot} of {} is back", key.escape_ascii());
            let must = !event.lost && !dead.contains(dot) && !doubtful.contains(dot);
            assert!(lives || !must, "{dot} of {} is lost", key.escape_ascii());
            let over = event.past.intersection(live).next();
            assert!(!lives || over.is_none(), "{dot} had seen {over:?}: a false conflict");
        }
        for dot in live {
            let real = self.events.get(dot).is_some_and(|event| event.lives && event.key == key);
            assert!(real, "{dot} of {} never happened", key.escape_ascii());
        }
    }

    /// The events of a key that have this one in their past.
    pub fn took_the_place_of(&self, kind: Kind, key: &[u8], old: Dot) -> Vec<Dot> {
        let events = self.events.iter().filter(|(_, event)| event.kind == kind && event.key == key);
        events.filter(|(_, event)| event.past.contains(&old)).map(|(dot, _)| *dot).collect()
    }

    /// Who has incorporated an event holds nothing that it replaced.
    pub fn incorporated(&self, vv: &VersionVector, holds: impl Fn(Kind, &[u8], Dot) -> bool) {
        for (dot, event) in self.events.iter().filter(|(dot, event)| !event.lost && vv.covers(**dot)) {
            for old in &event.replaced {
                assert!(
                    !holds(event.kind, &event.key, *old),
                    "{old} is held beside {dot}, which replaced it"
                );
            }
        }
    }

    /// Is this event sure to be known to everybody in the end?
    pub fn stands(&self, dot: Dot) -> bool {
        self.events.get(&dot).is_some_and(|event| !event.lost)
    }

    /// The keys that any event was of.
    pub fn keys(&self) -> BTreeSet<(Kind, Vec<u8>)> {
        self.events.values().map(|event| (event.kind, event.key.clone())).collect()
    }

    pub fn writes(&self) -> usize {
        self.events.len()
    }
}
