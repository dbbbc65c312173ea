//! A backup: all that a node holds at one moment, as one stream, and back into a directory.
//!
//! It is what a new member would be sent: first every key, read while writes go on, then the events since, until what is left
//! of them is read between two commits. So whoever has taken it in holds exactly what the node held at the version vector at
//! its end. This room makes the stream and takes it apart; it knows neither sled nor
//! status codes, nor where the stream goes.

mod collect;
mod format;

pub use collect::Collector;
pub use format::{Block, Broken, End, Head, Reader, Writer};
