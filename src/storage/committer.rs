//! The only writer: one thread takes what has queued up, decides, writes, makes it durable, and then answers.
//!
//! Group commit comes by itself: while one commit is on its way to the disk, the next one's writes queue up.
//!
//! A commit is plain inserts, in an order in which every prefix can be repaired (`recover.rs`): per key the row of the
//! log, then chunks and index row, then the entry; after all keys the summary; after the summary the garbage. A sled
//! transaction over the trees, or a batch a tree, would be atomic by themselves, but shut every reader out while they
//! run, cost a second fdatasync a commit, and a quarter to two fifths more CPU (`docs/performance.md`).
//!
//! Order of the world: *persist, then publish, then answer*. Nobody is told anything that a crash could take back: even
//! a refusal shows what the key holds, so it too waits for the flush. Any error of the storage ends the process: sled's
//! errors are sticky, and what is in memory is then ahead of the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{self, Summary};
use super::disk::{Disk, Room};
use super::durable;
use super::error::{Error, Rejection};
use super::progress::Progress;
use super::recover::Found;
use super::trees::{Trees, change_key, expiry_key, meta, read_expiry_key};
use super::{Published, Shared};
use crate::limits::{
    COMMIT_BYTES_MAX, COMMIT_WRITES_MAX, EXPIRED_PER_COMMIT_MAX, EXPIRY_GRACE_MS, EXPIRY_PAUSE_MS,
    SIBLINGS_MAX, VALUE_INLINE_BYTES_MAX,
};
use crate::replica::{Dot, Entry, Kind, Replaces, Replica, Token, Value, Version, VersionVector, Write};

/// What the committer is sent.
pub enum Message {
    /// Do this, and answer.
    Write(Request, oneshot::Sender<Result<Written, Rejection>>),
    /// Finish what came before, and end.
    Stop,
}

/// A write as a client means it.
#[derive(Debug)]
pub struct Request {
    /// Which tree.
    pub kind: Kind,
    /// Which key.
    pub key: Vec<u8>,
    /// What to do.
    pub action: Action,
    /// In which state the key must be.
    pub condition: Condition,
    /// Which versions to replace; all when the client did not say.
    pub token: Option<Token>,
    /// Held until the request is done, whether or not its client still waits: room in memory.
    pub room: Option<OwnedSemaphorePermit>,
}

/// What to do with a key.
#[derive(Debug, Clone)]
pub enum Action {
    /// Store this text, for so many milliseconds if limited.
    Put(Vec<u8>, Option<u64>),
    /// Remove what is there.
    Delete,
}

/// Preconditions, as of RFC 9110 section 13.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// The key must be in one of these states.
    pub matches: Option<Tags>,
    /// The key must be in none of these states.
    pub matches_none: Option<Tags>,
}

/// States of a key, by the versions that a reader sees.
#[derive(Debug, Clone)]
pub enum Tags {
    /// There is something to see.
    Any,
    /// Exactly these versions are.
    These(Vec<Token>),
}

impl Condition {
    /// Does it hold for a key in this state?
    pub fn holds(&self, current: Option<&Token>) -> bool {
        let among = |tags: &Tags| match (tags, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::These(tokens), Some(current)) => tokens.contains(current),
        };
        self.matches.as_ref().is_none_or(among) && !self.matches_none.as_ref().is_some_and(among)
    }
}

/// A write that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The event that it is.
    pub dot: Dot,
    /// Was there nothing to see under the key before?
    pub created: bool,
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

/// What to drop once the summary stands.
enum Garbage {
    Row(Dot),
    Chunks(Dot),
    Expiry(u64, Kind, Vec<u8>),
}

