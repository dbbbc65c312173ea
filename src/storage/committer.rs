//! The only writer: one thread takes what has queued up, decides, writes, makes it durable, and then answers.
//!
//! Group commit comes by itself: while one commit is on its way to the disk, the next one's writes queue up.
//!
//! A commit is one unit, made in memory from everything that was taken, and written as plain inserts in an order in
//! which every prefix can be repaired (`apply.rs`). A sled transaction over the trees, or a batch a tree, would be
//! atomic by themselves, but shut every reader out while they run, cost a second fdatasync a commit, and a third to
//! two fifths more CPU (`docs/performance.md`).
//!
//! Order of the world: *persist, then publish, then answer*. Nobody is told anything that a crash could take back: even
//! a refusal shows what the key holds, so it too waits for the flush. Any error of the storage ends the process: sled's
//! errors are sticky, and what is in memory is then ahead of the disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::apply::Applier;
use super::disk::{Disk, Room};
use super::durable;
use super::error::{Error, Rejection};
use super::recover::Found;
use super::request::{Action, Request, Written};
use super::trees::{Trees, read_expiry_key};
use super::watchdog::Watchdog;
use super::{Published, Shared};
use crate::limits::{
    COMMIT_BYTES_MAX, COMMIT_DISCARD_BYTES_MAX, COMMIT_WRITES_MAX, EXPIRED_PER_COMMIT_MAX, EXPIRY_GRACE_MS,
    EXPIRY_PAUSE_MS, SIBLINGS_MAX,
};
use crate::replica::{
    Dot, Entry, Place, Replaces, Replica, Token, Unit, Value, Version, VersionVector, Write,
};

/// What the committer is sent.
pub enum Message {
    /// Do this, and answer.
    Write(Request, oneshot::Sender<Result<Written, Rejection>>),
    /// Finish what came before, and end.
    Stop,
}

/// Why a request did not become an event.
enum Refusal {
    /// The client asked for what can't be.
    Client(Rejection),
    /// The storage failed.
    Storage(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error {
            Error::Failed(_) => Refusal::Storage(error),
            error => {
                log::error!("{error}");
                Refusal::Client(Rejection::Damaged)
            }
        }
    }
}

/// A request, and whom to answer.
type Asked = (Request, oneshot::Sender<Result<Written, Rejection>>);

/// The committer's own things; nobody else writes to the trees or the replica.
pub struct Committer {
    trees: Trees,
    replica: Replica,
    applier: Applier,
    disk: Disk,
    inbox: Receiver<Message>,
    shared: Arc<Shared>,
    watchdog: Watchdog,
    now_ms: fn() -> u64,
    /// Taken from the inbox and not yet performed.
    batch: VecDeque<Asked>,
    /// The unit that is being made.
    unit: Unit,
    /// Bytes in chunks that the unit puts aside.
    discarded: u64,
    /// The commit that is being made, from 1.
    commit: u64,
    /// When to look at the expiry index; `None` while it is empty.
    look_ms: Option<u64>,
}

impl Committer {
    /// A committer over an open store; it works once [`Committer::run`] is called on its own thread.
    pub fn new(
        found: Found,
        disk: Disk,
        inbox: Receiver<Message>,
        shared: Arc<Shared>,
        watchdog: Watchdog,
        now_ms: fn() -> u64,
    ) -> Committer {
        let Found { trees, replica, changes, progress, .. } = found;
        Committer {
            applier: Applier::new(trees.clone(), changes, progress),
            trees,
            replica,
            disk,
            inbox,
            shared,
            watchdog,
            now_ms,
            batch: VecDeque::new(),
            unit: Unit::new(),
            discarded: 0,
            commit: 1,
            look_ms: Some(0),
        }
    }

    /// Works until it is told to stop, and everything that was taken is answered.
    pub fn run(mut self) {
        let mut stop = false;
        while !(stop && self.batch.is_empty()) {
            stop = stop || self.gather();
            or_end(self.watchdog.clone().guard(|| self.commit()));
        }
        or_end(self.watchdog.guard(|| self.applier.close()));
    }

