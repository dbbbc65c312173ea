//! What the store of a node in a cluster must hold: the model. It knows of causality only what the notes say: which event
//! put what and took the place of what. A store that knows some events of a key holds those that none of them has replaced.
//!
//! What is known of a key is a vector over the key's events: all that is incorporated, and what came with entries that were
//! newer than their events. What was answered must be in it; what was under way may be or not, key by key, for a unit that
//! was cut off keeps what had come of it. So there is a set of possible vectors for each key, and a store that was opened
//! makes it smaller again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynarust::replica::{Bound, Dot, NodeId, VersionVector};

use crate::converge::Plan;
use crate::note::{Found, Happening, Note, Offer, name};
use crate::peer::Kept;
use crate::trace::{Event, Record};

/// All events that anybody has heard of.
#[derive(Clone, Default)]
pub struct Events {
    by_key: BTreeMap<u32, BTreeMap<Dot, Option<(u64, u64)>>>,
    /// What took an event's place.
    killers: BTreeMap<Dot, Vec<Dot>>,
    /// The record in which it was sent, or made.
    since: BTreeMap<Dot, usize>,
    /// Numbers that were spent on nothing.
    voids: BTreeSet<Dot>,
}

impl Events {
    pub fn insert(&mut self, since: usize, dot: Dot, happening: &Happening) {
        let Happening { key, text, replaced } = happening;
        self.by_key.entry(*key).or_default().insert(dot, *text);
        replaced.iter().for_each(|old| self.killers.entry(*old).or_default().push(dot));
        let twice = self.since.insert(dot, since);
        assert!(twice.is_none(), "two events are {dot}");
    }

    /// What lives under a key for whoever knows these events.
    pub fn live(&self, key: u32, knows: &VersionVector) -> BTreeSet<Dot> {
        let Some(events) = self.by_key.get(&key) else { return BTreeSet::new() };
        let lives = |dot: &Dot| self.known(*dot, knows) && !self.replaced(*dot, knows);
        events.iter().filter(|(_, text)| text.is_some()).map(|(dot, _)| *dot).filter(lives).collect()
    }

    fn known(&self, dot: Dot, knows: &VersionVector) -> bool {
        knows.covers(dot) && !self.voids.contains(&dot)
    }

    /// By a known event, or by what a known event has replaced.
    fn replaced(&self, dot: Dot, knows: &VersionVector) -> bool {
        let killers = self.killers.get(&dot).into_iter().flatten().filter(|by| !self.voids.contains(by));
        let mut killers = killers.rev();
        killers.any(|by| knows.covers(*by) || self.replaced(*by, knows))
    }

    pub fn text(&self, key: u32, dot: Dot) -> Option<(u64, u64)> {
        self.by_key.get(&key)?.get(&dot).copied().flatten()
    }

    fn remove(&mut self, gone: impl Fn(Dot) -> bool) {
        self.by_key.values_mut().for_each(|events| events.retain(|dot, _| !gone(*dot)));
        self.killers.values_mut().for_each(|killers| killers.retain(|dot| !gone(*dot)));
        self.since.retain(|dot, _| !gone(*dot));
    }
}

/// Something sent to the store and not yet answered.
#[derive(Clone)]
struct UnderWay {
    offer: Arc<Offer>,
    /// What the store had.
    before: VersionVector,
    /// Something of the same origins is under way as well: which of them does what can't be told.
    clouded: bool,
    /// It was answered so, and earlier pieces of its sweep were not.
    answer: Option<VersionVector>,
}

/// What the store must know, at one moment.
#[derive(Clone, Default)]
pub struct State {
    /// Its name, once it has served, and its cluster's.
    names: Option<(NodeId, NodeId)>,
    naming: Option<(bool, NodeId)>,
    vv: VersionVector,
    /// Beyond that, by key: one of these.
    keys: BTreeMap<u32, Vec<VersionVector>>,
    /// Writes, each with the record in which it was sent.
    sent: BTreeMap<u64, (usize, Happening)>,
    offers: BTreeMap<u64, UnderWay>,
    sweeps: BTreeMap<NodeId, (VersionVector, Bound)>,
    /// Whose sweep an end of the process cut off, and what it was to lead to. Until that is there, frames of others could
    /// bring back, for a while, what its pieces have removed.
    interrupted: Option<(NodeId, VersionVector)>,
    /// The peers now, and some time ago.
    pub peers: Option<Arc<Vec<Kept>>>,
    pub stale: Option<Arc<Vec<Kept>>>,
}

