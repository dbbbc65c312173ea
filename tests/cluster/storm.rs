//! Nodes that are killed under load: any subset, at any time, coming back under new addresses, with an empty disk, with an
//! old copy of it.

use crate::cluster::{Cluster, get};
use crate::load::{Durable, Load, Random};
use crate::membership::copy;
use crate::support::Client;

fn storm(count: usize, rounds: u64) {
    let mut random = Random::seeded();
    let mut cluster = Cluster::start(count);
    let mut load = Load::start(&cluster, Durable::OneDisk, &mut random);
    for _ in 0..rounds {
        random.pause(200, 1_000);
        let mut down = Vec::new();
        for number in 0..count {
            if random.below(2) == 0 {
                cluster.kill(number);
                down.push(number);
            }
        }
        load.tell(&cluster);
        random.pause(0, 600);
        for number in down {
            cluster.up(number);
            load.tell(&cluster);
        }
    }
    load.judge(&cluster);
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

/// One disk at a time is lost, or set back to an older copy: what two nodes had is there.
#[test]
fn a_lost_disk_loses_nothing_that_two_had() {
    let mut random = Random::seeded();
    let mut cluster = Cluster::start(3);
    let mut load = Load::start(&cluster, Durable::TwoDisks, &mut random);
    for round in 0..rounds(6) {
        let victim = random.below(3) as usize;
        let backup = cluster.dir(victim).with_extension(format!("backup{round}"));
        let sets_back = random.below(2) == 0;
        let down = |cluster: &mut Cluster, load: &mut Load| {
            cluster.kill(victim);
            load.tell(cluster);
        };
        let up = |cluster: &mut Cluster, load: &mut Load| {
            cluster.up(victim);
            load.tell(cluster);
        };
        if sets_back {
            down(&mut cluster, &mut load);
            copy(&cluster.dir(victim), &backup);
            up(&mut cluster, &mut load);
            random.pause(500, 1_500);
        }
        down(&mut cluster, &mut load);
        std::fs::remove_dir_all(cluster.dir(victim)).expect("it can be removed");
        if sets_back {
            copy(&backup, &cluster.dir(victim));
        }
        load.lost_its_disk(victim);
        up(&mut cluster, &mut load);
        random.pause(500, 1_500);
        // The dead one that it was goes by itself when it was set back, else an operator evicts it.
        if !sets_back {
            cluster.evict_the_dead();
        }
    }
    load.judge(&cluster);
}

/// A new node is sent everything, and is killed in the middle of it, again and again; the one that sends as well. Pieces of a
/// sweep change keys without an event of the log: each start proves that what was cut off could be repaired.
#[test]
fn a_sweep_survives_the_death_of_both_ends() {
    let mut random = Random::seeded();
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
        random.pause(20, 170);
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
