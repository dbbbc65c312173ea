//! What the network asks of a store: what peers send, what they lack, what they have said.
//!
//! What comes in goes through the committer like every write; what goes out is read beside the writers, and waits until
//! it is on the disk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TrySendError;
use std::time::Duration;

use tokio::sync::oneshot;

use super::committer::Message;
use super::request::Hold;
use super::shipping::{self, Next};
use super::{Error, Parcel, Rejection, Said, Store, blocking, fatal_if_failed};
use crate::limits::{FULL_QUEUE_PAUSE_MS, SWEEP_RATHER_EVENTS};
use crate::replica::{Bound, Bounds, Dot, NodeId, Sweep, VersionVector, Wants};

impl Store {
    /// All records of the roster, as a sweep that promises nothing.
    pub async fn roster(&self) -> Result<Sweep, Error> {
        let inner = self.0.clone();
        let me = self.me();
        self.shown(move || shipping::roster(&inner.trees, &inner.shared, me)).await
    }

    /// Takes in what a peer has sent; what is incorporated, all of it on the disk, when this comes back. What is held meanwhile
    /// is held until then, whether or not anybody still waits.
    pub async fn take(&self, parcel: Parcel, hold: Option<Hold>) -> Result<VersionVector, Rejection> {
        let (reply, answer) = oneshot::channel();
        self.post(Message::Take((parcel, hold), reply)).await?;
        answer.await.unwrap_or(Err(Rejection::Stopping))
    }

    /// Hands the committer what is no client's write: there are few of those at a time, so they may wait for room.
    pub(super) async fn post(&self, mut message: Message) -> Result<(), Rejection> {
        loop {
            if self.0.shared.stopping.load(Ordering::Acquire) {
                return Err(Rejection::Stopping);
            }
            match self.0.inbox.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Rejection::Stopping),
                Err(TrySendError::Full(back)) => message = back,
            }
            tokio::time::sleep(Duration::from_millis(FULL_QUEUE_PAUSE_MS)).await;
        }
    }

    /// What a peer needs next.
    pub async fn next_for(&self, peer: NodeId, wants: &Wants, bounds: Bounds) -> Result<Next, Error> {
        let mut have = wants.have.clone();
        let mut frame = None;
        loop {
            // In this order: what has been forgotten because all have it, the peer had said before.
            let published = self.published();
            let said = self.said_by(peer).unwrap_or_default().vv;
            let replica = shipping::replica(self.me(), &published);
            let must_sweep = |have: &_| replica.must_sweep(have, |origin| wants.concerns(origin));
            match frame.take() {
                // What it was read from may have been forgotten by a commit that was under way then.
                Some(frame) if !must_sweep(&have) => return Ok(Next::Frame(frame)),
                _ => have.join(&said),
            }
            if must_sweep(&have) {
                return Ok(Next::Sweep { target: published.vv.clone(), rather: None });
            }
            let only = |origin| wants.origins.contains(&origin);
            let rather = replica.rather_sweeps(&have, only, SWEEP_RATHER_EVENTS);
            if rather.is_some() && wants.may_choose {
                return Ok(Next::Sweep { target: published.vv.clone(), rather });
            }
            let shared = &self.0.shared;
            if let Some((recent, commit)) =
                shipping::recent_frame(shared, &replica, &have, bounds, &wants.origins)
            {
                shared.watermark.reached(commit).await;
                frame = Some(recent);
                continue;
            }
            let (inner, origins, had) = (self.0.clone(), wants.origins.clone(), have.clone());
            let read = move || shipping::frame(&inner.trees, &inner.shared, &replica, &had, bounds, &origins);
            frame = Some(self.shown(read).await?);
        }
    }

    /// The first piece of a sweep, which holds nothing yet.
    pub fn opening(&self, target: VersionVector) -> Sweep {
        shipping::replica(self.me(), &self.published()).opening(target)
    }

    /// The next piece of a sweep.
    pub async fn sweep_for(
        &self,
        target: VersionVector,
        after: Bound,
        bounds: Bounds,
    ) -> Result<Sweep, Error> {
        let (inner, me) = (self.0.clone(), self.me());
        let read = move || shipping::piece(&inner.trees, &inner.shared, me, target, after, bounds);
        self.shown(read).await
    }

    /// Does nothing for so long: whoever reads much leaves the processors to others in between.
    pub async fn leave_to_others(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Reads on a thread that may block, and waits until what was read is on the disk.
    pub(super) async fn shown<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<(T, u64), Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (shown, commit) = blocking(move || fatal_if_failed(read())).await?;
        self.0.shared.watermark.reached(commit).await;
        Ok(shown)
    }

    /// Waits until every commit that has begun is on the disk.
    pub async fn settled(&self) {
        let shared = &self.0.shared;
        shared.watermark.reached(shared.watermark.begun()).await;
    }

    /// A member has this on its disk.
    pub fn acknowledge(&self, peer: NodeId, vv: &VersionVector) {
        if self.0.shared.heard.say(peer, vv, (self.0.now_ms)()) {
            // When the queue is full, the committer looks by itself soon enough.
            let _ = self.0.inbox.try_send(Message::Heard);
        }
    }

    /// A member has no more than this, though it once said otherwise.
    pub fn fell_back(&self, peer: NodeId, vv: &VersionVector) {
        self.0.shared.heard.fell_back(peer, vv);
        let _ = self.0.inbox.try_send(Message::Heard);
    }

    /// What a member has said that it has on its disk; nothing for strangers.
    pub fn said_by(&self, peer: NodeId) -> Option<Said> {
        self.0.shared.heard.of(peer)
    }

    /// The members that have all of these events on their disks, as far as is known here.
    pub fn holders(&self, dots: &[Dot]) -> Vec<NodeId> {
        let (me, own) = (self.me(), &self.published().vv);
        self.0.shared.heard.look(|said| {
            let its = said.iter().map(|(id, said)| (*id, if *id == me { own } else { &said.vv }));
            let has = its.filter(|(_, vv)| dots.iter().all(|dot| vv.covers(*dot)));
            has.map(|(id, _)| id).collect()
        })
    }

    /// What the members have said that they have on their disks; this node's own place in it says nothing.
    pub fn said(&self) -> BTreeMap<NodeId, Said> {
        self.0.shared.heard.all()
    }

    /// Has a member been silent for so long that forgetting goes on without it?
    pub fn lapsed(&self, said: &Said) -> bool {
        (self.0.now_ms)().saturating_sub(said.at_ms) > self.0.forget_after_ms
    }

    /// Waits until this holds of what the members have said.
    pub async fn until_said(&self, done: impl FnMut(&BTreeMap<NodeId, Said>) -> bool) {
        self.0.shared.heard.until(done).await;
    }
}
