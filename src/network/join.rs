//! Joining, from both sides: find a member and be taken in; take a node in.
//!
//! Two clusters of several members are never made one here, and new nodes that find only each other become one cluster, not
//! several, unless those whom they are told to ask go round in a ring.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::client::Client;
use super::error::Error;
use super::wire::{Envelope, Join, Joined, Message, Pulse, Refusal, Reply};
use super::{House, NOWHERE, Secret, Settings, is_concrete};
use crate::exit::Exit;
use crate::limits::{
    JOIN_DEADLOCK_MS, JOIN_DENIED_MS, JOIN_TOLD_MS, MEMBER_SINCE_AHEAD_MS_MAX, PEER_ANSWER_MS, RIVALS_MAX,
    ROSTER_LOOK_MS,
};
use crate::peers::{Arrival, Liveness, canonical, is_loopback};
use crate::replica::{Dot, NodeId, Records, VersionVector};
use crate::storage::{self, Action, Parcel, Rejection, Store};

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

/// Tries these addresses again and again, until one takes this node in.
pub async fn join(house: Arc<House>, mut addresses: Vec<String>) {
    let (began, mut failures, mut said) = (Instant::now(), 0, BTreeMap::new());
    while !addresses.is_empty() && !house.is_evicted().await {
        let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut unclear = false;
        house.rivals().asked.clear();
        for address in &addresses {
            let mut tries = 0;
            let answer = loop {
                match ask_to_join(&house, address).await {
                    // It is about to: whoever went on to the next would found a second cluster with that one.
                    Err(Error::Refused(Refusal::NotNow(_)))
                        if tries < NOT_NOW_TRIES && !house.is_evicted().await =>
                    {
                        tries += 1;
                        tokio::time::sleep(house.pause(0)).await;
                    }
                    answer => break answer,
                }
            };
            match answer {
                // Whoever took it in may be gone before the others hear of it.
                Ok(sponsor) if arrived(&house, sponsor).await => return,
                Ok(_) => {
                    for id in house.others() {
                        others.extend(house.reach(id).await);
                    }
                }
                // It was told so by the answer.
                Err(_) if house.is_evicted().await => return,
                Err(error) => {
                    let next = match error {
                        Error::Own if is_fixed(address) => ", and is left out",
                        _ => "; trying again",
                    };
                    if matches!(error, Error::Own) {
                        own.insert(address.clone());
                    }
                    // It may be starting as well.
                    let early = began.elapsed() < Duration::from_millis(JOIN_TOLD_MS);
                    match error {
                        Error::Refused(Refusal::Asking(id)) => drop(house.rivals().asked.insert(id)),
                        Error::Refused(Refusal::NotNow(_)) => unclear = true,
                        Error::Unreachable(_) => unclear |= early,
                        _ => {}
                    }
                    let text = format!("{error}{next}");
                    let level = match error {
                        Error::Unreachable(_) | Error::Refused(Refusal::Asking(_)) if early => Level::Info,
                        _ => Level::Warn,
                    };
                    // Said once, and again when it changes.
                    let new = (level, text);
                    if said.get(address) != Some(&new) {
                        log::log!(level, "can't join by {address}: {}", new.1);
                        said.insert(address.clone(), new);
                    }
                }
            }
        }
        if !unclear {
            let me = house.store.me();
            let late = began.elapsed() > Duration::from_millis(JOIN_DEADLOCK_MS);
            let mut rivals = house.rivals();
            let waits = |rival: &NodeId| me < *rival && (late || rivals.asks.contains(rival));
            // Once it does it stays so: somebody may be in.
            rivals.founds |= rivals.asked.iter().all(waits);
        }
        if addresses.iter().all(|address| own.contains(address))
            && house.peers.arrival() == Some(Arrival::Asking)
        {
            // It is the first of its cluster.
            house.peers.arrive(None);
        }
        addresses.extend(others);
        addresses.sort();
        addresses.dedup();
        addresses.retain(|address| !(own.contains(address) && is_fixed(address)));
        failures += 1;
        tokio::time::sleep(house.pause(failures)).await;
    }
}

