//! Taking a node in: under which address, as a member since when, and with what it is told of the others.
//!
//! Two clusters of several members are never made one here. Nor does a node come back in that was evicted, or left, since it was
//! started. What it asks may have been under way when that was done: so nobody is taken in by the first word, but with a ticket.

use std::net::SocketAddr;

use super::wire::{Claim, Join, Joined, Refusal, Reply, Ticket};
use super::{House, NOWHERE, is_concrete};
use crate::limits::{MEMBER_SINCE_AHEAD_MS_MAX, ORIGINS_JOIN_MAX, PEER_ANSWER_MS};
use crate::peers::{Arrival, canonical};
use crate::replica::{NodeId, Records, check_vector};
use crate::storage::{Action, Rejection};

impl House {
    /// Takes a node in. `seen_as` is where its request came from, `reached_as` what it called us.
    pub(super) async fn take_in(
        &self,
        (from, cluster): (NodeId, NodeId),
        join: Join,
        seen_as: Option<SocketAddr>,
        reached_as: Option<String>,
    ) -> Reply {
        if !join.ticket.is_some_and(|ticket| self.is_fresh(ticket)) {
            let ticket = Ticket { run: self.run, at_ms: self.age_ms() };
            return Reply::Ticket(ticket, self.known_of(from));
        }
        if let Err(e) = check_vector(&join.vv) {
            return Reply::Refused(Refusal::Malformed(e.to_string()));
        }
        let mine = self.store.cluster();
        if mine == NOWHERE {
            return Reply::Refused(Refusal::NotNow("it has left its cluster".into()));
        }
        if self.store.is_out() {
            // Who came in by it would be out as well.
            return Reply::Refused(Refusal::NotNow("it is no member itself any more".into()));
        }
        let known = self.store.published().vv.clone();
        if known.iter().len() >= ORIGINS_JOIN_MAX && known.get(from) == 0 {
            let why = format!(
                "nodes have written in its cluster under {ORIGINS_JOIN_MAX} ids, which is as many as it takes in: begin \
                 another one with an export of this one"
            );
            return Reply::Refused(Refusal::Malformed(why));
        }
        if join.members <= 1 && self.seeks_alone() && !self.rivals().is_asked_by(from) {
            return Reply::Refused(Refusal::Asking(self.store.me()));
        }
        let Ok(_adopting) = self.adopting.try_lock() else {
            return Reply::Refused(Refusal::NotNow("it is joining itself".into()));
        };
        let seen = seen_as.map(|seen| SocketAddr::new(seen.ip(), join.port).to_string());
        let Some(address) = join.advertise.or(seen).map(|address| canonical(&address)) else {
            return Reply::Refused(Refusal::Malformed("its address can't be told: give --advertise".into()));
        };
        if !is_concrete(&address) {
            return Reply::Refused(Refusal::Malformed(
                "what it calls its address is no address of a node".into(),
            ));
        }
        // A node that is alone goes where several are, whoever of the two asked.
        let adopts = cluster != mine && join.members > 1;
        if let Some(left) = join.left.filter(|left| *left != if adopts { cluster } else { mine }) {
            // Its roster is that one's, and would come along.
            return Reply::Refused(Refusal::Left(left));
        }
        let (mut since_ms, mut claim, mut goal) = (None, join.claim, None);
        if adopts {
            // But its data not by a stranger's word alone.
            if !self.fellows().is_empty() {
                return Reply::Refused(Refusal::OtherCluster(mine));
            }
            if self.settings.join.is_empty() && self.store.published().totals.keys > 0 {
                let why = "it has data of its own, and was told to join nobody. To merge that into this node's cluster, start \
                           it with this node's address to join by";
                return Reply::Refused(Refusal::Malformed(why.into()));
            }
            if self.comes_anew(true) {
                // As if it had been taken in. On the disk before it belongs there: it may be killed in between.
                if let Err(e) = self.store.arrive(Some(join.vv.clone())).await {
                    return Reply::Refused(Refusal::NotNow(e.to_string()));
                }
                goal = Some(join.vv.clone());
            }
            if let Err(e) = self.store.adopt(cluster).await {
                return Reply::Refused(Refusal::NotNow(e.to_string()));
            }
            if let Some(goal) = &goal {
                self.peers.arrive(Some(Arrival::Behind(goal.clone())));
            }
            log::info!("this node belongs to cluster {cluster} now, asked by its member {from}");
            // It does not begin to be a member by that, or it would be one again though it was evicted.
            since_ms = join.since_ms;
        } else if cluster != mine {
            if let Claim::Again { .. } = claim {
                // By that record it is a member of another one.
                claim = Claim::Unaware { mark: None };
            }
        } else {
            // An eviction by who has not heard of this is to end it as well.
            since_ms = join.since_ms;
        }
        if self.peers.arrival() == Some(Arrival::Asking)
            && !adopts
            && !self.store.published().vv.covers_all(&join.vv)
        {
            // It begins a cluster, and what whom it takes in brings along is in it.
            if let Err(e) = self.store.arrive(Some(join.vv.clone())).await {
                return Reply::Refused(Refusal::NotNow(e.to_string()));
            }
            goal = Some(join.vv);
        }
        // A node on all addresses learns its own from those who reach it.
        let host = reached_as.filter(|host| is_concrete(host)).map(|host| canonical(&host));
        if host.is_some_and(|host| self.reached_at(&host)) {
            self.introduce().await;
        }
        let entered = self.enter(from, &address, since_ms, (claim, join.for_ms)).await;
        if entered.is_ok() && self.store.is_member(from) {
            self.note_membership();
        }
        match entered {
            Ok(true) => log::info!("node {from} is a member now, as {address}"),
            Ok(false) => {}
            Err(e) => return Reply::Refused(Refusal::NotNow(e.to_string())),
        }
        if let Some(goal) = goal {
            self.peers.arrive(Some(Arrival::Behind(goal)));
        } else if self.peers.arrival() == Some(Arrival::Asking) {
            // Who takes others in is the first of their cluster, and has all that there is in it.
            self.is_first().await;
        }
        // In this order: what the vector covers is in the roster, or was superseded.
        let vv = self.store.published().vv.clone();
        let (goal, arrived) = (self.goal(), self.has_arrived(from));
        match self.store.roster().await {
            Ok(roster) => Reply::Joined(Joined { address, roster, vv, goal, arrived }),
            Err(e) => Reply::Refused(Refusal::NotNow(e.to_string())),
        }
    }

