//! Rules 2, 3 and 5: what is sent to a peer, and what is made of it there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;

use super::dot::{Dot, NodeId};
use super::entry::{Entry, Value};
use super::frame::{Bound, Bounds, Frame, Range, Sweep, size};
use super::unit::{Place, Touch, Unit};
use super::vector::VersionVector;
use super::{Kind, Replica, Trees};
use crate::limits::{COMMIT_DISCARD_BYTES_MAX, SWEEP_LOOKS_PER_DEAD_KEY, SWEEP_READ_KEYS, SWEEP_STEP_KEYS};

/// How far a receiver is in a sweep: lost with the process, for then the sweep begins anew. Under the keys up to `through`
/// everything up to `target` is incorporated: a version that comes late from elsewhere, and was not listed, is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swept {
    target: VersionVector,
    through: Bound,
}

/// How a piece of a sweep was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of it.
    Whole,
    /// More is dead here than one commit should drop: this is the rest, which the next one takes.
    Part(Sweep),
    /// Not at all: something before it is missing, so the sweep begins anew.
    OutOfTurn,
}

impl Replica {
    /// Must a peer that has `have` be swept, as far as these origins go? Our log no longer has what it lacks of them, or it
    /// may hold what everybody here has forgotten.
    pub fn must_sweep(&self, have: &VersionVector, concerns: impl Fn(NodeId) -> bool) -> bool {
        self.floor.iter().any(|dot| concerns(dot.origin) && !have.covers(dot))
    }

    /// Does a peer that has `have` lack so many events of these origins that everything takes less to send: at least so many, and
    /// so many times as many as there are keys? Most of them would be of keys that are sent again and again: so it is for whoever
    /// was away while a few keys were written often. If so, how many.
    pub fn rather_sweeps(
        &self,
        have: &VersionVector,
        only: impl Fn(NodeId) -> bool,
        (least, times): (u64, u64),
    ) -> Option<u64> {
        let lacks = self.vv.beyond(have, only);
        (lacks >= least && lacks / times >= self.totals.keys).then_some(lacks)
    }

    /// Rule 2: the next frame for a peer that has `have` and needs no sweep; `only` narrows it to some origins.
    pub fn frame<T: Trees>(
        &self,
        have: &VersionVector,
        bounds: Bounds,
        only: impl Fn(NodeId) -> bool,
        trees: &T,
    ) -> Result<Frame, T::Error> {
        let mut entries: BTreeMap<(Kind, Vec<u8>), Entry> = BTreeMap::new();
        let mut ranges = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for Dot { origin, seq: upto } in self.vv.iter().filter(|dot| only(dot.origin)) {
            let after = have.get(origin);
            if after >= upto || count >= bounds.count || bytes >= bounds.bytes {
                continue;
            }
            let mut through = upto.min(after.saturating_add(bounds.count - count));
            let mut changes = trees.changes(origin, after, through)?;
            for (at, change) in changes.iter().enumerate() {
                if let Vacant(slot) = entries.entry((change.kind, change.key.clone())) {
                    // What else happened to the keys that are in it goes along: of one key with many siblings each event would
                    // else be sent with all of them.
                    if bytes >= bounds.bytes {
                        changes.truncate(at);
                        through = changes.last().map_or(after, |last| last.seq);
                        break;
                    }
                    let entry = trees.entry(change.kind, &change.key)?;
                    bytes += size(&change.key, &entry);
                    slot.insert(entry);
                }
            }
            count += through - after;
            ranges.push(Range { origin, after, through, changes });
        }
        let entries = entries.into_iter().map(|((kind, key), entry)| (kind, key, entry)).collect();
        Ok(Frame { sender: self.me, vv: self.vv.clone(), digest: self.totals.digest, ranges, entries })
    }

