//! Joining, from both sides: find a member and be taken in; take a node in.
//!
//! Two clusters of several members are never made one here, and new nodes that find only each other become one cluster, not
//! several, unless those whom they are told to ask go round in a ring.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::error::Error;
use super::wire::{Join, Joined, Message, Refusal, Reply};
use super::{House, NOWHERE, Settings, is_concrete};
use crate::exit::Exit;
use crate::limits::{JOIN_DEADLOCK_MS, JOIN_TOLD_MS, PEER_ANSWER_MS, RIVALS_MAX, ROSTER_LOOK_MS};
use crate::peers::{Arrival, Liveness, Member, canonical};
use crate::replica::{Kind, NodeId};
use crate::storage::{self, Action, Parcel, Store};

/// Where this node can be reached, as far as it can know before anybody has told it.
pub async fn first_address(store: &Store, settings: &Settings) -> String {
    if let Some(address) = &settings.advertise {
        return address.clone();
    }
    if !settings.listen.ip().is_unspecified() {
        return settings.listen.to_string();
    }
    // On all addresses: what was found out in an earlier run is better than nothing.
    let key = store.me().0.to_be_bytes();
    let shown = store.read(Kind::Membership, &key, (settings.now_ms)()).await.unwrap_or_default();
    let known = shown.first().and_then(|(_, text)| Member::of(text)).map(|member| member.address);
    let known = known.filter(|address| is_concrete(address));
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
    while !addresses.is_empty() {
        let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut unclear = false;
        house.rivals().asked.clear();
        for address in &addresses {
            let mut tries = 0;
            let answer = loop {
                match ask_to_join(&house, address).await {
                    // It is about to: whoever went on to the next would found a second cluster with that one.
                    Err(Error::Refused(Refusal::NotNow(_))) if tries < NOT_NOW_TRIES => {
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
/// when nothing came for long.
async fn arrived(house: &House, sponsor: NodeId) -> bool {
    let (mut before, mut since) = (None, Instant::now());
    // Evicted, or leaving: that is for whoever starts it again.
    while !house.is_out() {
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
        if !behind && is_known_beside(house, sponsor) {
            return true;
        }
        // What clients of this node write is no news; of a sweep the vector shows the end only.
        let mut vv = published.vv.clone();
        vv.retain(|origin| origin != house.store.me());
        let now = Some((vv, house.sweeper()));
        if before != now {
            (before, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_millis(PEER_ANSWER_MS) {
            // A sponsor that is up has told all whom it can.
            return !behind && house.peers.get(sponsor).liveness == Liveness::Alive;
        }
        tokio::time::sleep(Duration::from_millis(ROSTER_LOOK_MS)).await;
    }
    true
}

/// Is this node known to another member than its sponsor, or is there none? Only who knows it tells it what he has.
fn is_known_beside(house: &House, sponsor: NodeId) -> bool {
    let mut others = house.store.said();
    others.retain(|id, _| *id != sponsor && *id != house.store.me());
    others.is_empty() || others.values().any(|said| !said.vv.is_empty())
}

/// Will it lead to the same machine tomorrow? A name may stand for several nodes, and lead to another one the next time.
fn is_fixed(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok() || address.starts_with("localhost:")
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
    let advertise = house.settings.advertise.clone().or(concrete);
    let join = Join { members, left: house.store.left()?, advertise, port: listen.port() };
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
            if house.store.cluster() != answer.cluster {
                let adopted = house.store.adopt(answer.cluster).await;
                adopted.map_err(|e| storage::Error::Failed(format!("can't adopt the cluster: {e}")))?;
            }
            house.set_address(known_as.clone());
            // Who does not know the others takes them for strangers.
            let taken = house.store.take(Parcel::Sweep(roster)).await;
            taken.map_err(|e| Error::Unreachable(e.to_string()))?;
            if house.is_out() {
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
                // Of two each may have evicted the other.
                let joined_at_ms = (house.settings.now_ms)();
                let record = Member { address: address.to_owned(), joined_at_ms };
                let key = answer.from.0.to_be_bytes().to_vec();
                let written = house.record(key, Action::Put(record.text(), None)).await;
                written.map_err(|e| Error::Unreachable(e.to_string()))?;
            }
            log::info!("joined cluster {} by {address}, as {known_as}", answer.cluster);
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
        if self.is_out() {
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
        if cluster != mine && join.members > 1 {
            // A node that is alone goes where several are, whoever of the two asked.
            if !self.others().is_empty() {
                return Reply::Refused(Refusal::OtherCluster(mine));
            }
            if let Err(e) = self.store.adopt(cluster).await {
                return Reply::Refused(Refusal::NotNow(e.to_string()));
            }
            log::info!("this node belongs to cluster {cluster} now, asked by its member {from}");
            self.peers.arrive(None);
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
        let unknown = self.settings.advertise.is_none() && self.settings.listen.ip().is_unspecified();
        if let Some(host) = reached_as.filter(|host| unknown && is_concrete(host))
            && self.address() == self.settings.listen.to_string()
        {
            self.set_address(canonical(&host));
            self.introduce().await;
        }
        let known = self.member(from).await;
        if known.as_ref().is_none_or(|known| known.address != address) {
            let joined_at_ms = known.map_or((self.settings.now_ms)(), |known| known.joined_at_ms);
            let record = Member { address: address.clone(), joined_at_ms };
            let key = from.0.to_be_bytes().to_vec();
            if let Err(e) = self.record(key, Action::Put(record.text(), None)).await {
                return Reply::Refused(Refusal::NotNow(e.to_string()));
            }
            log::info!("node {from} is a member now, as {address}");
        }
        match self.store.roster().await {
            Ok(roster) => Reply::Joined(Joined { address, roster, vv: self.store.published().vv.clone() }),
            Err(e) => Reply::Refused(Refusal::NotNow(e.to_string())),
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
