//! Keys in and out, as lines of text: `DynaRust export` and `DynaRust import`; and all of a node, as a file: `DynaRust backup`
//! and `DynaRust restore`.
//!
//! A client like any other, but for directories, which are read as `inspect` does. Invariants:
//! 1. nothing is said to be done that is not: a part of an export is never taken for the whole, and a line counts as written
//!    when the node has answered that it is;
//! 2. whatever ends early says where to go on, or leaves nothing, and doing something twice does no harm;
//! 3. what is in memory is bounded, however long the file.

mod backup;
mod connection;
mod export;
mod import;
mod interrupts;
mod lane;
mod line;
mod restore;
mod retry;

pub use backup::backup;
pub use export::export;
pub use import::import;
pub use restore::restore;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::backup::Broken;
use crate::exit::Exit;
use crate::limits::{PEER_CONNECT_MS, PEER_REPLY_BYTES_MAX, SILENCE_MS};
use crate::storage;
use crate::told::count;

/// Why not everything was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The directory can't be read.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// The lines can't be read.
    #[error("can't read {0}")]
    Input(String),
    /// The lines can't be written, or nobody reads them.
    #[error("can't write: {0}")]
    Output(io::Error),
    /// The node does not answer, or not as one should.
    #[error("{0}")]
    Node(String),
    /// A file can't be written.
    #[error("{0}")]
    File(String),
    /// A backup is none, or not as it was made.
    #[error("{0} is refused, and nothing was made of it: {1}")]
    Broken(String, Broken),
    /// A line is not what it should be, or was not taken.
    #[error("line {number}: {what}")]
    Line {
        /// Which, from 1.
        number: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Some of it was done.
    #[error("{why}; {advice}")]
    Part {
        /// Why not the rest.
        why: Box<Error>,
        /// What was done, and how to go on.
        advice: String,
    },
    /// A dry run has found lines that would not be written.
    #[error("{0}")]
    Findings(String),
    /// There are not so many lines.
    #[error("--from-line {from}: {shown} has {}, so there is nothing to go on with", count(*.lines, "line"))]
    Beyond {
        /// The file.
        shown: String,
        /// How many there are.
        lines: u64,
        /// Where it was to begin.
        from: u64,
    },
    /// A signal asked it to end.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Usage(_) => Exit::Usage,
            Error::Store(error) => error.exit(),
            Error::Part { why, .. } => why.exit(),
            _ => Exit::Unforeseen,
        }
    }

    /// With what was done, and how to go on.
    fn part(self, advice: String) -> Error {
        Error::Part { why: Box::new(self), advice }
    }
}

/// The HOST:PORT of a node, however it was given; `None` when it is none.
fn address(text: &str) -> Option<String> {
    let (rest, port) = match text.strip_prefix("http://") {
        Some(rest) => (rest.strip_suffix('/').unwrap_or(rest), Some(80)),
        None => (text, None),
    };
    let plain = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        !host.is_empty()
            && !host.contains(['/', '@', '?', '#', ' '])
            && (inner.is_some() || !host.contains(':'))
    };
    match rest.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        Some((host, 1..)) if plain(host) => Some(rest.to_owned()),
        Some(_) => None,
        None => port.filter(|_| plain(rest)).map(|port| format!("{rest}:{port}")),
    }
}

/// What else but an address was meant to be one.
fn no_address(text: &str) -> Error {
    Error::Usage(format!("'{text}' is no address of a node: give HOST:PORT or http://HOST:PORT"))
}

/// What asks a node for long answers.
fn client() -> Result<reqwest::Client, Error> {
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_millis(PEER_CONNECT_MS))
        .read_timeout(Duration::from_millis(SILENCE_MS))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    client.map_err(|e| Error::Node(told(&e)))
}

/// An error's last cause: the first line alone rarely says what happened.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Refuses a stdout that nobody reads. One that was closed when the process began is /dev/null by now, open for both ways as no
/// shell opens it.
fn stdout_is_read() -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fstat};
    let (stdout, null) = (io::stdout(), std::fs::metadata("/dev/null"));
    let known = fstat(&stdout).and_then(|about| Ok((about.st_rdev, fcntl_getfl(&stdout)? & OFlags::ACCMODE)));
    let unread = match (known, null) {
        (Ok((device, mode)), Ok(null)) => device == null.rdev() && mode == OFlags::RDWR,
        (known, _) => known.is_err(),
    };
    match unread {
        true => Err(io::Error::other("stdout is closed: give it a file or a pipe")),
        false => Ok(()),
    }
}

/// Does the work of a command, which waits for nodes.
fn wait<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    runtime()?.block_on(work)
}

/// What waits for nodes.
fn runtime() -> Result<Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Node(format!("can't wait for nodes: {e}")))
}

/// The beginning of an answer's body, which is all of it where a node answers: another server's may have no end.
async fn beginning(mut answer: reqwest::Response) -> reqwest::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < PEER_REPLY_BYTES_MAX
        && let Some(piece) = answer.chunk().await?
    {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What a problem says, in the body of an answer.
fn detail(body: &[u8]) -> String {
    let problem = serde_json::from_slice::<serde_json::Value>(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or("it says no more").to_owned()
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_node_is_told_from_a_directory() {
        for (given, meant) in [
            ("127.0.0.1:6660", Some("127.0.0.1:6660")),
            ("node1:1", Some("node1:1")),
            ("[::1]:6660", Some("[::1]:6660")),
            ("http://node1:6660/", Some("node1:6660")),
            ("http://[::1]:6660", Some("[::1]:6660")),
            ("http://node1", Some("node1:80")),
            ("https://node1:6660", None),
            ("http://node1:6660/key/", None),
            ("http://me:you@node1:6660", None),
            ("http://:6660", None),
            ("node1:0", None),
            ("node1:65536", None),
            ("::1:6660", None),
            ("data/127.0.0.1:6660", None),
            ("./node1:6660", None),
            ("backup", None),
            ("", None),
        ] {
            assert_eq!(address(given).as_deref(), meant, "{given}");
        }
    }
}
