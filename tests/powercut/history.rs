//! What the store must hold: the model. One committer orders everything, so a store that has incorporated R events of
//! this node must hold exactly what the first R events of the history leave, byte for byte.
//!
//! An event that nobody sent is the delete of an expired version; they come in the order of the expiry index, so the
//! model knows which one it is.

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

/// Who promised what, when.
#[derive(Clone, Default)]
pub struct History {
    /// The node, and the record that first said so.
    me: Option<(usize, u64)>,
    /// By seq, from 1: the write and the record in which it was sent; `None` is an expiry.
    events: Vec<Option<(usize, Op)>>,
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
                    self.events.resize(*seq as usize, None);
                    self.show(at, *seq);
                }
                Event::Holds { key, seqs } => {
                    // A life was cut off: what it sent and never answered may have been done.
                    for &seq in seqs {
                        if self.events[seq as usize - 1].is_none() {
                            let sent = lost.remove(key).expect("an event of nobody");
                            self.set(seq, sent);
                        }
                    }
                }
                Event::Closed { seq } => {
                    self.events.resize(*seq as usize, None);
                    self.show(at, *seq);
                }
                _ => {}
            }
        }
        self
    }

    fn set(&mut self, seq: u64, sent: (usize, Op)) {
        let index = seq as usize - 1;
        if self.events.len() <= index {
            self.events.resize(index + 1, None);
        }
        assert!(self.events[index].is_none(), "two writes are event {seq}");
        self.events[index] = Some(sent);
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

    /// What a life that starts from a crash at record `at` has behind it.
    pub fn crashed(&self, at: usize) -> History {
        let unsent = |event: &Option<(usize, Op)>| event.as_ref().is_some_and(|(sent, _)| *sent >= at);
        let kept = self.events.iter().position(unsent).unwrap_or(self.events.len());
        let events = self.events[..kept].iter();
        History {
            me: self.me(at).map(|me| (0, me)),
            events: events.map(|event| event.as_ref().map(|(_, op)| (0, op.clone()))).collect(),
            shown: vec![(0, self.promised(at))],
        }
    }

    /// The state after the first `seq` events, sent before record `at`.
    pub fn model(&self, seq: u64, at: usize) -> Result<Model, String> {
        let mut model = Model::new();
        for number in 1..=seq {
            match self.events.get(number as usize - 1).and_then(Option::as_ref) {
                Some((sent, _)) if *sent >= at && *sent > 0 => {
                    return Err(format!("event {number} of {seq} was not even sent"));
                }
                Some((_, op)) => apply(&mut model, number, op),
                None if expire_next(&mut model) => {}
                None => return Err(format!("event {number} of {seq} is nobody's")),
            }
        }
        model.retain(|_, held| !held.is_empty());
        Ok(model)
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

/// One expiry: the first row of the index. `false` when nothing can expire.
pub fn expire_next(model: &mut Model) -> bool {
    let rows = model.iter().flat_map(|(&key, held)| {
        held.iter().filter_map(move |version| version.expires_at_ms.map(|at| (at, key_name(key), key)))
    });
    let Some((at, _, key)) = rows.min() else { return false };
    let held = model.get_mut(&key).expect("the key was just there");
    held.retain(|version| version.expires_at_ms != Some(at));
    true
}
