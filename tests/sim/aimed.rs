//! Schedules that aim at what takes several things at the right moment, which chance alone rarely brings together: sweeps that
//! are cut off, overtaken or begun anew, and members that come back with less while somebody waits for them.

use dynarust::limits::FRAME_BYTES_MAX;
use dynarust::replica::{Bounds, Kind, NodeId, Replaces};

use crate::network::Letter;
use crate::node::{FORGET_AFTER_MS, Node};
use crate::world::{ALL, World};

impl World {
    /// A member may be swept or shown everything at any time, not only when it needs that.
    pub fn shows_all(&mut self, at: usize, to: NodeId) {
        let vv = self.machines[at].disk.vv.clone();
        let compares = self.random.chance(30);
        let courier = self.courier(at, to);
        if compares {
            courier.begin_comparison();
        } else if !courier.sweeping() && !vv.is_empty() {
            courier.begin_sweep(vv);
            self.counts.sweeps += 1;
        }
    }

    /// One that is in the middle of a sweep comes back with less.
    pub fn restore_sweeper(&mut self) {
        let sweeps = |node: &Node| {
            let lines = node.process.iter().flat_map(|process| process.lines.values());
            node.backup.is_some() && lines.into_iter().any(|line| line.courier.sweeping())
        };
        let sweepers: Vec<usize> =
            (0..self.machines.len()).filter(|at| sweeps(&self.machines[*at])).collect();
        if !sweepers.is_empty() {
            let at = *self.random.pick(&sweepers);
            self.restore(at);
            self.comes_up(at);
        }
    }

    /// One node deletes what another wrote, and tells a third so by a sweep that does not come to its end, or not before the
    /// third has heard of the write.
    pub fn cuts_a_sweep_off(&mut self) {
        let Some([writer, sweeper, swept]) = self.any_that_serve() else { return };
        let (first, last) = (self.keys[0].clone(), self.keys[self.keys.len() - 1].clone());
        if !self.writes(writer, &first, true) {
            return;
        }
        self.tells(writer, sweeper, 4, 100);
        if self.random.chance(50) {
            self.tells(writer, swept, 4, 100);
        }
        self.machines[sweeper].backup = Some(self.machines[sweeper].disk.clone());
        let deleted = if self.random.chance(50) { &first } else { &last };
        let pieces = 1 + self.random.below(3);
        if !self.writes(sweeper, deleted, false) || !self.begins_to_sweep(sweeper, swept, pieces) {
            return;
        }
        match self.random.below(4) {
            // It is overtaken.
            0 => {
                self.tells(writer, swept, 4, 100);
                self.tells(sweeper, swept, 10, 1);
            }
            // The sweeper does not remember what it told, and does something else under the same names.
            1 => {
                self.restore(sweeper);
                self.comes_up(sweeper);
                let id = self.machines[swept].me();
                if self.machines[sweeper].serves && self.writes(sweeper, &first, true) {
                    if self.random.chance(50)
                        && let Some(line) = self.machines[sweeper].process().lines.get_mut(&id)
                    {
                        line.courier.begin_comparison();
                    }
                    self.tells(sweeper, swept, 3, 1);
                }
            }
            // Nobody ever tells the rest.
            2 => self.wipe(sweeper),
            _ => self.crash(sweeper),
        }
    }

    /// A member is silent for so long that forgetting goes on without it, and is swept then; on the way to it is still a write
    /// that all the others have forgotten.
    pub fn sweeps_past_what_comes_late(&mut self) {
        let Some([writer, sweeper, swept]) = self.any_that_serve() else { return };
        let key = self.keys[0].clone();
        self.tells(writer, swept, 2, 100);
        if !self.writes(writer, &key, true) {
            return;
        }
        let late = self.says(writer, swept, ALL);
        self.tells(writer, sweeper, 4, 100);
        self.now_ms += FORGET_AFTER_MS + 1;
        let pieces = 1 + self.random.below(3);
        if !self.writes(sweeper, &key, false)
            || !self.all_forget_but(swept, sweeper)
            || !self.begins_to_sweep(sweeper, swept, pieces)
        {
            return;
        }
        if self.random.chance(20) {
            // It does not remember that it was swept that far.
            self.crash(swept);
            self.comes_up(swept);
        }
        self.arrives(late);
        self.tells(sweeper, swept, 20, 1);
    }

