//! The network of the simulation: it loses, repeats, reorders, delays, and cuts lines, in one direction too.

use std::collections::BTreeSet;

use dynarust::replica::{NodeId, VersionVector};

use crate::node::Mail;
use crate::random::Random;

/// What is under way, from machine to machine.
#[derive(Clone)]
pub struct Letter {
    pub from: usize,
    pub to: usize,
    /// Names a question; its answer has the same.
    pub number: u64,
    /// The process that wrote it.
    pub run: u64,
    pub body: Body,
}

#[derive(Clone)]
pub enum Body {
    /// For the node of this name.
    Ask(NodeId, Mail),
    /// The node of this name has this on its disk.
    Have(NodeId, VersionVector),
    /// It was not taken.
    Refused(Refusal),
}

/// Why not, as far as it matters here (`network/wire.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Stranger,
    RolledBack(u64),
    /// Another node answers there, or it is no member of the cluster, or it can't now.
    Other,
}

#[derive(Default)]
pub struct Network {
    wire: Vec<Letter>,
    /// Lines on which nothing comes through.
    cuts: BTreeSet<(usize, usize)>,
}

impl Network {
    pub fn post(&mut self, letter: Letter) {
        self.wire.push(letter);
    }

    /// The next letter that arrives, if one does: any of those under way.
    pub fn arrive(&mut self, random: &mut Random) -> Option<Letter> {
        if self.wire.is_empty() {
            return None;
        }
        let at = random.below(self.wire.len() as u64) as usize;
        let fate = random.below(100);
        if self.is_cut(self.wire[at].from, self.wire[at].to) {
            // It is lost, or waits until the line is there again.
            if fate < 50 {
                self.wire.remove(at);
            }
            return None;
        }
        let letter = match fate {
            0..85 => self.wire.remove(at),
            // It arrives again later.
            _ => self.wire[at].clone(),
        };
        (fate >= 8).then_some(letter)
    }

    /// Another question for the same machine that is there by now.
    pub fn arrives_too(&mut self, to: usize) -> Option<Letter> {
        let here = |letter: &Letter| letter.to == to && !self.cuts.contains(&(letter.from, to));
        let at = self.wire.iter().position(|letter| here(letter) && matches!(letter.body, Body::Ask(..)))?;
        Some(self.wire.remove(at))
    }

    /// The letter that was posted last, and nothing else: in times of peace each is answered before the next.
    pub fn take_last(&mut self) -> Option<Letter> {
        let last = self.wire.pop();
        self.wire.clear();
        last
    }

    /// The letter that was posted last.
    pub fn take_newest(&mut self) -> Option<Letter> {
        self.wire.pop()
    }

    /// Nothing of what this machine has said or was told is under way any more.
    pub fn hush(&mut self, machine: usize) {
        self.wire.retain(|letter| letter.from != machine && letter.to != machine);
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Two groups that can't talk; with `one_way` only the first can't reach the second.
    pub fn part(&mut self, left: &[usize], right: &[usize], one_way: bool) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.cuts.insert((a, b));
            if !one_way {
                self.cuts.insert((b, a));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Does anything under way tell of this origin beyond `seq`?
    pub fn tells_beyond(&self, origin: NodeId, seq: u64) -> bool {
        self.wire.iter().any(|letter| match &letter.body {
            Body::Ask(_, mail) => {
                let entries = match mail {
                    Mail::Frame(frame) => &frame.entries,
                    Mail::Sweep(sweep) => &sweep.entries,
                };
                mail.vv().get(origin) > seq || entries.iter().any(|(.., e)| e.context().get(origin) > seq)
            }
            Body::Have(_, vv) => vv.get(origin) > seq,
            Body::Refused(_) => false,
        })
    }
}
