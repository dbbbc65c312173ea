//! Opens a data directory, and proves that it holds what was committed before anybody reads it.
//!
//! A commit is plain inserts of one thread over several trees; after a crash sled gives back a *prefix* of them. The
//! order inside a unit of writing (see the committer) makes every prefix either consistent or repairable here:
//!
//! 1. *rows, chunks and entries*, key by key, a row before its entry. A unit cut off here leaves rows beyond the
//!    summary's vector: its tail. Nobody was told of it, so both keeping and dropping it are right: what was applied is
//!    kept, a last row whose entry never came is dropped.
//! 2. *the summary*: vectors, clock, counts, digest. It names where its unit began.
//! 3. *garbage*: superseded rows, chunks and index rows. A unit cut off here leaves some; they are dropped again.
//!
//! Then every entry is read and counted, and counts and digest must be what the summary says, corrected by the tail: a row
//! tells which versions lived before it. This finds what sled silently forgets when a part of its log is damaged.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::codec::{self, Junk, Row, Summary};
use super::directory::{Directory, State};
use super::error::Error;
use super::progress::Progress;
use super::trees::{Trees, damaged_entry, meta};
use super::{durable, migrate};
use crate::limits::LOCK_RETRY_MS;
use crate::replica::{Clock, Dot, Hlc, Kind, NodeId, Replica, Totals, Value, Version, VersionVector};

/// A store as it was found.
pub struct Found {
    /// Its trees.
    pub trees: Trees,
    /// The replica as the last commit left it.
    pub replica: Replica,
    /// The cluster that it belongs to.
    pub cluster: u64,
    /// How far the commits got.
    pub progress: Progress,
}

/// Opens what is in the directory, or makes it with `fresh` ids of node and cluster.
pub fn open(
    directory: &mut Directory,
    cache_bytes: u64,
    fresh: impl FnOnce() -> [u64; 2],
) -> Result<Found, Error> {
    directory.repair()?;
    let db = open_sled(directory, cache_bytes)?;
    let new = directory.manifest.state == State::Creating;
    migrate::run(&db, if new { 0 } else { directory.manifest.format })?;
    let trees = Trees::of(db)?;
    if new {
        let [node, cluster] = fresh();
        trees.meta.insert(meta::NODE, &node.to_be_bytes())?;
        trees.meta.insert(meta::CLUSTER, &cluster.to_be_bytes())?;
        trees.meta.insert(meta::SUMMARY, codec::encode_summary(&Summary::default()))?;
    }
    prove_sync(&trees)?;
    let progress = Progress::open(directory.path(), new)?;
    let me = NodeId(trees.id(meta::NODE)?);
    let summary = recover(&trees, me, |found| if new { Ok(()) } else { progress.check(found) })?;
    progress.note(&summary.vv)?;
    progress.sync()?;
    directory.sync_names()?;
    if new || directory.manifest.format != migrate::NEWEST {
        directory.ready()?;
    }
    let replica = Replica::resume(me, summary.vv, summary.floor, summary.clock, summary.totals);
    Ok(Found { cluster: trees.id(meta::CLUSTER)?, replica, trees, progress })
}

fn open_sled(directory: &Directory, cache_bytes: u64) -> Result<sled::Db, Error> {
    let path = directory.store();
    read_through(&path.join("db"))?;
    let config = sled::Config::new()
        .path(&path)
        .segment_size(directory.manifest.segment_bytes)
        .cache_capacity(cache_bytes)
        // sled's own flusher swallows errors of fsync and churns an idle disk: every commit is flushed by us.
        .flush_every_ms(None)
        .use_compression(false);
    let deadline = Instant::now() + Duration::from_millis(LOCK_RETRY_MS);
    loop {
        match config.open() {
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
                return Err(Error::Failed(format!("can't open {}: {e}", path.display())));
            }
            Err(e) => return Err(Error::Damaged(format!("{} does not open: {e}", path.display()))),
        }
    }
}

/// Reads the whole log once. sled takes a read error for the end of its log, and wipes what lies behind it: an error that
/// may pass must be met by somebody who changes nothing.
fn read_through(db: &Path) -> Result<(), Error> {
    let read = std::fs::File::open(db).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    match read {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Failed(format!("can't read {}: {e}", db.display())))
        }
        _ => Ok(()),
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

