//! One for each other member: brings its version vector up to ours, and knows nothing else.
//!
//! One message at a time; the answer is acknowledgement, flow control and resume point in one. Own events go out as soon as
//! they are on the disk here; those of another origin when the member has lacked them for a while. Who lacks more than the
//! log has is swept. When there is nothing to send, the member is told now and then what we have: soon when that has
//! changed, seldom else, and the seldomer the more members there are, so that all of it together stays a trickle.
//! A member that is slow, stopped or gone costs nobody but this task anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::Error;
use super::wire::{Message, Refusal, Reply};
use super::{House, NOWHERE};
use crate::limits::{FRAME_BYTES_MAX, FRAME_EVENTS_MAX, RELAY_AFTER_MS, SWEEP_KEYS_MAX, TELL_MS, TELL_SHARE};
use crate::replica::{Bound, Bounds, NodeId, VersionVector};
use crate::storage::Next;

/// What a shipper remembers from one message to the next.
struct Shipper {
    house: Arc<House>,
    peer: NodeId,
    /// What the member has said that it has; `None` until it has answered this shipper.
    have: Option<VersionVector>,
    /// Where a sweep of it stands.
    sweep: Option<(VersionVector, Bound)>,
    lacks: Lacks,
    /// What the last message that was answered said that we have, and when that was.
    told: Option<(VersionVector, Instant)>,
}

/// Ships until it is aborted.
pub async fn ship(house: Arc<House>, peer: NodeId) {
    let mut feed = house.store.feed();
    let lacks = Lacks::default();
    let mut shipper = Shipper { house, peer, have: None, sweep: None, lacks, told: None };
    let mut failures = 0;
    loop {
        feed.mark_unchanged();
        shipper.house.store.settled().await;
        match shipper.step().await {
            Ok(more) => {
                failures = 0;
                if !more {
                    shipper.rest(&mut feed).await;
                }
            }
            Err(error) => {
                shipper.failed(&error, failures);
                failures += 1;
                tokio::time::sleep(shipper.house.pause(failures)).await;
            }
        }
    }
}

impl Shipper {
    /// Waits until there is something new to send, or it is time to tell.
    async fn rest(&self, feed: &mut watch::Receiver<u64>) {
        let me = self.house.store.me();
        let have = self.have.clone().unwrap_or_default();
        loop {
            let vv = self.house.store.published().vv;
            let due = self.told.as_ref().map_or_else(Instant::now, |(told, at)| {
                let members = self.house.store.said().len() as u64;
                let news = *told != vv || !have.covers_all(&vv);
                let turn = TELL_MS * members / if news { TELL_SHARE } else { 1 };
                *at + Duration::from_millis(turn.max(TELL_MS))
            });
            tokio::select! {
                _ = feed.changed() => self.house.store.settled().await,
                () = tokio::time::sleep_until(due.into()) => return,
            }
            if have.get(me) < self.house.store.published().vv.get(me) {
                return;
            }
        }
    }

