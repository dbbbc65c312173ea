//! A cluster that takes part: three members of a kind, how they are started and how each is asked. The first member is the
//! one that is written to: any of ours, the primary of Redis, the leader of etcd.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::options::Options;
use crate::shared::child::Server;
use crate::shared::client::Client;
use crate::shared::load::{self, Outcome, Plan, Until};
use crate::shared::machine::{self, Room};
use crate::shared::report::Report;
use crate::shared::request::{Operation, Request};
use crate::shared::{Failure, etcd, redis, sample};

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Node,
    Redis,
    Etcd,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "DynaRust, 3 nodes",
            Kind::Redis => "Redis, primary and 2 replicas",
            Kind::Etcd => "etcd, 3 members",
        }
    }

    /// Why this kind can't take part here, in words to print.
    fn missing(self) -> Option<String> {
        match self {
            Kind::Node => None,
            Kind::Redis => sample::missing("redis", &[("redis-server", "redis-server")]),
            Kind::Etcd => sample::missing("etcd", &[("etcd", "etcd-server")]),
        }
    }
}

/// Running servers and their data.
pub struct Cluster {
    pub kind: Kind,
    pub servers: Vec<Server>,
    dirs: Vec<TempDir>,
}

/// Everybody who competes and is installed here; who is not is named.
pub fn line_up(options: &Options, room: &Room, report: &mut Report) -> Result<Vec<Cluster>, Failure> {
    let mut clusters = Vec::new();
    for kind in options.contestants() {
        match kind.missing() {
            Some(why) => report.line(&why),
            None => clusters.push(Cluster::start(kind, MEMBERS, room)?),
        }
    }
    Ok(clusters)
}

impl Cluster {
    pub fn start(kind: Kind, members: usize, room: &Room) -> Result<Cluster, Failure> {
        let mut cluster = Cluster { kind, servers: Vec::new(), dirs: Vec::new() };
        match kind {
            Kind::Node => {
                for _ in 0..members {
                    cluster.add_node(room, &[])?;
                }
                cluster.until_joined()?;
            }
            Kind::Redis => {
                for _ in 0..members {
                    let dir = room.subdirectory("redis-")?;
                    let primary = cluster.servers.first().map(|server| server.address);
                    cluster.servers.push(redis::start_as(dir.path(), primary)?);
                    cluster.dirs.push(dir);
                }
            }
            Kind::Etcd => {
                for _ in 0..members {
                    cluster.dirs.push(room.subdirectory("etcd-")?);
                }
                let paths: Vec<&Path> = cluster.dirs.iter().map(TempDir::path).collect();
                cluster.servers = etcd::start(&paths)?;
                cluster.leader_first()?;
            }
        }
        Ok(cluster)
    }

    /// Starts a node more, which joins by the first one. Comes back when it serves, not when it has joined.
    pub fn add_node(&mut self, room: &Room, flags: &[&str]) -> Result<(), Failure> {
        let dir = room.subdirectory("node-")?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_DynaRust"));
        command.arg("127.0.0.1:0");
        if let Some(first) = self.servers.first() {
            command.arg(first.address.to_string());
        }
        command.arg("--data-dir").arg(dir.path().join("data")).args(flags);
        self.servers.push(Server::start_serving(&mut command)?);
        self.dirs.push(dir);
        Ok(())
    }

    /// Kills the newest node and removes what it had.
    pub fn drop_newest(&mut self) {
        self.servers.pop();
        self.dirs.pop();
    }

    /// Waits until every node sees all the others alive.
    pub fn until_joined(&self) -> Result<(), Failure> {
        let mut waiting: Vec<usize> = (0..self.servers.len()).collect();
        self.until("did not find all others alive", || {
            waiting.retain(|&index| {
                let seen =
                    Client::open(self.servers[index].address).and_then(|mut c| c.json("GET", "/membership"));
                !seen.is_ok_and(|seen| alive(&seen) == self.servers.len())
            });
            Ok(waiting.is_empty())
        })
    }

