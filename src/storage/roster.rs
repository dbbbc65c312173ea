//! The roster, as the membership tree has it: who is a member, who was evicted, and changes of a node's record, each decided by
//! what is there at the moment of the write.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::trees::Trees;
use super::{Action, Condition, Rejection, Request, Store, Tags, Written};
use crate::replica::{Entry, Kind, Member, NodeId, Records, Token};

/// Who is a member, and who was evicted and is none.
#[derive(Debug, Default)]
pub struct Roster {
    /// The members.
    pub members: BTreeSet<NodeId>,
    /// Those whose mark is still there.
    pub evicted: BTreeSet<NodeId>,
}

impl Roster {
    /// Reads all records.
    pub fn read(trees: &Trees) -> Result<Roster, Error> {
        let mut roster = Roster::default();
        for (id, entry) in trees.members()? {
            let records = records(trees, &entry)?;
            if records.standing().is_some() {
                roster.members.insert(id);
            } else if records.mark().is_some() {
                roster.evicted.insert(id);
            }
        }
        Ok(roster)
    }
}

/// What the records of a node say.
fn records(trees: &Trees, entry: &Entry) -> Result<Records, Error> {
    let mut records = Vec::with_capacity(entry.versions().len());
    for version in entry.versions() {
        // One that can't be read is a member all the same.
        let text = match trees.text(version) {
            Err(Error::Damaged(_)) => None,
            text => text?,
        };
        let text = text.unwrap_or_default();
        records.push((version.dot, Member::of(&text)));
    }
    Ok(Records::new(records))
}

/// Those who were evicted, as of the newest durable commit.
#[derive(Default)]
pub struct Evicted(Mutex<BTreeSet<NodeId>>);

impl Evicted {
    /// These are.
    pub fn keep(&self, evicted: BTreeSet<NodeId>) {
        *self.lock() = evicted;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// All members, by id, as of the newest durable commit.
    pub fn members(&self) -> Vec<NodeId> {
        self.0.shared.heard.look(|said| said.keys().copied().collect())
    }

    /// Is it a member?
    pub fn is_member(&self, id: NodeId) -> bool {
        self.0.shared.heard.look(|said| said.contains_key(&id))
    }

    /// Is this node no member of its own cluster, as far as it knows? One that is new is one by itself.
    pub fn is_out(&self) -> bool {
        let me = self.me();
        let (member, alone) = self.0.shared.heard.look(|said| (said.contains_key(&me), said.is_empty()));
        !member && (!alone || self.evicted().contains(&me))
    }

    /// Those who were evicted and whose mark is still there.
    pub fn evicted(&self) -> BTreeSet<NodeId> {
        self.0.shared.evicted.lock().clone()
    }

    /// Was somebody evicted so long ago that it need not be remembered?
    pub fn is_past(&self, evicted_at_ms: u64) -> bool {
        (self.0.now_ms)().saturating_sub(evicted_at_ms) > self.0.forget_after_ms
    }

    /// What the records of a node say.
    pub async fn records(&self, id: NodeId) -> Result<Records, Error> {
        let shown = self.read(Kind::Membership, &id.0.to_be_bytes(), (self.0.now_ms)()).await?;
        let record = |(version, text): (crate::replica::Version, Vec<u8>)| (version.dot, Member::of(&text));
        Ok(Records::new(shown.into_iter().map(record).collect()))
    }

    /// Changes the records of a node as is decided by what they are at the moment of the write; `None` when that is to change
    /// nothing.
    pub async fn change_records(
        &self,
        id: NodeId,
        decide: impl Fn(&Records) -> Option<Action>,
    ) -> Result<Option<Written>, Rejection> {
        loop {
            let records = self.records(id).await.map_err(|_| Rejection::Damaged)?;
            let Some(action) = decide(&records) else { return Ok(None) };
            let dots: Vec<_> = records.dots().collect();
            let condition = match dots.is_empty() {
                true => Condition { matches_none: Some(Tags::Any), ..Condition::default() },
                false => {
                    let seen = Tags::These(vec![Token::new(dots)]);
                    Condition { matches: Some(seen), ..Condition::default() }
                }
            };
            let key = id.0.to_be_bytes().to_vec();
            let request = Request { kind: Kind::Membership, key, action, condition, token: None, room: None };
            match self.write(request).await {
                // Somebody was faster, which few ever are.
                Err(Rejection::Precondition(_)) => {}
                written => return written.map(Some),
            }
        }
    }
}
