//! What a user of one node feels, measured: durable PUTs, GETs, memory, disk and time to serve, next to what the machine
//! itself can do and to what people would pick instead (Redis, etcd).
//!
//! `cargo bench --bench http` measures, `cargo bench --bench http -- --help` lists the flags. Started without any
//! argument (as `cargo test --benches` does) it checks its own instruments instead.
//!
//! Invariants:
//! 1. Contestants take turns round by round, so that the noise of the machine hits all alike; only ratios count.
//! 2. Nothing is measured on tmpfs, and every process that is started here is gone when the run ends.
//! 3. One answer that is not 2xx, or one broken connection, and the run ends with a failure.

mod contestant;
mod minimal;
mod options;
mod physical;
mod rounds;
mod selfcheck;
#[path = "../shared/mod.rs"]
mod shared;
mod size;
mod ways;

use std::process::ExitCode;

use clap::Parser;

use options::Options;
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
            eprintln!("FAILED: there were answers that are not 2xx, or broken connections; see above");
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
    if options.serve_minimal {
        minimal::serve()?;
        return Ok(true);
    }
    options.check()?;
    let room = machine::Room::new(&options.common.dir, "bench-http-")?;
    let mut report = Report::new();
    machine::describe("http", &room, &mut report);
    if options.wants_load() {
        report.line(&format!(
            "Load: closed loop from one thread on the same cores, {} keys at random, values of {} bytes; \
             median of {} rounds of {} s.",
            options.keys, options.value_bytes, options.rounds, options.seconds
        ));
    }
    if options.wants_physical() {
        physical::measure(options, &room, &mut report)?;
    }
    let mut clean = true;
    if options.wants_load() {
        clean &= rounds::measure(options, &room, &mut report)?;
    }
    if options.wants_size() {
        clean &= size::measure(options, &room, &mut report)?;
    }
    options.common.keep(&report)?;
    Ok(clean)
}
