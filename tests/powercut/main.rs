//! Power cuts, thousands of them, against the real storage: every promise survives, and nothing comes back wrong.
//!
//! This binary stands between std and the system (`interpose.rs`) and traces what a store does to its directory while
//! a workload churns it over several lives. From the trace it rebuilds what a disk may hold after the power went at a
//! random moment (`crash.rs`), opens that with the real code in a child, and compares with what the history demands.
//! Recoveries are cut off too. Each control takes one pillar away, and must be caught: a test that finds nothing must be
//! able to find something.
//!
//! - A node by itself: `workload.rs` writes as clients do, `check.rs` opens, `history.rs` and `verdict.rs` compare byte for
//!   byte with what was acknowledged.
//! - A node in a cluster: `cluster.rs` mixes clients' writes with frames and sweeps of peers (`peer.rs`) that forget, cut
//!   their logs and say what they have; `converge.rs` opens, takes what was under way again, and lets the store and its
//!   peers, also as they were some time ago, talk until all hold the same; `ledger.rs` says from causality alone what must
//!   be there.
//!
//! ```text
//! cargo test --test powercut                                        2,400 states
//! DYNARUST_POWERCUT_STATES=1000000 DYNARUST_SEED=7 cargo test --test powercut
//! DYNARUST_POWERCUT_WORKLOAD=sweeps …                               only this one
//! DYNARUST_POWERCUT_REPLAY=<trace>:<workload>:<seed>:<state> …      one state of a kept trace, as a failure prints it
//! ```

mod campaign;
mod check;
mod cluster;
mod converge;
mod crash;
mod history;
mod interpose;
mod ledger;
mod note;
#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "../support/older.rs"]
mod older;
mod peer;
mod rng;
mod trace;
mod verdict;
mod workload;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use campaign::{Campaign, Judge};
use crash::Control;
use history::History;
use ledger::Ledger;

const STATES_DEFAULT: u64 = 2_400;
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
            match case(arg(3)) {
                Case::Alone(shape) => workload::live(dir, shape, number(4), number(5)),
                Case::Cluster(shape) => cluster::live(dir, shape, number(4), number(5), Path::new(arg(6))),
            }
            std::process::exit(0);
        }
        mode @ ("check" | "converge") => {
            interpose::sync_nothing();
            if !arg(4).is_empty() {
                interpose::record(arg(2), arg(4), 0);
            }
            if std::env::var_os("DYNARUST_POWERCUT_SPARE").is_some() {
                interpose::spare_generating();
            }
            if mode == "converge" {
                converge::check(dir, Path::new(arg(3)));
            }
            check::check(dir, number(3) as u32);
        }
        "drop-repair-rows" => {
            interpose::sync_nothing();
            let _ = check::drop_repair_rows(dir);
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

/// A node by itself, or one in a cluster.
#[derive(Clone, Copy)]
enum Case {
    Alone(&'static workload::Shape),
    Cluster(&'static cluster::Shape),
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Alone(shape) => shape.name,
            Case::Cluster(shape) => shape.name,
        }
    }

    fn lives(self) -> u64 {
        match self {
            Case::Alone(shape) => shape.lives,
            Case::Cluster(shape) => shape.lives,
        }
    }
}

/// By turns.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = workload::SHAPES.iter().map(Case::Alone).collect();
    cluster::SHAPES
        .iter()
        .rev()
        .enumerate()
        .for_each(|(at, shape)| cases.insert(at + 1, Case::Cluster(shape)));
    cases
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name() == name).expect("the name of a workload")
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
    let cases = only.map_or_else(cases, |name| vec![case(&name)]);
    let scratch = scratch();
    let traces = states.div_ceil(STATES_PER_TRACE);
    println!(
        "workload  seed   records   syncs  states  in recovery  beyond the promise  unfinished snapshot  failures"
    );
    let mut failed = false;
    for number in 0..traces {
        let case = cases[number as usize % cases.len()];
        let seed = seed + number / cases.len() as u64;
        let trace = campaign::record(case.name(), case.lives(), seed, scratch.path());
        let numbers = 0..STATES_PER_TRACE.min(states - number * STATES_PER_TRACE);
        let controls = number < cases.len() as u64;
        failed |= !match case {
            Case::Alone(shape) => {
                put(case, || (shape, History::default()), seed, &trace, scratch.path(), numbers, controls)
            }
            Case::Cluster(shape) => {
                put(case, || (shape, Ledger::default()), seed, &trace, scratch.path(), numbers, controls)
            }
        };
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Puts states of one trace to the test; says whether all is well.
fn put<M: Judge>(
    case: Case,
    model: impl Fn() -> M,
    seed: u64,
    trace: &Path,
    scratch: &Path,
    numbers: Range<u64>,
    controls: bool,
) -> bool {
    let campaign = Campaign::new(model(), seed, trace, Control::None, scratch);
    let failures = campaign.run(numbers, FAILURES_MAX);
    let (records, syncs) = campaign.journal.size();
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{:8} {seed:5} {records:9} {syncs:7} {:7} {:12} {:19} {:20} {:9}",
        case.name(),
        count(&campaign.states),
        count(&campaign.nested),
        count(&campaign.beyond),
        count(&campaign.unfinished),
        failures.len()
    );
    let mut well = failures.is_empty();
    if !well {
        let kept = keep(trace, case.name(), seed);
        for failure in failures {
            let state = failure.split(':').next().unwrap_or_default().trim_start_matches("state ");
            println!("FAILED {failure}");
            println!(
                "  replay: DYNARUST_POWERCUT_REPLAY={}:{}:{seed}:{state} cargo test --test powercut",
                kept.display(),
                case.name()
            );
        }
    }
    if controls {
        for (_, control, what) in CONTROLS.iter().filter(|(of, ..)| *of == case.name()) {
            well &= found(model(), *control, what, seed, trace, scratch);
        }
    }
    well
}

