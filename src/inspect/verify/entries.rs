//! Every entry against the vectors, the log, its pieces and the index of expiry.

use std::collections::{HashMap, HashSet};

use super::Findings;
use super::log::Log;
use crate::inspect::{Error, lists};
use crate::limits::{CHUNK_BYTES, KEY_BYTES_MAX};
use crate::replica::{Dot, Entry, Kind, NodeId, Totals, Value};
use crate::storage::{About, Fault, Offline};
use crate::time;
use crate::told::Told;

/// What the entries come to.
#[derive(Default)]
pub struct Seen {
    /// Counts and digest.
    pub totals: Totals,
    /// So many of the versions are records of members.
    pub of_members: u64,
    /// How many pieces each has whose value is large.
    pub pieces: HashMap<Dot, u32>,
}

/// Reads them all.
pub fn read(store: &Offline, about: &About, log: &mut Log, findings: &mut Findings) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    let (mut told, mut count) = (Told::new("checking"), 0);
    let tail: HashSet<(Kind, Vec<u8>)> = log.tail.iter().map(|(kind, key, _)| (*kind, key.clone())).collect();
    for kind in [Kind::Data, Kind::Membership] {
        let place = lists::word(kind);
        store.entries(kind, (&[], None), |key, entry| {
            count += 1;
            told.counted(count, "keys", None);
            let named = lists::named(kind, key, false);
            let Some(entry) = entry else {
                findings.add(place, &format!("the entry of '{named}' is damaged"))?;
                return Ok::<_, Error>(true);
            };
            let name = (kind, key.to_vec());
            let cut_off = tail.contains(&name);
            for what in faults(&entry, &name, about, log, cut_off) {
                findings.add(place, &format!("'{named}': {what}"))?;
            }
            for version in entry.versions() {
                if let Value::Chunked { bytes, .. } = version.value {
                    let count = bytes.div_ceil(CHUNK_BYTES as u64) as u32;
                    seen.pieces.insert(version.dot, count);
                    for fault in store.faults(version)? {
                        let what = match fault {
                            Fault::Missing(index) => format!("piece {index} of {count} is missing"),
                            Fault::Damaged(index) => format!("piece {index} of {count} is damaged"),
                            Fault::Whole => format!("its {count} pieces are not those of its value"),
                        };
                        findings.add("pieces", &format!("'{named}', {}: {what}", version.dot))?;
                    }
                }
                if let Some(at) = version.expires_at_ms
                    && !store.expires(at, kind, key)?
                {
                    let at = time::text(at);
                    let what = format!("'{named}' expires at {at}, and the index does not say so");
                    findings.add("expiry", &what)?;
                }
            }
            if log.last_keys.contains(&name) {
                // A value more, and another one had to move out of the entry.
                log.put_aside.extend(entry.dots());
            }
            if kind == Kind::Membership {
                seen.of_members += entry.versions().len() as u64;
            }
            seen.totals.add(kind, key, entry.dots());
            Ok(true)
        })?;
    }
    Ok(seen)
}

/// What of an entry does not fit the rest.
fn faults(entry: &Entry, name: &(Kind, Vec<u8>), about: &About, log: &Log, cut_off: bool) -> Vec<String> {
    let (vv, mut faults) = (&about.summary.vv, Vec::new());
    let sound = match name {
        (Kind::Data, key) => (1..=KEY_BYTES_MAX).contains(&key.len()) && std::str::from_utf8(key).is_ok(),
        (Kind::Membership, key) => key.len() == size_of::<NodeId>(),
    };
    if !sound {
        faults.push("no key looks like that".into());
    }
    if entry.is_gone() {
        faults.push("nothing is known of it, and it is there".into());
    }
    let newest = log.newest.get(name);
    let mut dots: Vec<Dot> = entry.dots().collect();
    dots.sort_unstable();
    for pair in dots.windows(2).filter(|pair| pair[0] == pair[1]) {
        faults.push(format!("{} lives twice", pair[0]));
    }
    for dot in dots {
        if !entry.context().covers(dot) {
            faults.push(format!("{dot} lives outside of its context"));
        }
        let (start, _) = log.stretches.get(&dot.origin).copied().unwrap_or((u64::MAX, 0));
        let told = newest.and_then(|newest| newest.get(&dot.origin)).copied().unwrap_or(0);
        // What is newer than the vector came ahead of its event.
        if vv.covers(dot) && dot.seq >= start && told < dot.seq {
            faults.push(format!("{dot} lives, and the log does not name it"));
        }
        // But not what the node made itself: it would give this name once more.
        if dot.origin == about.node && !vv.covers(dot) && !cut_off {
            faults.push(format!("{dot} is this node's own, and its vector ends at {}", vv.get(dot.origin)));
        }
    }
    faults
}

/// Of which keys the log names an event that is neither there nor forgotten. Of a unit that was cut off there may be some, which
/// came to nothing; so this tells where something is missing, not that something is.
pub fn unseen(store: &Offline, about: &About, log: &Log, findings: &mut Findings) -> Result<(), Error> {
    if log.tail_forgot {
        return Ok(());
    }
    let summary = &about.summary;
    for ((kind, key), newest) in &log.newest {
        let Ok(entry) = store.entry(*kind, key) else { continue };
        let entry = entry.unwrap_or_default();
        let events = newest.iter().map(|(origin, seq)| Dot::new(*origin, *seq));
        let known = |dot: &Dot| entry.context().covers(*dot) || summary.floor.covers(*dot);
        for dot in events.filter(|dot| summary.vv.covers(*dot) && !known(dot)) {
            let what = match entry.versions().is_empty() {
                true => "nothing is there",
                false => "what is there has not seen it",
            };
            let named = lists::named(*kind, key, false);
            findings.add(lists::word(*kind), &format!("'{named}': the log names {dot}, and {what}"))?;
        }
    }
    Ok(())
}
