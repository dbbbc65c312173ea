//! Leaving: who asks the node for it, what it waits for, and what they are told.
//!
//! The node makes up its mind once at a time, and in time: whoever asks meanwhile is told the same, and nobody is left
//! without an answer because the node stops.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use super::{House, NOWHERE, Network};
use crate::peers::Liveness;
use crate::replica::{NodeId, Records, VersionVector};
use crate::storage::{Rejection, Said};

/// How it ended: how many of the other members know that the node has left, or why it has not.
pub type Left = Result<usize, Stays>;

/// Why a node that was to leave its cluster stays; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// It is a cluster by itself.
    #[error("there is no other member, so there is nothing to leave: stop it instead")]
    Alone,
    /// It has left, and nobody has taken it in since.
    #[error("it has left its cluster already: stop it instead")]
    Nowhere,
    /// It was evicted: what is written there stays there, so nobody may take it to be in good hands.
    #[error(
        "it was evicted, and is no member any more: stop it instead; started again it joins with all that it holds"
    )]
    Out,
    /// Somebody only wants it to stop.
    #[error("it is stopping, and stays a member")]
    Stops,
    /// It may be the only one that has something; or it could not write that it leaves.
    #[error("{0}")]
    Holds(String),
}

/// Those who ask the node to leave.
#[derive(Default)]
pub(super) struct Askers {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Default)]
struct State {
    /// Each is a connection, which bounds them.
    waiting: Vec<oneshot::Sender<Left>>,
    /// The node stops, whatever anybody asks from now on.
    over: Option<Left>,
}

impl Askers {
    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self) -> Left {
        let answer = {
            let mut state = self.state();
            if let Some(over) = &state.over {
                return over.clone();
            }
            let (reply, answer) = oneshot::channel();
            state.waiting.push(reply);
            answer
        };
        self.asked.notify_one();
        // Nobody drops one without a word.
        answer.await.unwrap_or(Err(Stays::Stops))
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&self) {
        while self.state().waiting.is_empty() {
            self.asked.notified().await;
        }
    }

    /// All who have asked are told; if it is `over`, so is whoever asks later.
    pub(super) fn tell(&self, left: &Left, over: bool) {
        let mut state = self.state();
        state.over = over.then(|| left.clone());
        for asker in state.waiting.drain(..) {
            // Who asked may be gone by now.
            let _ = asker.send(left.clone());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Ends this node's membership: it counts as a member of no cluster, until it is started again if it `returns`. The others
    /// are waited for `until` then. Nobody may write meanwhile.
    pub async fn leave(&self, returns: bool, until: Instant) -> Left {
        let house = &self.0;
        let members = house.others();
        if house.store.cluster() == NOWHERE {
            return Err(Stays::Nowhere);
        }
        if members.is_empty() {
            return Err(Stays::Alone);
        }
        if house.store.is_out() {
            return Err(Stays::Out);
        }
        // They may all be leaving: then no roster will tell.
        let mut back_to = Vec::new();
        for id in &members {
            back_to.extend(house.reach(*id).await);
        }
        // At least one must have all, or there is nobody to leave it to. Not its own writes alone: it may be the only one that
        // still has another's. Half of the time is for word of the leave itself.
        let (all, now) = (house.store.published().vv.clone(), Instant::now());
        let holders = house.holders(&members, &all, now + until.saturating_duration_since(now) / 2).await;
        if house.others().is_empty() {
            // They all left meanwhile: this one keeps the cluster.
            return Err(Stays::Alone);
        }
        if holders.is_empty() {
            let ids: Vec<String> = members.iter().map(ToString::to_string).collect();
            let advice = match members.iter().any(|id| house.peers.get(*id).liveness != Liveness::Down) {
                true if returns => format!("they may get there: {RETURN}"),
                true => "they may get there: try again".to_owned(),
                false => format!(
                    "start one of {}, or evict this node there, without what only it has",
                    ids.join(", ")
                ),
            };
            return Err(Stays::Holds(format!(
                "no other member is known to have all that this node has: {advice}"
            )));
        }
        let failed = |rejection: Rejection| Stays::Holds(rejection.to_string());
        let record = house.member(house.store.me()).await;
        house.remove(house.store.me()).await.map_err(failed)?;
        let (me, goal) = (house.store.me(), house.store.published().vv.clone());
        // A slow disk may have finished a client's write since: nobody was asked about that yet.
        let late = goal.get(me) > all.get(me) + 1;
        house.holders(&members, &goal, until).await;
        if house.mark().await.is_some() {
            return Err(Stays::Out);
        }
        let (others, said) = (house.others(), house.store.said());
        // Who knows takes it for a stranger, and may seem to be down.
        let knows = |id: &&NodeId| said.get(id).is_some_and(|said| said.vv.covers_all(&goal));
        // Of two that leave at once, and count on each other, the one that knows that the other leaves stays, or both. What all
        // had that return comes back with them.
        if (late || !returns) && !others.iter().filter(knows).any(|id| holders.contains(id)) {
            let stays = |now: &Records| record.clone().filter(|_| now.mark().is_none());
            house.enroll(stays).await;
            *house.stays_by.lock().unwrap_or_else(PoisonError::into_inner) = back_to;
            let advice = if returns { RETURN } else { "try again" };
            return Err(Stays::Holds(format!(
                "none of those that have all that this node has is known to stay without it: {advice}"
            )));
        }
        let told = others.iter().filter(knows).count();
        house.store.leave(returns.then_some(back_to)).await.map_err(failed)?;
        Ok(told)
    }
}

/// What to do about a node that has stopped, though it may be the only one that has something.
const RETURN: &str = "start it again to bring it to them";

impl House {
    /// Which of these have all of this, and are up: nobody knows whether who is down comes back, or its disk. They are waited
    /// for, `until` then at most.
    async fn holders(&self, members: &[NodeId], all: &VersionVector, until: Instant) -> Vec<NodeId> {
        // Who is suspect may be well; who has left is no member.
        let up = |id: &&NodeId| self.peers.get(**id).liveness != Liveness::Down;
        let holders = |said: &BTreeMap<NodeId, Said>| -> Vec<NodeId> {
            let has = |id: &&NodeId| said.get(id).is_some_and(|said| said.vv.covers_all(all));
            members.iter().filter(up).filter(has).copied().collect()
        };
        let enough = self.store.until_said(|said| {
            holders(said).len() >= members.iter().filter(up).filter(|id| said.contains_key(id)).count()
        });
        let _ = tokio::time::timeout_at(until.into(), enough).await;
        holders(&self.store.said())
    }
}
