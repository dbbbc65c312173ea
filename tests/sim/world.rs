//! Machines, the network between them, and what happened: everything that a schedule acts upon, and the acts themselves.

use std::collections::BTreeMap;

use dynarust::limits::{FRAME_BYTES_MAX, FRAME_EVENTS_MAX, PEER_ANSWER_MS};
use dynarust::replica::{Bounds, Dot, Entry, Kind, NodeId, Replaces, Token, Unit, VersionVector};

use crate::disk::Disk;
use crate::network::{Body, Letter, Network, Refusal};
use crate::node::{Line, Mail, Node};
use crate::oracle::Oracle;
use crate::random::Random;

/// A message that holds all it may.
pub const ALL: Bounds = Bounds { count: FRAME_EVENTS_MAX, bytes: FRAME_BYTES_MAX };

pub struct World {
    pub random: Random,
    pub machines: Vec<Node>,
    /// At which machine a node is reached; ids are never used twice.
    pub homes: BTreeMap<NodeId, usize>,
    pub keys: Vec<Vec<u8>>,
    /// What clients have read.
    pub tokens: Vec<((Kind, Vec<u8>), Token)>,
    pub network: Network,
    pub oracle: Oracle,
    /// Evictions that a client was told of: who, the mark, and the last membership that it found.
    pub ended: Vec<(NodeId, Dot, u64)>,
    pub now_ms: u64,
    pub letters: u64,
    /// By the processes that hear and speak: what the one that speaks had of its own when the other first heard of it.
    pub heard_first: BTreeMap<(u64, u64, NodeId), u64>,
    pub counts: Counts,
    /// No more faults.
    pub peace: bool,
    /// Is some disk gone, or back at what it once was?
    pub lost: bool,
    /// What entries had seen that anybody let go of.
    pub forgotten: VersionVector,
}

/// How often the rare things happened: a simulation that never does them proves nothing.
#[derive(Default, Clone, Copy)]
pub struct Counts {
    pub joins: u64,
    pub leaves: u64,
    pub evictions: u64,
    pub returns: u64,
    pub crashes: u64,
    pub torn: u64,
    pub partitions: u64,
    pub restored: u64,
    pub renamed: u64,
    pub wiped: u64,
    pub fell_back: u64,
    pub sweeps: u64,
    pub resumed: u64,
    pub between: u64,
    pub comparisons: u64,
    pub stranded: u64,
}

impl Counts {
    pub fn all(&mut self) -> [(&'static str, &mut u64); 16] {
        [
            ("joins", &mut self.joins),
            ("leaves", &mut self.leaves),
            ("evictions", &mut self.evictions),
            ("returns", &mut self.returns),
            ("crashes", &mut self.crashes),
            ("torn commits", &mut self.torn),
            ("partitions", &mut self.partitions),
            ("restored backups", &mut self.restored),
            ("new ids after them", &mut self.renamed),
            ("wiped disks", &mut self.wiped),
            ("members found to hold less than they said", &mut self.fell_back),
            ("sweeps", &mut self.sweeps),
            ("pieces of them that were sent again", &mut self.resumed),
            ("messages taken in between two parts of a piece", &mut self.between),
            ("comparisons of members with one vector and two digests", &mut self.comparisons),
            (
                "keys that can't be judged, since something came ahead of its turn from a lost disk",
                &mut self.stranded,
            ),
        ]
    }
}

impl World {
    /// What the clock of a machine shows.
    pub fn now(&self, at: usize) -> u64 {
        self.now_ms.saturating_add_signed(self.machines[at].skew_ms)
    }

    /// The machines that take writes and messages.
    pub fn serving(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|at| self.machines[*at].serves).collect()
    }

    pub fn new_id(&mut self, at: usize) -> NodeId {
        // Not in the order of birth: the order of ids must not matter.
        let id = loop {
            let id = NodeId(1 + self.random.below(1_000));
            if !self.homes.contains_key(&id) {
                break id;
            }
        };
        self.homes.insert(id, at);
        id
    }

    pub fn new_machine(&mut self, belongs: bool) -> usize {
        let at = self.machines.len();
        let id = self.new_id(at);
        let skew_ms = self.random.below(600_000) as i64 - 300_000;
        // Some logs are short and some reach back for ever: the one sweeps a member while the other sends it frames.
        let kept = *self.random.pick(&[0, 2, 10, 1_000]);
        let log = (kept, kept + *self.random.pick(&[2, 10, 100]));
        self.machines.push(Node::new(Disk::new(id, belongs), skew_ms, log));
        at
    }

