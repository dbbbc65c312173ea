//! What two nodes' directories hold otherwise, key by key, and which of the two is ahead.
//!
//! Who is ahead, and whether that can be, `replica/compare.rs` says; here it is told. "Here" is the first directory, "there" the
//! other one. Both are read as private copies; neither is changed, and nothing of them is in memory but an entry of each.

mod sum;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::shown::Tone;
use super::{Error, Out};
use crate::cli;
use crate::exit::Exit;
use crate::replica::{Kind, VersionVector};
use crate::storage::{self, About, Offline};
use crate::told::Told;
use walk::Walk;

/// The exit code of two of which something can't be compared.
pub const INCOMPARABLE: Exit = Exit::Usage;

/// One of the two directories.
struct Directory<'a> {
    path: &'a Path,
    store: Offline,
    about: About,
}

/// Which of the two is being read, for when sled panics over it.
struct Reading(Arc<AtomicUsize>);

impl Reading {
    /// From now on a panic is damage of the one that is being read.
    fn of(dirs: [PathBuf; 2]) -> Reading {
        let reading = Reading(Arc::default());
        let which = reading.0.clone();
        storage::panics_are_told(INCOMPARABLE, move || dirs[which.load(Ordering::Relaxed)].clone());
        reading
    }

    fn set(&self, which: usize) {
        self.0.store(which, Ordering::Relaxed);
    }
}

/// Shows what differs; comes back with the exit code. The private copies have `names` that nothing else has.
pub fn run(
    dir: &Path,
    flags: &cli::Diff,
    (work_dir, names): (&Path, [u64; 2]),
    out: &mut Out,
) -> Result<u8, Error> {
    let other = flags.other.as_path();
    // Before the first one is copied, which may take its time.
    for place in [dir, other] {
        let why = match std::fs::metadata(place) {
            Ok(about) if about.is_dir() => continue,
            Ok(_) => "it is no directory".into(),
            Err(e) => e.to_string(),
        };
        let what = format!("can't look into {}: {why}; give the data directory of a node", place.display());
        return Err(Error::Usage(what));
    }
    storage::served(other)?;
    if let (Ok(one), Ok(two)) = (dir.canonicalize(), other.canonicalize())
        && one == two
    {
        // Whoever was told that they are alike would take it for news of two nodes.
        let twice =
            format!("{} and {} are one directory: give another node's", dir.display(), other.display());
        return Err(storage::Error::Refused(twice).into());
    }
    let reading = Reading::of([dir.to_owned(), other.to_owned()]);
    let open = |which: usize, path, another| {
        reading.set(which);
        let mut told = Told::new("copying");
        let told = &mut |done, of| told.copied(done, of);
        let store = Offline::open_before(path, another, (work_dir, names[which]), told)?;
        let about = store.about().map_err(|e| e.in_store(path))?;
        Ok::<_, Error>(Directory { path, store, about })
    };
    let sides = [open(0, dir, Some(other))?, open(1, other, None)?];
    if !out.json {
        head(&sides, out)?;
    }
    let mut walk = Walk::new(&sides, reading, flags.limit);
    walk.kind(Kind::Data, flags.prefix.as_deref().unwrap_or_default().as_bytes(), out)?;
    if flags.prefix.is_none() {
        walk.kind(Kind::Membership, &[], out)?;
    }
    let sum = walk.end(out)?;
    match out.json {
        true => out.object(&sum.object(&sides))?,
        false => sum.show(flags.prefix.as_deref(), out)?,
    }
    Ok(sum.exit())
}

/// Who the two are, and which of them has events that the other lacks.
fn head(sides: &[Directory; 2], out: &mut Out) -> Result<(), Error> {
    let [here, there] = sides;
    for (name, side) in [("here", here), ("there", there)] {
        let cluster = match side.about.cluster.0 {
            0 => "no cluster".into(),
            _ => format!("cluster {}", side.about.cluster),
        };
        let (path, node) = (side.path.display(), side.about.node);
        out.line(&format!(
            "{name:<8} {path}: node {node}, {cluster}, format {}",
            side.store.manifest.format
        ))?;
    }
    if here.about.node == there.about.node {
        out.line("nodes    one and the same: one of the directories is a copy of the other")?;
    }
    if here.about.cluster != there.about.cluster {
        let what = "clusters two: neither has ever been told what the other holds; compared all the same";
        out.toned(Tone::Bad, what)?;
    }
    let (one, two) = (&here.about.summary, &there.about.summary);
    let (more, less) = (beyond(&one.vv, &two.vv), beyond(&two.vv, &one.vv));
    let events = match (more.is_empty(), less.is_empty()) {
        (true, true) => "both have the same".into(),
        (false, true) => format!("here is ahead: {}", lacks("there", &more)),
        (true, false) => format!("here is behind: {}", lacks("here", &less)),
        (false, false) => {
            format!("each has what the other lacks: {}; {}", lacks("there", &more), lacks("here", &less))
        }
    };
    out.line(&format!("events   {events}"))?;
    let (tone, digests) = match (one.totals.digest == two.totals.digest, one.vv == two.vv) {
        (true, _) => (Tone::Plain, "the same"),
        (false, false) => (Tone::Plain, "not the same"),
        (false, true) => (Tone::Bad, "not the same, though both have the same events"),
    };
    out.toned(tone, &format!("digests  {digests}"))?;
    out.line("")
}

/// How many events of which origin one vector covers that the other does not.
fn beyond(one: &VersionVector, other: &VersionVector) -> BTreeMap<String, u64> {
    let more = one.iter().map(|dot| (dot.origin.to_string(), dot.seq.saturating_sub(other.get(dot.origin))));
    more.filter(|(_, more)| *more > 0).collect()
}

fn lacks(who: &str, events: &BTreeMap<String, u64>) -> String {
    let of: Vec<String> = events.iter().map(|(origin, more)| format!("{more} of {origin}")).collect();
    let total = events.values().fold(0u64, |sum, more| sum.saturating_add(*more));
    format!("{who} lacks {total} events ({})", of.join(", "))
}
