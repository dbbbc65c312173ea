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
    /// How many of its pieces are being taken in: one may take many commits.
    pieces: u32,
}

/// Is that so little ago that more may come?
fn fresh(since_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(since_ms) < PEER_ANSWER_MS
}

impl Holder {
    /// Is it at it, and not silent?
    fn sweeps(&self, now_ms: u64) -> bool {
        self.pieces > 0 || fresh(self.since_ms, now_ms)
    }
}

impl Sweepers {
    /// May a piece of a sweep be taken, the first if it `opens` one? Then [`Sweepers::taken`] must follow. Who begins anew, since
    /// it did not get on, lets another one try that has asked meanwhile.
    pub fn takes(&mut self, from: NodeId, opens: bool, now_ms: u64) -> bool {
        let fresh = |since_ms| fresh(since_ms, now_ms);
        let holder = self.holder.filter(|holder| holder.sweeps(now_ms));
        if holder.is_some_and(|holder| holder.id != from) {
            self.waits = Some((from, now_ms));
            return false;
        }
        let anew = opens && holder.is_some_and(|holder| holder.begun);
        let waits = self.waits.take_if(|(id, since)| *id == from || !fresh(*since) || anew);
        let next = waits.filter(|(id, since)| *id != from && fresh(*since));
        let pieces = holder.map_or(0, |holder| holder.pieces) + 1;
        self.holder = Some(match next {
            Some((id, _)) => Holder { id, since_ms: now_ms, begun: false, pieces: 0 },
            None => Holder { id: from, since_ms: now_ms, begun: true, pieces },
        });
        next.is_none()
    }

    /// A piece is in, or was refused. Its sweep is over if it `ends` that: not before, or another one would begin between the
    /// commits that take the last piece in, which must then be sent again.
    pub fn taken(&mut self, from: NodeId, ends: bool, now_ms: u64) {
        let Some(holder) = self.holder.as_mut().filter(|holder| holder.id == from) else { return };
        holder.pieces = holder.pieces.saturating_sub(1);
        holder.since_ms = now_ms;
        if ends && holder.pieces == 0 {
            self.holder = None;
        }
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

    /// Is a sweep under way, and not silent?
    pub fn sweeps(&self, now_ms: u64) -> bool {
        self.holder.is_some_and(|holder| holder.sweeps(now_ms))
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
    const OPENS: bool = true;
    const GOES_ON: bool = false;

    impl Sweepers {
        /// A piece that is not the last comes, and is in at once.
        fn goes(&mut self, from: NodeId, opens: bool, now_ms: u64) -> bool {
            let takes = self.takes(from, opens, now_ms);
            if takes {
                self.taken(from, false, now_ms);
            }
            takes
        }
    }

    #[test]
    fn one_at_a_time_until_it_ends_falls_silent_or_does_something_else() {
        let mut sweepers = Sweepers::default();
        assert!(sweepers.goes(ONE, OPENS, 0) && !sweepers.goes(TWO, OPENS, 1));
        assert!(sweepers.takes(ONE, GOES_ON, 2), "the last piece");
        assert!(!sweepers.goes(TWO, OPENS, 3 + PEER_ANSWER_MS), "it is not in yet");
        sweepers.taken(ONE, true, 4 + PEER_ANSWER_MS);
        let ended = 5 + PEER_ANSWER_MS;
        assert!(!sweepers.sweeps(ended) && sweepers.goes(TWO, OPENS, ended), "it has ended");
        assert!(!sweepers.goes(ONE, OPENS, ended - 1 + PEER_ANSWER_MS));
        sweepers.comes(TWO, ended - 1 + PEER_ANSWER_MS);
        assert!(!sweepers.goes(ONE, OPENS, ended + PEER_ANSWER_MS), "some of it came");
        assert!(sweepers.goes(ONE, OPENS, ended - 1 + 2 * PEER_ANSWER_MS), "it is silent");
        let now = ended + 2 * PEER_ANSWER_MS;
        sweepers.gives_up(TWO);
        assert!(!sweepers.goes(TWO, OPENS, now), "another one's turn it can't give up");
        sweepers.gives_up(ONE);
        assert!(sweepers.goes(TWO, OPENS, now + 1));
        assert!(sweepers.sweeps(now + 2) && !sweepers.sweeps(now + 1 + PEER_ANSWER_MS));
    }

    #[test]
    fn who_begins_anew_lets_another_one_try() {
        let mut sweepers = Sweepers::default();
        assert!(
            sweepers.goes(ONE, OPENS, 0) && !sweepers.goes(TWO, OPENS, 1) && sweepers.goes(ONE, GOES_ON, 2)
        );
        assert!(!sweepers.goes(ONE, OPENS, 3), "the other one has asked");
        assert!(!sweepers.goes(ONE, OPENS, 4));
        assert!(sweepers.goes(TWO, OPENS, 5), "it was given the turn, whoever asked meanwhile");
        assert!(!sweepers.goes(TWO, OPENS, 6) && sweepers.goes(ONE, OPENS, 7));
    }

    #[test]
    fn who_asked_long_ago_does_not_wait_any_more() {
        let mut sweepers = Sweepers::default();
        assert!(sweepers.goes(ONE, OPENS, 0) && !sweepers.goes(TWO, OPENS, 1));
        sweepers.comes(ONE, PEER_ANSWER_MS);
        assert!(sweepers.goes(ONE, OPENS, 2 + PEER_ANSWER_MS), "nobody sweeps while it is silent");
    }
}
