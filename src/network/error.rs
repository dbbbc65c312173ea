//! What goes wrong between nodes, split by what to do.

use super::wire::{PROTOCOL, Refusal};

/// Why a peer was not reached, or not understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody takes a message there. Normal in any network: tried again.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// Somebody may have taken the message, and done what it asks; no answer has come, or not in time. Normal as well.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// This node itself answers there.
    #[error("it is this node's own address")]
    Own,
    /// One of the two has no cluster secret, or another one. Somebody has to give both nodes the same.
    #[error(
        "the cluster secret is missing there or here, or is not the same: give both nodes the same --cluster-secret-file"
    )]
    Secret,
    /// Somebody answers who speaks another language.
    #[error("it speaks protocol {theirs}, this release speaks {PROTOCOL}: run the same release on both")]
    Protocol {
        /// What it speaks.
        theirs: u16,
    },
    /// What came makes no sense.
    #[error("{0}")]
    Unreadable(String),
    /// The peer said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// This node is no member any more, and only who is started again asks anew.
    #[error(
        "this node's membership was ended: it was evicted, or leaves. Start it again to let it join again"
    )]
    Ended,
    /// This node can't read what it would send.
    #[error("this node can't read what it should send: {0}")]
    Storage(#[from] crate::storage::Error),
}
