//! Joining: finds a member that takes the node in, and gets it in with those that do not know it. The other side: `sponsor.rs`.
//!
//! New nodes that find only each other become one cluster, not several, unless those whom they are told to ask go round in a
//! ring. Nothing here undoes that a membership ended since the process was started: who was evicted, or leaves, asks no more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::client::Client;
use super::error::Error;
use super::wire::{Claim, Envelope, Join, Joined, Message, Pulse, Refusal, Reply, Ticket};
use super::{House, NOWHERE, Secret};
use crate::limits::{
    JOIN_DEADLOCK_MS, JOIN_DENIED_MS, JOIN_TOLD_MS, PEER_ANSWER_MS, RIVALS_MAX, ROSTER_LOOK_MS,
};
use crate::peers::{Arrival, is_loopback};
use crate::replica::{Dot, NodeId, Records, VersionVector};
use crate::storage::{self, Action, Parcel};

/// Nodes that come with nothing, all with join addresses, and that nobody has taken in: if each took in whoever asked first, they
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
}

impl Rivals {
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
pub async fn join(house: Arc<House>, addresses: Vec<String>) {
    let mut seeker = Seeker::new(&house, addresses);
    loop {
        if house.is_over().await {
            tokio::time::sleep(Duration::from_millis(ROSTER_LOOK_MS)).await;
            continue;
        }
        seeker.look().await;
        seeker.ask_deniers().await;
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
    /// Did it begin a cluster, or would it have, since nobody took it in?
    founds: bool,
    /// Rounds over the addresses in a row that were in vain.
    failures: u32,
    /// What the log says of each.
    said: BTreeMap<String, (Level, String)>,
    /// Members that do not know the node, and since when.
    deniers: BTreeMap<NodeId, Instant>,
    /// What had come to the node that lacks something yet, and when that last was something else.
    came: Option<(Came, Instant)>,
}

/// What clients of this node write is no news; of a sweep the vector shows the end only.
type Came = (VersionVector, Option<(NodeId, Instant)>);

impl Seeker<'_> {
    fn new(house: &House, addresses: Vec<String>) -> Seeker<'_> {
        Seeker {
            house,
            began: Instant::now(),
            seeks: !addresses.is_empty(),
            silent: addresses.iter().cloned().collect(),
            addresses,
            own: BTreeSet::new(),
            founds: false,
            failures: 0,
            said: BTreeMap::new(),
            deniers: BTreeMap::new(),
            came: None,
        }
    }

