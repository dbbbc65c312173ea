//! A real node as a process, and everything that can happen to a process: it is killed, told to stop, its disk
//! fails, fills or rots, its clients are many, slow or greedy. Each test starts the binary, watches it from
//! outside and compares it with what it has promised; none knows anything of its insides.
//!
//! Rules of this binary:
//! 1. Nothing sleeps to synchronise: tests wait for a line, an answer or an end, with a deadline.
//! 2. Tests that measure time or memory run `alone`, the others `beside` each other.
//! 3. What this machine does not allow is said in a line `SKIPPED: … because …`, never passed over.
//!
//! Environment: `DYNARUST_SEED` repeats a run; `DYNARUST_KILL_ROUNDS`, `DYNARUST_COMPACT_KILLS`, `DYNARUST_MIGRATION_KILLS`,
//! `DYNARUST_CORRUPTIONS` and `DYNARUST_GUARDED` set how many.

#[path = "../support/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a failed lock fails the test")]
mod support;

mod checker;
mod child;
mod compact;
mod corruption;
mod crawl;
mod disk;
mod faults;
mod greedy;
mod guard;
mod history;
mod kill;
mod limits;
mod load;
mod migrate;
#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "../support/older.rs"]
mod older;
mod random;
mod rejoin;
mod shim;
mod slow;
mod stop;
mod sync;
mod trace;
mod volume;
mod workload;

use std::io::Write;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::new(());

/// For a test that measures: no other test of this binary runs meanwhile.
fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that may run beside others.
fn beside() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Says, past the capture of the test harness, that something was not tested.
fn skipped(what: &str, because: &str) {
    say(&format!("SKIPPED: {what} because {because}"));
}

/// A line for the person who runs the tests, whether they pass or not.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