    /// The same, but it is silent while it is swept, after a piece that does not tell of the delete; and who sweeps it knows
    /// what it deletes only ahead of its vector.
    pub fn forgets_while_it_sweeps(&mut self) {
        let Some([writer, sweeper, swept]) = self.any_that_serve() else { return };
        let key = self.keys[self.keys.len() - 1].clone();
        self.tells(writer, sweeper, 4, 100);
        self.tells(writer, swept, 2, 100);
        if !self.writes(writer, &key, true) || !self.writes(writer, &key, true) {
            return;
        }
        let late = self.says(writer, swept, ALL);
        self.tells(writer, sweeper, 1, 1);
        if !self.writes(sweeper, &key, false) || !self.begins_to_sweep(sweeper, swept, 1) {
            return;
        }
        self.now_ms += FORGET_AFTER_MS + 1;
        self.tells(writer, sweeper, 4, 100);
        if self.all_forget_but(swept, sweeper) {
            self.tells(sweeper, swept, 20, 1);
            self.arrives(late);
        }
    }

    /// A member has said that it has a delete, and is set back to before it. Who deleted hears so before the last of the others
    /// has it.
    pub fn sets_back_who_had_it(&mut self) {
        let Some([deleter, back, _]) = self.any_that_serve() else { return };
        let key = self.random.pick(&self.keys).clone();
        if !self.writes(deleter, &key, true) {
            return;
        }
        self.tells(deleter, back, 4, 100);
        self.tells(back, deleter, 4, 100);
        self.machines[back].backup = Some(self.machines[back].disk.clone());
        if !self.writes(deleter, &key, false) {
            return;
        }
        self.tells(deleter, back, 4, 100);
        if self.machines[deleter].serves {
            self.tick(deleter);
        }
        self.restore(back);
        self.comes_up(back);
        self.tells(deleter, back, 1, 1);
        self.all_forget_but(back, deleter);
    }

    /// Three that serve, and know who is a member now.
    fn any_that_serve(&mut self) -> Option<[usize; 3]> {
        let mut serving = self.serving();
        if serving.len() < 3 {
            return None;
        }
        let some = [(); 3].map(|()| serving.swap_remove(self.random.below(serving.len() as u64) as usize));
        some.into_iter().for_each(|at| self.keep(at));
        Some(some)
    }

    /// All but one hear what a node has, and say what they have. So it lets go of what nobody needs to remember. Does it serve
    /// still?
    fn all_forget_but(&mut self, silent: usize, at: usize) -> bool {
        for other in self.serving().into_iter().filter(|other| *other != silent) {
            self.tells(at, other, 4, 100);
        }
        if self.machines[at].serves {
            self.tick(at);
        }
        self.machines[at].serves
    }

    /// From now on a node sweeps another, whatever that lacks, and has sent so many keys, one by one. `false` when it can't.
    fn begins_to_sweep(&mut self, from: usize, to: usize, pieces: u64) -> bool {
        let id = self.machines[to].me();
        let vv = self.machines[from].disk.vv.clone();
        if !self.machines[from].serves || !self.machines[from].process().lines.contains_key(&id) {
            return false;
        }
        self.gives_up(from, id);
        self.courier(from, id).begin_sweep(vv);
        self.counts.sweeps += 1;
        // The first piece holds nothing.
        self.tells(from, to, 1 + pieces, 1);
        true
    }

    /// A client's write; `false` when the power goes first, or the node takes none any more.
    fn writes(&mut self, at: usize, key: &[u8], lives: bool) -> bool {
        let text = lives.then(|| self.now(at).to_be_bytes().to_vec());
        self.machines[at].serves
            && self.machines[at].process().leaving.is_none()
            && self.write(at, (Kind::Data, key), Replaces::All, text)
    }

    /// The connection breaks, if anything is under way on it.
    pub fn gives_up(&mut self, from: usize, to: NodeId) {
        if let Some(line) = self.machines[from].process().lines.get_mut(&to)
            && line.waits.take().is_some()
        {
            line.courier.failed();
        }
    }

    /// What a node would say to another now: it is on its way, and comes when it is let.
    pub fn says(&mut self, from: usize, to: usize, bounds: Bounds) -> Option<Letter> {
        if from == to || !self.machines[from].serves || self.network.is_cut(from, to) {
            return None;
        }
        let (id, number) = (self.machines[to].me(), self.letters);
        self.gives_up(from, id);
        self.ship(from, id, bounds, false);
        (self.letters > number).then(|| self.network.take_newest()).flatten()
    }

    /// It comes, and is answered.
    fn arrives(&mut self, letter: Option<Letter>) {
        let Some(letter) = letter else { return };
        for answer in self.exchange(letter.to, vec![letter], false) {
            self.hear(answer);
        }
    }

    /// Messages and their answers, at once, as long as they get through.
    fn tells(&mut self, from: usize, to: usize, messages: u64, count: u64) {
        for _ in 0..messages {
            if self.network.is_cut(to, from) || !self.machines[to].serves {
                return;
            }
            let letter = self.says(from, to, Bounds { count, bytes: FRAME_BYTES_MAX });
            self.arrives(letter);
        }
    }
}
