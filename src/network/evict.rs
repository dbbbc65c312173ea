//! Evictions: who was evicted is told, and the marks go when nobody needs them any more.
//!
//! A mark (`replica/member.rs`) is needed as long as a record of the membership that it ended may come up, written by who had not
//! seen it. Members bring none any more when each has it, and whoever takes it away has all that each had then. Others may: who
//! was evicted himself, or came in by such a one, and comes back with what the cluster has never seen. They are waited for as
//! long as absent members are (`--forget-after-hours`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::wire::{Message, Reply};
use super::{House, NOWHERE};
use crate::limits::{EVICTED_TOLD_MS, PEER_ANSWER_MS};
use crate::peers::Liveness;
use crate::replica::{Dot, NodeId, Records, VersionVector};
use crate::storage::Action;

/// What the keeper remembers of them.
#[derive(Default)]
pub(super) struct Evictions {
    marks: BTreeMap<NodeId, Mark>,
    /// Does the log say that this node was evicted itself?
    told: bool,
}

/// One that was evicted.
struct Mark {
    dot: Dot,
    telling: JoinHandle<()>,
    /// The members when each of them was seen to have the mark, and what they had then, together.
    goal: Option<(BTreeSet<NodeId>, VersionVector)>,
}

impl Evictions {
    /// Looks at the marks that there are.
    pub(super) async fn look(&mut self, house: &Arc<House>) {
        let evicted = house.store.evicted();
        let told = evicted.contains(&house.store.me()) && house.is_over().await;
        if told && !self.told {
            log::warn!(
                "this node was evicted: it is no member any more, and what is written here stays here. Start it again to let it \
                 join again, with what it holds; or stop it"
            );
        }
        self.told = told;
        self.marks.retain(|id, _| evicted.contains(id));
        if house.store.is_out() || house.store.cluster() == NOWHERE {
            // Nobody listens to it.
            return;
        }
        for id in evicted {
            let Ok(records) = house.store.records(id).await else { continue };
            let Some((dot, record)) = records.mark() else { continue };
            let past = record.evicted_at_ms.is_some_and(|at| house.store.is_past(at));
            let known = self.marks.get(&id).filter(|known| known.dot == dot);
            if known.is_none() {
                let telling = tokio::spawn(tell(house.clone(), (id, dot), house.peers.address_of(id)));
                self.marks.insert(id, Mark { dot, telling, goal: None });
            }
            let done = past && self.marks.get_mut(&id).is_some_and(|mark| mark.is_done(house));
            if done && is_its_turn(house, dot.origin) {
                let remove =
                    |now: &Records| now.mark().filter(|(its, _)| *its == dot).map(|_| Action::Delete);
                // Else it is looked at again.
                let _ = house.store.change_records(id, remove).await;
            }
        }
    }
}

impl Mark {
    /// Is it of no use any more?
    fn is_done(&mut self, house: &House) -> bool {
        if !self.telling.is_finished() {
            return false;
        }
        let mut said = house.store.said();
        said.remove(&house.store.me());
        // Of who came meanwhile it is not known what it had.
        let knows_all = |(members, _): &(BTreeSet<NodeId>, _)| said.keys().all(|id| members.contains(id));
        if !self.goal.as_ref().is_some_and(knows_all) {
            let all = said.values().all(|said| said.vv.covers(self.dot));
            self.goal = all.then(|| {
                let mut goal = VersionVector::new();
                said.values().for_each(|said| goal.join(&said.vv));
                (said.keys().copied().collect(), goal)
            });
        }
        self.goal.as_ref().is_some_and(|(_, goal)| house.store.published().vv.covers_all(goal))
    }
}

/// The evictor takes the mark away; one of the others if it is not there. That two do so does no harm.
fn is_its_turn(house: &House, evictor: NodeId) -> bool {
    let me = house.store.me();
    let up = |id: &NodeId| *id == me || house.peers.get(*id).liveness != Liveness::Down;
    let members = house.store.members();
    let takes = members.iter().find(|id| **id == evictor && up(id)).or(members.iter().find(|id| up(id)));
    takes == Some(&me)
}

/// Tells one that was evicted, if it is up: nobody else brings it the mark. As a piece of a comparison, since it may lack much
/// that it is not to get any more. `last` is where it was reached. Who can't be reached now hears of it when it asks why it is
/// not known (`seeker.rs`).
async fn tell(house: Arc<House>, (id, mark): (NodeId, Dot), last: Option<String>) {
    let Ok(mut word) = house.store.roster().await else { return };
    let key = id.0.to_be_bytes();
    word.entries.retain(|(_, its, _)| *its == key);
    let envelope = house.envelope(Message::Sweep(id, word));
    let telling = async {
        let mut failures = 0;
        loop {
            // It may have moved beside its eviction.
            let records = house.store.records(id).await.unwrap_or_default();
            let mut addresses = records.addresses();
            addresses.extend(last.clone());
            for address in addresses {
                let limit = Duration::from_millis(PEER_ANSWER_MS);
                let answer = house.client.ask(&address, &envelope, limit).await;
                if answer.is_ok_and(|answer| answer.from == id && matches!(answer.body, Reply::Have(_))) {
                    return;
                }
            }
            failures += 1;
            tokio::time::sleep(house.pause(failures)).await;
        }
    };
    let patience = Duration::from_millis(EVICTED_TOLD_MS);
    let told = tokio::time::timeout(patience, telling).await.is_ok();
    // All tell it; one says so, unless it has come back by now.
    let says = mark.origin == house.store.me() && !house.store.is_member(id);
    let level = if says { log::Level::Info } else { log::Level::Debug };
    let how = if told { "was told" } else { "could not be told yet" };
    log::log!(level, "{id} {how} that it was evicted");
}

impl House {
    /// Others have shown this process that it is a member of its cluster, or was one since it was started.
    pub(super) fn note_membership(&self) {
        *self.member_of.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.store.cluster());
    }

    /// A member takes this node for one. Of a node that knows it was evicted that shows only that the other has not heard of it.
    pub(super) fn note_recognition(&self) {
        if !self.store.is_out() {
            self.note_membership();
        }
    }

    /// Have they, in the cluster in which it is now?
    pub(super) fn was_member(&self) -> bool {
        *self.member_of.lock().unwrap_or_else(PoisonError::into_inner) == Some(self.store.cluster())
    }

    /// Has the membership of this process ended, by an eviction or as it leaves? Then it is out until it is started again. Who is
    /// told of an eviction before anything else asks whether that was before it was started.
    pub(super) async fn is_over(&self) -> bool {
        if self.store.cluster() == NOWHERE {
            return self.member_of.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        }
        self.store.is_out()
            && self.was_member()
            && self.mark().await.is_none_or(|mark| self.came_with.get() != Some(&mark))
    }

    /// The mark that says that this node was evicted.
    pub(super) async fn mark(&self) -> Option<Dot> {
        let records = self.store.records(self.store.me()).await.ok()?;
        records.mark().map(|(dot, _)| dot)
    }
}