/// Which pillar is taken away, in which workload.
const CONTROLS: &[(&str, Control, &str)] = &[
    ("single", Control::DataSync, "fdatasync of sled's file does not count"),
    ("single", Control::NameSync, "fsync of conf and directories does not count"),
    ("single", Control::CleanUp, "unfinished snapshots are not removed"),
    ("compact", Control::Fresh, "what a compaction syncs does not count"),
    ("migrate", Control::DataSync, "fdatasync of sled's file does not count, of migrations"),
    ("sweeps", Control::Repair, "rows of keys that change without an event are not written"),
];

/// Without each of its pillars the storage must fail; says whether it did.
fn found<M: Judge>(model: M, control: Control, what: &str, seed: u64, trace: &Path, scratch: &Path) -> bool {
    let campaign = Campaign::new(model, seed, trace, control, scratch);
    let failures = campaign.run(0..CONTROL_STATES_MAX, FAILURES_MAX);
    let states = campaign.states.load(Ordering::Relaxed);
    // What makes sled itself give up is no proof for the rows: counts that are wrong are, and chunks that stay.
    let tells =
        |failure: &str| failure.contains("committed were") || failure.contains("left over in the chunks");
    let failures: Vec<String> =
        failures.into_iter().filter(|failure| control != Control::Repair || tells(failure)).collect();
    println!("  control: {what}: {} failures in {states} states", failures.len());
    match failures.first() {
        Some(first) => println!("    e.g. {first}"),
        None => println!("FAILED the control finds nothing: this test proves nothing"),
    }
    !failures.is_empty()
}

/// Keeps the trace of a failure where the next run does not remove it.
fn keep(trace: &Path, name: &str, seed: u64) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{name}-{seed}.trace"));
    std::fs::copy(trace, &kept).expect("the trace of a failure can be kept");
    kept
}

fn replay() -> ExitCode {
    let what = std::env::var("DYNARUST_POWERCUT_REPLAY").expect("text");
    let parts: Vec<&str> = what.split(':').collect();
    let [trace, name, seed, state] = parts[..] else { panic!("<trace>:<workload>:<seed>:<state>") };
    let (seed, state) = (seed.parse().expect("a seed"), state.parse().expect("the number of a state"));
    let scratch = scratch();
    let (trace, one) = (Path::new(trace), state..state + 1);
    let failures = match case(name) {
        Case::Alone(shape) => {
            let model = (shape, History::default());
            Campaign::new(model, seed, trace, Control::None, scratch.path()).run(one, 1)
        }
        Case::Cluster(shape) => {
            let model = (shape, Ledger::default());
            Campaign::new(model, seed, trace, Control::None, scratch.path()).run(one, 1)
        }
    };
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("the directory as the last check left it: {}", scratch.keep().display());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
