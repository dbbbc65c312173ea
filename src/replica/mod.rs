//! This node's copy and its rules: who wins, what a peer still misses, what may be forgotten.
//!
//! Pure: plain data in, plain data out. No clock (`now_ms` is an argument), no randomness, no I/O, no async, no sled; what
//! the rules read of the trees comes through [`Trees`], what they change goes into a [`Unit`]. So the simulation runs ten
//! thousand clusters through the same code that runs on a disk.
//!
//! Invariants:
//! 1. `vv[o] = s` means that every event (o, 1..=s) is incorporated, directly or through something newer;
//! 2. every live version is covered by its entry's context;
//! 3. the log has every event of `o` after some event up to `vv[o]`, in one unbroken stretch; what has left it, and what has
//!    been forgotten, is covered by `floor`;
//! 4. two replicas with equal vectors that have heard of nothing newer have equal digests.
//!
//! Called by the committer (`storage/`) and by the simulation (`tests/sim/`).

mod clock;
mod compare;
mod courier;
mod digest;
mod dot;
mod entry;
mod exchange;
mod frame;
#[cfg(test)]
mod laws;
mod member;
mod runs;
mod sweepers;
mod unit;
mod vector;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use clock::{Clock, Hlc};
pub use compare::{Apart, Lack, Side, Standing, compare};
pub use courier::{Courier, Told, Wants};
pub use digest::Digest;
pub use dot::{Dot, NodeId, NotAName, Token};
pub use entry::{Entry, Value, Version};
pub use exchange::Taken;
pub use frame::{Bound, Bounds, Frame, Malformed, Range, Sweep, check_vector};
pub use member::{Member, Records};
pub use runs::Runs;
pub use sweepers::Sweepers;
pub use unit::{Place, Stretch, Touch, Unit};
pub use vector::VersionVector;

/// Which tree a key belongs to; both are replicated by the same rules and share one log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// A user's key.
    Data = 1,
    /// A node id, as 8 bytes: who belongs to the cluster.
    Membership = 2,
}

/// A row of the change log: event `seq` of some origin touched this key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number at the origin.
    pub seq: u64,
    /// The key's tree.
    pub kind: Kind,
    /// The key that was touched.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
}

/// What the rules read of a node's trees.
pub trait Trees {
    /// Why reading failed.
    type Error;

    /// The entry of a key; the empty one when there is none.
    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Self::Error>;

    /// The events of `origin` in the log with after < seq <= through, by seq.
    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Self::Error>;

    /// The first `limit` entries after a place in the order of all keys.
    fn entries_after(&self, after: Option<&(Kind, Vec<u8>)>, limit: usize) -> Result<Vec<Held>, Self::Error>;
}

/// A key with what it holds.
pub type Held = (Kind, Vec<u8>, Entry);

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
    /// Sweeps that are being taken in, by sender.
    swept: BTreeMap<NodeId, exchange::Swept>,
    /// Has anything come that is to be forgotten, and no row of the log refers to?
    rowless: bool,
    /// What entries had seen that this process let go of.
    forgotten: VersionVector,
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
        Replica {
            me,
            vv,
            floor,
            clock,
            totals,
            far_future: 0,
            peers: BTreeMap::new(),
            swept: BTreeMap::new(),
            rowless: false,
            forgotten: VersionVector::new(),
        }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// From now on this node makes its events under another name: of the old one others know more than it does.
    pub fn rename(&mut self, me: NodeId) {
        self.me = me;
        self.peers.remove(&me);
    }

    /// What is incorporated here.
    pub fn vv(&self) -> &VersionVector {
        &self.vv
    }

    /// What has been forgotten here.
    pub fn floor(&self) -> &VersionVector {
        &self.floor
    }

    /// What entries had seen that was forgotten since this process began: unlike the floor, without rows of the log that went.
    pub fn forgotten(&self) -> &VersionVector {
        &self.forgotten
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
        self.give_up(peer);
    }

    /// Has anything come since this was last asked that is to be forgotten when all members have it, and no row of the log
    /// refers to? By a sweep that has ended, or was given up in the middle, or by a comparison.
    pub fn brought_rowless(&mut self) -> bool {
        std::mem::take(&mut self.rowless)
    }

    /// The member's sweep does not go on.
    fn give_up(&mut self, peer: NodeId) {
        self.rowless |= self.swept.remove(&peer).is_some();
    }

    /// The members that forgetting waits for, this node not among them.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
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

    /// Rule 1: a new event of this node, for a key that the unit has loaded.
    pub fn write(&mut self, unit: &mut Unit, place: Place, write: Write, now_ms: u64) -> Dot {
        let after = self.vv.get(self.me);
        let dot = Dot::new(self.me, after + 1);
        let hlc = self.clock.tick(now_ms);
        let version = write.value.map(|(value, expires_at_ms)| Version { dot, hlc, expires_at_ms, value });
        let touch = unit.at_mut(place);
        let gone = match &write.replaces {
            Replaces::All => touch.entry.write(dot, |_| true, version),
            Replaces::Named(token) => touch.entry.write(dot, |d| token.names(d), version),
        };
        unit.put_aside(place, gone);
        self.vv.raise(dot);
        unit.log(dot, after, place);
        // What it must wait for, its own row will tell.
        let _ = self.forget(unit, place);
        dot
    }

    /// Rule 4 for one key: when every member has incorporated all that the entry has seen, its context shrinks to what
    /// the live versions need, and an entry without any is gone. What comes back is what it still waits for, if no row of the
    /// log will tell when that has come: then the key must be looked at again when every member has it.
    pub fn forget(&mut self, unit: &mut Unit, place: Place) -> Option<VersionVector> {
        let entry = &unit.at(place).entry;
        // A unit that is cut off keeps what it has forgotten, so it must not forget what it has yet to take in.
        let kept = |dot: Dot| dot.origin == self.me || unit.stays(dot);
        let stable = entry.context().iter().all(|dot| self.stable(dot) && kept(dot));
        if !entry.leftover() {
            return None;
        }
        if !stable {
            // What is not incorporated here yet comes with a row, or never does.
            let mut unheard = entry.context().iter().filter(|dot| !self.stable(*dot));
            let rowless = unheard.any(|dot| self.floor.covers(dot)) && self.vv.covers_all(entry.context());
            return rowless.then(|| entry.context().clone());
        }
        self.floor.join(entry.context());
        self.forgotten.join(entry.context());
        unit.forget();
        unit.at_mut(place).entry.slim();
        None
    }

    /// Rows of the log up to this event are about to go: who lacks them must be swept.
    pub fn trim(&mut self, through: Dot) {
        self.floor.raise(through);
    }

    /// Counts and digest follow what a unit changes; called once, when the unit is complete.
    pub fn count(&mut self, unit: &Unit) {
        for touch in unit.changes() {
            self.totals.remove(touch.kind, &touch.key, touch.before.iter().copied());
            self.totals.add(touch.kind, &touch.key, touch.entry.dots());
        }
    }

    /// Has every member incorporated this event?
    pub fn stable(&self, dot: Dot) -> bool {
        self.vv.covers(dot) && self.peers.values().all(|vv| vv.covers(dot))
    }
}