/// Finishes or drops what a crash cut off, checks the whole, and leaves it consistent on the disk.
fn recover(
    trees: &Trees,
    me: NodeId,
    check_progress: impl FnOnce(&VersionVector) -> Result<(), Error>,
) -> Result<Summary, Error> {
    let mut summary = trees.summary()?;
    let committed = summary.clone();
    let tail = tail(trees, &summary, me)?;
    let seen = scan(trees, me)?;
    let mut expected = committed.totals;
    let mut corrected = BTreeSet::new();
    for (dot, row) in &tail {
        // The first row of a key tells what lived there when the unit began.
        if corrected.insert((row.kind, row.key.clone())) {
            expected.remove(row.kind, &row.key, row.before.iter().copied());
            expected.add(row.kind, &row.key, trees.entry(row.kind, &row.key)?.dots());
        }
        if dot.origin == me {
            summary.vv.raise(*dot);
            // What the tail forgot is not known to the last: a higher floor only makes peers ask for more.
            summary.floor.raise(*dot);
            row.before.iter().for_each(|&dot| summary.floor.raise(dot));
        }
    }
    if seen.totals != expected {
        return Err(Error::Damaged(format!(
            "the store holds {} keys, {} versions, digest {}; committed were {} keys, {} versions, digest {}",
            seen.totals.keys,
            seen.totals.versions,
            seen.totals.digest,
            expected.keys,
            expected.versions,
            expected.digest
        )));
    }
    check_progress(&summary.vv)?;
    summary.totals = seen.totals;
    if tail.iter().any(|(dot, _)| dot.origin == me) {
        summary.clock = Clock::from(summary.clock.last().max(seen.latest));
    }
    if !tail.is_empty() {
        log::info!("{} writes that were cut off under way are kept", tail.len());
    }
    // First the summary, as in a commit: a tail that has lost rows would explain its entries wrongly the next time. It
    // still names where its unit began, for the case that the power goes in the middle of the garbage.
    if summary != committed {
        trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
    }
    drop_garbage(trees, &committed, &summary, &tail)?;
    summary.unit = summary.vv.clone();
    if summary != committed {
        trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
        trees.db.flush()?;
    }
    Ok(summary)
}

/// The rows beyond the summary, in order; a last row of ours whose entry never came is dropped.
fn tail(trees: &Trees, summary: &Summary, me: NodeId) -> Result<Vec<(Dot, Row)>, Error> {
    let mut tail = Vec::new();
    let mut next = trees.origin_from(NodeId(0))?;
    while let Some(origin) = next {
        for row in trees.rows_after(origin, summary.vv.get(origin)) {
            tail.push(row?);
        }
        next = match origin.0.checked_add(1) {
            Some(above) => trees.origin_from(NodeId(above))?,
            None => None,
        };
    }
    if let Some(last) = tail.iter().rposition(|(dot, _)| dot.origin == me) {
        let (dot, row) = &tail[last];
        let entry = trees.entry(row.kind, &row.key)?;
        let deleted = entry.is_gone() && !row.before.is_empty();
        if !entry.context().covers(*dot) && !deleted {
            trees.remove_chunks(*dot)?;
            // The entry was to become too large for its leaf: what was put aside for that is still in it as well.
            let inline = |version: &&Version| matches!(version.value, Value::Inline(_));
            for version in entry.versions().iter().filter(inline) {
                trees.remove_chunks(version.dot)?;
            }
            trees.changes.remove(super::trees::change_key(*dot))?;
            tail.remove(last);
        }
    }
    Ok(tail)
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
    for kind in [Kind::Data, Kind::Membership] {
        for item in trees.of_kind(kind).iter() {
            let (key, value) = item.map_err(|e| Error::Damaged(format!("the store can't be read: {e}")))?;
            let entry = codec::decode_entry(&key, &value).map_err(|Junk| damaged_entry(kind, &key))?;
            totals.add(kind, &key, entry.dots());
            let ours = entry.versions().iter().filter(|version| version.dot.origin == me);
            latest = ours.map(|version| version.hlc).fold(latest, Ord::max);
        }
    }
    Ok(Seen { totals, latest })
}

/// Drops what the last unit superseded and may not have got to drop.
fn drop_garbage(
    trees: &Trees,
    committed: &Summary,
    summary: &Summary,
    tail: &[(Dot, Row)],
) -> Result<(), Error> {
    let mut rows = tail.to_vec();
    for Dot { origin, seq } in committed.vv.iter() {
        for row in trees.rows_after(origin, committed.unit.get(origin)) {
            let (dot, row) = row?;
            if dot.seq > seq {
                break;
            }
            rows.push((dot, row));
        }
    }
    for (dot, row) in rows {
        let entry = trees.entry(row.kind, &row.key)?;
        for old in row.before.iter().copied().chain([dot]).filter(|&old| !entry.holds(old)) {
            trees.remove_chunks(old)?;
            // What somebody may still need is above the floor.
            if summary.floor.covers(old) {
                trees.changes.remove(super::trees::change_key(old))?;
            }
        }
    }
    Ok(())
}
