//! One machine of the simulation and the process on it: the real rules, wired as the committer and the network wire them.
//!
//! A process holds in memory what the real one holds there, and loses it when it ends. What is written here repeats the
//! order of `storage/committer.rs`: listen, forget, do what was asked, write it down, publish.

use std::collections::{BTreeMap, BTreeSet};

use dynarust::limits::CLOCK_AHEAD_MS_MAX;
use dynarust::replica::{
    Bounds, Courier, Dot, Frame, Hlc, Kind, NodeId, Place, Records, Replaces, Replica, Runs, Sweep, Sweepers,
    Taken, Trees, Unit, Value, VersionVector, Write,
};
use dynarust::storage::{Audience, Changes, Heard, Pass};

use crate::disk::Disk;

/// From so many events on, and so many a key, a sweep is preferred: few, since few are written here.
const RATHER: (u64, u64) = (6, 3);

/// A member that has said nothing for so long holds forgetting back no more.
pub const FORGET_AFTER_MS: u64 = 90_000;

/// What goes from one node to another.
#[derive(Clone)]
pub enum Mail {
    Frame(Frame),
    Sweep(Sweep),
}

impl Mail {
    pub fn sender(&self) -> NodeId {
        match self {
            Mail::Frame(frame) => frame.sender,
            Mail::Sweep(sweep) => sweep.sender,
        }
    }

    pub fn vv(&self) -> &VersionVector {
        match self {
            Mail::Frame(frame) => &frame.vv,
            Mail::Sweep(sweep) => &sweep.vv,
        }
    }
}

/// One shipper.
pub struct Line {
    pub courier: Courier,
    /// The message that has no answer yet, since when, and what the member had said before it was asked.
    pub waits: Option<(u64, u64, VersionVector)>,
}

/// What a process holds in memory.
pub struct Process {
    pub replica: Replica,
    pub heard: Heard,
    audience: Audience,
    changes: Changes,
    pub pass: Pass,
    pub lines: BTreeMap<NodeId, Line>,
    /// The id under which it wrote before it was found to be set back.
    pub former: Option<NodeId>,
    /// Names it among all that ever ran.
    pub run: u64,
    /// The processes that have spoken to it for each member.
    pub runs: Runs,
    /// Who took it in.
    pub sponsor: Option<(usize, NodeId)>,
    /// What that one's records said of this node under this id, and what it had then.
    pub told: Option<(NodeId, Records, VersionVector)>,
    /// The mark of the eviction that it came back from when it was started.
    pub came_with: Option<Dot>,
    /// The event by which it leaves, once it was asked to.
    pub leaving: Option<Dot>,
    /// Whose turn it is to send it everything.
    pub sweepers: Sweepers,
    /// Members that were set back since they said what they have, which this process has not been told.
    pub set_back: BTreeSet<NodeId>,
    /// The members before the last commit, if that changed them: what one of them said may have been let in just before.
    pub let_in: BTreeSet<NodeId>,
    /// What was published before the last commit: a reader may have looked just before it.
    earlier: (VersionVector, VersionVector),
}

/// A write in a commit that takes in other things as well.
pub struct Put {
    pub key: Vec<u8>,
    pub dot: Dot,
    pub replaced: Vec<Dot>,
}

impl Process {
    /// Forgetting waits for whoever is a member now.
    fn follow(&mut self, members: &BTreeSet<NodeId>, now_ms: u64) {
        if self.audience.follow(members, &mut self.replica, &self.heard, now_ms) {
            self.pass.ask(self.replica.vv());
        }
    }
}

/// A machine.
pub struct Node {
    pub disk: Disk,
    /// A copy of the disk as it once was.
    pub backup: Option<Disk>,
    /// How far its clock is off.
    pub skew_ms: i64,
    /// Where it is reached: another place for the same machine, so that its record changes when that of its eviction is written.
    pub address: String,
    /// How many events its log keeps for nobody, and for a member that lacks them.
    log: (usize, usize),
    /// Not there when it is switched off.
    pub process: Option<Process>,
    /// It has met the members that it knows, and takes writes and messages.
    pub serves: bool,
    /// It never comes back.
    pub gone: bool,
}

impl Node {
    pub fn new(disk: Disk, skew_ms: i64, log: (usize, usize)) -> Node {
        Node {
            disk,
            backup: None,
            skew_ms,
            address: String::new(),
            log,
            process: None,
            serves: false,
            gone: false,
        }
    }

