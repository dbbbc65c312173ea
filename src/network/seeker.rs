//! Seeks to be a member, for as long as the process: by the addresses that it was given, and then with those that do not know
//! the node. How one is asked: `join.rs`.
//!
//! New nodes that find only each other become one cluster, not several, unless those whom they are told to ask go round in a
//! ring. Nothing here undoes that a membership ended since the process was started: who was evicted, or leaves, asks no more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::House;
use super::arrival::Progress;
use super::error::Error;
use super::join::ask_to_join;
use super::wire::Refusal;
use crate::limits::{
    JOIN_DEADLOCK_MS, JOIN_DENIED_MS, JOIN_RIVALS_MS, JOIN_TOLD_MS, RIVALS_MAX, ROSTER_LOOK_MS,
};
use crate::peers::Arrival;
use crate::replica::NodeId;

/// Nodes that are alone, all with join addresses, and that nobody has taken in: if each took in whoever asked first, they
/// would end in several clusters. So one takes others in only if all whom it asks wait for it as well, and have higher ids. Of
/// those who wait for each other in a ring nobody does so, until it has taken too long.
#[derive(Default)]
pub(super) struct Rivals {
    /// Who was asked in this round over all join addresses, and waits as well.
    asked: BTreeSet<NodeId>,
    /// Who has asked this node.
    asks: BTreeSet<NodeId>,
    /// Does this node take others in?
    founds: bool,
    /// Is it still to be taken in itself?
    seeks: bool,
    /// Since when it asks.
    since: Option<Instant>,
}

impl Rivals {
    /// Nobody has asked yet a node that is to be taken in, or is not.
    pub(super) fn of(seeks: bool) -> Rivals {
        Rivals { seeks, ..Rivals::default() }
    }

    /// Is the node to be taken in before it takes others in, though it has data of its own? Not for long: a new one has nothing
    /// to give.
    pub(super) fn seek(&self) -> bool {
        let early = |since: Instant| since.elapsed() < Duration::from_millis(JOIN_RIVALS_MS);
        self.seeks && self.since.is_none_or(early)
    }

    /// One more asks this node; `true` when it takes others in.
    pub(super) fn is_asked_by(&mut self, rival: NodeId) -> bool {
        if self.asks.len() < RIVALS_MAX {
            self.asks.insert(rival);
        }
        self.founds
    }
}

/// For as long as the process: gets the node in by one of these addresses, and then in with every member that does not know it.
/// One that was away when it joined may never hear of it, when its sponsor is gone by then. A membership that is over stays so,
/// unless the node was leaving and could not.
pub(super) async fn seek(house: Arc<House>, addresses: Vec<String>) {
    let mut seeker = Seeker::new(&house, addresses);
    house.rivals().since = Some(seeker.began);
    loop {
        if house.is_over().await {
            tokio::time::sleep(Duration::from_millis(ROSTER_LOOK_MS)).await;
            continue;
        }
        seeker.look().await;
        seeker.ask_deniers().await;
        house.rivals().seeks = seeker.seeks;
        let pause = match seeker.seeks {
            true => {
                seeker.round().await;
                seeker.failures += 1;
                house.pause(seeker.failures)
            }
            false => Duration::from_millis(ROSTER_LOOK_MS),
        };
        tokio::time::sleep(pause).await;
    }
}

/// What the task that joins knows.
struct Seeker<'a> {
    house: &'a House,
    began: Instant,
    /// Where it was told to join.
    addresses: Vec<String>,
    /// Is one of them to take the node in?
    seeks: bool,
    /// Those of them where it found itself.
    own: BTreeSet<String>,
    /// Those that have never answered.
    silent: BTreeSet<String>,
    /// Those that did not answer the last time.
    lost: BTreeMap<String, Lost>,
    /// Did it begin a cluster, or would it have, since nobody took it in?
    founds: bool,
    /// Rounds over the addresses in a row that were in vain.
    failures: u32,
    /// What the log says of each.
    said: BTreeMap<String, (Level, String)>,
    /// Members that do not know the node, and since when.
    deniers: BTreeMap<NodeId, Instant>,
    progress: Progress,
}

