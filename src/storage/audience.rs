//! Whom forgetting waits for: the members, but those who have been away for too long; and guests, who read all that there was
//! when they came and then what has happened since, as a backup does.
//!
//! Called by the committer, between commits, and by the simulation: it is the way by which what the network has heard
//! becomes knowledge of the replica. It must never leave the replica waiting for who is no member any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::heard::{Heard, Said};
use crate::limits::GUEST_STAYS_MS;
use crate::replica::{NodeId, Replica};

/// The members that forgetting does not wait for any more.
#[derive(Debug)]
pub struct Audience {
    /// A member away for longer does not hold forgetting back.
    forget_after_ms: u64,
    /// Members that have been away for longer than that.
    lapsed: BTreeSet<NodeId>,
    /// When each guest came.
    guests: BTreeMap<NodeId, u64>,
}

/// The guests that are still there, by the names that the replica knows them by. A guest goes when nobody asks.
#[derive(Default)]
pub struct Guests(Mutex<BTreeSet<NodeId>>);

impl Guests {
    /// It needs nothing any more.
    pub fn part(&self, guest: NodeId) {
        self.lock().remove(&guest);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audience {
    /// Nobody is away yet.
    pub fn new(forget_after_ms: u64) -> Audience {
        Audience { forget_after_ms, lapsed: BTreeSet::new(), guests: BTreeMap::new() }
    }

    /// A guest comes, who lacks nothing of what there is now. Its name is no node's: those are random.
    pub fn receive(&mut self, replica: &mut Replica, guests: &Guests, now_ms: u64) -> NodeId {
        let taken = |guest: &NodeId| !self.guests.contains_key(guest);
        let guest = (1..).map(NodeId).find(taken).unwrap_or(NodeId::NOBODY);
        let vv = replica.vv().clone();
        replica.admit(guest);
        replica.acknowledge(guest, &vv);
        self.guests.insert(guest, now_ms);
        guests.lock().insert(guest);
        guest
    }

    /// Guests that are gone, or have stayed for too long, are not waited for.
    pub fn see_off(&mut self, replica: &mut Replica, guests: &Guests, now_ms: u64) {
        if self.guests.is_empty() {
            return;
        }
        let there = guests.lock();
        let stays = |guest: &NodeId, came_ms: &mut u64| {
            there.contains(guest) && now_ms.saturating_sub(*came_ms) < GUEST_STAYS_MS
        };
        let gone: Vec<NodeId> =
            self.guests.extract_if(.., |guest, came| !stays(guest, came)).map(|(guest, _)| guest).collect();
        gone.into_iter().for_each(|guest| replica.dismiss(guest));
    }

    /// These are the members now. `true` when one is new: it may lack what all had, and what was to be forgotten when all
    /// have that must be looked for again.
    #[must_use]
    pub fn follow(
        &mut self,
        members: &BTreeSet<NodeId>,
        replica: &mut Replica,
        heard: &Heard,
        now_ms: u64,
    ) -> bool {
        let gone: Vec<NodeId> = replica
            .peers()
            .filter(|peer| !members.contains(peer) && !self.guests.contains_key(peer))
            .collect();
        gone.into_iter().for_each(|peer| replica.dismiss(peer));
        self.lapsed.retain(|peer| members.contains(peer));
        let waited_for = replica.peers().count();
        members.iter().filter(|peer| !self.lapsed.contains(peer)).for_each(|peer| replica.admit(*peer));
        heard.keep(members, now_ms);
        replica.peers().count() > waited_for
    }

    /// What the members have said that they have; who has said nothing for too long is not waited for. `true` as above.
    #[must_use]
    pub fn listen(&mut self, replica: &mut Replica, heard: &Heard, now_ms: u64) -> bool {
        let Some(heard) = heard.news(now_ms) else { return false };
        let me = replica.me();
        let mut again = false;
        for (peer, Said { vv, at_ms, fell_back }) in heard.into_iter().filter(|(peer, _)| *peer != me) {
            if fell_back {
                replica.dismiss(peer);
                replica.admit(peer);
                again = true;
            }
            let lapsed = now_ms.saturating_sub(at_ms) > self.forget_after_ms;
            match (lapsed, self.lapsed.contains(&peer)) {
                (true, false) => {
                    log::warn!("member {peer} has been away for so long that forgetting goes on without it");
                    replica.dismiss(peer);
                    self.lapsed.insert(peer);
                }
                (false, true) => {
                    self.lapsed.remove(&peer);
                    replica.admit(peer);
                    again = true;
                }
                _ => {}
            }
            replica.acknowledge(peer, &vv);
        }
        again
    }
}
