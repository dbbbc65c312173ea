//! What a shipper remembers of its member from one message to the next, and what follows from it.
//!
//! Pure like the rest of this room: it sends nothing and reads no clock (`now_ms` is any clock that never goes back). The
//! shipper (`network/shipper.rs`) and the simulation (`tests/sim/`) carry out what it decides.

use std::collections::{BTreeMap, BTreeSet};

use super::dot::NodeId;
use super::frame::{Bound, Sweep};
use super::vector::VersionVector;
use crate::limits::{RELAY_AFTER_MS, SWEEP_RATHER_EVENTS};

/// What is known of one member's progress.
#[derive(Clone, Debug)]
pub struct Courier {
    peer: NodeId,
    /// What the member has said that it has; `None` until it has answered.
    have: Option<VersionVector>,
    /// Where a sweep of it stands: what it has at the end, and the last key that was sent.
    sweep: Option<(VersionVector, Bound)>,
    /// Where it stood before the piece that is not answered yet.
    unanswered: Option<(VersionVector, Bound)>,
    /// Where a comparison stands: the last key that was shown.
    comparing: Option<Bound>,
    /// Was the last message a piece of a comparison? Then it is the turn of events.
    showed: bool,
    lacks: Lacks,
    /// Has it been seen to have all that we had forgotten then?
    met: bool,
    /// Was it swept, or about to be, only because that takes less than the events? Not again before it lacked few.
    chosen: bool,
}

/// What a member is to be sent next.
#[derive(Clone, Debug)]
pub struct Wants {
    /// What it has.
    pub have: VersionVector,
    /// Of whose events the next frame tells.
    pub origins: BTreeSet<NodeId>,
    /// Who is met for the first time may hold what has been forgotten, of any origin.
    pub first: bool,
    /// It may be swept although the log has what it lacks.
    pub may_choose: bool,
}

impl Wants {
    /// Must the member be swept if it lacks what has been forgotten of this origin? One that is known has all of it but what
    /// is on its way to it from there.
    pub fn concerns(&self, origin: NodeId) -> bool {
        self.first || self.origins.contains(&origin)
    }
}

/// What an answer tells, beside what the member has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// It has less than it had said before it was asked: it was set back.
    pub fell_back: bool,
    /// It has got further, or is on its way: asking again at once is not in vain.
    pub progress: bool,
}

impl Courier {
    /// Nothing is known of this member yet.
    pub fn new(peer: NodeId) -> Courier {
        Courier {
            peer,
            have: None,
            sweep: None,
            unanswered: None,
            comparing: None,
            showed: false,
            lacks: Lacks::default(),
            met: false,
            chosen: false,
        }
    }

    /// From where, and of which origins, the next frame tells. `me` has published `vv`, and the member has `said` something
    /// by its own messages.
    pub fn wants(
        &mut self,
        me: NodeId,
        vv: &VersionVector,
        said: Option<&VersionVector>,
        now_ms: u64,
    ) -> Wants {
        // Who has not answered yet is asked, with a frame that holds nothing.
        let mut have = self.have.clone().unwrap_or_else(|| vv.clone());
        // It may have told more by its own messages: what all have told is forgotten, and must not look like a lack.
        if let Some(said) = said {
            have.join(said);
        }
        let mut origins = self.lacks.relayed(vv, &have, [me, self.peer], now_ms);
        origins.insert(me);
        let lacks = vv.beyond(&have, |origin| origins.contains(&origin));
        self.chosen &= self.have.is_none() || lacks >= SWEEP_RATHER_EVENTS.0 / 2;
        Wants { have, origins, first: !self.met, may_choose: self.met && !self.chosen }
    }

    /// The member needs no sweep: a frame is on its way.
    pub fn met(&mut self) {
        self.met = self.have.is_some();
        self.showed = false;
    }

    /// The member lacks more than the log has: from now on it is sent everything up to `target`.
    pub fn begin_sweep(&mut self, target: VersionVector) {
        (self.sweep, self.unanswered) = (Some((target, None)), None);
    }

