//! From flags to values that can't be wrong: parsed addresses, bounded numbers, a chosen data directory.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use crate::cli;
use crate::limits::{VALUE_BYTES_MAX, WAIT_MS_MAX};

/// How a node runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the data lives.
    pub data_dir: PathBuf,
    /// Longest value text, in bytes.
    pub value_bytes_max: usize,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Time for a request's head, and again for its body.
    pub request_timeout: Duration,
    /// Time between requests of a connection.
    pub idle_timeout: Duration,
    /// Most waiting writes.
    pub write_queue: usize,
    /// The engine's page cache, in bytes.
    pub cache_bytes: u64,
    /// How much of the change log is kept although every member has it, in bytes.
    pub log_kept_bytes: usize,
    /// How much of it is kept for a member that lacks it, in bytes.
    pub log_held_bytes: usize,
    /// A member that has been away for longer does not hold forgetting back.
    pub forget_after: Duration,
    /// Free disk space below which writes stop; `None` follows the size of the file system.
    pub disk_reserve_bytes: Option<u64>,
    /// Longest commit.
    pub commit_deadline: Duration,
}

/// A flag that makes no sense, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(String);

impl Config {
    /// The meaning of the flags.
    pub fn of(flags: cli::Node) -> Result<Config, Wrong> {
        let text = flags
            .listen
            .ok_or_else(|| Wrong("an address to listen on is missing, such as 127.0.0.1:6660".into()))?;
        if let Some(join) = flags.join.first() {
            return Err(Wrong(format!(
                "can't join {join}: this release runs single nodes, clusters come with the next; start without a join address"
            )));
        }
        let resolved = text.to_socket_addrs().map(|mut found| found.next());
        let Ok(Some(listen)) = resolved else {
            return Err(Wrong(format!(
                "'{text}' is no address to listen on: give HOST:PORT, such as 127.0.0.1:6660"
            )));
        };
        let ms = |name: &str, ms: u64| bounded(name, ms, 1, WAIT_MS_MAX).map(Duration::from_millis);
        Ok(Config {
            listen,
            data_dir: flags.data_dir.unwrap_or_else(|| PathBuf::from("data").join(&text)),
            value_bytes_max: bounded(
                "--max-value-bytes",
                flags.max_value_bytes as u64,
                1,
                VALUE_BYTES_MAX as u64,
            )? as usize,
            connections_max: bounded("--max-connections", flags.max_connections as u64, 1, 1_000_000)?
                as usize,
            request_timeout: ms("--request-timeout-ms", flags.request_timeout_ms)?,
            idle_timeout: bounded("--idle-timeout-ms", flags.idle_timeout_ms, 1, 86_400_000)
                .map(Duration::from_millis)?,
            write_queue: bounded("--write-queue", flags.write_queue as u64, 1, 1_000_000)? as usize,
            cache_bytes: bounded("--cache-mib", flags.cache_mib, 1, 1 << 20)? << 20,
            log_kept_bytes: (bounded("--log-mib", flags.log_mib, 0, 1 << 20)? as usize) << 20,
            log_held_bytes: (bounded("--log-held-mib", flags.log_held_mib, 1, 1 << 20)? as usize) << 20,
            forget_after: bounded("--forget-after-hours", flags.forget_after_hours, 1, 24 * 3_660)
                .map(|hours| Duration::from_secs(hours * 3_600))?,
            disk_reserve_bytes: match flags.disk_reserve_mib {
                Some(mib) => Some(bounded("--disk-reserve-mib", mib, 8, 1 << 30)? << 20),
                None => None,
            },
            commit_deadline: ms("--commit-deadline-ms", flags.commit_deadline_ms)?,
        })
    }
}

fn bounded(name: &str, value: u64, least: u64, most: u64) -> Result<u64, Wrong> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Wrong(format!("{name} {value}: give a number from {least} to {most}")))
}