/// An address that does not answer.
#[derive(Default)]
struct Lost {
    /// Since when.
    since: Option<Instant>,
    /// The first question that it took and did not answer.
    asked: Option<Instant>,
}

impl Lost {
    /// Once more it did not answer, though it took the question if it was `asked`. It may be starting, also again; or have taken
    /// the node in, though that was not heard. Is it too early to do without it?
    fn may_come_back(&mut self, asked: bool) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if asked {
            self.asked.get_or_insert(now);
        }
        let within = |since: Instant, ms: u64| now - since < Duration::from_millis(ms);
        within(since, JOIN_TOLD_MS) || self.asked.is_some_and(|at| within(at, JOIN_DEADLOCK_MS))
    }
}

impl Seeker<'_> {
    fn new(house: &House, addresses: Vec<String>) -> Seeker<'_> {
        Seeker {
            house,
            began: Instant::now(),
            seeks: !addresses.is_empty(),
            silent: addresses.iter().cloned().collect(),
            lost: BTreeMap::new(),
            addresses,
            own: BTreeSet::new(),
            founds: false,
            failures: 0,
            said: BTreeMap::new(),
            deniers: BTreeMap::new(),
            progress: Progress::default(),
        }
    }

    /// Does the node get what it lacks? Where was it about to leave, and stays? Who does not know it?
    async fn look(&mut self) {
        let house = self.house;
        let others = house.others();
        self.progress.look(house, self.seeks).await;
        let stays_by = std::mem::take(&mut *house.stays_by.lock().unwrap_or_else(PoisonError::into_inner));
        if !stays_by.is_empty() {
            self.seek_again(stays_by).await;
        }
        let denies = |id: &NodeId| house.peers.get(*id).denies;
        self.deniers.retain(|id, _| others.contains(id) && denies(id));
        for id in others.into_iter().filter(denies) {
            self.deniers.entry(id).or_insert_with(Instant::now);
        }
        if !self.seeks && self.deniers.is_empty() {
            // All is well: what goes wrong after that is news.
            self.said.clear();
        }
    }

    /// By anybody who is a member, and by these.
    async fn seek_again(&mut self, addresses: Vec<String>) {
        self.addresses.extend(addresses);
        for id in self.house.others() {
            self.addresses.extend(self.house.reach(id).await);
        }
        self.addresses.sort();
        self.addresses.dedup();
        self.addresses.retain(|address| !self.own.contains(address));
        (self.seeks, self.failures) = (!self.addresses.is_empty(), 0);
    }

    /// Asks by all addresses, until one takes the node in.
    async fn round(&mut self) {
        let house = self.house;
        let mut unclear = false;
        house.rivals().asked.clear();
        for address in self.addresses.clone() {
            let mut tries = 0;
            let answer = loop {
                match ask_to_join(house, &address).await {
                    // It is about to: whoever went on to the next would found a second cluster with that one.
                    Err(Error::Refused(Refusal::NotNow(_)))
                        if tries < NOT_NOW_TRIES && !house.is_over().await =>
                    {
                        tries += 1;
                        tokio::time::sleep(house.pause(0)).await;
                    }
                    answer => break answer,
                }
            };
            if !matches!(
                answer,
                Err(Error::Unreachable(_) | Error::Unanswered(_) | Error::Secret | Error::Protocol { .. })
            ) {
                self.silent.remove(&address);
                self.lost.remove(&address);
            }
            // It was told so by the answer.
            if answer.is_ok() || house.is_over().await {
                // What a founder could not ask may be the cluster that it was to join.
                self.addresses.retain(|address| self.founds && self.silent.contains(address));
                (self.seeks, self.failures) = (!self.addresses.is_empty(), 0);
                return;
            }
            let Err(error) = answer else { continue };
            match &error {
                Error::Refused(refusal @ Refusal::RolledBack(_)) => house.give_up(&address, refusal),
                Error::Refused(Refusal::Asking(id)) => drop(house.rivals().asked.insert(*id)),
                // A member answers, as soon as somebody mends that.
                Error::Refused(Refusal::NotNow(_)) | Error::Secret | Error::Protocol { .. } => unclear = true,
                Error::Own => drop(self.own.insert(address.clone())),
                Error::Unreachable(_) | Error::Unanswered(_) => {
                    let asked = matches!(error, Error::Unanswered(_));
                    unclear |= self.lost.entry(address.clone()).or_default().may_come_back(asked);
                }
                _ => {}
            }
            self.tell(&address, &error);
        }
        if !unclear {
            let me = house.store.me();
            let late = !self.is_early(JOIN_DEADLOCK_MS);
            let mut rivals = house.rivals();
            let waits = |rival: &NodeId| me < *rival && (late || rivals.asks.contains(rival));
            // Once it does it stays so: somebody may be in.
            rivals.founds |= rivals.asked.iter().all(waits);
            self.founds |= rivals.founds && house.peers.arrival() == Some(Arrival::Asking);
        }
        if self.addresses.iter().all(|address| self.own.contains(address))
            && house.peers.arrival() == Some(Arrival::Asking)
        {
            house.is_first_if_it_asks().await;
        }
        self.addresses.retain(|address| !(self.own.contains(address) && is_fixed(address)));
        self.seeks = !self.addresses.is_empty();
    }

    /// Asks those who have not come to know the node for so long that they may not hear of it by others.
    async fn ask_deniers(&mut self) {
        let long = Duration::from_millis(JOIN_DENIED_MS);
        let due = self.deniers.iter().filter(|(_, since)| since.elapsed() > long).map(|(id, _)| *id);
        for id in due.collect::<Vec<NodeId>>() {
            if self.house.peers.get(id).silent {
                continue;
            }
            // Whatever it answers, it has as long again to show that it knows the node.
            self.deniers.remove(&id);
            let Some(address) = self.house.reach(id).await else { continue };
            match ask_to_join(self.house, &address).await {
                Err(Error::Refused(refusal @ Refusal::RolledBack(_))) => self.house.give_up(id, &refusal),
                // It is about to take somebody in, or joins itself.
                Ok(_) | Err(Error::Refused(Refusal::NotNow(_))) => {}
                Err(error) => self.tell(&address, &error),
            }
        }
    }

    /// Has it not yet sought for so long?
    fn is_early(&self, ms: u64) -> bool {
        self.began.elapsed() < Duration::from_millis(ms)
    }

    /// Said once, and again when it changes.
    fn tell(&mut self, address: &str, error: &Error) {
        let next = match error {
            Error::Own if is_fixed(address) => ", and is left out",
            Error::Ended => "",
            _ => "; trying again",
        };
        let level = match error {
            Error::Unreachable(_) | Error::Unanswered(_) | Error::Refused(Refusal::Asking(_))
                if self.is_early(JOIN_TOLD_MS) =>
            {
                Level::Info
            }
            // All may be given the same list.
            Error::Own => Level::Info,
            _ => Level::Warn,
        };
        let new = (level, format!("{error}{next}"));
        if !matches!(error, Error::Own) {
            self.house.peers.hinder(format!("{address}: {error}"));
        }
        if self.said.get(address) != Some(&new) {
            log::log!(level, "can't join by {address}: {}", new.1);
            self.said.insert(address.to_owned(), new);
        }
    }
}

/// Will it lead to the same machine tomorrow? A name may stand for several nodes, and lead to another one the next time.
fn is_fixed(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok() || address.starts_with("localhost:")
}

/// How often a member that says "not now" is asked before the next one is.
const NOT_NOW_TRIES: u32 = 50;

impl House {
    pub(super) fn rivals(&self) -> MutexGuard<'_, Rivals> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
