//! What happens, drawn from a seed: first anything, then peace, until everybody is back and nothing is left to say. Then the
//! verdict.

use std::collections::BTreeMap;

use dynarust::limits::FRAME_BYTES_MAX;
use dynarust::replica::{Bounds, Courier, Entry, Kind, NodeId, Replaces, Token, VersionVector};

use crate::network::{Body, Network};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::world::{ALL, Counts, World};

/// Most machines of one cluster, those that have been wiped once.
const MACHINES_MAX: usize = 6;
/// After so many rounds of peace a cluster that is not of one mind never will be.
const ROUNDS_MAX: usize = 300;

/// What a schedule left.
pub struct End {
    pub writes: usize,
    pub siblings: usize,
    pub counts: Counts,
}

pub fn run(seed: u64) -> End {
    let mut random = Random(seed);
    let keys = *random.pick(&[1, 2, 4, 8]);
    let steps = *random.pick(&[40, 120, 300]);
    let mut world = World {
        random,
        machines: Vec::new(),
        homes: BTreeMap::new(),
        keys: (0..keys).map(|i| format!("k{i}").into_bytes()).collect(),
        tokens: Vec::new(),
        network: Network::default(),
        oracle: Oracle::default(),
        ended: Vec::new(),
        now_ms: 1_000_000_000,
        letters: 0,
        heard_first: BTreeMap::new(),
        counts: Counts::default(),
        peace: false,
        lost: false,
        forgotten: VersionVector::new(),
    };
    let first = world.new_machine(true);
    world.start(first, None);
    for _ in 0..2 {
        let at = world.new_machine(false);
        world.start(at, Some(first));
    }
    for _ in 0..steps {
        world.step();
    }
    world.peace = true;
    world.settles();
    world.verdict()
}

impl World {
    fn step(&mut self) {
        self.now_ms += self.random.below(400);
        let at = self.random.below(self.machines.len() as u64) as usize;
        let up = self.machines[at].serves;
        match self.random.below(1000) {
            0..220 if up => self.client_writes(at),
            220..260 if up => self.client_reads(at),
            260..560 if up => self.sends(at),
            560..840 => self.deliver(),
            840..850 => self.cuts_a_sweep_off(),
            850..854 => self.sweeps_past_what_comes_late(),
            854..858 => self.forgets_while_it_sweeps(),
            858..862 => self.sets_back_who_had_it(),
            862..890 if up => {
                self.tick(at);
            }
            890..915 => self.keep(at),
            915..925 => {
                // Its clock is set, by minutes.
                self.machines[at].skew_ms = self.random.below(600_000) as i64 - 300_000;
            }
            925..932 => self.parts(),
            932..938 => self.network.heal(),
            938..944 => self.crash(at),
            944..955 if up => self.machines[at].backup = Some(self.machines[at].disk.clone()),
            944..970 if !up => self.comes_up(at),
            970..974 => self.restore(at),
            974..976 => self.restore_sweeper(),
            976..978 if self.machines.len() > 2 => self.wipe(at),
            978..983 if up && self.machines.len() < MACHINES_MAX => self.join(at),
            983..986 if up => self.leave(at),
            986..989 => self.depart(at, true),
            989..993 if up => {
                let others: Vec<_> = self.machines[at].others().into_iter().collect();
                if !others.is_empty() {
                    let victim = *self.random.pick(&others);
                    self.evict(at, victim);
                }
            }
            993..996 if up => {
                // Somebody starts it again, perhaps because it was evicted.
                self.counts.returns += 1;
                self.crash(at);
                self.comes_up(at);
            }
            996..1000 => self.now_ms += self.random.below(60_000),
            _ => {}
        }
    }

    fn client_reads(&mut self, at: usize) {
        let key = self.random.pick(&self.keys).clone();
        let token = Token::new(self.machines[at].disk.live(Kind::Data, &key).into_iter().collect());
        if !token.dots().is_empty() {
            self.tokens.push(((Kind::Data, key), token));
        }
    }

