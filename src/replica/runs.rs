//! Which processes have spoken for each peer: two at a time are one too many, and the next one may have less than the last.
//!
//! A process never gets back behind what it has said, but what it says may come out of order: a piece of a sweep that was made
//! before an answer which overtook it. So what a member has said counts only against its later processes.
//!
//! Nor does an earlier process that speaks after a later one still run: who stood still finds messages of all of them when it
//! goes on, in any order. But those are few, and read soon; whoever runs goes on to speak.

use std::collections::BTreeMap;

use super::dot::NodeId;
use crate::limits::{RUNS_KEPT, TWIN_MS};

/// The processes of all peers, the one that spoke last of each at the end.
#[derive(Debug, Default)]
pub struct Runs(BTreeMap<NodeId, Vec<Run>>);

#[derive(Debug, Clone, Copy)]
struct Run {
    id: u64,
    /// So many of the peer's own events were known when it was first heard of.
    least: u64,
    /// When it first spoke after another one had.
    back_ms: Option<u64>,
}

impl Runs {
    /// A process speaks for a peer, at this time by a clock that only goes forward. So many of the peer's own events it must
    /// have; `told` says how many are known now, of what it has said too. `None` when it goes on to speak after another one: both
    /// run.
    pub fn hear(&mut self, peer: NodeId, run: u64, now_ms: u64, told: impl FnOnce() -> u64) -> Option<u64> {
        let known = self.0.entry(peer).or_default();
        let last = known.last().filter(|last| last.id == run);
        if let Some(last) = last {
            return Some(last.least);
        }
        // A successor has what its predecessor had to have, whatever was told of it since.
        let inherited = known.last().map_or(0, |last| last.least);
        let mut back = match known.iter().position(|known| known.id == run) {
            Some(at) => known.remove(at),
            None => {
                known.push(Run { id: run, least: told().max(inherited), back_ms: None });
                let more = known.len().saturating_sub(RUNS_KEPT);
                known.drain(..more);
                return known.last().map(|run| run.least);
            }
        };
        let since = back.back_ms.map(|first| now_ms.saturating_sub(first));
        if since.is_none_or(|since| since > TWIN_MS.1) {
            back.back_ms = Some(now_ms);
        }
        known.push(back);
        let twin = since.is_some_and(|since| (TWIN_MS.0..=TWIN_MS.1).contains(&since));
        (!twin).then_some(back.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(7);

    #[test]
    fn what_was_said_counts_against_later_processes_only() {
        let mut runs = Runs::default();
        assert_eq!(runs.hear(PEER, 1, 0, || 10), Some(10));
        assert_eq!(runs.hear(PEER, 1, 0, || 20), Some(10), "a message may have been overtaken by an answer");
        assert_eq!(runs.hear(PEER, 2, 0, || 20), Some(20));
        assert_eq!(runs.hear(PEER, 1, 0, || 20), Some(10), "a late message");
        assert_eq!(runs.hear(PEER, 2, 0, || 30), Some(20));
        assert_eq!(runs.hear(PEER, 3, 0, || 5), Some(20), "what was told of it since does not excuse it");
    }

    #[test]
    fn two_at_a_time_are_found_out() {
        let mut runs = Runs::default();
        let (soon, long) = TWIN_MS;
        let spoken = [(1, 0), (2, 1), (1, 2), (2, 3), (1, soon + 1), (2, soon + 3)];
        let heard = spoken.map(|(run, at)| runs.hear(PEER, run, at, || 0).is_some());
        assert_eq!(heard, [true, true, true, true, true, false]);
        assert!(runs.hear(NodeId(8), 1, 0, || 0).is_some());
        let mut runs = Runs::default();
        let spoken = [(1, 0), (2, 0), (1, 1), (2, 2 + long), (1, 2 + long), (2, 2 + long + soon)];
        let heard = spoken.map(|(run, at)| runs.hear(PEER, run, at, || 0).is_some());
        assert_eq!(heard, [true, true, true, true, true, false], "what was long ago says nothing");
    }

    #[test]
    fn late_messages_are_no_twin() {
        let mut runs = Runs::default();
        // The one that runs is the third: whoever stood still reads what all have sent, in any order.
        let late = [3, 1, 3, 2, 3, 1, 3, 2, 1, 3].map(|run| runs.hear(PEER, run, 5, || 0).is_some());
        assert_eq!(late, [true; 10]);
        assert!(runs.hear(PEER, 3, 5 + TWIN_MS.0, || 0).is_some());
    }
}
