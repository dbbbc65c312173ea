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
    ORIGINS_MAX, SIBLINGS_BYTES_MAX, SIBLINGS_MAX, SWEEP_DEAD_KEYS_MAX,
};
use crate::replica::{Dot, Kind, Replaces, Replica, Taken, Token, Unit, Value, Version, Write};

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
}

impl Draft {
    /// Nothing has been asked yet.
    pub fn new(trees: Trees, replica: Replica, disk: Disk, shared: Arc<Shared>) -> Draft {
        Draft { trees, replica, disk, shared, unit: Unit::new() }
    }

    /// Does it put aside as much as one commit should?
    pub fn is_full(&self) -> bool {
        self.unit.discarded() >= COMMIT_DISCARD_BYTES_MAX
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
        let dot = self.replica.write(&mut self.unit, place, Write { replaces, value }, now_ms);
        Ok(Written { dot, created: current.is_none(), put })
    }

    /// Takes in what a peer has sent: all of a frame that one commit may take, or a part of a sweep.
    pub fn take(&mut self, parcel: Parcel, now_ms: u64) -> Result<Taken, Refusal> {
        let known = self.replica.vv();
        let new = parcel.origins().into_iter().filter(|origin| known.get(*origin) == 0).count();
        if known.iter().len() + new > ORIGINS_MAX {
            return Err(Refusal::Client(Rejection::TooManyOrigins));
        }
        if self.disk.spend(parcel.bytes() as u64) == Room::None {
            self.shared.metrics.refused_disk_full.one();
            return Err(Refusal::Client(Rejection::DiskFull));
        }
        let taken = match parcel {
            Parcel::Frame(frame) => {
                self.replica.receive(&frame, &mut self.unit, &self.trees, now_ms).map(|()| Taken::Whole)
            }
            Parcel::Sweep(sweep) => {
                self.replica.take_sweep(sweep, SWEEP_DEAD_KEYS_MAX, &mut self.unit, &self.trees, now_ms)
            }
        };
        // A unit that could not be finished must not be written: damage that is met here ends the process.
        match taken.map_err(Refusal::Storage)? {
            Taken::OutOfTurn => Err(Refusal::Client(Rejection::OutOfTurn)),
            taken => Ok(taken),
        }
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
                self.replica.write(&mut self.unit, place, Write { replaces, value: None }, now_ms);
            }
            // Clients must have their share of each commit.
            if self.unit.discarded() >= COMMIT_DISCARD_BYTES_MAX / 4 {
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

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::super::{Condition, Store};
    use super::*;
    use crate::limits::SWEEP_LOOKS_PER_DEAD_KEY;
    use crate::replica::{NodeId, Sweep};

    /// A piece may span all keys and list none, of a sender that has incorporated nothing of them.
    #[test]
    fn keys_that_are_not_dead_are_looked_at_in_parts_as_well() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Store::open(&settings(place.path()), Default::default()).expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let keys = 2 * SWEEP_LOOKS_PER_DEAD_KEY + 1;
        runtime.block_on(async {
            for n in 0..keys {
                let (key, condition) = (format!("k{n:06}").into_bytes(), Condition::default());
                let action = Action::Put(b"1".to_vec(), None);
                let request = Request { kind: Kind::Data, key, action, condition, token: None, room: None };
                store.write(request).await.expect("written");
            }
        });
        let published = store.published();
        let (sender, mut target) = (NodeId(7), published.vv.clone());
        target.raise(Dot::new(sender, 1));
        let vv: crate::replica::VersionVector = [Dot::new(sender, 1)].into_iter().collect();
        let mut replica = super::super::shipping::replica(store.me(), &published);
        let mut sweep = Sweep { sender, target, vv, after: None, through: None, entries: Vec::new() };
        let mut ends = Vec::new();
        loop {
            let mut unit = Unit::new();
            let trees = &store.0.trees;
            match replica.take_sweep(sweep, 1, &mut unit, trees, 0).expect("taken") {
                Taken::Part(rest) => sweep = rest,
                Taken::Whole => break,
                Taken::OutOfTurn => panic!("it does not go on"),
            }
            ends.push(sweep.after.clone().expect("it begins somewhere").1);
        }
        let last = |part: usize| format!("k{:06}", part * SWEEP_LOOKS_PER_DEAD_KEY - 1).into_bytes();
        assert_eq!(ends, [last(1), last(2)]);
        store.close();
    }

    #[test]
    fn what_one_message_calls_dead_goes_in_commits_of_their_size_and_holds_nobody_up() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Store::open(&settings(place.path()), Default::default()).expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let keys = 4 * SWEEP_DEAD_KEYS_MAX + 1;
        let write = |n: usize| {
            let (key, condition) = (format!("k{n:06}").into_bytes(), Condition::default());
            let action = Action::Put(b"1".to_vec(), None);
            store.write(Request { kind: Kind::Data, key, action, condition, token: None, room: None })
        };
        let commits = || store.0.shared.metrics.commits.get();
        runtime.block_on(async {
            for n in 0..keys {
                write(n).await.expect("written");
            }
            let before = commits();
            let (sender, mut vv) = (NodeId(7), store.published().vv.clone());
            vv.raise(Dot::new(sender, 1));
            let target = vv.clone();
            let piece = Sweep { sender, target, vv, after: None, through: None, entries: Vec::new() };
            // Whose turn it is to sweep is held until the last part is in, or another one would begin in between.
            let turn = Arc::new(());
            let take = store.take(Parcel::Sweep(piece.clone()), Some(Box::new(turn.clone())));
            let mut take = std::pin::pin!(take);
            let writes = async {
                loop {
                    match write(keys).await {
                        Err(Rejection::Busy) => tokio::task::yield_now().await,
                        done => break done,
                    }
                }
            };
            tokio::select! {
                biased;
                _ = &mut take => panic!("the client has waited for all of it"),
                written = writes => drop(written.expect("written")),
            }
            assert_eq!(Arc::strong_count(&turn), 2, "given back before the last part");
            let has = take.await.expect("taken");
            assert_eq!(Arc::strong_count(&turn), 1);
            assert!(has.covers_all(&piece.target), "it has not ended");
            assert_eq!(store.published().totals.keys, 1);
            assert!((5..=6).contains(&(commits() - before)), "{}", commits() - before);
        });
        store.close();
    }
}