    /// Waits until every member holds what the first one holds; how long that took.
    pub fn until_equal(&self) -> Result<Duration, Failure> {
        let start = Instant::now();
        match self.kind {
            Kind::Node => {
                let clients: Result<Vec<Client>, Failure> =
                    self.servers.iter().map(|server| Client::open(server.address)).collect();
                let mut clients = clients?;
                self.until("did not come to hold the same", || {
                    let held: Result<Vec<Json>, Failure> = clients.iter_mut().map(Client::stats).collect();
                    let held = held?;
                    Ok(held.iter().all(|stats| stats["version_vector"] == held[0]["version_vector"]))
                })?;
            }
            Kind::Redis => {
                let mut client = Client::open(self.first())?;
                let mut request = Request::redis(Operation::Put, PROBE_BYTES, self.servers.len() - 1);
                let answers = request.answers;
                let bytes = request.with(PROBE_KEY - 1, 0);
                self.until("did not come to hold the same", || Ok(client.ask(bytes, answers)?.0 == 200))?;
            }
            // A write is answered when a majority has it, and no member may lag by much.
            Kind::Etcd => {}
        }
        Ok(start.elapsed())
    }

    /// Where it is written to.
    pub fn first(&self) -> SocketAddr {
        self.servers[0].address
    }

    /// Processor time of all members.
    pub fn cpu(&self) -> Option<Duration> {
        Some(self.servers.iter().map(|server| machine::cpu_of(server.pid())).sum())
    }

    /// A request to one of the members, with the weakest promise that the kind has.
    pub fn request(&self, member: usize, operation: Operation, value_bytes: usize) -> Request {
        let address = self.servers[member].address;
        match self.kind {
            Kind::Node => Request::node(address, operation, value_bytes),
            Kind::Redis => Request::redis(operation, value_bytes, 0),
            Kind::Etcd => Request::etcd_serializable(address, operation, value_bytes),
        }
    }

    /// Writes with all connections to the first member until it is stopped.
    pub fn load(&self, options: &Options, seed: u64) -> Load {
        let raised = Arc::new(AtomicBool::new(false));
        let plan = Plan {
            address: self.first(),
            connections: options.connections,
            keys: options.keys,
            until: Until::Raised(raised.clone()),
            seed,
        };
        let mut request = self.request(0, Operation::Put, options.value_bytes);
        let run = move || load::run(&plan, &mut request).map_err(|e| e.to_string());
        Load { raised, thread: std::thread::spawn(run) }
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
        let deadline = Instant::now() + WAIT_MAX;
        while !done()? {
            if Instant::now() > deadline {
                return Err(self.servers[0].complaint(&format!("and its cluster {what}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Puts the leader of etcd first: writes to another member would take a hop more.
    fn leader_first(&mut self) -> Result<(), Failure> {
        for index in 0..self.servers.len() {
            let status = Client::open(self.servers[index].address)?.json("POST", "/v3/maintenance/status")?;
            if status["leader"] == status["header"]["member_id"] {
                self.servers.swap(0, index);
                return Ok(());
            }
        }
        Err("none of the members of etcd leads".into())
    }
}

/// How many members are alive, in what a node answers.
pub fn alive(membership: &Json) -> usize {
    let members = membership["members"].as_array().map_or(&[][..], Vec::as_slice);
    members.iter().filter(|member| member["state"] == "alive").count()
}

/// How much of `origin`'s events is in a version vector.
pub fn events(stats: &Json, origin: &Json) -> u64 {
    origin.as_str().and_then(|origin| stats["version_vector"][origin].as_u64()).unwrap_or(0)
}

/// A load that goes on.
pub struct Load {
    raised: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome, String>>,
}

impl Load {
    pub fn stop(self) -> Result<Outcome, Failure> {
        self.raised.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().map_err(|_| "the load generator panicked")?;
        Ok(outcome?)
    }
}

pub const MEMBERS: usize = 3;
/// Beyond every key that a load writes.
pub const PROBE_KEY: u64 = 999_999_999_999;
const PROBE_BYTES: usize = 100;
const WAIT_MAX: Duration = Duration::from_secs(300);
