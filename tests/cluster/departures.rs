//! Leaving and being made to leave: who asks is told the truth, in time, and who is out stays out.

use crate::cluster::{Cluster, SETTLED, get, id, put, shows, state};
use crate::evictions::evict;
use crate::proxy::{Line, Proxy};
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

/// Nobody knows whether those who are down come back, and with their disks: the last one that serves stays.
#[test]
fn a_node_whose_others_are_all_down_stays() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(1), "k?w=2", "x");
    let gone = id(cluster.node(0));
    cluster.kill(0);
    wait_until(SETTLED, "it is found out", || state(cluster.node(1), &gone) == "down");
    let told = ask_to_leave(cluster.node(1)).join().unwrap().expect("an answer");
    assert_eq!(told.status, 409, "{}", told.text());
    assert!(told.text().contains(&format!("start one of {gone}")), "{}", told.text());
    shows(cluster.node(1), "k", Some("x"));
    cluster.up(0);
    cluster.settle();
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

/// Each has all that the other has. The third has not, and can't get it just now.
#[test]
fn two_that_leave_at_once_do_not_count_on_each_other() {
    let (mut cluster, line) = with_one_behind_a_line();
    cluster.up(2);
    cluster.settle();
    line.set(Line::Silent);
    put(cluster.node(0), "k?w=2", "x");
    let asked = [ask_to_leave(cluster.node(0)), ask_to_leave(cluster.node(2))];
    let told = asked.map(|asked| asked.join().unwrap().expect("an answer"));
    let stay: Vec<usize> =
        [0, 2].into_iter().zip(&told).filter(|(_, told)| told.status == 409).map(|(at, _)| at).collect();
    assert!(!stay.is_empty(), "both left: {} {}", told[0].text(), told[1].text());
    line.set(Line::Good);
    shows(cluster.node(1), "k", Some("x"));
    let stays: Vec<String> = stay.iter().map(|number| id(cluster.node(*number))).collect();
    for id in &stays {
        wait_until(SETTLED, "it is a member still", || state(cluster.node(1), id) == "alive");
    }
    for number in [0, 2].into_iter().filter(|number| !stay.contains(number)) {
        let mut node = cluster.nodes[number].take().expect("it was up");
        assert_eq!(node.wait(SOON).code(), Some(0), "{}", node.log());
    }
    cluster.settle();
    put(cluster.node(stay[0]), "l?w=all", "y");
    cluster.shows(&[("k", "x"), ("l", "y")]);
}

/// What was written there since is nowhere else, and who ends well may be taken to have left it to others.
#[test]
fn who_was_evicted_has_nothing_to_leave() {
    let cluster = Cluster::start(2);
    let evicted = id(cluster.node(1));
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    wait_until(SETTLED, "it knows", || cluster.node(1).request("GET", "/ready", "").status == 503);
    put(cluster.node(1), "k", "x");
    let told = ask_to_leave(cluster.node(1)).join().unwrap().expect("an answer");
    assert!(told.status == 409 && told.text().contains("it was evicted"), "{}", told.text());
    shows(cluster.node(1), "k", Some("x"));
}

/// The other one has all, but its line goes silent before it hears of the leave: it would take the node for one that is down.
#[test]
fn who_can_tell_nobody_that_it_leaves_stays() {
    let (mut cluster, line) = with_one_behind_a_line();
    put(cluster.node(0), "k?w=2", "x");
    line.set(Line::Silent);
    let told = ask_to_leave(cluster.node(0)).join().unwrap().expect("an answer");
    assert!(told.status == 409 && told.text().contains("stay without it"), "{}", told.text());
    line.set(Line::Good);
    cluster.settle();
    put(cluster.node(0), "l?w=all", "y");
    cluster.shows(&[("k", "x"), ("l", "y")]);
    // And a new one finds both.
    cluster.up(2);
    cluster.settle();
}

/// By a member that does not hear of the leave, while the node waits for that one.
#[test]
fn who_is_evicted_as_it_leaves_is_told_so_and_out() {
    let (mut cluster, line) = with_one_behind_a_line();
    cluster.up(2);
    cluster.settle();
    let leaver = id(cluster.node(0));
    line.set(Line::Silent);
    let asked = ask_to_leave(cluster.node(0));
    is_about_to_leave(cluster.node(0));
    evict(cluster.node(1), &leaver);
    let told = asked.join().unwrap().expect("an answer");
    assert!(told.status == 409 && told.text().contains("it was evicted"), "{}", told.text());
    line.set(Line::Good);
    for number in [1, 2] {
        wait_until(SETTLED, "all know", || state(cluster.node(number), &leaver) == "none");
    }
    // It runs on with what it has, and says what it is.
    let ready = cluster.node(0).request("GET", "/ready", "");
    assert!(ready.status == 503 && ready.text().contains("problem:out\""), "{}", ready.text());
    cluster.kill(0);
    cluster.settle();
}

/// The last one keeps the cluster. Both may stay; then they are one cluster still.
#[test]
fn not_all_leave_at_once() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(0), "k?w=2", "x");
    let asked = [ask_to_leave(cluster.node(0)), ask_to_leave(cluster.node(1))];
    let told = asked.map(|asked| asked.join().unwrap().expect("an answer"));
    assert!(told.iter().any(|told| told.status == 409), "{} {}", told[0].text(), told[1].text());
    for number in [0, 1].into_iter().filter(|number| told[*number].status == 200) {
        let mut node = cluster.nodes[number].take().expect("it was up");
        assert_eq!(node.wait(SOON).code(), Some(0), "{}", node.log());
    }
    cluster.settle();
    let node = cluster.alive().next().expect("one stays");
    put(node, "l?w=all", "y");
    cluster.shows(&[("k", "x"), ("l", "y")]);
}

