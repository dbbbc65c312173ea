//! Opens a data directory, and proves that it holds what was committed before anybody reads it.
//!
//! A commit is plain inserts of one thread over several trees; after a crash sled gives back a *prefix* of them. The
//! order inside a unit (see `apply.rs`) makes every prefix either consistent or repairable here:
//!
//! 1. *rows, then pieces and entries*. A unit cut off here leaves rows beyond the summary's vector: its tail. They name the
//!    keys that it was about to change, and what lived there before. Nobody was told of it, so both keeping and dropping
//!    are right: the entries that came are kept; of the node's own events the rest are void, but their numbers are spent,
//!    and of other origins the rows go, for their events come again.
//! 2. *the summary*: vectors, clock, counts, digest. It names where its unit began.
//! 3. *garbage*: pieces and rows. A unit cut off here leaves some; they are dropped again.
//!
//! Then every entry is read and counted, and counts and digest must be what the summary says, corrected by the tail. This
//! finds what sled silently forgets when a part of its log is damaged.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::changes::{Changes, Kept, ROW_OVERHEAD_BYTES};
use super::codec::{self, Junk, REPAIR, Row, Summary};
use super::directory::Directory;
use super::disk::Disk;
use super::error::Error;
use super::manifest::State;
use super::progress::Progress;
use super::trees::{Trees, change_key, damaged_entry, meta, read_row};
use super::watchdog::Watchdog;
use super::{durable, migrate};
use crate::limits::LOCK_RETRY_MS;
use crate::replica::{Clock, Dot, Hlc, Kind, NodeId, Replica, Totals, Trees as _, Value, VersionVector};

/// A store as it was found.
pub struct Found {
    /// Its trees.
    pub trees: Trees,
    /// The replica as the last commit left it.
    pub replica: Replica,
    /// The rows of its log.
    pub changes: Changes,
    /// The cluster that it belongs to.
    pub cluster: u64,
    /// How far the commits got.
    pub progress: Progress,
    /// The number of the last repair row.
    pub repairs: u64,
}

/// Opens what is in the directory, or makes it with `fresh` ids of node and cluster; fills `changes`, which has no row.
pub fn open(
    directory: &mut Directory,
    (cache_bytes, disk): (u64, &Disk),
    changes: Changes,
    watchdog: &Watchdog,
    fresh: impl FnOnce() -> [u64; 2],
) -> Result<Found, Error> {
    let store = directory.store();
    let opened = open_unnamed(directory, (cache_bytes, disk), changes, watchdog, fresh);
    opened.map_err(|e| e.in_store(&store))
}

fn open_unnamed(
    directory: &mut Directory,
    (cache_bytes, disk): (u64, &Disk),
    changes: Changes,
    watchdog: &Watchdog,
    fresh: impl FnOnce() -> [u64; 2],
) -> Result<Found, Error> {
    let new = directory.manifest.state == State::Creating;
    if !new {
        directory.check()?;
    }
    directory.repair()?;
    let db = open_sled(directory, cache_bytes)?;
    watchdog.follow(&db);
    migrate::run(&db, directory, disk.reserve_bytes(), &|| watchdog.guard(|| db.flush()))?;
    let trees = Trees::of(db)?;
    if new {
        log::info!("making a new, empty store in {}", directory.shown());
        let [node, cluster] = fresh();
        trees.meta.insert(meta::NODE, &node.to_be_bytes())?;
        trees.meta.insert(meta::CLUSTER, &cluster.to_be_bytes())?;
        trees.meta.insert(meta::SUMMARY, codec::encode_summary(&Summary::default()))?;
    }
    watchdog.guard(|| prove_sync(&trees))?;
    let progress = Progress::open(directory.path(), new)?;
    let me = NodeId(trees.id(meta::NODE)?);
    let check = |found: &_| if new { Ok(()) } else { progress.check(found) };
    let (summary, changes) = recover(&trees, me, changes, check)?;
    watchdog.guard(|| trees.db.flush())?;
    progress.note(&summary.vv)?;
    progress.sync()?;
    directory.sync_names()?;
    let replica = Replica::resume(me, summary.vv, summary.floor, summary.clock, summary.totals);
    let repairs = summary.repairs;
    Ok(Found { cluster: trees.id(meta::CLUSTER)?, replica, changes, trees, progress, repairs })
}

pub fn open_sled(directory: &Directory, cache_bytes: u64) -> Result<sled::Db, Error> {
    open_sled_at(&directory.store(), directory.manifest.segment_bytes, cache_bytes)
}

