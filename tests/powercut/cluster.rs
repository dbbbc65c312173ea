//! One life of the store of a node in a cluster: its own writes go in together with what its peers send, the peers take
//! what it has and say so, and forget and cut their logs, so that it must be swept.
//!
//! Rules that keep the history exact: in a round a key is written by one client at most; a client that does not say what it
//! replaces writes a key that nothing else of the round touches; a peer makes its events between the rounds. One peer
//! sweeps at a time, and after a restart in the middle of a sweep nobody else sends before it is over.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use dynarust::replica::{Bounds, Digest, Dot, NodeId, Token, Totals, Value, VersionVector, Wants};
use dynarust::storage::{Action, Condition, Next, Rejection, Request, Store};
use tokio::task::LocalSet;

use crate::interpose;
use crate::note::{Found, Happening, MEMBERS, Note, Offer, Version, letter, name, peer_id, read_letter};
use crate::peer::{ALL, Peer};
use crate::rng::{Rng, mix};
use crate::trace::{Event, Trace};
use crate::workload::{KEY_OF_CHECK, newest, open, set_clock};

/// How a cluster goes about.
pub struct Shape {
    /// For the table.
    pub name: &'static str,
    /// How many keys there are, those of members not among them.
    keys: u32,
    /// Peers of the node.
    peers: u32,
    /// Rounds of a life, those that end with a kill not among them.
    rounds: u64,
    /// Processes one after another.
    pub lives: u64,
    /// Length of a value, log-uniform.
    bytes: (u64, u64),
    /// Most writes of clients, and most events of a peer, in a round.
    writes: (usize, usize),
    deletes_percent: u64,
    siblings_percent: u64,
    /// How often a peer sends nothing in a round.
    silent_percent: u64,
    /// How often a peer does not wait for the node before it forgets, and cuts its log: then it must sweep.
    lapse_percent: u64,
    /// Most keys of a piece of a sweep, and events of a frame.
    piece: u64,
    /// How often the node takes another name, or one of its cluster.
    names_percent: u64,
}

/// Frames among writes of the same keys, large values, sweeps, and much that is forgotten.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "frames",
        keys: 40,
        peers: 2,
        rounds: 22,
        lives: 4,
        bytes: (8, 3_000),
        writes: (12, 6),
        deletes_percent: 20,
        siblings_percent: 30,
        silent_percent: 20,
        lapse_percent: 0,
        piece: 6,
        names_percent: 3,
    },
    Shape {
        name: "chunks",
        keys: 14,
        peers: 2,
        rounds: 10,
        lives: 4,
        bytes: (3_000, 300_000),
        writes: (4, 4),
        deletes_percent: 20,
        siblings_percent: 20,
        silent_percent: 20,
        lapse_percent: 10,
        piece: 4,
        names_percent: 0,
    },
    Shape {
        name: "sweeps",
        keys: 60,
        peers: 2,
        rounds: 24,
        lives: 5,
        bytes: (8, 12_000),
        writes: (6, 10),
        deletes_percent: 35,
        siblings_percent: 20,
        silent_percent: 40,
        lapse_percent: 60,
        piece: 12,
        names_percent: 1,
    },
    Shape {
        name: "forget",
        keys: 24,
        peers: 3,
        rounds: 24,
        lives: 4,
        bytes: (8, 9_000),
        writes: (10, 4),
        deletes_percent: 50,
        siblings_percent: 10,
        silent_percent: 5,
        lapse_percent: 10,
        piece: 30,
        names_percent: 6,
    },
];

impl Shape {
    /// All keys that there may be.
    pub fn keys(&self) -> Vec<u32> {
        (0..self.keys).chain(MEMBERS..=self.guest()).chain([KEY_OF_CHECK]).collect()
    }

    /// The record of a member that comes and goes, and never says what it has.
    pub fn guest(&self) -> u32 {
        MEMBERS + self.peers
    }

    fn key(&self, rng: &mut Rng) -> u32 {
        if rng.percent(6) {
            MEMBERS + rng.below(self.peers as usize + 1) as u32
        } else {
            rng.below(self.keys as usize) as u32
        }
    }

