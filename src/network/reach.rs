//! Do two members reach each other, both ways, and where is this node reached?
//!
//! Who is up (`swim.rs`) does not say: a member that asks others is alive to all of them, though nobody may get through to it.
//! So each way is watched by itself: that a member answers, and that it asks. What fails for long is told once, on both sides,
//! and again when it works. Of a member that is down, or refuses this node, others tell.
//!
//! A node on all addresses of its machine learns from others where it is reached. A loopback address is right for those on
//! its machine only: it is kept while nothing better is known, and never comes back by itself. Nothing here sends anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::{House, NOWHERE, Settings, is_concrete};
use crate::limits::{ROSTER_LOOK_MS, TELL_MS, UNREACHED_TOLD_MS};
use crate::peers::{Liveness, canonical, is_loopback, is_wildcard};
use crate::replica::NodeId;
use crate::storage::Store;

/// Where this node can be reached, as far as it can know before anybody has told it.
pub async fn first_address(store: &Store, settings: &Settings) -> String {
    if let Some(address) = &settings.advertise {
        return address.clone();
    }
    if !settings.listen.ip().is_unspecified() {
        return settings.listen.to_string();
    }
    // On all addresses: what was found out in an earlier run is better than nothing.
    let known = store.records(store.me()).await.ok().and_then(|records| records.standing());
    let known = known.map(|member| member.address).filter(|address| is_concrete(address));
    let host = known.as_ref().and_then(|address| Some(address.rsplit_once(':')?.0));
    let port = settings.listen.port();
    host.map_or_else(|| settings.listen.to_string(), |host| canonical(&format!("{host}:{port}")))
}

/// The ways between this node and each other member.
#[derive(Default)]
pub(super) struct Ways(Mutex<BTreeMap<NodeId, Both>>);

#[derive(Default)]
struct Both {
    /// It answers.
    there: Way,
    /// It asks, as every member does all the time. Only who answers is missed.
    back: Way,
}

/// Time is counted in looks at the roster: of a process that stood still it says nothing.
#[derive(Default)]
struct Way {
    fails: bool,
    /// In how many looks in a row it did.
    looks: u64,
    /// Does the log say so?
    told: bool,
}

impl Way {
    fn fails(&mut self) {
        self.fails = true;
    }

    /// `true` when the log said something else.
    fn works(&mut self) -> bool {
        self.rest();
        std::mem::take(&mut self.told)
    }

    /// Nothing is known of it.
    fn rest(&mut self) {
        (self.fails, self.looks) = (false, 0);
    }

    /// Looks at it: has it failed in so many looks?
    fn look(&mut self, looks: u64) -> bool {
        self.looks = if self.fails { self.looks + 1 } else { 0 };
        self.looks >= looks
    }
}

impl House {
    /// A member has answered; with a refusal, or as a member should.
    pub(super) fn answered(&self, id: NodeId, refuses: bool) {
        let mut ways = self.ways();
        let both = ways.entry(id).or_default();
        if both.there.works() {
            log::info!("member {id} can be reached again");
        }
        match refuses {
            true => both.back.rest(),
            false => both.back.fails(),
        }
    }

    /// A member has asked something.
    pub(super) fn asked(&self, id: NodeId) {
        if self.ways().entry(id).or_default().back.works() {
            log::info!("member {id} reaches this node again");
        }
    }

    /// A member has not answered.
    pub(super) fn unanswered(&self, id: NodeId, error: &Error) {
        use Error::{Own, Unanswered, Unreachable, Unreadable};
        if matches!(error, Unreachable(_) | Unanswered(_) | Own | Unreadable(_)) {
            let mut ways = self.ways();
            let both = ways.entry(id).or_default();
            both.there.fails();
            both.back.rest();
        }
    }

