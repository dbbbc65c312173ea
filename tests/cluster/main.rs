//! Real clusters: processes on loopback with real ports, asked over HTTP like any user would. What is proven here is what
//! only several processes can show: that they find each other, hold the same, survive each other's deaths, and say the
//! truth about it. The rules themselves are proven in `tests/sim`.
#![expect(
    clippy::unwrap_used,
    reason = "a poisoned lock, or a directory that can't be made, is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod arrivals;
mod arriving;
mod cluster;
mod departures;
mod evictions;
mod forged;
mod guarantees;
mod hosts;
mod lines;
mod load;
mod membership;
mod partitions;
mod proxy;
mod quiet;
mod reach;
mod rejoin;
mod restored;
mod secrets;
mod storm;
mod sweeping;
mod unheard;
