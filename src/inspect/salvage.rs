//! What can still be read of a directory, into a file: a line of JSON for each key, and a summary of what was skipped.
//!
//! The file has its name only when it is whole and on the disk. An existing one is never touched.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{Error, Out, shown};
use crate::cli;
use crate::limits::SALVAGE_SHOWN_MAX;
use crate::part::Part;
use crate::replica::{Entry, Kind, Member, NodeId, Records, Version};
use crate::storage::sledlog::BadPlace;
use crate::storage::{self, Incomplete, Salvage, Stale};
use crate::time;
use crate::told::{self, Told};

/// A key as it is written: what an import wants, and after that what only a salvage has to say.
#[derive(Serialize)]
struct Line<'a> {
    key: Cow<'a, str>,
    #[serde(flatten)]
    winner: Shown,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'static str>,
}

/// A version.
#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    version: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<Lacking>,
}

/// What a value lacks that is not there as a whole.
#[derive(Serialize)]
struct Lacking {
    bytes: u64,
    pieces: u32,
    missing: Vec<u32>,
}

/// What was written, and what was not.
#[derive(Default)]
struct Tally {
    keys: u64,
    conflicts: u64,
    expired: u64,
    deleted: u64,
    certain: u64,
    possible: u64,
    incomplete: u64,
    /// The first keys with a value that lacks something.
    lacking: Vec<String>,
}

/// Salvages a directory; the exit code is 0 when everything was read, else 1.
pub fn run(dir: &Path, flags: &cli::Salvage, out: &mut Out) -> Result<u8, Error> {
    let mut made = Made::new(dir, &flags.out)?;
    let salvage = {
        let mut told = Told::new("reading");
        Salvage::of(dir, &mut |done, of| told.copied(done, of))?
    };
    let tally = write(&salvage, out.now_ms, &mut made)?;
    made.finish()?;
    summary(&salvage, &tally, flags, out)?;
    let whole = salvage.proven && salvage.bad.is_empty() && tally.incomplete == 0;
    Ok(u8::from(!whole))
}

fn write(salvage: &Salvage, now_ms: u64, made: &mut Made) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    salvage.entries(Kind::Data, |key, entry, stale| {
        if entry.versions().is_empty() {
            tally.deleted += 1;
            return Ok::<_, Error>(());
        }
        let Some(line) = line(salvage, key, &entry, stale, now_ms) else {
            tally.expired += 1;
            return Ok(());
        };
        tally.keys += 1;
        tally.conflicts += u64::from(!line.conflicts.is_empty());
        match stale {
            Some(Stale::Certain) => tally.certain += 1,
            Some(Stale::Possible) => tally.possible += 1,
            None => {}
        }
        if line.winner.incomplete.is_some() || line.conflicts.iter().any(|other| other.incomplete.is_some()) {
            tally.incomplete += 1;
            if tally.lacking.len() < SALVAGE_SHOWN_MAX {
                tally.lacking.push(shown::key(key));
            }
        }
        made.line(&line)
    })?;
    Ok(tally)
}

/// A key with what a reader sees of it; `None` when that is nothing.
fn line<'a>(
    salvage: &Salvage,
    key: &'a [u8],
    entry: &Entry,
    stale: Option<Stale>,
    now_ms: u64,
) -> Option<Line<'a>> {
    let mut visible = entry.visible(now_ms).map(|version| version_of(salvage, version));
    Some(Line {
        key: String::from_utf8_lossy(key),
        winner: visible.next()?,
        conflicts: visible.collect(),
        stale: stale.map(|stale| match stale {
            Stale::Certain => "certain",
            Stale::Possible => "possible",
        }),
    })
}

fn version_of(salvage: &Salvage, version: &Version) -> Shown {
    let text = salvage.text(version);
    let (value, incomplete) = match text.map(|text| (text.len() as u64, one_line(text))) {
        Ok((_, Some(value))) => (Some(value), None),
        // Its check holds, and it is no JSON: it was damaged before it was written.
        Ok((bytes, None)) => (None, Some(Lacking { bytes, pieces: 1, missing: vec![0] })),
        Err(Incomplete { missing, pieces }) => {
            (None, Some(Lacking { bytes: version.value.bytes(), pieces, missing }))
        }
    };
    Shown {
        value,
        expires_at: version.expires_at_ms.map(time::text),
        version: version.dot.to_string(),
        updated_at: time::text(version.hlc.ms()),
        incomplete,
    }
}

/// The text as it was written, digit for digit, but on one line: only white space between its parts can break it.
fn one_line(mut text: Vec<u8>) -> Option<Box<RawValue>> {
    text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    RawValue::from_string(String::from_utf8(text).ok()?).ok()
}