    /// Waits for work when there is none, and takes all of it that fits into one commit; `true` when it is the last.
    fn gather(&mut self) -> bool {
        let mut next = if self.batch.is_empty() { self.wait() } else { Ok(None) };
        let mut bytes = 0;
        loop {
            match next {
                Ok(Some(Message::Write(request, reply))) => {
                    if let Action::Put(text, _) = &request.action {
                        bytes += text.len();
                    }
                    self.batch.push_back((request, reply));
                }
                Ok(Some(Message::Stop)) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
                Ok(None) => {}
            }
            if self.batch.len() >= COMMIT_WRITES_MAX || bytes >= COMMIT_BYTES_MAX {
                return false;
            }
            match self.inbox.try_recv() {
                Ok(message) => next = Ok(Some(message)),
                Err(_) => return false,
            }
        }
    }

    fn wait(&mut self) -> Result<Option<Message>, RecvTimeoutError> {
        match self.look_ms {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => {
                let pause = at.saturating_sub((self.now_ms)());
                self.inbox.recv_timeout(Duration::from_millis(pause))
            }
        }
        .map(Some)
    }

    /// One commit, from decision to answer.
    fn commit(&mut self) -> Result<(), Error> {
        let now_ms = (self.now_ms)();
        self.disk.look()?;
        let before = self.replica.vv().clone();
        let looks = self.look_ms.is_some_and(|at| at <= now_ms);
        let due = if looks { self.expire(now_ms)? } else { Due::Later };
        let mut answers = Vec::with_capacity(self.batch.len());
        let mut bytes = 0;
        // One more is performed whatever it takes, then the rest waits for the next commit.
        while bytes < COMMIT_BYTES_MAX && self.discarded < COMMIT_DISCARD_BYTES_MAX {
            let Some((request, reply)) = self.batch.pop_front() else { break };
            if let Action::Put(text, _) = &request.action {
                bytes += text.len();
            }
            let answer = match self.perform(request, now_ms) {
                Ok(written) => Ok(written),
                Err(Refusal::Client(rejection)) => Err(rejection),
                Err(Refusal::Storage(error)) => return Err(error),
            };
            answers.push((reply, answer));
        }
        let sealed = self.seal(before)?;
        self.shared.waiting.fetch_sub(answers.len() as u64, Ordering::Relaxed);
        for (reply, answer) in answers {
            // A client that went away meanwhile does not want to know.
            let _ = reply.send(answer);
        }
        if sealed {
            self.applier.settle()?;
        }
        if looks {
            self.look_ms = self.next_look(due, now_ms)?;
        }
        Ok(())
    }

    /// Puts the unit on the disk; then it may be seen. `false` when there is nothing in it.
    fn seal(&mut self, before: VersionVector) -> Result<bool, Error> {
        let unit = std::mem::take(&mut self.unit);
        self.discarded = 0;
        if unit.is_empty() {
            return Ok(false);
        }
        let me = self.replica.me();
        let events = self.replica.vv().get(me) - before.get(me);
        self.applier.apply(unit, &mut self.replica, before, &self.shared.watermark, self.commit)?;
        self.shared.watermark.raise(self.commit);
        self.commit += 1;
        self.shared.metrics.commits.one();
        self.shared.metrics.writes.add(events);
        self.shared.publish(Published::of(&self.replica));
        Ok(true)
    }

    /// Decides one request by what the key holds at this moment of the commit.
    fn perform(&mut self, request: Request, now_ms: u64) -> Result<Written, Refusal> {
        let Request { kind, key, action, condition, token, room: _held } = request;
        let refuse = |rejection| Err(Refusal::Client(rejection));
        let place = self.unit.load(kind, &key, &self.trees)?;
        let held = &self.unit.at(place).entry;
        let current = held.token(now_ms);
        if !condition.holds(current.as_ref()) {
            return refuse(Rejection::Precondition(current));
        }
        if token.as_ref().is_some_and(|token| !token.dots().iter().all(|&dot| self.replica.vv().covers(dot)))
        {
            return refuse(Rejection::TokenAhead);
        }
        let kept = |dot: Dot| token.as_ref().is_some_and(|token| !token.names(dot));
        let (value, ttl_ms) = match action {
            Action::Delete => {
                if !held.visible(now_ms).any(|version| !kept(version.dot)) {
                    let left = current.is_some();
                    return refuse(if left { Rejection::TokenSpent } else { Rejection::Nothing });
                }
                (None, None)
            }
            Action::Put(text, ttl_ms) => {
                if held.dots().filter(|&dot| kept(dot)).count() >= SIBLINGS_MAX {
                    return refuse(Rejection::TooManySiblings);
                }
                (Some(text), ttl_ms)
            }
        };
        let room = self.disk.spend(value.as_ref().map_or(0, Vec::len) as u64);
        if room == Room::None || (room == Room::Deletes && value.is_some()) {
            self.shared.metrics.refused_disk_full.one();
            return refuse(Rejection::DiskFull);
        }
        let expires_at_ms = ttl_ms.map(|ttl| now_ms.saturating_add(ttl));
        let replaces = token.map_or(Replaces::All, Replaces::Named);
        let value = value.map(|text| (Value::Inline(text), expires_at_ms));
        let dot = self.write(place, Write { replaces, value }, now_ms);
        Ok(Written { dot, created: current.is_none() })
    }

