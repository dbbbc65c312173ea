//! A member is stopped under full write load, and let go on: how fast it fell behind, and how fast it catches up, once with the
//! load going on and once with its end.
//!
//! *Gained* is how far behind it was, by the time until it was not: on a moving target that is what it takes in beyond
//! what is written meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{Cluster, Kind, Load, MEMBERS, events};
use crate::options::Options;
use crate::shared::Failure;
use crate::shared::client::Client;
use crate::shared::machine::{self, Room};
use crate::shared::report::{Report, Table, median, rate_text};

/// What one stop brought.
struct Stop {
    /// Events a second that the stopped member fell behind by.
    fell: f64,
    behind: f64,
    seconds: f64,
    /// Events a second that it took in while it caught up.
    took_in: f64,
    /// Events a second that were written while it caught up.
    written: f64,
    /// Why it did not: the longest wait was over, and so far behind it still was.
    given_up: Option<u64>,
}

/// Measures and reports; `false` when any write was answered wrongly.
pub fn measure(options: &Options, room: &Room, report: &mut Report) -> Result<bool, Failure> {
    let mut stops: BTreeMap<bool, Vec<Stop>> = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for round in 0..options.rounds {
        for goes_on in [false, true] {
            let cluster = Cluster::start(Kind::Node, MEMBERS, room)?;
            machine::wait_for_quiet(options.common.quiet);
            let stop = one(options, &cluster, goes_on, round as u64 + 1, &mut failures)
                .map_err(|e| cluster.servers[1].complaint(&e.to_string()))?;
            eprintln!(
                "catch-up {}: load goes on: {goes_on}: fell {}/s, {} behind, {:.1} s, took in {}/s",
                round + 1,
                rate_text(stop.fell),
                rate_text(stop.behind),
                stop.seconds,
                rate_text(stop.took_in)
            );
            stops.entry(goes_on).or_default().push(stop);
        }
    }
    report.section("Catch-up");
    report.line(&format!(
        "One of three nodes is stopped (SIGSTOP) for {} s while {} connections write to another.",
        options.stop_seconds, options.connections
    ));
    report.line("");
    let mut table = Table::new(&[
        "then the load",
        "fell behind, events/s",
        "behind, events",
        "caught up after",
        "took in, events/s",
        "written meanwhile/s",
        "gained, events/s",
        "gained beside fell",
    ]);
    let mut notes = Vec::new();
    for (goes_on, stops) in &stops {
        let middle = |field: fn(&Stop) -> f64| median(stops.iter().map(field));
        table.row(vec![
            if *goes_on { "goes on" } else { "ends" }.to_owned(),
            rate_text(middle(|stop| stop.fell)),
            rate_text(middle(|stop| stop.behind)),
            format!("{:.1} s", middle(|stop| stop.seconds)),
            rate_text(middle(|stop| stop.took_in)),
            rate_text(middle(|stop| stop.written)),
            rate_text(middle(Stop::gained)),
            format!("{:.2} x", middle(|stop| stop.gained() / stop.fell.max(1.0))),
        ]);
        for left in stops.iter().filter_map(|stop| stop.given_up) {
            notes
                .push(format!("Not caught up in the longest wait: still {} behind.", rate_text(left as f64)));
        }
    }
    report.table(&table);
    notes.iter().for_each(|note| report.line(note));
    for (what, count) in &failures {
        report.line(&format!("FAILED: a write under catch-up: {count} x {what}"));
    }
    Ok(failures.is_empty())
}

impl Stop {
    fn gained(&self) -> f64 {
        (self.behind - self.given_up.unwrap_or(0) as f64) / self.seconds
    }
}

fn one(
    options: &Options,
    cluster: &Cluster,
    goes_on: bool,
    seed: u64,
    failures: &mut BTreeMap<String, u64>,
) -> Result<Stop, Failure> {
    let stopped = &cluster.servers[1];
    let (mut source, mut target) = (Client::open(cluster.first())?, Client::open(stopped.address)?);
    let origin = source.stats()?["node_id"].clone();
    let (id, load) = (target.stats()?["node_id"].clone(), cluster.load(options, seed));
    std::thread::sleep(WARM_UP);
    let usual = lag(&mut source, &id)?;
    stopped.hold(true)?;
    let held_at = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(options.stop_seconds));
    let behind = lag(&mut source, &id)?;
    let fell = behind.saturating_sub(usual) as f64 / held_at.elapsed().as_secs_f64();
    let mut load = Some(load);
    let mut end = |load: &mut Option<Load>| -> Result<(), Failure> {
        let Some(load) = load.take() else { return Ok(()) };
        for (what, count) in load.stop()?.failures {
            *failures.entry(what).or_default() += count;
        }
        Ok(())
    };
    if !goes_on {
        end(&mut load)?;
    }
    // What was still on its way when the load ended counts as well.
    let written_before = events(&source.stats()?, &origin);
    let had = written_before - lag(&mut source, &id)?.min(written_before);
    stopped.hold(false)?;
    let start = Instant::now();
    let longest = Duration::from_secs_f64(LONGEST_TIMES * options.stop_seconds) + LONGEST_MORE;
    // As near as it usually is, or as it could be by what is written in a tenth of a second.
    let near = if goes_on { usual.max((fell / 10.0) as u64) } else { 0 };
    let (written, has) = loop {
        std::thread::sleep(LOOK);
        let has = events(&target.stats()?, &origin);
        let written = events(&source.stats()?, &origin);
        if written.saturating_sub(has) <= near || start.elapsed() > longest {
            break (written, has);
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    end(&mut load)?;
    let left = written.saturating_sub(has);
    Ok(Stop {
        fell,
        behind: (written_before - had) as f64,
        seconds,
        took_in: (has - had) as f64 / seconds,
        written: (written - written_before) as f64 / seconds,
        given_up: (left > near).then_some(left),
    })
}

/// How many events of the node that is asked a member lacks.
fn lag(source: &mut Client, id: &Json) -> Result<u64, Failure> {
    let membership = source.json("GET", "/membership")?;
    let members = membership["members"].as_array().ok_or("a membership without members")?;
    let member = members.iter().find(|member| member["id"] == *id).ok_or("the member is gone")?;
    member["lag"].as_u64().ok_or_else(|| "a member without a lag".into())
}

const WARM_UP: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take: so many times the stop, and some more.
const LONGEST_TIMES: f64 = 4.0;
const LONGEST_MORE: Duration = Duration::from_secs(30);