/// The same of a store that is elsewhere, or makes it.
pub fn open_sled_at(path: &Path, segment_bytes: usize, cache_bytes: u64) -> Result<sled::Db, Error> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(segment_bytes)
        .cache_capacity(cache_bytes)
        // sled's own flusher swallows errors of fsync and churns an idle disk: every commit is flushed by us.
        .flush_every_ms(None)
        .use_compression(false);
    let deadline = Instant::now() + Duration::from_millis(LOCK_RETRY_MS);
    let written = std::fs::metadata(path.join("db")).is_ok_and(|db| db.len() > 0);
    loop {
        let (opened, reads) = durable::opening(|| config.open());
        match opened {
            Ok(_) if written && reads == 0 => {
                return Err(Error::Failed(
                    "sled does not read through pread64 in this build: a disk that fails would look like the end of the log"
                        .into(),
                ));
            }
            Ok(db) => return Ok(db),
            // sled's threads let go of the file a moment after the last handle went.
            Err(sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(sled::Error::Io(e)) if e.kind() == std::io::ErrorKind::StorageFull => {
                return Err(Error::Refused(format!(
                    "no room to open {}: free some space and start again",
                    path.display()
                )));
            }
            Err(sled::Error::Io(e)) => {
                return Err(Error::of_files("open", &path.join("db"), &e));
            }
            Err(e) => return Err(Error::Damaged(format!("{} does not open: {e}", path.display()))),
        }
    }
}

/// Writes, and sees that sled syncs through us; else nothing that follows would be durable.
fn prove_sync(trees: &Trees) -> Result<(), Error> {
    let before = durable::sync_calls();
    trees.meta.insert("sync proof", &before.to_be_bytes())?;
    trees.meta.insert("sync proof", &[])?;
    trees.db.flush()?;
    if durable::sync_calls() == before {
        return Err(Error::Failed(
            "sled does not sync through fdatasync in this build: nothing would be durable".into(),
        ));
    }
    Ok(())
}

/// Finishes or drops what a crash cut off, checks the whole, and leaves it consistent; the caller flushes.
fn recover(
    trees: &Trees,
    me: NodeId,
    mut changes: Changes,
    check_progress: impl FnOnce(&VersionVector) -> Result<(), Error>,
) -> Result<(Summary, Changes), Error> {
    let committed = trees.summary()?;
    // The summary itself must be there: a tail that reaches as far is no proof that its unit was ever whole.
    check_progress(&committed.vv)?;
    let mut summary = committed.clone();
    let Log { kept, mut last, mut tail, repairs } = read_log(trees, &committed)?;
    let seen = scan(trees, me)?;
    let mut expected = committed.totals;
    if !committed.counted {
        correct(&mut expected, &tail, trees)?;
    }
    let Totals { keys, versions, digest } = expected;
    if seen.totals != expected {
        return Err(Error::Damaged(format!(
            "the store holds {} keys, {} versions, digest {}; committed were {keys} keys, {versions} versions, digest {digest}",
            seen.totals.keys, seen.totals.versions, seen.totals.digest,
        )));
    }
    let ours = || tail.iter().filter(|row| row.first.origin == me);
    for row in ours() {
        summary.vv.raise(Dot::new(me, row.through));
    }
    summary.totals = seen.totals;
    if ours().next().is_some() {
        summary.clock = Clock::from(summary.clock.last().max(seen.latest));
    }
    if tail.iter().any(|row| row.forgot) {
        // What it was is not known: a higher floor only makes peers ask for more.
        summary.floor.join(&summary.vv);
    }
    if !tail.is_empty() {
        let events: usize = tail.iter().map(|row| row.events.len()).sum();
        log::info!("{events} writes were cut off under way; what had come of them is kept");
    }
    let mut stale = unbroken(&kept, &mut summary, &mut changes);
    stale.extend(repairs);
    summary.counted = true;
    // First the summary, as in a commit, for the case that the power goes in the middle of the garbage: it still names
    // where its unit began.
    let nothing_to_do = tail.is_empty() && stale.is_empty() && summary.floor == committed.floor;
    if !nothing_to_do {
        trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
    }
    last.append(&mut tail);
    drop_garbage(trees, &last)?;
    for first in stale {
        trees.changes.remove(change_key(first))?;
    }
    summary.counted = false;
    summary.unit = summary.vv.clone();
    if summary != committed {
        trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
    }
    Ok((summary, changes))
}

/// The rows of the log.
struct Log {
    /// All of them, by origin and seq.
    kept: Vec<Kept>,
    /// Those of the last unit that is complete: garbage of it may be left.
    last: Vec<Row>,
    /// Those beyond the summary: all of one unit that was cut off.
    tail: Vec<Row>,
    /// Names of repair rows, which always go: they are among the two before this as well.
    repairs: Vec<Dot>,
}

