//! Leaving and being made to leave: who asks is told the truth, in time, and who is out stays out.

use crate::cluster::{Cluster, SETTLED, get, id, put, shows, state};
use crate::support::{Node, Response, SOON, wait_until};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A container engine kills a node that it has told to stop after so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a node to leave, beside whatever else is asked.
fn ask_to_leave(node: &Node) -> JoinHandle<Result<Response, String>> {
    let address = node.address;
    std::thread::spawn(move || {
        let mut client = crate::support::Client::connect(address).map_err(|e| e.to_string())?;
        client.request("POST", "/cluster/leave", &[], b"").map_err(|e| e.to_string())
    })
}

fn is_about_to_leave(node: &Node) {
    wait_until(SOON, "it takes no more requests", || node.request("GET", "/stats", "").status == 503);
}

/// A member that stands still is taken for alive for some seconds, and has nothing and tells nothing.
#[test]
fn a_node_leaves_in_time_though_a_member_stands_still() {
    let mut cluster = Cluster::start(3);
    put(cluster.node(2), "k?w=3", "x");
    let leaver = id(cluster.node(2));
    cluster.node(1).signal(libc::SIGSTOP);
    put(cluster.node(2), "l?w=2", "y");
    let asked = Instant::now();
    let told = ask_to_leave(cluster.node(2)).join().unwrap().expect("an answer");
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    assert_eq!((told.status, told.json()["members_that_know"].as_u64()), (200, Some(1)), "{}", told.text());
    let mut node = cluster.nodes[2].take().unwrap();
    assert_eq!(node.wait(SOON).code(), Some(0), "{}", node.log());
    assert!(asked.elapsed() < PATIENCE, "it stopped after {:?}", asked.elapsed());
    assert_eq!(state(cluster.node(0), &leaver), "none");
    cluster.node(1).signal(libc::SIGCONT);
    wait_until(SETTLED, "all know", || state(cluster.node(1), &leaver) == "none");
    cluster.shows(&[("k", "x"), ("l", "y")]);
}

#[test]
fn all_who_ask_a_node_to_leave_are_told_the_same() {
    let mut cluster = Cluster::start(3);
    cluster.node(1).signal(libc::SIGSTOP);
    put(cluster.node(2), "l?w=2", "y");
    let first = ask_to_leave(cluster.node(2));
    is_about_to_leave(cluster.node(2));
    let mut asked = vec![first];
    asked.extend((0..3).map(|_| ask_to_leave(cluster.node(2))));
    for asked in asked {
        let told = asked.join().unwrap().expect("an answer");
        assert_eq!(
            (told.status, told.json()["members_that_know"].as_u64()),
            (200, Some(1)),
            "{}",
            told.text()
        );
    }
    assert_eq!(cluster.nodes[2].take().unwrap().wait(SOON).code(), Some(0));
    cluster.node(1).signal(libc::SIGCONT);
}

/// As do those who ask a node that stays; nobody's question is kept for later.
#[test]
fn all_who_ask_a_node_that_stays_are_told_so() {
    let cluster = Cluster::start(2);
    cluster.node(0).signal(libc::SIGSTOP);
    put(cluster.node(1), "only-here", "x");
    let first = ask_to_leave(cluster.node(1));
    is_about_to_leave(cluster.node(1));
    let asked = [first, ask_to_leave(cluster.node(1)), ask_to_leave(cluster.node(1))];
    let since = Instant::now();
    for asked in asked {
        let told = asked.join().unwrap().expect("an answer");
        assert_eq!(
            (told.status, told.text().contains("no other member is known")),
            (409, true),
            "{}",
            told.text()
        );
    }
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    cluster.node(0).signal(libc::SIGCONT);
    cluster.settle();
    cluster.shows(&[("only-here", "x")]);
}

/// Whoever asks while the node stops for another reason.
#[test]
fn who_asks_a_node_that_stops_to_leave_is_told_how_it_stops() {
    let mut cluster = Cluster::with(3, &["--leave-on-exit"]);
    cluster.node(1).signal(libc::SIGSTOP);
    put(cluster.node(2), "l?w=2", "y");
    cluster.node(2).signal(libc::SIGTERM);
    is_about_to_leave(cluster.node(2));
    let told = ask_to_leave(cluster.node(2)).join().unwrap().expect("an answer");
    assert_eq!((told.status, told.json()["members_that_know"].as_u64()), (200, Some(1)), "{}", told.text());
    assert_eq!(cluster.nodes[2].take().unwrap().wait(SOON).code(), Some(0));
    cluster.node(1).signal(libc::SIGCONT);
}

#[test]
fn a_node_that_is_alone_has_nobody_to_leave() {
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &["--leave-on-exit"]);
    let cluster = get(node.address, "/membership")["cluster"].clone();
    let told = node.request("POST", "/cluster/leave", "");
    assert_eq!((told.status, told.text().contains("no other member")), (409, true), "{}", told.text());
    let address = node.address.to_string();
    let told =
        Command::new(crate::support::binary()).args(["leave", "--address", &address]).output().unwrap();
    assert_eq!(told.status.code(), Some(1), "{}", String::from_utf8_lossy(&told.stdout));
    assert_eq!(put(&node, "k", "x").status, 201, "it serves on");
    // To stop is all that it can do, and no failure.
    assert_eq!(node.stop().code(), Some(0));
    let node = Node::start(dirs.path(), &[]);
    assert_eq!(get(node.address, "/membership")["cluster"], cluster);
    shows(&node, "k", Some("x"));
}
