//! A cluster of real replicas over trees in memory, and a network that loses, repeats and reorders.
//!
//! The schedule follows the executable model of the design: writes, deletes, writes with causality tokens, frames,
//! forgetting, joins, evictions, returns of stale members. At the end everybody is back and talks until nothing is
//! left to say.

use std::collections::{BTreeMap, BTreeSet};

use dynarust::replica::{Bounds, Dot, Frame, NodeId, Replaces, Sweep, Token, Unit, VersionVector};

use crate::node::{Node, Sweeping};
use crate::oracle::Oracle;

/// What travels from node to node.
#[derive(Clone)]
enum Mail {
    Frame(Frame),
    Sweep(Sweep),
}

impl Mail {
    fn sender(&self) -> NodeId {
        match self {
            Mail::Frame(frame) => frame.sender,
            Mail::Sweep(sweep) => sweep.sender,
        }
    }
}

/// Numbers from a seed (SplitMix64: Steele et al., 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

pub struct World {
    random: Random,
    nodes: BTreeMap<NodeId, Node>,
    active: BTreeSet<NodeId>,
    evicted: BTreeSet<NodeId>,
    keys: Vec<Vec<u8>>,
    tokens: Vec<(Vec<u8>, Token)>,
    wire: Vec<(NodeId, Mail)>,
    oracle: Oracle,
    now_ms: u64,
}

/// What a schedule left.
pub struct End {
    pub writes: usize,
    pub siblings: usize,
}

impl World {
    pub fn run(seed: u64) -> End {
        let mut random = Random(seed);
        let keys = *random.pick(&[1, 2, 4]);
        let steps = *random.pick(&[40, 120, 300]);
        let mut world = World {
            random,
            nodes: (1..=3).map(|id| (NodeId(id), Node::new(id))).collect(),
            active: (1..=3).map(NodeId).collect(),
            evicted: BTreeSet::new(),
            keys: (0..keys).map(|i| format!("k{i}").into_bytes()).collect(),
            tokens: Vec::new(),
            wire: Vec::new(),
            oracle: Oracle::default(),
            now_ms: 1_000_000,
        };
        world.settle_rosters();
        for _ in 0..steps {
            world.step();
        }
        world.quiesce();
        world.verdict()
    }

    fn step(&mut self) {
        let everybody: Vec<NodeId> = self.active.union(&self.evicted).copied().collect();
        let id = *self.random.pick(&everybody);
        self.now_ms += self.random.below(50);
        match self.random.below(1000) {
            0..300 => self.write(id),
            300..360 => {
                let key = self.random.pick(&self.keys).clone();
                let token = Token::new(self.nodes[&id].live(&key).into_iter().collect());
                self.tokens.push((key, token));
            }
            360..720 => self.send(id, &everybody),
            720..920 => self.deliver(),
            920..940 => self.node(id).forget(),
            940..960 => self.trim(id),
            960..975 => self.join(id),
            975..985 => self.evict(),
            985..992 => self.comes_back(),
            992..996 => self.restarts(id),
            _ => self.settle_rosters(),
        }
        self.nodes[&id].check();
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of this world")
    }

    fn write(&mut self, id: NodeId) {
        let key = self.random.pick(&self.keys).clone();
        let held = self.nodes[&id].live(&key);
        let mine: Vec<Token> =
            self.tokens.iter().filter(|(k, _)| *k == key).map(|(_, t)| t.clone()).collect();
        let mut replaces = Replaces::All;
        if !mine.is_empty() && self.random.chance(20) {
            let token = self.random.pick(&mine).clone();
            if held.iter().any(|&dot| token.names(dot)) {
                replaces = Replaces::Named(token);
            }
        }
        let replaced: Vec<Dot> = match &replaces {
            Replaces::All => held.into_iter().collect(),
            Replaces::Named(token) => held.into_iter().filter(|&dot| token.names(dot)).collect(),
        };
        let lives = !self.random.chance(30);
        // Every node has a clock of its own, minutes off.
        let now_ms = self.now_ms + id.0 * 100_000;
        let dot = self.node(id).write(&key, replaces, lives, now_ms);
        self.oracle.happened(dot, &key, lives, &replaced);
    }

