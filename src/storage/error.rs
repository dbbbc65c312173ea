//! What can go wrong in the vault, split by what the reader should do.

use std::io;
use std::path::Path;

use crate::exit::Exit;
use crate::limits::ORIGINS_MAX;

/// A store that can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory is not ours to use: foreign, locked, newer, unwritable, without room. Nothing was changed;
    /// the message says what to do.
    #[error("{0}")]
    Refused(String),
    /// The bytes on the disk are not those that were committed.
    #[error("{0}")]
    Damaged(String),
    /// sled or the operating system failed: the process must end, since sled's errors are sticky.
    #[error("the storage failed: {0}; restart to recover the last commit")]
    Failed(String),
}

/// What to do about a damaged directory.
pub const CHOICES: &str = "; nothing is served from it. Choices: put a sound copy of the directory in its place; save what can \
be read with DynaRust inspect DIR salvage --out FILE; where other members are up, start with a JOIN address and --rejoin-empty, \
which moves the directory aside and takes everything from them";
/// What is said where a damaged directory is as it was.
pub const UNTOUCHED: &str = "no byte of it has changed";
/// What is said where it may not be.
pub const OPENED: &str =
    "; it was opened, which may have cut store/db off behind the damage: make a copy before you start again";

impl Error {
    /// The line with which a process ends that can't go on because of it: what happened, and what to do.
    pub fn advised(&self) -> String {
        match self {
            Error::Damaged(why) if why.contains(UNTOUCHED) => format!("{why}{CHOICES}"),
            Error::Damaged(why) => format!("{why}{OPENED}{CHOICES}"),
            _ => self.to_string(),
        }
    }

    /// How a process ends that can't go on because of it.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Refused(_) => Exit::Refused,
            Error::Damaged(_) => Exit::Damaged,
            Error::Failed(_) => Exit::Failed,
        }
    }
}

impl Error {
    /// The same, found before anything was opened.
    pub fn untouched(self) -> Error {
        match self {
            Error::Damaged(why) if !why.contains(UNTOUCHED) => {
                Error::Damaged(format!("{why}; so nothing was opened, and {UNTOUCHED}"))
            }
            error => error,
        }
    }

    /// The same, naming the store that it is about.
    pub fn in_store(self, store: &Path) -> Error {
        let shown = store.display().to_string();
        match self {
            Error::Damaged(why) if !why.contains(&shown) => Error::Damaged(format!("{shown}: {why}")),
            error => error,
        }
    }

    /// Something could not be done with the files of a directory that is about to be used: what its owner can mend is
    /// refused, the rest has failed.
    pub fn of_files(what: &str, path: &Path, e: &io::Error) -> Error {
        let line = format!("can't {what} {}: {e}", path.display());
        match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::Refused(format!(
                "{line}; make the data directory and all in it readable and writable for user {}",
                rustix::process::getuid().as_raw()
            )),
            _ => Error::Failed(line),
        }
    }
}

impl From<sled::Error> for Error {
    fn from(error: sled::Error) -> Error {
        match error {
            sled::Error::Corruption { .. } => Error::Damaged(format!("the store can't be read: {error}")),
            error => Error::Failed(error.to_string()),
        }
    }
}

/// Why a write was not done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The key is not in the state that the client asked for; its live versions, if any, are named.
    #[error("the precondition does not hold")]
    Precondition(Option<crate::replica::Token>),
    /// There is nothing to delete.
    #[error("there is nothing to delete")]
    Nothing,
    /// There is something, but of what the causality token names nothing is left.
    #[error("what the causality token names is not there any more")]
    TokenSpent,
    /// The causality token names events that this node has not taken in.
    #[error("the causality token names a version that this node has not seen")]
    TokenAhead,
    /// The key has as many siblings as local writes may pile up.
    #[error("the key has too many concurrent versions")]
    TooManySiblings,
    /// A piece of a sweep does not go on where the last one ended: it must begin anew.
    #[error("this is not the next piece of what it is being sent")]
    OutOfTurn,
    /// It would be of more nodes than a cluster may have had.
    #[error("these would be events of too many nodes: a cluster has those of at most {ORIGINS_MAX}, ever")]
    TooManyOrigins,
    /// The queue is full: try again.
    #[error("too many writes are waiting")]
    Busy,
    /// The file system is below its reserve.
    #[error("the disk is full")]
    DiskFull,
    /// The node is on its way out.
    #[error("the node is stopping")]
    Stopping,
    /// The entry on the disk can't be read.
    #[error("the stored entry is damaged")]
    Damaged,
}