fn read_log(trees: &Trees, committed: &Summary) -> Result<Log, Error> {
    let mut log = Log { kept: Vec::new(), last: Vec::new(), tail: Vec::new(), repairs: Vec::new() };
    for item in trees.changes.iter() {
        let (key, bytes) = item?;
        let row = read_row(&key, &bytes)?;
        let bytes = bytes.len() + ROW_OVERHEAD_BYTES;
        if row.first.origin == REPAIR {
            log.repairs.push(row.first);
            let complete = row.first.seq <= committed.repairs;
            if complete {
                log.last.push(row)
            } else {
                log.tail.push(row)
            }
            continue;
        }
        // Whether forgetting has been there is not known.
        log.kept.push(Kept { first: row.first, through: row.through, bytes, leftover: true });
        if !committed.vv.covers(row.first) {
            log.tail.push(row);
        } else if !committed.unit.covers(row.first) {
            log.last.push(row);
        }
    }
    Ok(log)
}

/// What the totals are after so much of a unit as has come.
fn correct(totals: &mut Totals, tail: &[Row], trees: &Trees) -> Result<(), Error> {
    let mut told = HashSet::new();
    for event in tail.iter().flat_map(|row| &row.events) {
        let Some(before) = &event.before else { continue };
        if told.insert((event.kind, &event.key)) {
            totals.remove(event.kind, &event.key, before.iter().copied());
            totals.add(event.kind, &event.key, trees.entry(event.kind, &event.key)?.dots());
        }
    }
    Ok(())
}

/// Fills `changes` with the rows that stay: those that of each origin end without a break where its vector stands. The names
/// of the others come back. Who lacks what is not there must be swept: the floor says so.
fn unbroken(kept: &[Kept], summary: &mut Summary, changes: &mut Changes) -> Vec<Dot> {
    let mut stale = Vec::new();
    for rows in kept.chunk_by(|a, b| a.first.origin == b.first.origin) {
        let origin = rows[0].first.origin;
        let (rows, beyond) = rows.split_at(rows.partition_point(|row| summary.vv.covers(row.first)));
        let mut start = summary.vv.get(origin);
        let follows = |row: &&Kept| row.through == std::mem::replace(&mut start, row.first.seq - 1);
        let stay = rows.iter().rev().take_while(follows).count();
        let (gone, stay) = rows.split_at(rows.len() - stay);
        let start = stay.first().map_or(summary.vv.get(origin), |row| row.first.seq - 1);
        summary.floor.raise(Dot::new(origin, start));
        stay.iter().for_each(|row| changes.push(*row));
        stale.extend(gone.iter().chain(beyond).map(|row| row.first));
    }
    stale
}

/// What all entries together hold, and the latest stamp that this node gave.
struct Seen {
    totals: Totals,
    latest: Hlc,
}

/// Reads every entry: its check must hold.
fn scan(trees: &Trees, me: NodeId) -> Result<Seen, Error> {
    let mut totals = Totals::default();
    let mut latest = Hlc::default();
    let mut dots = Vec::new();
    for kind in [Kind::Data, Kind::Membership] {
        for item in trees.of_kind(kind).iter() {
            let (key, value) = item?;
            dots.clear();
            let read = codec::skim_entry(&key, &value, |dot, hlc| {
                dots.push(dot);
                if dot.origin == me {
                    latest = latest.max(hlc);
                }
            });
            read.map_err(|Junk| damaged_entry(kind, &key))?;
            totals.add(kind, &key, dots.iter().copied());
        }
    }
    Ok(Seen { totals, latest })
}

/// Drops the pieces that these rows tell of and no entry holds any more, or none came to hold.
fn drop_garbage(trees: &Trees, rows: &[Row]) -> Result<(), Error> {
    let (mut named, mut held) = (Vec::new(), HashSet::new());
    for row in rows {
        for event in &row.events {
            named.push(Dot::new(row.first.origin, event.seq));
            named.extend(event.before.iter().flatten().chain(&event.brought));
            // What is in the entry itself may have been put into pieces as well: a value more, and it had to move.
            let entry = trees.entry(event.kind, &event.key)?;
            let versions = entry.versions().iter();
            let chunked = versions.filter(|version| matches!(version.value, Value::Chunked { .. }));
            held.extend(chunked.map(|version| version.dot));
            named.extend(entry.dots());
        }
    }
    for dot in named.into_iter().filter(|dot| !held.contains(dot)) {
        trees.remove_pieces(dot)?;
    }
    Ok(())
}
