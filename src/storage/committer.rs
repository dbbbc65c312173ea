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
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::apply::Applier;
use super::audience::Audience;
use super::disk::Disk;
use super::draft::{Draft, Due, Refusal};
use super::durable;
use super::error::{Error, Rejection};
use super::identity::Note;
use super::pass::Pass;
use super::recover::Found;
use super::request::{Action, Hold, Parcel, Request, Written};
use super::roster::Roster;
use super::snapshot::Ask;
use super::trees::{change_key, read_row};
use super::watchdog::Watchdog;
use super::{Published, Settings, Shared};
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_WRITES_MAX, FORGET_PER_COMMIT_MAX, LAPSE_LOOK_MS};
use crate::replica::{Kind, NodeId, Place, Taken, Trees as _, VersionVector};

/// What the committer is sent.
pub enum Message {
    /// Do this, and answer.
    Write(Request, oneshot::Sender<Result<Written, Rejection>>),
    /// Take this in, and answer what is incorporated then. What is held is held until that is done.
    Take((Parcel, Option<Hold>), oneshot::Sender<Result<VersionVector, Rejection>>),
    /// Remember this of the node.
    Note(Note, oneshot::Sender<Result<(), Rejection>>),
    /// A member has said what it has: something that waits for that may go on.
    Heard,
    /// Show what there is between two commits.
    Moment(Ask),
    /// Keep what happens from now on for a guest.
    Receive(oneshot::Sender<(NodeId, VersionVector)>),
    /// Finish what came before, and end.
    Stop,
}

/// What is to be done in a commit, and whom to answer.
enum Asked {
    Write(Request, oneshot::Sender<Result<Written, Rejection>>),
    Take((Parcel, Option<Hold>), oneshot::Sender<Result<VersionVector, Rejection>>),
    Note(Note, oneshot::Sender<Result<(), Rejection>>),
}

impl Asked {
    /// What it brings, about.
    fn bytes(&self) -> usize {
        match self {
            Asked::Write(Request { action: Action::Put(text, _), .. }, _) => text.len(),
            Asked::Take((parcel, _), _) => parcel.bytes(),
            _ => 0,
        }
    }
}

/// An answer that waits for the disk.
enum Answer {
    Written(oneshot::Sender<Result<Written, Rejection>>, Result<Written, Rejection>),
    /// What is incorporated is known when the commit is.
    Taken((oneshot::Sender<Result<VersionVector, Rejection>>, Option<Hold>), Result<(), Rejection>),
    Noted(oneshot::Sender<Result<(), Rejection>>),
}

/// The committer's own things; nobody else writes to the trees or the replica.
pub struct Committer {
    /// The commit that is being made, and what it is made from.
    draft: Draft,
    applier: Applier,
    inbox: Receiver<Message>,
    shared: Arc<Shared>,
    watchdog: Watchdog,
    now_ms: fn() -> u64,
    /// Taken from the inbox and not yet performed.
    batch: VecDeque<Asked>,
    /// The number of the commit that is being made, from 1.
    commit: u64,
    /// When to look at the expiry index; `None` while it is empty.
    look_ms: Option<u64>,
    /// Forgetting that no row of the log refers to.
    pass: Pass,
    /// Whom forgetting waits for.
    audience: Audience,
    /// Is there something to do that nobody asks for?
    goes_on: bool,
    /// Is there something to do once members have said that they have something, or have been silent for too long?
    waits: bool,
    /// Does nothing more come?
    stops: bool,
}

impl Committer {
    /// A committer over an open store; it works once [`Committer::run`] is called on its own thread.
    pub fn new(
        found: Found,
        disk: Disk,
        inbox: Receiver<Message>,
        shared: Arc<Shared>,
        watchdog: Watchdog,
        settings: &Settings,
    ) -> Committer {
        let Found { trees, replica, changes, progress, repairs, .. } = found;
        Committer {
            applier: Applier::new(trees.clone(), changes, progress, repairs),
            draft: Draft::new(trees, replica, disk, shared.clone()),
            inbox,
            shared,
            watchdog,
            now_ms: settings.now_ms,
            batch: VecDeque::new(),
            commit: 1,
            look_ms: Some(0),
            pass: Pass::default(),
            audience: Audience::new(settings.forget_after.as_millis() as u64),
            goes_on: false,
            waits: false,
            stops: false,
        }
    }

    /// Works until it is told to stop, and everything that was taken is answered: of a sweep that goes by parts, that it stops.
    pub fn run(mut self) {
        // What an earlier run had still to forget stands nowhere: who was a member then is new to this one.
        or_end(self.admit());
        while !(self.stops && self.batch.is_empty()) {
            self.stops = self.stops || self.gather();
            or_end(self.watchdog.clone().guard(|| self.commit()));
        }
        or_end(self.watchdog.guard(|| self.applier.close()));
    }

