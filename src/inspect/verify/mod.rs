//! Does everything in a directory fit together? Each invariant that spans the trees, and what does not hold, with its place.
//!
//! What a node may rightly leave behind is no finding: a unit that was cut off, garbage that the next start drops, a torn end of
//! sled's log. What of those looks like what was lost, the counts of the last commit tell apart.

mod entries;
mod log;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::shown::Tone;
use super::{Error, Out, salvage};
use crate::exit::Exit;
use crate::replica::Totals;
use crate::storage::{self, About, Offline};
use crate::told::{self, Told};
use entries::Seen;
use log::Log;

/// What was found so far.
pub struct Findings<'a, 'b> {
    out: &'a mut Out<'b>,
    /// So many; shared with who must end all this when sled panics.
    count: Arc<AtomicU64>,
}

impl Findings<'_, '_> {
    fn add(&mut self, place: &str, what: &str) -> Result<(), Error> {
        self.count.fetch_add(1, Ordering::Relaxed);
        match self.out.json {
            true => self.out.object(&json!({"place": place, "finding": what}))?,
            false => self.out.toned(Tone::Bad, &format!("{place}: {what}"))?,
        }
        // sled may panic over what comes next, and then nothing is written any more.
        Ok(self.out.to.flush()?)
    }

    /// What it is that is damaged is the finding; then there is nothing more to go on with.
    fn or_add<T>(&mut self, place: &str, done: Result<T, storage::Error>) -> Result<Option<T>, Error> {
        match done {
            Err(storage::Error::Damaged(why)) => self.add(place, &why).map(|()| None),
            done => Ok(Some(done?)),
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many there are, and how much was looked at; `None`: not all of it.
    fn end(&mut self, read: Option<&Read>) -> Result<Exit, Error> {
        let (count, whole) = (self.count(), read.is_some());
        let Read { keys, versions, of_members, rows } = *read.unwrap_or(&Read::default());
        match self.out.json {
            true => self.out.object(&json!({
                "findings": count,
                "keys": keys,
                "versions": versions,
                "member_versions": of_members,
                "log_rows": rows,
                "complete": whole,
                "sound": count == 0,
            }))?,
            false => {
                let read = format!(
                    "{}, {} ({of_members} of members)",
                    told::count(keys, "key"),
                    told::count(versions, "version")
                );
                match (count, whole) {
                    (0, _) => {
                        let sound = format!("sound: {read}, {} of the log", told::count(rows, "row"));
                        self.out.toned(Tone::Good, &sound)?;
                    }
                    (_, true) => {
                        self.out.line(&format!("{}; {read} could be read", told::count(count, "finding")))?;
                    }
                    (_, false) => {
                        let found = told::count(count, "finding");
                        self.out.line(&format!("{found}; it could not be looked at any further"))?;
                    }
                }
            }
        }
        self.out.to.flush()?;
        Ok(if count == 0 { Exit::Stopped } else { Exit::Unforeseen })
    }
}

/// Shows every finding, and how much was looked at; the exit code is 0 when there are none, else 1.
pub fn run(
    dir: &Path,
    open: impl FnOnce() -> Result<Offline, storage::Error>,
    out: &mut Out,
) -> Result<u8, Error> {
    let mut findings = Findings { out, count: Arc::default() };
    end_on_panic(dir, &findings);
    let looked = look(dir, open, &mut findings);
    let read = match looked {
        // It is no answer to what was found already.
        Err(Error::Store(error)) if findings.count() > 0 => {
            let _ = writeln!(io::stderr(), "error: {error}");
            None
        }
        looked => looked?,
    };
    Ok(findings.end(read.as_ref())? as u8)
}

/// sled panics over some damage: that is a finding too, and the last one.
fn end_on_panic(dir: &Path, findings: &Findings) {
    let (shown, json, count) = (dir.display().to_string(), findings.out.json, findings.count.clone());
    storage::end_on_panic(move |why| {
        let what = format!(
            "the storage engine gives up on it ({why}): save what can be read with DynaRust inspect {shown} salvage --out FILE"
        );
        // stdout itself is locked by who waits for the thread that panics.
        let Ok(to) = io::stdout().as_fd().try_clone_to_owned() else { return Exit::Usage };
        let mut to = File::from(to);
        let mut out = Out::new(&mut to, json, 0);
        let mut findings = Findings { out: &mut out, count: count.clone() };
        let told = findings.add("store", &what).and_then(|()| findings.end(None));
        told.unwrap_or(Exit::Usage)
    });
}

/// How much was read.
#[derive(Default)]
struct Read {
    keys: u64,
    versions: u64,
    /// So many of the versions are records of members.
    of_members: u64,
    rows: u64,
}

/// `None`: something is so damaged that there is nothing to look into.
fn look(
    dir: &Path,
    open: impl FnOnce() -> Result<Offline, storage::Error>,
    findings: &mut Findings,
) -> Result<Option<Read>, Error> {
    let manifest = findings.or_add("MANIFEST", storage::served(dir))?;
    let mut there = manifest.is_some();
    for name in ["conf", "db"] {
        let path = dir.join("store").join(name);
        match fs::metadata(&path) {
            Ok(about) if about.len() > 0 => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(storage::Error::of_files("read", &path, &e).into());
            }
            _ => {
                findings.add(
                    &format!("store/{name}"),
                    "it is missing or empty, so no node opens the directory",
                )?;
                there = false;
            }
        }
    }
    if let Some(manifest) = manifest.as_ref().filter(|_| there) {
        let store = dir.join("store");
        there = findings.or_add("store/conf", storage::whole_conf(&store, manifest.segment_bytes))?.is_some();
    }
    for file in storage::blobs(dir)? {
        let what = "nothing may be here, for sled does not put it on the disk";
        findings.add(&format!("store/blobs/{file}"), what)?;
    }
    if manifest.is_some() {
        log_file(dir, findings)?;
    }
    if !there {
        return Ok(None);
    }
    match findings.or_add("store", open())? {
        None => Ok(None),
        Some(store) => match trees(&store, findings) {
            Err(Error::Store(error)) => findings.or_add("store", Err(error)),
            read => read.map(Some),
        },
    }
}

/// What sled's own checks say of its log.
fn log_file(dir: &Path, findings: &mut Findings) -> Result<(), Error> {
    let path = dir.join("store/db");
    let Some(end) = fs::metadata(&path).map(|about| about.len()).ok().filter(|bytes| *bytes > 0) else {
        return Ok(());
    };
    let mut told = Told::new("reading");
    let bad = storage::bad_places(dir, &mut |done, of| told.copied(done, of));
    let (places, lacking) = salvage::within(&findings.or_add("store/db", bad)?.unwrap_or_default(), end);
    for place in places {
        findings.add("store/db", &format!("{} bytes at {}: {}", place.bytes, place.offset, place.why))?;
    }
    if lacking > 0 {
        findings.add("store/db", &salvage::cut_off(end, lacking))?;
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
    let Totals { keys, versions, .. } = seen.totals;
    Ok(Read { keys, versions, of_members: seen.of_members, rows: log.rows })
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
