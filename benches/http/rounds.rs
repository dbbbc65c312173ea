//! The heart of the benchmark: every contestant, every operation, every number of connections, round by round in turn,
//! so that a slow minute of the machine is a slow minute for all.

use std::collections::BTreeMap;

use crate::contestant::Contestant;
use crate::options::{Kind, Options};
use crate::shared::Failure;
use crate::shared::machine::Room;
use crate::shared::report::{Report, Table, median, rate_text, spread_text};
use crate::shared::request::Operation;
use crate::shared::sample::{CALM_CORES, Sample, calmest, disturbed, known};

/// Measures and reports; `false` when any answer was wrong.
pub fn measure(options: &Options, room: &Room, report: &mut Report) -> Result<bool, Failure> {
    let mut contestants = line_up(options, room, report)?;
    let operations = options.operations();
    if operations.contains(&Operation::Get) && !options.no_fill {
        for contestant in &contestants {
            contestant.fill(options.keys).map_err(|e| contestant.complaint(&e.to_string()))?;
        }
    }
    let mut samples: BTreeMap<Place, Vec<Sample>> = BTreeMap::new();
    for round in 0..options.rounds {
        for &operation in &operations {
            for &connections in &options.connections {
                for (index, contestant) in contestants.iter_mut().enumerate() {
                    let measure =
                        || contestant.measure(operation, connections, options.duration(), round as u64 + 1);
                    let sample = calmest(options.common.quiet, measure)?;
                    eprintln!(
                        "round {}: {} {operation:?} at {connections}: {}/s",
                        round + 1,
                        contestant.kind.name(),
                        rate_text(sample.rate)
                    );
                    samples
                        .entry((operation == Operation::Get, connections, index))
                        .or_default()
                        .push(sample);
                }
            }
        }
    }
    let kinds: Vec<Kind> = contestants.iter().map(|contestant| contestant.kind).collect();
    for operation in operations {
        report.section(if operation == Operation::Put { "Durable PUT" } else { "GET" });
        report.table(&table(options, operation, &kinds, &samples));
        if kinds.len() == 1 {
            continue;
        }
        report.line("");
        report.line(&format!(
            "`~`: one of the two was disturbed, others used {CALM_CORES} cores or more: not a ratio to quote."
        ));
    }
    Ok(tell_failures(&kinds, &samples, report))
}

/// Operation (GET or not), connections, index of the contestant: the order of the tables.
type Place = (bool, usize, usize);

fn line_up(options: &Options, room: &Room, report: &mut Report) -> Result<Vec<Contestant>, Failure> {
    if let Some(address) = options.target {
        return Ok(vec![Contestant::running(address, options)]);
    }
    let mut contestants = Vec::new();
    for kind in options.contestants() {
        match Contestant::missing(kind) {
            Some(why) => report.line(&why),
            None => contestants.push(Contestant::start(kind, options, room)?),
        }
    }
    Ok(contestants)
}

fn table(
    options: &Options,
    operation: Operation,
    kinds: &[Kind],
    samples: &BTreeMap<Place, Vec<Sample>>,
) -> Table {
    let mut table = Table::new(&[
        "contestant",
        "connections",
        "ops/s",
        "min to max",
        "p50/p99/max ms",
        "server CPU us/op",
        "generator core",
        "others' cores",
        "DynaRust is",
    ]);
    for &connections in &options.connections {
        let at = |index: usize| samples.get(&(operation == Operation::Get, connections, index));
        let rate = |index: usize| at(index).map(|samples| median(samples.iter().map(|s| s.rate)));
        let node_index = kinds.iter().position(|&kind| kind == Kind::Node);
        let (node, node_samples) = (node_index.and_then(rate), node_index.and_then(at));
        for (index, kind) in kinds.iter().enumerate() {
            let Some(samples) = at(index) else { continue };
            let rates: Vec<f64> = samples.iter().map(|s| s.rate).collect();
            let middle = |field: fn(&Sample) -> f64| median(samples.iter().map(field));
            let own = median(rates.iter().copied());
            let most = samples.iter().map(|s| s.max_ms).fold(0.0, f64::max);
            let disturbed =
                [Some(samples), node_samples].into_iter().flatten().any(|samples| disturbed(samples));
            let mark = if disturbed { "~ " } else { "" };
            let ratio = node.filter(|_| *kind != Kind::Node && own > 0.0).map(|node| node / own);
            table.row(vec![
                kind.title(operation).to_owned(),
                connections.to_string(),
                rate_text(own),
                spread_text(&rates),
                format!("{:.2}/{:.2}/{most:.0}", middle(|s| s.p50_ms), middle(|s| s.p99_ms)),
                known(samples, |s| s.server_cpu_us).map_or("-".to_owned(), |us| format!("{us:.1}")),
                known(samples, |s| s.generator_cpu)
                    .map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
                known(samples, |s| s.others_cores).map_or("-".to_owned(), |cores| format!("{cores:.1}")),
                ratio.map_or("-".to_owned(), |ratio| format!("{mark}{ratio:.2} x")),
            ]);
        }
    }
    table
}

/// Names every failure; `true` when there was none.
fn tell_failures(kinds: &[Kind], samples: &BTreeMap<Place, Vec<Sample>>, report: &mut Report) -> bool {
    let mut clean = true;
    for (&(get, connections, index), samples) in samples {
        for (what, count) in samples.iter().flat_map(|sample| &sample.failures) {
            if clean {
                report.line("");
            }
            clean = false;
            let operation = if get { "GET" } else { "PUT" };
            report.line(&format!(
                "FAILED: {} {operation} at {connections}: {count} x {what}",
                kinds[index].name()
            ));
        }
    }
    clean
}
