//! Many nodes: how soon all of them see all others alive, how soon they see that one is gone, and what each costs while
//! nothing happens. A cost a node that grows with the number of nodes grows with its square in the cluster.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{Cluster, Kind};
use crate::options::Options;
use crate::shared::Failure;
use crate::shared::client::Client;
use crate::shared::machine::{self, Room};
use crate::shared::report::{Report, Table, median, rate_text};

/// Measures and reports.
pub fn measure(options: &Options, room: &Room, report: &mut Report) -> Result<(), Failure> {
    let mut cluster = Cluster::start(Kind::Node, 1, room)?;
    let mut table = Table::new(&[
        "nodes",
        "all alive everywhere after the last join",
        "memory a node",
        "idle, CPU a node",
        "idle, loopback bytes/s a node",
        "packets/s a node",
    ]);
    let quiet_before = traffic(options.idle_seconds)?;
    for &size in &options.members {
        while cluster.servers.len() < size {
            cluster.add_node(room, &FLAGS)?;
        }
        let joined = Instant::now();
        let mut clients = open(&cluster)?;
        until_all(&mut clients, |seen| {
            let all = seen["members"].as_array().is_some_and(|members| members.len() == size);
            all && crate::cluster::alive(seen) == size
        })?;
        let converged = joined.elapsed();
        same(&mut clients)?;
        drop(clients);
        eprintln!("members: {size} after {:.1} s", converged.as_secs_f64());
        std::thread::sleep(SETTLE);
        let cpu = cluster.cpu().unwrap_or_default();
        let since = Instant::now();
        let (bytes, packets) = traffic(options.idle_seconds)?;
        let spent = cluster.cpu().unwrap_or_default().saturating_sub(cpu);
        let share = spent.as_secs_f64() / since.elapsed().as_secs_f64() / size as f64;
        let memory = cluster.servers.iter().map(|server| machine::memory_mib(server.pid()));
        table.row(vec![
            size.to_string(),
            format!("{:.1} s", converged.as_secs_f64()),
            format!("{:.0} MiB", memory.sum::<f64>() / size as f64),
            format!("{:.2} %", share * 100.0),
            rate_text((bytes - quiet_before.0).max(0.0) / size as f64),
            rate_text((packets - quiet_before.1).max(0.0) / size as f64),
        ]);
    }
    report.section("Members");
    report.line(&format!(
        "Nodes with `{}`, started one after the other; idle for {} s. CPU is a share of one core.",
        FLAGS.join(" "),
        options.idle_seconds
    ));
    report.line("");
    report.table(&table);
    let gone = Client::open(cluster.servers[cluster.servers.len() - 1].address)?.stats()?["node_id"].clone();
    cluster.drop_newest();
    let killed = Instant::now();
    until_all(&mut open(&cluster)?, |seen| {
        let members = seen["members"].as_array().map_or(&[][..], Vec::as_slice);
        members.iter().any(|member| member["id"] == gone && member["state"] == "down")
    })?;
    report.line("");
    report.line(&format!(
        "One of {} was killed: `down` on every other after {:.1} s.",
        cluster.servers.len() + 1,
        killed.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn open(cluster: &Cluster) -> Result<Vec<Client>, Failure> {
    cluster.servers.iter().map(|server| Client::open(server.address)).collect()
}

/// Waits until each has seen it: who has is not asked again, since fifty questions cost something too.
fn until_all(clients: &mut [Client], seen: impl Fn(&Json) -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + SEEN_MAX;
    for client in clients {
        loop {
            let membership = client.json("GET", "/membership")?;
            if seen(&membership) {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("not seen within {SEEN_MAX:?} by a node that says {membership}").into());
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Do all of them name the same members, with the same addresses?
fn same(clients: &mut [Client]) -> Result<(), Failure> {
    let mut lists = BTreeSet::new();
    for client in clients {
        let membership = client.json("GET", "/membership")?;
        let members = membership["members"].as_array().ok_or("a membership without members")?;
        let names: Vec<String> = members.iter().map(|m| format!("{} {}", m["id"], m["address"])).collect();
        lists.insert((membership["cluster"].to_string(), names));
    }
    if lists.len() > 1 {
        return Err("the nodes name different members".into());
    }
    Ok(())
}

/// Bytes and packets a second on loopback: the median of single seconds, since others may use it for a moment.
fn traffic(seconds: u64) -> Result<(f64, f64), Failure> {
    let (mut bytes, mut packets) = (Vec::new(), Vec::new());
    for _ in 0..seconds.max(1) {
        let (before, since) = (machine::loopback()?, Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let after = machine::loopback()?;
        let took = since.elapsed().as_secs_f64();
        bytes.push((after.0 - before.0) as f64 / took);
        packets.push((after.1 - before.1) as f64 / took);
    }
    Ok((median(bytes), median(packets)))
}

const FLAGS: [&str; 2] = ["--cache-mib", "1"];
const LOOK: Duration = Duration::from_millis(50);
const SETTLE: Duration = Duration::from_secs(3);
const SEEN_MAX: Duration = Duration::from_secs(120);