    /// A client writes, or the node itself does, or deletes; `false` when the power goes before it is answered.
    pub fn write(
        &mut self,
        at: usize,
        name: (Kind, &[u8]),
        replaces: Replaces,
        text: Option<Vec<u8>>,
    ) -> bool {
        let lives = text.is_some();
        let now_ms = self.now(at);
        let torn = !self.peace && self.random.chance(2);
        let node = &mut self.machines[at];
        let (unit, place, dot) = node.write(name, replaces, text, now_ms);
        let touch = unit.at(place);
        let replaced: Vec<Dot> = touch.gone.iter().map(|version| version.dot).collect();
        if !torn {
            self.oracle.happened(dot, name, lives, &replaced);
            self.seal(at, unit);
            return true;
        }
        if self.tear(at, unit, Some((name.0, name.1.to_vec()))) {
            self.oracle.happened(dot, name, lives, &replaced);
        }
        false
    }

    /// A commit in which nobody asks for anything.
    pub fn tick(&mut self, at: usize) {
        let now_ms = self.now(at);
        let (unit, ()) = self.machines[at].make(now_ms, |_, _, _| ());
        self.seal(at, unit);
    }

    pub fn seal(&mut self, at: usize, unit: Unit) {
        self.may_forget(at, &unit);
        self.remembers(at, &unit);
        let (now_ms, jumped) = (self.now(at), !unit.jumped().is_empty());
        self.machines[at].seal(unit, now_ms);
        // Of a disk that is lost a piece may tell what nobody tells to its end; that shows, or is mended, when all are at rest.
        if jumped && !self.lost {
            let disk = &self.machines[at].disk;
            self.oracle.incorporated(&disk.vv, |kind, key, dot| disk.live(kind, key).contains(&dot));
        }
    }

    /// What a unit lets go of, all whom its node waits for must have on their disks; but of one that was set back it may not
    /// have heard that yet.
    fn may_forget(&mut self, at: usize, unit: &Unit) {
        let node = &self.machines[at];
        let Some(process) = &node.process else { return };
        self.forgotten.join(process.replica.forgotten());
        for touch in unit.changes() {
            let before = node.disk.entries.get(&(touch.kind, touch.key.clone())).map(Entry::context);
            let gone = before.into_iter().flat_map(VersionVector::iter);
            for dot in gone.filter(|dot| !touch.entry.context().covers(*dot)) {
                assert!(node.disk.vv.covers(dot), "{dot} is forgotten before it is incorporated");
                for peer in process.replica.peers().filter(|peer| !process.set_back.contains(peer)) {
                    let other = &self.machines[self.homes[&peer]];
                    let has = other.me() != peer || other.gone || other.disk.vv.covers(dot);
                    assert!(has, "{dot} is forgotten, and {peer} lacks it");
                }
            }
        }
    }

    /// Who reads that something is gone, and goes on elsewhere with what the node says that it has seen, must not see it
    /// again: of whatever took its place the node has something, or remembers it, unless all who were waited for had it.
    fn remembers(&self, at: usize, unit: &Unit) {
        let Some(process) = self.machines[at].process.as_ref().filter(|_| !self.lost) else { return };
        for touch in unit.changes() {
            let context = touch.entry.context();
            let told = |dot: Dot| {
                process.replica.vv().covers(dot) || context.covers(dot) || self.forgotten.covers(dot)
            };
            for old in touch.gone.iter().filter(|old| !touch.entry.holds(old.dot)) {
                let by = self.oracle.took_the_place_of(touch.kind, &touch.key, old.dot);
                assert!(by.is_empty() || by.iter().any(|dot| told(*dot)), "{} went without a trace", old.dot);
            }
        }
    }

    /// The power goes in the middle of a commit. Did this key's entry come?
    fn tear(&mut self, at: usize, unit: Unit, name: Option<(Kind, Vec<u8>)>) -> bool {
        self.counts.torn += 1;
        self.may_forget(at, &unit);
        let touches: Vec<(Kind, Vec<u8>)> = unit.changes().map(|t| (t.kind, t.key.clone())).collect();
        let node = &mut self.machines[at];
        node.stop();
        if self.random.chance(30) {
            return false; // nothing of it has come
        }
        let entries = self.random.below(touches.len() as u64 + 1) as usize;
        node.disk.tear(unit, entries);
        node.disk.check();
        name.is_some_and(|name| touches[..entries].contains(&name))
    }

