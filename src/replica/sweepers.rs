//! Whose turn it is to send a node everything: one sweep at a time, since several would bring the same.
//!
//! Pure like the rest of this room (`now_ms` is any clock that never goes back). It is lost with the process: then all ask anew.

use super::dot::NodeId;
use crate::limits::PEER_ANSWER_MS;

/// Who sweeps, and who waits for it.
#[derive(Clone, Debug, Default)]
pub struct Sweepers {
    holder: Option<Holder>,
    /// Who was last told that it is not its turn, and when.
    waits: Option<(NodeId, u64)>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
struct Holder {
    id: NodeId,
    /// When some of its sweep last came, or it was given the turn.
    since_ms: u64,
    /// Has it begun? Who is given the turn begins with its next word.
    begun: bool,
}

impl Sweepers {
    /// May this piece of a sweep be taken? `opens` says that it is the first, `ends` that it is the last. Who begins anew, since
    /// it did not get on, lets another one try that has asked meanwhile.
    pub fn takes(&mut self, from: NodeId, (opens, ends): (bool, bool), now_ms: u64) -> bool {
        let fresh = |since_ms: u64| now_ms.saturating_sub(since_ms) < PEER_ANSWER_MS;
        let holder = self.holder.filter(|holder| fresh(holder.since_ms));
        if holder.is_some_and(|holder| holder.id != from) {
            self.waits = Some((from, now_ms));
            return false;
        }
        let anew = opens && holder.is_some_and(|holder| holder.begun);
        let waits = self.waits.take_if(|(id, since)| *id == from || !fresh(*since) || anew);
        let next = waits.filter(|(id, since)| *id != from && fresh(*since));
        self.holder = match next {
            Some((id, _)) => Some(Holder { id, since_ms: now_ms, begun: false }),
            None => (!ends).then_some(Holder { id: from, since_ms: now_ms, begun: true }),
        };
        next.is_none()
    }

    /// Some of a message has come: over a thin line a piece takes its time.
    pub fn comes(&mut self, from: NodeId, now_ms: u64) {
        if let Some(holder) = self.holder.as_mut().filter(|holder| holder.id == from) {
            holder.since_ms = now_ms;
        }
    }

    /// It sends something else, and has given its sweep up.
    pub fn gives_up(&mut self, from: NodeId) {
        self.holder.take_if(|holder| holder.id == from);
    }

    /// Whose sweep is under way, and when some of it last came.
    pub fn holder(&self) -> Option<(NodeId, u64)> {
        self.holder.filter(|holder| holder.begun).map(|holder| (holder.id, holder.since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const OPENS: (bool, bool) = (true, false);
    const GOES_ON: (bool, bool) = (false, false);
    const ENDS: (bool, bool) = (false, true);

    #[test]
    fn one_at_a_time_until_it_ends_falls_silent_or_does_something_else() {
        let mut sweepers = Sweepers::default();
        assert!(sweepers.takes(ONE, OPENS, 0) && !sweepers.takes(TWO, OPENS, 1));
        assert!(sweepers.takes(ONE, ENDS, 2) && sweepers.takes(TWO, OPENS, 3), "it has ended");
        assert!(!sweepers.takes(ONE, OPENS, 2 + PEER_ANSWER_MS));
        sweepers.comes(TWO, 2 + PEER_ANSWER_MS);
        assert!(!sweepers.takes(ONE, OPENS, 3 + PEER_ANSWER_MS), "some of it came");
        assert!(sweepers.takes(ONE, OPENS, 2 + 2 * PEER_ANSWER_MS), "it is silent");
        sweepers.gives_up(TWO);
        assert!(!sweepers.takes(TWO, OPENS, 3 + 2 * PEER_ANSWER_MS), "another one's turn it can't give up");
        sweepers.gives_up(ONE);
        assert!(sweepers.takes(TWO, OPENS, 4 + 2 * PEER_ANSWER_MS));
    }

    #[test]
    fn who_begins_anew_lets_another_one_try() {
        let mut sweepers = Sweepers::default();
        assert!(
            sweepers.takes(ONE, OPENS, 0)
                && !sweepers.takes(TWO, OPENS, 1)
                && sweepers.takes(ONE, GOES_ON, 2)
        );
        assert!(!sweepers.takes(ONE, OPENS, 3), "the other one has asked");
        assert!(!sweepers.takes(ONE, OPENS, 4));
        assert!(sweepers.takes(TWO, OPENS, 5), "it was given the turn, whoever asked meanwhile");
        assert!(!sweepers.takes(TWO, OPENS, 6) && sweepers.takes(ONE, OPENS, 7));
    }

    #[test]
    fn who_asked_long_ago_does_not_wait_any_more() {
        let mut sweepers = Sweepers::default();
        assert!(sweepers.takes(ONE, OPENS, 0) && !sweepers.takes(TWO, OPENS, 1));
        sweepers.comes(ONE, PEER_ANSWER_MS);
        assert!(sweepers.takes(ONE, OPENS, 2 + PEER_ANSWER_MS), "nobody sweeps while it is silent");
    }
}