/// Has the node what the cluster had when it was taken in, or does it get there; and do others know it than its sponsor? `false`
/// when nothing came for long, or when others do not take it for a member though its sponsor does.
async fn arrived(house: &House, sponsor: NodeId) -> bool {
    let (mut before, mut since) = (None, Instant::now());
    // Evicted, or leaving: that is for whoever starts it again.
    while !house.store.is_out() {
        let published = house.store.published();
        let mut behind = false;
        if let Some(Arrival::Behind(goal)) = house.peers.arrival() {
            behind = !published.vv.covers_all(&goal);
            if !behind {
                house.peers.arrive(None);
                // Should it not be noted, it is seen to be so at the next start.
                let _ = house.store.arrive(None).await;
            }
        }
        let known = Known::look(house, sponsor);
        if known.evicted || (!behind && known.beside && !known.unclear && !known.denied) {
            return true;
        }
        // What clients of this node write is no news; of a sweep the vector shows the end only.
        let mut vv = published.vv.clone();
        vv.retain(|origin| origin != house.store.me());
        let now = Some((vv, house.sweeper()));
        if before != now {
            (before, since) = (now, Instant::now());
        }
        if known.denied && since.elapsed() > Duration::from_millis(JOIN_DENIED_MS) {
            return false;
        }
        if since.elapsed() > Duration::from_millis(PEER_ANSWER_MS) {
            // A sponsor that is up has told all whom it can.
            return !behind && house.peers.get(sponsor).liveness == Liveness::Alive;
        }
        tokio::time::sleep(Duration::from_millis(ROSTER_LOOK_MS)).await;
    }
    true
}

/// To whom this node is known as a member. Only who knows it tells it what he has.
#[derive(Default)]
struct Known {
    /// To another one than its sponsor, or there is none.
    beside: bool,
    /// Of one that may be up it can't be told.
    unclear: bool,
    /// One does not know it, and never has: the sponsor may be a stranger there itself.
    denied: bool,
    /// One does not know it any more: it is not to ask by itself to be taken in again.
    evicted: bool,
}

