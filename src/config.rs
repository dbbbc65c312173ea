//! From flags to values that can't be wrong: parsed addresses, bounded numbers, a chosen data directory.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli;
use crate::limits::{VALUE_BYTES_MAX, WAIT_MS_MAX};
use crate::network::Secret;
use crate::peers::{canonical, is_more_than_address, is_wildcard};

/// How a node runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where other nodes reach this one, if the operator says so.
    pub advertise: Option<String>,
    /// Members to join by.
    pub join: Vec<String>,
    /// What all nodes of the cluster know.
    pub secret: Option<Secret>,
    /// Does the node leave its cluster when it stops?
    pub leave_on_exit: bool,
    /// Where the data lives.
    pub data_dir: PathBuf,
    /// Does the node begin anew when that does not open?
    pub rejoin_empty: bool,
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
        flags.join.iter().try_for_each(|address| check_address(address, JOINED))?;
        flags.advertise.iter().try_for_each(|address| check_address(address, ADVERTISED))?;
        let secret = flags.cluster_secret_file.as_deref().map(secret).transpose()?;
        let resolved = text.to_socket_addrs().map(|mut found| found.next());
        let named =
            text.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let listen = match (resolved, named) {
            (Ok(Some(listen)), _) => listen,
            (Err(e), Some((host, _))) => {
                return Err(Wrong(format!(
                    "the host '{host}' in '{text}' can't be found: {e}; give an address of this machine, or 0.0.0.0 for \
                     all of them"
                )));
            }
            _ => {
                return Err(Wrong(format!(
                    "'{text}' is no address to listen on: give HOST:PORT, such as 127.0.0.1:6660"
                )));
            }
        };
        let listen = SocketAddr::new(listen.ip().to_canonical(), listen.port());
        let ms = |name: &str, ms: u64| bounded(name, ms, 1, WAIT_MS_MAX).map(Duration::from_millis);
        Ok(Config {
            listen,
            advertise: flags.advertise.as_deref().map(canonical),
            join: flags.join.iter().map(|address| canonical(address)).collect(),
            secret,
            leave_on_exit: flags.leave_on_exit,
            rejoin_empty: flags.rejoin_empty,
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

/// What an address of all machines is not, where it is to be that of a member.
const JOINED: &str = "leads to no member: give the HOST:PORT by which this node reaches one";
/// The same, where it is to be this node's own.
const ADVERTISED: &str = "leads other nodes nowhere: give the HOST:PORT by which they reach this one";

/// Is this the address of one node?
fn check_address(address: &str, not_all: &str) -> Result<(), Wrong> {
    let wrong = |what: &str| Err(Wrong(format!("'{address}' {what}")));
    if address.contains(',') {
        return wrong("is more than one address: put a space between two");
    }
    if is_more_than_address(address) {
        return wrong(
            "is more than the address of a node: give HOST:PORT, without http://, a user's name or anything after it",
        );
    }
    let parts = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let Some((host, _)) = parts.filter(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) else {
        return wrong("is no address of a node: give HOST:PORT");
    };
    if host.contains(':') && !host.starts_with('[') {
        return wrong("is no address of a node: put [ ] around one of IPv6, as in [::1]:6660");
    }
    match is_wildcard(address) {
        true => wrong(&format!("stands for all addresses of a machine, and {not_all}")),
        false => Ok(()),
    }
}

/// The secret in a file.
pub fn secret(file: &Path) -> Result<Secret, Wrong> {
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|e| Wrong(format!("can't read the secret in {shown}: {e}")))?;
    Secret::of(&text).map_err(|why| {
        Wrong(format!(
            "{shown} {why}: a secret is one line of letters, digits and signs of ASCII, without spaces; below it may stand the \
             one that it takes the place of"
        ))
    })
}

fn bounded(name: &str, value: u64, least: u64, most: u64) -> Result<u64, Wrong> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let name = cli::as_given(name);
    Err(Wrong(format!("{name} {value}: give a number from {least} to {most}")))
}
