//! What the benchmarks share: servers as child processes, the load generator, and how figures are taken and told.
//! It must not know what is compared with what.
#![allow(dead_code, reason = "each benchmark uses its own part")]

pub mod child;
pub mod client;
pub mod common;
pub mod connection;
pub mod etcd;
pub mod histogram;
pub mod load;
pub mod machine;
pub mod paced;
pub mod redis;
pub mod report;
pub mod request;
pub mod sample;

/// Whatever stops a run: it is printed once, by `main`.
pub type Failure = Box<dyn std::error::Error>;
