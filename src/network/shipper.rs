//! One for each other member: brings its version vector up to ours, and knows nothing else.
//!
//! One message at a time; the answer is acknowledgement, flow control and resume point in one. Own events go out as soon as
//! they are on the disk here; those of another origin when the member has lacked them for a while. Who lacks more than the
//! log has is swept. When there is nothing to send, the member is told now and then what we have: soon when that has
//! changed, seldom else, and the seldomer the more members there are, so that all of it together stays a trickle.
//! A member that is slow, stopped or gone costs nobody but this task anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::Error;
use super::load::Load;
use super::wire::{Message, Refusal, Reply};
use super::{House, NOWHERE};
use crate::limits::{
    COMPARE_PAUSE_MS, REFUSED_TOLD_MS, SWEEP_REST_MS_MAX, TELL_MS, TELL_SHARE, UNEQUAL_LOOKS,
    UNREADABLE_PAUSE_MS,
};
use crate::replica::{Courier, NodeId, VersionVector};
use crate::storage::Next;

/// Carries out what the rules decide for one member.
struct Shipper {
    house: Arc<House>,
    peer: NodeId,
    courier: Courier,
    /// The courier's clock counts from here.
    began: Instant,
    /// What the last message that was answered said that we have, and when that was.
    told: Option<(VersionVector, Instant)>,
    comparisons: Comparisons,
    refused: Refused,
    /// How much the next message holds.
    load: Load,
    /// Do clients come before the sweep that is under way, and how many events had been written here when its last piece went?
    gives_way: bool,
    written: u64,
    /// Did the last message that was answered hold anything?
    held: bool,
    /// Does the log say that it is sent everything?
    sweep_told: bool,
    /// Why it is, if it is.
    reason: String,
}

/// Refusals in a row.
#[derive(Default)]
struct Refused {
    /// The first, and the last.
    since: Option<(Instant, Instant)>,
    /// Has the log been told?
    told: bool,
}

impl Refused {
    /// One more; `true` when it is time to tell.
    fn again(&mut self) -> bool {
        let (now, long) = (Instant::now(), Duration::from_millis(REFUSED_TOLD_MS));
        // What it refused long ago, before it was away, is another matter.
        let since = self.since.filter(|(_, last)| now - *last < long).map_or(now, |(first, _)| first);
        self.since = Some((since, now));
        let due = !self.told && now - since >= long;
        self.told |= due;
        due
    }
}

/// When the member is shown everything because it holds something else under the same vector.
struct Comparisons {
    /// When the last one began, and how long after that the next one may.
    last: Option<(Instant, Duration)>,
}

impl Comparisons {
    /// May one begin now, and has one been of no use lately?
    fn begin(&mut self) -> Option<bool> {
        let (first, longest) = COMPARE_PAUSE_MS;
        let (first, longest) = (Duration::from_millis(first), Duration::from_millis(longest));
        let before = self.last.filter(|(began, _)| began.elapsed() < 2 * longest);
        if before.is_some_and(|(began, pause)| began.elapsed() < pause) {
            return None;
        }
        let pause = before.map_or(first, |(_, pause)| (2 * pause).min(longest));
        self.last = Some((Instant::now(), pause));
        Some(before.is_some())
    }

    /// The one that began last was cut off, by the member or the line: it does not count.
    fn cut_off(&mut self) {
        self.last = None;
    }
}

/// Ships until it is aborted.
pub async fn ship(house: Arc<House>, peer: NodeId) {
    let mut feed = house.store.feed();
    let (courier, began) = (Courier::new(peer), Instant::now());
    let (comparisons, refused) = (Comparisons { last: None }, Refused::default());
    let mut shipper = Shipper {
        house,
        peer,
        courier,
        began,
        told: None,
        comparisons,
        refused,
        load: Load::new(),
        gives_way: false,
        written: 0,
        held: false,
        sweep_told: false,
        reason: String::new(),
    };
    let mut failures = 0;
    loop {
        feed.mark_unchanged();
        shipper.house.store.settled().await;
        match shipper.step().await {
            Ok(more) => {
                // That it answers to what holds nothing shows little.
                if shipper.held || !more {
                    failures = 0;
                    shipper.refused = Refused::default();
                }
                if !more {
                    shipper.rest(&mut feed).await;
                }
            }
            Err(error) => {
                shipper.failed(&error, failures);
                failures += 1;
                let pause = match error {
                    Error::Storage(_) => Duration::from_millis(UNREADABLE_PAUSE_MS),
                    _ => shipper.house.pause(failures),
                };
                tokio::time::sleep(pause).await;
            }
        }
    }
}

