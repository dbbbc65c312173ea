//! One measurement under load, who else was at work meanwhile, and when it is taken again because of that.
//! A failure is kept, whichever attempt it was of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Failure;
use super::load::{self, Plan};
use super::machine;
use super::report::median;
use super::request::Request;

/// One measurement.
#[derive(Clone)]
pub struct Sample {
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Processor time of the server a request, in microseconds; unknown for a server that is not ours to see.
    pub server_cpu_us: Option<f64>,
    /// The load generator's own processor time as a share of one core; unknown for `redis-benchmark`.
    pub generator_cpu: Option<f64>,
    /// How many cores were busy with things that are not part of this measurement; unknown when the server is not ours.
    pub others_cores: Option<f64>,
    pub failures: BTreeMap<String, u64>,
}

/// Runs a plan against servers whose processor time `cpu` tells.
pub fn take(
    plan: &Plan,
    request: &mut Request,
    cpu: impl Fn() -> Option<Duration>,
) -> Result<Sample, Failure> {
    let before = cpu();
    let others = Others::watch(before);
    let outcome = load::run(plan, request)?;
    let spent = cpu().zip(before).map(|(after, before)| after - before);
    Ok(Sample {
        rate: outcome.rate,
        p50_ms: outcome.latencies.quantile_ms(0.5),
        p99_ms: outcome.latencies.quantile_ms(0.99),
        max_ms: outcome.latencies.max_ms(),
        server_cpu_us: spent.map(|cpu| cpu.as_secs_f64() * 1e6 / outcome.answers.max(1) as f64),
        generator_cpu: Some(outcome.own_cpu),
        others_cores: others.cores(cpu()),
        failures: outcome.failures,
    })
}

/// Watches what the machine does besides the load and the server under load.
pub struct Others {
    since: Instant,
    busy: Duration,
    ours: Duration,
}

impl Others {
    pub fn watch(server: Option<Duration>) -> Others {
        let ours = machine::family_cpu() + server.unwrap_or_default();
        Others { since: Instant::now(), busy: machine::busy_cpu(), ours }
    }

    pub fn cores(&self, server: Option<Duration>) -> Option<f64> {
        let busy = machine::busy_cpu().saturating_sub(self.busy);
        let ours = (machine::family_cpu() + server?).saturating_sub(self.ours);
        Some(busy.saturating_sub(ours).as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}

/// Measures again, a few times at most, while others were at work; keeps the calmest sample, and every failure.
pub fn calmest(quiet: u32, mut measure: impl FnMut() -> Result<Sample, Failure>) -> Result<Sample, Failure> {
    let mut best: Option<Sample> = None;
    for _ in 0..if quiet > 0 { ATTEMPTS_MAX } else { 1 } {
        machine::wait_for_quiet(quiet);
        let mut sample = measure()?;
        if let Some(mut last) = best.take() {
            if last.others_cores < sample.others_cores {
                std::mem::swap(&mut last, &mut sample);
            }
            for (what, count) in last.failures {
                *sample.failures.entry(what).or_default() += count;
            }
        }
        let calm = sample.others_cores.is_none_or(|cores| cores < CALM_CORES);
        best = Some(sample);
        if calm {
            break;
        }
    }
    best.ok_or_else(|| "nothing was measured".into())
}

/// Whether others were at work in so many of the samples that their median tells of them.
pub fn disturbed(samples: &[Sample]) -> bool {
    median(samples.iter().filter_map(|sample| sample.others_cores)) >= CALM_CORES
}

/// The median of what is known of them.
pub fn known(samples: &[Sample], field: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    let known: Vec<f64> = samples.iter().filter_map(field).collect();
    if known.is_empty() { None } else { Some(median(known)) }
}

/// Why a program can't take part here, in words to print.
pub fn missing(who: &str, needs: &[(&str, &str)]) -> Option<String> {
    let (program, package) = needs.iter().find(|(program, _)| machine::program(program).is_none())?;
    Some(format!("SKIPPED: {who} because {program} is not installed (apt-get install {package})"))
}

/// Others may use this much of a core before a measurement counts as disturbed; the kernel's own disk work is among them.
pub const CALM_CORES: f64 = 0.3;
const ATTEMPTS_MAX: usize = 3;