    /// The log must not grow for ever, whoever still lacks what leaves it.
    fn trim(&mut self, id: NodeId) {
        let vv: Vec<Dot> = self.nodes[&id].replica.vv().iter().collect();
        if !vv.is_empty() {
            let Dot { origin, seq } = *self.random.pick(&vv);
            let through = self.random.below(seq + 1);
            self.node(id).trim(Dot::new(origin, through));
        }
    }

    fn send(&mut self, from: NodeId, everybody: &[NodeId]) {
        let to = *self.random.pick(everybody);
        if to == from || self.evicted.contains(&from) || self.evicted.contains(&to) {
            return;
        }
        let limit = *self.random.pick(&[1, 3, 100]);
        let own_only = self.random.chance(50);
        let mut have = self.nodes[&from].replica.acknowledged(to).cloned().unwrap_or_default();
        if self.random.chance(15) && !self.nodes[&from].replica.must_sweep(&have) {
            // It does not wait for the answer to the last frame, and one may get lost.
            let origin = *self.random.pick(everybody);
            have.raise(Dot::new(origin, have.get(origin) + 1 + self.random.below(3)));
        }
        let mail = self.mail(from, to, &have, limit, own_only);
        if let Mail::Sweep(Sweep { through: Some(through), .. }) = &mail
            && self.random.chance(40)
            && let Some(sweeping) = self.node(from).sweeps.get_mut(&to)
        {
            sweeping.after = Some(through.clone());
        }
        self.wire.push((to, mail));
    }

    /// What a shipper would send now to a peer that has `have`.
    fn mail(&mut self, from: NodeId, to: NodeId, have: &VersionVector, limit: u64, own_only: bool) -> Mail {
        // Now and then a few bytes end it as well.
        let bytes = if self.random.chance(20) { 60 } else { usize::MAX };
        let bounds = Bounds { count: limit, bytes };
        let node = self.node(from);
        if !node.replica.must_sweep(have) {
            let Ok(frame) = node.replica.frame(have, bounds, |o| !own_only || o == from, &node.trees);
            return Mail::Frame(frame);
        }
        let start = Sweeping { target: node.replica.vv().clone(), after: None };
        let Sweeping { target, after } = node.sweeps.entry(to).or_insert(start).clone();
        let Ok(sweep) = node.replica.sweep(target, after, bounds, &node.trees);
        Mail::Sweep(sweep)
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let i = self.random.below(self.wire.len() as u64) as usize;
        let (to, mail) = self.wire[i].clone();
        let fate = self.random.below(100);
        if fate < 85 {
            self.wire.remove(i); // else it is delivered again later
        }
        if fate < 10 || self.evicted.contains(&to) || self.evicted.contains(&mail.sender()) {
            return; // lost
        }
        let mut mails = vec![mail];
        // What waits for the same node goes into the same commit.
        while self.random.chance(25)
            && let Some(more) = self
                .wire
                .iter()
                .position(|(other, mail)| *other == to && !self.evicted.contains(&mail.sender()))
        {
            mails.push(self.wire.remove(more).1);
        }
        self.exchange(to, &mails, 80);
    }

    /// One commit at `to`, and the answers to those who sent, unless they get lost.
    fn exchange(&mut self, to: NodeId, mails: &[Mail], answered_percent: u64) {
        let now_ms = self.now_ms;
        let node = self.node(to);
        let mut unit = Unit::new();
        let mut taken = Vec::new();
        for mail in mails {
            let Ok(next) = match mail {
                Mail::Frame(frame) => {
                    node.replica.receive(frame, &mut unit, &node.trees, now_ms).map(|()| true)
                }
                Mail::Sweep(sweep) => node.replica.take_sweep(sweep, &mut unit, &node.trees, now_ms),
            };
            taken.push(next);
        }
        node.commit(unit);
        node.check();
        for (mail, next) in mails.iter().zip(taken) {
            if self.random.chance(answered_percent) {
                self.answer(to, mail, next);
            }
        }
    }

    /// The sender hears what `to` has now.
    fn answer(&mut self, to: NodeId, mail: &Mail, next: bool) {
        let vv = self.nodes[&to].replica.vv().clone();
        let sender = self.node(mail.sender());
        sender.replica.acknowledge(to, &vv);
        if let Mail::Sweep(sweep) = mail
            && let Some(sweeping) = sender.sweeps.get_mut(&to)
            && sweeping.target == sweep.target
        {
            match &sweep.through {
                _ if !next => drop(sender.sweeps.remove(&to)),
                None => drop(sender.sweeps.remove(&to)),
                through if sweeping.after == sweep.after => sweeping.after = through.clone(),
                _ => {}
            }
        }
    }

