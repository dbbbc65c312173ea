//! Which rows the change log has, which may go, and whose keys have something left to forget.
//!
//! The log is what peers and watchers go on from: of each origin an unbroken stretch of rows that ends where the version
//! vector stands. It is kept in the order in which it was written, up to a bound; what every member has goes from its old
//! end, and over a second bound also what one of them lacks. Who lacks what is gone is swept (`replica/exchange.rs`), so
//! nothing is lost with it.

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
    /// Has one of its keys something to forget, once every member has the row?
    pub leftover: bool,
}

impl Kept {
    fn last(&self) -> Dot {
        Dot::new(self.first.origin, self.through)
    }
}

/// What a row takes beside its own bytes: its key, and its place here and in a page.
pub const ROW_OVERHEAD_BYTES: usize = 64;

/// The rows of the log, the oldest first.
#[derive(Debug)]
pub struct Changes {
    rows: VecDeque<Kept>,
    /// So many of them, from the oldest, have been forgotten as far as can be.
    forgotten: usize,
    bytes: usize,
    kept_bytes: usize,
    held_bytes: usize,
}

impl Changes {
    /// None yet; `kept_bytes` of them are kept although every member has them, and `held_bytes` for one who has not.
    pub fn new(kept_bytes: usize, held_bytes: usize) -> Changes {
        Changes { rows: VecDeque::new(), forgotten: 0, bytes: 0, kept_bytes, held_bytes }
    }

    /// A row was written.
    pub fn push(&mut self, row: Kept) {
        self.bytes += row.bytes;
        self.rows.push_back(row);
    }

    /// The next row that every member has and in whose keys there may be something to forget.
    pub fn ripe(&mut self, replica: &Replica) -> Option<Kept> {
        let row = self.next_ripe(replica)?;
        self.forgotten += 1;
        Some(row)
    }

    /// Is there one?
    pub fn any_ripe(&mut self, replica: &Replica) -> bool {
        self.next_ripe(replica).is_some()
    }

    /// The same, which it stays; those before it are done with.
    fn next_ripe(&mut self, replica: &Replica) -> Option<Kept> {
        while let Some(row) = self.rows.get(self.forgotten).copied()
            && replica.stable(row.last())
        {
            if row.leftover {
                return Some(row);
            }
            self.forgotten += 1;
        }
        None
    }

    /// Is there work that waits for a member to say that it has something?
    pub fn waits(&self) -> bool {
        self.forgotten < self.rows.len()
    }

    /// Takes out what is too much, and either every member has it or it is far too much; the replica's floor rises over
    /// it. `true` when something went in whose keys there may be something left to forget.
    pub fn trim(&mut self, replica: &mut Replica) -> (Vec<Dot>, bool) {
        let (mut gone, mut unforgotten) = (Vec::new(), false);
        while self.bytes > self.kept_bytes
            && let Some(row) = self.rows.front().copied()
        {
            let done = self.forgotten > 0 && replica.stable(row.last());
            if !done && self.bytes <= self.held_bytes {
                break;
            }
            unforgotten |= self.forgotten == 0 && row.leftover;
            self.forgotten = self.forgotten.saturating_sub(1);
            replica.trim(row.last());
            self.bytes -= row.bytes;
            gone.push(row.first);
            self.rows.pop_front();
        }
        (gone, unforgotten)
    }

    /// Takes out all rows of an origin: what comes next of it does not follow them.
    pub fn cut(&mut self, origin: NodeId) -> Vec<Dot> {
        let of = |row: &&Kept| row.first.origin == origin;
        let gone: Vec<Kept> = self.rows.iter().filter(of).copied().collect();
        self.forgotten -= self.rows.iter().take(self.forgotten).filter(of).count();
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
        Kept { first: Dot::new(NodeId(origin), first), through: first + 9, bytes: 1_000, leftover: true }
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
        let mut changes = Changes::new(4_000, 7_000);
        (0..7).for_each(|i| changes.push(row(1, 1 + i * 10)));
        let none = (Vec::new(), false);
        assert_eq!(changes.trim(&mut replica), none);
        replica.acknowledge(NodeId(2), &[Dot::new(NodeId(1), 25)].into_iter().collect());
        assert_eq!(changes.trim(&mut replica), none, "not before forgetting has been there");
        let ripe: Vec<Kept> = std::iter::from_fn(|| changes.ripe(&replica)).collect();
        assert_eq!(ripe, [row(1, 1), row(1, 11)]);
        let gone = vec![Dot::new(NodeId(1), 1), Dot::new(NodeId(1), 11)];
        assert_eq!(changes.trim(&mut replica), (gone, false));
        assert_eq!(replica.floor().get(NodeId(1)), 20);
        replica.acknowledge(NodeId(2), &[Dot::new(NodeId(1), 100)].into_iter().collect());
        assert_eq!(std::iter::from_fn(|| changes.ripe(&replica)).count(), 5);
        assert!(!changes.waits());
        let gone = vec![Dot::new(NodeId(1), 21)];
        assert_eq!(changes.trim(&mut replica), (gone, false), "down to the bound and no further");
    }

    #[test]
    fn far_too_much_goes_whoever_lacks_it() {
        let mut replica = replica_with(2, &[(1, 100)]);
        let mut changes = Changes::new(2_000, 4_000);
        (0..6).for_each(|i| changes.push(row(1, 1 + i * 10)));
        let gone = vec![Dot::new(NodeId(1), 1), Dot::new(NodeId(1), 11)];
        assert_eq!(changes.trim(&mut replica), (gone, true));
        assert_eq!(replica.floor().get(NodeId(1)), 20);
    }

    #[test]
    fn an_origin_is_cut_whole() {
        let mut changes = Changes::new(4_000, 4_000);
        [row(1, 1), row(2, 1), row(1, 11)].into_iter().for_each(|row| changes.push(row));
        assert_eq!(changes.cut(NodeId(1)), [Dot::new(NodeId(1), 1), Dot::new(NodeId(1), 11)]);
        assert_eq!(changes.rows, [row(2, 1)]);
        assert_eq!(changes.bytes, row(2, 1).bytes);
    }
}