impl Shipper {
    /// Waits until there is something new to send, or it is time to tell.
    async fn rest(&self, feed: &mut watch::Receiver<u64>) {
        let me = self.house.store.me();
        loop {
            let published = self.house.store.published();
            let due = self.told.as_ref().map_or_else(Instant::now, |(told, at)| {
                let members = self.house.store.members().len() as u64;
                let news = *told != published.vv || self.courier.behind(&published.vv);
                let turn = TELL_MS * members / if news { TELL_SHARE } else { 1 };
                *at + Duration::from_millis(turn.max(TELL_MS))
            });
            tokio::select! {
                _ = feed.changed() => self.house.store.settled().await,
                () = tokio::time::sleep_until(due.into()) => return,
            }
            if self.courier.lagging(me, &self.house.store.published().vv) {
                return;
            }
        }
    }

    /// One message and its answer; `true` when there is more to send at once.
    async fn step(&mut self) -> Result<bool, Error> {
        let house = self.house.clone();
        let Some(address) = house.reach(self.peer).await else {
            return Err(Error::Unreachable("its address is not known".into()));
        };
        if house.store.cluster() == NOWHERE {
            return Err(Error::Unreachable("this node has left the cluster".into()));
        }
        let message = self.next().await?;
        let telling = match &message {
            Message::Frame(_, frame) => Some(frame.vv.clone()),
            _ => None,
        };
        let said = house.store.said_by(self.peer).unwrap_or_default().vv;
        let (bytes, sweeps, opens) = match &message {
            Message::Sweep(_, piece) => (piece.bytes(), true, piece.opens()),
            Message::Frame(_, frame) => (frame.bytes(), false, false),
            _ => (0, false, false),
        };
        let asked = Instant::now();
        let (from, reply) = house.ask(&address, message).await?;
        self.load.answered(bytes, asked.elapsed(), sweeps);
        self.held = bytes > 0;
        if sweeps && self.gives_way {
            self.give_way(asked.elapsed()).await;
        }
        if from != self.peer {
            return Err(Refusal::OtherNode(from).into());
        }
        let Reply::Have(vv) = reply else {
            return Err(Error::Unreadable("it answered something else".into()));
        };
        let answer = self.courier.answered(&vv, &said);
        match opens {
            true if !self.sweep_told => {
                log::info!("member {} lacks {}: it is sent everything", self.peer, self.reason);
                self.sweep_told = true;
            }
            // Of one that begins anew again and again nothing more is said.
            _ => {
                let lacks = self.courier.behind(&house.store.published().vv);
                self.sweep_told &= self.courier.sweeping() || !sweeps && lacks;
            }
        }
        if answer.fell_back {
            // It has answered after it was asked, and has less than it had said before that.
            log::error!(
                "member {} was set back: it holds less than it once had, and is brought up to date",
                self.peer
            );
            house.store.fell_back(self.peer, &vv);
        }
        // Nothing is sent before it is published: who knows more knew another history of this node.
        let me = house.store.me();
        if vv.get(me) > house.store.published().vv.get(me) {
            return Err(Refusal::RolledBack(vv.get(me)).into());
        }
        house.note_recognition();
        house.store.acknowledge(self.peer, &vv);
        self.told = telling.map(|told| (told, Instant::now())).or(self.told.take());
        Ok(answer.progress && self.courier.lagging(house.store.me(), &house.store.published().vv))
    }

    /// While clients write here, they have the processors and the disk to themselves between two pieces of a sweep.
    async fn give_way(&mut self, took: Duration) {
        let store = &self.house.store;
        let written = store.published().vv.get(store.me());
        if self.written != written {
            self.written = written;
            store.leave_to_others((took / 2).min(Duration::from_millis(SWEEP_REST_MS_MAX))).await;
        }
    }

