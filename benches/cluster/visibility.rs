//! How long a write that was acknowledged by one member takes until another one shows it: the other is asked again and again
//! over one connection, from the moment of the acknowledgement. The read that shows it is part of the time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, PROBE_KEY};
use crate::options::Options;
use crate::shared::Failure;
use crate::shared::client::Client;
use crate::shared::histogram::Histogram;
use crate::shared::machine;
use crate::shared::report::{Report, Table, median, rate_text};
use crate::shared::request::{Operation, Random, Request};

/// What a round brought.
struct Round {
    seen: Histogram,
    read: Histogram,
    /// Writes a second of the load, if there was one.
    rate: Option<f64>,
    failures: BTreeMap<String, u64>,
}

/// Measures and reports; `false` when any answer of the load was wrong.
pub fn measure(options: &Options, clusters: &mut [Cluster], report: &mut Report) -> Result<bool, Failure> {
    let mut rounds: BTreeMap<(bool, usize), Vec<Round>> = BTreeMap::new();
    for round in 0..options.rounds {
        for loaded in [false, true] {
            for (index, cluster) in clusters.iter().enumerate() {
                cluster.until_equal()?;
                machine::wait_for_quiet(options.common.quiet);
                let measured = one(options, cluster, loaded, round as u64)?;
                eprintln!(
                    "visibility {}: {}, loaded: {loaded}: {:.2} ms",
                    round + 1,
                    cluster.kind.name(),
                    measured.seen.quantile_ms(0.5)
                );
                rounds.entry((loaded, index)).or_default().push(measured);
            }
        }
    }
    report.section("Visibility");
    report.line(&format!(
        "From the acknowledgement by one member until a read of another shows the write, {} writes a round.",
        options.probes
    ));
    report.line("");
    let mut table = Table::new(&[
        "contestant",
        "meanwhile",
        "median ms",
        "p99 ms",
        "max ms",
        "of that one read, median ms",
        "writes/s meanwhile",
    ]);
    let mut failures = Vec::new();
    for (&(loaded, index), rounds) in &rounds {
        let middle = |quantile: f64| median(rounds.iter().map(|round| round.seen.quantile_ms(quantile)));
        let rate: Vec<f64> = rounds.iter().filter_map(|round| round.rate).collect();
        let kind = clusters[index].kind;
        table.row(vec![
            kind.name().to_owned(),
            if loaded { format!("{} connections write", options.connections) } else { "idle".to_owned() },
            format!("{:.2}", middle(0.5)),
            format!("{:.2}", middle(0.99)),
            format!("{:.1}", rounds.iter().map(|round| round.seen.max_ms()).fold(0.0, f64::max)),
            format!("{:.2}", median(rounds.iter().map(|round| round.read.quantile_ms(0.5)))),
            if rate.is_empty() { "-".to_owned() } else { rate_text(median(rate)) },
        ]);
        for (what, count) in rounds.iter().flat_map(|round| &round.failures) {
            failures.push(format!("FAILED: {} under visibility: {count} x {what}", kind.name()));
        }
    }
    report.table(&table);
    failures.iter().for_each(|failure| report.line(failure));
    Ok(failures.is_empty())
}

fn one(options: &Options, cluster: &Cluster, loaded: bool, round: u64) -> Result<Round, Failure> {
    let load = loaded.then(|| cluster.load(options, round + 1));
    let mut probe = Probe {
        put: cluster.request(0, Operation::Put, options.value_bytes),
        get: cluster.request(1, Operation::Get, options.value_bytes),
        writer: Client::open(cluster.servers[0].address)?,
        reader: Client::open(cluster.servers[1].address)?,
        key: PROBE_KEY,
    };
    let mut measured =
        Round { seen: Histogram::new(), read: Histogram::new(), rate: None, failures: BTreeMap::new() };
    let mut random = Random::new(round + 1);
    for number in 0..options.probes {
        // At no fixed distance, or all of them would meet the same moment of what the members do by the clock.
        std::thread::sleep(Duration::from_micros(random.below(PAUSE_US_MAX)));
        let (seen, read) = probe.once((round + 1) * 1_000_000 + number + u64::from(loaded) * 500_000)?;
        measured.seen.record(seen);
        measured.read.record(read);
    }
    if let Some(load) = load {
        let outcome = load.stop()?;
        measured.rate = Some(outcome.rate);
        measured.failures = outcome.failures;
    }
    Ok(measured)
}

/// A write here that is looked for there.
pub struct Probe {
    put: Request,
    get: Request,
    writer: Client,
    reader: Client,
    key: u64,
}

impl Probe {
    /// A probe between two nodes.
    pub fn nodes(writer: SocketAddr, reader: SocketAddr) -> Result<Probe, Failure> {
        Ok(Probe {
            put: Request::node(writer, Operation::Put, 100),
            get: Request::node(reader, Operation::Get, 100),
            writer: Client::open(writer)?,
            reader: Client::open(reader)?,
            key: 0,
        })
    }

    /// How long it took until the write was seen, and the read by which it was.
    pub fn once(&mut self, counter: u64) -> Result<(Duration, Duration), Failure> {
        let (answers, mark) = (self.put.answers, self.put.mark(counter));
        let status = self.writer.ask(self.put.with(self.key, counter), answers)?.0;
        let acknowledged = Instant::now();
        if !matches!(status, 200 | 201) {
            return Err(format!("a probe's write was answered {status}").into());
        }
        let answers = self.get.answers;
        let get = self.get.with(self.key, 0);
        loop {
            let asked = Instant::now();
            let (status, answer) = self.reader.ask(get, answers)?;
            let now = Instant::now();
            if !matches!(status, 200 | 404) {
                return Err(format!("a probe's read was answered {status}").into());
            }
            if answer.windows(mark.len()).any(|part| part == mark) {
                return Ok((now - acknowledged, now - asked));
            }
            if now - acknowledged > SEEN_MAX {
                return Err(format!("a write was not seen on the other member within {SEEN_MAX:?}").into());
            }
        }
    }
}

const PAUSE_US_MAX: u64 = 4_000;
const SEEN_MAX: Duration = Duration::from_secs(30);