    /// One message and its answer; `true` when there is more to send at once.
    async fn step(&mut self) -> Result<bool, Error> {
        let house = self.house.clone();
        let Some(member) = house.member(self.peer).await else {
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
        let said = house.store.said().remove(&self.peer).unwrap_or_default().vv;
        let (from, reply) = house.ask(&member.address, message).await?;
        if from != self.peer {
            return Err(Refusal::OtherNode(from).into());
        }
        let Reply::Have(vv) = reply else {
            return Err(Error::Unreadable("it answered something else".into()));
        };
        if !vv.covers_all(&said) {
            // It has answered after it was asked, and has less than it had said before that.
            log::error!(
                "member {} was set back: it holds less than it once had, and is brought up to date",
                self.peer
            );
            house.store.fell_back(self.peer, &vv);
            self.sweep = None;
        }
        house.store.acknowledge(self.peer, &vv);
        let progress = self.sweep.is_some() || self.have.as_ref() != Some(&vv);
        self.have = Some(vv);
        self.told = telling.map(|told| (told, Instant::now())).or(self.told.take());
        Ok(self.lagging() && progress)
    }

    /// What the member needs next.
    async fn next(&mut self) -> Result<Message, Error> {
        let house = &self.house;
        let published = house.store.published();
        // Who has not answered yet is asked, with a frame that holds nothing.
        let mut have = self.have.clone().unwrap_or_else(|| published.vv.clone());
        // It may have told more by its own messages: what all have told is forgotten, and must not look like a lack.
        if let Some(said) = house.store.said().get(&self.peer) {
            have.join(&said.vv);
        }
        if self.sweep.is_none() {
            let relayed = self.lacks.relayed(&published.vv, &have, [house.store.me(), self.peer]);
            let me = house.store.me();
            let bounds = Bounds { count: FRAME_EVENTS_MAX, bytes: FRAME_BYTES_MAX };
            let only = move |origin| origin == me || relayed.contains(&origin);
            match house.store.next_for(&have, bounds, only).await? {
                Next::Frame(frame) => return Ok(Message::Frame(self.peer, frame)),
                Next::Sweep { target } => {
                    log::info!("member {} lacks more than the log has: it is sent everything", self.peer);
                    self.sweep = Some((target, None));
                }
            }
        }
        let (target, after) = self.sweep.clone().expect("set above");
        let bounds = Bounds { count: SWEEP_KEYS_MAX, bytes: FRAME_BYTES_MAX };
        let piece = house.store.sweep_for(target.clone(), after, bounds).await?;
        self.sweep = piece.through.clone().map(|through| (target, Some(through)));
        Ok(Message::Sweep(self.peer, piece))
    }

    /// Does the member lack something that it is our affair to send now?
    fn lagging(&self) -> bool {
        let house = &self.house;
        let vv = house.store.published().vv;
        let have = self.have.clone().unwrap_or_default();
        let me = house.store.me();
        let behind = have.get(me) < vv.get(me);
        self.sweep.is_some() || behind || self.lacks.relays(&have)
    }

    /// Notes why it did not work.
    fn failed(&mut self, error: &Error, failures: u32) {
        // It may be another process by now, with less: it is asked anew, and a sweep begins anew.
        self.have = None;
        self.sweep = None;
        self.house.peers.update(self.peer, |peer| peer.trouble = Some(error.to_string()));
        // An event may have come there by another way while this message was: only what we never had counts.
        let own = self.house.store.published().vv.get(self.house.store.me());
        match error {
            Error::Refused(refusal @ Refusal::Twin) => self.house.give_up(self.peer, refusal),
            Error::Refused(refusal @ Refusal::RolledBack(seq)) if *seq > own => {
                self.house.give_up(self.peer, refusal);
            }
            _ if failures == 0 => log::debug!("member {}: {error}", self.peer),
            Error::Secret | Error::Protocol { .. } | Error::Refused(_) if failures == 3 => {
                log::error!("member {} takes nothing from this node: {error}", self.peer);
            }
            _ => {}
        }
    }
}

/// What a member lacks of other origins, and since when.
#[derive(Default)]
struct Lacks {
    /// By origin: what the member had of it, and when that was first seen.
    since: BTreeMap<NodeId, (u64, Instant)>,
    /// Origins whose events we send, until the member has this much of them.
    goals: BTreeMap<NodeId, u64>,
}

impl Lacks {
    /// The origins whose events we send now.
    fn relayed(&mut self, vv: &VersionVector, have: &VersionVector, not: [NodeId; 2]) -> BTreeSet<NodeId> {
        let now = Instant::now();
        self.goals.retain(|origin, goal| have.get(*origin) < *goal);
        self.since.retain(|origin, (had, _)| have.get(*origin) == *had && *had < vv.get(*origin));
        for dot in vv.iter().filter(|dot| !not.contains(&dot.origin) && !have.covers(*dot)) {
            let (_, since) = self.since.entry(dot.origin).or_insert((have.get(dot.origin), now));
            if now.duration_since(*since) >= Duration::from_millis(RELAY_AFTER_MS) {
                self.goals.insert(dot.origin, dot.seq);
            }
        }
        self.goals.keys().copied().collect()
    }

    /// Is there more of them to send?
    fn relays(&self, have: &VersionVector) -> bool {
        self.goals.iter().any(|(origin, goal)| have.get(*origin) < *goal)
    }
}
