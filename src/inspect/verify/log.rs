//! What the log tells of everything else, and whether it is one unbroken stretch for each origin.

use std::collections::{BTreeMap, HashSet};

use super::Findings;
use crate::inspect::Error;
use crate::replica::{Dot, Kind, NodeId};
use crate::storage::{Offline, Row, Summary};

/// What the log tells.
#[derive(Default)]
pub struct Log {
    /// So many rows it has.
    pub rows: u64,
    /// Of each origin, where its unbroken stretch begins and ends.
    pub stretches: BTreeMap<NodeId, (u64, u64)>,
    /// The newest event of each key that it names.
    pub newest: BTreeMap<(Kind, Vec<u8>), BTreeMap<NodeId, u64>>,
    /// Keys that a unit was about to change which was cut off, and what lived there before, if that is told.
    pub tail: Vec<(Kind, Vec<u8>, Option<Vec<Dot>>)>,
    /// Has a unit that was cut off forgotten something?
    pub tail_forgot: bool,
    /// Versions that the last units brought or put aside: pieces of them may be left until the next start.
    pub put_aside: HashSet<Dot>,
    /// The keys of those units.
    pub last_keys: HashSet<(Kind, Vec<u8>)>,
}

impl Log {
    /// Reads it, and finds what does not fit the vectors.
    pub fn read(store: &Offline, summary: &Summary, findings: &mut Findings) -> Result<Log, Error> {
        let mut log = Log::default();
        store.rows(|name, row| {
            log.rows += 1;
            match row {
                Some(row) => log.take(row, summary, findings)?,
                None => findings.add("changes", &format!("the row '{}' is damaged", name.escape_ascii()))?,
            }
            Ok::<_, Error>(true)
        })?;
        log.ends(summary, findings)?;
        Ok(log)
    }

    fn take(&mut self, row: Row, summary: &Summary, findings: &mut Findings) -> Result<(), Error> {
        let origin = row.first.origin;
        let repair = origin == NodeId::NOBODY;
        let cut_off = match repair {
            true => row.first.seq > summary.repairs,
            false => !summary.vv.covers(row.first),
        };
        let last = repair || !summary.unit.covers(row.first);
        self.tail_forgot |= cut_off && row.forgot;
        for event in row.events {
            if last {
                self.put_aside.insert(Dot::new(origin, event.seq));
                self.put_aside.extend(event.before.iter().flatten().chain(&event.brought));
                self.last_keys.insert((event.kind, event.key.clone()));
            }
            if cut_off {
                self.tail.push((event.kind, event.key.clone(), event.before));
            }
            if !repair {
                let newest = self.newest.entry((event.kind, event.key)).or_default();
                newest.insert(origin, event.seq);
            }
        }
        if repair || cut_off {
            return Ok(());
        }
        let start = row.first.seq;
        match self.stretches.get_mut(&origin) {
            Some((_, end)) if *end + 1 == start => *end = row.through,
            Some((_, end)) => {
                let what = match *end < start {
                    true => format!("events {} to {} of {origin} are missing", *end + 1, start - 1),
                    false => {
                        format!("the row of {} begins before the one before it ends, at {end}", row.first)
                    }
                };
                findings.add("changes", &what)?;
                self.stretches.insert(origin, (start, row.through));
            }
            None => drop(self.stretches.insert(origin, (start, row.through))),
        }
        Ok(())
    }

    /// Each stretch must end where the vector stands, and begin where the floor says.
    fn ends(&self, summary: &Summary, findings: &mut Findings) -> Result<(), Error> {
        for (origin, (start, end)) in &self.stretches {
            let (upto, floor) = (summary.vv.get(*origin), summary.floor.get(*origin));
            // The last unit was the end of a sweep: these rows are the first thing that the next start drops.
            let swept = floor >= upto && upto > summary.unit.get(*origin);
            if *end != upto && !swept {
                let what = format!("the log of {origin} ends at {end}, and {upto} are incorporated");
                findings.add("changes", &what)?;
            }
            if *start > floor + 1 {
                let what = format!("the log of {origin} begins at {start}, and the floor is {floor}");
                findings.add("changes", &what)?;
            }
        }
        for dot in summary.vv.iter().filter(|dot| !self.stretches.contains_key(&dot.origin)) {
            if summary.floor.get(dot.origin) < dot.seq {
                let what = format!("the log has nothing of {}, and the floor does not say so", dot.origin);
                findings.add("changes", &what)?;
            }
        }
        Ok(())
    }
}