    /// The shipper from one machine to a member says what is to be said.
    pub fn ship(&mut self, from: usize, to: NodeId, bounds: Bounds, early: bool) {
        let now_ms = self.now_ms;
        let node = &mut self.machines[from];
        if !node.serves || !node.disk.belongs {
            return;
        }
        let Some(line) = node.process().lines.get_mut(&to) else { return };
        if let Some((_, since_ms, _)) = &line.waits {
            if now_ms < since_ms + PEER_ANSWER_MS {
                return;
            }
            line.courier.failed();
            self.counts.resumed += u64::from(line.courier.sweeping());
        }
        let was = line.courier.sweeping();
        let mail = node.mail(to, bounds, early, now_ms);
        let said = node.process().heard.all().remove(&to).unwrap_or_default().vv;
        self.letters += 1;
        let process = node.process();
        let run = process.run;
        let line = process.lines.get_mut(&to).expect("it is there");
        line.waits = Some((self.letters, now_ms, said));
        self.counts.sweeps += u64::from(!was && matches!(&mail, Mail::Sweep(piece) if !piece.compares()));
        let home = self.homes[&to];
        self.network.post(Letter { from, to: home, number: self.letters, run, body: Body::Ask(to, mail) });
    }

    /// Something that is under way arrives, if anything does.
    pub fn deliver(&mut self) {
        let Some(letter) = self.network.arrive(&mut self.random) else { return };
        let to = letter.to;
        if !matches!(letter.body, Body::Ask(..)) {
            return self.hear(letter);
        }
        let mut letters = vec![letter];
        // What waits for the same node goes into the same commit.
        while self.random.chance(25)
            && let Some(more) = self.network.arrives_too(to)
        {
            letters.push(more);
        }
        let torn = !self.peace && self.random.chance(2);
        for answer in self.exchange(to, letters, torn) {
            // Often the answer is there at once; else it is on its way like everything.
            match self.random.chance(70) && !self.network.is_cut(answer.from, answer.to) {
                true => self.hear(answer),
                false => self.network.post(answer),
            }
        }
    }

    /// Questions arrive at a machine and are taken in by one commit, perhaps with a client's write; the answers.
    pub fn exchange(&mut self, to: usize, letters: Vec<Letter>, torn: bool) -> Vec<Letter> {
        let now_ms = self.now(to);
        let (mut taken, mut answers, mut turns) = (Vec::new(), Vec::new(), Vec::new());
        for letter in letters {
            if !self.machines[to].serves {
                return Vec::new(); // nobody is there
            }
            let Letter { from, number, run, body: Body::Ask(whom, mail), .. } = letter else { continue };
            let my_run = self.machines[to].process().run;
            let answer = |body| Letter { from: to, to: from, number, run: my_run, body };
            match self.admits(to, whom, run, &mail) {
                Ok(()) => {}
                Err(Some(refusal)) => {
                    answers.push(answer(Body::Refused(refusal)));
                    continue;
                }
                Err(None) => return Vec::new(), // it has ended itself
            }
            let node = &mut self.machines[to];
            let (me, vv) = (node.me(), node.disk.vv.clone());
            if let Mail::Frame(frame) = &mail {
                frame.check().expect("a frame is well formed");
                node.process().heard.say(frame.sender, &frame.vv, now_ms);
                if frame.ranges.is_empty() {
                    answers.push(answer(Body::Have(me, vv)));
                    continue;
                }
                node.process().sweepers.gives_up(frame.sender);
            } else if let Mail::Sweep(sweep) = &mail {
                sweep.check().expect("a sweep is well formed");
                let sweepers = &mut node.process().sweepers;
                if !sweep.compares() {
                    if !sweepers.takes(sweep.sender, sweep.opens(), self.now_ms) {
                        answers.push(answer(Body::Refused(Refusal::Other)));
                        continue;
                    }
                    turns.push((sweep.sender, sweep.through.is_none()));
                }
                node.process().heard.say(sweep.sender, &sweep.vv, now_ms);
            }
            answers.push(answer(Body::Have(me, VersionVector::new())));
            taken.push(mail);
        }
        if taken.is_empty() {
            return answers;
        }
        let leaves = self.machines[to].process().leaving.is_some();
        let put =
            (!self.peace && !leaves && self.random.chance(15)).then(|| self.random.pick(&self.keys).clone());
        // Few keys are here: as if one commit took no more of them.
        let most = *self.random.pick(&[1, 1_000]);
        let (unit, put, mut rest) = self.machines[to].take(taken, most, put.as_deref(), now_ms);
        if torn && !unit.is_empty() {
            let name = put.as_ref().map(|put| (Kind::Data, put.key.clone()));
            if self.tear(to, unit, name)
                && let Some(put) = put
            {
                self.oracle.happened(put.dot, (Kind::Data, &put.key), true, &put.replaced);
            }
            return Vec::new();
        }
        if let Some(put) = put {
            self.oracle.happened(put.dot, (Kind::Data, &put.key), true, &put.replaced);
        }
        self.seal(to, unit);
        while !rest.is_empty() {
            // What comes meanwhile goes first.
            if !self.peace
                && self.random.chance(25)
                && let Some(letter) = self.network.arrives_too(to)
            {
                self.counts.between += 1;
                answers.extend(self.exchange(to, vec![letter], false));
                if !self.machines[to].serves {
                    return Vec::new();
                }
            }
            let (unit, _, more) = self.machines[to].take(rest, most, None, now_ms);
            rest = more;
            if !self.peace && self.random.chance(2) && !unit.is_empty() {
                self.tear(to, unit, None);
                return Vec::new();
            }
            self.seal(to, unit);
        }
        for (sender, ends) in turns {
            self.machines[to].process().sweepers.taken(sender, ends, self.now_ms);
        }
        for answer in &mut answers {
            if let Body::Have(_, vv) = &mut answer.body {
                *vv = self.machines[to].disk.vv.clone();
            }
        }
        answers
    }

