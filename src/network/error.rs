//! What goes wrong between nodes, split by what to do.

use super::wire::{PROTOCOL, Refusal};

/// Why a peer was not reached, or not understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there, or not in time. Normal in any network: tried again.
    #[error("no answer: {0}")]
    Unreachable(String),
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
    /// This node can't read what it would send.
    #[error("this node can't read what it should send: {0}")]
    Storage(#[from] crate::storage::Error),
}