    fn client_writes(&mut self, at: usize) {
        if self.machines[at].process().leaving.is_some() {
            return;
        }
        let key = self.random.pick(&self.keys).clone();
        let vv = &self.machines[at].disk.vv;
        let usable = |token: &Token| token.dots().iter().all(|dot| vv.covers(*dot));
        let of_key = self.tokens.iter().filter(|((_, k), _)| *k == key).map(|(_, token)| token);
        let tokens: Vec<Token> = of_key.filter(|token| usable(token)).cloned().collect();
        let mut replaces = Replaces::All;
        if !tokens.is_empty() && self.random.chance(25) {
            replaces = Replaces::Named(self.random.pick(&tokens).clone());
        }
        let lives = !self.random.chance(30);
        let text = lives.then(|| self.now(at).to_be_bytes().to_vec());
        self.write(at, (Kind::Data, &key), replaces, text);
    }

    fn sends(&mut self, at: usize) {
        let members: Vec<_> = self.machines[at].process().lines.keys().copied().collect();
        if members.is_empty() {
            return;
        }
        let to = *self.random.pick(&members);
        if self.random.chance(8) {
            self.shows_all(at, to);
        }
        let count = *self.random.pick(&[1, 1, 3, 100]);
        let bytes = if self.random.chance(20) { 60 } else { FRAME_BYTES_MAX };
        let early = self.random.chance(15);
        if self.random.chance(10) {
            self.gives_up(at, to);
        }
        self.ship(at, to, Bounds { count, bytes }, early);
    }

    fn parts(&mut self) {
        self.counts.partitions += 1;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for at in 0..self.machines.len() {
            if self.random.chance(50) { left.push(at) } else { right.push(at) }
        }
        let one_way = self.random.chance(30);
        self.network.part(&left, &right, one_way);
    }

    /// A machine is switched on. Who does not belong is told to join by somebody.
    pub fn comes_up(&mut self, at: usize) {
        let serving = self.serving();
        let join = match self.machines[at].disk.belongs && !self.random.chance(30) {
            true => None,
            false if serving.is_empty() => return,
            false => Some(*self.random.pick(&serving)),
        };
        self.start(at, join);
    }

    /// No more faults: whoever is to come back does, and all talk until there is nothing left to say.
    fn settles(&mut self) {
        self.network.heal();
        let mut there = self.machines.len();
        for at in 0..self.machines.len() {
            if !self.machines[at].serves && there > 2 && self.random.chance(20) {
                // It never comes back.
                self.machines[at].gone = true;
                there -= 1;
                self.lose();
            }
        }
        for _ in 0..30 {
            self.deliver();
        }
        for round in 0..ROUNDS_MAX {
            self.round(round);
            // Who differs is not of one mind about the members either, perhaps, and then nothing else would mend it.
            if self.settled() || round % 8 == 7 {
                self.compare();
            }
            if self.settled() && self.differing().is_empty() {
                break;
            }
        }
        assert!(self.settled() && self.differing().is_empty(), "they never came to an end");
        for _ in 0..3 {
            for at in self.serving() {
                self.tick(at);
            }
        }
    }

    /// Who has incorporated the same as another member, and holds something else.
    fn differing(&self) -> Vec<(usize, NodeId)> {
        let mut pairs = Vec::new();
        for (from, to) in
            self.serving().into_iter().flat_map(|from| self.serving().into_iter().map(move |to| (from, to)))
        {
            let (disk, other) = (&self.machines[from].disk, &self.machines[to].disk);
            let shipper = self.machines[from]
                .process
                .as_ref()
                .is_some_and(|process| process.lines.contains_key(&other.me));
            if shipper && disk.vv == other.vv && disk.totals != other.totals {
                pairs.push((from, other.me));
            }
        }
        pairs
    }

    /// Members that have incorporated the same and hold something else show each other everything.
    fn compare(&mut self) {
        let pairs = self.differing();
        for (at, _) in &pairs {
            // As long as somebody has more to tell, one of two may have heard a little of that ahead of the vector.
            let vv = &self.machines[*at].disk.vv;
            let told = self.machines.iter().all(|node| node.gone || vv.covers_all(&node.disk.vv));
            assert!(!told || self.lost, "they differ under one vector, though no disk was lost");
        }
        self.counts.comparisons += u64::from(!pairs.is_empty());
        for (from, to) in pairs {
            self.courier(from, to).begin_comparison();
            while self.machines[from].serves && self.courier(from, to).comparing() {
                self.talks(from, to);
            }
        }
    }

    pub fn courier(&mut self, at: usize, to: NodeId) -> &mut Courier {
        &mut self.machines[at].process().lines.get_mut(&to).expect("a shipper").courier
    }

