//! Ways of writing one commit of the node's shape into sled, compared: one row of the change log with all keys, for each
//! write its entry, then the summary and the removal of the oldest row; then one flush. Three ways write exactly that,
//! so that only the way differs. The fourth has a row of the log a write instead, and removes those that it supersedes.

use std::collections::VecDeque;

use sled::transaction::{ConflictableTransactionError, Transactional};
use sled::{Batch, Db, Tree};

use crate::shared::Failure;
use crate::shared::request::{Random, key_text};

/// How the rows of a commit get into sled.
#[derive(Clone, Copy)]
pub enum Way {
    PlainInserts,
    BatchATree,
    Transaction,
    RowAWrite,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::PlainInserts, Way::BatchATree, Way::Transaction, Way::RowAWrite];

    pub fn title(self) -> &'static str {
        match self {
            Way::PlainInserts => "sled, commits of 64 writes over three trees: plain inserts",
            Way::BatchATree => "the same: a batch a tree",
            Way::Transaction => "the same: one transaction over the trees",
            Way::RowAWrite => "plain inserts with a row of the log a write instead",
        }
    }
}

/// A store with the trees that a commit of the node touches.
pub struct Store {
    db: Db,
    entries: Tree,
    changes: Tree,
    meta: Tree,
    /// Which write is the newest of each key; 0 for none.
    newest: Vec<u64>,
    /// Rows of the log, where it has a row a commit.
    rows: VecDeque<u64>,
    sequence: u64,
    random: Random,
}

/// How many rows of a commit the log keeps: about 1 MiB.
const ROWS_KEPT: usize = 1_000;

/// One write.
struct Write {
    key: String,
    entry: Vec<u8>,
    sequence: u64,
    superseded: u64,
}

/// A commit with a row for all of its writes.
struct Commit {
    writes: Vec<Write>,
    row: (u64, Vec<u8>),
    oldest: Option<u64>,
    summary: [u8; 64],
}

impl Store {
    pub fn new(db: Db, keys: u64) -> Result<Store, Failure> {
        let [entries, changes, meta] = ["data", "changes", "meta"].map(|name| db.open_tree(name));
        let newest = vec![0; usize::try_from(keys)?];
        let (entries, changes, meta) = (entries?, changes?, meta?);
        Ok(Store {
            db,
            entries,
            changes,
            meta,
            newest,
            rows: VecDeque::new(),
            sequence: 0,
            random: Random::new(1),
        })
    }

    /// Writes one commit of `size` writes; durable when it returns, if sled's flush is.
    pub fn commit(&mut self, way: Way, size: usize, value: &[u8]) -> Result<(), Failure> {
        let writes: Vec<Write> = (0..size).map(|_| self.next(value)).collect();
        match way {
            Way::RowAWrite => self.insert_rows(&writes)?,
            _ => {
                let commit = self.with_a_row(writes);
                match way {
                    Way::BatchATree => self.batch(&commit)?,
                    Way::Transaction => self.transact(&commit)?,
                    _ => self.insert(&commit)?,
                }
            }
        }
        self.db.flush()?;
        Ok(())
    }

    fn next(&mut self, value: &[u8]) -> Write {
        let key = self.random.below(self.newest.len() as u64);
        self.sequence += 1;
        let superseded = std::mem::replace(&mut self.newest[key as usize], self.sequence);
        let entry = [self.sequence.to_be_bytes().as_slice(), value].concat();
        Write { key: key_text(key), entry, sequence: self.sequence, superseded }
    }

    fn with_a_row(&mut self, writes: Vec<Write>) -> Commit {
        let first = writes[0].sequence;
        let row = writes
            .iter()
            .flat_map(|write| [write.key.as_bytes(), &write.superseded.to_be_bytes()[4..]].concat());
        let row = (first, row.collect());
        self.rows.push_back(first);
        let oldest = if self.rows.len() > ROWS_KEPT { self.rows.pop_front() } else { None };
        let mut summary = [0; 64];
        summary[..8].copy_from_slice(&self.sequence.to_be_bytes());
        Commit { writes, row, oldest, summary }
    }

    fn insert(&self, commit: &Commit) -> Result<(), Failure> {
        self.changes.insert(commit.row.0.to_be_bytes(), commit.row.1.as_slice())?;
        for write in &commit.writes {
            self.entries.insert(write.key.as_bytes(), write.entry.as_slice())?;
        }
        self.meta.insert("summary", commit.summary.as_slice())?;
        if let Some(oldest) = commit.oldest {
            self.changes.remove(oldest.to_be_bytes())?;
        }
        Ok(())
    }

    fn batch(&self, commit: &Commit) -> Result<(), Failure> {
        let (mut entries, mut changes) = (Batch::default(), Batch::default());
        changes.insert(&commit.row.0.to_be_bytes(), commit.row.1.as_slice());
        for write in &commit.writes {
            entries.insert(write.key.as_bytes(), write.entry.as_slice());
        }
        if let Some(oldest) = commit.oldest {
            changes.remove(&oldest.to_be_bytes());
        }
        self.changes.apply_batch(changes)?;
        self.entries.apply_batch(entries)?;
        self.meta.insert("summary", commit.summary.as_slice())?;
        Ok(())
    }

    fn transact(&self, commit: &Commit) -> Result<(), Failure> {
        let done = (&self.entries, &self.changes, &self.meta).transaction(|(entries, changes, meta)| {
            changes.insert(&commit.row.0.to_be_bytes(), commit.row.1.as_slice())?;
            for write in &commit.writes {
                entries.insert(write.key.as_bytes(), write.entry.as_slice())?;
            }
            meta.insert("summary", commit.summary.as_slice())?;
            if let Some(oldest) = commit.oldest {
                changes.remove(&oldest.to_be_bytes())?;
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        done.map_err(|e| format!("transaction: {e:?}").into())
    }

    fn insert_rows(&self, writes: &[Write]) -> Result<(), Failure> {
        for write in writes {
            self.changes.insert(write.sequence.to_be_bytes(), write.key.as_bytes())?;
            self.entries.insert(write.key.as_bytes(), write.entry.as_slice())?;
            if write.superseded != 0 {
                self.changes.remove(write.superseded.to_be_bytes())?;
            }
        }
        self.meta.insert("summary", &self.sequence.to_be_bytes())?;
        Ok(())
    }
}
