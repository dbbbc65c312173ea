//! What a user of several nodes feels, measured: how soon a write is seen elsewhere, what a copy on a second disk costs, how
//! fast a member catches up, how long a new one takes, what many cost; next to Redis with replicas and to etcd.
//!
//! `cargo bench --bench cluster` measures, `cargo bench --bench cluster -- --help` lists the flags. Started without any
//! argument (as `cargo test --benches` does) it checks its own instruments instead.
//!
//! Invariants:
//! 1. Contestants take turns round by round, so that the noise of the machine hits all alike; only ratios count.
//! 2. Nothing is measured on tmpfs, and every process that is started here is gone when the run ends.
//! 3. One answer that is not 200 or 201, or one broken connection, and the run ends with a failure.

mod catch_up;
mod cluster;
mod join;
mod members;
mod options;
mod put;
mod selfcheck;
#[path = "../shared/mod.rs"]
mod shared;
mod visibility;

use std::process::ExitCode;

use clap::Parser;

use options::{Options, Subject};
use shared::Failure;
use shared::machine;
use shared::report::Report;

/// As in the node, so that a ratio tells of the node and not of the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let run = if std::env::args_os().len() == 1 { selfcheck::run() } else { measure(&Options::parse()) };
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("FAILED: there were wrong answers, broken connections or too few copies; see above");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; `false` when anything was answered wrongly.
fn measure(options: &Options) -> Result<bool, Failure> {
    options.check()?;
    let room = machine::Room::new(&options.common.dir, "bench-cluster-")?;
    let mut report = Report::new();
    machine::describe("cluster", &room, &mut report);
    report.line(&format!(
        "Load: closed loop over {} connections from one thread on the same cores, {} keys at random, values of {} bytes; \
         medians of {} rounds.",
        options.connections, options.keys, options.value_bytes, options.rounds
    ));
    let mut clean = true;
    if options.wants(Subject::Visibility) || options.wants(Subject::Put) {
        let mut clusters = cluster::line_up(options, &room, &mut report)?;
        if options.wants(Subject::Visibility) {
            clean &= visibility::measure(options, &mut clusters, &mut report)?;
        }
        if options.wants(Subject::Put) {
            clean &= put::measure(options, &clusters, &mut report)?;
        }
    }
    if options.wants(Subject::CatchUp) {
        clean &= catch_up::measure(options, &room, &mut report)?;
    }
    if options.wants(Subject::Join) {
        clean &= join::measure(options, &room, &mut report)?;
    }
    if options.wants(Subject::Members) {
        members::measure(options, &room, &mut report)?;
    }
    options.common.keep(&report)?;
    Ok(clean)
}