    /// Waits for work when there is none, and takes all of it that fits into one commit; `true` when it is the last.
    fn gather(&mut self) -> bool {
        let idle = self.batch.is_empty() && !self.goes_on;
        let mut next = if idle { self.wait() } else { self.poll() };
        let mut bytes = 0;
        loop {
            let asked = match next {
                Ok(Message::Write(request, reply)) => Some(Asked::Write(request, reply)),
                Ok(Message::Take(parcel, reply)) => Some(Asked::Take(parcel, reply)),
                Ok(Message::Note(note, reply)) => Some(Asked::Note(note, reply)),
                Ok(Message::Heard) => None,
                Ok(Message::Moment(ask)) => {
                    ask.answer(&self.draft.trees, &self.shared, &self.draft.replica);
                    None
                }
                Ok(Message::Receive(reply)) => {
                    self.receive(reply);
                    None
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            };
            if let Some(asked) = asked {
                bytes += asked.bytes();
                self.batch.push_back(asked);
            }
            if self.batch.len() >= COMMIT_WRITES_MAX || bytes >= COMMIT_BYTES_MAX {
                return false;
            }
            next = self.poll();
        }
    }

    fn poll(&self) -> Result<Message, RecvTimeoutError> {
        self.inbox.try_recv().map_err(|e| match e {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        // Of a member that is silent for too long nobody tells.
        let lapse = self.waits.then_some(LAPSE_LOOK_MS);
        let look = self.look_ms.map(|at| at.saturating_sub((self.now_ms)()));
        match lapse.into_iter().chain(look).min() {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => self.inbox.recv_timeout(Duration::from_millis(pause)),
        }
    }

    /// One commit, from decision to answer.
    fn commit(&mut self) -> Result<(), Error> {
        let now_ms = (self.now_ms)();
        self.draft.disk.look()?;
        let before = self.draft.replica.vv().clone();
        self.audience.see_off(&mut self.draft.replica, &self.shared.guests, now_ms);
        if self.audience.listen(&mut self.draft.replica, &self.shared.heard, now_ms) {
            self.pass.ask(self.draft.replica.vv());
        }
        self.forget()?;
        let looks = self.look_ms.is_some_and(|at| at <= now_ms);
        let due = if looks { self.draft.expire(now_ms)? } else { Due::Later };
        let mut answers = Vec::with_capacity(self.batch.len());
        let (mut bytes, mut writes) = (0, 0);
        // One more is performed whatever it takes, then the rest waits for the next commit.
        while bytes < COMMIT_BYTES_MAX && !self.draft.is_full() {
            let Some(asked) = self.batch.pop_front() else { break };
            bytes += asked.bytes();
            answers.push(match asked {
                Asked::Write(request, reply) => {
                    writes += 1;
                    Answer::Written(reply, refused(self.draft.perform(request, now_ms))?)
                }
                Asked::Take((parcel, hold), reply) => {
                    let taken = refused(self.draft.take(parcel, now_ms))?;
                    let taken = match taken {
                        // Whatever else has come goes before the rest of it, or clients would wait for all of its parts.
                        Ok(Taken::Part(rest)) if !self.stops => {
                            self.batch.push_back(Asked::Take((Parcel::Sweep(rest), hold), reply));
                            break;
                        }
                        Ok(Taken::Part(_)) => Err(Rejection::Stopping),
                        taken => taken.map(|_| ()),
                    };
                    Answer::Taken((reply, hold), taken)
                }
                Asked::Note(note, reply) => {
                    self.note(&note)?;
                    Answer::Noted(reply)
                }
            });
        }
        let sealed = self.seal(before)?;
        // Once the roster is known as well: who went may have left something in the middle of a sweep.
        if self.draft.replica.brought_rowless() {
            self.pass.ask(self.draft.replica.vv());
        }
        self.shared.waiting.fetch_sub(writes, Ordering::Relaxed);
        for answer in answers {
            // A client that went away meanwhile does not want to know.
            match answer {
                Answer::Written(reply, answer) => drop(reply.send(answer)),
                Answer::Taken((reply, hold), taken) => {
                    // First, for who is answered may send more at once.
                    drop(hold);
                    drop(reply.send(taken.map(|()| self.draft.replica.vv().clone())));
                }
                Answer::Noted(reply) => drop(reply.send(Ok(()))),
            }
        }
        if sealed {
            self.applier.settle()?;
        }
        if looks {
            self.look_ms = self.draft.next_look(due, now_ms)?;
        }
        // Members may have said all that it takes before the rows came, or while this commit was made: nobody wakes it then.
        let replica = &self.draft.replica;
        let ripe = self.applier.changes().any_ripe(replica)
            || self.pass.goes_on(|vv| vv.iter().all(|dot| replica.stable(dot)));
        self.waits = self.applier.changes().waits() || self.pass.waits();
        self.goes_on = self.shared.heard.want(self.waits) || ripe;
        Ok(())
    }

    /// Puts the unit on the disk; then it may be seen. `false` when there is nothing in it.
    fn seal(&mut self, before: VersionVector) -> Result<bool, Error> {
        let unit = std::mem::take(&mut self.draft.unit);
        if unit.is_empty() {
            return Ok(false);
        }
        let me = self.draft.replica.me();
        let events = self.draft.replica.vv().get(me) - before.get(me);
        let fresh = unit.changes().flat_map(|touch| touch.fresh());
        let due = fresh.filter_map(|version| version.expires_at_ms).min();
        self.look_ms = self.look_ms.into_iter().chain(due).min();
        let roster = unit.changes().any(|touch| touch.kind == Kind::Membership);
        self.shared.watermark.begin(self.commit);
        self.applier.apply(unit, &mut self.draft.replica, before, &self.shared, self.commit)?;
        if roster {
            // Before anybody reads the records: who sees them sees what follows from them.
            self.admit()?;
        }
        if self.applier.unforgotten() {
            self.pass.ask(self.draft.replica.vv());
        }
        self.shared.publish(Published::of(&self.draft.replica));
        self.shared.watermark.raise(self.commit);
        self.commit += 1;
        self.shared.metrics.commits.one();
        self.shared.metrics.writes.add(events);
        Ok(true)
    }

    /// Forgetting waits for whoever is a member now.
    fn admit(&mut self) -> Result<(), Error> {
        let Roster { members, evicted } = Roster::read(&self.draft.trees)?;
        if self.audience.follow(&members, &mut self.draft.replica, &self.shared.heard, (self.now_ms)()) {
            self.pass.ask(self.draft.replica.vv());
        }
        self.shared.evicted.keep(evicted);
        Ok(())
    }

    /// A guest comes, between two commits.
    fn receive(&mut self, reply: oneshot::Sender<(NodeId, VersionVector)>) {
        let guests = &self.shared.guests;
        let guest = self.audience.receive(&mut self.draft.replica, guests, (self.now_ms)());
        if reply.send((guest, self.draft.replica.vv().clone())).is_err() {
            guests.part(guest);
        }
    }

    /// Lets go of what every member has seen: a share of it in each commit.
    fn forget(&mut self) -> Result<(), Error> {
        let mut keys = 0;
        while keys < FORGET_PER_COMMIT_MAX
            && let Some(row) = self.applier.changes().ripe(&self.draft.replica)
        {
            let Some(bytes) = self.draft.trees.changes.get(change_key(row.first))? else { continue };
            for event in read_row(&change_key(row.first), &bytes)?.events {
                let place = self.draft.unit.load(event.kind, &event.key, &self.draft.trees)?;
                self.let_go(place);
                keys += 1;
            }
        }
        if !self.pass.begins(|vv| vv.iter().all(|dot| self.draft.replica.stable(dot))) {
            return Ok(());
        }
        let held = self.draft.trees.entries_after(self.pass.after.as_ref(), FORGET_PER_COMMIT_MAX)?;
        self.pass.after = held.last().map(|(kind, key, _)| (*kind, key.clone()));
        for (kind, key, _) in held.iter().filter(|(_, _, entry)| entry.leftover()) {
            let place = self.draft.unit.load(*kind, key, &self.draft.trees)?;
            self.let_go(place);
        }
        if held.len() < FORGET_PER_COMMIT_MAX {
            self.pass.end();
        }
        Ok(())
    }

    fn let_go(&mut self, place: Place) {
        if let Some(waits_for) = self.draft.replica.forget(&mut self.draft.unit, place) {
            self.pass.ask(&waits_for);
        }
    }

    /// Writes what the node is to remember of itself. What follows for all does so here: whoever asked may be gone, and what is
    /// in memory must say what is on the disk.
    fn note(&mut self, note: &Note) -> Result<(), Error> {
        note.write(&self.draft.trees)?;
        match note {
            Note::Cluster(id) => self.shared.cluster.store(id.0, Ordering::Release),
            Note::Nowhere { .. } => self.shared.cluster.store(NodeId::NOBODY.0, Ordering::Release),
            Note::Node(id) => {
                self.draft.replica.rename(*id);
                self.shared.me.store(id.0, Ordering::Release);
                // The old id is a member like any other until its record goes.
                self.admit()?;
            }
            Note::NotFormer(_) | Note::Arriving(_) | Note::Here(_) => {}
        }
        Ok(())
    }
}

/// A refusal goes to who asked, a failure of the storage up.
fn refused<T>(done: Result<T, Refusal>) -> Result<Result<T, Rejection>, Error> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Refusal::Client(rejection)) => Ok(Err(rejection)),
        Err(Refusal::Storage(error)) => Err(error),
    }
}

/// An error of the storage ends the process.
fn or_end(done: Result<(), Error>) {
    if let Err(error) = done {
        durable::end_process(error.exit(), &error.advised());
    }
}
