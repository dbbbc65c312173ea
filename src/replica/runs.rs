//! Which processes have spoken for each peer: two at a time are one too many, and the next one may have less than the last.
//!
//! A process never gets back behind what it has said, but what it says may come out of order: a piece of a sweep that was made
//! before an answer which overtook it. So what a member has said counts only against its later processes.

use std::collections::BTreeMap;

use super::dot::NodeId;
use crate::limits::RUNS_KEPT;

/// The processes of all peers, the newest of each last.
#[derive(Debug, Default)]
pub struct Runs(BTreeMap<NodeId, Vec<Run>>);

#[derive(Debug, Clone, Copy)]
struct Run {
    id: u64,
    /// So many of the peer's own events were known when it was first heard of.
    least: u64,
}

impl Runs {
    /// A process speaks for a peer. So many of the peer's own events it must have; `told` says how many are known now, of what
    /// it has said too. `None` when it comes back behind its successor: both run.
    pub fn hear(&mut self, peer: NodeId, run: u64, told: impl FnOnce() -> u64) -> Option<u64> {
        let known = self.0.entry(peer).or_default();
        let last = known.last().filter(|last| last.id == run);
        if let Some(last) = last {
            return Some(last.least);
        }
        let before = known.iter().filter(|known| known.id == run);
        // Once may be a message of its own that was late.
        if before.clone().count() > 1 {
            return None;
        }
        // A successor has what its predecessor had to have, whatever was told of it since.
        let inherited = known.last().map_or(0, |last| last.least);
        let least = before.map(|known| known.least).next().unwrap_or_else(|| told().max(inherited));
        known.push(Run { id: run, least });
        let more = known.len().saturating_sub(RUNS_KEPT);
        known.drain(..more);
        Some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(7);

    #[test]
    fn what_was_said_counts_against_later_processes_only() {
        let mut runs = Runs::default();
        assert_eq!(runs.hear(PEER, 1, || 10), Some(10));
        assert_eq!(runs.hear(PEER, 1, || 20), Some(10), "a message may have been overtaken by an answer");
        assert_eq!(runs.hear(PEER, 2, || 20), Some(20));
        assert_eq!(runs.hear(PEER, 1, || 20), Some(10), "a late message");
        assert_eq!(runs.hear(PEER, 2, || 30), Some(20));
        assert_eq!(runs.hear(PEER, 3, || 5), Some(20), "what was told of it since does not excuse it");
    }

    #[test]
    fn two_at_a_time_are_found_out() {
        let mut runs = Runs::default();
        let heard = [1, 2, 1, 2, 1].map(|run| runs.hear(PEER, run, || 0).is_some());
        assert_eq!(heard, [true, true, true, true, false]);
        assert!(runs.hear(NodeId(8), 1, || 0).is_some());
    }
}