    pub fn me(&self) -> NodeId {
        self.disk.me
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// A new process reads what the last one left.
    pub fn start(&mut self, run: u64, now_ms: u64) {
        let mut process = Process {
            replica: self.disk.replica(),
            heard: Heard::new(now_ms),
            audience: Audience::new(FORGET_AFTER_MS),
            changes: self.disk.changes(self.log.0, self.log.1),
            pass: Pass::default(),
            lines: BTreeMap::new(),
            former: None,
            run,
            runs: Runs::default(),
            sponsor: None,
            told: None,
            came_with: self.disk.records(self.disk.me).mark().map(|(dot, _)| dot),
            leaving: None,
            sweepers: Sweepers::default(),
            set_back: BTreeSet::new(),
            let_in: BTreeSet::new(),
            earlier: (self.disk.vv.clone(), self.disk.floor.clone()),
        };
        process.follow(&self.disk.members(), now_ms);
        self.process = Some(process);
    }

    pub fn stop(&mut self) {
        self.process = None;
        self.serves = false;
    }

    /// A member's process speaks: how many of its own events it must have, as `network/mod.rs` finds it.
    pub fn hears(&mut self, peer: NodeId, run: u64) -> u64 {
        let had = self.disk.vv.get(peer);
        let process = self.process();
        let said = process.heard.of(peer).map_or(0, |said| said.vv.get(peer));
        // Old letters come again here as often and as late as chance will have it: twins are another test's affair.
        process.runs.hear(peer, run, 0, || said.max(had)).unwrap_or(0)
    }

    /// From now on it has another id.
    pub fn rename(&mut self, id: NodeId, now_ms: u64) {
        let old = std::mem::replace(&mut self.disk.me, id);
        let members = self.disk.members();
        let process = self.process();
        process.replica.rename(id);
        process.former = Some(old);
        process.follow(&members, now_ms);
    }

    /// Makes the unit of one commit: what the committer does by itself, and then what it was asked to.
    pub fn make<T>(
        &mut self,
        now_ms: u64,
        asked: impl FnOnce(&mut Replica, &mut Unit, &Disk) -> T,
    ) -> (Unit, T) {
        let disk = &self.disk;
        let process = self.process.as_mut().expect("it runs");
        let (mut unit, replica) = (Unit::new(), &mut process.replica);
        if process.audience.listen(replica, &process.heard, now_ms) {
            process.pass.ask(replica.vv());
        }
        while let Some(row) = process.changes.ripe(replica) {
            for (_, kind, key) in &disk.log[&row.first].events {
                let Ok(place) = unit.load(*kind, key, disk);
                if let Some(waits_for) = replica.forget(&mut unit, place) {
                    process.pass.ask(&waits_for);
                }
            }
        }
        if process.pass.begins(|vv| vv.iter().all(|dot| replica.stable(dot))) {
            let Ok(held) = disk.entries_after(process.pass.after.as_ref(), usize::MAX);
            for (kind, key, _) in held.iter().filter(|(.., entry)| entry.leftover()) {
                let Ok(place) = unit.load(*kind, key, disk);
                if let Some(waits_for) = replica.forget(&mut unit, place) {
                    process.pass.ask(&waits_for);
                }
            }
            process.pass.end();
        }
        let done = asked(replica, &mut unit, disk);
        if replica.brought_rowless() {
            process.pass.ask(replica.vv());
        }
        (unit, done)
    }

    /// Puts a unit on the disk, and publishes it.
    pub fn seal(&mut self, unit: Unit, now_ms: u64) {
        if unit.is_empty() {
            return;
        }
        let (disk, process) = (&mut self.disk, self.process.as_mut().expect("it runs"));
        process.earlier = (disk.vv.clone(), disk.floor.clone());
        let mut gone = Vec::new();
        for dot in unit.jumped().iter() {
            gone.extend(process.changes.cut(dot.origin));
        }
        let (trimmed, unforgotten) = process.changes.trim(&mut process.replica);
        gone.extend(trimmed);
        gone.iter().for_each(|first| drop(disk.log.remove(first)));
        disk.write_rows(&unit, |_| true).into_iter().for_each(|row| process.changes.push(row));
        process.replica.count(&unit);
        let roster = unit.changes().any(|touch| touch.kind == Kind::Membership);
        process.let_in = if roster { disk.members() } else { BTreeSet::new() };
        for touch in unit.into_changes() {
            let fresh = touch.fresh().map(|version| version.hlc);
            let sane = fresh.filter(|hlc| hlc.ms() <= now_ms + CLOCK_AHEAD_MS_MAX);
            disk.latest = sane.fold(disk.latest, Hlc::max);
            disk.put(touch.kind, touch.key, touch.entry);
        }
        let replica = &process.replica;
        (disk.vv, disk.floor) = (replica.vv().clone(), replica.floor().clone());
        (disk.clock, disk.totals) = (replica.clock(), *replica.totals());
        if unforgotten {
            process.pass.ask(&disk.vv);
        }
        if roster {
            process.follow(&disk.members(), now_ms);
        }
        self.disk.check();
    }

    /// The unit of a write, and which event it is.
    pub fn write(
        &mut self,
        (kind, key): (Kind, &[u8]),
        replaces: Replaces,
        text: Option<Vec<u8>>,
        now_ms: u64,
    ) -> (Unit, Place, Dot) {
        let latest = self.disk.latest;
        let value = text.map(|text| (Value::Inline(text), None));
        let (unit, (place, dot)) = self.make(now_ms, |replica, unit, disk| {
            let Ok(place) = unit.load(kind, key, disk);
            (place, replica.write(unit, place, Write { replaces, value }, now_ms))
        });
        for version in unit.at(place).entry.versions().iter().filter(|version| version.dot == dot) {
            assert!(version.hlc > latest, "a write is stamped before what its node had taken in");
        }
        (unit, place, dot)
    }

    /// What the shipper to `peer` sends now. It may have looked at what was published just before the last commit.
    pub fn mail(&mut self, peer: NodeId, bounds: Bounds, early: bool, now_ms: u64) -> Mail {
        let (disk, process) = (&self.disk, self.process.as_mut().expect("it runs"));
        let said = process.heard.all().remove(&peer).map(|said| said.vv);
        let line = process.lines.get_mut(&peer).expect("a shipper");
        let (vv, floor) = match early {
            true => process.earlier.clone(),
            false => (disk.vv.clone(), disk.floor.clone()),
        };
        let reader = Replica::resume(disk.me, vv, floor, disk.clock, disk.totals);
        if line.courier.piece().is_none() {
            let wants = line.courier.wants(disk.me, reader.vv(), said.as_ref(), now_ms);
            let must_sweep =
                |replica: &Replica| replica.must_sweep(&wants.have, |origin| wants.concerns(origin));
            let rather = reader.rather_sweeps(&wants.have, |origin| wants.origins.contains(&origin), RATHER);
            if must_sweep(&reader) {
                line.courier.begin_sweep(reader.vv().clone());
            } else if rather.is_some() && wants.may_choose {
                line.courier.choose_sweep(reader.vv().clone());
            } else {
                let origins = &wants.origins;
                let Ok(frame) = reader.frame(&wants.have, bounds, |origin| origins.contains(&origin), disk);
                // What it has read may have been forgotten meanwhile.
                if !must_sweep(&disk.replica()) {
                    line.courier.met();
                    return Mail::Frame(frame);
                }
                line.courier.begin_sweep(disk.vv.clone());
            }
        }
        if line.courier.outgrown(process.replica.forgotten(), said.as_ref()) {
            line.courier.refused();
            return self.mail(peer, bounds, early, now_ms);
        }
        let (target, after) = line.courier.piece().expect("begun above, or under way");
        // What is published never goes back.
        let reader = if reader.vv().covers_all(&target) { reader } else { disk.replica() };
        let Ok(piece) = match after.is_none() && line.courier.sweeping() {
            true => Ok(reader.opening(target)),
            false => reader.sweep(target, after, bounds, disk),
        };
        line.courier.sent(&piece);
        Mail::Sweep(piece)
    }

    /// One shipper for each other member, none for anybody else.
    pub fn follow(&mut self) {
        let (me, members) = (self.me(), self.disk.members());
        let lines = &mut self.process().lines;
        lines.retain(|peer, _| members.contains(peer));
        for peer in members.into_iter().filter(|peer| *peer != me) {
            lines.entry(peer).or_insert_with(|| Line { courier: Courier::new(peer), waits: None });
        }
    }

    /// The other members.
    pub fn others(&self) -> BTreeSet<NodeId> {
        let mut members = self.disk.members();
        members.remove(&self.me());
        members
    }

    /// Takes in what has come, and then what a client writes over it, in one commit that is not written yet. What is left of it
    /// for the next one, since of a piece of a sweep no more than `most` dead keys may go at a time, comes back.
    pub fn take(
        &mut self,
        mails: Vec<Mail>,
        most: usize,
        put: Option<&[u8]>,
        now_ms: u64,
    ) -> (Unit, Option<Put>, Vec<Mail>) {
        let (unit, (put, rest)) = self.make(now_ms, |replica, unit, disk| {
            let (mut rest, mut more) = (Vec::new(), None);
            for mail in mails {
                match mail {
                    // What came after it goes before the rest of it.
                    _ if more.is_some() => rest.push(mail),
                    Mail::Frame(frame) => {
                        let Ok(()) = replica.receive(&frame, unit, disk, now_ms);
                    }
                    Mail::Sweep(sweep) => {
                        let Ok(taken) = replica.take_sweep(sweep, most, unit, disk, now_ms);
                        if let Taken::Part(left) = taken {
                            more = Some(Mail::Sweep(left));
                        }
                    }
                }
            }
            rest.extend(more);
            let put = put.map(|key| {
                let Ok(place) = unit.load(Kind::Data, key, disk);
                let replaced = unit.at(place).entry.dots().collect();
                let value = Some((Value::Inline(now_ms.to_be_bytes().to_vec()), None));
                let dot = replica.write(unit, place, Write { replaces: Replaces::All, value }, now_ms);
                Put { key: key.to_vec(), dot, replaced }
            });
            (put, rest)
        });
        (unit, put, rest)
    }
}
