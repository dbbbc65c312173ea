//! Power cuts, thousands of them, against the real storage: every promise survives, and nothing comes back wrong.
//!
//! This binary stands between std and the system (`interpose.rs`) and traces what a store does to its directory while
//! a workload churns it over several lives (`workload.rs`). From the trace it rebuilds what a disk may hold after the
//! power went at a random moment (`crash.rs`), opens that with the real code in a child (`check.rs`), and compares with
//! what the history of acknowledged writes demands (`history.rs`, `verdict.rs`). Recoveries are cut off too. Three
//! controls take one pillar away each, and must be caught: a test that finds nothing must be able to find something.
//!
//! ```text
//! cargo test --test powercut                                        2,000 states
//! DYNARUST_POWERCUT_STATES=1000000 DYNARUST_SEED=7 cargo test --test powercut
//! DYNARUST_POWERCUT_WORKLOAD=siblings …                             only this one
//! DYNARUST_POWERCUT_REPLAY=<trace>:<workload>:<seed>:<state> …      one state of a kept trace, as a failure prints it
//! ```

mod campaign;
mod check;
mod crash;
mod history;
mod interpose;
mod rng;
mod trace;
mod verdict;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use campaign::Campaign;
use crash::Control;
use workload::{SHAPES, Shape};

const STATES_DEFAULT: u64 = 2_000;
const STATES_PER_TRACE: u64 = 200;
const CONTROL_STATES_MAX: u64 = 300;
const FAILURES_MAX: usize = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let arg = |at: usize| args.get(at).map_or("", String::as_str);
    let number = |at: usize| arg(at).parse::<u64>().expect("a number");
    let dir = Path::new(arg(2));
    match arg(1) {
        "live" => {
            interpose::sync_nothing();
            interpose::record(arg(2), arg(6), 150);
            end_on_panic();
            workload::live(dir, shape(arg(3)), number(4), number(5));
            std::process::exit(0);
        }
        "check" => {
            interpose::sync_nothing();
            if !arg(4).is_empty() {
                interpose::record(arg(2), arg(4), 0);
            }
            if std::env::var_os("DYNARUST_POWERCUT_SPARE").is_some() {
                interpose::spare_generating();
            }
            check::check(dir, number(3) as u32);
        }
        "audit" => {
            interpose::sync_nothing();
            check::audit(dir).expect("a store that was closed in order opens")
        }
        "--list" => println!("powercut: test"),
        _ if std::env::var_os("DYNARUST_POWERCUT_REPLAY").is_some() => return replay(),
        _ => return all(),
    }
    ExitCode::SUCCESS
}

fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::exit(101);
    }));
}

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).expect("the name of a workload")
}

/// In memory when there is such a file system: a state is written and read once.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    tempfile::Builder::new().prefix("powercut-").tempdir_in(place).expect("a scratch directory")
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

fn all() -> ExitCode {
    let (seed, states) = (setting("DYNARUST_SEED", 1), setting("DYNARUST_POWERCUT_STATES", STATES_DEFAULT));
    let only = std::env::var("DYNARUST_POWERCUT_WORKLOAD").ok();
    let shapes: Vec<&Shape> = only.map_or_else(|| SHAPES.iter().collect(), |name| vec![shape(&name)]);
    let scratch = scratch();
    let traces = states.div_ceil(STATES_PER_TRACE);
    println!(
        "workload  seed   records   syncs  states  in recovery  beyond the promise  unfinished snapshot  failures"
    );
    let mut failed = false;
    for number in 0..traces {
        let shape = shapes[number as usize % shapes.len()];
        let seed = seed + number / shapes.len() as u64;
        let trace = campaign::record(shape, seed, scratch.path());
        let campaign = Campaign::new(shape, seed, &trace, Control::None, scratch.path());
        let states = STATES_PER_TRACE.min(states - number * STATES_PER_TRACE);
        let failures = campaign.run(0..states, FAILURES_MAX);
        let (records, syncs) = campaign.journal.size();
        let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        println!(
            "{:8} {seed:5} {records:9} {syncs:7} {:7} {:12} {:19} {:20} {:9}",
            shape.name,
            count(&campaign.states),
            count(&campaign.nested),
            count(&campaign.beyond),
            count(&campaign.unfinished),
            failures.len()
        );
        if !failures.is_empty() {
            failed = true;
            let kept = keep(&trace, shape, seed);
            for failure in failures {
                let state = failure.split(':').next().unwrap_or_default().trim_start_matches("state ");
                println!("FAILED {failure}");
                println!(
                    "  replay: DYNARUST_POWERCUT_REPLAY={}:{}:{seed}:{state} cargo test --test powercut",
                    kept.display(),
                    shape.name
                );
            }
        }
        if number == 0 {
            failed |= !controls(shape, seed, &trace, scratch.path());
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Without each of its pillars the storage must fail; says whether it did.
fn controls(shape: &Shape, seed: u64, trace: &Path, scratch: &Path) -> bool {
    let mut all_found = true;
    for (control, what) in [
        (Control::DataSync, "fdatasync of sled's file does not count"),
        (Control::NameSync, "fsync of conf and directories does not count"),
        (Control::CleanUp, "unfinished snapshots are not removed"),
    ] {
        let campaign = Campaign::new(shape, seed, trace, control, scratch);
        let failures = campaign.run(0..CONTROL_STATES_MAX, FAILURES_MAX);
        let states = campaign.states.load(Ordering::Relaxed);
        println!("  control: {what}: {} failures in {states} states", failures.len());
        match failures.first() {
            Some(first) => println!("    e.g. {first}"),
            None => {
                println!("FAILED the control finds nothing: this test proves nothing");
                all_found = false;
            }
        }
    }
    all_found
}

/// Keeps the trace of a failure where the next run does not remove it.
fn keep(trace: &Path, shape: &Shape, seed: u64) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{}-{seed}.trace", shape.name));
    std::fs::copy(trace, &kept).expect("the trace of a failure can be kept");
    kept
}

fn replay() -> ExitCode {
    let what = std::env::var("DYNARUST_POWERCUT_REPLAY").expect("text");
    let parts: Vec<&str> = what.split(':').collect();
    let [trace, name, seed, state] = parts[..] else { panic!("<trace>:<workload>:<seed>:<state>") };
    let (seed, state) = (seed.parse().expect("a seed"), state.parse().expect("the number of a state"));
    let scratch = scratch();
    let campaign = Campaign::new(shape(name), seed, Path::new(trace), Control::None, scratch.path());
    let failures = campaign.run(state..state + 1, 1);
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("the directory as the last check left it: {}", scratch.keep().display());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