    fn round(&mut self, round: usize) {
        self.now_ms += 700;
        let serving = self.serving();
        let Some(first) = serving.first().copied() else { return self.first_up() };
        // Who finds itself removed asks somebody else to be taken in again, as long as there is anybody.
        let belongs = |at: &usize| self.machines[*at].disk.members().contains(&self.machines[*at].me());
        let lead = serving.into_iter().find(belongs).unwrap_or(first);
        if round.is_multiple_of(4) {
            // The operator asks one node, and then the others about what only they still have.
            let asked = if round < 20 { vec![lead] } else { self.serving() };
            for at in asked {
                for id in self.dead_members(at) {
                    self.evict(at, id);
                }
            }
            for at in 0..self.machines.len() {
                let node = &self.machines[at];
                let (its, members) = (self.machines[lead].disk.members(), node.disk.members());
                let out = !its.contains(&node.me())
                    || !members.contains(&node.me())
                    || !members.contains(&self.machines[lead].me());
                if at != lead && !node.gone && (out || !node.serves) {
                    self.crash(at);
                    self.start(at, Some(lead));
                    if round > ROUNDS_MAX / 2 && !self.machines[at].serves {
                        self.wipe(at);
                    }
                }
            }
        }
        for at in self.serving() {
            self.keep(at);
            if !self.machines[at].serves {
                continue;
            }
            self.tick(at);
            let members: Vec<_> = self.machines[at].process().lines.keys().copied().collect();
            for to in members {
                self.talks(at, to);
            }
        }
    }

    /// Nobody serves: the first one that may begins.
    fn first_up(&mut self) {
        for at in 0..self.machines.len() {
            if !self.machines[at].gone && !self.machines[at].serves {
                self.machines[at].disk.belongs = true;
                self.start(at, None);
            }
        }
        if self.serving().is_empty() {
            let at = (0..self.machines.len()).find(|at| !self.machines[*at].gone).expect("one is there");
            self.wipe(at);
        }
    }

    /// One message and its answer.
    fn talks(&mut self, from: usize, to: NodeId) {
        if !self.machines[from].serves {
            return;
        }
        self.gives_up(from, to);
        self.ship(from, to, ALL, false);
        let Some(letter) = self.network.take_last() else { return };
        if let Body::Ask(..) = letter.body {
            let home = letter.to;
            for answer in self.exchange(home, vec![letter], false) {
                self.hear(answer);
            }
        }
    }

    /// Is this what came ahead of its turn, from disks that are all gone? Nobody can send the others the events before it, so
    /// nobody's vector ever covers it: whether it lives depends on who had it, but all must agree.
    fn stranded(&self, at: &[usize], name: &(Kind, Vec<u8>)) -> bool {
        let vv = &self.machines[at[0]].disk.vv;
        let mut entries = at.iter().filter_map(|at| self.machines[*at].disk.entries.get(name));
        entries.any(|entry| !vv.covers_all(entry.context()))
    }

    fn verdict(mut self) -> End {
        let alive: Vec<usize> = self.serving();
        let first = &self.machines[alive[0]].disk;
        let (mut siblings, mut stranded) = (0, 0);
        for name in self.oracle.keys() {
            let (kind, key) = &name;
            let live = first.live(*kind, key);
            let judged = !self.stranded(&alive, &name);
            if judged {
                self.oracle.judge(*kind, key, &live);
            } else {
                stranded += 1;
            }
            siblings += usize::from(live.len() > 1);
            for at in &alive {
                let entry = self.machines[*at].disk.entries.get(&name);
                let left = entry.is_some_and(|entry| entry.leftover());
                assert!(!judged || !left, "a leftover of {}", key.escape_ascii());
                let both =
                    [entry, first.entries.get(&name)].map(|entry| entry.map_or(&[][..], Entry::versions));
                assert_eq!(both[0], both[1], "{} at {at}", key.escape_ascii());
            }
        }
        for at in &alive {
            let disk = &self.machines[*at].disk;
            disk.check();
            self.check_evictions(*at);
            assert_eq!(disk.totals, first.totals, "equal vectors, equal digests");
        }
        self.counts.stranded += stranded;
        let counts = std::mem::take(&mut self.counts);
        End { writes: self.oracle.writes(), siblings, counts }
    }
}
