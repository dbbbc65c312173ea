//! What the last commits wrote: rows of the log, and the entries of their keys as they are now. What peers are sent is nearly
//! always that, and made of this it needs no look into sled, hence no thread that may block: on the way of a write to its
//! second disk every thread that must wake counts (`docs/performance.md`).
//!
//! A coherent copy of the newest part of the log and of the data tree's entries: the committer, who alone writes, puts a
//! unit's rows and each of its entries here as they go into the trees, or empties all of it. Who reads here waits for the
//! watermark as after a read of the trees. Nothing here says what was before that: who asks for older events, or for an
//! entry that is not here, is told so, and goes to the trees.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::codec::Row;
use crate::limits::RECENT_BYTES;
use crate::replica::{Change, Dot, Entry, NodeId, Value, Version, VersionVector};

/// Rows and entries, in two generations: the old one goes when the young one is full.
pub struct Recent(Mutex<Generations>);

struct Generations {
    young: Generation,
    /// Its entries count only where the young say nothing.
    old: Generation,
}

/// Some units in a row.
#[derive(Default)]
struct Generation {
    /// The replica's vector before the first of them: of each origin, the events after that are here.
    before: VersionVector,
    /// By their first events.
    rows: BTreeMap<Dot, Vec<Change>>,
    entries: HashMap<Vec<u8>, Entry>,
    /// Of all that, about.
    bytes: usize,
}

impl Generation {
    fn after(vv: &VersionVector) -> Generation {
        Generation { before: vv.clone(), ..Generation::default() }
    }

    /// Appends the events of `origin` with after < seq <= through.
    fn changes(&self, origin: NodeId, after: u64, through: u64, to: &mut Vec<Change>) {
        let next = Dot::new(origin, after.saturating_add(1));
        // The row in which the first of them stands may begin before it.
        let within = self.rows.range(Dot::new(origin, 0)..=next).next_back();
        let from = within.map_or(next, |(first, _)| *first);
        for (_, row) in self.rows.range(from..=Dot::new(origin, through)) {
            to.extend(row.iter().filter(|event| event.seq > after && event.seq <= through).cloned());
        }
    }
}

impl Recent {
    /// Nothing yet, of a replica with this vector.
    pub fn new(vv: &VersionVector) -> Recent {
        let (young, old) = (Generation::after(vv), Generation::after(vv));
        Recent(Mutex::new(Generations { young, old }))
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This row is in the log; entries of all its keys follow before the unit ends.
    pub fn log(&self, row: Row) {
        let events = row.events.into_iter();
        let changes = events.map(|event| Change { seq: event.seq, kind: event.kind, key: event.key });
        let changes: Vec<Change> = changes.collect();
        let young = &mut self.lock().young;
        young.bytes += changes.iter().map(|change| CHANGE_BYTES + change.key.len()).sum::<usize>();
        young.rows.insert(row.first, changes);
    }

    /// This key holds this now.
    pub fn put(&self, key: Vec<u8>, entry: Entry) {
        let inline = |version: &Version| match &version.value {
            Value::Inline(text) => text.len(),
            Value::Chunked { .. } => 0,
        };
        let values: usize = entry.versions().iter().map(inline).sum();
        let young = &mut self.lock().young;
        young.bytes += ENTRY_BYTES + VERSION_BYTES * entry.versions().len() + key.len() + values;
        young.entries.insert(key, entry);
    }

    /// The unit is complete, and left the replica with this vector.
    pub fn end(&self, vv: &VersionVector) {
        let generations = &mut *self.lock();
        if generations.young.bytes > RECENT_BYTES / 2 {
            generations.old = std::mem::replace(&mut generations.young, Generation::after(vv));
        }
    }

    /// Forgets all of it; from here on it begins after this vector.
    pub fn clear(&self, vv: &VersionVector) {
        let (young, old) = (Generation::after(vv), Generation::after(vv));
        *self.lock() = Generations { young, old };
    }

    /// What a key of the data tree holds, if it is known here.
    pub fn entry(&self, key: &[u8]) -> Option<Entry> {
        let generations = self.lock();
        generations.young.entries.get(key).or_else(|| generations.old.entries.get(key)).cloned()
    }

    /// The events of `origin` with after < seq <= through, by seq, if all of them that the log has are known here.
    pub fn changes(&self, origin: NodeId, after: u64, through: u64) -> Option<Vec<Change>> {
        let generations = self.lock();
        if after < generations.old.before.get(origin) {
            return None;
        }
        let mut changes = Vec::new();
        generations.old.changes(origin, after, through, &mut changes);
        generations.young.changes(origin, after, through, &mut changes);
        Some(changes)
    }
}

/// What an entry takes beside key and values, about: maps, vectors, a context of a few members.
const ENTRY_BYTES: usize = 192;

/// What each of its versions takes beside the value, about.
const VERSION_BYTES: usize = 64;

/// What an event takes beside its key, about.
const CHANGE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::codec::Event;
    use super::*;
    use crate::replica::Kind;

