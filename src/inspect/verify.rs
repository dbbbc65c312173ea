//! Does everything in a directory fit together? Each invariant that spans the trees, and what does not hold, with its place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::json;

use super::shown;
use super::{Error, Out};
use crate::limits::CHUNK_BYTES;
use crate::replica::{Dot, Entry, Kind, NodeId, Totals, Value, VersionVector};
use crate::storage::{Fault, Offline, Summary};

/// What was found so far.
struct Findings<'a, 'b> {
    out: &'a mut Out<'b>,
    count: u64,
}

impl Findings<'_, '_> {
    fn add(&mut self, place: &str, what: &str) -> Result<(), Error> {
        self.count += 1;
        match self.out.json {
            true => self.out.object(&json!({"place": place, "finding": what})),
            false => self.out.line(&format!("{place}: {what}")),
        }
    }
}

/// Shows every finding, and how much was looked at; the exit code is 0 when there are none, else 1.
pub fn show(store: &Offline, out: &mut Out) -> Result<u8, Error> {
    let about = store.about()?;
    let json = out.json;
    let mut findings = Findings { out, count: 0 };
    let log = Log::read(store, &about.summary, &mut findings)?;
    let seen = entries(store, &about.summary, &log, &mut findings)?;
    totals(store, &about.summary, &log, &seen, &mut findings)?;
    pieces(store, &seen, &log, &mut findings)?;
    expiries(store, &seen, &mut findings)?;
    let events = about.summary.vv.iter().fold(0u64, |sum, dot| sum.wrapping_add(dot.seq));
    match about.witness {
        None => findings.add("PROGRESS", "it is missing or damaged")?,
        Some(witness) if witness > events => findings.add(
            "PROGRESS",
            &format!("{witness} events were committed, and the store holds {events}: it has fallen back"),
        )?,
        _ => {}
    }
    let count = findings.count;
    let (keys, versions, rows) = (seen.totals.keys, seen.totals.versions, log.rows);
    match json {
        true => out.object(&json!({
            "findings": count, "keys": keys, "versions": versions, "log_rows": rows, "sound": count == 0,
        }))?,
        false if count == 0 => {
            out.line(&format!("sound: {keys} keys, {versions} versions, {rows} rows of the log"))?;
        }
        false => out.line(&format!("{count} findings; {keys} keys, {versions} versions could be read"))?,
    }
    Ok(u8::from(count > 0))
}

/// What the log tells.
#[derive(Default)]
struct Log {
    rows: u64,
    /// Of each origin, where its unbroken stretch begins and ends.
    stretches: BTreeMap<NodeId, (u64, u64)>,
    /// The newest event of each key that it names.
    newest: BTreeMap<(Kind, Vec<u8>), BTreeMap<NodeId, u64>>,
    /// Versions that the last unit, or one that was cut off, has put aside: pieces of theirs go with the next start.
    aside: HashSet<Dot>,
    /// Keys that a unit was about to change which was cut off, and what lived there before, if that is told.
    tail: Vec<(Kind, Vec<u8>, Option<Vec<Dot>>)>,
}

impl Log {
    fn read(store: &Offline, summary: &Summary, findings: &mut Findings) -> Result<Log, Error> {
        let mut log = Log::default();
        let mut touched = BTreeSet::new();
        store.rows(|name, row| {
            log.rows += 1;
            let Some(row) = row else {
                findings.add("changes", &format!("the row '{}' is damaged", name.escape_ascii()))?;
                return Ok::<_, Error>(true);
            };
            let origin = row.first.origin;
            let repair = origin == NodeId::NOBODY;
            let cut_off = match repair {
                true => row.first.seq > summary.repairs,
                false => !summary.vv.covers(row.first),
            };
            let last = repair || !summary.unit.covers(row.first);
            for event in row.events {
                if last {
                    log.aside.insert(Dot::new(origin, event.seq));
                    log.aside.extend(event.before.iter().flatten().chain(&event.brought));
                    touched.insert((event.kind, event.key.clone()));
                }
                if cut_off {
                    log.tail.push((event.kind, event.key.clone(), event.before));
                }
                if !repair {
                    let newest = log.newest.entry((event.kind, event.key)).or_default();
                    newest.insert(origin, event.seq);
                }
            }
            if repair || cut_off {
                return Ok(true);
            }
            let start = row.first.seq;
            match log.stretches.get_mut(&origin) {
                Some((_, end)) if *end + 1 == start => *end = row.through,
                Some((_, end)) => {
                    let gap = format!("events {} to {} of {origin} are missing", *end + 1, start - 1);
                    findings.add("changes", &gap)?;
                    log.stretches.insert(origin, (start, row.through));
                }
                None => drop(log.stretches.insert(origin, (start, row.through))),
            }
            Ok(true)
        })?;
        // What is in the entry itself may have been put into pieces as well: a value more, and it had to move.
        for (kind, key) in touched {
            log.aside.extend(store.entry(kind, &key).ok().flatten().iter().flat_map(Entry::dots));
        }
        for (origin, (start, end)) in &log.stretches {
            let (upto, floor) = (summary.vv.get(*origin), summary.floor.get(*origin));
            if *end != upto {
                let what = format!("the log of {origin} ends at {end}, and {upto} are incorporated");
                findings.add("changes", &what)?;
            }
            if *start > floor + 1 {
                let what = format!("the log of {origin} begins at {start}, and the floor is {floor}");
                findings.add("changes", &what)?;
            }
        }
        for dot in summary.vv.iter().filter(|dot| !log.stretches.contains_key(&dot.origin)) {
            if summary.floor.get(dot.origin) < dot.seq {
                let what = format!("the log has nothing of {}, and the floor does not say so", dot.origin);
                findings.add("changes", &what)?;
            }
        }
        if !summary.vv.covers_all(&summary.floor) {
            findings.add("meta", "more is forgotten than is incorporated")?;
        }
        Ok(log)
    }
}

