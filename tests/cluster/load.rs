//! Writers on all nodes of a cluster while things happen to it, and the verdict on what it holds at the end: every acknowledged
//! write is there, or was replaced by one that had seen it; all nodes hold the same.

use crate::cluster::{Cluster, get};
use crate::support::Client;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KEYS_EACH: u64 = 12;
const WRITERS: u64 = 6;

/// A writer gives a request up after this time: it may have been done.
const PATIENCE: Duration = Duration::from_secs(2);

/// SplitMix64 (Steele, Lea, Flood, 2014).
pub struct Random(pub u64);

impl Random {
    /// Of the environment, or another one each time; said, so that a run can be seen again, about.
    pub fn seeded() -> Random {
        let seed = std::env::var("DYNARUST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| {
            use std::hash::{BuildHasher, Hasher};
            std::hash::RandomState::new().build_hasher().finish()
        });
        println!("to see this run again, about: DYNARUST_SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % bound
    }

    pub fn pause(&mut self, from_ms: u64, to_ms: u64) {
        std::thread::sleep(Duration::from_millis(from_ms + self.below(to_ms - from_ms)));
    }
}

/// What an acknowledgement is taken to mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// The disks stay: what one node has said is said.
    OneDisk,
    /// A disk may be lost: it counts when two nodes have it.
    TwoDisks,
}

/// What a writer did to one of its keys, in its order. Keys have one writer each, which goes to any node.
#[derive(Clone, Copy)]
struct Step {
    /// The node, and which of its disks it was.
    node: (usize, u32),
    /// The number that was written; `None` is a delete.
    value: Option<u64>,
    acknowledged: bool,
}

type Steps = BTreeMap<String, Vec<Step>>;

/// Where the nodes are, and with which disk.
type Nodes = Vec<Option<(SocketAddr, u32)>>;

/// Writers at work.
pub struct Load {
    nodes: Arc<Mutex<Nodes>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Steps>>,
    /// How often each node's disk was lost or set back.
    disks: Vec<u32>,
}

impl Load {
    pub fn start(cluster: &Cluster, durable: Durable, random: &mut Random) -> Load {
        let nodes = Arc::new(Mutex::new(vec![None; cluster.nodes.len()]));
        let stop = Arc::new(AtomicBool::new(false));
        let seed = random.below(u64::MAX);
        let writer = |number| {
            let (nodes, stop) = (nodes.clone(), stop.clone());
            std::thread::spawn(move || write(number, Random(seed ^ (number << 32)), durable, &nodes, &stop))
        };
        let writers = (0..WRITERS).map(writer).collect();
        let mut load = Load { nodes, stop, writers, disks: vec![0; cluster.nodes.len()] };
        load.tell(cluster);
        load
    }

    /// Which nodes are up, and where.
    pub fn tell(&mut self, cluster: &Cluster) {
        let up = |(number, node): (usize, &Option<crate::support::Node>)| {
            node.as_ref().map(|node| (node.address, self.disks[number]))
        };
        *self.nodes.lock().unwrap() = cluster.nodes.iter().enumerate().map(up).collect();
    }

    /// A node will come back with another disk.
    pub fn lost_its_disk(&mut self, number: usize) {
        self.disks[number] += 1;
    }