/// The whole history.
#[derive(Clone, Default)]
pub struct Ledger {
    pub events: Events,
    notes: Vec<(usize, Note)>,
    snapshots: BTreeMap<usize, Arc<Vec<Kept>>>,
    offers: BTreeMap<usize, Arc<Offer>>,
    /// What a write turned out to be.
    acks: BTreeMap<u64, Dot>,
    /// From a record on: the state from which to replay the notes behind it.
    epochs: Vec<(usize, State)>,
}

/// What follows from what a store was found to hold.
pub struct Settled {
    events: Events,
    state: State,
    /// Writes without an answer that came to something.
    resolved: BTreeMap<u64, Dot>,
}

impl Ledger {
    /// Goes on with the records of a trace.
    pub fn read(mut self, records: &[Record]) -> Ledger {
        let (mut sent, mut made) = (BTreeMap::new(), Vec::new());
        for (at, record) in records.iter().enumerate() {
            let Event::Cluster(note) = &record.event else { continue };
            match note {
                Note::Happened { dot, happening } => made.push((at, *dot, happening)),
                Note::Sent { id, happening } => drop(sent.insert(*id, (at, happening))),
                Note::Done { id, dot } => {
                    let (since, happening) = sent.remove(id).expect("an answer follows its request");
                    self.events.insert(since, *dot, happening);
                    self.acks.insert(*id, *dot);
                }
                Note::Peers(peers) => {
                    made.drain(..).for_each(|(at, dot, happening)| self.events.insert(at, dot, happening));
                    self.snapshots.insert(at, Arc::new(peers.clone()));
                }
                // What a peer made just before the end nobody has heard of, itself included.
                Note::Found(_) => made.clear(),
                Note::Offered { offer, .. } => drop(self.offers.insert(at, Arc::new(offer.clone()))),
                _ => {}
            }
            self.notes.push((at, note.clone()));
        }
        if self.epochs.is_empty() {
            self.epochs.push((0, State::default()));
        }
        for (at, note) in self.notes.clone() {
            if let Note::Found(found) = note {
                let settled = self.settle(&found, at).unwrap_or_else(|e| panic!("record {at}: {e}"));
                self.events = settled.events;
                self.acks.extend(settled.resolved);
                self.epochs.push((at + 1, settled.state));
            }
        }
        self
    }

    /// A history that begins with what was found after a crash before record `at`.
    pub fn from(settled: Settled, at: usize) -> Ledger {
        let Settled { mut events, state, .. } = settled;
        events.forget_what_came_later(at, &state);
        Ledger { events, epochs: vec![(0, state)], ..Ledger::default() }
    }

    /// What the store had promised before record `at`.
    pub fn state(&self, at: usize) -> State {
        let epoch = self.epochs.partition_point(|(since, _)| *since <= at);
        let (since, mut state) = self.epochs[epoch - 1].clone();
        let from = self.notes.partition_point(|(noted, _)| *noted < since);
        for (noted, note) in self.notes[from..].iter().take_while(|(noted, _)| *noted < at) {
            self.apply(&mut state, *noted, note);
        }
        state
    }

    fn apply(&self, state: &mut State, at: usize, note: &Note) {
        match note {
            Note::Sent { id, happening } => drop(state.sent.insert(*id, (at, happening.clone()))),
            Note::Done { id, dot } => {
                let (_, happening) = state.sent.remove(id).expect("an answer follows its request");
                state.vv.raise(*dot);
                state.keys.entry(happening.key).or_insert_with(|| vec![VersionVector::new()]);
            }
            Note::Refused { id } => drop(state.sent.remove(id)),
            Note::Offered { id, .. } => {
                let offer = self.offers[&at].clone();
                let mut clouded = false;
                for other in state.offers.values_mut().filter(|other| meet(&other.offer, &offer)) {
                    (other.clouded, clouded) = (true, true);
                }
                let before = state.vv.clone();
                state.offers.insert(*id, UnderWay { offer, before, clouded, answer: None });
            }
            Note::Taken { id, vv } => {
                state.vv.join(vv);
                state.offers.get_mut(id).expect("an answer follows its request").answer = Some(vv.clone());
                while let Some((under_way, answer)) = state.answered() {
                    state.take(&under_way, &answer, self.events.by_key.keys());
                }
            }
            Note::Shown(vv) => state.vv.join(vv),
            Note::Naming { node, id } => state.naming = Some((*node, *id)),
            Note::Named => {
                let (node, id) = state.naming.take().expect("an answer follows its request");
                let names = state.names.as_mut().expect("a store that serves");
                *(if node { &mut names.0 } else { &mut names.1 }) = id;
            }
            Note::Peers(_) => {
                state.stale = self
                    .snapshots
                    .range(..at)
                    .rev()
                    .nth(5)
                    .map(|(_, peers)| peers.clone())
                    .or(state.stale.take());
                state.peers = Some(self.snapshots[&at].clone());
            }
            Note::Found(_) | Note::Happened { .. } => {}
        }
    }

