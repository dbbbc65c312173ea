//! Writes a second at one of three members, by what an answer promises: one disk, two of them, a majority.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Kind};
use crate::options::Options;
use crate::shared::Failure;
use crate::shared::load::{Plan, Until};
use crate::shared::report::{Report, Table, median, rate_text, spread_text};
use crate::shared::request::{Operation, Request};
use crate::shared::sample::{self, CALM_CORES, Sample, calmest, disturbed, known};

/// What an answer to a write promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    NodeOneDisk,
    NodeTwoDisks,
    RedisOneDisk,
    RedisTwoMembers,
    EtcdMajority,
}

impl Way {
    fn of(kind: Kind) -> &'static [Way] {
        match kind {
            Kind::Node => &[Way::NodeOneDisk, Way::NodeTwoDisks],
            Kind::Redis => &[Way::RedisOneDisk, Way::RedisTwoMembers],
            Kind::Etcd => &[Way::EtcdMajority],
        }
    }

    fn title(self) -> &'static str {
        match self {
            Way::NodeOneDisk => "DynaRust PUT, one disk",
            Way::NodeTwoDisks => "DynaRust PUT ?w=2, two disks",
            Way::RedisOneDisk => "Redis SET, one disk",
            Way::RedisTwoMembers => "Redis SET and WAIT 1, one disk and one more memory",
            Way::EtcdMajority => "etcd put, JSON gateway, two disks",
        }
    }

    fn request(self, cluster: &Cluster, value_bytes: usize) -> Request {
        let address = cluster.first();
        match self {
            Way::NodeOneDisk => Request::node(address, Operation::Put, value_bytes),
            Way::NodeTwoDisks => Request::node_with(address, Operation::Put, value_bytes, "?w=2"),
            Way::RedisOneDisk => Request::redis(Operation::Put, value_bytes, 0),
            Way::RedisTwoMembers => Request::redis(Operation::Put, value_bytes, 1),
            Way::EtcdMajority => Request::etcd(address, Operation::Put, value_bytes),
        }
    }
}

/// The samples of a way, and how many seconds later all members had everything.
#[derive(Default)]
struct Series {
    samples: Vec<Sample>,
    later: Vec<f64>,
}

/// Measures and reports; `false` when any answer was wrong.
pub fn measure(options: &Options, clusters: &[Cluster], report: &mut Report) -> Result<bool, Failure> {
    let mut all: BTreeMap<Way, Series> = BTreeMap::new();
    for round in 0..options.rounds {
        for cluster in clusters {
            for &way in Way::of(cluster.kind) {
                let series = all.entry(way).or_default();
                let sample = calmest(options.common.quiet, || {
                    cluster.until_equal()?;
                    let plan = Plan {
                        address: cluster.first(),
                        connections: options.connections,
                        keys: options.keys,
                        until: Until::Elapsed(options.duration()),
                        seed: round as u64 + 1,
                    };
                    let mut request = way.request(cluster, options.value_bytes);
                    let sample = sample::take(&plan, &mut request, || cluster.cpu())?;
                    series.later.push(cluster.until_equal()?.as_secs_f64());
                    Ok(sample)
                })?;
                eprintln!("put {}: {}: {}/s", round + 1, way.title(), rate_text(sample.rate));
                series.samples.push(sample);
            }
        }
    }
    report.section("PUT on one of three members");
    report.table(&table(&all));
    report.line("");
    report.line(&format!(
        "`~`: one of the two was disturbed, others used {CALM_CORES} cores or more: not a ratio to quote."
    ));
    let mut clean = true;
    for (way, series) in &all {
        for (what, count) in series.samples.iter().flat_map(|sample| &sample.failures) {
            clean = false;
            report.line(&format!("FAILED: {}: {count} x {what}", way.title()));
        }
    }
    Ok(clean)
}

fn table(all: &BTreeMap<Way, Series>) -> Table {
    let mut table = Table::new(&[
        "contestant, what an answer promises",
        "writes/s",
        "min to max",
        "p50/p99/max ms",
        "CPU of all us/op",
        "generator core",
        "others' cores",
        "all equal after",
        "DynaRust is",
        "DynaRust ?w=2 is",
    ]);
    for (way, Series { samples, later }) in all {
        let rates: Vec<f64> = samples.iter().map(|s| s.rate).collect();
        let own = median(rates.iter().copied());
        let middle = |field: fn(&Sample) -> f64| median(samples.iter().map(field));
        let most = samples.iter().map(|s| s.max_ms).fold(0.0, f64::max);
        let ratio = |to: Way| {
            let Some(other) = all.get(&to).filter(|_| to != *way && own > 0.0) else { return "-".to_owned() };
            let mark = if disturbed(samples) || disturbed(&other.samples) { "~ " } else { "" };
            format!("{mark}{:.2} x", median(other.samples.iter().map(|s| s.rate)) / own)
        };
        table.row(vec![
            way.title().to_owned(),
            rate_text(own),
            spread_text(&rates),
            format!("{:.2}/{:.2}/{most:.0}", middle(|s| s.p50_ms), middle(|s| s.p99_ms)),
            known(samples, |s| s.server_cpu_us).map_or("-".to_owned(), |us| format!("{us:.1}")),
            known(samples, |s| s.generator_cpu)
                .map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
            known(samples, |s| s.others_cores).map_or("-".to_owned(), |cores| format!("{cores:.1}")),
            // Of etcd that can't be asked.
            if *way == Way::EtcdMajority {
                "-".to_owned()
            } else {
                format!("{:.2} s", median(later.iter().copied()))
            },
            ratio(Way::NodeOneDisk),
            ratio(Way::NodeTwoDisks),
        ]);
    }
    table
}
