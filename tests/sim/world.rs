//! A cluster of real replicas over trees in memory, and a network that loses, repeats and reorders.
//!
//! The schedule follows the executable model of the design: writes, deletes, writes with causality tokens, frames,
//! forgetting, joins, evictions, returns of stale members. At the end everybody is back and talks until nothing is
//! left to say.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use dynarust::replica::{
    Change, Dot, Entry, Frame, Kind, NodeId, Replaces, Replica, Token, Totals, Touch, Trees, Value, Write,
};

use crate::oracle::Oracle;

/// The trees of one node, in memory.
#[derive(Default, Clone)]
struct Memory {
    entries: BTreeMap<Vec<u8>, Entry>,
    log: BTreeMap<Dot, Vec<u8>>,
}

impl Trees for Memory {
    type Error = Infallible;

    fn entry(&self, _: Kind, key: &[u8]) -> Result<Entry, Infallible> {
        Ok(self.entries.get(key).cloned().unwrap_or_default())
    }

    fn changes(
        &self,
        origin: NodeId,
        after: u64,
        through: u64,
        limit: usize,
    ) -> Result<Vec<Change>, Infallible> {
        if after >= through {
            return Ok(Vec::new());
        }
        let rows = self.log.range(Dot::new(origin, after + 1)..=Dot::new(origin, through));
        let change =
            |(dot, key): (&Dot, &Vec<u8>)| Change { seq: dot.seq, kind: Kind::Data, key: key.clone() };
        Ok(rows.map(change).take(limit).collect())
    }
}

#[derive(Clone)]
struct Node {
    replica: Replica,
    trees: Memory,
}

impl Node {
    fn new(id: u64) -> Node {
        Node { replica: Replica::new(NodeId(id)), trees: Memory::default() }
    }

    fn commit(&mut self, touches: Vec<Touch>) {
        for touch in touches {
            for dot in &touch.logged {
                self.trees.log.insert(*dot, touch.key.clone());
            }
            for dot in &touch.forgotten {
                self.trees.log.remove(dot);
            }
            if touch.entry.is_gone() {
                self.trees.entries.remove(&touch.key);
            } else {
                self.trees.entries.insert(touch.key, touch.entry);
            }
        }
    }

    fn trim(&mut self) {
        let mut rows: BTreeMap<Vec<u8>, Vec<Dot>> = BTreeMap::new();
        for (dot, key) in &self.trees.log {
            rows.entry(key.clone()).or_default().push(*dot);
        }
        let keys: BTreeSet<Vec<u8>> = self.trees.entries.keys().chain(rows.keys()).cloned().collect();
        for key in keys {
            let mut entry = self.trees.entries.get(&key).cloned().unwrap_or_default();
            let mine = rows.remove(&key).unwrap_or_default();
            let forgotten = self.replica.forget(&mut entry, mine.into_iter());
            let touch = Touch { kind: Kind::Data, key, entry, logged: vec![], before: vec![], forgotten };
            self.commit(vec![touch]);
        }
    }

    /// The invariants that hold at every moment at every node.
    fn check(&self) {
        let mut totals = Totals::default();
        for (key, entry) in &self.trees.entries {
            totals.add(Kind::Data, key, entry.dots());
            for dot in entry.dots() {
                assert_eq!(self.trees.log.get(&dot), Some(key), "{dot} lives and is not in the log");
                assert!(entry.context().covers(dot), "{dot} lives outside of its context");
            }
        }
        assert_eq!(totals, *self.replica.totals(), "counts and digest");
    }

    fn live(&self, key: &[u8]) -> BTreeSet<Dot> {
        self.trees.entries.get(key).map(|entry| entry.dots().collect()).unwrap_or_default()
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
    wire: Vec<(NodeId, Frame)>,
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
            920..960 => self.node(id).trim(),
            960..975 => self.join(id),
            975..985 => self.evict(),
            985..995 => self.comes_back(),
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
        let value = lives.then(|| (Value::Inline(self.now_ms.to_be_bytes().to_vec()), None));
        // Every node has a clock of its own, minutes off.
        let now_ms = self.now_ms + id.0 * 100_000;
        let node = self.node(id);
        let entry = node.trees.entries.get(&key).cloned().unwrap_or_default();
        let touch = node.replica.write(Kind::Data, key.clone(), entry, Write { replaces, value }, now_ms);
        let dot = touch.logged[0];
        node.commit(vec![touch]);
        self.oracle.happened(dot, &key, lives, &replaced);
    }

    fn send(&mut self, from: NodeId, everybody: &[NodeId]) {
        let to = *self.random.pick(everybody);
        if to == from || self.evicted.contains(&from) || self.evicted.contains(&to) {
            return;
        }
        let limit = *self.random.pick(&[1, 3, 100]);
        let own_only = self.random.chance(50);
        let node = &self.nodes[&from];
        let have = node.replica.acknowledged(to).cloned().unwrap_or_default();
        let Ok(frame) = node.replica.frame(&have, limit, |o| !own_only || o == from, &node.trees);
        self.wire.push((to, frame));
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let i = self.random.below(self.wire.len() as u64) as usize;
        let (to, frame) = self.wire[i].clone();
        let fate = self.random.below(100);
        if fate < 85 {
            self.wire.remove(i); // else it is delivered again later
        }
        if fate < 10 || self.evicted.contains(&to) || self.evicted.contains(&frame.sender) {
            return; // lost
        }
        let answered = self.random.chance(80);
        self.exchange(to, &frame, answered);
    }

    fn exchange(&mut self, to: NodeId, frame: &Frame, answered: bool) {
        let now_ms = self.now_ms;
        let node = self.node(to);
        let Ok(touches) = node.replica.receive(frame, &node.trees, now_ms);
        node.commit(touches);
        node.check();
        let vv = node.replica.vv().clone();
        if answered {
            self.node(frame.sender).replica.acknowledge(to, &vv);
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
        self.wire.retain(|(to, frame)| *to != victim && frame.sender != victim);
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
                    let node = &self.nodes[&from];
                    let Ok(frame) = node.replica.frame(&vv, 1_000, |_| true, &node.trees);
                    self.exchange(to, &frame, true);
                }
                if self.random.chance(50) {
                    self.node(from).trim();
                }
            }
            if self.settled() {
                break;
            }
        }
        for _ in 0..2 {
            ids.iter().for_each(|&id| self.node(id).trim());
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
            let rows = node.trees.log.len() as u64;
            assert_eq!(rows, node.replica.totals().versions, "the log holds what lives and nothing else");
            assert!(node.trees.entries.values().all(|entry| !entry.versions().is_empty()), "no leftovers");
        }
        End { writes: self.oracle.writes(), siblings }
    }
}