    /// Compares what was found with what was promised before record `at`; and what it says of what was under way.
    pub fn settle(&self, found: &Found, at: usize) -> Result<Settled, String> {
        let state = self.state(at);
        state.name(found)?;
        let me = found.me;
        if !found.vv.covers_all(&state.vv) {
            return Err(format!("{:?} was promised, {:?} is recovered", state.vv, found.vv));
        }
        let own = state.vv.get(me);
        if found.vv.get(me) - own > state.sent.len() as u64 {
            return Err(format!("event {} of its own, {own} were promised", found.vv.get(me)));
        }
        state.nothing_else(&found.vv, me)?;
        let mut events = self.events.clone();
        let (under_way, resolved) = self.under_way(&state, found, &mut events);
        for seq in 1..=found.vv.get(me) {
            let dot = Dot::new(me, seq);
            match events.since.get(&dot) {
                Some(since) if *since >= at && at > 0 => return Err(format!("{dot} was not even sent")),
                None if seq <= own && !events.voids.contains(&dot) => return Err(format!("{dot} is lost")),
                None => drop(events.voids.insert(dot)),
                _ => {}
            }
        }
        // Of its own events beyond the promise each may be void.
        let mut base = found.vv.clone();
        base.retain(|origin| origin != me);
        base.raise(Dot::new(me, own));
        let keys: BTreeSet<u32> = events.by_key.keys().chain(found.holds.keys()).copied().collect();
        let mut settled = BTreeMap::new();
        for key in keys {
            let may = state.may(key, &found.vv);
            let with = |may: &VersionVector, dot: Dot| {
                let mut more = may.clone();
                more.raise(dot);
                more
            };
            let held: BTreeSet<Dot> = found.holds.get(&key).into_iter().flatten().map(|v| v.dot).collect();
            let fits = |may: &VersionVector| {
                let mut knows = may.clone();
                knows.join(&base);
                events.live(key, &knows) == held
            };
            let dot = under_way.get(&key).copied();
            let done: Vec<_> = dot
                .map(|dot| may.iter().map(|may| with(may, dot)).filter(fits).collect())
                .unwrap_or_default();
            let fitting = if done.is_empty() {
                may.iter().filter(|may| fits(may)).cloned().collect()
            } else {
                done.clone()
            };
            if fitting.is_empty() {
                let may: Vec<_> = may.iter().map(|may| (may, events.live(key, may))).collect();
                return Err(format!(
                    "key {key} holds {held:?}; {} possible of {may:?}, own {dot:?}, {base:?}",
                    may.len()
                ));
            }
            if let Some(dot) = dot.filter(|_| done.is_empty()) {
                events.voids.insert(dot);
            }
            settled.insert(key, fitting);
        }
        events.texts_are_right(found)?;
        let state = State {
            names: Some((me, found.cluster)),
            vv: found.vv.clone(),
            keys: settled,
            interrupted: state.sweeper(),
            peers: state.peers,
            stale: state.stale,
            ..State::default()
        };
        Ok(Settled { events, state, resolved })
    }

    /// The writes that were under way and may have come to something: the events of those that are not promised, by key, and of
    /// all that there are, by id.
    fn under_way(
        &self,
        state: &State,
        found: &Found,
        events: &mut Events,
    ) -> (BTreeMap<u32, Dot>, BTreeMap<u64, Dot>) {
        let (mut under_way, mut resolved) = (BTreeMap::new(), BTreeMap::new());
        for (id, (since, happening)) in &state.sent {
            let held = found.holds.get(&happening.key).into_iter().flatten();
            let mut held = held.filter(|version| version.id == *id && version.dot.origin == found.me);
            let dot = self.acks.get(id).copied().or_else(|| held.next().map(|version| version.dot));
            let Some(dot) = dot.filter(|dot| found.vv.covers(*dot)) else { continue };
            if !events.since.contains_key(&dot) {
                events.insert(*since, dot, happening);
            }
            resolved.insert(*id, dot);
            if !state.vv.covers(dot) {
                under_way.insert(happening.key, dot);
            }
        }
        (under_way, resolved)
    }

