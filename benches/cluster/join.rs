//! A new node takes in everything that another one has: how long until it shows all keys, and what the writers of the other
//! feel of it.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{Cluster, Kind, events};
use crate::options::Options;
use crate::shared::Failure;
use crate::shared::client::Client;
use crate::shared::load::{self, Plan, Until};
use crate::shared::machine::{self, Room};
use crate::shared::paced::{Paced, WRITERS};
use crate::shared::report::{Report, Table, median, rate_text};
use crate::shared::request::Operation;

/// One node that joined.
struct Joined {
    seconds: f64,
    before: [f64; 3],
    during: [f64; 3],
}

/// Measures and reports; an answer to a writer that is no success is an error.
pub fn measure(options: &Options, room: &Room, report: &mut Report) -> Result<bool, Failure> {
    let mut cluster = Cluster::start(Kind::Node, 1, room)?;
    eprintln!("join: writing {} keys", options.scale_keys);
    let plan = Plan {
        address: cluster.first(),
        connections: FILLERS,
        keys: options.scale_keys,
        until: Until::EveryKey,
        seed: 0,
    };
    let filled = load::run(&plan, &mut cluster.request(0, Operation::Put, options.value_bytes))?;
    let mut joined = Vec::new();
    for round in 0..options.rounds {
        machine::wait_for_quiet(options.common.quiet);
        let one =
            one(options, &mut cluster, room).map_err(|e| cluster.servers[0].complaint(&e.to_string()))?;
        eprintln!(
            "join {}: {:.1} s, p99 {:.2} ms before, {:.2} ms during",
            round + 1,
            one.seconds,
            one.before[1],
            one.during[1]
        );
        joined.push(one);
    }
    let middle = |field: &dyn Fn(&Joined) -> f64| median(joined.iter().map(field));
    report.section("Join");
    report.line(&format!(
        "A new node joins one that has {} keys with values of {} bytes and takes {} writes/s, over {WRITERS} connections.",
        rate_text(options.scale_keys as f64),
        options.value_bytes,
        rate_text(options.pace as f64)
    ));
    report.line("");
    let mut table =
        Table::new(&["writes to the other node", "before, ms", "while the new one joins, ms", "times"]);
    for (name, at) in [("median", 0), ("p99", 1), ("max, median of rounds", 2)] {
        let (before, during) = (middle(&|j| j.before[at]), middle(&|j| j.during[at]));
        table.row(vec![
            name.to_owned(),
            format!("{before:.2}"),
            format!("{during:.2}"),
            format!("{:.1} x", middle(&|j| j.during[at] / j.before[at])),
        ]);
    }
    report.table(&table);
    report.line("");
    let seconds = middle(&|j| j.seconds);
    let each: Vec<String> = joined.iter().map(|j| format!("{:.1}", j.seconds)).collect();
    report.line(&format!(
        "From the start of its process until it shows everything: {seconds:.1} s (each: {}), {} keys/s.",
        each.join(", "),
        rate_text(options.scale_keys as f64 / seconds)
    ));
    for (what, count) in &filled.failures {
        report.line(&format!("FAILED: a write before the join: {count} x {what}"));
    }
    Ok(filled.failures.is_empty())
}

fn one(options: &Options, cluster: &mut Cluster, room: &Room) -> Result<Joined, Failure> {
    let address = cluster.first();
    let mut sponsor = Client::open(address)?;
    let paced = Paced::start(address, options.pace, options.scale_keys, options.value_bytes);
    std::thread::sleep(Duration::from_secs_f64(options.before_seconds));
    paced.enter(1);
    let start = Instant::now();
    let then = sponsor.stats()?;
    let origin = then["node_id"].clone();
    cluster.add_node(room, &[])?;
    let mut new = Client::open(cluster.servers[1].address)?;
    let has_all = |stats: &Json| {
        stats["keys"].as_u64() >= then["keys"].as_u64() && events(stats, &origin) >= events(&then, &origin)
    };
    while !has_all(&new.stats()?) {
        if start.elapsed() > JOIN_MAX {
            return Err(format!("the new node did not have everything within {JOIN_MAX:?}").into());
        }
        std::thread::sleep(LOOK);
    }
    let seconds = start.elapsed().as_secs_f64();
    let [before, during] = paced.stop()?;
    // The next one finds the sponsor alone again.
    let id = new.stats()?["node_id"].as_str().ok_or("a node without an id")?.to_owned();
    cluster.drop_newest();
    sponsor.json("DELETE", &format!("/membership/{id}"))?;
    let figures =
        |h: &crate::shared::histogram::Histogram| [h.quantile_ms(0.5), h.quantile_ms(0.99), h.max_ms()];
    Ok(Joined { seconds, before: figures(&before), during: figures(&during) })
}

const FILLERS: usize = 256;
const LOOK: Duration = Duration::from_millis(50);
const JOIN_MAX: Duration = Duration::from_secs(600);
