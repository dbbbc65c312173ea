//! The true history: which write had seen which, by what its author replaced. It never looks into an entry's context.

use std::collections::{BTreeMap, BTreeSet};

use dynarust::replica::Dot;

#[derive(Default)]
pub struct Oracle {
    /// Every event: its key, whether it left a value, and all events of that key in its past.
    events: BTreeMap<Dot, Event>,
}

struct Event {
    key: Vec<u8>,
    lives: bool,
    past: BTreeSet<Dot>,
}

impl Oracle {
    /// An event that took the place of `replaced`.
    pub fn happened(&mut self, dot: Dot, key: &[u8], lives: bool, replaced: &[Dot]) {
        let mut past = BTreeSet::new();
        for gone in replaced {
            past.insert(*gone);
            past.extend(&self.events[gone].past);
        }
        let twice = self.events.insert(dot, Event { key: key.to_vec(), lives, past });
        assert!(twice.is_none(), "one name for two events: {dot}");
    }

    /// What must live under this key once everybody knows everything.
    pub fn live(&self, key: &[u8]) -> BTreeSet<Dot> {
        let here = || self.events.iter().filter(|(_, event)| event.key == key);
        let dead: BTreeSet<Dot> = here().flat_map(|(_, event)| event.past.iter().copied()).collect();
        here().filter(|(dot, event)| event.lives && !dead.contains(dot)).map(|(dot, _)| *dot).collect()
    }

    pub fn writes(&self) -> usize {
        self.events.len()
    }
}