    /// The same, although the log has what the member lacks. Under load it lacks much again when the sweep is over, and whoever
    /// was cut off would never get to its end: so it gets events then.
    pub fn choose_sweep(&mut self, target: VersionVector) {
        self.chosen = true;
        self.begin_sweep(target);
    }

    /// The member has incorporated the same and holds something else: it is shown everything, between the events.
    pub fn begin_comparison(&mut self) {
        self.comparing = Some(None);
    }

    /// Is a comparison under way?
    pub fn comparing(&self) -> bool {
        self.comparing.is_some()
    }

    /// Is a sweep under way?
    pub fn sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// The piece to send now, if it is not the turn of events: its target, and after which key it begins. While a sweep is
    /// under way there are no events; a comparison holds none up.
    pub fn piece(&self) -> Option<(VersionVector, Bound)> {
        let shown = || self.comparing.clone().filter(|_| !self.showed);
        self.sweep.clone().or_else(|| Some((VersionVector::new(), shown()?)))
    }

    /// Is the sweep of no use any more, after all that was `forgotten` here? The member was silent for so long that forgetting
    /// did not wait for it. Then pieces no longer tell what some events up to the target took the place of: a version that the
    /// target does not cover could come to the member from elsewhere, beside what had replaced it. It has also `said` something.
    pub fn outgrown(&self, forgotten: &VersionVector, said: Option<&VersionVector>) -> bool {
        let Some((target, _)) = &self.sweep else { return false };
        let has = |dot| [self.have.as_ref(), said].into_iter().flatten().any(|vv| vv.covers(dot));
        !forgotten.iter().all(|dot| target.covers(dot) || has(dot))
    }

    /// This piece is on its way; the next one follows it.
    pub fn sent(&mut self, piece: &Sweep) {
        let through = piece.through.clone().map(Some);
        match piece.compares() {
            true => (self.comparing, self.showed) = (through, true),
            false => {
                self.unanswered = Some((piece.target.clone(), piece.after.clone()));
                self.sweep = through.map(|through| (piece.target.clone(), through));
            }
        }
    }

    /// The member has answered; `said` is what it had said before it was asked.
    pub fn answered(&mut self, vv: &VersionVector, said: &VersionVector) -> Told {
        let fell_back = !vv.covers_all(said);
        self.unanswered = None;
        if fell_back {
            self.sweep = None;
            self.met = false;
        }
        let progress = self.sweep.is_some() || self.comparing.is_some() || self.have.as_ref() != Some(vv);
        self.have = Some(vv.clone());
        Told { fell_back, progress }
    }

    /// No answer has come. It may be another process by now, with less: it is asked anew. A sweep goes on with the same piece, or
    /// else a line that breaks now and then would never carry all of a large one: the member says when it can't. One that has not
    /// begun may be needed no more.
    pub fn failed(&mut self) {
        let sweep = self.unanswered.take().or(self.sweep.take()).filter(|(_, after)| after.is_some());
        self.refused();
        self.sweep = sweep;
    }

    /// The member has not taken it, or a sweep is of no use any more: it is asked anew, and a sweep begins anew.
    pub fn refused(&mut self) {
        self.have = None;
        (self.sweep, self.unanswered) = (None, None);
        self.comparing = None;
        self.met = false;
    }

    /// Does the member lack something of `vv` at all?
    pub fn behind(&self, vv: &VersionVector) -> bool {
        !self.have.as_ref().is_some_and(|have| have.covers_all(vv))
    }

    /// Does the member lack something that it is our affair to send now?
    pub fn lagging(&self, me: NodeId, vv: &VersionVector) -> bool {
        let have = self.have.clone().unwrap_or_default();
        self.sweep.is_some()
            || self.comparing.is_some()
            || have.get(me) < vv.get(me)
            || self.lacks.relays(&have)
    }
}

