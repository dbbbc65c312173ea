//! DynaRust: a key-value store in which every node holds everything, and every acknowledged write is on the disk.
//!
//! The rooms, from the ground up; a room imports only from the floors below (`docs/architecture.md`):
//! floor 0 `limits`, `metrics`, `exit`; floor 1 `replica`, the pure rules; floor 2 `storage`, the vault, and `peers`, what is
//! known of the others; floor 3 `backup`, all of it as one stream; floor 4 `api`, the clients' door, and `network`, the peers';
//! floor 5 `server`; floor 6 `node`, which starts and stops everything. Beside: `cli`, `config`, `logger`, `told`, `part`,
//! `compact`, `rejoin`, and what asks nodes from outside: `ask`, `transfer`.

pub mod api;
pub mod ask;
pub mod backup;
pub mod cli;
pub mod compact;
pub mod config;
pub mod exit;
pub mod inspect;
pub mod limits;
pub mod logger;
pub mod metrics;
pub mod network;
pub mod node;
pub mod part;
pub mod peers;
pub mod rejoin;
pub mod replica;
pub mod server;
pub mod storage;
pub mod time;
pub mod told;
pub mod transfer;
