//! Is what a child found in a crash state what the history says? Every promise kept, nothing else there.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use dynarust::limits::{CHUNK_BYTES, VALUE_INLINE_BYTES_MAX};
use serde::de::DeserializeOwned;

use crate::campaign::Judge;
use crate::check::{Audit, Report};
use crate::history::{Held, History, Model, apply, expire_next};
use crate::trace::Record;
use crate::workload::{LOG_KEPT_BYTES, Shape};

/// What the child said; or why that is a failure already.
pub fn hear<R: DeserializeOwned>(output: &Output) -> Result<(R, Audit), String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or("nothing on stderr");
    if output.status.signal() == Some(libc::SIGALRM) {
        return Err(format!("it hangs: {last}"));
    }
    if !output.status.success() {
        return Err(format!("{}: {last}", output.status));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let (report, audit) = stdout.split_once('\n').ok_or("no report")?;
    let report = serde_json::from_str(report).map_err(|e| format!("no report: {e}"))?;
    Ok((report, serde_json::from_str(audit).map_err(|e| format!("no audit: {e}"))?))
}

/// Compares with the history as of a crash before record `at`; says what the store held.
fn judge(report: &Report, audit: &Audit, history: &History, at: usize) -> Result<Model, String> {
    let promised = history.promised(at);
    let seq = report.seq;
    if seq < promised {
        return Err(format!("event {promised} was acknowledged or shown, recovered are {seq}"));
    }
    if let Some(me) = history.me(at).filter(|me| *me != report.me) {
        return Err(format!("the node was {me:016x} and is {:016x}", report.me));
    }
    let found = found(report);
    let states = history.states(seq, at)?;
    for key in states.keys().chain(found.keys()) {
        let held = found.get(key).map_or(&[][..], |held| held);
        let nothing = [Vec::new()];
        let may = states.get(key).map_or(&nothing[..], |may| may);
        if !may.iter().any(|may| may == held) {
            return Err(format!("key {key} holds {held:?}, of {seq} events {may:?}, {promised} promised"));
        }
    }
    let expected = (found.len() as u64, found.values().map(|held| held.len() as u64).sum());
    if report.totals != expected {
        return Err(format!("counts are {:?}, of {seq} events {expected:?} are to be", report.totals));
    }
    let mut model = found.clone();
    for ((op, dot), next) in report.wrote.iter().zip(seq + 1..) {
        if *dot != next {
            return Err(format!("the next write is event {dot}, not {next}"));
        }
        apply(&mut model, next, op);
    }
    let wrote = seq + report.wrote.len() as u64;
    for number in wrote..report.last {
        if expire_next(&mut model).is_none() {
            return Err(format!("event {} of {} is no expiry", number + 1, report.last));
        }
    }
    model.retain(|_, held| !held.is_empty());
    left_over(&model, report, audit)?;
    Ok(found)
}

/// What was in the store when it had been opened.
fn found(report: &Report) -> Model {
    let held = report.holds.iter().map(|(key, held)| {
        let mut held: Vec<Held> = held.iter().map(|(held, _)| *held).collect();
        held.sort_unstable_by_key(|held| held.seq);
        (*key, held)
    });
    held.collect()
}

/// The log must be unbroken, and the chunks of what lives and nothing else: or garbage piles up with every crash.
fn left_over(model: &Model, report: &Report, audit: &Audit) -> Result<(), String> {
    let live: BTreeMap<u64, Held> = model.values().flatten().map(|held| (held.seq, *held)).collect();
    let mut next = audit.rows.first().map_or(report.last + 1, |row| row.0.seq);
    for (first, through) in &audit.rows {
        if first.seq != next {
            return Err(format!("the log goes on with event {first}, not {next}; {} events", report.seq));
        }
        next = through + 1;
    }
    if next != report.last + 1 || audit.rows_bytes > 2 * LOG_KEPT_BYTES {
        let (rows, bytes) = (audit.rows.len(), audit.rows_bytes);
        return Err(format!(
            "the log, {rows} rows of {bytes} bytes, ends before event {next} of {}",
            report.last
        ));
    }
    let mut chunks = BTreeMap::new();
    for (held, chunked) in report.holds.values().flatten() {
        if held.bytes > VALUE_INLINE_BYTES_MAX as u64 && !chunked {
            return Err(format!("{held:?} is not in chunks"));
        }
        if *chunked && live.contains_key(&held.seq) {
            chunks.insert(held.seq, (held.bytes.div_ceil(CHUNK_BYTES as u64), held.bytes));
        }
    }
    let there: BTreeMap<u64, (u64, u64)> = audit.chunks.iter().map(|(dot, all)| (dot.seq, *all)).collect();
    if there != chunks {
        let differs = |(seq, pieces): &(&u64, &(u64, u64))| chunks.get(seq) != Some(*pieces);
        let stray: Vec<_> = there.iter().filter(differs).collect();
        let missing: Vec<_> = chunks.keys().filter(|seq| !there.contains_key(seq)).collect();
        return Err(format!(
            "left over in the chunks are {stray:?}, missing {missing:?}; {} events",
            report.seq
        ));
    }
    Ok(())
}

impl Judge for (&Shape, History) {
    const MODE: &'static str = "check";

    fn prepare(&self, _at: usize, _number: u64, _scratch: &Path, command: &mut Command) {
        command.arg(self.0.keys.to_string());
    }

    fn go_on(self, records: &[Record]) -> Self {
        (self.0, self.1.read(records))
    }

    fn judge(&self, output: &Output, at: usize) -> Result<(Self, bool), String> {
        let (report, audit) = hear(output)?;
        let (shape, history) = self;
        let found = judge(&report, &audit, history, at)?;
        // What had never served is made anew, by this life or, cut off again, by the next.
        let served = history.me(at).is_some();
        let base = if served { History::found(report.me, report.seq, found) } else { History::default() };
        Ok(((shape, base), report.seq > history.promised(at)))
    }
}
