//! Who belongs: starting, meeting, joining, leaving, eviction, and machines that come back with less than they had.
//!
//! Membership is data (`Kind::Membership`), and travels like all data. What is done here repeats `network/meet.rs`,
//! `network/join.rs`, `network/keeper.rs` and `Network::leave`. Two things are assumed of who sets a disk back, and said in
//! `docs/replication.md`: nothing of the machine's former life is still under way, and it does not serve before it has met
//! somebody who knows what it has lost, if there is anybody.

use std::collections::BTreeSet;

use dynarust::replica::{Dot, Frame, Kind, Member, NodeId, Replaces, Sweep, Trees as _, VersionVector};

use crate::disk::Disk;
use crate::network::Refusal;
use crate::node::Mail;
use crate::world::{ALL, World};

fn record(id: NodeId) -> Vec<u8> {
    id.0.to_be_bytes().to_vec()
}

impl World {
    /// A process starts; `join` is whom the operator told it to join by. It serves at the end, or it is not there.
    pub fn start(&mut self, at: usize, join: Option<usize>) {
        let now_ms = self.now(at);
        self.letters += 1;
        if self.random.chance(40) {
            self.machines[at].address = format!("address {}", self.letters);
        }
        self.machines[at].start(self.letters, now_ms);
        let mut sponsors = self.meet(at);
        if let Some(join) = join {
            sponsors.insert(0, join);
        }
        let sponsor = sponsors.into_iter().find(|sponsor| self.ask_to_join(at, *sponsor));
        if sponsor.is_some() {
            // Who took it in may know what it lost; then it is to be taken in under its new id.
            for home in self.meet(at) {
                self.ask_to_join(at, home);
            }
        }
        if self.machines[at].process.is_none() {
            return; // the power went
        }
        let belongs = self.machines[at].disk.belongs && (join.is_none() || sponsor.is_some());
        // What it was set back by, somebody may still tell; until then it would write under names that are taken.
        if !belongs || self.is_set_back(at) {
            return self.machines[at].stop();
        }
        self.serve(at);
        // Who once removed its sponsor would not hear of its record again.
        let node = &self.machines[at];
        if let Some((_, id)) = node.process.as_ref().and_then(|process| process.sponsor)
            && !node.others().contains(&id)
        {
            self.enter(at, id);
        }
    }

    fn serve(&mut self, at: usize) {
        let (me, seq) = (self.machines[at].me(), self.machines[at].disk.vv.get(self.machines[at].me()));
        self.oracle.undo(me, seq);
        let undone = |dot: &Dot| dot.origin == me && dot.seq > seq;
        self.tokens.retain(|(_, token)| !token.dots().iter().any(undone));
        self.ended.retain(|(_, mark, _)| !undone(mark));
        self.machines[at].serves = true;
        self.taken_in(at);
        if !self.machines[at].serves {
            return; // the power went
        }
        self.introduce(at);
        self.keep(at);
    }

    /// Does anybody know more of a node than it does itself?
    fn is_set_back(&self, at: usize) -> bool {
        // What it has of others' entries may tell of its own events as well.
        let (me, seq) = (self.machines[at].me(), self.machines[at].disk.vv.get(self.machines[at].me()));
        let others = (0..self.machines.len()).filter(|other| *other != at && !self.machines[*other].gone);
        let heard = |at: usize| self.machines[at].process.as_ref().and_then(|process| process.heard.of(me));
        let told = |at: usize| heard(at).is_some_and(|said| said.vv.get(me) > seq);
        others.into_iter().any(|other| self.machines[other].disk.newest(me) > seq || told(other))
            || self.network.tells_beyond(me, seq)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from != to
            && self.machines[to].serves
            && !self.network.is_cut(from, to)
            && !self.network.is_cut(to, from)
    }

