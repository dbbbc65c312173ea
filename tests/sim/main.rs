//! Whole clusters in seeded random schedules, in virtual time, run through the real replication core and checked against an
//! oracle that knows the true history of every write. A seed is a bug report: `DYNARUST_SEED=17 cargo test --test sim`
//! replays one, `DYNARUST_SIM_SEEDS=1000000` runs more. Nothing here may depend on time or on the machine.
//!
//! | file | what it is |
//! |---|---|
//! | `schedule` | what happens, and when; the end, and the verdict |
//! | `aimed` | what takes several things at the right moment |
//! | `world` | machines and what can be done to them: write, send, receive, answer |
//! | `members` | starting, joining, leaving, eviction, machines that come back with less |
//! | `network` | loss, repetition, delay, cut lines |
//! | `node` | a process: the real rules, wired as the committer and the network wire them |
//! | `disk` | what a machine keeps |
//! | `oracle` | what must be true |

mod aimed;
mod disk;
mod members;
mod network;
mod node;
mod oracle;
mod random;
mod schedule;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use schedule::End;
use world::Counts;

/// Some times as many as it takes until every mutant of `.ci/mutants` falls.
const SEEDS_DEFAULT: u64 = 100_000;

#[test]
fn clusters_converge_to_what_the_oracle_knows() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("DYNARUST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DYNARUST_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    let sum = Mutex::new(End { writes: 0, siblings: 0, counts: Counts::default() });
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || failed.load(Ordering::Relaxed) != u64::MAX {
            return;
        }
        let Ok(mut end) = std::panic::catch_unwind(|| schedule::run(seed)) else {
            failed.fetch_min(seed, Ordering::Relaxed);
            return;
        };
        let mut sum = sum.lock().expect("no thread fails while it adds");
        sum.writes += end.writes;
        sum.siblings += end.siblings;
        for ((_, all), (_, one)) in sum.counts.all().into_iter().zip(end.counts.all()) {
            *all += *one;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner();
    assert!(failed == u64::MAX, "replay with: DYNARUST_SEED={failed} cargo test --test sim");
    let mut sum = sum.into_inner().expect("no thread failed");
    println!(
        "{} schedules, {} writes, {} keys with true siblings at the end",
        seeds.clone().count(),
        sum.writes,
        sum.siblings
    );
    for (name, count) in sum.counts.all() {
        println!("{count:>8} {name}");
        assert!(seeds.clone().count() < 1_000 || *count > 0, "nothing of it: {name}");
    }
}
