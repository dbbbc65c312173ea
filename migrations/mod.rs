//! The steps from one on-disk format to the next, oldest first; the number of a step is its place, from 1.
//!
//! A step freezes its world: it imports sled and nothing of ours, so that it does for ever what it did at first. It never
//! changes what the format before it reads: it *builds* beside that, portion by portion. When all of it is on the disk the
//! store gets the new number, in one write, and only then the step *clears* what nobody reads any more. So a step that was cut
//! off before the number is begun anew, and one that was cut off after it goes on.

mod m0001_first;
mod m0002_checked_pieces;

use sled::{Db, Result};

/// One step.
pub struct Step {
    /// What it does, for the log.
    pub what: &'static str,
    /// How much it will build, before anything is changed.
    pub measure: fn(&Db) -> Result<Size>,
    /// Removes what an earlier begin has left.
    pub reset: Portions,
    /// Builds: all that was measured, and says so of each portion.
    pub build: Portions,
    /// Removes what nobody reads any more.
    pub clear: Portions,
}

/// Does the portion that comes after this row, no more than may be only in memory; `None`: nothing is left to do.
pub type Portions = fn(&Db, after: Option<&[u8]>) -> Result<Option<Portion>>;

/// Rows, and bytes of their keys and values.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub rows: u64,
    pub bytes: u64,
}

/// What was done between two flushes.
pub struct Portion {
    /// The last row of it.
    pub through: Vec<u8>,
    pub size: Size,
}

/// All steps, in order.
pub const STEPS: &[Step] = &[
    Step {
        what: "create the trees",
        measure: |_| Ok(Size::default()),
        reset: |_, _| Ok(None),
        build: m0001_first::build,
        clear: |_, _| Ok(None),
    },
    Step {
        what: "give every piece of a large value a check of its own",
        measure: m0002_checked_pieces::measure,
        reset: m0002_checked_pieces::reset,
        build: m0002_checked_pieces::build,
        clear: m0002_checked_pieces::clear,
    },
];
