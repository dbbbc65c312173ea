//! Of every key there could be, the last place of the log that spoke of its range: a step function over all keys.

use std::collections::BTreeMap;
use std::ops::Bound;

/// From each of these keys up to the next, this LSN; the first one is the empty key.
#[derive(Debug)]
pub struct Cover(BTreeMap<Vec<u8>, u64>);

impl Default for Cover {
    fn default() -> Cover {
        Cover(BTreeMap::from([(Vec::new(), 0)]))
    }
}

impl Cover {
    /// Everything from `lo` up to `hi`, which is not in it, was spoken of at `lsn`; an empty `hi` is the end of all keys.
    pub fn raise(&mut self, lo: &[u8], hi: &[u8], lsn: u64) {
        if !hi.is_empty() && hi <= lo {
            return;
        }
        self.split(lo);
        if !hi.is_empty() {
            self.split(hi);
        }
        let until = if hi.is_empty() { Bound::Unbounded } else { Bound::Excluded(hi) };
        for (_, last) in self.0.range_mut::<[u8], _>((Bound::Included(lo), until)) {
            *last = lsn.max(*last);
        }
    }

    /// The last LSN at which this key's range was spoken of; 0: never.
    pub fn last(&self, key: &[u8]) -> u64 {
        self.0
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .map_or(0, |(_, lsn)| *lsn)
    }

    /// Everything that `other` says as well.
    pub fn join(&mut self, other: &Cover) {
        let ends = other.0.keys().skip(1).map(Vec::as_slice).chain([&[][..]]);
        for ((lo, lsn), hi) in other.0.iter().zip(ends) {
            self.raise(lo, hi, *lsn);
        }
    }

    fn split(&mut self, key: &[u8]) {
        if !self.0.contains_key(key) {
            self.0.insert(key.to_vec(), self.last(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_all_that_spoke_of_a_key_counts() {
        let mut cover = Cover::default();
        cover.raise(b"", b"", 3);
        cover.raise(b"b", b"d", 7);
        cover.raise(b"c", b"", 5);
        cover.raise(b"x", b"a", 9);
        let last = |key: &[u8]| cover.last(key);
        assert_eq!(
            [last(b""), last(b"a"), last(b"b"), last(b"bz"), last(b"c"), last(b"d"), last(b"z")],
            [3, 3, 7, 7, 7, 5, 5]
        );
    }
}
