//! This node's copy and its rules: who wins, what a peer still misses, what may be forgotten.
//!
//! Pure: plain data in, plain data out. No clock (`now_ms` is an argument), no randomness, no I/O, no async, no sled; what
//! the rules read of the trees comes through [`Trees`], what they change goes out as [`Touch`]es. So the simulation
//! runs ten thousand clusters through the same code that runs on a disk.
//!
//! Invariants:
//! 1. `vv[o] = s` means that every event (o, 1..=s) is incorporated, directly or through something newer;
//! 2. every live version stands in the change log, and its entry's context covers it;
//! 3. what is forgotten is covered by `floor`, and everything that `floor` covers was known to every member;
//! 4. two replicas with equal vectors have equal digests.
//!
//! Called by the committer (`storage/`) and by the simulation (`tests/sim/`).

mod clock;
mod digest;
mod dot;
mod entry;
mod exchange;
mod frame;
#[cfg(test)]
mod laws;
mod vector;

use std::collections::BTreeMap;

pub use clock::{Clock, Hlc};
pub use digest::Digest;
pub use dot::{Dot, NodeId, NotAName, Token};
pub use entry::{Entry, Value, Version};
pub use frame::{Frame, Range};
pub use vector::VersionVector;

/// Which tree a key belongs to; both are replicated by the same rules and share one log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A user's key.
    Data = 1,
    /// A node id, as 8 bytes: who belongs to the cluster.
    Membership = 2,
}

/// A row of the change log: event `seq` of some origin touched this key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number at the origin.
    pub seq: u64,
    /// The key's tree.
    pub kind: Kind,
    /// The key that was touched.
    pub key: Vec<u8>,
}

/// What the rules read of a node's trees.
pub trait Trees {
    /// Why reading failed.
    type Error;

    /// The entry of a key; the empty one when there is none.
    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Self::Error>;

    /// The rows of the log of `origin` with after < seq <= through, by seq, at most `limit` of them.
    fn changes(
        &self,
        origin: NodeId,
        after: u64,
        through: u64,
        limit: usize,
    ) -> Result<Vec<Change>, Self::Error>;
}

/// What one write asks for.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which versions it takes the place of.
    pub replaces: Replaces,
    /// The new value and its expiry (ms since 1970); `None` deletes.
    pub value: Option<(Value, Option<u64>)>,
}

/// Which versions a write takes the place of.
#[derive(Clone, Debug)]
pub enum Replaces {
    /// Every version that this node holds.
    All,
    /// Exactly those that the client has seen.
    Named(Token),
}

/// What one commit does to one key: the caller logs the events, stores the entry, and only then drops what went.
#[derive(Clone, Debug)]
pub struct Touch {
    /// The key's tree.
    pub kind: Kind,
    /// The key.
    pub key: Vec<u8>,
    /// What the key holds from now on; [`Entry::is_gone`] means: remove it.
    pub entry: Entry,
    /// Events to log under this key.
    pub logged: Vec<Dot>,
    /// The versions that were live before, as the log remembers them for repairs.
    pub before: Vec<Dot>,
    /// Rows of the log that everybody has and nothing needs any more.
    pub forgotten: Vec<Dot>,
}

impl Touch {
    /// Versions that were live before and are not any more.
    pub fn superseded(&self) -> impl Iterator<Item = Dot> + '_ {
        self.before.iter().copied().filter(|&dot| !self.entry.holds(dot))
    }
}

/// How many live things there are, and their digest: kept with every commit, checked by a scan at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Keys of the data tree with a live version.
    pub keys: u64,
    /// Live versions of all trees.
    pub versions: u64,
    /// Sum over all live versions.
    pub digest: Digest,
}

impl Totals {
    /// An entry with these live versions appeared.
    pub fn add(&mut self, kind: Kind, key: &[u8], dots: impl Iterator<Item = Dot>) {
        let mut any = 0;
        for dot in dots {
            self.digest.add(kind, key, dot);
            self.versions = self.versions.wrapping_add(1);
            any = 1;
        }
        if kind == Kind::Data {
            self.keys = self.keys.wrapping_add(any);
        }
    }

    /// An entry with these live versions went.
    pub fn remove(&mut self, kind: Kind, key: &[u8], dots: impl Iterator<Item = Dot>) {
        let mut any = 0;
        for dot in dots {
            self.digest.remove(kind, key, dot);
            self.versions = self.versions.wrapping_sub(1);
            any = 1;
        }
        if kind == Kind::Data {
            self.keys = self.keys.wrapping_sub(any);
        }
    }
}