impl Known {
    fn look(house: &House, sponsor: NodeId) -> Known {
        let (mut others, me) = (house.store.said(), house.store.me());
        others.retain(|id, _| *id != me);
        let mut known = Known { beside: others.keys().all(|id| *id == sponsor), ..Known::default() };
        for (id, said) in others {
            let peer = house.peers.get(id);
            let told = !said.vv.is_empty();
            known.evicted |= told && peer.denies;
            if id != sponsor {
                known.beside |= told;
                known.denied |= !told && peer.denies;
                known.unclear |= !told && !peer.denies && peer.liveness != Liveness::Down;
            }
        }
        known
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

/// Asks one member to be taken in; which one did so.
pub(super) async fn ask_to_join(house: &House, address: &str) -> Result<NodeId, Error> {
    // Two that ask each other at once must not each adopt the other's cluster.
    let _adopting = house.adopting.lock().await;
    let members = match house.store.cluster() {
        NOWHERE => 1,
        _ => house.others().len() as u64 + 1,
    };
    let listen = house.settings.listen;
    let concrete = (!listen.ip().is_unspecified()).then(|| listen.to_string());
    let mut advertise = house.settings.advertise.clone().or(concrete);
    if advertise.is_none() && is_loopback(address) {
        // It would be seen to come from one, which leads nowhere from a member elsewhere.
        advertise = house.address_from_elsewhere().await;
    }
    let since_ms = house.member(house.store.me()).await.map(|record| record.joined_at_ms);
    let again = house.was_member();
    if again && since_ms.is_none() {
        let why = "this node was evicted, or leaves: it is not to ask by itself to be taken in again";
        return Err(Error::Unreachable(why.into()));
    }
    let join = Join { members, since_ms, again, left: house.store.left()?, advertise, port: listen.port() };
    let envelope = house.envelope(Message::Join(join));
    let limit = Duration::from_millis(PEER_ANSWER_MS);
    let answer = house.client.ask(address, &envelope, limit).await?;
    if answer.from == house.store.me() && answer.run == house.run {
        return Err(Error::Own);
    }
    match answer.body {
        Reply::Joined(Joined { address: known_as, roster, vv }) => {
            roster.check().map_err(|e| Error::Unreadable(e.to_string()))?;
            if !roster.compares() || !roster.vv.is_empty() {
                return Err(Error::Unreadable("its list of members promises something".into()));
            }
            let adopts = house.store.cluster() != answer.cluster;
            if adopts {
                let adopted = house.store.adopt(answer.cluster).await;
                adopted.map_err(|e| storage::Error::Failed(format!("can't adopt the cluster: {e}")))?;
            }
            house.set_address(known_as.clone());
            let key = house.store.me().0.to_be_bytes();
            let told = roster.entries.iter().find(|(_, its, _)| *its == key);
            let told = told.map(|(.., entry)| Records::told(entry)).unwrap_or_default();
            // Who does not know the others takes them for strangers.
            let taken = house.store.take(Parcel::Sweep(roster)).await;
            taken.map_err(|e| Error::Unreachable(e.to_string()))?;
            house.taken_in(&told, &vv, adopts, &known_as).await;
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
                if !house.others().is_empty() {
                    return Err(Error::Unreadable("it was evicted from this node's cluster itself".into()));
                }
                // Of two each may have evicted the other; then it has begun another membership for this one.
                let begun = told.standing().is_some_and(|record| Some(record.joined_at_ms) > since_ms);
                if !adopts && !begun {
                    let why = "it has not heard yet that this node's cluster evicted it";
                    return Err(Refusal::NotNow(why.into()).into());
                }
                let written = house.enter(answer.from, address, None).await;
                written.map_err(|e| Error::Unreachable(e.to_string()))?;
            }
            house.note_membership();
            // Whoever took it in is asked again, until others know it as well: that is no news.
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
        Reply::Have(_) | Reply::Pulse(_) => Err(Error::Unreadable("it answered something else".into())),
    }
}

impl House {
    fn rivals(&self) -> MutexGuard<'_, Rivals> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Others have shown this process that it is a member of its cluster.
    pub(super) fn note_membership(&self) {
        *self.member_of.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.store.cluster());
    }

    /// Have they, in the cluster in which it is now?
    fn was_member(&self) -> bool {
        *self.member_of.lock().unwrap_or_else(PoisonError::into_inner) == Some(self.store.cluster())
    }

    /// Takes a node in. `seen_as` is where its request came from, `reached_as` what it called us.
    pub(super) async fn take_in(
        &self,
        (from, cluster): (NodeId, NodeId),
        join: Join,
        seen_as: Option<SocketAddr>,
        reached_as: Option<String>,
    ) -> Reply {
        let mine = self.store.cluster();
        if mine == NOWHERE {
            return Reply::Refused(Refusal::NotNow("it has left its cluster".into()));
        }
        if self.store.is_out() {
            // Who came in by it would be out as well.
            return Reply::Refused(Refusal::NotNow("it is no member itself any more".into()));
        }
        if join.members <= 1 && self.peers.arrival() == Some(Arrival::Asking) {
            let mut rivals = self.rivals();
            if rivals.asks.len() < RIVALS_MAX {
                rivals.asks.insert(from);
            }
            if !rivals.founds {
                return Reply::Refused(Refusal::Asking(self.store.me()));
            }
        }
        let Ok(_adopting) = self.adopting.try_lock() else {
            return Reply::Refused(Refusal::NotNow("it is joining itself".into()));
        };
        // Else an eviction that it has not heard of would be undone, with nobody having started it again.
        let mut since_ms = join.since_ms.filter(|_| join.again && cluster == mine);
        if cluster != mine && join.members > 1 {
            // A node that is alone goes where several are, whoever of the two asked; but its data not by a stranger's word alone.
            if !self.others().is_empty() {
                return Reply::Refused(Refusal::OtherCluster(mine));
            }
            if self.settings.join.is_empty() && self.store.published().totals.keys > 0 {
                let why = "it has data of its own, and was told to join nobody. To merge that into this node's cluster, start \
                           it with this node's address to join by";
                return Reply::Refused(Refusal::Malformed(why.into()));
            }
            if let Err(e) = self.store.adopt(cluster).await {
                return Reply::Refused(Refusal::NotNow(e.to_string()));
            }
            log::info!("this node belongs to cluster {cluster} now, asked by its member {from}");
            self.peers.arrive(None);
            // It does not begin to be a member by that, or it would be one again though it was evicted.
            since_ms = join.since_ms;
        }
        if let Some(left) = join.left.filter(|left| *left != self.store.cluster()) {
            // Its roster is that one's, and would come along.
            return Reply::Refused(Refusal::Left(left));
        }
        let seen = seen_as.map(|seen| SocketAddr::new(seen.ip(), join.port).to_string());
        let Some(address) = join.advertise.or(seen).map(|address| canonical(&address)) else {
            return Reply::Refused(Refusal::Malformed("its address can't be told: give --advertise".into()));
        };
        if !is_concrete(&address) {
            return Reply::Refused(Refusal::Malformed(
                "what it calls its address is no address of a node".into(),
            ));
        }
        // A node on all addresses learns its own from those who reach it.
        let host = reached_as.filter(|host| is_concrete(host)).map(|host| canonical(&host));
        if host.is_some_and(|host| self.reached_at(&host)) {
            self.introduce().await;
        }
        let entered = self.enter(from, &address, since_ms).await;
        if entered.is_ok() && self.store.is_member(from) {
            self.note_membership();
        }
        match entered {
            Ok(true) => log::info!("node {from} is a member now, as {address}"),
            Ok(false) => {}
            Err(e) => return Reply::Refused(Refusal::NotNow(e.to_string())),
        }
        if self.peers.arrival() == Some(Arrival::Asking) {
            // Who takes others in is the first of their cluster, and has all that there is in it.
            self.peers.arrive(None);
        }
        // In this order: what the vector covers is in the roster, or was superseded.
        let vv = self.store.published().vv.clone();
        match self.store.roster().await {
            Ok(roster) => Reply::Joined(Joined { address, roster, vv }),
            Err(e) => Reply::Refused(Refusal::NotNow(e.to_string())),
        }
    }

    /// This node is a member from now on, or has been one for as long as it says, unless that was ended; and is reached there.
    /// `false` when there is nothing new in that.
    async fn enter(&self, id: NodeId, address: &str, since_ms: Option<u64>) -> Result<bool, Rejection> {
        let now_ms = (self.settings.now_ms)();
        let enter = |records: &Records| {
            if since_ms.is_some_and(|since_ms| records.has_ended(since_ms)) {
                return None;
            }
            // The same beginning as others have written, whatever the clock says here; within bounds.
            let latest = now_ms.saturating_add(MEMBER_SINCE_AHEAD_MS_MAX);
            let record = records.taken_in(address.to_owned(), since_ms.unwrap_or(now_ms).min(latest));
            (records.standing().as_ref() != Some(&record)).then(|| Action::Put(record.text(), None))
        };
        Ok(self.store.change_records(id, enter).await?.is_some())
    }

    /// The node is what its sponsor's records say of it. What was said of it before does not count beside that if the sponsor had
    /// seen it, a mark among it; or if it was said in a cluster that this node was by itself, by another clock. Of the eviction
    /// that this node came back from when it was started the sponsor need not have heard: it has been taken in after that.
    async fn taken_in(&self, told: &Records, vv: &VersionVector, adopts: bool, address: &str) {
        let (me, now_ms) = (self.store.me(), (self.settings.now_ms)());
        if vv.get(me) > self.store.published().vv.get(me) {
            // It was set back: what it wrote now would bear a name that is taken.
            return;
        }
        let put = |records: &Records| {
            let record = told.standing()?;
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
        if let Err(e) = self.store.change_records(me, put).await {
            log::warn!("that this node was taken in could not be written into the membership: {e}");
        }
    }

    /// Ends the process: to go on would be to write under a name that is another's.
    pub(super) fn give_up(&self, by: NodeId, refusal: &Refusal) -> ! {
        let advice = match refusal {
            Refusal::Twin => "give each node a data directory of its own, made by the node itself",
            _ => "start it again: it then takes a new node id and keeps its data",
        };
        let me = self.store.me();
        storage::end_process(Exit::Refused, &format!("member {by} refuses node {me}: {refusal}; {advice}"))
    }
}
