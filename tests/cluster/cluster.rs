//! Some nodes, each with a directory of its own, that know each other.

use crate::support::{Client, Node, wait_until};
use serde_json::Value as Json;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long a cluster on a busy machine may take to settle.
pub const SETTLED: Duration = Duration::from_secs(60);

/// Says, past the capture of the test harness, that this machine can't run something.
pub fn skipped(what: &str, because: &str) {
    let line = format!("SKIPPED: {what} because {because}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Makes the command that runs a node, of its number, data directory and flags.
type Launcher = dyn Fn(usize, &Path, &[&str]) -> Command;

/// Nodes by number; one may be down.
pub struct Cluster {
    pub nodes: Vec<Option<Node>>,
    dirs: TempDir,
    /// Flags of each.
    flags: Box<dyn Fn(usize) -> Vec<String>>,
    /// What runs each, when it is not the plain binary.
    command: Box<Launcher>,
}

impl Cluster {
    /// So many nodes, the later ones joined by the first, settled.
    pub fn start(count: usize) -> Cluster {
        Cluster::with(count, &[])
    }

    /// The same with these flags on every node.
    pub fn with(count: usize, flags: &[&str]) -> Cluster {
        let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
        let mut cluster = Cluster::each(count, move |_| flags.clone());
        for number in 0..count {
            cluster.up(number);
        }
        cluster.settle();
        cluster
    }

    /// So many nodes with flags of their own, none of them up.
    pub fn each(count: usize, flags: impl Fn(usize) -> Vec<String> + 'static) -> Cluster {
        let dirs = tempfile::tempdir().expect("a directory");
        let command = Box::new(|_, dir: &Path, flags: &[&str]| Node::command(dir, flags));
        Cluster { nodes: (0..count).map(|_| None).collect(), dirs, flags: Box::new(flags), command }
    }

    /// Nodes that are started by these commands, which get the number, the data directory and the flags.
    pub fn run_by(mut self, command: impl Fn(usize, &Path, &[&str]) -> Command + 'static) -> Cluster {
        self.command = Box::new(command);
        self
    }

    pub fn dir(&self, number: usize) -> PathBuf {
        self.dirs.path().join(format!("node{number}"))
    }

    /// Starts a node on a new address; it joins by whoever is up.
    pub fn up(&mut self, number: usize) {
        let join: Vec<String> = self.alive().map(|node| node.address.to_string()).collect();
        let own = (self.flags)(number);
        let flags: Vec<&str> = join.iter().chain(&own).map(String::as_str).collect();
        let node = Node::launch((self.command)(number, &self.dir(number), &flags));
        self.nodes[number] = Some(node.unwrap_or_else(|log| panic!("node {number} did not serve:\n{log}")));
    }

    /// Starts a node on a new address that is told nobody to join by: it asks whom it knows.
    pub fn up_untold(&mut self, number: usize) {
        let node = Node::launch(Node::command(&self.dir(number), &[]));
        self.nodes[number] = Some(node.unwrap_or_else(|log| panic!("node {number} did not serve:\n{log}")));
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].take().expect("it is up").kill();
    }

    /// As an operator does it, of members that will not come back.
    pub fn evict_the_dead(&self) {
        wait_until(SETTLED, "the dead are down, and gone", || {
            let node = self.alive().next().expect("one is up");
            let membership = get(node.address, "/membership");
            let members = membership["members"].as_array().expect("members").clone();
            for member in members.iter().filter(|member| member["state"] == "down") {
                let path = format!("/membership/{}", member["id"].as_str().expect("an id"));
                assert!(matches!(node.request("DELETE", &path, "").status, 200 | 404));
            }
            members.len() == self.alive().count()
        });
    }

    pub fn node(&self, number: usize) -> &Node {
        self.nodes[number].as_ref().expect("it is up")
    }

    /// Waits until every node shows these values under these keys.
    pub fn shows(&self, held: &[(&str, &str)]) {
        for node in self.alive() {
            held.iter().for_each(|(key, value)| shows(node, key, Some(value)));
        }
    }

    pub fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Waits until all nodes that are up have the same, and see each other.
    pub fn settle(&self) {
        let count = self.alive().count();
        let seen = std::cell::RefCell::new(String::new());
        let settled = || {
            let stats: Vec<Json> = self.alive().map(|node| get(node.address, "/stats")).collect();
            let proof = |stats: &Json| (stats["version_vector"].clone(), stats["digest"].clone());
            let members: Vec<Json> = self.alive().map(|node| get(node.address, "/membership")).collect();
            *seen.borrow_mut() = format!("{stats:#?}\n{members:#?}");
            let rosters: Vec<Vec<(Json, Json)>> = members.iter().map(roster).collect();
            stats.windows(2).all(|pair| proof(&pair[0]) == proof(&pair[1]))
                && rosters.windows(2).all(|pair| pair[0] == pair[1])
                && members.iter().all(|members| alive(members) == count)
        };
        let deadline = std::time::Instant::now() + SETTLED;
        while !settled() {
            if std::time::Instant::now() > deadline {
                let logs: Vec<String> = self.alive().map(Node::log).collect();
                panic!("the cluster does not settle:\n{}\n{}", seen.borrow(), logs.join("\n---\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A node's id.
pub fn id(node: &Node) -> String {
    get(node.address, "/membership")["self"].as_str().expect("an id").to_owned()
}

/// What a path answers, as JSON.
pub fn get(address: SocketAddr, path: &str) -> Json {
    Client::new(address).request("GET", path, &[], b"").expect("an answer").json()
}

fn roster(membership: &Json) -> Vec<(Json, Json)> {
    let members = membership["members"].as_array().expect("members");
    members.iter().map(|member| (member["id"].clone(), member["address"].clone())).collect()
}

/// How many members are alive.
pub fn alive(membership: &Json) -> usize {
    let members = membership["members"].as_array().expect("members");
    members.iter().filter(|member| member["state"] == "alive").count()
}

/// The state that `node` gives to the member `id`.
pub fn state(node: &Node, id: &str) -> String {
    let membership = get(node.address, "/membership");
    let members = membership["members"].as_array().expect("members");
    let member = members.iter().find(|member| member["id"] == id);
    member.map_or_else(|| "none".to_owned(), |member| member["state"].as_str().expect("a state").to_owned())
}

/// Waits until `key` shows `value` on this node; `None`: nothing.
pub fn shows(node: &Node, key: &str, value: Option<&str>) {
    wait_until(SETTLED, &format!("{key} shows {value:?} on {}", node.address), || {
        let answer = node.request("GET", &format!("/key/{key}"), "");
        match value {
            Some(value) => answer.status == 200 && answer.json()["value"] == value,
            None => answer.status == 404,
        }
    });
}

pub fn put(node: &Node, path: &str, value: &str) -> crate::support::Response {
    node.request("PUT", &format!("/key/{path}"), &format!("{{\"value\": {value:?}}}"))
}

/// An address for a node that must be known before it is up. Below the ports that the system gives to others meanwhile, and
/// never the same twice.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + ((std::process::id() as u16 % 500) * 32 + step) % 16_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("it is bound");
        }
    }
}
