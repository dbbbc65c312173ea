//! etcd beside us: a cluster of any size, one member included, with default flags but for the room that it may take.
//! It is asked through its JSON gateway.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::Failure;
use super::child::{Server, free_addresses};
use super::load::{self, Plan, Until};
use super::request::{Operation, Request};

/// Starts a member in each of these directories, and waits until they answer.
pub fn start(dirs: &[&Path]) -> Result<Vec<Server>, Failure> {
    let addresses = free_addresses(2 * dirs.len())?;
    let (clients, peers) = addresses.split_at(dirs.len());
    let named = peers.iter().enumerate().map(|(index, peer)| format!("member{index}=http://{peer}"));
    let cluster = named.collect::<Vec<_>>().join(",");
    let mut members = Vec::new();
    for (index, dir) in dirs.iter().enumerate() {
        let (client, peer) = (format!("http://{}", clients[index]), format!("http://{}", peers[index]));
        let mut command = Command::new("etcd");
        command.arg("--name").arg(format!("member{index}")).arg("--data-dir").arg(dir.join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster]);
        command.args(["--quota-backend-bytes", "8589934592", "--log-level", "error"]);
        members.push(Server::launch(&mut command, clients[index])?);
    }
    for member in &mut members {
        member.until_ready(answers)?;
    }
    Ok(members)
}

/// Does a read of the majority come back?
fn answers(address: SocketAddr) -> bool {
    if TcpStream::connect(address).is_err() {
        return false;
    }
    let mut range = Request::etcd(address, Operation::Get, 0);
    let plan = Plan { address, connections: 1, keys: 1, until: Until::EveryKey, seed: 0 };
    load::run(&plan, &mut range).is_ok_and(|outcome| outcome.failures.is_empty())
}
