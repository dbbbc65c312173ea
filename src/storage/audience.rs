//! Whom forgetting waits for: the members, but those who have been away for too long.
//!
//! Called by the committer, between commits, and by the simulation: it is the way by which what the network has heard
//! becomes knowledge of the replica. It must never leave the replica waiting for who is no member any more.

use std::collections::BTreeSet;

use super::heard::{Heard, Said};
use crate::replica::{NodeId, Replica};

/// The members that forgetting does not wait for any more.
#[derive(Debug)]
pub struct Audience {
    /// A member away for longer does not hold forgetting back.
    forget_after_ms: u64,
    /// Members that have been away for longer than that.
    lapsed: BTreeSet<NodeId>,
}

impl Audience {
    /// Nobody is away yet.
    pub fn new(forget_after_ms: u64) -> Audience {
        Audience { forget_after_ms, lapsed: BTreeSet::new() }
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
        let gone: Vec<NodeId> = replica.peers().filter(|peer| !members.contains(peer)).collect();
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