    /// Asks the members that a node knows what they have of it. Comes back with those to whom it is a stranger.
    fn meet(&mut self, at: usize) -> Vec<usize> {
        let mut strangers = Vec::new();
        if !self.machines[at].disk.belongs {
            return strangers;
        }
        let mut known: BTreeSet<(usize, NodeId)> =
            self.machines[at].others().into_iter().map(|peer| (self.homes[&peer], peer)).collect();
        known.extend(self.machines[at].process().sponsor);
        for (home, peer) in known {
            if !self.reaches(at, home) {
                continue;
            }
            let (me, vv) = (self.machines[at].me(), self.machines[at].disk.vv.clone());
            let digest = self.machines[at].disk.totals.digest;
            let run = self.machines[at].process().run;
            let (ranges, entries) = (Vec::new(), Vec::new());
            let mail = Mail::Frame(Frame { sender: me, vv: vv.clone(), digest, ranges, entries });
            let (its_now, my_now) = (self.now(home), self.now(at));
            match self.admits(home, peer, run, &mail) {
                Ok(()) => {
                    let had = self.machines[home].disk.vv.get(me);
                    assert!(had <= vv.get(me), "{me} was set back, and {peer} does not tell it");
                    self.machines[home].process().heard.say(me, &vv, its_now);
                    let (theirs, its_run) =
                        (self.machines[home].disk.vv.clone(), self.machines[home].process().run);
                    self.machines[at].hears(peer, its_run);
                    self.machines[at].process().heard.say(peer, &theirs, my_now);
                }
                Err(Some(Refusal::RolledBack(_))) => {
                    let new = self.new_id(at);
                    self.machines[at].rename(new, my_now);
                    self.counts.renamed += 1;
                    return vec![home];
                }
                Err(Some(Refusal::Stranger)) => strangers.push(home),
                Err(_) => {}
            }
        }
        strangers
    }

    /// Asks a member to be taken in.
    fn ask_to_join(&mut self, at: usize, sponsor: usize) -> bool {
        let runs = self.machines[at].process.is_some();
        if !runs || !self.reaches(at, sponsor) || !self.machines[sponsor].disk.belongs {
            return false;
        }
        let me = self.machines[at].me();
        if !self.machines[sponsor].disk.members().contains(&me) && !self.enter(sponsor, me) {
            return false;
        }
        self.keep(sponsor);
        if !self.machines[sponsor].serves {
            return false; // the power went there
        }
        self.machines[at].disk.belongs = true;
        self.take_roster(at, sponsor);
        let said = &self.machines[sponsor].disk;
        let told = (me, said.records(me), said.vv.clone());
        self.machines[at].process().told = Some(told);
        self.machines[at].process().sponsor = Some((sponsor, self.machines[sponsor].me()));
        true
    }

    /// The answer to who joins brings the list of members: who knows nobody takes them for strangers.
    fn take_roster(&mut self, at: usize, sponsor: usize) {
        let (now_ms, sender) = (self.now(at), self.machines[sponsor].me());
        let after = Some((Kind::Membership, Vec::new()));
        let Ok(entries) = self.machines[sponsor].disk.entries_after(after.as_ref(), usize::MAX);
        let (target, vv) = (VersionVector::new(), VersionVector::new());
        let roster = Sweep { sender, target, vv, after, through: None, entries };
        roster.check().expect("a list of members is well formed");
        let (unit, ..) = self.machines[at].take(vec![Mail::Sweep(roster)], usize::MAX, None, now_ms);
        self.seal(at, unit);
    }

    /// The node is what its sponsor's records say of it, as `network/join.rs` decides it: here not before it is known that it was
    /// not set back.
    fn taken_in(&mut self, at: usize) {
        let (me, now_ms) = (self.machines[at].me(), self.now(at));
        let records = self.machines[at].disk.records(me);
        let process = self.machines[at].process();
        let Some((_, told, vv)) = process.told.take().filter(|(id, ..)| *id == me) else { return };
        let known = |dot: Dot| vv.covers(dot) || told.dots().any(|its| its == dot);
        let mark = records.mark().map(|(dot, _)| dot);
        let record = match records.dots().all(known) {
            true => told.standing(),
            false if mark.is_some() && mark == process.came_with => {
                Some(records.taken_in(self.machines[at].address.clone(), now_ms))
            }
            false => None,
        };
        if let Some(record) = record {
            self.put_record(at, me, record);
        }
    }

