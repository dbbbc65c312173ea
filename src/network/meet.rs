//! A start: goes back to those that are known from before, and finds out by them what this node is before it takes a write.
//!
//! It may have been set back, evicted, or copied; or it left as it stopped. What it finds is said once, in the log. It never
//! serves under an id whose names another process may have given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::join::{ask_for_ticket, ask_to_join};
use super::wire::{Message, Refusal, Reply};
use super::{House, NOWHERE};
use crate::exit::Exit;
use crate::limits::CONTACT_MS;
use crate::peers::Arrival;
use crate::replica::{Frame, NodeId};
use crate::storage;

/// Asks the members that are known from before what they have of this node: before it takes a single write it must know
/// whether it was rolled back, or whether it still belongs. What comes back are the addresses by which it is to join: of
/// members that no longer know it and did not take it in at once.
pub async fn meet(house: &Arc<House>) -> Result<Vec<String>, Error> {
    if house.store.cluster() != NOWHERE
        && !house.store.former()?.is_empty()
        && house.store.records(house.store.me()).await?.dots().next().is_none()
    {
        // It took this id as it ended, or ended as it took it.
        house.found().await;
    }
    if house.store.cluster() == NOWHERE {
        if house.store.is_copy() {
            renew(house, "this data directory is a copy, and belongs to no cluster").await?;
        }
        return match house.store.back_to()? {
            Some(addresses) => Ok(come_back(house, addresses).await?),
            None if house.settings.join.is_empty() => Err(storage::Error::Refused(
                "this node has left its cluster: give the address of a member to join, or another --data-dir; what is here can \
                 be had with `DynaRust export` or `DynaRust inspect`"
                    .into(),
            )
            .into()),
            None => Ok(ask_before_it_serves(house).await?.into_iter().collect()),
        };
    }
    let others = house.others();
    let copied = house.store.is_copy();
    if copied {
        look_for_original(house).await;
    }
    let mut heard = 0;
    let mut answers = tokio::task::JoinSet::new();
    for id in others.iter().copied() {
        let house = house.clone();
        answers.spawn(async move { (id, greet(&house, id).await) });
    }
    let deadline = tokio::time::sleep(Duration::from_millis(CONTACT_MS));
    tokio::pin!(deadline);
    let (mut strangers, mut renewed) = (Vec::new(), false);
    loop {
        let answer = tokio::select! {
            answer = answers.join_next() => answer,
            () = &mut deadline => None,
        };
        let Some(answer) = answer else { break };
        match answer {
            Ok((id, Err(Error::Refused(Refusal::RolledBack(_))))) => {
                renew(house, "this node holds less of its own writes than others: it was rolled back")
                    .await?;
                renewed = true;
                // Nobody knows the new one yet: any member may take it in, the one that answered first.
                strangers = others.iter().copied().filter(|other| *other != id).collect();
                strangers.insert(0, id);
                break;
            }
            Ok((id, Err(Error::Refused(Refusal::Twin)))) => {
                house.give_up(id, &Refusal::Twin);
            }
            Ok((id, Err(Error::Refused(Refusal::Stranger)))) => strangers.push(id),
            // It may be starting as well; who stays away is told of later.
            Ok((
                id,
                Err(
                    error @ (Error::Unreachable(_)
                    | Error::Unanswered(_)
                    | Error::Own
                    | Error::Refused(Refusal::NotNow(_))),
                ),
            )) => {
                log::info!("member {id} can't be reached yet: {error}");
            }
            Ok((id, Err(error))) => log::warn!("member {id} can't be reached: {error}"),
            Ok((_, Ok(()))) => heard += 1,
            Err(_) => {}
        }
    }
    if copied && others.is_empty() {
        let old = house.store.me();
        renew(
            house,
            "this data directory is a copy, and there is nobody to ask what else the node has written",
        )
        .await?;
        // Nobody knows it who could miss it.
        if house.remove(old).await.is_ok() {
            let _ = house.store.forget_former(old).await;
        }
    } else if copied && !renewed && heard < others.len() {
        let why = "this data directory is a copy, and not every member could be asked what it knows of the node's writes";
        renew(house, why).await?;
        (renewed, strangers) = (true, others.clone());
    }
    if !renewed && house.store.is_out() {
        // A node writes itself into the membership before it serves.
        match house.store.published().vv.get(house.store.me()) {
            0 => log::info!("this node was made of a backup, and joins the cluster of which that is"),
            _ => log::warn!("this node's membership was ended, and it joins again"),
        }
        strangers = others.clone();
    } else if !renewed && !strangers.is_empty() && heard == 0 {
        log::warn!(
            "no member that answers knows this node any more: it was evicted, or left; it joins again"
        );
    } else if !renewed && !strangers.is_empty() {
        // Word of its eviction, or that it joined, has not come to all: to be taken in once more is right in both cases.
        let count = strangers.len();
        log::info!("{heard} members know this node and {count} do not: it asks them to take it in");
    }
    if heard > 0 && strangers.is_empty() && !renewed && !house.store.is_out() {
        house.note_membership();
    }
    let mut addresses = Vec::new();
    for id in strangers {
        addresses.extend(house.reach(id).await);
    }
    // Who took it in, or showed that it was set back, is asked first when it serves, before those that it is told to join by.
    if let Some(address) = taken_in_by(house, &addresses).await? {
        return Ok(vec![address]);
    }
    if heard == 0
        && !renewed
        && let Some(address) = ask_before_it_serves(house).await?
    {
        addresses.insert(0, address);
    }
    Ok(addresses)
}