    /// Ends the writers, waits until the cluster has settled, and judges; what the nodes have logged.
    pub fn judge(self, cluster: &Cluster) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let mut steps = Steps::new();
        self.writers.into_iter().for_each(|writer| steps.extend(writer.join().expect("the writer ran")));
        let begun = Instant::now();
        cluster.settle();
        let acknowledged: usize = steps.values().flatten().filter(|step| step.acknowledged).count();
        println!("{acknowledged} acknowledged writes, settled after {:?}", begun.elapsed());
        assert!(acknowledged > 100, "hardly any load: {acknowledged}");
        let mut guilty = Vec::new();
        for node in cluster.alive() {
            for (key, steps) in &steps {
                let answer = node.request("GET", &format!("/key/{key}"), "");
                let live: Vec<u64> = match answer.status {
                    404 => Vec::new(),
                    _ => {
                        let shown = answer.json();
                        let others = shown["conflicts"].as_array().cloned().unwrap_or_default();
                        let values = std::iter::once(&shown).chain(&others);
                        values.map(|shown| shown["value"].as_u64().expect("a number")).collect()
                    }
                };
                guilty.extend(judge(key, steps, &live).err());
            }
            assert_eq!(get(node.address, "/stats")["disk"]["blobs_files"], 0);
        }
        let logs: String = cluster.alive().map(|node| node.log() + "\n---\n").collect();
        assert!(guilty.is_empty(), "{}\n{logs}", guilty.join("\n"));
        assert!(!logs.contains("digest"), "{logs}");
        logs
    }
}

fn write(
    number: u64,
    mut random: Random,
    durable: Durable,
    nodes: &Mutex<Nodes>,
    stop: &AtomicBool,
) -> Steps {
    let mut steps = Steps::new();
    let mut clients: BTreeMap<usize, (SocketAddr, Client)> = BTreeMap::new();
    let mut value = 0;
    while !stop.load(Ordering::Relaxed) {
        let nodes = nodes.lock().unwrap().clone();
        let node = random.below(nodes.len() as u64) as usize;
        let Some((address, disk)) = nodes[node] else {
            clients.remove(&node);
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        if clients.get(&node).is_none_or(|(old, _)| *old != address) {
            let Ok(client) = Client::patient(address, PATIENCE) else { continue };
            clients.insert(node, (address, client));
        }
        let key = format!("w{number}k{}", random.below(KEYS_EACH));
        value += 1;
        let deletes = random.below(5) == 0;
        let w = match durable {
            Durable::OneDisk => ["", "?w=2&timeout_ms=300"][random.below(2) as usize],
            Durable::TwoDisks => "?w=2&timeout_ms=300",
        };
        let body = format!("{{\"value\": {value}}}");
        let (method, body) = if deletes { ("DELETE", "") } else { ("PUT", body.as_str()) };
        let (_, client) = clients.get_mut(&node).expect("just put there");
        let answer = client.request(method, &format!("/key/{key}{w}"), &[], body.as_bytes());
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        if answer.is_err() {
            clients.remove(&node);
        }
        if matches!(status, 404 | 503 | 507) {
            continue;
        }
        assert!(matches!(status, 0 | 200 | 201 | 202), "{status}");
        let acknowledged = status != 0 && (durable == Durable::OneDisk || status != 202);
        let step = Step { node: (node, disk), value: (!deletes).then_some(value), acknowledged };
        steps.entry(key).or_default().push(step);
    }
    steps
}

/// What must be, and must not be, of one key.
fn judge(key: &str, steps: &[Step], live: &[u64]) -> Result<(), String> {
    // A write by a node replaces all that this node holds: of each node's writes only the last can live, or one that
    // got no answer after it.
    for value in live {
        let Some(at) = steps.iter().position(|step| step.value == Some(*value)) else {
            return Err(format!("{key} shows {value}, which nobody wrote"));
        };
        let replaced = |step: &&Step| step.node == steps[at].node && step.acknowledged;
        if let Some(later) = steps[at + 1..].iter().find(replaced) {
            return Err(format!("{key} shows {value}, replaced on the same node by {:?}", later.value));
        }
    }
    // The last acknowledged write has been seen by nobody who wrote later, unless somebody without an answer.
    let Some(last) = steps.iter().rposition(|step| step.acknowledged) else { return Ok(()) };
    let in_doubt = &steps[last + 1..];
    match steps[last].value {
        Some(value) if in_doubt.is_empty() && !live.contains(&value) => {
            Err(format!("{key} lost {value}, acknowledged last; it shows {live:?}"))
        }
        _ => Ok(()),
    }
}