    /// Takes a node in.
    fn enter(&mut self, at: usize, id: NodeId) -> bool {
        let address = self.machines[self.homes[&id]].address.clone();
        let record = self.machines[at].disk.records(id).taken_in(address, self.now(at));
        let entered = self.put_record(at, id, record);
        let stands = self.machines[at].disk.records(id).standing().is_some();
        assert!(!entered || stands, "{id} was taken in, and is no member");
        entered
    }

    /// This becomes all that there is of a node's records, if it is not.
    fn put_record(&mut self, at: usize, id: NodeId, member: Member) -> bool {
        self.machines[at].disk.records(id).are(&member)
            || self.write(at, (Kind::Membership, &record(id)), Replaces::All, Some(member.text()))
    }

    /// A node's record says where it is reached, once; it makes itself a member only where it knows nobody else, or under a
    /// new id.
    fn introduce(&mut self, at: usize) {
        let node = &self.machines[at];
        let me = node.me();
        let founds = node.others().is_empty() || node.process.as_ref().is_some_and(|p| p.former.is_some());
        if founds || node.disk.records(me).standing().is_some() {
            self.enter(at, me);
        }
    }

    /// A look at the roster: shippers follow it.
    pub fn keep(&mut self, at: usize) {
        if !self.machines[at].serves {
            return;
        }
        let others = self.machines[at].others();
        let former = self.machines[at].process().former.filter(|former| others.contains(former));
        if let Some(former) = former
            && !self.remove(at, former)
        {
            return;
        }
        self.machines[at].follow();
        if self.machines[at].disk.members().contains(&self.machines[at].me()) {
            self.introduce(at);
        }
        self.depart(at, false);
    }

    /// A member's record goes: it has left, or goes by another id.
    fn remove(&mut self, at: usize, id: NodeId) -> bool {
        // With its record the marks go: who comes back by this id may be taken in by one who knows of none.
        self.ended.retain(|(of, ..)| *of != id);
        self.machines[at].disk.records(id).standing().is_some()
            && self.write(at, (Kind::Membership, &record(id)), Replaces::All, None)
    }

    /// A mark takes the place of the record. Who is out himself evicts nobody.
    pub fn evict(&mut self, at: usize, id: NodeId) {
        let node = &self.machines[at];
        if !node.disk.members().contains(&node.me()) {
            return;
        }
        let (mark, joined) = (node.disk.records(id).evicted(self.now(at)), node.disk.last_joined(id));
        let (Some(mark), Some(joined)) = (mark, joined) else { return };
        self.counts.evictions += 1;
        // What it says just before it is a member no more may be let in.
        let from = self.homes[&id];
        let late = (!self.peace && self.random.chance(30)).then(|| self.says(from, at, ALL)).flatten();
        if self.put_record(at, id, mark)
            && let Some(dot) = self.machines[at].disk.records(id).dots().next()
        {
            self.ended.push((id, dot, joined));
        }
        let torn = self.random.chance(50);
        for answer in self.exchange(at, late.into_iter().collect(), torn) {
            self.hear(answer);
        }
    }

    /// What an eviction has ended, nothing that was written beside it brings back.
    pub fn check_evictions(&self, at: usize) {
        for (id, mark, joined) in self.ended.iter().filter(|(_, mark, _)| self.oracle.stands(*mark)) {
            if let Some(standing) = self.machines[at].disk.records(*id).standing() {
                let since = standing.joined_at_ms;
                assert!(
                    since > *joined,
                    "{id} is a member since {since}; {mark} evicted who joined at {joined}"
                );
            }
        }
    }

