//! What one commit makes of what was asked: each request is decided by what its key holds at that moment of the commit.
//!
//! Everything happens in memory, in a unit; nothing here writes to the trees (but for rows of the expiry index that mean
//! nothing any more), and nobody is told of anything. The committer, which puts the unit on the disk and then answers, is the
//! only caller.

use std::sync::Arc;

use super::Shared;
use super::disk::{Disk, Room};
use super::error::{Error, Rejection};
use super::request::{Action, Parcel, Request, Written};
use super::trees::{Trees, read_expiry_key};
use crate::limits::{
    COMMIT_DISCARD_BYTES_MAX, EXPIRED_PER_COMMIT_MAX, EXPIRY_GRACE_MS, EXPIRY_LOOK_MAX, EXPIRY_PAUSE_MS,
    ORIGINS_MAX, SIBLINGS_BYTES_MAX, SIBLINGS_MAX,
};
use crate::replica::{Dot, Entry, Kind, Place, Replaces, Replica, Token, Unit, Value, Version, Write};

/// Why a request did not become an event.
pub enum Refusal {
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

/// Is more due than one commit may remove?
#[derive(PartialEq, Eq)]
pub enum Due {
    Now,
    Later,
}

/// A commit in the making: what it is made from, and what it has become so far.
pub struct Draft {
    pub trees: Trees,
    pub replica: Replica,
    pub disk: Disk,
    shared: Arc<Shared>,
    /// What it changes.
    pub unit: Unit,
    /// Bytes in chunks that the unit puts aside.
    discarded: u64,
}

impl Draft {
    /// Nothing has been asked yet.
    pub fn new(trees: Trees, replica: Replica, disk: Disk, shared: Arc<Shared>) -> Draft {
        Draft { trees, replica, disk, shared, unit: Unit::new(), discarded: 0 }
    }

    /// What it has become; the next one begins.
    pub fn finish(&mut self) -> Unit {
        self.discarded = 0;
        std::mem::take(&mut self.unit)
    }

    /// Does it put aside as much as one commit should?
    pub fn is_full(&self) -> bool {
        self.discarded >= COMMIT_DISCARD_BYTES_MAX
    }

    /// Decides one request by what the key holds at this moment of the commit.
    pub fn perform(&mut self, request: Request, now_ms: u64) -> Result<Written, Refusal> {
        let Request { kind, key, action, condition, token, room: _held } = request;
        let refuse = |rejection| Err(Refusal::Client(rejection));
        let place = self.unit.load(kind, &key, &self.trees)?;
        let held = &self.unit.at(place).entry;
        let current = held.token(now_ms);
        if !condition.holds(current.as_ref()) {
            return refuse(Rejection::Precondition(current));
        }
        // An entry may be ahead of the vector: what it shows can be named.
        let known = |dot: Dot| self.replica.vv().covers(dot) || held.context().covers(dot);
        if token.as_ref().is_some_and(|token| !token.dots().iter().all(|dot| known(*dot))) {
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
                let siblings = || held.versions().iter().filter(|version| kept(version.dot));
                let bytes = text.len() as u64 + siblings().map(|version| version.value.bytes()).sum::<u64>();
                if siblings().count() >= SIBLINGS_MAX || bytes > SIBLINGS_BYTES_MAX {
                    return refuse(Rejection::TooManySiblings);
                }
                (Some(text), ttl_ms)
            }
        };
        let room = self.disk.spend(value.as_ref().map_or(0, Vec::len) as u64);
        // An eviction is a record as well, and makes room: who is waited for holds forgetting back.
        let grows = value.is_some() && kind == Kind::Data;
        if room == Room::None || (room == Room::Deletes && grows) {
            self.shared.metrics.refused_disk_full.one();
            return refuse(Rejection::DiskFull);
        }
        let expires_at_ms = ttl_ms.map(|ttl| now_ms.saturating_add(ttl));
        let replaces = token.map_or(Replaces::All, Replaces::Named);
        let put = value.is_some();
        let value = value.map(|text| (Value::Inline(text), expires_at_ms));
        let dot = self.write(place, Write { replaces, value }, now_ms);
        Ok(Written { dot, created: current.is_none(), put })
    }

