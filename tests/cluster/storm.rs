//! Writers on all nodes, and nodes that are killed under them: any subset, at any time, coming back under new addresses. At
//! the end every acknowledged write is there, or was replaced by one that had seen it, and all nodes hold the same.

use crate::cluster::{Cluster, get};
use crate::support::Client;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KEYS_EACH: u64 = 12;
const WRITERS: u64 = 6;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % bound
    }
}

/// What a writer did to one of its keys, in its order. Keys have one writer each, which goes to any node.
#[derive(Clone, Copy)]
struct Step {
    node: usize,
    /// The number that was written; `None` is a delete.
    value: Option<u64>,
    acknowledged: bool,
}

type Steps = BTreeMap<String, Vec<Step>>;

fn writer(
    number: u64,
    seed: u64,
    addresses: Arc<Mutex<Vec<Option<SocketAddr>>>>,
    stop: Arc<AtomicBool>,
) -> Steps {
    let mut random = Random(seed ^ (number << 32));
    let mut steps = Steps::new();
    let mut clients: BTreeMap<usize, (SocketAddr, Client)> = BTreeMap::new();
    let mut value = 0;
    while !stop.load(Ordering::Relaxed) {
        let nodes = addresses.lock().unwrap().clone();
        let node = random.below(nodes.len() as u64) as usize;
        let Some(address) = nodes[node] else {
            clients.remove(&node);
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        if clients.get(&node).is_none_or(|(old, _)| *old != address) {
            let Ok(client) = Client::connect(address) else { continue };
            clients.insert(node, (address, client));
        }
        let key = format!("w{number}k{}", random.below(KEYS_EACH));
        value += 1;
        let deletes = random.below(5) == 0;
        let w = ["", "?w=2&timeout_ms=300"][random.below(2) as usize];
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
        let step = Step { node, value: (!deletes).then_some(value), acknowledged: status != 0 };
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

fn storm(count: usize, rounds: u64) {
    let seed = std::env::var("DYNARUST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        use std::hash::{BuildHasher, Hasher};
        std::hash::RandomState::new().build_hasher().finish()
    });
    println!("to see this run again, about: DYNARUST_SEED={seed}");
    let mut random = Random(seed);
    let mut cluster = Cluster::start(count);
    let addresses = Arc::new(Mutex::new(vec![None; count]));
    let tell = |cluster: &Cluster| {
        *addresses.lock().unwrap() =
            cluster.nodes.iter().map(|node| node.as_ref().map(|node| node.address)).collect();
    };
    tell(&cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (addresses, stop) = (addresses.clone(), stop.clone());
            std::thread::spawn(move || writer(number, seed, addresses, stop))
        })
        .collect();
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(200 + random.below(800)));
        let mut down = Vec::new();
        for number in 0..count {
            if random.below(2) == 0 {
                cluster.kill(number);
                down.push(number);
            }
        }
        tell(&cluster);
        std::thread::sleep(Duration::from_millis(random.below(600)));
        for number in down {
            cluster.up(number);
            tell(&cluster);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut steps = Steps::new();
    writers.into_iter().for_each(|writer| steps.extend(writer.join().expect("the writer ran")));
    let begun = Instant::now();
    cluster.settle();
    let acknowledged: usize = steps.values().flatten().filter(|step| step.acknowledged).count();
    println!("{acknowledged} acknowledged writes, settled after {:?}", begun.elapsed());
    assert!(acknowledged > 500, "hardly any load: {acknowledged}");
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
    assert!(guilty.is_empty(), "DYNARUST_SEED={seed}\n{}\n{logs}", guilty.join("\n"));
    assert!(!logs.contains("digest"), "{logs}");
}

fn rounds(default: u64) -> u64 {
    std::env::var("DYNARUST_STORMS").map_or(default, |n| n.parse().expect("DYNARUST_STORMS is a number"))
}

#[test]
fn three_nodes_lose_nothing() {
    storm(3, rounds(8));
}

#[test]
fn five_nodes_lose_nothing() {
    storm(5, rounds(5));
}

/// A new node is sent everything, and is killed in the middle of it, again and again; the one that sends as well. Pieces of a
/// sweep change keys without an event of the log: each start proves that what was cut off could be repaired.
#[test]
fn a_sweep_survives_the_death_of_both_ends() {
    let mut random = Random(std::process::id().into());
    let mut cluster = Cluster::with(2, &["--log-mib", "0", "--log-held-mib", "1"]);
    let value = |n: u64| {
        format!("{{\"value\": \"{n}-{}\"}}", "x".repeat(if n.is_multiple_of(50) { 30_000 } else { 900 }))
    };
    const KEYS: u64 = 12_000;
    let mut writers = Vec::new();
    for lane in 0..8 {
        let address = cluster.node(lane as usize % 2).address;
        writers.push(std::thread::spawn(move || {
            let mut client = Client::new(address);
            for n in (lane..KEYS).step_by(8) {
                let answer = client.request("PUT", &format!("/key/k{n}"), &[], value(n).as_bytes());
                assert_eq!(answer.expect("an answer").status, 201);
            }
        }));
    }
    writers.into_iter().for_each(|writer| writer.join().expect("it wrote"));
    cluster.settle();
    cluster.nodes.push(None);
    cluster.up(2);
    for round in 0..12 {
        std::thread::sleep(Duration::from_millis(20 + random.below(150)));
        let victim = if round % 4 == 3 { random.below(2) as usize } else { 2 };
        cluster.kill(victim);
        // Deletes meanwhile, so that there is something to drop and to forget as well.
        for _ in 0..20 {
            let other = cluster.node(if victim == 0 { 1 } else { 0 });
            let path = format!("/key/k{}", random.below(KEYS));
            assert!(matches!(other.request("DELETE", &path, "").status, 200 | 404));
        }
        cluster.up(victim);
    }
    cluster.settle();
    let keys = get(cluster.node(2).address, "/stats")["keys"].as_u64().expect("a number");
    assert!(keys > KEYS - 400, "{keys}");
}
