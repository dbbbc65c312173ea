//! Which keys hold values that did not see each other.
//!
//! There is no index of them: they are rare, and the counts tell when there is none at all. So all keys are read, in steps,
//! beside the writers.

use super::error::Error;
use super::trees::Trees;
use crate::limits::CONFLICTS_READ_KEYS;
use crate::replica::{Entry, Kind, Totals, Trees as _, Value, Version};

/// Some of the keys with more than one version to be seen, in the order of keys.
pub struct Conflicts {
    /// Each with what it holds, but for the values.
    pub keys: Vec<(Vec<u8>, Entry)>,
    /// Where to go on; `None` when these are all.
    pub next: Option<Vec<u8>>,
}

/// At most so many of them, after this key. Blocks.
pub fn conflicts(
    trees: &Trees,
    (members_before, totals): (u64, Totals),
    after: Option<Vec<u8>>,
    most: usize,
    now_ms: u64,
) -> Result<Conflicts, Error> {
    let mut found = Conflicts { keys: Vec::new(), next: None };
    // The members' records are counted among the versions: those of two looks, one before the counts and one after.
    let members = members_before.min(trees.members()?.len() as u64);
    if totals.versions <= totals.keys + members {
        return Ok(found);
    }
    let mut place = Some((Kind::Data, after.unwrap_or_default()));
    loop {
        let held = trees.entries_after(place.as_ref(), CONFLICTS_READ_KEYS)?;
        let Some((kind, last, _)) = held.last() else { return Ok(found) };
        place = Some((*kind, last.clone()));
        for (kind, key, entry) in held {
            if kind != Kind::Data {
                return Ok(found);
            }
            if entry.visible(now_ms).count() > 1 {
                if found.keys.len() == most {
                    found.next = found.keys.last().map(|(key, _)| key.clone());
                    return Ok(found);
                }
                // Read to be named, not to be shown: together they may be large.
                let context = entry.context().clone();
                let nothing = |version| Version { value: Value::Inline(Vec::new()), ..version };
                let versions = entry.into_visible(now_ms).map(nothing).collect();
                found.keys.push((key, Entry::from_parts(versions, context)));
            }
        }
    }
}
