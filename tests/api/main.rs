//! The HTTP API of one node, seen from outside: a real process, real sockets, nothing but the contract. Most tests
//! share one node and keep to keys of their own; a test that counts, restarts or limits something starts its own.
//! Nothing sleeps to synchronise, and every answer goes through a reader that knows its exact shape (`helpers`).
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the shared node ends with this process by prctl and atexit; a poisoned lock is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod causality;
mod conditional;
mod expiry;
mod fuzz;
mod helpers;
mod keys;
mod listing;
mod messages;
mod model;
mod races;
mod readme;
mod restart;
mod routes;
mod shapes;
mod status;
mod values;
mod wire;
