//! Of which keys something newer may have stood in a bad place.
//!
//! A message that does not hold still says of which page it was, mostly: then only keys in the range of that page are in doubt.
//! Everything else is anybody's. What is newer than a bad place is beyond doubt, and so is all that the counts of a later
//! commit prove.

use super::cover::Cover;
use super::gather::{Gather, Holds};
use super::structure::Shape;
use crate::storage::sledlog::{BadPlace, Reach};

/// Up to which LSN there may have been something newer of each key.
#[derive(Default)]
pub struct Doubt {
    all: u64,
    ranges: Cover,
    any: bool,
    /// Up to here anything may have been lost: also that a page was given back, and is another one now.
    blind: u64,
}

impl Doubt {
    /// What these bad places leave open; nothing was lost that is not newer than `proven`.
    pub fn of(found: &Gather, bad: &[BadPlace], shape: &Shape, proven: u64) -> Doubt {
        let mut doubt = Doubt::default();
        let anything = bad.iter().filter(|place| place.reach == Reach::All);
        doubt.blind = anything.map(|place| place.through.unwrap_or(u64::MAX)).max().unwrap_or(0);
        for place in bad {
            let through = place.through.unwrap_or(u64::MAX);
            if through > proven {
                doubt.reach(found, shape, place.reach, through);
            }
        }
        if proven > 0 {
            return doubt;
        }
        for (page, lsn) in &shape.removals {
            doubt.reach(found, shape, Reach::Page(*page), *lsn);
        }
        // A page that is given back has gone into its neighbour, which lists what was in it, if it is not lost.
        for (_, leaf) in found.freed.iter().filter(|_| !bad.is_empty()) {
            doubt.range(&leaf.lo, &leaf.hi, leaf.last.saturating_add(1));
        }
        doubt
    }

    fn reach(&mut self, found: &Gather, shape: &Shape, reach: Reach, through: u64) {
        let page = match reach {
            Reach::Nothing => return,
            Reach::All => {
                self.any = true;
                self.all = self.all.max(through);
                return;
            }
            Reach::Page(page) => page,
        };
        let leaf = found.leaves.get(&page);
        if leaf.is_some_and(|leaf| leaf.lsn < self.blind && self.blind < through) {
            self.any = true;
            self.all = self.all.max(through);
            return;
        }
        let holds = leaf.and_then(|leaf| leaf.holds).or_else(|| shape.trees.get(&page).copied());
        let no_keys = matches!(holds, Some(Holds::Chunks | Holds::Pieces | Holds::Expiry | Holds::Changes));
        if no_keys || (leaf.is_none() && found.inner.contains_key(&page)) {
            return;
        }
        let mut known = false;
        if let Some(leaf) = leaf {
            self.range(&leaf.lo, &leaf.hi, through);
            known = true;
        }
        for inner in found.inner.values() {
            for (at, (lo, child)) in inner.children.iter().enumerate() {
                if *child == page {
                    let hi = inner.children.get(at + 1).map_or(&inner.hi, |(next, _)| next);
                    self.range(lo, hi, through);
                    known = true;
                }
            }
        }
        if !known {
            self.all = self.all.max(through);
        }
        self.any = true;
    }

    fn range(&mut self, lo: &[u8], hi: &[u8], through: u64) {
        self.any = true;
        self.ranges.raise(lo, hi, through);
    }

    /// What was lost may have been anything.
    pub fn everything(&mut self) {
        self.any = true;
        self.all = u64::MAX;
    }

    /// Was nothing lost?
    pub fn is_none(&self) -> bool {
        !self.any
    }

    /// May there have been something of this key that is newer than this?
    pub fn of_key(&self, key: &[u8], lsn: u64) -> bool {
        lsn < self.all.max(self.ranges.last(key))
    }
}
