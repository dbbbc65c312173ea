//! The campaign against `inspect salvage`: copies of a directory in which bits are flipped, blocks zeroed, mixed up or full of
//! junk, the end is cut off, files are missing. Every key whose record is untouched must come back with its value, nothing
//! old or deleted may come back without a mark, and nothing may panic, hang or change the copy.
//!
//! Which bytes a key's record takes, `map.rs` finds out in the directory before it is damaged, by itself.
//!
//! Environment: `DYNARUST_SALVAGES` sets how many copies, `DYNARUST_SEED` repeats a run.

#[path = "../support/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a failed lock fails the test")]
mod support;

#[path = "../process/random.rs"]
mod random;

#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "../support/older.rs"]
mod older;

mod base;
mod campaign;
mod damage;
mod map;
