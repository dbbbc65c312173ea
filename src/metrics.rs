//! All counters of the process, in one struct that everybody may add to and `/stats` reads.
//!
//! Relaxed atomics: a counter orders nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that is counted, since the process started.
#[derive(Default, Debug)]
pub struct Metrics {
    /// GET and HEAD of keys.
    pub reads: Counter,
    /// PUT of keys.
    pub puts: Counter,
    /// DELETE of keys.
    pub deletes: Counter,
    /// Answers with a 4xx status.
    pub client_errors: Counter,
    /// Answers with a 5xx status.
    pub server_errors: Counter,
    /// Commits made durable.
    pub commits: Counter,
    /// Events in them.
    pub writes: Counter,
    /// Writes refused because the queue was full.
    pub refused_busy: Counter,
    /// Writes refused because the disk was full.
    pub refused_disk_full: Counter,
    /// Reads that waited for a commit on its way to the disk.
    pub reads_waited: Counter,
    /// Expired versions removed.
    pub expired: Counter,
}