    /// Has the node what the cluster had when it was taken in, or does it get there? Who does not know it?
    async fn look(&mut self) {
        let house = self.house;
        let others = house.others();
        match house.peers.arrival() {
            Some(Arrival::Behind(goal)) => {
                let mut vv = house.store.published().vv.clone();
                let lacks = !vv.covers_all(&goal);
                if lacks && others.is_empty() {
                    log::warn!(
                        "this node had not yet all that its cluster had, and is the last member now: the rest is lost"
                    );
                }
                if !lacks || others.is_empty() {
                    house.peers.arrive(None);
                    // Should it not be noted, it is seen to be so at the next start.
                    let _ = house.store.arrive(None).await;
                } else {
                    vv.retain(|origin| origin != house.store.me());
                    let came = (vv, house.sweeper());
                    match &self.came {
                        Some((before, since)) if *before == came => {
                            // What its sponsor had may be lost with that one's disk: another one is to say what there is.
                            if since.elapsed() > Duration::from_millis(PEER_ANSWER_MS) {
                                self.came = None;
                                self.seek_again(Vec::new()).await;
                            }
                        }
                        _ => self.came = Some((came, Instant::now())),
                    }
                }
            }
            _ => self.came = None,
        }
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
            if !matches!(answer, Err(Error::Unreachable(_) | Error::Unanswered(_))) {
                self.silent.remove(&address);
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
                Error::Refused(Refusal::NotNow(_)) => unclear = true,
                Error::Own => drop(self.own.insert(address.clone())),
                // It may be starting as well; or have taken the node in, though that was not heard.
                Error::Unreachable(_) => unclear |= self.is_early(JOIN_TOLD_MS),
                Error::Unanswered(_) => unclear |= self.is_early(JOIN_DEADLOCK_MS),
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
            // It is the first of its cluster.
            house.peers.arrive(None);
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
            _ => Level::Warn,
        };
        let new = (level, format!("{error}{next}"));
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

/// Does a member of a cluster answer at this address, who takes this secret? It learns nothing of who asks.
pub async fn is_member(address: &str, secret: Option<Secret>, random: fn() -> u64) -> Result<(), Error> {
    let ask = Message::Pulse(NodeId::NOBODY, Pulse::default());
    let from = NodeId(random().max(1));
    let envelope =
        Envelope { cluster: NOWHERE, from, run: random(), now_ms: 0, address: String::new(), body: ask };
    let limit = Duration::from_millis(PEER_ANSWER_MS);
    let answer = Client::new(secret)?.ask(address, &envelope, limit).await?;
    match answer.body {
        _ if answer.cluster == NOWHERE => Err(Refusal::NotNow("it has left its cluster".into()).into()),
        // Meant for another one: so it would say to anybody.
        Reply::Refused(Refusal::OtherNode(_)) => Ok(()),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(Error::Unreadable("it answered something else".into())),
    }
}

/// How often a member that says "not now" is asked before the next one is.
const NOT_NOW_TRIES: u32 = 50;

/// What a member is asked, and what of it counts when the answer has come.
struct Question {
    cluster: NodeId,
    since_ms: Option<u64>,
    claim: Claim,
}

impl Question {
    /// As things stand now.
    async fn of(house: &House) -> Result<Question, Error> {
        let record = house.store.records(house.store.me()).await?.stands_by();
        let since_ms = record.as_ref().map(|(_, record)| record.joined_at_ms);
        let claim = match record {
            Some((record, _)) if house.was_member() => Claim::Again { record },
            None if house.was_member() => return Err(Error::Ended),
            _ => Claim::Unaware { mark: house.came_with.get().copied() },
        };
        Ok(Question { cluster: house.store.cluster(), since_ms, claim })
    }

    async fn put(
        &self,
        house: &House,
        address: &str,
        ticket: Option<Ticket>,
    ) -> Result<Envelope<Reply>, Error> {
        let members = match self.cluster {
            NOWHERE => 1,
            _ => house.fellows().len() as u64 + 1,
        };
        let listen = house.settings.listen;
        let concrete = (!listen.ip().is_unspecified()).then(|| listen.to_string());
        let mut advertise = house.settings.advertise.clone().or(concrete);
        if advertise.is_none() && is_loopback(address) {
            // It would be seen to come from one, which leads nowhere from a member elsewhere.
            advertise = house.address_from_elsewhere().await;
        }
        let Question { since_ms, claim, .. } = *self;
        let (vv, left) = (house.store.published().vv.clone(), house.store.left()?);
        let (for_ms, port) = (house.age_ms(), listen.port());
        let join = Join { members, since_ms, claim, for_ms, vv, ticket, left, advertise, port };
        let limit = Duration::from_millis(PEER_ANSWER_MS);
        house.client.ask(address, &house.envelope(Message::Join(join)), limit).await
    }
}

/// The first word to a member, of which nothing comes but a ticket: who does not answer it holds nobody up that asks this node.
/// It shows whether the node was set back.
pub(super) async fn ask_for_ticket(house: &House, address: &str) -> Result<Ticket, Error> {
    let answer = Question::of(house).await?.put(house, address, None).await?;
    if answer.from == house.store.me() && answer.run == house.run {
        return Err(Error::Own);
    }
    match answer.body {
        Reply::Ticket(ticket, known) => match known > house.store.published().vv.get(house.store.me()) {
            true => Err(Refusal::RolledBack(known).into()),
            false => Ok(ticket),
        },
        Reply::Refused(Refusal::Twin) => house.give_up(answer.from, &Refusal::Twin),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(Error::Unreadable("it answered something else".into())),
    }
}

/// Asks one member to be taken in; which one did so.
pub(super) async fn ask_to_join(house: &House, address: &str) -> Result<NodeId, Error> {
    let ticket = ask_for_ticket(house, address).await?;
    // Two that ask each other at once must not each adopt the other's cluster.
    let _adopting = house.adopting.lock().await;
    let question = Question::of(house).await?;
    let answer = question.put(house, address, Some(ticket)).await?;
    let Question { cluster, since_ms, claim } = question;
    let again = matches!(claim, Claim::Again { .. });
    match answer.body {
        Reply::Joined(Joined { address: known_as, roster, vv }) => {
            roster.check().map_err(|e| Error::Unreadable(e.to_string()))?;
            if !roster.compares() || !roster.vv.is_empty() {
                return Err(Error::Unreadable("its list of members promises something".into()));
            }
            let me = house.store.me();
            if vv.get(me) > house.store.published().vv.get(me) {
                return Err(Refusal::RolledBack(vv.get(me)).into());
            }
            if house.store.cluster() != cluster {
                // It left while the answer was on its way.
                return Err(Error::Ended);
            }
            let adopts = cluster != answer.cluster;
            if adopts {
                let adopted = house.store.adopt(answer.cluster).await;
                adopted.map_err(|e| storage::Error::Failed(format!("can't adopt the cluster: {e}")))?;
            }
            house.set_address(known_as.clone());
            let key = me.0.to_be_bytes();
            let told = roster.entries.iter().find(|(_, its, _)| *its == key);
            let told = told.map(|(.., entry)| Records::told(entry)).unwrap_or_default();
            // Who does not know the others takes them for strangers.
            let taken = house.store.take(Parcel::Sweep(roster)).await;
            taken.map_err(|e| Error::Unreachable(e.to_string()))?;
            if told.standing().is_none() {
                // It may have known the node, as a member that it is no more. Then the node is told by the mark that came.
                house.note_membership();
                return Err(Error::Ended);
            }
            house.taken_in(&told, &vv, adopts, again, &known_as).await;
            if house.store.is_out() {
                // It knew the node already, and has yet to be told, by the node itself if by nobody else.
                let why = "it has not heard yet that this node was evicted, or left";
                return Err(Refusal::NotNow(why.into()).into());
            }
            if house.peers.arrival().is_some() {
                let noted = house.store.arrive(Some(vv.clone())).await;
                noted.map_err(|e| Error::Unreachable(e.to_string()))?;
                house.peers.arrive(Some(Arrival::Behind(vv)));
            }
            if !house.store.is_member(answer.from) {
                if !house.fellows().is_empty() {
                    return Err(Error::Unreadable("it was evicted from this node's cluster itself".into()));
                }
                // Of two each may have evicted the other; then it has begun another membership for this one.
                let begun = told.standing().is_some_and(|record| Some(record.joined_at_ms) > since_ms);
                if !adopts && !begun {
                    let why = "it has not heard yet that this node's cluster evicted it";
                    return Err(Refusal::NotNow(why.into()).into());
                }
                // It was evicted before it was asked.
                let claim = (Claim::Unaware { mark: None }, 0);
                let written = house.enter(answer.from, address, None, claim).await;
                written.map_err(|e| Error::Unreachable(e.to_string()))?;
            }
            house.note_membership();
            // Each member that does not know it yet is asked as well: that is no news.
            let joined = Some((answer.cluster, known_as.clone()));
            let mut said = house.joined.lock().unwrap_or_else(PoisonError::into_inner);
            if *said != joined {
                log::info!("joined cluster {} by {address}, as {known_as}", answer.cluster);
                *said = joined;
            }
            Ok(answer.from)
        }
        Reply::Refused(Refusal::Twin) => house.give_up(answer.from, &Refusal::Twin),
        Reply::Refused(refusal) => Err(refusal.into()),
        Reply::Ticket(..) => Err(Refusal::NotNow("it is slow to answer".into()).into()),
        Reply::Have(_) | Reply::Pulse(_) => Err(Error::Unreadable("it answered something else".into())),
    }
}

impl House {
    pub(super) fn rivals(&self) -> MutexGuard<'_, Rivals> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node is what its sponsor's records say of it. What was said of it before does not count beside that if the sponsor had
    /// seen it, a mark among it; or if it was said in a cluster that this node was by itself, by another clock. Of the eviction
    /// that this node came back from when it was started the sponsor need not have heard: it has been taken in after that. Who
    /// asked on for a membership that ended meanwhile, as the node left or was evicted, is not in.
    async fn taken_in(&self, told: &Records, vv: &VersionVector, adopts: bool, again: bool, address: &str) {
        let now_ms = (self.settings.now_ms)();
        let put = |records: &Records| {
            let record = told.standing().filter(|_| !again || records.standing().is_some())?;
            let known = |dot: Dot| vv.covers(dot) || told.dots().any(|its| its == dot);
            let mark = records.mark().map(|(dot, _)| dot);
            let record = match records.dots().all(known) || (adopts && mark.is_none()) {
                true => record,
                false if mark.is_some() && mark.as_ref() == self.came_with.get() => {
                    records.taken_in(address.to_owned(), now_ms)
                }
                false => return None,
            };
            (!records.are(&record)).then(|| Action::Put(record.text(), None))
        };
        if let Err(e) = self.store.change_records(self.store.me(), put).await {
            log::warn!("that this node was taken in could not be written into the membership: {e}");
        }
    }
}