    /// Is it told to join, in and of nothing yet?
    fn seeks_alone(&self) -> bool {
        self.peers.arrival() == Some(Arrival::Asking) || (self.fellows().is_empty() && self.rivals().seek())
    }

    /// Did this process give it no longer ago than its sender waits for an answer?
    fn is_fresh(&self, ticket: Ticket) -> bool {
        let since = self.age_ms().checked_sub(ticket.at_ms).filter(|_| ticket.run == self.run);
        since.is_some_and(|since_ms| since_ms <= PEER_ANSWER_MS)
    }

    /// How long this process has run, in ms.
    pub(super) fn age_ms(&self) -> u64 {
        self.settings.started.elapsed().as_millis() as u64
    }

    /// This node is a member from now on, or has been one for as long as it says, unless that was ended since its process was
    /// started, so many ms ago; and is reached there. `false` when there is nothing new in that.
    pub(super) async fn enter(
        &self,
        id: NodeId,
        address: &str,
        since_ms: Option<u64>,
        (claim, for_ms): (Claim, u64),
    ) -> Result<bool, Rejection> {
        let now_ms = (self.settings.now_ms)();
        // Before the records: they are what it says, or later.
        let vv = self.store.published().vv.clone();
        let ended = |records: &Records| match claim {
            Claim::Unaware { mark: known } => {
                let mark = records.mark().filter(|(dot, _)| Some(*dot) != known);
                let at_ms = mark.and_then(|(_, mark)| mark.evicted_at_ms);
                at_ms.is_some_and(|at_ms| at_ms > now_ms.saturating_sub(for_ms))
            }
            Claim::Again { record } => {
                let gone = vv.covers(record) && records.dots().all(|its| its != record);
                (gone && records.standing().is_none())
                    || since_ms.is_some_and(|since_ms| records.has_ended(since_ms))
            }
        };
        let enter = |records: &Records| {
            if ended(records) {
                return None;
            }
            // The same beginning as others have written, whatever the clock says here; within bounds.
            let latest = now_ms.saturating_add(MEMBER_SINCE_AHEAD_MS_MAX);
            let record = records.taken_in(address.to_owned(), since_ms.unwrap_or(now_ms).min(latest));
            (records.standing().as_ref() != Some(&record)).then(|| Action::Put(record.text(), None))
        };
        Ok(self.store.change_records(id, enter).await?.is_some())
    }
}
