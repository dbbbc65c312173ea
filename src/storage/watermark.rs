//! No read shows what a crash could take back.
//!
//! Readers go to sled directly, and sled shows a write before it is on the disk. So the committer marks a slot for every
//! key *before* it changes the key, and raises the watermark when the commit is durable; a reader looks *after* it has
//! read: when the key's slot names a commit beyond the watermark, it waits for that one. Two keys may share a slot: the
//! one then waits for the other's commit, which is harmless.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

use crate::limits::PENDING_SLOTS;

/// Which commits are durable, and which keys have one on its way.
pub struct Watermark {
    durable: AtomicU64,
    begun: AtomicU64,
    slots: Box<[AtomicU64]>,
    raised: Notify,
}

impl Watermark {
    /// Nothing is on its way.
    pub fn new() -> Watermark {
        let slots = (0..PENDING_SLOTS).map(|_| AtomicU64::new(0)).collect();
        Watermark { durable: AtomicU64::new(0), begun: AtomicU64::new(0), slots, raised: Notify::new() }
    }

    /// This commit is about to change something.
    pub fn begin(&self, commit: u64) {
        self.begun.store(commit, Ordering::Release);
    }

    /// The newest commit that has changed anything, for who has read many keys already.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// This commit is about to change this key.
    pub fn mark(&self, key: &[u8], commit: u64) {
        self.slot(key).store(commit, Ordering::Release);
    }

    /// Everything up to this commit is on the disk.
    pub fn raise(&self, commit: u64) {
        self.durable.store(commit, Ordering::Release);
        self.raised.notify_waiters();
    }

    /// The commit that a reader of this key, who has read already, must wait for.
    pub fn pending(&self, key: &[u8]) -> Option<u64> {
        let commit = self.slot(key).load(Ordering::Acquire);
        (commit > self.durable()).then_some(commit)
    }

    /// Waits until this commit is on the disk.
    pub async fn reached(&self, commit: u64) {
        loop {
            let mut raised = std::pin::pin!(self.raised.notified());
            raised.as_mut().enable();
            if self.durable() >= commit {
                return;
            }
            raised.await;
        }
    }

    /// The newest commit on the disk.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    fn slot(&self, key: &[u8]) -> &AtomicU64 {
        &self.slots[xxh3_64(key) as usize % PENDING_SLOTS]
    }
}
