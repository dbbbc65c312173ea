//! Three ways of writing one commit of the node's shape into sled, compared: for each write its entry, its row in the
//! change log and the removal of the row it supersedes, and once a commit the version vector; then one flush.
//!
//! Every way writes exactly the same, so that only the way differs.

use sled::transaction::{ConflictableTransactionError, Transactional};
use sled::{Batch, Db, Tree};

use crate::Failure;
use crate::request::{Random, key_text};

/// How the rows of a commit get into sled.
#[derive(Clone, Copy)]
pub enum Way {
    PlainInserts,
    BatchATree,
    Transaction,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::PlainInserts, Way::BatchATree, Way::Transaction];

    pub fn title(self) -> &'static str {
        match self {
            Way::PlainInserts => "sled, commits of 64 writes over three trees: plain inserts",
            Way::BatchATree => "the same: a batch a tree",
            Way::Transaction => "the same: one transaction over the trees",
        }
    }
}

/// A store with the trees that a commit of the node touches.
pub struct Store {
    db: Db,
    entries: Tree,
    changes: Tree,
    meta: Tree,
    /// Which row of the log is the newest of each key; 0 for none.
    newest: Vec<u64>,
    sequence: u64,
    random: Random,
}

/// One write: what goes in, and the row that goes out.
struct Write {
    key: String,
    entry: Vec<u8>,
    row: u64,
    superseded: u64,
}

impl Store {
    pub fn new(db: Db, keys: u64) -> Result<Store, Failure> {
        let [entries, changes, meta] = ["data", "changes", "meta"].map(|name| db.open_tree(name));
        let newest = vec![0; usize::try_from(keys)?];
        let (entries, changes, meta) = (entries?, changes?, meta?);
        Ok(Store { db, entries, changes, meta, newest, sequence: 0, random: Random::new(1) })
    }

    /// Writes one commit of `size` writes; durable when it returns, if sled's flush is.
    pub fn commit(&mut self, way: Way, size: usize, value: &[u8]) -> Result<(), Failure> {
        let writes: Vec<Write> = (0..size).map(|_| self.next(value)).collect();
        let vector = self.sequence.to_be_bytes();
        match way {
            Way::PlainInserts => self.insert(&writes, &vector)?,
            Way::BatchATree => self.batch(&writes, &vector)?,
            Way::Transaction => self.transact(&writes, &vector)?,
        }
        self.db.flush()?;
        Ok(())
    }

    fn next(&mut self, value: &[u8]) -> Write {
        let key = self.random.below(self.newest.len() as u64);
        self.sequence += 1;
        let superseded = std::mem::replace(&mut self.newest[key as usize], self.sequence);
        let entry = [self.sequence.to_be_bytes().as_slice(), value].concat();
        Write { key: key_text(key), entry, row: self.sequence, superseded }
    }

    fn insert(&self, writes: &[Write], vector: &[u8]) -> Result<(), Failure> {
        for write in writes {
            self.changes.insert(write.row.to_be_bytes(), write.key.as_bytes())?;
            self.entries.insert(write.key.as_bytes(), write.entry.as_slice())?;
            if write.superseded != 0 {
                self.changes.remove(write.superseded.to_be_bytes())?;
            }
        }
        self.meta.insert("vector", vector)?;
        Ok(())
    }

    fn batch(&self, writes: &[Write], vector: &[u8]) -> Result<(), Failure> {
        let (mut entries, mut changes) = (Batch::default(), Batch::default());
        for write in writes {
            changes.insert(&write.row.to_be_bytes(), write.key.as_bytes());
            entries.insert(write.key.as_bytes(), write.entry.as_slice());
            if write.superseded != 0 {
                changes.remove(&write.superseded.to_be_bytes());
            }
        }
        self.changes.apply_batch(changes)?;
        self.entries.apply_batch(entries)?;
        self.meta.insert("vector", vector)?;
        Ok(())
    }

    fn transact(&self, writes: &[Write], vector: &[u8]) -> Result<(), Failure> {
        let done = (&self.entries, &self.changes, &self.meta).transaction(|(entries, changes, meta)| {
            for write in writes {
                changes.insert(&write.row.to_be_bytes(), write.key.as_bytes())?;
                entries.insert(write.key.as_bytes(), write.entry.as_slice())?;
                if write.superseded != 0 {
                    changes.remove(&write.superseded.to_be_bytes())?;
                }
            }
            meta.insert("vector", vector)?;
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        done.map_err(|e| format!("transaction: {e:?}").into())
    }
}
