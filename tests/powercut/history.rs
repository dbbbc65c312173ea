//! What the store must hold: the model. One committer orders everything, so a store must hold exactly what its events up
//! to the newest that somebody was told of leave, byte for byte. What came after may be there or not, but under each
//! key in its order: a later write never without the one before it.
//!
//! An event that nobody sent is the delete of an expired version; they come in the order of the expiry index, so the
//! model knows which one it is. Or it is void: its commit was cut off before it came to this key.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::trace::{Event, Op, Record};
use crate::workload::key_name;

/// A live version, as the model and the reports of children have it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// Its event.
    pub seq: u64,
    /// XXH3 of the text.
    pub hash: u64,
    /// Length of the text.
    pub bytes: u64,
    /// When it expires.
    pub expires_at_ms: Option<u64>,
}

/// All keys that are not gone, each with its live versions by seq.
pub type Model = BTreeMap<u32, Vec<Held>>;

/// One event, as far as it is known.
#[derive(Clone)]
enum Step {
    /// A write, and the record in which it was sent.
    Write(usize, Op),
    /// Nothing came of it.
    Void,
}

/// Who promised what, when.
#[derive(Clone, Default)]
pub struct History {
    /// The node, and the record that first said so.
    me: Option<(usize, u64)>,
    /// What the store held when the history began, and the seq of its newest event then.
    base: (u64, Model),
    /// By seq, from the first after the base: the write and the record in which it was sent; `None` is an expiry.
    events: Vec<Option<Step>>,
    /// Record by record, the highest event that somebody has been told of.
    shown: Vec<(usize, u64)>,
}

impl History {
    /// Goes on with the records of a trace.
    pub fn read(mut self, records: &[Record]) -> History {
        let mut pending: HashMap<u64, (usize, Op)> = HashMap::new();
        let mut lost = HashMap::new();
        for (at, record) in records.iter().enumerate() {
            match &record.event {
                Event::Submit { id, op } => {
                    pending.insert(*id, (at, op.clone()));
                }
                Event::Refused { id } => {
                    pending.remove(id);
                }
                Event::Ack { id, seq } => {
                    let sent = pending.remove(id).expect("an answer follows its request");
                    self.set(*seq, sent);
                    self.show(at, *seq);
                }
                Event::Seen(seq) => self.show(at, *seq),
                Event::Opened { me, seq } => {
                    lost = pending.drain().map(|(_, sent)| (sent.1.key, sent)).collect();
                    self.me.get_or_insert((at, *me));
                    let promised = self.promised(at);
                    assert!(*seq >= promised, "reopened with event {seq}, {promised} was promised");
                    // A life was cut off: of what it sent and never answered nothing came, unless a key holds it.
                    self.events.resize((*seq - self.base.0) as usize, Some(Step::Void));
                    self.show(at, *seq);
                }
                Event::Holds { key, seqs } => {
                    for &seq in seqs.iter().filter(|seq| **seq > self.base.0) {
                        let step = &mut self.events[(seq - self.base.0) as usize - 1];
                        if !matches!(step, Some(Step::Write(..))) {
                            let (at, op) = lost.remove(key).expect("an event of nobody");
                            *step = Some(Step::Write(at, op));
                        }
                    }
                }
                Event::Closed { seq } => {
                    self.events.resize((*seq - self.base.0) as usize, None);
                    self.show(at, *seq);
                }
                _ => {}
            }
        }
        self
    }

    fn set(&mut self, seq: u64, (at, op): (usize, Op)) {
        let index = (seq - self.base.0) as usize - 1;
        if self.events.len() <= index {
            self.events.resize(index + 1, None);
        }
        assert!(self.events[index].is_none(), "two writes are event {seq}");
        self.events[index] = Some(Step::Write(at, op));
    }

    fn show(&mut self, at: usize, seq: u64) {
        let known = self.shown.last().map_or(0, |(_, seq)| *seq);
        self.shown.push((at, known.max(seq)));
    }

    /// The highest event that somebody had been told of before record `at`.
    pub fn promised(&self, at: usize) -> u64 {
        let count = self.shown.partition_point(|(told, _)| *told < at);
        count.checked_sub(1).map_or(0, |last| self.shown[last].1)
    }

    /// The node's id, once it had served.
    pub fn me(&self, at: usize) -> Option<u64> {
        self.me.filter(|(told, _)| *told < at).map(|(_, me)| me)
    }

    /// The history of a store that was found with this in it, up to this event.
    pub fn found(me: u64, seq: u64, model: Model) -> History {
        History { me: Some((0, me)), base: (seq, model), events: Vec::new(), shown: vec![(0, seq)] }
    }

    /// What the store may hold after a crash before record `at`, when it knows of `seq` events: of every key the states
    /// that it may be in, one after the other.
    pub fn states(&self, seq: u64, at: usize) -> Result<BTreeMap<u32, Vec<Vec<Held>>>, String> {
        let promised = self.promised(at);
        let mut model = self.base.1.clone();
        let mut states: Option<BTreeMap<u32, Vec<Vec<Held>>>> = None;
        for number in self.base.0 + 1..=seq {
            if number > promised {
                states
                    .get_or_insert_with(|| model.iter().map(|(k, held)| (*k, vec![held.clone()])).collect());
            }
            let touched = match self.events.get((number - self.base.0) as usize - 1) {
                Some(Some(Step::Write(sent, _))) if *sent >= at && *sent > 0 => {
                    return Err(format!("event {number} of {seq} was not even sent"));
                }
                Some(Some(Step::Write(_, op))) => {
                    apply(&mut model, number, op);
                    Some(op.key)
                }
                Some(Some(Step::Void)) => None,
                // What was not known of when the trace ended, and what expired.
                _ => Some(expire_next(&mut model).ok_or(format!("event {number} of {seq} is nobody's"))?),
            };
            if let (Some(key), Some(states)) = (touched, &mut states) {
                let now = model.get(&key).cloned().unwrap_or_default();
                states.entry(key).or_insert_with(|| vec![Vec::new()]).push(now);
            }
        }
        Ok(states.unwrap_or_else(|| model.into_iter().map(|(key, held)| (key, vec![held])).collect()))
    }
}

/// One write.
pub fn apply(model: &mut Model, seq: u64, op: &Op) {
    let held = model.entry(op.key).or_default();
    held.retain(|version| op.named.as_ref().is_some_and(|named| !named.contains(&version.seq)));
    if let Some(put) = op.put {
        held.push(Held { seq, hash: put.hash, bytes: put.bytes, expires_at_ms: put.expires_at_ms });
    }
}

/// One expiry: the first row of the index, and its key. `None` when nothing can expire.
pub fn expire_next(model: &mut Model) -> Option<u32> {
    let rows = model.iter().flat_map(|(&key, held)| {
        held.iter().filter_map(move |version| version.expires_at_ms.map(|at| (at, key_name(key), key)))
    });
    let (at, _, key) = rows.min()?;
    let held = model.get_mut(&key).expect("the key was just there");
    held.retain(|version| version.expires_at_ms != Some(at));
    Some(key)
}
