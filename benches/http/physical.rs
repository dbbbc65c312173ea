//! What the disk and the storage engine allow, with nothing of ours around them: appends made durable one by one, and
//! commits of several inserts straight on sled.
//!
//! sled's own flush is not durable on Linux: it calls `sync_file_range`. The library that this benchmark links defines
//! that symbol over `fdatasync`, and every commit here proves that it ran.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dynarust::storage::sync_calls;

use crate::options::Options;
use crate::shared::Failure;
use crate::shared::histogram::Histogram;
use crate::shared::machine::{self, Room};
use crate::shared::report::{Report, Table, median, rate_text, spread_text};
use crate::shared::request::{Random, key_text, value_text};
use crate::ways::{Store, Way};

/// Measures every limit once a round, and reports medians.
pub fn measure(options: &Options, room: &Room, report: &mut Report) -> Result<(), Failure> {
    let mut appends = Vec::new();
    let mut rewrites = Vec::new();
    let mut ways = vec![Vec::new(); Way::ALL.len()];
    let mut shaped = Vec::new();
    for _ in Way::ALL {
        let db = open(room.subdirectory("ways-")?.keep().as_path())?;
        shaped.push(Store::new(db, options.keys)?);
    }
    let value = value_text(options.value_bytes);
    let mut commits = vec![Vec::new(); COMMIT_SIZES.len()];
    let mut stores = Vec::new();
    for size in COMMIT_SIZES {
        stores.push(open(room.subdirectory(&format!("sled-{size}-"))?.keep().as_path())?);
    }
    for round in 0..options.rounds {
        let dir = room.subdirectory("append-")?;
        machine::wait_for_quiet(options.common.quiet);
        appends.push(append(&dir.path().join("growing"), options.duration())?);
        machine::wait_for_quiet(options.common.quiet);
        rewrites.push(rewrite(&dir.path().join("written"), options.duration())?);
        for (index, size) in COMMIT_SIZES.into_iter().enumerate() {
            machine::wait_for_quiet(options.common.quiet);
            commits[index].push(inserts(&stores[index], size, options, round as u64)?);
        }
        for (index, way) in Way::ALL.into_iter().enumerate() {
            machine::wait_for_quiet(options.common.quiet);
            let store = &mut shaped[index];
            ways[index].push(repeat(options.duration(), || {
                durably(|| store.commit(way, WAY_WRITES, value.as_bytes()))
            })?);
        }
    }
    let mut table = Table::new(&[
        "physical limit",
        "ops/s",
        "min to max",
        "commits/s",
        "p50 ms",
        "p99 ms",
        "CPU us/commit",
    ]);
    table.row(row("4 KiB append + fdatasync, growing file".to_owned(), 1, &appends));
    table.row(row("4 KiB write + fdatasync, file that has its blocks".to_owned(), 1, &rewrites));
    for (size, samples) in COMMIT_SIZES.into_iter().zip(&commits) {
        table.row(row(format!("sled alone, commits of {size}, each flushed and fdatasynced"), size, samples));
    }
    for (way, samples) in Way::ALL.into_iter().zip(&ways) {
        table.row(row(way.title().to_owned(), WAY_WRITES, samples));
    }
    report.section("What the machine can do");
    report.table(&table);
    Ok(())
}

/// One measurement of commits.
#[derive(Clone)]
struct Sample {
    commits_a_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

fn row(name: String, size: usize, samples: &[Sample]) -> Vec<String> {
    let rates: Vec<f64> = samples.iter().map(|s| s.commits_a_second).collect();
    let ops: Vec<f64> = rates.iter().map(|rate| rate * size as f64).collect();
    let of = |field: fn(&Sample) -> f64| format!("{:.2}", median(samples.iter().map(field)));
    vec![
        name,
        rate_text(median(ops.iter().copied())),
        spread_text(&ops),
        rate_text(median(rates)),
        of(|s| s.p50_ms),
        of(|s| s.p99_ms),
        rate_text(median(samples.iter().map(|s| s.cpu_us))),
    ]
}

fn append(file: &Path, time: Duration) -> Result<Sample, Failure> {
    let mut file = OpenOptions::new().create_new(true).append(true).open(file)?;
    let block = value_text(4096);
    repeat(time, || {
        file.write_all(block.as_bytes())?;
        file.sync_data()?;
        Ok(())
    })
}

/// Writes in a circle over blocks that are on the disk already: nothing about the file itself has to be made durable.
fn rewrite(file: &Path, time: Duration) -> Result<Sample, Failure> {
    let block = value_text(4096);
    let file = File::create_new(file)?;
    for index in 0..REWRITTEN_BLOCKS {
        file.write_all_at(block.as_bytes(), index * 4096)?;
    }
    file.sync_all()?;
    let mut index = 0;
    repeat(time, || {
        file.write_all_at(block.as_bytes(), index * 4096)?;
        file.sync_data()?;
        index = (index + 1) % REWRITTEN_BLOCKS;
        Ok(())
    })
}

/// A store as the node opens it: no flusher of its own, segments of 2 MiB.
fn open(dir: &Path) -> Result<sled::Db, Failure> {
    Ok(sled::Config::new().path(dir).segment_size(2 << 20).flush_every_ms(None).open()?)
}

/// Commits of so many inserts into one tree.
fn inserts(db: &sled::Db, size: usize, options: &Options, round: u64) -> Result<Sample, Failure> {
    let tree = db.open_tree("data")?;
    let mut random = Random::new(round);
    let mut value = value_text(options.value_bytes).into_bytes();
    repeat(options.duration(), || {
        for _ in 0..size {
            let counter = random.below(u64::MAX).to_be_bytes();
            let counted = counter.len().min(value.len());
            value[..counted].copy_from_slice(&counter[..counted]);
            tree.insert(key_text(random.below(options.keys)).as_bytes(), value.as_slice())?;
        }
        durably(|| {
            db.flush()?;
            Ok(())
        })
    })
}

/// Runs a flush, and refuses one that did not reach the disk.
fn durably(flush: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let syncs = sync_calls();
    flush()?;
    if sync_calls() == syncs {
        return Err("sled's flush ended without an fdatasync: the figures would be a lie".into());
    }
    Ok(())
}

/// Commits again and again until the time is over.
fn repeat(time: Duration, mut commit: impl FnMut() -> Result<(), Failure>) -> Result<Sample, Failure> {
    let mut latencies = Histogram::new();
    let cpu = machine::family_cpu();
    let start = Instant::now();
    let mut last = start;
    while last - start < time {
        commit()?;
        let now = Instant::now();
        latencies.record(now - last);
        last = now;
    }
    Ok(Sample {
        commits_a_second: latencies.total() as f64 / (last - start).as_secs_f64(),
        p50_ms: latencies.quantile_ms(0.5),
        p99_ms: latencies.quantile_ms(0.99),
        cpu_us: (machine::family_cpu() - cpu).as_secs_f64() * 1e6 / latencies.total() as f64,
    })
}

const REWRITTEN_BLOCKS: u64 = 4096;
const COMMIT_SIZES: [usize; 3] = [1, 64, 256];
/// Writes in a commit by which the ways of committing are compared.
const WAY_WRITES: usize = 64;