    /// May this be taken in? As `network/routes.rs` decides it; `None` when the node finds that it was itself set back.
    pub fn admits(&mut self, at: usize, whom: NodeId, run: u64, mail: &Mail) -> Result<(), Option<Refusal>> {
        let (from, its_vv) = (mail.sender(), mail.vv());
        let node = &mut self.machines[at];
        let me = node.me();
        if whom != me || !node.disk.belongs {
            return Err(Some(Refusal::Other));
        }
        if !node.others().contains(&from) && !node.process().let_in.contains(&from) {
            return Err(Some(Refusal::Stranger));
        }
        let least = node.hears(from, run);
        let (my_run, sender) = (node.process().run, &self.machines[self.homes[&from]]);
        let had = sender.disk.vv.get(from);
        let first = *self.heard_first.entry((my_run, run, from)).or_insert(had);
        // What was under way then may be behind it; later messages must not be, or a sweep would never come to its end.
        let speaks = sender.process.as_ref().is_some_and(|process| process.run == run);
        assert!(
            !speaks || least <= first || had < least,
            "{from} was not set back, and is refused as if it were"
        );
        if matches!(mail, Mail::Sweep(sweep) if sweep.compares()) {
            return Ok(()); // a comparison says nothing of what its sender has
        }
        if its_vv.get(from) < least {
            return Err(Some(Refusal::RolledBack(least)));
        }
        let node = &mut self.machines[at];
        if its_vv.get(me) > node.disk.vv.get(me) {
            node.stop();
            return Err(None);
        }
        Ok(())
    }

    /// An answer is there.
    pub fn hear(&mut self, letter: Letter) {
        let now_ms = self.now(letter.to);
        let node = &mut self.machines[letter.to];
        if !node.serves {
            return;
        }
        let (me, vv) = (node.me(), node.disk.vv.clone());
        if let Body::Have(from, _) = &letter.body {
            node.hears(*from, letter.run);
        }
        let process = node.process();
        let waiting =
            |line: &&mut Line| line.waits.as_ref().is_some_and(|(number, ..)| *number == letter.number);
        let Some(line) = process.lines.values_mut().find(waiting) else { return };
        let (_, _, said) = line.waits.take().expect("it waits");
        match letter.body {
            Body::Have(from, theirs) => {
                let told = line.courier.answered(&theirs, &said);
                if told.fell_back {
                    self.counts.fell_back += 1;
                    process.heard.fell_back(from, &theirs);
                    process.set_back.remove(&from);
                }
                process.heard.say(from, &theirs, now_ms);
            }
            Body::Refused(Refusal::RolledBack(seq)) if seq > vv.get(me) => node.stop(),
            // It may have been busy.
            _ if self.random.chance(30) => line.courier.failed(),
            _ => line.courier.refused(),
        }
    }
}
