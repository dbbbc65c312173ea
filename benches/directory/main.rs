//! What it takes to look into a directory, to move what is in it, and to bring it back, measured: import, export, backup beside
//! writers, restore, inspect, salvage, compact, all as the commands that people run.
//!
//! `cargo bench --bench directory` measures, `cargo bench --bench directory -- --help` lists the flags. Started without any
//! argument (as `cargo test --benches` does) it goes through all of it with a few keys, which is the check of it.
//!
//! Invariants:
//! 1. A command that fails, or a key that is not there afterwards, and the run ends with a failure.
//! 2. Nothing is measured on tmpfs, and every process that is started here is gone when the run ends.

mod backup;
mod command;
mod options;
#[path = "../shared/mod.rs"]
mod shared;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;

use backup::Felt;
use command::{Ran, run};
use options::Options;
use shared::Failure;
use shared::child::Server;
use shared::client::Client;
use shared::machine::{self, Room};
use shared::report::{Report, Table, median, rate_text};

/// As in the node, so that a ratio tells of the node and not of the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let few = ["bench", "--rounds", "1", "--scale-keys", "3000", "--before-seconds", "0.2", "--pace", "100"];
    let checks = std::env::args_os().len() == 1;
    let options = if checks { Options::parse_from(few) } else { Options::parse() };
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    options.check()?;
    let room = Room::new(&options.common.dir, "bench-directory-")?;
    let mut report = Report::new();
    machine::describe("directory", &room, &mut report);
    report.line(&format!(
        "{} keys with values of {} bytes; medians of {} rounds, each with a node of its own.",
        rate_text(options.scale_keys as f64),
        options.value_bytes,
        options.rounds
    ));
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        rounds.push(one(options, &room, round)?);
    }
    report.section("Directory");
    let mut table = Table::new(&["what", "seconds", "keys/s", "memory at most"]);
    for (at, (what, _)) in rounds[0].ran.iter().enumerate() {
        let seconds = median(rounds.iter().map(|round| round.ran[at].1.seconds));
        let memory = median(rounds.iter().map(|round| round.ran[at].1.memory_mib));
        let rate = rate_text(options.scale_keys as f64 / seconds);
        table.row(vec![(*what).to_owned(), format!("{seconds:.2}"), rate, format!("{memory:.0} MiB")]);
    }
    report.table(&table);
    report.line("");
    let size =
        |of: fn(&Sizes) -> f64| format!("{:.0} MiB", median(rounds.iter().map(|round| of(&round.sizes))));
    report.line(&format!(
        "On the disk: the directory {}, compacted {}, restored {}; the export {}, the backup {}.",
        size(|s| s.directory),
        size(|s| s.compacted),
        size(|s| s.restored),
        size(|s| s.export),
        size(|s| s.backup)
    ));
    let felt: Vec<&Felt> = rounds.iter().map(|round| &round.felt).collect();
    backup::tell(options, &felt, &mut report);
    options.common.keep(&report)?;
    Ok(())
}

/// What one round gave.
struct Round {
    ran: Vec<(&'static str, Ran)>,
    sizes: Sizes,
    felt: Felt,
}

/// MiB on the disk, the ballast of 8 MiB with it.
struct Sizes {
    directory: f64,
    compacted: f64,
    restored: f64,
    export: f64,
    backup: f64,
}

/// A directory's life: filled, read, backed up while it is written to, stopped, looked into, restored, made small.
fn one(options: &Options, room: &Room, round: usize) -> Result<Round, Failure> {
    let place = room.subdirectory("round-")?;
    let at = |name: &str| place.path().join(name);
    let mut ran = Vec::new();
    let mut note = |what: &'static str, one: Ran| {
        eprintln!("round {round}: {what}: {:.2} s, {:.0} MiB", one.seconds, one.memory_mib);
        ran.push((what, one));
    };
    let time = |arguments: &[&str], from: Option<&Path>, to: Option<&Path>| {
        machine::wait_for_quiet(options.common.quiet);
        run(arguments, from, to)
    };
    let (dir, restored, export) = (at("data"), at("restored"), at("export.ndjson"));
    let (backup_file, salvaged) = (at("backup"), at("salvaged.ndjson"));
    let dir_text = text(&dir)?;
    write_keys(options, &at("keys.ndjson"))?;

    let mut node = start(&dir)?;
    let url = node.address.to_string();
    note("import, into a node", time(&["import", &url], Some(&at("keys.ndjson")), None)?);
    has_all(&node, options)?;
    note("export, of a node", time(&["export", &url], None, Some(&export))?);
    machine::wait_for_quiet(options.common.quiet);
    let (backed_up, felt) = backup::beside_writers(options, &node, &backup_file)?;
    note("backup, beside writers", backed_up);
    node.stop()?;

    for (what, arguments) in [
        ("inspect summary", &["summary"][..]),
        ("inspect verify", &["verify"]),
        ("inspect keys", &["keys", "--json"]),
        ("inspect salvage", &["salvage", "--out", text(&salvaged)?]),
    ] {
        note(what, time(&[&["inspect", dir_text], arguments].concat(), None, None)?);
    }
    note("export, of a directory", time(&["export", dir_text], None, Some(&export))?);
    for file in [&export, &salvaged] {
        let lines = std::fs::read(file)?.iter().filter(|byte| **byte == b'\n').count() as u64;
        if lines < options.scale_keys {
            return Err(format!("{} has only {lines} lines", file.display()).into());
        }
    }
    note("restore", time(&["restore", text(&backup_file)?, "--data-dir", text(&restored)?], None, None)?);
    has_all(&start(&restored)?, options)?;
    let directory = machine::disk_mib(&dir);
    note("compact", time(&["compact", dir_text], None, None)?);
    has_all(&start(&dir)?, options)?;
    let mib = |path: &Path| Ok::<_, Failure>(std::fs::metadata(path)?.len() as f64 / f64::from(1 << 20));
    let sizes = Sizes {
        directory,
        compacted: machine::disk_mib(&dir),
        restored: machine::disk_mib(&restored),
        export: mib(&export)?,
        backup: mib(&backup_file)?,
    };
    Ok(Round { ran, sizes, felt })
}

fn start(dir: &Path) -> Result<Server, Failure> {
    Server::start_serving(Command::new(env!("CARGO_BIN_EXE_DynaRust")).args([
        "127.0.0.1:0",
        "--data-dir",
        text(dir)?,
    ]))
}

/// The node shows every key.
fn has_all(node: &Server, options: &Options) -> Result<(), Failure> {
    let keys = Client::open(node.address)?.stats()?["keys"].as_u64();
    match keys == Some(options.scale_keys) {
        true => Ok(()),
        false => Err(node.complaint(&format!("shows {keys:?} keys, not {}", options.scale_keys))),
    }
}

/// What is imported: under the names that the writers use.
fn write_keys(options: &Options, file: &Path) -> Result<(), Failure> {
    let mut out = BufWriter::new(File::create(file)?);
    let fill = options.value_bytes - VALUE_DIGITS;
    for key in 0..options.scale_keys {
        writeln!(out, r#"{{"key":"key:{key:012}","value":"{key:012}{:x<fill$}"}}"#, "")?;
    }
    Ok(out.flush()?)
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| format!("{} is no text", path.display()).into())
}

/// Each value begins with a number of that many digits.
pub const VALUE_DIGITS: usize = 12;