    /// A new machine, with nothing on it, joins.
    pub fn join(&mut self, sponsor: usize) {
        let at = self.new_machine(false);
        self.counts.joins += 1;
        self.start(at, Some(sponsor));
    }

    /// A node is asked to leave. It ends when somebody knows, or when it has waited long enough.
    pub fn leave(&mut self, at: usize) {
        let me = self.machines[at].me();
        if self.machines[at].others().is_empty() || !self.remove(at, me) {
            return;
        }
        self.counts.leaves += 1;
        let last = Dot::new(me, self.machines[at].disk.vv.get(me));
        self.machines[at].process().leaving = Some(last);
    }

    pub fn depart(&mut self, at: usize, late: bool) {
        let node = &mut self.machines[at];
        let Some(process) = &node.process else { return };
        let Some(last) = process.leaving else { return };
        let told = process.heard.all().values().any(|said| said.vv.covers(last));
        if told || late {
            node.disk.belongs = false;
            node.stop();
        }
    }

    pub fn crash(&mut self, at: usize) {
        self.counts.crashes += u64::from(self.machines[at].serves);
        self.machines[at].stop();
    }

    /// The disk becomes what it was when the copy was made.
    pub fn restore(&mut self, at: usize) {
        let Some(backup) = self.machines[at].backup.clone() else { return };
        // Who holds a newer event of it only ahead of its vector can't tell; that gap is known (docs/replication.md).
        let seq = backup.vv.get(backup.me);
        let others = || self.machines.iter().enumerate().filter(|(i, node)| *i != at && !node.gone);
        let known = others().map(|(_, node)| node.disk.newest(backup.me)).max().unwrap_or(0);
        let told = others().map(|(_, node)| node.disk.vv.get(backup.me)).max().unwrap_or(0);
        if known > seq && told <= seq {
            return;
        }
        self.counts.restored += 1;
        self.machines[at].stop();
        let me = backup.me;
        self.machines[at].disk = backup;
        for process in self.machines.iter_mut().filter_map(|node| node.process.as_mut()) {
            process.set_back.insert(me);
        }
        self.network.hush(at);
        self.lose();
    }

    /// The disk is replaced; the machine comes back as another node.
    pub fn wipe(&mut self, at: usize) {
        self.counts.wiped += 1;
        let id = self.new_id(at);
        self.machines[at].stop();
        self.machines[at].disk = Disk::new(id, false);
        self.machines[at].backup = None;
        self.lose();
    }

    /// Some disk is gone: what no other tells of may be lost.
    pub fn lose(&mut self) {
        self.lost = true;
        let disks: Vec<&Disk> =
            self.machines.iter().filter(|node| !node.gone).map(|node| &node.disk).collect();
        self.oracle.lose(|dot, kind, key| disks.iter().any(|disk| disk.knows(dot, kind, key)));
    }

    /// Members that are no node any more.
    pub fn dead_members(&self, at: usize) -> Vec<NodeId> {
        let members = self.machines[at].disk.members().into_iter();
        let dead = |id: &NodeId| {
            let home = &self.machines[self.homes[id]];
            home.gone || home.me() != *id
        };
        members.filter(dead).collect()
    }

    /// What all nodes have, if all have the same and know it of each other.
    pub fn settled(&mut self) -> bool {
        let all: Vec<usize> = (0..self.machines.len()).filter(|at| !self.machines[*at].gone).collect();
        let ids: BTreeSet<NodeId> = all.iter().map(|at| self.machines[*at].me()).collect();
        let vv: VersionVector = self.machines[all[0]].disk.vv.clone();
        all.iter().all(|at| {
            let node = &self.machines[*at];
            let heard = node.process.as_ref().map(|process| process.heard.all()).unwrap_or_default();
            let says = |id: &&NodeId| heard.get(id).is_some_and(|said| said.vv == vv);
            node.serves
                && node.disk.vv == vv
                && node.disk.members() == ids
                && ids.iter().filter(|id| **id != node.me()).all(|id| says(&id))
        })
    }
}