    /// What a child needs to go on. While a sweep is under way, only what its sender sent.
    pub fn plan(&self, at: usize) -> Plan {
        let state = self.state(at);
        let sweeper = state.sweeper().map(|(sender, _)| sender);
        let mut peers = state.peers.unwrap_or_default().to_vec();
        if let Some(sweeper) = sweeper {
            peers.sort_by_key(|peer| peer.me != sweeper);
        }
        let offers = state.offers.values().map(|under| &*under.offer);
        let offers = offers.filter(|offer| sweeper.is_none_or(|sweeper| offer.sender() == sweeper));
        let stale = state.stale.map_or_else(Vec::new, |stale| stale.to_vec());
        Plan {
            keys: Vec::new(),
            peers,
            stale,
            offers: offers.cloned().collect(),
            swept: sweeper.is_some(),
            seed: 0,
        }
    }

    /// Had the store served?
    pub fn served(&self, at: usize) -> bool {
        self.state(at).names.is_some()
    }

    /// What was promised.
    pub fn promised(&self, at: usize) -> VersionVector {
        self.state(at).vv
    }
}

impl Events {
    fn forget_what_came_later(&mut self, at: usize, state: &State) {
        let me = state.names.map(|(me, _)| me);
        let later = |dot: Dot| Some(dot.origin) == me && !state.vv.covers(dot);
        let gone =
            self.since.iter().filter(|(dot, since)| **since >= at || later(**dot)).map(|(dot, _)| *dot);
        let gone: BTreeSet<Dot> = gone.chain(self.voids.iter().copied()).collect();
        self.remove(|dot| gone.contains(&dot));
        self.since.values_mut().for_each(|since| *since = 0);
        // Numbers beyond are free again.
        self.voids.retain(|dot| state.vv.covers(*dot));
    }

    /// All keys that anything happened to.
    pub fn keys(&self) -> impl Iterator<Item = u32> {
        self.by_key.keys().copied()
    }