    /// What is put under a key; `None` deletes. Members stay.
    fn text(&self, key: u32, id: u64, rng: &mut Rng) -> Option<(u64, u64)> {
        let stays = (MEMBERS..MEMBERS + self.peers).contains(&key);
        if !stays && rng.percent(self.deletes_percent) {
            return None;
        }
        let (low, high) = if key >= MEMBERS { (8, 90) } else { self.bytes };
        let doublings = rng.below((high / low).ilog2() as usize + 1);
        let least = (low << doublings) as usize;
        Some((id, rng.between(least, (2 * least).min(high as usize).max(least)) as u64))
    }
}

/// What somebody has who was sent this.
pub fn after(offer: &Offer, have: &VersionVector) -> VersionVector {
    let mut have = have.clone();
    if let Offer::Frame(frame) = offer {
        frame.ranges.iter().for_each(|range| have.raise(Dot::new(range.origin, range.through)));
    }
    have
}

pub fn note(note: Note) {
    interpose::note(&Event::Cluster(note));
}

/// All that a store holds under these keys.
pub async fn look(store: &Store, keys: &[u32]) -> Found {
    let published = store.published();
    let Totals { keys: count, versions, digest } = published.totals;
    let totals = (count, versions, digest.to_string());
    let (me, cluster, vv, floor) =
        (store.me(), store.cluster(), published.vv.clone(), published.floor.clone());
    let mut found = Found { me, cluster, vv, floor, totals, holds: Default::default() };
    for key in keys {
        let (kind, name) = name(*key);
        let read = store.read(kind, &name, 0).await.unwrap_or_else(|e| {
            dynarust::storage::end_process(e.exit(), &format!("key {key}: {e}"));
        });
        let versions = read.into_iter().map(|(version, text)| {
            let (id, bytes) = read_letter(&text);
            let chunked = matches!(version.value, Value::Chunked { .. });
            Version { dot: version.dot, id, bytes, chunked }
        });
        let mut versions: Vec<Version> = versions.collect();
        versions.sort_unstable_by_key(|version| version.dot);
        if !versions.is_empty() {
            found.holds.insert(*key, versions);
        }
    }
    found
}

/// What the store's counts and digest must be when it holds this.
pub fn totals(found: &Found) -> (u64, u64, String) {
    let mut totals = Totals { keys: 0, versions: 0, digest: Digest::default() };
    for (key, held) in &found.holds {
        let (kind, name) = name(*key);
        totals.add(kind, &name, held.iter().map(|version| version.dot));
    }
    (totals.keys, totals.versions, totals.digest.to_string())
}

/// Sends a parcel and notes it.
pub async fn give(store: Store, id: u64, offer: Offer) -> VersionVector {
    let parcel = offer.parcel();
    note(Note::Offered { id, offer });
    let vv = match store.take(parcel, None).await {
        Ok(vv) => vv,
        // The crash has forgotten how far the sweep was: nothing was taken, and it begins anew.
        Err(Rejection::OutOfTurn) => store.published().vv.clone(),
        Err(other) => panic!("a parcel was refused: {other}"),
    };
    note(Note::Taken { id, vv: vv.clone() });
    vv
}

/// Sends a write and notes it; `all` does not say what it replaces.
pub async fn write(store: Store, id: u64, happening: Happening, all: bool) -> Option<Dot> {
    let (kind, key) = name(happening.key);
    let action = happening.text.map_or(Action::Delete, |(id, bytes)| Action::Put(letter(id, bytes), None));
    let token = (!all).then(|| Token::new(happening.replaced.clone()));
    let request = Request { kind, key, action, condition: Condition::default(), token, room: None };
    note(Note::Sent { id, happening });
    match store.write(request).await {
        Ok(written) => {
            note(Note::Done { id, dot: written.dot });
            return Some(written.dot);
        }
        Err(Rejection::Nothing | Rejection::TokenSpent | Rejection::TooManySiblings) => {}
        Err(other) => panic!("a write was refused: {other}"),
    }
    note(Note::Refused { id });
    None
}