    /// Takes in what a peer has sent. `true` when it ends a sweep: no row of the log refers to what the swept entries remember.
    pub fn take(&mut self, parcel: &Parcel, now_ms: u64) -> Result<bool, Refusal> {
        let known = self.replica.vv();
        let new = parcel.origins().into_iter().filter(|origin| known.get(*origin) == 0).count();
        if known.iter().len() + new > ORIGINS_MAX {
            return Err(Refusal::Client(Rejection::TooManyOrigins));
        }
        if self.disk.spend(parcel.bytes() as u64) == Room::None {
            self.shared.metrics.refused_disk_full.one();
            return Err(Refusal::Client(Rejection::DiskFull));
        }
        // A unit that could not be finished must not be written: damage that is met here ends the process.
        let fatal = |error: Error| Refusal::Storage(error);
        match parcel {
            Parcel::Frame(frame) => {
                self.replica.receive(frame, &mut self.unit, &self.trees, now_ms).map_err(fatal)?;
                Ok(false)
            }
            Parcel::Sweep(sweep) => {
                let next = self.replica.take_sweep(sweep, &mut self.unit, &self.trees, now_ms);
                match next.map_err(fatal)? {
                    true => Ok(sweep.through.is_none()),
                    false => Err(Refusal::Client(Rejection::OutOfTurn)),
                }
            }
        }
    }

    /// One event.
    fn write(&mut self, place: Place, write: Write, now_ms: u64) -> Dot {
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
    pub fn expire(&mut self, now_ms: u64) -> Result<Due, Error> {
        if self.disk.room() == Room::None {
            return Ok(Due::Later);
        }
        let due = ..(now_ms + 1).to_be_bytes();
        // Those of other nodes, in their grace, must not hide the rest.
        let rows = self.trees.expiry.range(due).take(EXPIRY_LOOK_MAX);
        let rows = rows.map(|row| Ok(row?.0)).collect::<Result<Vec<sled::IVec>, Error>>()?;
        let mut removed = 0;
        for row in &rows {
            if removed >= EXPIRED_PER_COMMIT_MAX {
                return Ok(Due::Now);
            }
            let (at, kind, key) = read_expiry_key(row)?;
            let place = self.unit.load(kind, key, &self.trees)?;
            let held = &self.unit.at(place).entry;
            let mine = |v: &&Version| v.dot.origin == self.replica.me() || at + EXPIRY_GRACE_MS <= now_ms;
            let timed = || held.versions().iter().filter(|v| v.expires_at_ms == Some(at));
            if timed().next().is_none() {
                self.trees.expiry.remove(row)?;
                removed += 1;
            }
            let dead: Vec<Dot> = timed().filter(mine).map(|version| version.dot).collect();
            if !dead.is_empty() {
                removed += 1;
                self.shared.metrics.expired.add(dead.len() as u64);
                let replaces = Replaces::Named(Token::new(dead));
                self.write(place, Write { replaces, value: None }, now_ms);
            }
            // Clients must have their share of each commit.
            if self.discarded >= COMMIT_DISCARD_BYTES_MAX / 4 {
                return Ok(Due::Now);
            }
        }
        Ok(if removed > 0 && rows.len() == EXPIRY_LOOK_MAX { Due::Now } else { Due::Later })
    }

    /// When to look at the expiry index again.
    pub fn next_look(&self, due: Due, now_ms: u64) -> Result<Option<u64>, Error> {
        if due == Due::Now {
            return Ok(Some(now_ms));
        }
        let next = self.trees.expiry.iter().next().transpose()?;
        let next = next.map(|(row, _)| read_expiry_key(&row).map(|(at, ..)| at)).transpose()?;
        Ok(next.map(|at| at.max(now_ms + EXPIRY_PAUSE_MS)))
    }
}