/// The committer's own things; nobody else writes to the trees or the replica.
pub struct Committer {
    trees: Trees,
    replica: Replica,
    progress: Progress,
    disk: Disk,
    inbox: Receiver<Message>,
    shared: Arc<Shared>,
    now_ms: fn() -> u64,
    /// The commit that is being made, from 1.
    commit: u64,
    garbage: Vec<Garbage>,
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
        now_ms: fn() -> u64,
    ) -> Committer {
        let Found { trees, replica, progress, .. } = found;
        let garbage = Vec::new();
        Committer {
            trees,
            replica,
            progress,
            disk,
            inbox,
            shared,
            now_ms,
            commit: 1,
            garbage,
            look_ms: Some(0),
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let stop = self.gather(&mut batch);
            self.shared.busy(true);
            if let Err(error) = self.commit(&mut batch) {
                durable::end_process(error.exit(), &error.to_string());
            }
            self.shared.busy(false);
            if stop {
                break;
            }
        }
        if let Err(error) = self.progress.sync() {
            durable::end_process(error.exit(), &error.to_string());
        }
    }

    /// Waits for work and takes all of it that fits into one commit; `true` when it is the last.
    fn gather(&mut self, batch: &mut Vec<(Request, oneshot::Sender<Result<Written, Rejection>>)>) -> bool {
        let first = match self.look_ms {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => {
                let pause = at.saturating_sub((self.now_ms)());
                self.inbox.recv_timeout(Duration::from_millis(pause))
            }
        };
        let mut bytes = 0;
        let mut next = match first {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        };
        loop {
            match next {
                Message::Stop => return true,
                Message::Write(request, reply) => {
                    if let Action::Put(text, _) = &request.action {
                        bytes += text.len();
                    }
                    batch.push((request, reply));
                }
            }
            if batch.len() >= COMMIT_WRITES_MAX || bytes >= COMMIT_BYTES_MAX {
                return false;
            }
            match self.inbox.try_recv() {
                Ok(message) => next = message,
                Err(_) => return false,
            }
        }
    }

    /// One commit, from decision to answer.
    fn commit(
        &mut self,
        batch: &mut Vec<(Request, oneshot::Sender<Result<Written, Rejection>>)>,
    ) -> Result<(), Error> {
        let now_ms = (self.now_ms)();
        self.disk.look()?;
        let unit = self.replica.vv().clone();
        if self.look_ms.is_some_and(|at| at <= now_ms) {
            match self.disk.room() {
                Room::None => self.look_ms = Some(now_ms + EXPIRY_PAUSE_MS),
                _ => self.expire(now_ms)?,
            }
        }
        let mut answers = Vec::with_capacity(batch.len());
        for (request, reply) in batch.drain(..) {
            let answer = match self.perform(request, now_ms) {
                Ok(written) => Ok(written),
                Err(Refusal::Client(rejection)) => Err(rejection),
                Err(Refusal::Storage(error)) => return Err(error),
            };
            answers.push((reply, answer));
        }
        if *self.replica.vv() != unit {
            self.seal(unit)?;
        }
        self.shared.waiting.fetch_sub(answers.len() as u64, Ordering::Relaxed);
        for (reply, answer) in answers {
            // A client that went away meanwhile does not want to know.
            let _ = reply.send(answer);
        }
        Ok(())
    }

    /// Summary, garbage, disk; then the commit may be seen.
    fn seal(&mut self, unit: VersionVector) -> Result<(), Error> {
        let replica = &self.replica;
        let me = replica.me();
        let events = replica.vv().get(me) - unit.get(me);
        let summary = Summary {
            vv: replica.vv().clone(),
            floor: replica.floor().clone(),
            clock: replica.clock(),
            totals: *replica.totals(),
            unit,
        };
        self.trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
        for garbage in std::mem::take(&mut self.garbage) {
            match garbage {
                Garbage::Row(dot) => {
                    self.trees.changes.remove(change_key(dot))?;
                }
                Garbage::Chunks(dot) => self.trees.remove_chunks(dot)?,
                Garbage::Expiry(at, kind, key) => {
                    let entry = self.trees.entry(kind, &key)?;
                    if !entry.versions().iter().any(|version| version.expires_at_ms == Some(at)) {
                        self.trees.expiry.remove(expiry_key(at, kind, &key))?;
                    }
                }
            }
        }
        self.trees.db.flush()?;
        self.progress.note(self.replica.vv())?;
        self.shared.watermark.raise(self.commit);
        self.commit += 1;
        self.shared.metrics.commits.one();
        self.shared.metrics.writes.add(events);
        self.shared.publish(Published::of(&self.replica));
        Ok(())
    }

    /// Decides one request by what the key holds at this moment of the commit.
    fn perform(&mut self, request: Request, now_ms: u64) -> Result<Written, Refusal> {
        let Request { kind, key, action, condition, token, room: _held } = request;
        let refuse = |rejection| Err(Refusal::Client(rejection));
        let held = self.trees.entry(kind, &key)?;
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
                    return refuse(Rejection::Nothing);
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
        let dot = self.write(kind, key, held, replaces, value, expires_at_ms, now_ms);
        Ok(Written { dot: dot.map_err(Refusal::Storage)?, created: current.is_none() })
    }

    /// Writes one event, in the order that recovery relies on.
    #[expect(clippy::too_many_arguments, reason = "one event, taken apart once")]
    fn write(
        &mut self,
        kind: Kind,
        key: Vec<u8>,
        held: Entry,
        replaces: Replaces,
        text: Option<Vec<u8>>,
        expires_at_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Dot, Error> {
        self.shared.watermark.mark(&key, self.commit);
        let special = |v: &&Version| v.expires_at_ms.is_some() || matches!(v.value, Value::Chunked { .. });
        let special: Vec<Version> = held.versions().iter().filter(special).cloned().collect();
        let mut large = None;
        let value = text.map(|text| {
            if text.len() <= VALUE_INLINE_BYTES_MAX {
                return (Value::Inline(text), expires_at_ms);
            }
            let value = Value::Chunked { bytes: text.len() as u64, checksum: xxh3_64(&text) };
            large = Some(text);
            (value, expires_at_ms)
        });
        let touch = self.replica.write(kind, key, held, Write { replaces, value }, now_ms);
        let dot = touch.logged[0];
        let row = codec::encode_row(dot.origin, kind, &touch.key, &touch.before);
        self.trees.changes.insert(change_key(dot), row)?;
        if let Some(text) = large {
            self.trees.put_chunks(dot, &text)?;
        }
        if let Some(at) = expires_at_ms {
            self.trees.expiry.insert(expiry_key(at, kind, &touch.key), &[])?;
            self.look_ms = Some(self.look_ms.map_or(at, |look| look.min(at)));
        }
        for old in special.into_iter().filter(|old| !touch.entry.holds(old.dot)) {
            if let Some(at) = old.expires_at_ms {
                self.garbage.push(Garbage::Expiry(at, kind, touch.key.clone()));
            }
            if let Value::Chunked { .. } = old.value {
                self.garbage.push(Garbage::Chunks(old.dot));
            }
        }
        self.garbage.extend(touch.forgotten.iter().map(|&dot| Garbage::Row(dot)));
        self.trees.put_entry(kind, &touch.key, touch.entry)?;
        Ok(dot)
    }

    /// Removes versions whose time has come: an ordinary delete, by the node that wrote the version, or by any member
    /// once the time is `EXPIRY_GRACE_MS` past.
    fn expire(&mut self, now_ms: u64) -> Result<(), Error> {
        let due = ..(now_ms + 1).to_be_bytes();
        let rows = self.trees.expiry.range(due).take(EXPIRED_PER_COMMIT_MAX);
        let rows = rows.map(|row| Ok(row?.0)).collect::<Result<Vec<sled::IVec>, Error>>()?;
        let more = rows.len() == EXPIRED_PER_COMMIT_MAX;
        let mut removed = false;
        for row in &rows {
            let (at, kind, key) = read_expiry_key(row)?;
            let held = self.trees.entry(kind, key)?;
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
                self.write(kind, key.to_vec(), held, replaces, None, None, now_ms)?;
            }
        }
        if more && removed {
            self.look_ms = Some(now_ms);
            return Ok(());
        }
        let next = self.trees.expiry.iter().next().transpose()?;
        let next = next.map(|(row, _)| read_expiry_key(&row).map(|(at, ..)| at)).transpose()?;
        self.look_ms = next.map(|at| at.max(now_ms + EXPIRY_PAUSE_MS));
        Ok(())
    }
}
