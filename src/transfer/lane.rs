//! One connection's share of an import: the lines whose keys fall to it, one after the other, each until the node has answered
//! for good. So what a file says of one key twice is written in the order of the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::connection::{Answer, Connection};
use super::line::Line;
use super::retry::Retry;
use super::{Error, detail};

/// A line that is to be written.
pub struct Job {
    /// Its place in the file, from 1.
    pub number: u64,
    /// What it says.
    pub line: Line,
    /// Its room in memory.
    pub _room: OwnedSemaphorePermit,
}

/// What all lanes write by.
pub struct Order {
    /// HOST:PORT.
    pub node: String,
    /// Are keys left alone that are there?
    pub if_absent: bool,
    /// Is nothing written?
    pub dry_run: bool,
    /// How long a node is tried again.
    pub retry_seconds: u64,
    /// Milliseconds since 1970.
    pub now_ms: fn() -> u64,
}

/// What the lanes are to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Finish what waits, so that the end is a clean one.
    WhenDone,
    /// The same, and try nothing again.
    Soon,
}

/// What came of the lines.
#[derive(Default)]
pub struct Counts {
    /// There was nothing under the key.
    pub new: AtomicU64,
    /// There was something.
    pub replaced: AtomicU64,
    /// There was something, and it stays.
    pub present: AtomicU64,
    /// Their time had come.
    pub expired: AtomicU64,
}

/// A connection, and what it needs.
pub struct Lane {
    order: Arc<Order>,
    connection: Option<Connection>,
    retry: Retry,
}

impl Lane {
    /// One that has not connected.
    pub fn new(order: Arc<Order>) -> Lane {
        let retry = Retry::new(order.retry_seconds);
        Lane { order, connection: None, retry }
    }

    /// Does what comes, and calls `done` for each line that is; until nothing more can come, or all is to stop and nothing
    /// waits.
    pub async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut stop: watch::Receiver<Stop>,
        counts: Arc<Counts>,
        done: impl Fn(u64, Option<&str>),
    ) -> Result<(), Error> {
        loop {
            let job = tokio::select! {
                biased;
                job = jobs.recv() => job,
                _ = stop.wait_for(|stop| *stop != Stop::No) => jobs.try_recv().ok(),
            };
            let Some(job) = job else { return Ok(()) };
            let failed = |what: String| Error::Line { number: job.number, what };
            let told = |why: &str| done(job.number, Some(why));
            let counter = self.deliver((&job.line, &mut stop), &counts, told).await.map_err(failed)?;
            counter.fetch_add(1, Ordering::Relaxed);
            done(job.number, None);
        }
    }

    /// Writes one, however often that has to be tried; where it counts. `Err` says why it can't be.
    async fn deliver<'a>(
        &mut self,
        (line, stop): (&Line, &mut watch::Receiver<Stop>),
        counts: &'a Counts,
        told: impl Fn(&str),
    ) -> Result<&'a AtomicU64, String> {
        let Order { if_absent, dry_run, .. } = *self.order;
        loop {
            let Ok(left) = line.left((self.order.now_ms)()) else { return Ok(&counts.expired) };
            let request = self.request(line, left);
            let why = match self.ask(&request).await {
                Ok(Answer { status: 404, .. }) if dry_run => return Ok(&counts.new),
                Ok(Answer { status: 200, .. }) if dry_run && if_absent => return Ok(&counts.present),
                Ok(Answer { status: 200, .. }) => return Ok(&counts.replaced),
                Ok(Answer { status: 201, .. }) => return Ok(&counts.new),
                Ok(Answer { status: 412, .. }) if if_absent => return Ok(&counts.present),
                Ok(Answer { status: 408 | 503, body, .. }) => format!("not now: {}", detail(&body)),
                Ok(Answer { status, body, .. }) => {
                    return Err(format!("{} answers {status}: {}", self.order.node, detail(&body)));
                }
                Err(e) => e.to_string(),
            };
            let why = format!("{}: {why}", self.order.node);
            told(&why);
            let again = tokio::select! {
                again = self.retry.again() => again,
                _ = stop.wait_for(|stop| *stop == Stop::Soon) => false,
            };
            if !again {
                return Err(format!("{why}, for {} s", self.order.retry_seconds));
            }
        }
    }

    fn request(&self, line: &Line, left: Option<String>) -> Vec<u8> {
        let Order { node, if_absent, dry_run, .. } = &*self.order;
        let key = utf8_percent_encode(&line.key, NON_ALPHANUMERIC);
        if *dry_run {
            return format!("HEAD /key/{key} HTTP/1.1\r\nHost: {node}\r\n\r\n").into_bytes();
        }
        let life = left.map(|seconds| format!(",\"ttl_seconds\":{seconds}")).unwrap_or_default();
        let condition = if *if_absent { "If-None-Match: *\r\n" } else { "" };
        let length = "{\"value\":}".len() + line.value.len() + life.len();
        let head =
            format!("PUT /key/{key} HTTP/1.1\r\nHost: {node}\r\n{condition}Content-Length: {length}\r\n\r\n");
        [&head, "{\"value\":", &line.value, &life, "}"].concat().into_bytes()
    }

    async fn ask(&mut self, request: &[u8]) -> Result<Answer, std::io::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.order.node).await?,
        };
        let answer = connection.ask(request, self.order.dry_run).await?;
        if !answer.last {
            self.connection = Some(connection);
        }
        if answer.status != 503 {
            self.retry.succeed();
        }
        Ok(answer)
    }
}
