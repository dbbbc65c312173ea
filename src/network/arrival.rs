//! How far this node has got on its way into a cluster: it counts as ready when it has what there was as it came.
//!
//! What it lacks is on the disk before it belongs there: it may be killed in between. Once told it stays so, until what comes
//! stops coming: then those who can be reached say anew what there is. Nothing here makes a node ready that lacks what one of
//! those holds whom it asked.

use std::time::{Duration, Instant};

use super::House;
use super::error::Error;
use super::join::{Word, ask_to_join};
use super::wire::Refusal;
use crate::limits::{JOIN_DEADLOCK_MS, PEER_ANSWER_MS};
use crate::peers::{Arrival, Liveness};
use crate::replica::{Dot, NodeId, VersionVector, check_vector};
use crate::storage::{self, Rejection};

impl House {
    /// Finds out at the start of the process, from what is on the disk. Is it to come to a cluster, it asks for that.
    pub(super) fn resume_arrival(&self, asks: bool) -> Result<(), Error> {
        let noted = self.store.arriving()?;
        // Who was killed as it was taken in asks again; who left before it had all still lacks that.
        let arrival = match noted.filter(|goal| !goal.is_empty()) {
            _ if asks && self.comes_with_nothing()? => Some(Arrival::Asking),
            goal => goal.map(Arrival::Behind),
        };
        self.peers.arrive(arrival);
        Ok(())
    }

    /// On the disk before the node serves: a client's write that it takes meanwhile is not what it was to get.
    pub(super) async fn note_arrival(&self) -> Result<(), Error> {
        let noted = self.store.arriving()?;
        let written = match self.peers.arrival() {
            Some(Arrival::Asking) if noted.is_none() => self.store.arrive(Some(VersionVector::new())).await,
            None if noted.is_some() => self.store.arrive(None).await,
            _ => Ok(()),
        };
        let failed = |e| storage::Error::Failed(format!("can't note how far this node has got: {e}"));
        Ok(written.map_err(failed)?)
    }

    /// Has it nothing yet that a cluster gave it, nor ever had?
    pub(super) fn comes_with_nothing(&self) -> Result<bool, Error> {
        let asked = self.store.arriving()?.is_some_and(|goal| goal.is_empty());
        Ok(self.fellows().is_empty() && (asked || self.store.published().totals.keys == 0))
    }

    /// Is what it is told now what it has to get before it is ready? It belongs to another cluster from now on if it `adopts`
    /// that.
    pub(super) fn comes_anew(&self, adopts: bool) -> bool {
        match self.peers.arrival() {
            Some(Arrival::Asking) => true,
            Some(Arrival::Behind(_)) => adopts,
            None => adopts && self.store.published().totals.keys == 0,
        }
    }

    /// What there is in the cluster, as far as this node knows: what it has, what other members have said that they have, and
    /// what it has yet to get itself. Whoever comes in by it must not take what it has for all.
    pub(super) fn goal(&self) -> VersionVector {
        // In this order: when it has arrived it has that.
        let lacks = self.peers.arrival();
        let mut goal = self.store.published().vv.clone();
        self.store.said().values().for_each(|said| goal.join(&said.vv));
        if let Some(Arrival::Behind(lacks)) = lacks {
            goal.join(&lacks);
        }
        goal
    }

    /// How many events of a node there are, as far as this node knows: some of them may have yet to come here.
    pub(super) fn known_of(&self, id: NodeId) -> u64 {
        self.goal().get(id)
    }

    /// Is it no newcomer itself, and has every member but this one told it something since it was started?
    pub(super) fn has_arrived(&self, but: NodeId) -> bool {
        // Not only of: it may have told this process nothing yet of what it has.
        let has_told = |id| self.store.said_by(id).is_some_and(|said| !said.vv.is_empty());
        let heard = |id: &NodeId| *id == but || has_told(*id);
        self.peers.arrival().is_none() && self.others().iter().all(heard)
    }

    /// What it has to get, when it comes to that cluster, in which there is so much: it may come back, and have lacked more.
    pub(super) fn lacks_there(
        &self,
        cluster: NodeId,
        mut goal: VersionVector,
    ) -> Result<VersionVector, storage::Error> {
        if let (Some(lacked), Some(left)) = (self.store.arriving()?, self.store.left()?)
            && left == cluster
        {
            goal.join(&lacked);
        }
        Ok(goal)
    }

    /// From now on it is ready when it has this.
    async fn lacks(&self, goal: VersionVector) -> Result<(), Rejection> {
        self.store.arrive(Some(goal.clone())).await?;
        self.peers.arrive(Some(Arrival::Behind(goal)));
        Ok(())
    }

    /// The node begins a cluster, and lacks nothing of it: nor what it was to get from another one, had it not been killed then.
    pub(super) async fn is_first(&self) {
        self.peers.arrive(None);
        if !matches!(self.store.arriving(), Ok(None)) {
            // Should it not be noted, it is found out when nobody has that.
            let _ = self.store.arrive(None).await;
        }
    }

    /// The same, unless it has just come to a cluster by one that asked it.
    pub(super) async fn is_first_if_it_asks(&self) {
        let _adopting = self.adopting.lock().await;
        if self.peers.arrival() == Some(Arrival::Asking) {
            self.is_first().await;
        }
    }
}