    fn join(&mut self, sponsor: NodeId) {
        if self.nodes.len() >= 7 || !self.active.contains(&sponsor) {
            return;
        }
        let id = NodeId(self.nodes.len() as u64 + 1);
        let mut new = Node::new(id.0);
        for member in self.active.iter().copied() {
            new.replica.admit(member);
        }
        self.nodes.insert(id, new);
        self.node(sponsor).replica.admit(id);
        self.active.insert(id);
    }

    fn evict(&mut self) {
        if self.active.len() <= 2 {
            return;
        }
        let victim = *self.random.pick(&self.active.iter().copied().collect::<Vec<_>>());
        self.active.remove(&victim);
        self.evicted.insert(victim);
        self.wire.retain(|(to, mail)| *to != victim && mail.sender() != victim);
        for member in self.active.clone() {
            self.node(member).replica.dismiss(victim);
        }
    }

    /// An evicted member returns with all its old state; the others learn of it sooner or later.
    fn comes_back(&mut self) {
        let Some(&id) = self.evicted.iter().next() else { return };
        self.evicted.remove(&id);
        self.active.insert(id);
        let (all, active) = (self.nodes.keys().copied().collect::<Vec<_>>(), self.active.clone());
        let replica = &mut self.node(id).replica;
        all.into_iter().for_each(|member| replica.dismiss(member));
        active.into_iter().for_each(|member| replica.admit(member));
    }

    /// What is in memory only is lost: who has what, and how far sweeps are.
    fn restarts(&mut self, id: NodeId) {
        let active = self.active.clone();
        let node = self.node(id);
        node.restart();
        active.into_iter().for_each(|member| node.replica.admit(member));
    }

    fn settle_rosters(&mut self) {
        for id in self.active.clone() {
            for member in self.active.clone() {
                self.node(id).replica.admit(member);
            }
        }
    }

    fn quiesce(&mut self) {
        let back = std::mem::take(&mut self.evicted);
        self.active.extend(back);
        self.settle_rosters();
        let ids: Vec<NodeId> = self.active.iter().copied().collect();
        for _ in 0..60 {
            for &from in &ids {
                for &to in ids.iter().filter(|&&to| to != from) {
                    let vv = self.nodes[&to].replica.vv().clone();
                    self.node(from).replica.acknowledge(to, &vv);
                    let mail = self.mail(from, to, &vv, 1_000, false);
                    self.exchange(to, &[mail], 100);
                }
                if self.random.chance(50) {
                    self.node(from).forget();
                }
            }
            if self.settled() {
                break;
            }
        }
        for _ in 0..2 {
            ids.iter().for_each(|&id| self.node(id).forget());
        }
    }

    fn settled(&self) -> bool {
        let mut vectors = self.nodes.values().map(|node| node.replica.vv());
        let first = vectors.next().expect("a node");
        vectors.all(|vv| vv == first)
            && self.nodes.values().all(|node| {
                let others = self.nodes.keys().filter(|&&id| id != node.replica.me());
                others.into_iter().all(|&id| node.replica.acknowledged(id) == Some(first))
            })
    }

    fn verdict(&self) -> End {
        assert!(self.settled(), "they never came to an end");
        let first = self.nodes.values().next().expect("a node");
        let mut siblings = 0;
        for key in &self.keys {
            let want = self.oracle.live(key);
            siblings += usize::from(want.len() > 1);
            for node in self.nodes.values() {
                assert_eq!(node.live(key), want, "{:?} at {}", key, node.replica.me());
                let winner = |node: &Node| node.trees.entries.get(key).and_then(|e| e.dots().next());
                assert_eq!(winner(node), winner(first), "one winner everywhere");
            }
        }
        for node in self.nodes.values() {
            node.check();
            assert_eq!(node.replica.totals(), first.replica.totals(), "equal vectors, equal digests");
            for entry in node.trees.entries.values() {
                assert!(!entry.versions().is_empty(), "no leftovers of deletes");
                let needed = |dot: Dot| entry.dots().any(|live| live.origin == dot.origin);
                assert!(entry.context().iter().all(needed), "no leftovers of writes");
            }
        }
        End { writes: self.oracle.writes(), siblings }
    }
}
