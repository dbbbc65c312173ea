//! Directories and backups of every format that a release has written (`tests/fixtures/format-*`): this build opens each of
//! them, and finds exactly what its truth says. What is in `tests/fixtures` is never made anew: it is what a release has
//! left on the disks of those who run it.
//!
//! `cargo test --test formats make -- --ignored` makes the fixtures of the format that this build writes, once, when there
//! are none yet.
#![expect(clippy::unwrap_used, reason = "a poisoned lock is a failed test")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "../cluster/cluster.rs"]
mod cluster;

mod fixture;
mod http;
mod make;
mod open;
mod truth;
