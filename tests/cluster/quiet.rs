//! What the log calls a warning or an error is for an operator to act on: what passes by itself is neither, and what lasts is
//! told.

use crate::cluster::{Cluster, SETTLED, alive, free_address, get, id, put, state};
use crate::membership::copy;
use crate::support::{Node, wait_until};
use std::process::Command;

/// What a log says that somebody should act on.
fn alarms(log: &str) -> Vec<String> {
    let alarm = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    log.lines().filter(alarm).map(str::to_owned).collect()
}

fn no_alarms(nodes: &[&Node]) {
    let all: Vec<String> = nodes.iter().flat_map(|node| alarms(&node.log())).collect();
    assert_eq!(all, [""; 0]);
}

/// Starts a node that was stopped where it was.
fn back(cluster: &mut Cluster, number: usize, address: &str) {
    let mut command = Command::new(crate::support::binary());
    command.arg(address).arg("--data-dir").arg(cluster.dir(number));
    cluster.nodes[number] = Some(Node::launch(command).expect("it serves"));
}

#[test]
fn healthy_joins_restarts_and_leaves_raise_no_alarm() {
    let mut cluster = Cluster::start(6);
    no_alarms(&cluster.alive().collect::<Vec<_>>());
    let address = cluster.node(1).address.to_string();
    assert_eq!(cluster.nodes[1].take().unwrap().stop().code(), Some(0));
    back(&mut cluster, 1, &address);
    cluster.settle();
    let leaver = id(cluster.node(5));
    assert_eq!(cluster.node(5).request("POST", "/cluster/leave", "").status, 200);
    let mut left = cluster.nodes[5].take().unwrap();
    assert_eq!(left.wait(SETTLED).code(), Some(0), "{}", left.log());
    for node in cluster.alive() {
        wait_until(SETTLED, "it is no member any more", || state(node, &leaver) == "none");
    }
    cluster.settle();
    no_alarms(&cluster.alive().chain([&left]).collect::<Vec<_>>());
}

/// All at once, as after a power cut: who is not there yet will be.
#[test]
fn a_cluster_that_comes_up_together_raises_no_alarm() {
    let mut cluster = Cluster::start(4);
    let addresses: Vec<String> = cluster.alive().map(|node| node.address.to_string()).collect();
    (0..4).for_each(|number| cluster.kill(number));
    let launches: Vec<Node> = std::thread::scope(|scope| {
        let launch = |number: usize| {
            let mut command = Command::new(crate::support::binary());
            command.arg(&addresses[number]).arg("--data-dir").arg(cluster.dir(number));
            scope.spawn(move || Node::launch(command).expect("it serves"))
        };
        let launched: Vec<_> = (0..4).map(launch).collect();
        launched.into_iter().map(|node| node.join().unwrap()).collect()
    });
    cluster.nodes = launches.into_iter().map(Some).collect();
    cluster.settle();
    no_alarms(&cluster.alive().collect::<Vec<_>>());
}

/// As every deployment does it that gives all nodes the same list: each is told once that it is in it itself.
#[test]
fn a_new_cluster_that_comes_up_together_raises_no_alarm() {
    let dirs = tempfile::tempdir().unwrap();
    let addresses: Vec<String> = (0..3).map(|_| free_address().to_string()).collect();
    let nodes: Vec<Node> = std::thread::scope(|scope| {
        let launch = |number: usize| {
            let mut command = Command::new(crate::support::binary());
            command.arg(&addresses[number]).args(&addresses);
            command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
            scope.spawn(move || Node::launch(command).expect("it serves"))
        };
        let launched: Vec<_> = (0..3).map(launch).collect();
        launched.into_iter().map(|node| node.join().unwrap()).collect()
    });
    for node in &nodes {
        wait_until(SETTLED, "all are members", || alive(&get(node.address, "/membership")) == 3);
        let others: Vec<String> = alarms(&node.log())
            .into_iter()
            .filter(|line| !line.contains("this node's own address"))
            .collect();
        assert_eq!(others, [""; 0]);
    }
    // What stays away is told.
    let gone = free_address().to_string();
    let waits = Node::start(&dirs.path().join("waits"), &[&gone]);
    wait_until(SETTLED, "it says so", || alarms(&waits.log()).iter().any(|line| line.contains(&gone)));
}

/// It goes on under another id, and where the former one was it answers itself, until that is taken out.
#[test]
fn a_node_that_was_set_back_is_the_only_one_to_say_so() {
    let mut cluster = Cluster::start(3);
    let (old, address) = (id(cluster.node(2)), cluster.node(2).address.to_string());
    assert_eq!(cluster.nodes[2].take().unwrap().stop().code(), Some(0));
    let backup = cluster.dir(2).with_extension("backup");
    copy(&cluster.dir(2), &backup);
    back(&mut cluster, 2, &address);
    put(cluster.node(2), "new?w=3", "y");
    cluster.settle();
    assert_eq!(cluster.nodes[2].take().unwrap().stop().code(), Some(0));
    std::fs::remove_dir_all(cluster.dir(2)).unwrap();
    copy(&backup, &cluster.dir(2));
    back(&mut cluster, 2, &address);
    for node in cluster.alive() {
        wait_until(SETTLED, "the old id is no member any more", || state(node, &old) == "none");
    }
    cluster.settle();
    no_alarms(&[cluster.node(0), cluster.node(1)]);
    let told = alarms(&cluster.node(2).log());
    assert!(told.len() == 1 && told[0].contains("it was rolled back"), "{told:#?}");
}

#[test]
fn what_lasts_is_told() {
    let mut cluster = Cluster::start(3);
    let (evicted, dead) = (id(cluster.node(1)), id(cluster.node(2)));
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    let told = || alarms(&cluster.node(1).log()).iter().any(|line| line.contains("this node was evicted"));
    wait_until(SETTLED, "the evicted one says so", told);
    cluster.kill(2);
    let down = format!("member {dead} is down");
    wait_until(SETTLED, "who is down is told of", || {
        alarms(&cluster.node(0).log()).iter().any(|line| line.contains(&down))
    });
    let log = cluster.node(0).log();
    assert_eq!(log.matches(&down).count(), 1, "{log}");
}