/// Two nodes and room for a third; the second is reached by this line only.
pub fn with_one_behind_a_line() -> (Cluster, Proxy) {
    let line = Proxy::start();
    let address = line.address.to_string();
    let mut cluster = Cluster::each(3, move |number| match number {
        1 => vec!["--advertise".into(), address.clone()],
        _ => Vec::new(),
    });
    cluster.up(0);
    cluster.up(1);
    line.leads_to(cluster.node(1).address);
    cluster.settle();
    (cluster, line)
}

/// The member by which it comes back knows nothing of the eviction yet.
#[test]
fn an_evicted_node_comes_back_as_one_that_is_taken_in() {
    let (mut cluster, line) = with_one_behind_a_line();
    cluster.up(2);
    cluster.settle();
    let evicted = id(cluster.node(2));
    line.set(Line::Dead);
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    wait_until(SETTLED, "it is told", || state(cluster.node(2), &evicted) == "none");
    let address = cluster.node(2).address.to_string();
    cluster.kill(0);
    cluster.kill(2);
    line.set(Line::Good);
    let mut command = Command::new(crate::support::binary());
    command.arg(&address).arg("--data-dir").arg(cluster.dir(2));
    cluster.nodes[2] = Some(Node::launch(command).expect("it serves"));
    wait_until(SETTLED, "it is a member there", || {
        state(cluster.node(2), &evicted) == "alive" && state(cluster.node(1), &evicted) == "alive"
    });
    // Who evicted it hears of both.
    cluster.up(0);
    cluster.settle();
}

/// Each of them takes the connection and says nothing.
#[test]
fn an_evicted_node_starts_in_time_though_the_others_stand_still() {
    let mut cluster = Cluster::start(4);
    let evicted = id(cluster.node(3));
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    wait_until(SETTLED, "it is told", || state(cluster.node(3), &evicted) == "none");
    assert_eq!(cluster.node(3).request("GET", "/ready", "").status, 503);
    cluster.kill(3);
    (0..3).for_each(|other| cluster.node(other).signal(libc::SIGSTOP));
    let began = Instant::now();
    cluster.up_untold(3);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    (0..3).for_each(|other| cluster.node(other).signal(libc::SIGCONT));
    cluster.settle();
    assert_eq!(cluster.node(3).request("GET", "/ready", "").status, 200);
}

/// A member that is told to join by one that was evicted, and runs on.
#[test]
fn nobody_brings_an_evicted_node_back() {
    let mut cluster = Cluster::start(3);
    let evicted = id(cluster.node(1));
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    wait_until(SETTLED, "all know", || state(cluster.node(2), &evicted) == "none");
    let address = cluster.node(1).address.to_string();
    cluster.kill(2);
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&address]));
    wait_until(SETTLED, "it has asked", || cluster.node(2).log().contains(&format!("by {address}")));
    put(cluster.node(2), "k?w=2", "x");
    shows(cluster.node(0), "k", Some("x"));
    for number in [0, 2] {
        assert_eq!(state(cluster.node(number), &evicted), "none", "{}", cluster.node(2).log());
        assert_eq!(get(cluster.node(number).address, "/membership")["members"].as_array().unwrap().len(), 2);
    }
}

/// One member has not yet heard that a node has joined: that is no eviction.
#[test]
fn a_node_that_one_member_does_not_know_yet_was_not_evicted() {
    let (mut cluster, line) = with_one_behind_a_line();
    line.set(Line::Dead);
    let sponsor = cluster.node(0).address.to_string();
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&sponsor]));
    wait_until(SOON, "it is taken in", || cluster.node(2).log().contains("joined cluster"));
    cluster.kill(2);
    line.set(Line::Good);
    cluster.up_untold(2);
    cluster.settle();
    let log = cluster.node(2).log();
    assert!(!log.contains("was evicted"), "{log}");
}

/// Its body is slow. What is taken when the others have let the node go, no other member would ever have.
#[test]
fn a_write_that_was_under_way_is_not_acknowledged_by_one_that_has_left() {
    let mut cluster = Cluster::start(3);
    let left = id(cluster.node(1));
    let mut client = crate::support::Client::connect(cluster.node(1).address).unwrap();
    client.send(b"PUT /key/late HTTP/1.1\r\nHost: here\r\nContent-Length: 11\r\n\r\n{\"value\"").unwrap();
    // It counts as up for a while, and is waited for.
    let asked = ask_to_leave(cluster.node(1));
    is_about_to_leave(cluster.node(1));
    cluster.node(2).signal(libc::SIGSTOP);
    wait_until(SETTLED, "it has left", || state(cluster.node(0), &left) == "none");
    let told = client.send(b":1}").and_then(|()| client.receive(false));
    assert!(!told.as_ref().is_ok_and(|told| told.status < 300), "it has left, and took a write: {told:?}");
    cluster.node(2).signal(libc::SIGCONT);
    let left = asked.join().unwrap().expect("an answer");
    assert_eq!(left.status, 200, "{}", left.text());
    cluster.nodes[1].take().unwrap().wait(SOON);
}