    /// Tells of ways that have failed for long, at each look at the roster. These are the other members.
    pub(super) async fn tell_of_ways(&self, members: &[NodeId]) {
        self.ways().retain(|id, _| members.contains(id));
        let out = self.store.cluster() == NOWHERE || self.store.is_out();
        let long = UNREACHED_TOLD_MS / ROSTER_LOOK_MS;
        // In a large cluster each is asked the seldomer.
        let turns = 2 * TELL_MS * members.len() as u64 / ROSTER_LOOK_MS;
        for id in members {
            let peer = self.peers.get(*id);
            let (mut there, mut back, mut unheard) = (false, false, false);
            if let Some(both) = self.ways().get_mut(id) {
                if out || peer.liveness == Liveness::Down {
                    both.there.rest();
                    both.back.rest();
                }
                // Who is suspect is alive or down in a moment.
                let alive = peer.liveness == Liveness::Alive;
                there = both.there.look(long) && alive && !both.there.told;
                unheard = both.back.look(long + turns);
                back = unheard && alive && !both.back.told;
                both.there.told |= there;
                both.back.told |= back;
            }
            if peer.unheard != unheard {
                self.peers.update(*id, |peer| peer.unheard = unheard);
            }
            if there {
                let address = self.reach(*id).await.unwrap_or_default();
                let why = peer.trouble.unwrap_or_default();
                log::warn!(
                    "member {id} is alive, and this node can't reach it at {address}: {why}. What is written here comes there by \
                     other members, if at all: mend the way, or give that node --advertise"
                );
            }
            if back {
                log::warn!(
                    "member {id} answers this node, and does not reach it at {}: what is written there comes here by other \
                     members, if at all. Mend the way, or start this node with --advertise",
                    self.address()
                );
            }
        }
    }

    fn ways(&self) -> MutexGuard<'_, BTreeMap<NodeId, Both>> {
        self.ways.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this node learn from others where it is reached?
    fn learns(&self) -> bool {
        self.settings.advertise.is_none() && self.settings.listen.ip().is_unspecified()
    }

    /// Somebody has reached this node there; `true` when that is better than what it knew.
    pub(super) fn reached_at(&self, address: &str) -> bool {
        let known = self.address();
        let better = is_wildcard(&known) || (is_loopback(&known) && !is_loopback(address));
        let learns = self.learns() && better;
        if learns {
            log::info!("this node is reached at {address}");
            self.set_address(address.to_owned());
        }
        learns
    }

    /// A node that is known by a loopback address and has got to know a member on another machine is known by one that leads
    /// here from there, from now on.
    pub(super) async fn look_for_address(&self) {
        let known = self.address();
        if self.learns()
            && (is_loopback(&known) || is_wildcard(&known))
            && let Some(better) = self.address_from_elsewhere().await
        {
            self.reached_at(&better);
        }
    }

    /// Where a node on all addresses is reached from the first member that is not on a loopback address, if there is one.
    pub(super) async fn address_from_elsewhere(&self) -> Option<String> {
        if !self.learns() {
            return None;
        }
        for id in self.others() {
            let there = self.reach(id).await.filter(|address| !is_loopback(address));
            // A name would have to be looked up first, and wait for that: who is known by a name is so to all.
            let Some(there) = there.and_then(|address| address.parse::<SocketAddr>().ok()) else { continue };
            if let Some(here) = source(self.settings.listen.ip(), there) {
                return Some(SocketAddr::new(here, self.settings.listen.port()).to_string());
            }
        }
        None
    }
}

/// From which address of this machine the way goes there, if a socket on `listen` has it and it is no loopback one. A socket of
/// datagrams knows when it is connected, and sends nothing.
fn source(listen: IpAddr, there: SocketAddr) -> Option<IpAddr> {
    let there = match (listen, there.ip()) {
        (IpAddr::V6(_), IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), there.port()),
        _ => there,
    };
    let socket = UdpSocket::bind((listen, 0)).ok()?;
    socket.connect(there).ok()?;
    let here = socket.local_addr().ok()?.ip().to_canonical();
    (!here.is_unspecified() && !here.is_loopback()).then_some(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_this_machine_itself_is_no_way_from_elsewhere() {
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(source(everywhere, SocketAddr::from(([127, 0, 0, 1], 1))), None);
        // Whatever this machine has, it is none of those.
        let here = source(everywhere, SocketAddr::from(([192, 0, 2, 1], 1)));
        assert!(here.is_none_or(|here| !here.is_loopback() && !here.is_unspecified()), "{here:?}");
    }

    #[test]
    fn a_way_is_told_of_once_and_again_when_it_works() {
        let mut way = Way::default();
        assert!(!way.look(1));
        way.fails();
        assert_eq!([way.look(3), way.look(3), way.look(3)], [false, false, true]);
        way.told = true;
        assert!(way.works() && !way.works() && !way.look(1));
    }
}