/// The part of a replica that is small: it lives in memory, and its kept fields are written with every commit.
#[derive(Clone, Debug)]
pub struct Replica {
    me: NodeId,
    vv: VersionVector,
    floor: VersionVector,
    clock: Clock,
    totals: Totals,
    far_future: u64,
    /// The other members, each with what it has said that it has.
    peers: BTreeMap<NodeId, VersionVector>,
}

impl Replica {
    /// A replica that knows nothing yet.
    pub fn new(me: NodeId) -> Replica {
        Replica::resume(me, VersionVector::new(), VersionVector::new(), Clock::default(), Totals::default())
    }

    /// A replica as its last commit left it.
    pub fn resume(
        me: NodeId,
        vv: VersionVector,
        floor: VersionVector,
        clock: Clock,
        totals: Totals,
    ) -> Replica {
        Replica { me, vv, floor, clock, totals, far_future: 0, peers: BTreeMap::new() }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// What is incorporated here.
    pub fn vv(&self) -> &VersionVector {
        &self.vv
    }

    /// What has been forgotten here.
    pub fn floor(&self) -> &VersionVector {
        &self.floor
    }

    /// The hybrid clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Counts and digest of what is live.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Versions taken in whose stamp lay too far ahead to move the clock.
    pub fn far_future(&self) -> u64 {
        self.far_future
    }

    /// Does forgetting wait for this member? New ones have shown nothing yet.
    pub fn admit(&mut self, peer: NodeId) {
        if peer != self.me {
            self.peers.entry(peer).or_default();
        }
    }

    /// The member left or was evicted: forgetting no longer waits for it.
    pub fn dismiss(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    /// A member said what it has. An answer only ever adds: old answers may come late.
    pub fn acknowledge(&mut self, peer: NodeId, vv: &VersionVector) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.join(vv);
        }
    }

    /// What a member has said that it has; `None` for strangers.
    pub fn acknowledged(&self, peer: NodeId) -> Option<&VersionVector> {
        self.peers.get(&peer)
    }

    /// Rule 1: a new event of this node. `held` is what the key holds now.
    pub fn write(&mut self, kind: Kind, key: Vec<u8>, held: Entry, write: Write, now_ms: u64) -> Touch {
        let before: Vec<Dot> = held.dots().collect();
        let seen = held.context().clone();
        let dot = Dot::new(self.me, self.vv.get(self.me) + 1);
        let hlc = self.clock.tick(now_ms);
        let version = write.value.map(|(value, expires_at_ms)| Version { dot, hlc, expires_at_ms, value });
        let mut entry = held;
        match &write.replaces {
            Replaces::All => entry.write(dot, |_| true, version),
            Replaces::Named(token) => entry.write(dot, |d| token.names(d), version),
        }
        self.vv.raise(dot);
        self.recount(kind, &key, &before, &entry);
        let rows = before.iter().copied().chain(seen.iter()).chain([dot]);
        let forgotten = self.forget(&mut entry, rows);
        Touch { kind, key, entry, logged: vec![dot], before, forgotten }
    }

    /// Rule 4 for one key: when every member has incorporated all that the entry has seen, its superseded events may
    /// go. `rows` are rows of the log of this key; those to drop come back, and the context shrinks.
    pub fn forget(&mut self, entry: &mut Entry, rows: impl Iterator<Item = Dot>) -> Vec<Dot> {
        if !entry.context().iter().all(|dot| self.stable(dot)) {
            return Vec::new();
        }
        let mut old: Vec<Dot> = rows.filter(|&dot| !entry.holds(dot)).collect();
        old.sort_unstable();
        old.dedup();
        let slim = entry.slimmed();
        if !old.is_empty() || slim != *entry.context() {
            self.floor.join(entry.context());
            entry.set_context(slim);
        }
        old
    }

    /// Has every member incorporated this event?
    pub fn stable(&self, dot: Dot) -> bool {
        self.vv.covers(dot) && self.peers.values().all(|vv| vv.covers(dot))
    }

    /// Counts and digest follow a change of one entry.
    fn recount(&mut self, kind: Kind, key: &[u8], before: &[Dot], after: &Entry) {
        self.totals.remove(kind, key, before.iter().copied());
        self.totals.add(kind, key, after.dots());
    }
}
