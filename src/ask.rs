//! What the command line asks a running node: whether it is ready, and to leave its cluster. For containers, whose image has
//! no curl, and for whoever does not want to write headers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::{Leave, Target};
use crate::config;
use crate::limits::{COMMIT_DEADLINE_MS_DEFAULT, LEAVE_MS, STOP_GRACE_MS};
use crate::storage::tenant;

/// Long enough for a busy node, shorter than a container engine's own time limit.
const PATIENCE: Duration = Duration::from_secs(5);

/// `Err` says why it is not ready.
pub fn ready(target: &Target) -> Result<(), String> {
    let address = resolve(target)?;
    match ask(address, "GET /ready HTTP/1.0\r\n\r\n", PATIENCE)? {
        Answer { status: 200, .. } => Ok(()),
        Answer { text, .. } => Err(format!("{address} is not ready: {text}")),
    }
}

/// Asks a node to leave its cluster, and comes back when it has stopped.
pub fn leave(flags: &Leave) -> Result<String, String> {
    let address = resolve(&flags.target)?;
    let secret = flags.cluster_secret_file.as_deref().map(config::secret).transpose();
    let secret = secret.map_err(|wrong| wrong.to_string())?;
    let given = secret.is_some();
    let shown = secret.map(|secret| format!("Authorization: {}\r\n", secret.header())).unwrap_or_default();
    // What the node waits for, and its disk: a commit that takes longer ends it.
    let limit = Duration::from_millis(LEAVE_MS + COMMIT_DEADLINE_MS_DEFAULT) + PATIENCE;
    let request = format!("POST /cluster/leave HTTP/1.0\r\n{shown}Content-Length: 0\r\n\r\n");
    let asked = ask(address, &request, limit);
    let told = match asked
        .map_err(|e| format!("{e}; if it was asked, it may leave all the same: see who is a member"))?
    {
        Answer { status: 200, text } => text,
        Answer { status: 401, .. } => {
            return Err(match given {
                false => format!("{address} wants the cluster secret: give --cluster-secret-file"),
                true => format!(
                    "{address} has another cluster secret, or none: give the --cluster-secret-file of that node"
                ),
            });
        }
        Answer { text, .. } => return Err(format!("{address} does not leave: {text}")),
    };
    // Requests under way, again, as it stops.
    let limit = Duration::from_millis(STOP_GRACE_MS) + PATIENCE;
    let deadline = Instant::now() + limit;
    while TcpStream::connect_timeout(&address, PATIENCE).is_ok() {
        if Instant::now() > deadline {
            return Err(format!("{address} has left, but has not stopped within {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(told)
}

struct Answer {
    status: u16,
    /// Its last line, or what a problem says.
    text: String,
}

fn ask(address: SocketAddr, request: &str, patience: Duration) -> Result<Answer, String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(4_096).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange().map_err(|e| format!("{address} does not answer: {e}"))?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let text = answer.lines().next_back().unwrap_or("no answer");
    let problem = serde_json::from_str::<serde_json::Value>(text).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    let text = detail.unwrap_or(text).to_owned();
    Ok(Answer { status: status.unwrap_or(0), text })
}

fn resolve(target: &Target) -> Result<SocketAddr, String> {
    match (&target.address, &target.data_dir) {
        (Some(text), _) => {
            let found = text.to_socket_addrs().map(|mut addresses| addresses.next());
            found.ok().flatten().ok_or_else(|| format!("'{text}' is no address: give HOST:PORT"))
        }
        (None, Some(directory)) => written(directory),
        // The command line does not let this through.
        (None, None) => Err("give --address, or --data-dir of the node".into()),
    }
}

/// What the node that runs on a directory wrote into it; a wildcard is reached by loopback.
pub fn written(directory: &Path) -> Result<SocketAddr, String> {
    let tenant = tenant(directory).ok_or_else(|| format!("no node runs on {}", directory.display()))?;
    let busy = || format!("process {} works on {}, and is no node as yet", tenant.pid, directory.display());
    let mut address = tenant.address.ok_or_else(busy)?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}