    /// Rule 3: takes a frame in, or as much of it as one commit may put aside. Once the unit is durable, [`Replica::vv`] is the
    /// answer to the sender.
    pub fn receive<T: Trees>(
        &mut self,
        frame: &Frame,
        unit: &mut Unit,
        trees: &T,
        now_ms: u64,
    ) -> Result<(), T::Error> {
        // Who goes on with frames has given its sweep up, or was set back in the middle of it: what it told then may be of
        // another history.
        self.give_up(frame.sender);
        let incorporated = self.vv.clone();
        let theirs: BTreeMap<(Kind, &[u8]), &Entry> =
            frame.entries.iter().map(|(kind, key, entry)| ((*kind, key.as_slice()), entry)).collect();
        let mut merged: BTreeMap<(Kind, &[u8]), Place> = BTreeMap::new();
        for range in &frame.ranges {
            let have = incorporated.get(range.origin);
            // A range that begins beyond what we have is a gap: the answer says what we have.
            if range.after > have || range.through <= have {
                continue;
            }
            unit.stretch(range.origin, have);
            let mut through = range.through;
            for (at, change) in (1..).zip(&range.changes).filter(|(_, change)| change.seq > have) {
                let name = (change.kind, change.key.as_slice());
                let place = match merged.get(&name) {
                    Some(place) => *place,
                    None => {
                        let place = unit.load(change.kind, &change.key, trees)?;
                        if let Some(entry) = theirs.get(&name) {
                            self.merge(entry, place, unit, &incorporated, now_ms);
                        }
                        merged.insert(name, place);
                        place
                    }
                };
                unit.log(Dot::new(range.origin, change.seq), have, place);
                // For an event that is not listed a later one stands.
                if unit.discarded() >= COMMIT_DISCARD_BYTES_MAX && change.seq == range.after + at {
                    through = change.seq;
                    break;
                }
            }
            unit.stretch(range.origin, have).through = through;
            self.vv.raise(Dot::new(range.origin, through));
            if through < range.through {
                break;
            }
        }
        self.acknowledge(frame.sender, &frame.vv);
        Ok(())
    }

    /// Rule 5: the first piece of a sweep, which holds nothing: it asks whether one may be sent.
    pub fn opening(&self, target: VersionVector) -> Sweep {
        let before_all = Some((Kind::Data, Vec::new()));
        let (sender, vv) = (self.me, self.vv.clone());
        Sweep { sender, target, vv, after: None, through: before_all, entries: Vec::new() }
    }

    /// Rule 5: the next piece of a sweep; the first begins `after` `None`. With an empty target it is a comparison.
    pub fn sweep<T: Trees>(
        &self,
        target: VersionVector,
        after: Bound,
        bounds: Bounds,
        trees: &T,
    ) -> Result<Sweep, T::Error> {
        // What was deleted is among them for as long as it is remembered here: who holds it still lets go of it, and must
        // remember by what before the last piece tells that. So must who sweeps others then.
        let (mut entries, mut bytes, mut through) = (Vec::new(), 0, None);
        while (entries.len() as u64) < bounds.count && bytes < bounds.bytes {
            let from = through.as_ref().or(after.as_ref());
            let step = (bounds.count as usize - entries.len()).min(SWEEP_STEP_KEYS);
            let mut held = trees.entries_after(from, step)?.into_iter();
            let end = held.len() < step;
            while bytes < bounds.bytes
                && let Some((kind, key, entry)) = held.next()
            {
                bytes += size(&key, &entry);
                through = Some((kind, key.clone()));
                entries.push((kind, key, entry));
            }
            if end && held.len() == 0 {
                through = None;
                break;
            }
        }
        Ok(Sweep { sender: self.me, target, vv: self.vv.clone(), after, through, entries })
    }

