//! A backup: all that a node holds at one moment, as one stream, and back into a directory.
//!
//! It is what a new member would be sent: first every key, read while writes go on, then the events since, until what is left
//! of them is read between two commits. So whoever has taken it in holds exactly what the node held at the version vector at
//! its end. This room makes the stream and takes it apart; it knows neither sled nor status codes.

mod collect;
mod command;
mod format;

pub use collect::Collector;
pub use command::{fetch, restore};
pub use format::{Block, Broken, Reader, Writer};

use crate::exit::Exit;
use crate::storage;

/// Why a backup was not made, or not restored: nothing is left of what was begun.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is none, or not as it was made.
    #[error("{0} is refused, and nothing was made of it: {1}")]
    Broken(String, Broken),
    /// The store could not be read, or written.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// The node does not give one now.
    #[error("{0}")]
    Node(String),
    /// The file, or what comes from the node, can't be read or written.
    #[error("{0}")]
    File(String),
}

impl Error {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Store(error) => error.exit(),
            _ => Exit::Unforeseen,
        }
    }
}