/// Nobody whom it knows has said what it has of this node's writes, and there are some: those that it is told to join by may.
async fn ask_before_it_serves(house: &Arc<House>) -> Result<Option<String>, Error> {
    match house.store.published().vv.get(house.store.me()) {
        0 => Ok(None),
        _ => taken_in_by(house, &house.settings.join).await,
    }
}

/// The first of these that takes the node in, if one does in time; the rest is for later, when the node serves. All are asked at
/// once what they know of it, for one that hangs must not hide another: they may show that it was set back.
async fn taken_in_by(house: &Arc<House>, addresses: &[String]) -> Result<Option<String>, Error> {
    let mut words = tokio::task::JoinSet::new();
    for (place, address) in addresses.iter().cloned().enumerate() {
        let house = house.clone();
        words.spawn(async move { (place, ask_for_ticket(&house, &address).await) });
    }
    let mut answered = BTreeSet::new();
    let mut set_back = None;
    let all = async {
        while let Some(word) = words.join_next().await {
            match word {
                Ok((place, Ok(_))) => drop(answered.insert(place)),
                Ok((place, Err(Error::Refused(Refusal::RolledBack(_))))) => {
                    set_back = Some(place);
                    return;
                }
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(CONTACT_MS), all).await;
    if let Some(place) = set_back {
        renew(house, "this node holds less of its own writes than others: it was rolled back").await?;
        // As another one it asks when it serves.
        return Ok(addresses.get(place).cloned());
    }
    let asked = async {
        for address in answered.iter().filter_map(|place| addresses.get(*place)) {
            if ask_to_join(house, address).await.is_ok() {
                return Some(address.clone());
            }
        }
        None
    };
    Ok(tokio::time::timeout(Duration::from_millis(CONTACT_MS), asked).await.ok().flatten())
}

/// The node writes under another id from now on: some of its old one's writes may be elsewhere only, and their names must not
/// be given twice. The record of the old id goes when nobody goes by it: see the keeper.
async fn renew(house: &House, why: &str) -> Result<(), Error> {
    let new = house.another_id();
    log::error!("{why}. It goes on as node {new}; its data stays, what it lacks comes from the others");
    let done = house.store.renew(new).await;
    done.map_err(|e| storage::Error::Failed(format!("can't take a new node id: {e}")))?;
    house.found().await;
    Ok(())
}

impl House {
    fn another_id(&self) -> NodeId {
        NodeId((self.settings.random)().max(1))
    }

    /// Ends the process: to go on would be to write under a name that is another's. Who was set back has another id by then: whom
    /// it meets at the next start may not know what this member knows.
    pub(super) fn give_up(&self, by: impl std::fmt::Display, refusal: &Refusal) -> ! {
        let me = self.store.me();
        let advice = match refusal {
            Refusal::Twin => "give each node a data directory of its own, made by the node itself".to_owned(),
            _ => {
                let new = self.another_id();
                self.store.renew_to_end(new);
                format!("start it again: it goes on as node {new}, and keeps its data")
            }
        };
        storage::end_process(Exit::Refused, &format!("member {by} refuses node {me}: {refusal}; {advice}"))
    }
}

/// Ends the process if another one runs under this node's id, where the node was last known to be.
async fn look_for_original(house: &House) {
    let me = house.store.me();
    let Some(member) = house.member(me).await.filter(|member| member.address != house.address()) else {
        return;
    };
    let asked = greet_at(house, me, &member.address);
    let answer = tokio::time::timeout(Duration::from_millis(CONTACT_MS), asked).await;
    if let Ok(Err(Error::Refused(Refusal::Twin))) = answer {
        let directory = house.store.directory_shown();
        let why = format!(
            "{directory} is a copy of the data directory of node {me}, which runs at {}: give each node a directory of its \
             own, made by the node itself",
            member.address
        );
        storage::end_process(Exit::Refused, &why);
    }
}

/// A node that left as it stopped goes back to those that it knew; when none of them takes it in, as none does when all left,
/// it begins their cluster again. The addresses are those by which it is to join them all the same.
async fn come_back(house: &Arc<House>, left_there: Vec<String>) -> Result<Vec<String>, Error> {
    let mut addresses = house.settings.join.clone();
    addresses.extend(left_there);
    for id in house.others() {
        addresses.extend(house.reach(id).await);
    }
    addresses.sort();
    addresses.dedup();
    if let Some(address) = taken_in_by(house, &addresses).await? {
        return Ok(vec![address]);
    }
    if house.store.cluster() != NOWHERE {
        // One of them has said yes, if not yet the rest.
        return Ok(addresses);
    }
    let left = house
        .store
        .left()?
        .ok_or_else(|| storage::Error::Damaged("which cluster it left is not there".into()))?;
    log::warn!(
        "this node left cluster {left} when it stopped, and none of its members takes it in now: it begins it again with the \
         data that is here"
    );
    let adopted = house.store.adopt(left).await;
    adopted.map_err(|e| storage::Error::Failed(format!("can't adopt the cluster: {e}")))?;
    house.found().await;
    if !matches!(house.peers.arrival(), Some(Arrival::Behind(_))) {
        house.is_first().await;
    }
    Ok(addresses)
}

/// A frame that holds nothing: the answer tells all.
async fn greet(house: &House, id: NodeId) -> Result<(), Error> {
    match house.reach(id).await {
        Some(address) => greet_at(house, id, &address).await,
        None => Err(Error::Unreachable("its address is not known".into())),
    }
}

async fn greet_at(house: &House, id: NodeId, address: &str) -> Result<(), Error> {
    let published = house.store.published();
    let (vv, digest) = (published.vv.clone(), published.totals.digest);
    let frame = Frame { sender: house.store.me(), vv, digest, ranges: Vec::new(), entries: Vec::new() };
    let (_, reply) = house.ask(address, Message::Frame(id, frame)).await?;
    if let Reply::Have(vv) = reply {
        let me = house.store.me();
        if vv.get(me) > house.store.published().vv.get(me) {
            return Err(Refusal::RolledBack(vv.get(me)).into());
        }
        house.store.acknowledge(id, &vv);
    }
    Ok(())
}
