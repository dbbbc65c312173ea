//! The last that the log says of each key of a tree, and where its value is.

use std::collections::HashMap;

use super::cover::Cover;

/// Where a value's bytes are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub at: u64,
    pub bytes: u32,
}

/// What a key was said to have.
#[derive(Clone, Copy)]
pub struct Stated {
    /// When, at the earliest,
    pub lsn: u64,
    /// and at the latest.
    pub until: u64,
    /// Is its place in the log known for sure?
    pub placed: bool,
    pub place: Place,
}

impl Stated {
    /// It came after what was written there.
    pub fn moved_to(&mut self, lsn: u64) {
        self.lsn = self.lsn.max(lsn);
        self.until = self.until.max(lsn);
    }
}

/// The last that is known of each key of a tree.
#[derive(Default)]
pub struct Tree {
    stated: HashMap<Vec<u8>, Stated>,
    gone: HashMap<Vec<u8>, u64>,
    cover: Cover,
}

impl Tree {
    /// At this place of the log the key has this value.
    pub fn state(&mut self, key: &[u8], lsn: u64, place: Place) {
        self.put(key, Stated { lsn, until: lsn, placed: true, place });
    }

    /// The same of a place that may not be sure.
    pub fn put(&mut self, key: &[u8], stated: Stated) {
        match self.stated.get_mut(key) {
            Some(newest) => {
                if newest.lsn <= stated.lsn {
                    *newest = stated;
                }
            }
            None => drop(self.stated.insert(key.to_vec(), stated)),
        }
    }

    /// At this place of the log the key goes.
    pub fn remove(&mut self, key: Vec<u8>, lsn: u64) {
        let last = self.gone.entry(key).or_default();
        *last = lsn.max(*last);
    }

    /// At this place of the log all keys of a range were listed.
    pub fn list(&mut self, lo: &[u8], hi: &[u8], lsn: u64) {
        self.cover.raise(lo, hi, lsn);
    }

    /// When the key was last said not to be there, if it was not there.
    pub fn absent(&self, key: &[u8]) -> u64 {
        self.gone.get(key).copied().unwrap_or(0).max(self.cover.last(key))
    }

    /// The newest value of the key and its LSN, unless it went after that.
    pub fn newest(&self, key: &[u8]) -> Option<(u64, Place)> {
        let stated = self.stated.get(key).filter(|stated| stated.lsn >= self.absent(key))?;
        Some((stated.lsn, stated.place))
    }

    /// The value that the key has unless it went before: nobody knows which of the two came first.
    pub fn doubtful(&self, key: &[u8]) -> Option<(u64, Place)> {
        let absent = self.absent(key);
        let stated = self.stated.get(key).filter(|stated| stated.lsn < absent && absent < stated.until)?;
        Some((stated.lsn, stated.place))
    }

    /// Takes in what was said of keys that turn out to be this tree's.
    pub fn absorb(&mut self, other: Tree) {
        for (key, stated) in other.stated {
            self.put(&key, stated);
        }
        for (key, lsn) in other.gone {
            self.remove(key, lsn);
        }
        self.cover.join(&other.cover);
    }

    /// What the key was last said to have, gone or not.
    pub fn last_stated(&mut self, key: &[u8]) -> Option<&mut Stated> {
        self.stated.get_mut(key)
    }

    /// Every value that was found: its key, when it was written, and where it is.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], u64, Place)> {
        self.stated.iter().map(|(key, stated)| (key.as_slice(), stated.lsn, stated.place))
    }

    /// Every key of which a value was found, its newest one there or not.
    pub fn names(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.stated.keys()
    }
}