    const ONE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn key(seq: u64) -> Vec<u8> {
        format!("{seq:>width$}", width = KEY_BYTES).into_bytes()
    }

    /// A few hundred of them are a generation.
    const KEY_BYTES: usize = 16 << 10;

    fn row(origin: NodeId, seqs: &[u64], through: u64) -> Row {
        let event = |seq: &u64| Event {
            seq: *seq,
            kind: Kind::Data,
            key: key(*seq),
            before: None,
            brought: Vec::new(),
        };
        let events = seqs.iter().map(event).collect();
        Row { first: Dot::new(origin, seqs[0]), through, events, forgot: false }
    }

    fn at(seq: u64) -> VersionVector {
        [Dot::new(ONE, seq)].into_iter().collect()
    }

    fn seqs(changes: Option<Vec<Change>>) -> Option<Vec<u64>> {
        changes.map(|changes| changes.iter().map(|change| change.seq).collect())
    }

    #[test]
    fn tells_the_events_of_one_origin_within_rows_and_over_them() {
        let recent = Recent::new(&at(10));
        recent.log(row(ONE, &[11, 12, 14], 14));
        recent.log(row(OTHER, &[1], 1));
        recent.log(row(ONE, &[15, 17], 18));
        assert_eq!(seqs(recent.changes(ONE, 10, 18)), Some(vec![11, 12, 14, 15, 17]));
        assert_eq!(seqs(recent.changes(ONE, 11, 15)), Some(vec![12, 14, 15]));
        assert_eq!(seqs(recent.changes(ONE, 13, 14)), Some(vec![14]));
        assert_eq!(seqs(recent.changes(ONE, 17, 18)), Some(vec![]));
        assert_eq!(seqs(recent.changes(OTHER, 0, 9)), Some(vec![1]));
    }

    #[test]
    fn does_not_tell_of_what_was_before() {
        let recent = Recent::new(&at(10));
        recent.log(row(ONE, &[11], 11));
        assert_eq!(recent.changes(ONE, 9, 11), None);
        recent.clear(&at(12));
        assert_eq!(recent.changes(ONE, 11, 12), None);
        assert_eq!(seqs(recent.changes(ONE, 12, 12)), Some(vec![]));
    }

    #[test]
    fn keeps_the_newest_within_its_bytes_and_knows_where_they_begin() {
        let recent = Recent::new(&at(0));
        let last = 4 * (RECENT_BYTES / KEY_BYTES) as u64;
        for seq in 1..=last {
            recent.log(row(ONE, &[seq], seq));
            recent.put(key(seq), Entry::default());
            recent.end(&at(seq));
        }
        let known = (0..last).find(|after| recent.changes(ONE, *after, last).is_some()).unwrap();
        let kept = (last - known) as usize * 2 * KEY_BYTES;
        assert!((RECENT_BYTES / 2..=RECENT_BYTES + 4 * KEY_BYTES).contains(&kept), "{kept} bytes are kept");
        assert_eq!(seqs(recent.changes(ONE, known, last)), Some((known + 1..=last).collect()));
        assert!(
            (known + 1..=last).all(|seq| recent.entry(&key(seq)).is_some()),
            "rows without their entries"
        );
        assert!(recent.entry(&key(known)).is_none());
    }

    #[test]
    fn an_entry_is_what_was_put_last() {
        let recent = Recent::new(&at(0));
        let entry = |seq| Entry::from_parts(Vec::new(), at(seq));
        recent.put(key(1), entry(1));
        for seq in 2..2 + (RECENT_BYTES / 2 / KEY_BYTES) as u64 {
            recent.put(key(seq), entry(seq));
        }
        recent.end(&at(1));
        recent.put(key(1), entry(9));
        assert_eq!(recent.entry(&key(1)), Some(entry(9)));
        assert_eq!(recent.entry(&key(2)), Some(entry(2)));
    }
}