/// What the entries come to.
#[derive(Default)]
struct Seen {
    totals: Totals,
    /// How many pieces each has whose value is large.
    pieces: HashMap<Dot, u32>,
    expires: BTreeSet<(u64, Kind, Vec<u8>)>,
}

fn entries(store: &Offline, summary: &Summary, log: &Log, findings: &mut Findings) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    for kind in [Kind::Data, Kind::Membership] {
        let place = if kind == Kind::Data { "data" } else { "membership" };
        store.entries(kind, (&[], None), |key, entry| {
            let named = shown::key(key);
            let Some(entry) = entry else {
                findings.add(place, &format!("the entry of '{named}' is damaged"))?;
                return Ok::<_, Error>(true);
            };
            for what in faults(&entry, key, kind, &summary.vv, log) {
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
                let expires = version.expires_at_ms.map(|at| (at, kind, key.to_vec()));
                seen.expires.extend(expires);
            }
            seen.totals.add(kind, key, entry.dots());
            Ok(true)
        })?;
    }
    Ok(seen)
}

/// What of an entry does not fit the rest.
fn faults(entry: &Entry, key: &[u8], kind: Kind, vv: &VersionVector, log: &Log) -> Vec<String> {
    let mut faults = Vec::new();
    if entry.is_gone() {
        faults.push("nothing is known of it, and it is there".into());
    }
    for dot in entry.dots().filter(|dot| !entry.context().covers(*dot)) {
        faults.push(format!("{dot} lives outside of its context"));
    }
    let newest = log.newest.get(&(kind, key.to_vec()));
    for dot in entry.dots() {
        let (start, _) = log.stretches.get(&dot.origin).copied().unwrap_or((u64::MAX, 0));
        let told = newest.and_then(|newest| newest.get(&dot.origin)).copied().unwrap_or(0);
        // What is newer than the vector came ahead of its event.
        if vv.covers(dot) && dot.seq >= start && told < dot.seq {
            faults.push(format!("{dot} lives, and the log does not name it"));
        }
    }
    for (origin, seq) in newest.into_iter().flatten() {
        if vv.covers(Dot::new(*origin, *seq)) && entry.context().get(*origin) < *seq {
            let forgotten = entry.versions().is_empty() || entry.dots().all(|dot| dot.origin != *origin);
            if !forgotten {
                faults.push(format!("the log names {}, which it has not seen", Dot::new(*origin, *seq)));
            }
        }
    }
    faults
}

/// Counts and digest, corrected by a unit that was cut off.
fn totals(
    store: &Offline,
    summary: &Summary,
    log: &Log,
    seen: &Seen,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut expected = summary.totals;
    let mut told = HashSet::new();
    for (kind, key, before) in log.tail.iter().filter(|_| !summary.counted) {
        let Some(before) = before else { continue };
        if told.insert((*kind, key)) {
            expected.remove(*kind, key, before.iter().copied());
            let entry = store.entry(*kind, key).ok().flatten().unwrap_or_default();
            expected.add(*kind, key, entry.dots());
        }
    }
    let Totals { keys, versions, digest } = seen.totals;
    if seen.totals != expected {
        findings.add(
            "meta",
            &format!(
                "{keys} keys, {versions} versions, digest {digest} are there; committed were {}, {} and {}",
                expected.keys, expected.versions, expected.digest
            ),
        )?;
    }
    Ok(())
}

fn pieces(store: &Offline, seen: &Seen, log: &Log, findings: &mut Findings) -> Result<(), Error> {
    let mut told = None;
    store.pieces(|key, piece| {
        let Some((dot, index)) = piece else {
            return findings.add("pieces", &format!("'{}' names no piece", key.escape_ascii()));
        };
        match seen.pieces.get(&dot) {
            Some(count) if index >= *count => {
                findings.add("pieces", &format!("{dot} has {count} pieces, and there is a piece {index}"))
            }
            None if !log.aside.contains(&dot) && told.replace(dot) != Some(dot) => {
                findings.add("pieces", &format!("pieces of {dot}, which does not live"))
            }
            _ => Ok(()),
        }
    })
}

fn expiries(store: &Offline, seen: &Seen, findings: &mut Findings) -> Result<(), Error> {
    let index: BTreeSet<(u64, Kind, Vec<u8>)> = store.expiries()?.into_iter().collect();
    for (at, _, key) in seen.expires.difference(&index) {
        let at = crate::time::text(*at);
        findings.add(
            "expiry",
            &format!("'{}' expires at {at}, and the index does not say so", shown::key(key)),
        )?;
    }
    Ok(())
}
