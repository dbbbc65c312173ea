//! Sweeps that are cut off, overtaken, or begun anew: what can go wrong in one takes several things at the right moment, which
//! chance alone rarely brings together.

use dynarust::limits::FRAME_BYTES_MAX;
use dynarust::replica::{Bounds, Kind, NodeId, Replaces};

use crate::node::Node;
use crate::world::World;

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
        let mut serving = self.serving();
        if serving.len() < 3 {
            return;
        }
        let mut one = || serving.swap_remove(self.random.below(serving.len() as u64) as usize);
        let (writer, sweeper, swept) = (one(), one(), one());
        for at in [writer, sweeper, swept] {
            self.keep(at);
        }
        let ids = [writer, sweeper, swept].map(|at| self.machines[at].me());
        let (first, last) = (self.keys[0].clone(), self.keys[self.keys.len() - 1].clone());
        if !self.writes(writer, &first, true) {
            return;
        }
        self.tells(writer, ids[1], 4, 100);
        if self.random.chance(50) {
            self.tells(writer, ids[2], 4, 100);
        }
        self.machines[sweeper].backup = Some(self.machines[sweeper].disk.clone());
        let deleted = if self.random.chance(50) { &first } else { &last };
        if !self.writes(sweeper, deleted, false)
            || !self.machines[sweeper].process().lines.contains_key(&ids[2])
        {
            return;
        }
        let vv = self.machines[sweeper].disk.vv.clone();
        self.gives_up(sweeper, ids[2]);
        self.courier(sweeper, ids[2]).begin_sweep(vv);
        self.counts.sweeps += 1;
        let pieces = 1 + self.random.below(3);
        self.tells(sweeper, ids[2], pieces, 1);
        match self.random.below(4) {
            // It is overtaken.
            0 => {
                self.tells(writer, ids[2], 4, 100);
                self.tells(sweeper, ids[2], 10, 1);
            }
            // The sweeper does not remember what it told, and does something else under the same names.
            1 => {
                self.restore(sweeper);
                self.comes_up(sweeper);
                if self.machines[sweeper].serves && self.writes(sweeper, &first, true) {
                    if self.random.chance(50)
                        && let Some(line) = self.machines[sweeper].process().lines.get_mut(&ids[2])
                    {
                        line.courier.begin_comparison();
                    }
                    self.tells(sweeper, ids[2], 3, 1);
                }
            }
            // Nobody ever tells the rest.
            2 => self.wipe(sweeper),
            _ => self.crash(sweeper),
        }
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

    /// Messages and their answers, at once, as long as they get through.
    fn tells(&mut self, from: usize, to: NodeId, messages: u64, count: u64) {
        let home = self.homes[&to];
        for _ in 0..messages {
            let cut = self.network.is_cut(from, home) || self.network.is_cut(home, from);
            if cut || !self.machines[from].serves || !self.machines[home].serves {
                return;
            }
            self.gives_up(from, to);
            let number = self.letters;
            self.ship(from, to, Bounds { count, bytes: FRAME_BYTES_MAX }, false);
            let letter = (self.letters > number).then(|| self.network.take_newest()).flatten();
            for answer in self.exchange(home, letter.into_iter().collect(), false) {
                self.hear(answer);
            }
        }
    }
}
