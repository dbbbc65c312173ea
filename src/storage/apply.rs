//! Writes one unit into the trees, in an order in which every prefix can be repaired, and puts it on the disk.
//!
//! 1. *rows* of the log: what the unit touches, and what lived there before;
//! 2. *pieces, index rows and the entry*, key by key;
//! 3. *the summary*: vectors, clock, counts, digest; with it the unit is there;
//! 4. flush: now it is on the disk; the witness is told (`progress.rs`), and those who wait are answered;
//! 5. *garbage*: pieces and index rows of what was put aside, rows that the log no longer needs. It goes to the disk with the
//!    next unit; until then recovery knows it from the rows.
//!
//! Only the committer's thread gets here. Nothing is decided here: see `draft.rs` and `replica/`.

use super::Shared;
use super::changes::{Changes, Kept, ROW_OVERHEAD_BYTES};
use super::codec::{self, REPAIR, Summary};
use super::error::Error;
use super::progress::Progress;
use super::trees::{Trees, change_key, expiry_key, meta};
use crate::replica::{Dot, Held, Kind, Replica, Touch, Unit, Value, VersionVector};

/// What units are written with.
pub struct Applier {
    trees: Trees,
    changes: Changes,
    progress: Progress,
    /// The number of the last repair row.
    repairs: u64,
    garbage: Garbage,
    /// Did rows leave the log whose keys may have something left to forget?
    unforgotten: bool,
}

/// What to drop once the summary stands.
#[derive(Default)]
struct Garbage {
    rows: Vec<Dot>,
    pieces: Vec<Dot>,
    index: Vec<Vec<u8>>,
}

impl Applier {
    /// Over an open store with these rows in its log.
    pub fn new(trees: Trees, changes: Changes, progress: Progress, repairs: u64) -> Applier {
        Applier { trees, changes, progress, repairs, garbage: Garbage::default(), unforgotten: false }
    }

    /// The rows of the log.
    pub fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// Have rows left the log, since the last question, whose keys may have something left to forget?
    pub fn unforgotten(&mut self) -> bool {
        std::mem::take(&mut self.unforgotten)
    }

    /// Puts a complete unit on the disk; [`Applier::settle`] must follow before the next. `before` is the replica's vector
    /// from before the unit; every key is marked in the watermark with the number of the commit before it changes, and stands
    /// among the recent ones after that, as do the rows, while there is anybody to send them to.
    pub fn apply(
        &mut self,
        unit: Unit,
        replica: &mut Replica,
        before: VersionVector,
        shared: &Shared,
        commit: u64,
    ) -> Result<(), Error> {
        for dot in unit.jumped().iter() {
            self.garbage.rows.extend(self.changes.cut(dot.origin));
        }
        // Never rows of this unit: should it be cut off before its garbage, they tell what that was.
        let (gone, unforgotten) = self.changes.trim(replica);
        self.garbage.rows.extend(gone);
        self.unforgotten |= unforgotten;
        let leftover = unit.changes().any(|touch| touch.entry.leftover());
        let alone = replica.peers().next().is_none();
        // What was jumped over stands in no row.
        let remembers = !alone && unit.jumped().is_empty();
        if !remembers {
            shared.recent.clear(replica.vv());
        }
        for (row, bytes) in codec::encode_rows(&unit, self.repairs) {
            self.trees.changes.insert(change_key(row.first), bytes.as_slice())?;
            if row.first.origin == REPAIR {
                self.garbage.rows.push(row.first);
                self.repairs = row.through;
                continue;
            }
            let bytes = bytes.len() + ROW_OVERHEAD_BYTES;
            self.changes.push(Kept { first: row.first, through: row.through, bytes, leftover });
            if remembers {
                shared.recent.log(row);
            }
        }
        replica.count(&unit);
        for touch in unit.into_changes() {
            shared.watermark.mark(&touch.key, commit);
            let (kind, key, entry) = self.touch(touch)?;
            if !alone && kind == Kind::Data {
                shared.recent.put(key, entry);
            }
        }
        shared.recent.end(replica.vv());
        let summary = Summary {
            vv: replica.vv().clone(),
            floor: replica.floor().clone(),
            clock: replica.clock(),
            totals: *replica.totals(),
            unit: before,
            counted: false,
            repairs: self.repairs,
        };
        self.trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
        self.trees.db.flush()?;
        self.progress.note(replica.vv())
    }

    /// One key: its index rows, and its entry with its pieces. What comes back is stored now.
    fn touch(&mut self, touch: Touch) -> Result<Held, Error> {
        for at in touch.fresh().filter_map(|version| version.expires_at_ms) {
            self.trees.expiry.insert(expiry_key(at, touch.kind, &touch.key), &[])?;
        }
        let entry = &touch.entry;
        for old in touch.gone.iter().filter(|old| touch.before.contains(&old.dot)) {
            if let Value::Chunked { .. } = old.value {
                self.garbage.pieces.push(old.dot);
            }
            let still = |at: u64| entry.versions().iter().any(|version| version.expires_at_ms == Some(at));
            if let Some(at) = old.expires_at_ms.filter(|at| !still(*at)) {
                self.garbage.index.push(expiry_key(at, touch.kind, &touch.key));
            }
        }
        let stored = self.trees.put_entry(touch.kind, &touch.key, touch.entry)?;
        Ok((touch.kind, touch.key, stored))
    }

    /// Drops what the last unit put aside.
    pub fn settle(&mut self) -> Result<(), Error> {
        let Garbage { rows, pieces, index } = std::mem::take(&mut self.garbage);
        for dot in pieces {
            self.trees.remove_pieces(dot)?;
        }
        for row in index {
            self.trees.expiry.remove(row)?;
        }
        // Last, for those that repair the unit itself are among them: without them nobody would know of its other garbage.
        for dot in rows {
            self.trees.changes.remove(change_key(dot))?;
        }
        Ok(())
    }

    /// Puts the last garbage, and the witness of how far the commits got, on the disk as well.
    pub fn close(&self) -> Result<(), Error> {
        self.trees.db.flush()?;
        self.progress.sync()
    }
}
