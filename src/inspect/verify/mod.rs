//! Does everything in a directory fit together? Each invariant that spans the trees, and what does not hold, with its place.
//!
//! What a node may rightly leave behind is no finding: a unit that was cut off, garbage that the next start drops, a torn end of
//! sled's log. What of those looks like what was lost, the counts of the last commit tell apart.

mod entries;
mod log;

use std::collections::HashSet;
use std::path::Path;

use serde_json::json;

use super::shown::Tone;
use super::{Error, Out};
use crate::replica::Totals;
use crate::storage::{self, About, Offline};
use crate::told::Told;
use entries::Seen;
use log::Log;

/// What was found so far.
pub struct Findings<'a, 'b> {
    out: &'a mut Out<'b>,
    count: u64,
}

impl Findings<'_, '_> {
    fn add(&mut self, place: &str, what: &str) -> Result<(), Error> {
        self.count += 1;
        match self.out.json {
            true => self.out.object(&json!({"place": place, "finding": what})),
            false => self.out.toned(Tone::Bad, &format!("{place}: {what}")),
        }
    }
}

/// Shows every finding, and how much was looked at; the exit code is 0 when there are none, else 1.
pub fn run(
    dir: &Path,
    open: impl FnOnce() -> Result<Offline, storage::Error>,
    out: &mut Out,
) -> Result<u8, Error> {
    let mut findings = Findings { out, count: 0 };
    files(dir, &mut findings)?;
    // sled may panic over what comes now.
    findings.out.to.flush()?;
    let read = open().map_err(Error::from).and_then(|store| trees(&store, &mut findings));
    let (read, why) = match read {
        // Of what does not open, that is the finding.
        Err(Error::Store(storage::Error::Damaged(why))) => (Read::default(), Some(why)),
        read => (read?, None),
    };
    if let Some(why) = why {
        findings.add("store", &why)?;
    }
    let (count, out) = (findings.count, findings.out);
    let Read { keys, versions, rows } = read;
    match out.json {
        true => out.object(&json!({
            "findings": count, "keys": keys, "versions": versions, "log_rows": rows, "sound": count == 0,
        }))?,
        false if count == 0 => {
            let sound = format!("sound: {keys} keys, {versions} versions, {rows} rows of the log");
            out.toned(Tone::Good, &sound)?;
        }
        false => out.line(&format!("{count} findings; {keys} keys, {versions} versions could be read"))?,
    }
    Ok(u8::from(count > 0))
}

/// How much was read.
#[derive(Default)]
struct Read {
    keys: u64,
    versions: u64,
    rows: u64,
}

/// What sled's own checks say of its log, and files that should not be there.
fn files(dir: &Path, findings: &mut Findings) -> Result<(), Error> {
    let mut told = Told::new("reading");
    for place in storage::bad_places(dir, &mut |done, of| told.copied(done, of))? {
        findings.add("store/db", &format!("{} bytes at {}: {}", place.bytes, place.offset, place.why))?;
    }
    for file in storage::blobs(dir)? {
        let what = "nothing may be here, for sled does not put it on the disk";
        findings.add(&format!("store/blobs/{file}"), what)?;
    }
    Ok(())
}

fn trees(store: &Offline, findings: &mut Findings) -> Result<Read, Error> {
    if let Some(why) = &store.refused {
        findings.add("store", why)?;
    }
    let about = store.about()?;
    let summary = &about.summary;
    for (what, vector) in
        [("forgotten", &summary.floor), ("said to be there before the last commit", &summary.unit)]
    {
        if !summary.vv.covers_all(vector) {
            findings.add("meta", &format!("more is {what} than is incorporated"))?;
        }
    }
    let mut log = Log::read(store, summary, findings)?;
    let seen = entries::read(store, &about, &mut log, findings)?;
    totals(store, &about, &log, &seen, findings)?;
    pieces(store, &seen, &log, findings)?;
    let events = summary.vv.iter().fold(0u64, |sum, dot| sum.wrapping_add(dot.seq));
    match about.witness {
        None => findings.add("PROGRESS", "it is missing or damaged")?,
        Some(witness) if witness > events => findings.add(
            "PROGRESS",
            &format!("{witness} events were committed, and the store holds {events}: it has fallen back"),
        )?,
        _ => {}
    }
    Ok(Read { keys: seen.totals.keys, versions: seen.totals.versions, rows: log.rows })
}

/// Each piece of a large value is one of a version that lives, or of one that the last unit put aside.
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
            None if !log.put_aside.contains(&dot) && told.replace(dot) != Some(dot) => {
                findings.add("pieces", &format!("pieces of {dot}, which does not live"))
            }
            _ => Ok(()),
        }
    })
}

/// Counts and digest, corrected by a unit that was cut off.
fn totals(
    store: &Offline,
    about: &About,
    log: &Log,
    seen: &Seen,
    findings: &mut Findings,
) -> Result<(), Error> {
    let summary = &about.summary;
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
    if seen.totals == expected {
        return Ok(());
    }
    findings.add(
        "meta",
        &format!(
            "{keys} keys, {versions} versions, digest {digest} are there; committed were {}, {} and {}",
            expected.keys, expected.versions, expected.digest
        ),
    )?;
    entries::unseen(store, about, log, findings)
}