/// One message from the store to a peer; `false` when there is nothing new.
pub async fn ship(store: &Store, peer: &mut Peer, bounds: Bounds) -> bool {
    let have = peer.replica.vv().clone();
    // All that the store has of anybody, whatever the peer lacks of it.
    let origins = store.published().vv.iter().map(|dot| dot.origin).collect();
    let wants = Wants { have, origins, first: true, may_choose: false };
    let next = store.next_for(peer.replica.me(), &wants, bounds).await.expect("a store that can be read");
    match next {
        Next::Frame(frame) => {
            let offer = Offer::Frame(frame);
            let Offer::Frame(frame) = &offer else { unreachable!() };
            frame.check().expect("a frame that can be");
            assert!(frame.ranges.iter().all(|range| range.after == wants.have.get(range.origin)), "a gap");
            let mut shown = after(&offer, &VersionVector::new());
            let held = frame.entries.iter().flat_map(|(_, _, entry)| entry.dots());
            held.filter(|dot| dot.origin == store.me()).for_each(|dot| shown.raise(dot));
            note(Note::Shown(shown));
            let news = !frame.ranges.is_empty();
            peer.take(offer, 0);
            news
        }
        Next::Sweep { target, .. } => {
            let mut place = None;
            loop {
                let piece =
                    store.sweep_for(target.clone(), place, bounds).await.expect("a store that can be read");
                piece.check().expect("a piece that can be");
                place = piece.through.clone();
                note(Note::Shown(piece.vv.clone()));
                peer.take(Offer::Sweep(piece), 0);
                if place.is_none() {
                    return true;
                }
            }
        }
    }
}

/// One life, number `life` of a store of this shape.
pub fn live(dir: &Path, shape: &Shape, seed: u64, life: u64, trace: &Path) {
    let killed = life.is_multiple_of(2) && life + 1 < shape.lives;
    set_clock((life + 1) * 1_000_000, 0);
    interpose::note(&Event::Life);
    let store = open(dir).expect("a store that was not cut off opens");
    interpose::note(&Event::Opened { me: store.me().0, seq: newest(&store) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(async {
        note(Note::Found(look(&store, &shape.keys()).await));
        let mut world = World::new(&store, shape, seed, life, peers(shape, trace));
        for round in 0..shape.rounds {
            world.round(round, false).await;
        }
        if killed {
            let pause_ms = Rng::new(mix(seed, life)).between(5, 80) as u64;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(pause_ms));
                interpose::end_now();
            });
            for round in shape.rounds.. {
                world.round(round, true).await;
            }
        }
    }));
    store.close();
    interpose::note(&Event::Closed { seq: newest(&store) });
}

/// The peers as the trace knows them.
fn peers(shape: &Shape, trace: &Path) -> Vec<Peer> {
    let known = Trace::read(trace).records.into_iter().rev().find_map(|record| match record.event {
        Event::Cluster(Note::Peers(peers)) => Some(peers.iter().map(Peer::of).collect()),
        _ => None,
    });
    known.unwrap_or_else(|| (0..shape.peers).map(|peer| Peer::new(peer_id(peer))).collect())
}

struct World<'a> {
    store: &'a Store,
    shape: &'a Shape,
    seed: u64,
    life: u64,
    peers: Vec<Peer>,
    /// Who was sweeping when the store was last closed or cut off: nobody else sends until that is over.
    interrupted: Option<usize>,
    ids: u64,
}