fn summary(salvage: &Salvage, tally: &Tally, flags: &cli::Salvage, out: &mut Out) -> Result<(), Error> {
    let names = salvage.names_only();
    let mut members = BTreeMap::new();
    salvage.entries(Kind::Membership, |key, entry, _| {
        let id = key.try_into().map(|id| NodeId(u64::from_be_bytes(id)).to_string());
        let record = |version: &Version| Some((version.dot, Member::of(&salvage.text(version).ok()?)));
        let records = Records::new(entry.versions().iter().filter_map(record).collect());
        if let (Ok(id), Some(record)) = (id, records.standing()) {
            members.insert(id, record.address);
        }
        Ok::<_, Error>(())
    })?;
    let read = &salvage.read;
    let (places, lacking) = within(&salvage.bad, read.bytes);
    let bad_bytes: u64 = places.iter().map(|place| place.bytes).sum();
    let events: Option<u64> =
        salvage.summary().map(|last| last.vv.iter().fold(0u64, |sum, dot| sum.saturating_add(dot.seq)));
    if out.json {
        let bad: Vec<_> = places
            .iter()
            .take(SALVAGE_SHOWN_MAX)
            .map(|place| json!({"offset": place.offset, "bytes": place.bytes, "why": place.why}))
            .collect();
        let first: Vec<String> = names.iter().take(SALVAGE_SHOWN_MAX).map(|key| shown::key(key)).collect();
        return out.object(&json!({
            "out": flags.out,
            "segments": {"there": read.segments, "read": read.readable, "blank": read.blank, "bytes": read.segment_bytes},
            "bytes": read.bytes,
            "records": read.records,
            "bad_places": {"count": places.len(), "bytes": bad_bytes, "first": bad},
            "cut_off": (lacking > 0).then(|| json!({"at": read.bytes, "missing": lacking})),
            "keys": tally.keys,
            "conflicts": tally.conflicts,
            "deleted": tally.deleted,
            "expired": tally.expired,
            "stale": {"certain": tally.certain, "possible": tally.possible},
            "incomplete": {"count": tally.incomplete, "first": tally.lacking},
            "known_by_name_only": {"count": names.len(), "first": first},
            "members": members,
            "events": events,
            "proven": salvage.proven,
        }));
    }
    out.line(&format!(
        "read        {} of {} segments, {} of them blank; {} records hold",
        read.readable, read.segments, read.blank, read.records
    ))?;
    if lacking > 0 {
        out.line(&format!("cut off     {}", cut_off(read.bytes, lacking)))?;
    }
    out.line(&format!("bad places  {} with {}", places.len(), told::bytes(bad_bytes)))?;
    for place in places.iter().take(SALVAGE_SHOWN_MAX) {
        out.line(&format!("            {} bytes at {}: {}", place.bytes, place.offset, place.why))?;
    }
    more(places.len(), out)?;
    out.line(&format!("keys        {} written to {}", tally.keys, flags.out.display()))?;
    out.line(&format!("conflicts   {} of them have siblings", tally.conflicts))?;
    out.line(&format!("not shown   {} deleted, {} expired", tally.deleted, tally.expired))?;
    out.line(&format!("stale       {} for certain, {} possibly", tally.certain, tally.possible))?;
    out.line(&format!("incomplete  {} written without their value", tally.incomplete))?;
    for key in &tally.lacking {
        out.line(&format!("            {key}"))?;
    }
    more(tally.incomplete as usize, out)?;
    out.line(&format!("by name     {} keys of which nothing else is left", names.len()))?;
    for key in names.iter().take(SALVAGE_SHOWN_MAX) {
        out.line(&format!("            {}", shown::key(key)))?;
    }
    more(names.len(), out)?;
    for (id, address) in &members {
        out.line(&format!("member      {id} at {address}"))?;
    }
    out.line(match (salvage.proven, events) {
        (true, _) => {
            "proof       counts and digest are those of the last commit: no key is missing, none is old"
        }
        (false, Some(_)) => "proof       none: what was found is not what the last commit counted",
        (false, None) => "proof       none: no commit's counts were found",
    })
}

/// The bad places as far as the file goes, and how many bytes more it should have.
pub fn within(bad: &[BadPlace], end: u64) -> (Vec<BadPlace>, u64) {
    let lacking = bad.iter().map(|place| (place.offset + place.bytes).saturating_sub(end)).max();
    let there = bad.iter().filter(|place| place.offset < end).cloned();
    let there = there.map(|place| BadPlace { bytes: place.bytes.min(end - place.offset), ..place });
    (there.collect(), lacking.unwrap_or(0))
}

/// That the file lacks its end, in words.
pub fn cut_off(end: u64, lacking: u64) -> String {
    format!(
        "the file ends after {end} bytes, in the middle of a segment: {} more should follow",
        told::count(lacking, "byte")
    )
}

/// So many there are, and the first were shown.
fn more(count: usize, out: &mut Out) -> Result<(), Error> {
    match count.saturating_sub(SALVAGE_SHOWN_MAX) {
        0 => Ok(()),
        more => out.line(&format!("            and {more} more")),
    }
}

/// The file that is being written.
struct Made {
    to: BufWriter<File>,
    part: Part,
    path: PathBuf,
}

/// This file can't be made.
fn refuse(path: &Path, why: &dyn std::fmt::Display) -> Error {
    storage::Error::Refused(format!("can't write {}: {why}", path.display())).into()
}

impl Made {
    fn new(dir: &Path, path: &Path) -> Result<Made, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let inside = |folder: &Path| Some(folder.canonicalize().ok()?.starts_with(dir.canonicalize().ok()?));
        if inside(folder) == Some(true) {
            return Err(refuse(path, &"it is in the directory that is salvaged; give another --out"));
        }
        let begun = Part::begin(path).and_then(|part| Ok((part.file().try_clone()?, part)));
        let (file, part) = begun.map_err(|e| refuse(path, &e))?;
        Ok(Made { to: BufWriter::new(file), part, path: path.to_owned() })
    }

    fn line(&mut self, line: &Line) -> Result<(), Error> {
        let written = serde_json::to_writer(&mut self.to, line).map_err(io::Error::from);
        written.and_then(|()| self.to.write_all(b"\n")).map_err(|e| refuse(&self.path, &e))
    }

    fn finish(mut self) -> Result<(), Error> {
        let written = self.to.flush();
        written.and_then(|()| self.part.finish()).map_err(|e| refuse(&self.path, &e))
    }
}
