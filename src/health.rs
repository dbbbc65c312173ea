//! `DynaRust healthcheck`: is the node ready? For containers, whose image has no curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use crate::cli::Healthcheck;
use crate::storage::tenant;

/// Long enough for a busy node, shorter than a container engine's own time limit.
const PATIENCE: Duration = Duration::from_secs(5);

/// `Err` says why it is not ready.
pub fn check(flags: &Healthcheck) -> Result<(), String> {
    let address = match (&flags.address, &flags.data_dir) {
        (Some(text), _) => resolve(text)?,
        (None, Some(directory)) => written(directory)?,
        // The command line does not let this through.
        (None, None) => return Err("give --address, or --data-dir of the node".into()),
    };
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(4_096).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask().map_err(|e| format!("{address} does not answer: {e}"))?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("{address} is not ready: {}", answer.lines().next_back().unwrap_or("no answer"))),
    }
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map(|mut addresses| addresses.next());
    found.ok().flatten().ok_or_else(|| format!("'{text}' is no address: give HOST:PORT"))
}

/// What the node wrote into its directory; a wildcard is reached by loopback.
fn written(directory: &Path) -> Result<SocketAddr, String> {
    let tenant = tenant(directory)
        .ok_or_else(|| format!("no node has written its address into {}", directory.display()))?;
    let mut address = tenant.address;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}
