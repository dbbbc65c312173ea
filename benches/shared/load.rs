//! The load generator: one thread, one epoll, a closed loop on every connection. It shares the machine with the server
//! that it measures, so a request costs it one read, one write and a few hundred nanoseconds of its own.
//!
//! It must never retry, hide or drop a failure, and never run on: an end by time or by count, and a limit on silence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::Failure;
use super::connection::{Connection, Progress};
use super::histogram::Histogram;
use super::machine;
use super::request::{Random, Request};

/// What to do to whom.
pub struct Plan {
    pub address: SocketAddr,
    pub connections: usize,
    pub keys: u64,
    pub until: Until,
    pub seed: u64,
}

/// When a run ends.
pub enum Until {
    /// After this time; keys at random. A sixth of it goes by before anything counts.
    Elapsed(Duration),
    /// After this many requests; keys at random.
    Count(u64),
    /// When every key had its turn, in order.
    EveryKey,
    /// When somebody raises this; keys at random.
    Raised(Arc<AtomicBool>),
}

/// What came of it.
pub struct Outcome {
    pub latencies: Histogram,
    /// Answers a second while it counted.
    pub rate: f64,
    /// All answers, those before it counted too.
    pub answers: u64,
    /// The generator's own processor time, as a share of one core.
    pub own_cpu: f64,
    /// How often what went wrong.
    pub failures: BTreeMap<String, u64>,
}

/// Runs the plan to its end.
pub fn run(plan: &Plan, request: &mut Request) -> Result<Outcome, Failure> {
    let poll = Poll::new()?;
    let mut connections = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let opened = Connection::open(plan.address, request.answers, poll.registry(), Token(index));
        connections
            .push(Some(opened.map_err(|e| format!("connection {} to {}: {e}", index + 1, plan.address))?));
    }
    let start = Instant::now();
    let (counts_from, stop_at, requests_left) = match &plan.until {
        Until::Elapsed(time) => (start + *time / 6, Some(start + *time / 6 + *time), u64::MAX),
        Until::Raised(_) => (start, None, u64::MAX),
        Until::Count(count) => (start, None, *count),
        Until::EveryKey => (start, None, plan.keys),
    };
    let mut run = Run {
        plan,
        request,
        random: Random::new(plan.seed),
        connections,
        counts_from,
        stop_at,
        requests_left,
        requests: 0,
        counted: 0,
        under_way: 0,
        outcome: Outcome {
            latencies: Histogram::new(),
            rate: 0.0,
            answers: 0,
            own_cpu: 0.0,
            failures: BTreeMap::new(),
        },
    };
    let cpu = machine::own_cpu();
    run.drive(poll)?;
    let end = stop_at.unwrap_or_else(Instant::now);
    run.outcome.rate = run.counted as f64 / (end - counts_from).as_secs_f64();
    run.outcome.own_cpu = (machine::own_cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    Ok(run.outcome)
}

struct Run<'a> {
    plan: &'a Plan,
    request: &'a mut Request,
    random: Random,
    connections: Vec<Option<Connection>>,
    counts_from: Instant,
    stop_at: Option<Instant>,
    requests_left: u64,
    requests: u64,
    counted: u64,
    under_way: usize,
    outcome: Outcome,
}

impl Run<'_> {
    fn drive(&mut self, mut poll: Poll) -> Result<(), Failure> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 << 10];
        for index in 0..self.connections.len() {
            self.next(index, Instant::now());
        }
        let mut heard_at = Instant::now();
        while self.under_way > 0 {
            match poll.poll(&mut events, Some(Duration::from_secs(1))) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if events.is_empty() && heard_at.elapsed() > SILENCE_MAX {
                let lost = self.under_way as u64;
                *self.outcome.failures.entry(format!("no answer in {SILENCE_MAX:?}")).or_default() += lost;
                break;
            }
            for event in events.iter() {
                let Some(connection) = &mut self.connections[event.token().0] else { continue };
                let mut progress = if event.is_writable() { connection.flush() } else { Progress::Waiting };
                if event.is_readable() && progress == Progress::Waiting {
                    progress = connection.receive(&mut buffer, event.is_read_closed());
                }
                if progress != Progress::Waiting {
                    heard_at = Instant::now();
                    self.finish(event.token().0, progress, heard_at);
                }
            }
        }
        Ok(())
    }

    /// Books an answer or the end of a connection, and sends what comes next.
    fn finish(&mut self, index: usize, progress: Progress, now: Instant) {
        let sent_at = self.connections[index].as_mut().and_then(|connection| connection.sent_at.take());
        if sent_at.is_some() {
            self.under_way -= 1;
        }
        match progress {
            Progress::Waiting => {}
            Progress::Answer(status) => {
                self.outcome.answers += 1;
                if let Some(sent_at) = sent_at.filter(|&at| at >= self.counts_from) {
                    self.outcome.latencies.record(now - sent_at);
                }
                if now >= self.counts_from && self.stop_at.is_none_or(|stop_at| now < stop_at) {
                    self.counted += 1;
                }
                // 202 is fewer copies than were asked for.
                if !matches!(status, 200 | 201) {
                    *self.outcome.failures.entry(format!("status {status}")).or_default() += 1;
                }
                self.next(index, now);
            }
            Progress::Broken(why) => {
                self.connections[index] = None;
                *self.outcome.failures.entry(why.to_owned()).or_default() += 1;
            }
        }
    }

    /// Sends the next request on a connection, unless the run is over.
    fn next(&mut self, index: usize, now: Instant) {
        if self.requests_left == 0 || self.stop_at.is_some_and(|stop_at| now >= stop_at) {
            return;
        }
        if let Until::Raised(raised) = &self.plan.until
            && raised.load(Ordering::Relaxed)
        {
            return;
        }
        let Some(connection) = &mut self.connections[index] else { return };
        let key = match self.plan.until {
            Until::EveryKey => self.requests,
            _ => self.random.below(self.plan.keys),
        };
        self.requests_left -= 1;
        self.requests += 1;
        self.under_way += 1;
        let bytes = self.request.with(key, self.plan.seed % 1_000 * 1_000_000_000 + self.requests);
        let progress = connection.send(bytes, now);
        if progress != Progress::Waiting {
            self.finish(index, progress, now);
        }
    }
}

/// How long nothing may be heard from a server before the run is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);