impl<'a> World<'a> {
    fn new(store: &'a Store, shape: &'a Shape, seed: u64, life: u64, mut peers: Vec<Peer>) -> World<'a> {
        let interrupted = peers.iter().position(|peer| peer.sweeping);
        if let Some(sweeper) = interrupted.filter(|_| !mix(seed, life).is_multiple_of(4)) {
            peers[sweeper].sweep = None;
        }
        World { store, shape, seed, life, peers, interrupted, ids: (life + 1) << 32 }
    }

    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    async fn round(&mut self, round: u64, puts_only: bool) {
        let rng = &mut Rng::new(mix(mix(self.seed, self.life), round));
        let now_ms = (self.life + 1) * 1_000_000 + round * 10;
        set_clock(now_ms, 0);
        if rng.percent(self.shape.names_percent) && !puts_only {
            self.rename(rng).await;
        }
        let count = self.peers.len();
        for peer in 0..count {
            for _ in 0..rng.below(self.shape.writes.1 + 1) {
                self.peer_writes(peer, now_ms);
            }
        }
        for (from, to) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
            if from != to && rng.percent(40) {
                let sender = self.peers[from].clone();
                let mut sender = sender;
                sender.bring(&mut self.peers[to], now_ms);
            }
        }
        self.peers_forget(rng);
        let offers = self.offers(rng);
        let mut touched = BTreeSet::new();
        for offer in &offers {
            let names = offer.entries().iter().map(|(kind, name, _)| crate::note::number(*kind, name));
            touched.extend(names);
            if let Offer::Sweep(_) = offer {
                touched.extend(self.shape.keys());
            }
        }
        note(Note::Peers(self.peers.iter().map(Peer::keep).collect()));
        let mut tasks = Vec::new();
        let (mut writes, mut offers) =
            (self.own_writes(rng, &touched, puts_only).await, offers.into_iter().peekable());
        while !writes.is_empty() || offers.peek().is_some() {
            let store = self.store.clone();
            let id = self.id();
            if offers.peek().is_some() && (writes.is_empty() || rng.percent(40)) {
                let offer = offers.next().expect("one is there");
                tasks.push(tokio::task::spawn_local(async move {
                    give(store, id, offer).await;
                }));
            } else if let Some((mut happening, all)) = writes.pop() {
                happening.text.as_mut().into_iter().for_each(|text| text.0 = id);
                tasks.push(tokio::task::spawn_local(async move {
                    write(store, id, happening, all).await;
                }));
            }
        }
        let bounds = Bounds { count: rng.between(1, 9) as u64, bytes: 1 << 20 };
        if !self.swept() && rng.percent(50) {
            ship(self.store, &mut self.peers[rng.below(count)], bounds).await;
        }
        for task in tasks {
            task.await.expect("a task that ends");
        }
        self.answers(rng, bounds).await;
    }

    /// Is a sweep of the store under way?
    fn swept(&self) -> bool {
        self.peers.iter().any(|peer| peer.sweeping)
    }

    async fn rename(&mut self, rng: &mut Rng) {
        let (id, node) = (NodeId(rng.bits()), rng.percent(50));
        note(Note::Naming { node, id });
        let named = if node { self.store.renew(id).await } else { self.store.adopt(id).await };
        named.expect("a name is taken");
        note(Note::Named);
    }

    /// All but what it replaces follows from the name of the event.
    fn peer_writes(&mut self, peer: usize, now_ms: u64) {
        let peer = &mut self.peers[peer];
        let (me, seq) = (peer.replica.me(), peer.replica.vv().get(peer.replica.me()) + 1);
        let event = mix(mix(self.seed, me.0), seq);
        let rng = &mut Rng::new(event);
        let key = self.shape.key(rng);
        let text = self.shape.text(key, event, rng);
        let mut replaced = peer.holds(key);
        let named = rng.percent(self.shape.siblings_percent);
        if named {
            replaced.retain(|_| rng.percent(50));
        }
        let dot = peer.write(key, text, named.then(|| replaced.clone()), now_ms);
        assert_eq!(dot, Dot::new(me, seq));
        note(Note::Happened { dot, happening: Happening { key, text, replaced } });
    }

    fn peers_forget(&mut self, rng: &mut Rng) {
        let mut known: Vec<(NodeId, VersionVector)> =
            self.peers.iter().map(|peer| (peer.replica.me(), peer.replica.vv().clone())).collect();
        known.push((self.store.me(), self.store.published().vv.clone()));
        for peer in &mut self.peers {
            let lapsed = rng.percent(self.shape.lapse_percent);
            let members = if lapsed { &known[..known.len() - 1] } else { &known[..] };
            peer.forget(members);
            if lapsed {
                let vv: Vec<Dot> = peer.replica.vv().iter().collect();
                if !vv.is_empty() {
                    let end = rng.of(&vv);
                    peer.trim(Dot::new(end.origin, end.seq - rng.below(3).min(end.seq as usize) as u64));
                }
            }
        }
    }

    /// What the peers send: one or two messages each, the second as if the first had arrived.
    fn offers(&mut self, rng: &mut Rng) -> Vec<Offer> {
        let vv = self.store.published().vv.clone();
        let mut offers = Vec::new();
        for at in 0..self.peers.len() {
            if rng.percent(self.shape.silent_percent) || self.interrupted.is_some_and(|sweeper| sweeper != at)
            {
                continue;
            }
            let others = self.peers.iter().enumerate().any(|(other, peer)| other != at && peer.sweeping);
            let mut have = vv.clone();
            let own_only = rng.percent(60);
            for _ in 0..rng.between(1, 2) {
                let peer = &mut self.peers[at];
                if others && peer.replica.must_sweep(&have, |_| true) {
                    break;
                }
                let bounds =
                    Bounds { count: rng.between(1, self.shape.piece as usize) as u64, bytes: 1 << 20 };
                let bounds = if rng.percent(20) { ALL } else { bounds };
                let offer = peer.next(&have, bounds, own_only);
                have = after(&offer, &have);
                let last = matches!(&offer, Offer::Sweep(sweep) if sweep.through.is_none());
                offers.push(offer);
                if last {
                    break;
                }
            }
        }
        offers
    }

    /// Writes of clients, each with whether it says nothing of what it replaces.
    async fn own_writes(
        &mut self,
        rng: &mut Rng,
        touched: &BTreeSet<u32>,
        puts_only: bool,
    ) -> Vec<(Happening, bool)> {
        let mut writes = Vec::new();
        if self.life == 0 && self.store.published().vv.is_empty() {
            let members = (MEMBERS..MEMBERS + self.shape.peers).filter(|key| !touched.contains(key));
            writes.extend(
                members.map(|key| (Happening { key, text: Some((0, 40)), replaced: Vec::new() }, true)),
            );
        }
        let mut keys: BTreeSet<u32> = writes.iter().map(|(happening, _)| happening.key).collect();
        let vv = self.store.published().vv.clone();
        for _ in 0..rng.below(self.shape.writes.0 + 1) {
            let key = self.shape.key(rng);
            if !keys.insert(key) {
                continue;
            }
            let text = self.shape.text(key, 0, rng);
            let text = if puts_only { text.or(Some((0, 50))) } else { text };
            let (kind, name) = name(key);
            let held = self.store.entry(kind, &name).await.expect("an entry that can be read");
            let mut replaced: Vec<Dot> = held.dots().collect();
            let all = !touched.contains(&key) && !rng.percent(self.shape.siblings_percent);
            if !all {
                let some = rng.percent(50);
                replaced.retain(|dot| vv.covers(*dot) && (!some || rng.percent(60)));
            }
            writes.push((Happening { key, text, replaced }, all));
        }
        writes
    }

    /// What follows when all is answered: the peers learn what the store has, and it learns what they have.
    async fn answers(&mut self, rng: &mut Rng, bounds: Bounds) {
        let vv = self.store.published().vv.clone();
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            if peer.sweeping && peer.sweep.is_none() {
                // It was over, or it was no sweep that the store knew of.
                peer.sweeping = peer.replica.must_sweep(&vv, |_| true);
                if !peer.sweeping && self.interrupted == Some(at) {
                    self.interrupted = None;
                }
            }
        }
        if self.swept() {
            return;
        }
        for peer in &mut self.peers {
            if rng.percent(60) {
                let bounds = if rng.percent(50) { ALL } else { bounds };
                for _ in 0..rng.between(1, 12) {
                    if !ship(self.store, peer, bounds).await {
                        break;
                    }
                }
            }
            if rng.percent(80) {
                self.store.acknowledge(peer.replica.me(), peer.replica.vv());
            }
        }
    }
}