    pub fn texts_are_right(&self, found: &Found) -> Result<(), String> {
        for (key, held) in &found.holds {
            for version in held {
                let text = self.text(*key, version.dot);
                if text != Some((version.id, version.bytes)) {
                    return Err(format!("key {key} holds {version:?}, written was {text:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Can it depend on the one what the other does?
fn meet(a: &Offer, b: &Offer) -> bool {
    match (a, b) {
        (Offer::Frame(a), Offer::Frame(b)) => {
            a.ranges.iter().any(|range| b.ranges.iter().any(|other| other.origin == range.origin))
        }
        _ => true,
    }
}

/// What somebody knows of a key who takes this in; `None` when it says nothing of the key.
fn news(offer: &Offer, key: u32) -> Option<VersionVector> {
    let (kind, name) = name(key);
    let place = (kind, name);
    let mut knows = offer.vv().clone();
    let entry = offer.entries().iter().find(|(kind, name, _)| (*kind, name) == (place.0, &place.1));
    if let Some((_, _, entry)) = entry {
        knows.join(entry.context());
        return Some(knows);
    }
    let Offer::Sweep(sweep) = offer else { return None };
    let after = sweep.after.as_ref().is_none_or(|after| place > *after);
    let within = after && sweep.through.as_ref().is_none_or(|through| place <= *through);
    within.then_some(knows)
}

impl State {
    /// All possible vectors of a key, with what was under way and may be there or not.
    fn may(&self, key: u32, found: &VersionVector) -> Vec<VersionVector> {
        let mut may = self.keys.get(&key).cloned().unwrap_or_else(|| vec![VersionVector::new()]);
        for UnderWay { offer, before, clouded, .. } in self.offers.values() {
            let Some(news) = news(offer, key) else { continue };
            let came = match &**offer {
                Offer::Frame(frame) => {
                    let ends = || frame.ranges.iter().map(|range| Dot::new(range.origin, range.through));
                    !clouded && ends().all(|end| found.covers(end)) && ends().all(|end| !before.covers(end))
                }
                Offer::Sweep(_) => false,
            };
            join(&mut may, &news, came);
        }
        may
    }

    /// A parcel that was answered, and all before it of the same sweep: one commit may take in several pieces, whose answers
    /// come in any order.
    fn answered(&mut self) -> Option<(UnderWay, VersionVector)> {
        let mut waits: BTreeSet<NodeId> = BTreeSet::new();
        let (&id, _) = self.offers.iter().find(|(_, under)| {
            let sender = under.offer.sender();
            let piece = matches!(&*under.offer, Offer::Sweep(_));
            if piece && under.answer.is_none() {
                waits.insert(sender);
            }
            under.answer.is_some() && !(piece && waits.contains(&sender))
        })?;
        let mut under_way = self.offers.remove(&id)?;
        under_way.answer.take().map(|answer| (under_way, answer))
    }

    /// An answered parcel.
    fn take<'a>(
        &mut self,
        under_way: &UnderWay,
        answer: &VersionVector,
        keys: impl Iterator<Item = &'a u32>,
    ) {
        let UnderWay { offer, before, clouded, .. } = under_way;
        match &**offer {
            Offer::Frame(frame) => {
                let mut named = BTreeSet::new();
                for range in frame.ranges.iter().filter(|r| answer.covers(Dot::new(r.origin, r.through))) {
                    let have = before.get(range.origin);
                    let new = range.changes.iter().filter(|change| *clouded || change.seq > have);
                    named.extend(new.map(|change| crate::note::number(change.kind, &change.key)));
                }
                for key in named {
                    let news = news(offer, key).expect("a frame has the entries of its events");
                    join(self.keys.entry(key).or_insert_with(|| vec![VersionVector::new()]), &news, !clouded);
                }
            }
            Offer::Sweep(sweep) => {
                let so_far = self.sweeps.get(&sweep.sender);
                let next = so_far
                    .is_some_and(|(target, through)| *target == sweep.target && *through == sweep.after);
                if !next && sweep.after.is_some() {
                    return;
                }
                if sweep.after.is_none() {
                    // It takes the place of every other.
                    self.sweeps.clear();
                }
                for key in keys {
                    if let Some(news) = news(offer, *key) {
                        join(
                            self.keys.entry(*key).or_insert_with(|| vec![VersionVector::new()]),
                            &news,
                            true,
                        );
                    }
                }
                self.sweeps.remove(&sweep.sender);
                if sweep.through.is_some() {
                    self.sweeps.insert(sweep.sender, (sweep.target.clone(), sweep.through.clone()));
                }
            }
        }
    }

    /// Who is sweeping, and what that leads to.
    fn sweeper(&self) -> Option<(NodeId, VersionVector)> {
        let sent = self.offers.values().filter_map(|under| match &*under.offer {
            Offer::Sweep(sweep) => Some((sweep.sender, sweep.target.clone())),
            Offer::Frame(_) => None,
        });
        let begun = self.sweeps.iter().map(|(sender, (target, _))| (*sender, target.clone()));
        let mut all = sent.chain(begun).chain(self.interrupted.clone());
        all.find(|(_, target)| !self.vv.covers_all(target))
    }

    fn name(&self, found: &Found) -> Result<(), String> {
        let Some(mut names) = self.names else { return Ok(()) };
        let found = (found.me, found.cluster);
        if found == names {
            return Ok(());
        }
        if let Some((node, id)) = self.naming {
            *(if node { &mut names.0 } else { &mut names.1 }) = id;
        }
        if found == names { Ok(()) } else { Err(format!("the names are {found:?}, not {names:?}")) }
    }

    /// Of other origins there is nothing that nobody sent.
    fn nothing_else(&self, found: &VersionVector, me: NodeId) -> Result<(), String> {
        let mut most = self.vv.clone();
        for UnderWay { offer, .. } in self.offers.values() {
            match &**offer {
                Offer::Frame(f) => f.ranges.iter().for_each(|r| most.raise(Dot::new(r.origin, r.through))),
                Offer::Sweep(sweep) => most.join(&sweep.target),
            }
        }
        match found.iter().find(|dot| dot.origin != me && !most.covers(*dot)) {
            Some(dot) => Err(format!("{dot} is incorporated, no more than {most:?} was sent")),
            None => Ok(()),
        }
    }
}

/// Each of the possible vectors grows by `news`, for sure or perhaps.
fn join(may: &mut Vec<VersionVector>, news: &VersionVector, sure: bool) {
    for at in 0..may.len() {
        let mut more = may[at].clone();
        more.join(news);
        if sure {
            may[at] = more;
        } else if !may.contains(&more) {
            may.push(more);
        }
    }
    let mut known = Vec::new();
    may.retain(|one| {
        !known.contains(one) && {
            known.push(one.clone());
            true
        }
    });
}