    /// Rule 5: takes a piece of a sweep in. Whatever lives here among its keys and is not listed, though the sender has
    /// incorporated it, is dead. After the last piece everything up to its target is incorporated; until then the entry remembers
    /// by what, if the sender does, lest a reader who goes on elsewhere sees it again, or this node when the sweep never ends.
    /// A piece under which more than `most` keys are dead here is taken in by parts, as if it had been sent in these.
    ///
    /// A piece of a comparison stands for itself. Two that have incorporated the same and hold different things do so by no
    /// rule: one of them has, or let go of, what only a disk that is gone could have told it, or two disks gave one name to two
    /// events. Then nothing that is held anywhere is dead because it is missing elsewhere: only what an entry has seen, it
    /// supersedes. Of two that have not incorporated the same it brings news, and no more.
    pub fn take_sweep<T: Trees>(
        &mut self,
        mut sweep: Sweep,
        most: usize,
        unit: &mut Unit,
        trees: &T,
        now_ms: u64,
    ) -> Result<Taken, T::Error> {
        if sweep.compares() {
            // As with frames: its sweep does not go on. What says nothing of its sender, as word of an eviction, may come beside
            // one.
            if !sweep.vv.is_empty() {
                self.give_up(sweep.sender);
            }
            // Who has incorporated more may have forgotten what it does not list, and the other way round; and a sweep that is
            // under way may yet say what took the place of something.
            let alike = sweep.vv == self.vv && self.swept.is_empty();
            let incorporated = if alike { VersionVector::new() } else { self.vv.clone() };
            let rest = self.take_entries(&sweep, &incorporated, unit, trees, now_ms)?;
            return Ok(rest.map_or(Taken::Whole, |last| Taken::Part(sweep.split(last))));
        }
        if sweep.after.is_none() {
            // So may what an unfinished sweep has told, whoever sent it, of which this one takes the place.
            self.rowless |= !self.swept.is_empty();
            self.swept.clear();
        }
        // One that begins before the last one's end is sent again, since no answer came to it: it only says what is so now.
        let so_far = self.swept.get(&sweep.sender).filter(|swept| swept.target == sweep.target);
        let so_far = so_far.and_then(|swept| swept.through.clone());
        if so_far < sweep.after {
            return Ok(Taken::OutOfTurn);
        }
        let incorporated = self.vv.clone();
        let theirs: BTreeMap<(Kind, &[u8]), &Entry> =
            sweep.entries.iter().map(|(kind, key, entry)| ((*kind, key.as_slice()), entry)).collect();
        let dead = |kind: Kind, key: &[u8], dot: Dot| {
            sweep.vv.covers(dot) && !theirs.get(&(kind, key)).is_some_and(|entry| entry.holds(dot))
        };
        let (names, last) = names_between(&sweep, most, unit, trees, |kind, key, entry| {
            entry.dots().any(|dot| dead(kind, key, dot))
        })?;
        for (kind, key) in names {
            let place = unit.load(kind, &key, trees)?;
            let touch = unit.at_mut(place);
            let gone = touch.entry.drop_versions(|dot| dead(kind, &key, dot));
            unit.put_aside(place, gone);
        }
        let rest = last.map(|last| sweep.split(last));
        self.take_entries(&sweep, &incorporated, unit, trees, now_ms)?;
        match &sweep.through {
            Some(_) => {
                let through = so_far.max(sweep.through.clone());
                let swept = Swept { target: sweep.target.clone(), through };
                self.swept.insert(sweep.sender, swept);
            }
            None => {
                self.swept.remove(&sweep.sender);
                self.rowless = true;
                let ahead = sweep.target.iter().filter(|dot| !incorporated.covers(*dot)).collect();
                unit.jump(&ahead);
                self.vv.join(&ahead);
                // No row of our log leads there, and what the sender has forgotten of it we never saw. Of other origins we
                // know all that it knows: whoever lacks some of them need not be swept because this node was.
                self.floor.join(&ahead);
            }
        }
        self.acknowledge(sweep.sender, &sweep.vv);
        Ok(rest.map_or(Taken::Whole, Taken::Part))
    }

