//! The steps from one on-disk format to the next, oldest first; the number of a step is its place, from 1.
//!
//! A step freezes its world: it imports sled and nothing of ours, so that it does for ever what it did at first. It may
//! be stopped at any moment and run again from its beginning.

mod m0001_first;

/// One step.
pub struct Step {
    /// What it does, for the log.
    pub what: &'static str,
    /// Does it.
    pub run: fn(&sled::Db) -> sled::Result<()>,
}

/// All steps, in order.
pub const STEPS: &[Step] = &[Step { what: "create the trees", run: m0001_first::run }];
