//! Which rows the change log has, and which may go.
//!
//! The log is what peers and watchers go on from: of each origin an unbroken stretch of rows that ends where the version
//! vector stands. It is kept in the order in which it was written, up to a bound; what every member has goes from its old
//! end. Who lacks what is gone is swept (`replica/exchange.rs`), so nothing is lost with it.

use std::collections::VecDeque;

use crate::replica::{Dot, NodeId, Replica};

/// A row, without its events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The event by which it is named.
    pub first: Dot,
    /// The last event that it stands for.
    pub through: u64,
    /// What it takes, about.
    pub bytes: usize,
}

/// What a row takes beside its own bytes: its key, and its place here and in a page.
pub const ROW_OVERHEAD_BYTES: usize = 64;

/// The rows of the log, the oldest first.
#[derive(Debug)]
pub struct Changes {
    rows: VecDeque<Kept>,
    bytes: usize,
    kept_bytes: usize,
}

impl Changes {
    /// None yet; so many bytes of them are kept although every member has them.
    pub fn new(kept_bytes: usize) -> Changes {
        Changes { rows: VecDeque::new(), bytes: 0, kept_bytes }
    }

    /// A row was written.
    pub fn push(&mut self, row: Kept) {
        self.bytes += row.bytes;
        self.rows.push_back(row);
    }

    /// Takes out what is too much and what every member has; the replica's floor rises over it.
    pub fn trim(&mut self, replica: &mut Replica) -> Vec<Dot> {
        let mut gone = Vec::new();
        while self.bytes > self.kept_bytes
            && let Some(row) = self.rows.front()
        {
            let through = Dot::new(row.first.origin, row.through);
            if !replica.stable(through) {
                break;
            }
            replica.trim(through);
            self.bytes -= row.bytes;
            gone.push(row.first);
            self.rows.pop_front();
        }
        gone
    }

    /// Takes out all rows of an origin: what comes next of it does not follow them.
    pub fn cut(&mut self, origin: NodeId) -> Vec<Dot> {
        let of = |row: &&Kept| row.first.origin == origin;
        let gone: Vec<Kept> = self.rows.iter().filter(of).copied().collect();
        self.rows.retain(|row| row.first.origin != origin);
        self.bytes -= gone.iter().map(|row| row.bytes).sum::<usize>();
        gone.into_iter().map(|row| row.first).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::VersionVector;

    fn row(origin: u64, first: u64) -> Kept {
        Kept { first: Dot::new(NodeId(origin), first), through: first + 9, bytes: 1_000 }
    }

    fn replica_with(peer: u64, vv: &[(u64, u64)]) -> Replica {
        let vv: VersionVector = vv.iter().map(|(o, s)| Dot::new(NodeId(*o), *s)).collect();
        let (none, clock, totals) = (VersionVector::new(), Default::default(), Default::default());
        let mut replica = Replica::resume(NodeId(1), vv, none, clock, totals);
        replica.admit(NodeId(peer));
        replica
    }

    #[test]
    fn what_a_member_lacks_stays() {
        let mut replica = replica_with(2, &[(1, 100)]);
        let mut changes = Changes::new(4_000);
        (0..7).for_each(|i| changes.push(row(1, 1 + i * 10)));
        assert_eq!(changes.trim(&mut replica), []);
        replica.acknowledge(NodeId(2), &[Dot::new(NodeId(1), 25)].into_iter().collect());
        assert_eq!(changes.trim(&mut replica), [Dot::new(NodeId(1), 1), Dot::new(NodeId(1), 11)]);
        assert_eq!(replica.floor().get(NodeId(1)), 20);
        replica.acknowledge(NodeId(2), &[Dot::new(NodeId(1), 100)].into_iter().collect());
        assert_eq!(changes.trim(&mut replica), [Dot::new(NodeId(1), 21)], "down to the bound and no further");
    }

    #[test]
    fn an_origin_is_cut_whole() {
        let mut changes = Changes::new(4_000);
        [row(1, 1), row(2, 1), row(1, 11)].into_iter().for_each(|row| changes.push(row));
        assert_eq!(changes.cut(NodeId(1)), [Dot::new(NodeId(1), 1), Dot::new(NodeId(1), 11)]);
        assert_eq!(changes.rows, [row(2, 1)]);
        assert_eq!(changes.bytes, row(2, 1).bytes);
    }
}