    /// What the member needs next.
    async fn next(&mut self) -> Result<Message, Error> {
        let house = &self.house;
        let unequal = house.peers.get(self.peer).unequal >= UNEQUAL_LOOKS;
        let quiet = !self.courier.sweeping() && !self.courier.comparing();
        if unequal
            && quiet
            && let Some(again) = self.comparisons.begin()
        {
            let what = "has incorporated the same events and holds something else";
            match again {
                false => log::warn!("member {} {what}: it is shown everything", self.peer),
                true => log::error!(
                    "member {} still {what}, though it was shown everything: report this",
                    self.peer
                ),
            }
            self.courier.begin_comparison();
        }
        loop {
            if self.courier.piece().is_none() {
                let published = house.store.published();
                let said = house.store.said_by(self.peer).map(|said| said.vv);
                let now_ms = self.began.elapsed().as_millis() as u64;
                let wants = self.courier.wants(house.store.me(), &published.vv, said.as_ref(), now_ms);
                match house.store.next_for(self.peer, &wants, self.load.of_events()).await? {
                    Next::Frame(frame) => {
                        self.courier.met();
                        return Ok(Message::Frame(self.peer, frame));
                    }
                    Next::Sweep { target, rather: None } => {
                        self.reason = "more than the log has".to_owned();
                        // A new one is to hurry nobody; one that is behind is read from as it is.
                        self.gives_way = wants.have.get(house.store.me()) == 0;
                        self.courier.begin_sweep(target);
                    }
                    Next::Sweep { target, rather: Some(events) } => {
                        self.reason = format!("{events} events, so many that everything takes less");
                        self.gives_way = false;
                        self.courier.choose_sweep(target);
                    }
                }
            }
            let (target, after) = self.courier.piece().expect("begun above, or under way");
            let piece = match after.is_none() && self.courier.sweeping() {
                // Refused, since another one sends it everything, it costs next to nothing.
                true => house.store.opening(target),
                false => house.store.sweep_for(target, after, self.load.of_keys()).await?,
            };
            // In this order: what has been forgotten because all have it, the member had said before.
            let published = house.store.published();
            let said = house.store.said_by(self.peer).map(|said| said.vv);
            if !self.courier.outgrown(&published.forgotten, said.as_ref()) {
                self.courier.sent(&piece);
                return Ok(Message::Sweep(self.peer, piece));
            }
            // First it is asked what it has: from then on forgetting waits for it again.
            self.courier.refused();
        }
    }

    /// Notes why it did not work.
    fn failed(&mut self, error: &Error, failures: u32) {
        self.load.failed();
        if self.courier.comparing() {
            self.comparisons.cut_off();
        }
        match error {
            Error::Unreachable(_) | Error::Unanswered(_) => self.courier.failed(),
            // It may have been busy. Whether a sweep can go on it says the next time.
            Error::Refused(Refusal::NotNow(_)) if failures == 0 => self.courier.failed(),
            _ => self.courier.refused(),
        }
        self.house.missed(self.peer, error);
        // An event may have come there by another way while this message was: only what we never had counts.
        let own = self.house.store.published().vv.get(self.house.store.me());
        match error {
            Error::Refused(refusal @ Refusal::Twin) => self.house.give_up(self.peer, refusal),
            Error::Refused(refusal @ Refusal::RolledBack(seq)) if *seq > own => {
                self.house.give_up(self.peer, refusal);
            }
            Error::Storage(why) if self.house.unreadable_told.due() => log::error!(
                "what member {} lacks can't be read here: {why}. It gets nothing more from this node until that key is written \
                 or deleted anew",
                self.peer
            ),
            _ if failures == 0 => log::debug!("member {}: {error}", self.peer),
            _ => {}
        }
        match error {
            // Full or busy, which passes, or the member's own log says so.
            Error::Refused(Refusal::NotNow(_)) => self.refused = Refused::default(),
            // It knows that already, and has said so.
            Error::Refused(Refusal::Stranger) if self.house.store.is_out() => {}
            Error::Secret | Error::Protocol { .. } | Error::Refused(_) | Error::Unreadable(_)
                if self.refused.again() =>
            {
                let advice = match error {
                    Error::Refused(Refusal::OtherNode(_)) => &format!(
                        ". If it is gone for good, with its disk, evict it: DELETE /membership/{}",
                        self.peer
                    ),
                    _ => "",
                };
                log::error!("member {} takes nothing from this node: {error}{advice}", self.peer);
            }
            // What it thinks of this node is not known.
            _ => {}
        }
    }
}
