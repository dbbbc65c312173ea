//! Says when clocks are far apart. Nothing is decided by it: a write that has seen another one wins whatever the clocks say; but
//! of writes that did not see each other the later stamp wins, and what expires goes by the reader's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use log::Level;

use super::House;
use crate::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_OFF_WORDS, CLOCK_TOLD_MS};
use crate::replica::NodeId;

/// What was seen and said of clocks.
#[derive(Default)]
pub(super) struct Clocks {
    seen: BTreeMap<NodeId, Seen>,
    /// Whose clock was said to be off, this node's own by its id.
    said: BTreeSet<NodeId>,
    /// Versions from the far future that were told of, and when that was.
    told: (u64, Option<Instant>),
}

/// A member's clock.
#[derive(Default, Clone, Copy)]
struct Seen {
    /// When word of it came last, in ms since 1970.
    at_ms: Option<u64>,
    /// How far it was ahead then, in ms.
    skew_ms: i64,
    /// How often in a row it was far off.
    off: u32,
}

impl Clocks {
    /// Looks at the clocks of the other members, and at what came from the future.
    pub(super) fn look(&mut self, house: &House, others: &[NodeId]) {
        let mut said = self.judge(house.store.me(), house.peers.words(others));
        said.extend(self.ahead(house.store.published().far_future, Instant::now()));
        for (level, text) in said {
            log::log!(level, "{text}");
        }
    }

    /// What is to be said, by when word of each member came last and how far its clock was ahead then.
    fn judge(&mut self, me: NodeId, words: Vec<(NodeId, Option<u64>, i64)>) -> Vec<(Level, String)> {
        self.seen.retain(|id, _| words.iter().any(|(of, ..)| of == id));
        for &(id, at_ms, skew_ms) in &words {
            let seen = self.seen.entry(id).or_default();
            if at_ms.is_some() && at_ms != seen.at_ms {
                // Word that was long under way looks like a clock that is behind: once proves nothing.
                let off = if skew_ms.unsigned_abs() > CLOCK_AHEAD_MS_MAX { seen.off + 1 } else { 0 };
                *seen = Seen { at_ms, skew_ms, off };
            }
        }
        let off: Vec<(NodeId, i64)> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.off >= CLOCK_OFF_WORDS)
            .map(|(id, seen)| (*id, seen.skew_ms))
            .collect();
        // When most are off to one side it is this one that is; of two nobody can tell which.
        let ahead = off.iter().filter(|(_, skew)| *skew > 0).count();
        let own = words.len() > 1 && ahead.max(off.len() - ahead) * 2 > words.len();
        let mut say = Vec::new();
        let why = "of writes that did not see each other the one with the later clock wins, and what expires goes by the clock";
        for (id, skew_ms) in &off {
            if own && self.said.insert(me) {
                let apart = apart(-skew_ms, "most members'");
                say.push((Level::Warn, format!("this node's clock is {apart}: set it right; {why}")));
            } else if !own && self.said.insert(*id) {
                let apart = apart(*skew_ms, "this node's");
                say.push((
                    Level::Warn,
                    format!("the clock of member {id} is {apart}: set the wrong one right; {why}"),
                ));
            }
        }
        let right = |id: &NodeId| match *id == me {
            true => off.is_empty(),
            false => self.seen.get(id).is_none_or(|seen| seen.off == 0),
        };
        let mended: Vec<NodeId> = self.said.iter().filter(|id| right(id)).copied().collect();
        for id in mended {
            self.said.remove(&id);
            let whose =
                if id == me { "this node's clock".into() } else { format!("the clock of member {id}") };
            say.push((Level::Info, format!("{whose} is right again, or it is no member any more")));
        }
        say
    }

    /// Tells of writes whose stamp lies in the far future, at most so often. So many came in since the node started.
    fn ahead(&mut self, versions: u64, now: Instant) -> Option<(Level, String)> {
        let (before, at) = self.told;
        let pause = Duration::from_millis(CLOCK_TOLD_MS);
        if versions <= before || at.is_some_and(|at| now.duration_since(at) < pause) {
            return None;
        }
        self.told = (versions, Some(now));
        let more = versions - before;
        let text = format!(
            "{more} version{} came in from clocks over {} s ahead of this node's: writes here that have not seen them lose \
             against them; clock_skew_ms in /membership shows whose clock that is",
            if more == 1 { "" } else { "s" },
            CLOCK_AHEAD_MS_MAX / 1_000
        );
        Some((Level::Warn, text))
    }
}

fn apart(skew_ms: i64, whose: &str) -> String {
    let seconds = skew_ms.unsigned_abs() / 1_000;
    format!("{seconds} s {} {whose}", if skew_ms > 0 { "ahead of" } else { "behind" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(9);

    /// Word of members 1, 2, … in each round, and what was said in all.
    fn said(rounds: &[&[i64]]) -> Vec<String> {
        let mut clocks = Clocks::default();
        let mut said = Vec::new();
        for (round, skews) in (1..).zip(rounds) {
            let words = (1..).zip(*skews).map(|(id, skew)| (NodeId(id), Some(round), skew * 1_000)).collect();
            said.extend(clocks.judge(ME, words).into_iter().map(|(_, text)| text));
        }
        said
    }

    #[test]
    fn a_clock_that_is_off_is_named_once_and_when_it_is_right_again() {
        let off: &[i64] = &[300, 1, -2];
        let told = said(&[off, off, off, off, off, &[0, 1, -2]]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains(&format!("member {} is 300 s ahead of", NodeId(1))), "{told:?}");
        assert!(told[1].contains("right again"), "{told:?}");
    }

    #[test]
    fn the_one_that_most_differ_from_is_the_wrong_one() {
        let told = said(&[&[-90, -91, 0]; 4].map(|round: &[i64; 3]| round.as_slice()));
        assert!(told.len() == 1 && told[0].contains("this node's clock is 90 s ahead of most"), "{told:?}");
        // Of two it can't be told.
        let told = said(&[&[-90]; 4].map(|round: &[i64; 1]| round.as_slice()));
        assert!(told.len() == 1 && told[0].contains("is 90 s behind this node's"), "{told:?}");
    }

    #[test]
    fn a_message_that_was_long_under_way_is_no_clock() {
        assert_eq!(said(&[&[0, 0], &[-100, 0], &[-100, 0], &[0, 0], &[-100, 0]]), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_heard_again_is_judged_once() {
        let mut clocks = Clocks::default();
        for _ in 0..10 {
            assert!(clocks.judge(ME, vec![(NodeId(1), Some(1), 99_000), (NodeId(2), None, 0)]).is_empty());
        }
    }

    #[test]
    fn writes_from_the_future_are_told_of_now_and_then() {
        let (mut clocks, now) = (Clocks::default(), Instant::now());
        assert!(clocks.ahead(0, now).is_none());
        assert!(clocks.ahead(3, now).is_some_and(|(_, text)| text.starts_with("3 versions")));
        assert!(clocks.ahead(5, now).is_none());
        let later = now + Duration::from_millis(CLOCK_TOLD_MS);
        assert!(clocks.ahead(5, later).is_some_and(|(_, text)| text.starts_with("2 versions")));
        assert!(clocks.ahead(5, later + Duration::from_millis(CLOCK_TOLD_MS)).is_none());
    }
}