    /// One event.
    fn write(&mut self, place: Place, write: Write, now_ms: u64) -> Dot {
        if let Some((_, Some(at))) = write.value {
            self.look_ms = Some(self.look_ms.map_or(at, |look| look.min(at)));
        }
        let chunked = |entry: &Entry| -> u64 {
            let chunked = entry.versions().iter().filter(|v| matches!(v.value, Value::Chunked { .. }));
            chunked.map(|version| version.value.bytes()).sum()
        };
        let held = chunked(&self.unit.at(place).entry);
        let dot = self.replica.write(&mut self.unit, place, write, now_ms);
        self.discarded += held - chunked(&self.unit.at(place).entry);
        dot
    }

    /// Removes versions whose time has come: an ordinary delete, by the node that wrote the version, or by any member
    /// once the time is `EXPIRY_GRACE_MS` past.
    fn expire(&mut self, now_ms: u64) -> Result<Due, Error> {
        if self.disk.room() == Room::None {
            return Ok(Due::Later);
        }
        let due = ..(now_ms + 1).to_be_bytes();
        let rows = self.trees.expiry.range(due).take(EXPIRED_PER_COMMIT_MAX);
        let rows = rows.map(|row| Ok(row?.0)).collect::<Result<Vec<sled::IVec>, Error>>()?;
        let mut removed = false;
        for row in &rows {
            let (at, kind, key) = read_expiry_key(row)?;
            let place = self.unit.load(kind, key, &self.trees)?;
            let held = &self.unit.at(place).entry;
            let mine = |v: &&Version| v.dot.origin == self.replica.me() || at + EXPIRY_GRACE_MS <= now_ms;
            let timed = || held.versions().iter().filter(|v| v.expires_at_ms == Some(at));
            if timed().next().is_none() {
                self.trees.expiry.remove(row)?;
                removed = true;
            }
            let dead: Vec<Dot> = timed().filter(mine).map(|version| version.dot).collect();
            if !dead.is_empty() {
                removed = true;
                self.shared.metrics.expired.add(dead.len() as u64);
                let replaces = Replaces::Named(Token::new(dead));
                self.write(place, Write { replaces, value: None }, now_ms);
            }
            // Clients must have their share of each commit.
            if self.discarded >= COMMIT_DISCARD_BYTES_MAX / 4 {
                return Ok(Due::Now);
            }
        }
        Ok(if removed && rows.len() == EXPIRED_PER_COMMIT_MAX { Due::Now } else { Due::Later })
    }

    /// When to look at the expiry index again.
    fn next_look(&self, due: Due, now_ms: u64) -> Result<Option<u64>, Error> {
        if due == Due::Now {
            return Ok(Some(now_ms));
        }
        let next = self.trees.expiry.iter().next().transpose()?;
        let next = next.map(|(row, _)| read_expiry_key(&row).map(|(at, ..)| at)).transpose()?;
        Ok(next.map(|at| at.max(now_ms + EXPIRY_PAUSE_MS)))
    }
}

/// An error of the storage ends the process.
fn or_end(done: Result<(), Error>) {
    if let Err(error) = done {
        durable::end_process(error.exit(), &error.to_string());
    }
}

/// Is more due than one commit may remove?
#[derive(PartialEq, Eq)]
enum Due {
    Now,
    Later,
}