    /// Takes in what is listed; what is `incorporated` here and not held is dead. Of a comparison as much as one commit may put
    /// aside: then its last key comes back, and there are more after it.
    fn take_entries<T: Trees>(
        &mut self,
        sweep: &Sweep,
        incorporated: &VersionVector,
        unit: &mut Unit,
        trees: &T,
        now_ms: u64,
    ) -> Result<Option<Name>, T::Error> {
        let mut listed = sweep.entries.iter();
        while let Some((kind, key, entry)) = listed.next() {
            let place = unit.load(*kind, key, trees)?;
            if unit.at(place).entry.has_news(entry, incorporated) {
                self.merge(entry, place, unit, incorporated, now_ms);
                self.rowless |= sweep.compares() && unit.at(place).entry.leftover();
            }
            // Of a sweep, what goes was counted before.
            if sweep.compares() && unit.discarded() >= COMMIT_DISCARD_BYTES_MAX && listed.len() > 0 {
                return Ok(Some((*kind, key.clone())));
            }
        }
        Ok(None)
    }

    fn merge(
        &mut self,
        theirs: &Entry,
        place: Place,
        unit: &mut Unit,
        incorporated: &VersionVector,
        now_ms: u64,
    ) {
        let touch = unit.at_mut(place);
        let held: Vec<Dot> = touch.entry.dots().collect();
        let name = (touch.kind, touch.key.as_slice());
        let passed = |swept: &&Swept| {
            swept.through.as_ref().is_some_and(|(kind, key)| name <= (*kind, key.as_slice()))
        };
        let mut incorporated = Cow::Borrowed(incorporated);
        for swept in self.swept.values().filter(passed) {
            incorporated.to_mut().join(&swept.target);
        }
        let gone = touch.entry.merge(theirs, &incorporated);
        for version in touch.entry.versions().iter().filter(|version| !held.contains(&version.dot)) {
            if !self.clock.observe(version.hlc, now_ms) {
                self.far_future += 1;
            }
        }
        unit.put_aside(place, gone);
    }
}

/// A key, and its tree.
type Name = (Kind, Vec<u8>);

/// The keys of a piece of a sweep that are `wanted` for what they hold, in the trees or in the unit so far. Of those in the trees
/// `most` at most, or as many as a commit may put aside, or as are found in a look at some times as many: then the last one that
/// was looked at comes back as well, and there may be more after it.
fn names_between<T: Trees>(
    sweep: &Sweep,
    most: usize,
    unit: &Unit,
    trees: &T,
    wanted: impl Fn(Kind, &[u8], &Entry) -> bool,
) -> Result<(Vec<Name>, Option<Name>), T::Error> {
    let (mut names, mut discarded, mut last) = (Vec::new(), unit.discarded(), None);
    let mut after = sweep.after.clone();
    let mut looks = most.saturating_mul(SWEEP_LOOKS_PER_DEAD_KEY);
    'read: loop {
        let held = trees.entries_after(after.as_ref(), SWEEP_READ_KEYS)?;
        let more = held.len() == SWEEP_READ_KEYS;
        for (kind, key, entry) in held {
            if !sweep.spans(kind, &key) {
                break 'read;
            }
            after = Some((kind, key.clone()));
            looks -= 1;
            if !unit.touches(kind, &key) && wanted(kind, &key, &entry) {
                let chunked = entry.versions().iter().filter(|v| matches!(v.value, Value::Chunked { .. }));
                discarded += chunked.map(|version| version.value.bytes()).sum::<u64>();
                names.push((kind, key));
            }
            let full = names.len() >= most || discarded >= COMMIT_DISCARD_BYTES_MAX || looks == 0;
            if full && after != sweep.through {
                last = after;
                break 'read;
            }
        }
        if !more {
            break;
        }
    }
    let here = |touch: &&Touch| {
        let comes = last.as_ref().is_none_or(|(kind, key)| (touch.kind, &touch.key) <= (*kind, key));
        comes && sweep.spans(touch.kind, &touch.key) && wanted(touch.kind, &touch.key, &touch.entry)
    };
    names.extend(unit.loaded().filter(here).map(|touch| (touch.kind, touch.key.clone())));
    Ok((names, last))
}