/// What a member lacks of other origins, and since when.
#[derive(Clone, Debug, Default)]
struct Lacks {
    /// By origin: what the member had of it, and when that was first seen.
    since: BTreeMap<NodeId, (u64, u64)>,
    /// Origins whose events we send, until the member has this much of them.
    goals: BTreeMap<NodeId, u64>,
}

impl Lacks {
    /// The origins whose events we send now.
    fn relayed(
        &mut self,
        vv: &VersionVector,
        have: &VersionVector,
        not: [NodeId; 2],
        now_ms: u64,
    ) -> BTreeSet<NodeId> {
        self.goals.retain(|origin, goal| have.get(*origin) < *goal);
        self.since.retain(|origin, (had, _)| have.get(*origin) == *had && *had < vv.get(*origin));
        for dot in vv.iter().filter(|dot| !not.contains(&dot.origin) && !have.covers(*dot)) {
            let (_, since) = self.since.entry(dot.origin).or_insert((have.get(dot.origin), now_ms));
            if now_ms.saturating_sub(*since) >= RELAY_AFTER_MS {
                self.goals.insert(dot.origin, dot.seq);
            }
        }
        self.goals.keys().copied().collect()
    }

    /// Is there more of them to send?
    fn relays(&self, have: &VersionVector) -> bool {
        self.goals.iter().any(|(origin, goal)| have.get(*origin) < *goal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{Dot, Kind};

    const ME: NodeId = NodeId(1);

    fn mine(seq: u64) -> VersionVector {
        [Dot::new(ME, seq)].into_iter().collect()
    }

    #[test]
    fn a_sweep_is_chosen_once_until_the_member_has_caught_up() {
        let least = SWEEP_RATHER_EVENTS.0;
        let mut courier = Courier::new(NodeId(2));
        let may = |courier: &mut Courier, ours: u64| courier.wants(ME, &mine(ours), None, 0).may_choose;
        let answers = |courier: &mut Courier, has: u64| {
            courier.answered(&mine(has), &mine(has));
        };
        assert!(!may(&mut courier, 10 * least), "nobody knows what it lacks");
        answers(&mut courier, 1);
        assert!(!may(&mut courier, 10 * least), "it is met for the first time");
        courier.met();
        assert!(may(&mut courier, 10 * least));
        courier.choose_sweep(mine(10 * least));
        answers(&mut courier, 10 * least);
        assert!(!may(&mut courier, 12 * least), "it lacks much again when the sweep is over");
        courier.failed();
        answers(&mut courier, 10 * least);
        courier.met();
        assert!(!may(&mut courier, 12 * least), "nor after the line was cut");
        answers(&mut courier, 12 * least);
        assert!(may(&mut courier, 12 * least), "it has caught up");
    }

    #[test]
    fn a_sweep_goes_on_with_the_piece_that_was_not_answered() {
        let piece = |after: Bound, through: Bound| {
            let (vv, target) = (mine(9), mine(9));
            Sweep { sender: ME, target, vv, after, through, entries: Vec::new() }
        };
        let place = |key: &[u8]| Some((Kind::Data, key.to_vec()));
        let mut courier = Courier::new(NodeId(2));
        courier.begin_sweep(mine(9));
        courier.sent(&piece(None, place(b"")));
        courier.failed();
        assert!(courier.piece().is_none(), "another one may have sent it everything meanwhile");
        courier.begin_sweep(mine(9));
        courier.sent(&piece(None, place(b"")));
        courier.answered(&mine(1), &mine(1));
        for through in [place(b"k"), None] {
            courier.sent(&piece(place(b""), through));
            courier.failed();
            assert_eq!(courier.piece(), Some((mine(9), place(b""))), "the last one as well");
            courier.failed();
            assert!(courier.sweeping(), "it was not even sent");
        }
        courier.sent(&piece(place(b""), place(b"k")));
        courier.refused();
        assert!(courier.piece().is_none());
    }
}
