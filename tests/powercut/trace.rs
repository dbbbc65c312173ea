//! What a trace says: every change of a data directory and every promise made meanwhile, in the order in which they
//! happened. One file collects the lives of a store, process after process.
//!
//! ```text
//! record   json bytes:4  data bytes:4  json of an Event  data of a write
//! ```

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::note::Note;

/// One thing that happened. Paths are relative to the traced directory, which itself is "".
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Event {
    /// A directory was made.
    Mkdir(String),
    /// An empty directory went.
    Rmdir(String),
    /// A file was made.
    Create(String),
    /// A file's name went.
    Unlink(String),
    /// A file got another name, and took the place of what was there.
    Rename(String, String),
    /// Two directories changed places.
    Exchange(String, String),
    /// A file was cut or grown to this length.
    Truncate(String, u64),
    /// Bytes were written at this offset; they follow the record.
    Write(String, u64),
    /// A sync of this file or directory began; `data_only` is fdatasync.
    SyncBegin { id: u64, path: String, data_only: bool },
    /// It came back.
    SyncEnd(u64),
    /// The store is made one of an older format, as no release does it: nothing is cut off from here
    Aging,
    /// to here.
    Aged,
    /// A process begins to open the store.
    Life,
    /// It opened: this node, its newest event.
    Opened { me: u64, seq: u64 },
    /// The store was closed in order, with this newest event.
    Closed { seq: u64 },
    /// A write was sent.
    Submit { id: u64, op: Op },
    /// It was acknowledged as this event.
    Ack { id: u64, seq: u64 },
    /// It was refused.
    Refused { id: u64 },
    /// Somebody was shown this event.
    Seen(u64),
    /// At the start of a life a key held these events.
    Holds { key: u32, seqs: Vec<u64> },
    /// Something that concerns a node in a cluster.
    Cluster(Note),
}

/// A write, as the model knows it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Op {
    /// Number of the key.
    pub key: u32,
    /// What is put; a delete otherwise.
    pub put: Option<Put>,
    /// The events that it replaces; all of the key otherwise.
    pub named: Option<Vec<u64>>,
}

/// A value that is put.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Put {
    /// XXH3 of the text.
    pub hash: u64,
    /// Its length.
    pub bytes: u64,
    /// When it expires, by the clock of the test.
    pub expires_at_ms: Option<u64>,
}

/// An event and, for a write, where its bytes are.
pub struct Record {
    /// What happened.
    pub event: Event,
    /// Place in [`Trace::bytes`].
    pub data: Range<usize>,
}

/// A whole trace in memory.
pub struct Trace {
    /// The records, in order.
    pub records: Vec<Record>,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Trace {
    /// Reads a trace. A record that a process ended in is dropped.
    pub fn read(path: &Path) -> Trace {
        let bytes = std::fs::read(path).unwrap_or_default();
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some(head) = bytes.get(at..at + 8) {
            let length = |b: &[u8]| u32::from_le_bytes(b.try_into().expect("four bytes")) as usize;
            let json = at + 8..at + 8 + length(&head[..4]);
            let data = json.end..json.end + length(&head[4..]);
            if data.end > bytes.len() {
                break;
            }
            let event = serde_json::from_slice(&bytes[json]).expect("a trace holds events");
            at = data.end;
            records.push(Record { event, data });
        }
        Trace { records, bytes }
    }
}

/// Where what was here is when these two directories have changed places.
pub fn exchanged(path: &str, one: &str, other: &str) -> String {
    let below = |dir: &str| path.strip_prefix(dir).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (below(one), below(other)) {
        (Some(rest), _) => format!("{other}{rest}"),
        (_, Some(rest)) => format!("{one}{rest}"),
        _ => path.to_owned(),
    }
}

/// The bytes of one record.
pub fn encode(event: &Event, data: &[u8]) -> Vec<u8> {
    let json = serde_json::to_vec(event).expect("an event is plain data");
    let mut out = Vec::with_capacity(8 + json.len() + data.len());
    out.extend((json.len() as u32).to_le_bytes());
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(json);
    out.extend(data);
    out
}