/// Sees what comes to a node that lacks something yet.
#[derive(Default)]
pub(super) struct Progress {
    /// What had come, and when that last was something else.
    came: Option<(Came, Instant)>,
    /// Has there been another member since the process was started?
    had_others: bool,
    /// Does the log say that nothing comes any more?
    told: bool,
}

/// How much of what it lacks: what is written meanwhile is no news. Of a sweep the vector shows the end only.
type Came = (VersionVector, Option<(NodeId, u64)>);

impl Progress {
    /// Has it arrived, or does it get there? Whom it `seeks` to be taken in by may have what it lacks.
    pub(super) async fn look(&mut self, house: &House, seeks: bool) {
        let others = house.others();
        self.had_others |= !others.is_empty();
        let Some(Arrival::Behind(goal)) = house.peers.arrival() else {
            (self.came, self.told) = (None, false);
            return;
        };
        let vv = house.store.published().vv.clone();
        let lacks = !vv.covers_all(&goal);
        // Who is about to belong elsewhere does not know the others yet.
        let adopting = house.adopting.try_lock();
        if lacks && !(adopting.is_ok() && self.is_last(house, &others, seeks)) {
            drop(adopting);
            let so_far = |dot: Dot| Dot::new(dot.origin, vv.get(dot.origin).min(dot.seq));
            let came = (goal.iter().map(so_far).collect(), house.sweepers().holder());
            match &self.came {
                Some((before, since)) if *before == came => {
                    if since.elapsed() > Duration::from_millis(PEER_ANSWER_MS) {
                        self.came = None;
                        self.ask_what_there_is(house, &others, &goal).await;
                    }
                }
                _ => self.came = Some((came, Instant::now())),
            }
            return;
        }
        // Nor does it know yet what it lacks there.
        let Ok(_adopting) = adopting else { return };
        if lacks {
            log::warn!(
                "this node had not yet all that its cluster had, and is the last member now: the rest is lost"
            );
        }
        house.peers.arrive(None);
        // Should it not be noted, it is seen to be so at the next start.
        let _ = house.store.arrive(None).await;
    }

    /// Are those gone for good that had what it lacks? Where it has not yet been told of any, it was killed as it came, and is to
    /// be taken in once more; who took it in asks for it, if it does not ask itself.
    fn is_last(&self, house: &House, others: &[NodeId], seeks: bool) -> bool {
        let had_others = || {
            let evicted = house.store.evicted();
            self.had_others || house.was_member() || evicted.iter().any(|id| *id != house.store.me())
        };
        let nobody_asks = || !seeks && house.age_ms() > JOIN_DEADLOCK_MS;
        others.is_empty() && (had_others() || nobody_asks())
    }

    /// Nothing comes any more: whoever had it may be lost with its disk. If all members answer, what there is, is what they have.
    /// If all do that are not down, and one of them has arrived itself, it is what that one knows of: who is down may come
    /// back with it, or is evicted. Else it is not known.
    async fn ask_what_there_is(&mut self, house: &House, others: &[NodeId], lacked: &VersionVector) {
        if others.is_empty() {
            return;
        }
        if !self.told {
            log::warn!(
                "nothing comes any more of what this node lacks: it asks the other members what there is"
            );
            self.told = true;
        }
        let (mut held, mut told, mut arrived) = (VersionVector::new(), VersionVector::new(), false);
        let mut answered = 0;
        let up = |id: &&NodeId| house.peers.get(**id).liveness != Liveness::Down;
        for id in others.iter().filter(up) {
            match ask_one(house, *id).await {
                Ok(word) => {
                    answered += 1;
                    arrived |= word.arrived;
                    held.join(&word.vv);
                    // Who has arrived says of those that are down what they had. It may lack that itself.
                    told.join(if word.arrived { &word.goal } else { &word.vv });
                }
                Err(Error::Refused(refusal @ Refusal::RolledBack(_))) => house.give_up(id, &refusal),
                Err(error) => {
                    log::debug!("member {id} does not say what there is: {error}");
                    return;
                }
            }
        }
        let all = answered == others.len();
        let there_is = if all { held } else { told };
        // It may have been told another goal meanwhile, of another cluster.
        let stays_behind = house.peers.arrival() == Some(Arrival::Behind(lacked.clone()));
        if stays_behind
            && (arrived || all)
            && check_vector(&there_is).is_ok()
            && house.lacks(there_is).await.is_err()
        {
            log::debug!("what there is could not be noted");
        }
    }
}

/// What one member says that there is. It may be asking this node just now, and then asks no more.
async fn ask_one(house: &House, id: NodeId) -> Result<Word, Error> {
    let mut tries = 0;
    loop {
        let address =
            house.reach(id).await.ok_or_else(|| Error::Unreachable("its address is not known".into()))?;
        match ask_to_join(house, &address).await {
            Ok(word) if word.by == id => return Ok(word),
            Ok(word) => return Err(Refusal::OtherNode(word.by).into()),
            Err(Error::Refused(Refusal::NotNow(_))) if tries < NOT_NOW_TRIES => {
                tokio::time::sleep(house.pause(tries)).await;
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How often a member that says "not now" is asked again.
const NOT_NOW_TRIES: u32 = 4;
