//! How the process ends, so that whoever restarts it knows what to do. Numbers are part of the contract (README).

/// Exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Stopped as asked.
    Stopped = 0,
    /// Nothing else fits: a bug.
    Unforeseen = 1,
    /// The command line is wrong; clap uses the same number.
    Usage = 2,
    /// The data directory is not ours to use: foreign, locked, newer, unwritable, without room. Nothing was changed.
    Refused = 3,
    /// The data directory does not open, or does not hold what was committed.
    Damaged = 4,
    /// The storage failed under way: restarting recovers to the last commit.
    Failed = 5,
    /// The address can't be listened on.
    Address = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> std::process::ExitCode {
        std::process::ExitCode::from(exit as u8)
    }
}
