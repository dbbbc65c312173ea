//! Whole clusters in seeded random schedules, run through the real replication core and checked against an oracle that
//! knows the true history of every write. A seed is a bug report: `DYNARUST_SEED=17 cargo test --test sim` replays one,
//! `DYNARUST_SIM_SEEDS=1000000` runs more. Nothing here may depend on time or on the machine.

mod node;
mod oracle;
mod world;

use world::World;

const SEEDS_DEFAULT: u64 = 20_000;

#[test]
fn clusters_converge_to_what_the_oracle_knows() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("DYNARUST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DYNARUST_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    let (mut writes, mut siblings) = (0, 0);
    for seed in seeds.clone() {
        let end = std::panic::catch_unwind(|| World::run(seed));
        let end = end.unwrap_or_else(|_| panic!("replay with DYNARUST_SEED={seed}"));
        writes += end.writes;
        siblings += end.siblings;
    }
    println!("{} schedules, {writes} writes, {siblings} keys with true siblings at the end", seeds.count());
}
