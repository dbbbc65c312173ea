//! The question by which a node becomes a member, and what it makes of the answer. Who asks whom, and when: `seeker.rs`. The
//! other side: `sponsor.rs`.
//!
//! Nothing of an answer counts that is about something other than what was asked: both sides may have changed meanwhile.

use std::sync::PoisonError;
use std::time::Duration;

use super::client::Client;
use super::error::Error;
use super::wire::{Claim, Envelope, Join, Joined, Message, Pulse, Refusal, Reply, Ticket};
use super::{House, NOWHERE, Secret, is_concrete};
use crate::limits::PEER_ANSWER_MS;
use crate::peers::{Arrival, is_loopback};
use crate::replica::{Dot, NodeId, Records, Sweep, VersionVector, check_vector};
use crate::storage::{self, Action, Parcel};

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
        let published = house.store.published();
        // Nobody waits for what is in a node's own record only: it may never come back to send that.
        let brings = members > 1 || published.totals.keys > 0;
        let (vv, left) = (if brings { house.goal() } else { VersionVector::new() }, house.store.left()?);
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

/// Who took the node in, and what it said.
pub(super) struct Word {
    /// Which member it was.
    pub by: NodeId,
    /// What that one has.
    pub vv: VersionVector,
    /// What there is, as far as that one knows.
    pub goal: VersionVector,
    /// Is that one no newcomer itself, and has it heard all other members?
    pub arrived: bool,
}

/// Asks one member to be taken in.
pub(super) async fn ask_to_join(house: &House, address: &str) -> Result<Word, Error> {
    let ticket = ask_for_ticket(house, address).await?;
    // Two that ask each other at once must not each adopt the other's cluster.
    let _adopting = house.adopting.lock().await;
    let question = Question::of(house).await?;
    let answer = question.put(house, address, Some(ticket)).await?;
    let Question { cluster, since_ms, claim } = question;
    let again = matches!(claim, Claim::Again { .. });
    match answer.body {
        Reply::Joined(Joined { address: known_as, roster, vv, goal, arrived }) => {
            let checked = roster.check().and_then(|()| check_vector(&vv)).and_then(|()| check_vector(&goal));
            checked.map_err(|e| Error::Unreadable(e.to_string()))?;
            if !roster.compares() || !roster.vv.is_empty() {
                return Err(Error::Unreadable("its list of members promises something".into()));
            }
            let me = house.store.me();
            // Others may know of it by what that one has yet to get.
            let known = vv.get(me).max(goal.get(me));
            if known > house.store.published().vv.get(me) {
                return Err(Refusal::RolledBack(known).into());
            }
            if !is_concrete(&known_as) {
                return Err(Error::Unreadable("it calls this node by what is no address".into()));
            }
            if house.store.cluster() != cluster {
                // It left while the answer was on its way.
                return Err(Error::Ended);
            }
            let adopts = cluster != answer.cluster;
            let comes = house.comes_anew(adopts);
            let lacks = house.lacks_there(answer.cluster, goal.clone())?;
            if comes {
                let noted = house.store.arrive(Some(lacks.clone())).await;
                noted.map_err(|e| Error::Unreachable(e.to_string()))?;
            }
            if adopts {
                let adopted = house.store.adopt(answer.cluster).await;
                adopted.map_err(|e| storage::Error::Failed(format!("can't adopt the cluster: {e}")))?;
                if comes && house.peers.arrival() != Some(Arrival::Asking) {
                    house.peers.arrive(Some(Arrival::Behind(lacks.clone())));
                }
            }
            house.set_address(known_as.clone());
            let key = me.0.to_be_bytes();
            let told = roster.entries.iter().find(|(_, its, _)| *its == key);
            let told = told.map(|(.., entry)| Records::told(entry)).unwrap_or_default();
            // Who does not know the others takes them for strangers. It is nobody's: a sweep that is under way goes on.
            let roster = Sweep { sender: NodeId::NOBODY, ..roster };
            let taken = house.store.take(Parcel::Sweep(roster), None).await;
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
            if comes {
                house.peers.arrive(Some(Arrival::Behind(lacks)));
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
            Ok(Word { by: answer.from, vv, goal, arrived })
        }
        Reply::Refused(Refusal::Twin) => house.give_up(answer.from, &Refusal::Twin),
        Reply::Refused(refusal) => Err(refusal.into()),
        Reply::Ticket(..) => Err(Refusal::NotNow("it is slow to answer".into()).into()),
        Reply::Have(_) | Reply::Pulse(_) => Err(Error::Unreadable("it answered something else".into())),
    }
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

impl House {
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
