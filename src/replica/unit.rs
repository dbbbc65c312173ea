//! What one commit changes: the events that it logs, and every key that it touches, once.
//!
//! A unit is made in memory, from what the trees hold and what the unit itself has changed so far. The vault then writes
//! it in one order: events, entries, summary. Until that is durable nobody may be told of anything in it.
//!
//! Invariants:
//! 1. of each origin a unit logs one unbroken stretch, and it begins where the replica's vector was before the unit;
//! 2. an event names a touch of the same unit, and that touch has changed.

use std::collections::{BTreeMap, HashMap};

use super::dot::{Dot, NodeId};
use super::entry::{Entry, Value, Version};
use super::vector::VersionVector;
use super::{Kind, Trees};

/// A key as a unit found it, and as it leaves it.
#[derive(Clone, Debug)]
pub struct Touch {
    /// The key's tree.
    pub kind: Kind,
    /// The key.
    pub key: Vec<u8>,
    /// What the key holds from now on; [`Entry::is_gone`] means: remove it.
    pub entry: Entry,
    /// The versions that were live before the unit, as the log remembers them for repairs.
    pub before: Vec<Dot>,
    /// Versions that the unit put aside; those that it made itself among them.
    pub gone: Vec<Version>,
    /// Did anything come of it? A refused write looks at a key and leaves it.
    pub changed: bool,
}

impl Touch {
    /// Versions that live now and did not before.
    pub fn fresh(&self) -> impl Iterator<Item = &Version> {
        self.entry.versions().iter().filter(|version| !self.before.contains(&version.dot))
    }
}

/// Names a touch within its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Place(usize);

/// The events of one origin in a unit: everything after `after` up to `through`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The origin's last event before the unit.
    pub after: u64,
    /// Its last event in the unit.
    pub through: u64,
    /// Seqs, growing, and the key that each touched. Events may be missing: then something newer in here stands for them.
    pub events: Vec<(u64, Place)>,
}

/// Everything that one commit changes.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    touches: Vec<Touch>,
    places: HashMap<(Kind, Vec<u8>), Place>,
    stretches: BTreeMap<NodeId, Stretch>,
    /// What has been incorporated without its events: the log of these origins begins anew, after this.
    jumped: VersionVector,
    /// Bytes in chunks that it puts aside.
    discarded: u64,
    forgot: bool,
}

impl Unit {
    /// Nothing yet.
    pub fn new() -> Unit {
        Unit::default()
    }

    /// The touch of this key, made from what the trees hold when there is none yet.
    pub fn load<T: Trees>(&mut self, kind: Kind, key: &[u8], trees: &T) -> Result<Place, T::Error> {
        let name = (kind, key.to_vec());
        if let Some(place) = self.places.get(&name) {
            return Ok(*place);
        }
        let entry = trees.entry(kind, key)?;
        let before = entry.dots().collect();
        let place = Place(self.touches.len());
        let key = name.1.clone();
        self.touches.push(Touch { kind, key, entry, before, gone: Vec::new(), changed: false });
        self.places.insert(name, place);
        Ok(place)
    }

    /// Is this key in it?
    pub fn touches(&self, kind: Kind, key: &[u8]) -> bool {
        self.places.contains_key(&(kind, key.to_vec()))
    }

    /// The touch at this place.
    pub fn at(&self, place: Place) -> &Touch {
        &self.touches[place.0]
    }

    pub(super) fn at_mut(&mut self, place: Place) -> &mut Touch {
        let touch = &mut self.touches[place.0];
        touch.changed = true;
        touch
    }

    /// These versions of a touch live no more.
    pub(super) fn put_aside(&mut self, place: Place, gone: Vec<Version>) {
        let chunked = gone.iter().filter(|version| matches!(version.value, Value::Chunked { .. }));
        self.discarded += chunked.map(|version| version.value.bytes()).sum::<u64>();
        self.touches[place.0].gone.extend(gone);
    }

    /// Bytes in chunks that it puts aside: each chunk is a removal of its own.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Logs an event, which must be newer than all of its origin so far. `after` is where the replica's vector stood.
    pub(super) fn log(&mut self, dot: Dot, after: u64, place: Place) {
        let stretch = self.stretch(dot.origin, after);
        stretch.events.push((dot.seq, place));
        stretch.through = dot.seq;
    }

    /// The stretch of an origin, begun at `after` when there is none yet.
    pub(super) fn stretch(&mut self, origin: NodeId, after: u64) -> &mut Stretch {
        let empty = || Stretch { after, through: after, events: Vec::new() };
        self.stretches.entry(origin).or_insert_with(empty)
    }

    /// Everything up to `vv` is incorporated without its events.
    pub(super) fn jump(&mut self, vv: &VersionVector) {
        for dot in vv.iter() {
            self.stretches.remove(&dot.origin);
            self.jumped.raise(dot);
        }
    }

    /// Every key that it has looked at, changed or not.
    pub(super) fn loaded(&self) -> impl Iterator<Item = &Touch> {
        self.touches.iter()
    }

    /// Would this event be there still if the unit were cut off? Of the events that it takes in from elsewhere it would be
    /// none: they would come again.
    pub(super) fn stays(&self, dot: Dot) -> bool {
        let taken_in = self.stretches.get(&dot.origin).is_some_and(|stretch| dot.seq > stretch.after);
        !taken_in && !self.jumped.covers(dot)
    }

    /// The keys that change, in the order in which they were touched first.
    pub fn changes(&self) -> impl Iterator<Item = &Touch> {
        self.touches.iter().filter(|touch| touch.changed)
    }

    /// Every key that it has looked at, changed or not, with its place.
    pub fn placed(&self) -> impl Iterator<Item = (Place, &Touch)> {
        self.touches.iter().enumerate().map(|(at, touch)| (Place(at), touch))
    }

    /// The keys that change, for whoever writes them down.
    pub fn into_changes(self) -> impl Iterator<Item = Touch> {
        self.touches.into_iter().filter(|touch| touch.changed)
    }

    /// What it logs, by origin.
    pub fn stretches(&self) -> impl Iterator<Item = (NodeId, &Stretch)> {
        self.stretches.iter().map(|(origin, stretch)| (*origin, stretch))
    }

    /// Of these origins the log begins anew after these events: older rows would leave a gap before newer ones.
    pub fn jumped(&self) -> &VersionVector {
        &self.jumped
    }

    pub(super) fn forget(&mut self) {
        self.forgot = true;
    }

    /// Has it let go of something that was to be remembered? Then the replica's floor rose with it.
    pub fn forgot(&self) -> bool {
        self.forgot
    }

    /// Versions that a touch brings in without their events: those come later, since entries travel as they are now.
    pub fn brought(&self, touch: &Touch) -> impl Iterator<Item = Dot> {
        let logged = |dot: &Dot| {
            let stretch = self.stretches.get(&dot.origin);
            stretch.is_some_and(|s| s.events.binary_search_by_key(&dot.seq, |(seq, _)| *seq).is_ok())
        };
        touch.fresh().map(|version| version.dot).filter(move |dot| !logged(dot))
    }

    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.jumped.is_empty() && self.stretches.is_empty() && self.changes().next().is_none()
    }
}
