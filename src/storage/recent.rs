//! What the last commits wrote, as it is now: what peers are sent is nearly always that, and need not be looked up in sled.
//!
//! A coherent copy of some entries of the data tree: the committer, who alone writes, puts each entry here right after it is
//! in the tree, or empties all of it. Who reads here waits for the watermark as after a read of the tree.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::limits::RECENT_BYTES;
use crate::replica::{Entry, Value, Version};

/// Entries by key.
#[derive(Default)]
pub struct Recent(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Vec<u8>, Entry>,
    /// Counts only where the young say nothing.
    old: HashMap<Vec<u8>, Entry>,
    /// Of the young, about.
    bytes: usize,
}

impl Recent {
    /// This key holds this now.
    pub fn put(&self, key: Vec<u8>, entry: Entry) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inline = |version: &Version| match &version.value {
            Value::Inline(text) => text.len(),
            Value::Chunked { .. } => 0,
        };
        let values: usize = entry.versions().iter().map(inline).sum();
        generations.bytes += OVERHEAD_BYTES + key.len() + values;
        generations.young.insert(key, entry);
        if generations.bytes > RECENT_BYTES / 2 {
            generations.old = std::mem::take(&mut generations.young);
            generations.bytes = 0;
        }
    }

    /// What a key holds, if it is known here.
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.get(key).or_else(|| generations.old.get(key)).cloned()
    }

    /// Nobody is interested.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Generations::default();
    }
}

/// What an entry takes beside key and values, about: maps, vectors, a context of a few members.
const OVERHEAD_BYTES: usize = 256;
