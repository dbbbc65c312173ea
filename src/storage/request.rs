//! What the committer is asked, and what it answers: a write as a client means it, with its conditions. Plain data; what
//! becomes of it is decided in `draft.rs`, at the moment of the write.

use tokio::sync::OwnedSemaphorePermit;

use crate::replica::{Dot, Entry, Frame, Kind, NodeId, Sweep, Token};

/// A write as a client means it.
#[derive(Debug)]
pub struct Request {
    /// Which tree.
    pub kind: Kind,
    /// Which key.
    pub key: Vec<u8>,
    /// What to do.
    pub action: Action,
    /// In which state the key must be.
    pub condition: Condition,
    /// Which versions to replace; all when the client did not say.
    pub token: Option<Token>,
    /// Held until the request is done, whether or not its client still waits: room in memory.
    pub room: Option<OwnedSemaphorePermit>,
}

/// What who sends something holds until that is taken in or refused, and gives back by dropping it.
pub type Hold = Box<dyn Send>;

/// What to do with a key.
#[derive(Debug, Clone)]
pub enum Action {
    /// Store this text, for so many milliseconds if limited.
    Put(Vec<u8>, Option<u64>),
    /// Remove what is there.
    Delete,
}

/// Preconditions, as of RFC 9110 section 13.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// The key must be in one of these states.
    pub matches: Option<Tags>,
    /// The key must be in none of these states.
    pub matches_none: Option<Tags>,
}

/// States of a key, by the versions that a reader sees.
#[derive(Debug, Clone)]
pub enum Tags {
    /// There is something to see.
    Any,
    /// Exactly these versions are.
    These(Vec<Token>),
}

impl Condition {
    /// Does it hold for a key in this state?
    pub fn holds(&self, current: Option<&Token>) -> bool {
        let among = |tags: &Tags| match (tags, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::These(tokens), Some(current)) => tokens.contains(current),
        };
        self.matches.as_ref().is_none_or(among) && !self.matches_none.as_ref().is_some_and(among)
    }
}

/// A write that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The event that it is.
    pub dot: Dot,
    /// Was there nothing to see under the key before?
    pub created: bool,
    /// Did it store a value? Else it removed what was there.
    pub put: bool,
}

/// What a peer has sent.
#[derive(Debug)]
pub enum Parcel {
    /// Events, and the entries that they touched.
    Frame(Frame),
    /// A piece of the peer's whole state.
    Sweep(Sweep),
}

impl Parcel {
    /// Whose events it may bring.
    pub fn origins(&self) -> Vec<NodeId> {
        match self {
            Parcel::Frame(frame) => frame.ranges.iter().map(|range| range.origin).collect(),
            Parcel::Sweep(sweep) => sweep.target.iter().map(|dot| dot.origin).collect(),
        }
    }

    /// Bytes of all values in it.
    pub fn bytes(&self) -> usize {
        let entries = match self {
            Parcel::Frame(frame) => &frame.entries,
            Parcel::Sweep(sweep) => &sweep.entries,
        };
        let bytes = |entry: &Entry| entry.versions().iter().map(|version| version.value.bytes()).sum::<u64>();
        entries.iter().map(|(_, _, entry)| bytes(entry) as usize).sum()
    }
}
