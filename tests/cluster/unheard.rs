//! Members that never heard that a node has joined, and words that come late or are lost: it is in all the same, once and in one
//! cluster; and who left or was evicted is out.

use crate::cluster::{Cluster, SETTLED, free_address, get, id, put, shows, state};
use crate::departures::with_one_behind_a_line;
use crate::membership::{copy, set_back};
use crate::proxy::{Line, Proxy};
use crate::support::{Node, SOON, binary, wait_until};
use dynarust::limits::{JOIN_TOLD_MS, PEER_ANSWER_MS, RETRY_MS};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs the node of this number at this address, with these flags.
pub fn up_at(cluster: &mut Cluster, number: usize, address: SocketAddr, flags: &[&str]) {
    let mut command = Command::new(binary());
    command.arg(address.to_string()).args(flags).arg("--data-dir").arg(cluster.dir(number));
    cluster.nodes[number] = Some(Node::launch(command).expect("it serves"));
}

fn both_know_each_other(one: &Node, other: &Node) {
    let ids = [id(one), id(other)];
    wait_until(SETTLED, "each is a member for the other", || {
        state(one, &ids[1]) == "alive" && state(other, &ids[0]) == "alive"
    });
    assert_eq!(put(one, "here?w=2", "x").status, 201);
    assert_eq!(put(other, "there?w=2", "x").status, 201);
}

/// A member that can be reached by this line only is away while the last node joins by the first.
fn with_a_newcomer_while_one_is_away() -> (Cluster, Proxy) {
    let (mut cluster, line) = with_one_behind_a_line();
    put(cluster.node(0), "k?w=2", "x");
    cluster.kill(1);
    cluster.up(2);
    shows(cluster.node(2), "k", Some("x"));
    (cluster, line)
}

/// The one that took it in is lost long after that, and then the other comes up, which never heard of it.
#[test]
fn a_member_that_comes_back_when_the_sponsor_is_lost_takes_the_newcomer_in() {
    let (mut cluster, line) = with_a_newcomer_while_one_is_away();
    wait_until(SETTLED, "it is found out", || state(cluster.node(2), &other_than(&cluster)) == "down");
    // Longer than anybody waits for an answer.
    let settled = Instant::now() + Duration::from_secs(12);
    wait_until(SOON, "all is quiet", || Instant::now() > settled);
    cluster.kill(0);
    cluster.up_untold(1);
    line.leads_to(cluster.node(1).address);
    both_know_each_other(cluster.node(1), cluster.node(2));
}

/// The same of a newcomer that is started again before that, and is told nobody to join by.
#[test]
fn a_member_that_comes_back_takes_in_a_newcomer_that_was_started_again() {
    let (mut cluster, line) = with_a_newcomer_while_one_is_away();
    cluster.kill(0);
    cluster.kill(2);
    cluster.up_untold(2);
    cluster.up_untold(1);
    line.leads_to(cluster.node(1).address);
    both_know_each_other(cluster.node(1), cluster.node(2));
}

/// The member that is not up, as the newcomer knows it: neither itself nor its sponsor.
fn other_than(cluster: &Cluster) -> String {
    let known = [id(cluster.node(0)), id(cluster.node(2))];
    let members = get(cluster.node(2).address, "/membership")["members"].clone();
    let mut ids = members.as_array().unwrap().iter().map(|member| member["id"].as_str().unwrap().to_owned());
    ids.find(|id| !known.contains(id)).expect("it knows three")
}

/// It was down when it was evicted, and the only member is about to join somewhere itself when it comes back: it hears of the
/// eviction before it is taken in.
#[test]
fn who_is_told_of_its_eviction_as_it_comes_back_is_taken_in() {
    let mut cluster = Cluster::each(2, |_| Vec::new());
    let (silent, addresses) = (Proxy::start(), [free_address(), free_address()]);
    up_at(&mut cluster, 0, addresses[0], &[]);
    silent.leads_to(addresses[0]);
    silent.set(Line::Silent);
    let by = addresses[0].to_string();
    up_at(&mut cluster, 1, addresses[1], &[&by]);
    cluster.settle();
    let evicted = id(cluster.node(1));
    cluster.kill(1);
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    cluster.kill(0);
    let nowhere = silent.address.to_string();
    up_at(&mut cluster, 0, addresses[0], &[&nowhere]);
    up_at(&mut cluster, 1, addresses[1], &[]);
    cluster.settle();
    assert_eq!(id(cluster.node(1)), evicted, "the same node");
}

/// It was started again while it could reach nobody, and was evicted after that: nobody has started it again since. It asks to
/// be taken in before its evictor reaches it.
#[test]
fn who_was_evicted_while_it_could_reach_nobody_is_out() {
    evicted_while_cut_off(|_, _| {});
}

/// It has evicted the other as well, and knows nobody any more.
#[test]
fn who_was_evicted_by_one_that_it_evicted_is_out() {
    evicted_while_cut_off(|node, evictor| {
        assert_eq!(node.request("DELETE", &format!("/membership/{evictor}"), "").status, 200);
    });
}

fn evicted_while_cut_off(meanwhile: impl FnOnce(&Node, &str)) {
    let (lines, addresses) = ([Proxy::start(), Proxy::start()], [free_address(), free_address()]);
    let known_as = [0, 1].map(|number: usize| lines[number].address.to_string());
    (0..2).for_each(|number| lines[number].leads_to(addresses[number]));
    let mut cluster = Cluster::each(2, |_| Vec::new());
    up_at(&mut cluster, 0, addresses[0], &["--advertise", &known_as[0]]);
    up_at(&mut cluster, 1, addresses[1], &["--advertise", &known_as[1], &known_as[0]]);
    cluster.settle();
    let evicted = id(cluster.node(1));
    lines.iter().for_each(|line| line.set(Line::Dead));
    cluster.kill(1);
    up_at(&mut cluster, 1, addresses[1], &["--advertise", &known_as[1], &known_as[0]]);
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    meanwhile(cluster.node(1), &id(cluster.node(0)));
    lines[0].set(Line::Good);
    wait_until(SETTLED, "it knows", || cluster.node(1).log().contains("WARN  this node was evicted"));
    assert_eq!(get(addresses[0], "/membership")["members"].as_array().unwrap().len(), 1);
    assert_eq!(cluster.node(1).request("GET", "/ready", "").status, 503);
    // Now somebody does.
    lines[1].set(Line::Good);
    cluster.kill(1);
    up_at(&mut cluster, 1, addresses[1], &["--advertise", &known_as[1], &known_as[0]]);
    cluster.settle();
}

/// It asks to be taken in as it is started, on a slow line, and leaves before that has come through.
#[test]
fn who_has_left_is_not_in_again_by_what_it_asked_before() {
    leaves_while_it_asks(|_| {});
}

/// Or before the answer has come, while it waits for a member that does not hear that it leaves.
#[test]
fn who_leaves_is_not_in_again_by_the_answer_to_what_it_asked_before() {
    leaves_while_it_asks(|cluster| {
        let asked = Instant::now() + SLOW + SLOW / 4;
        wait_until(SETTLED, "its question has come through", || Instant::now() > asked);
        cluster.node(1).signal(libc::SIGSTOP);
    });
}

/// On a line so slow, each way.
const SLOW: Duration = Duration::from_millis(1_500);

fn leaves_while_it_asks(meanwhile: impl FnOnce(&Cluster)) {
    let line = Proxy::start();
    let mut cluster = Cluster::start(3);
    line.leads_to(cluster.node(0).address);
    let leaver = id(cluster.node(2));
    cluster.kill(2);
    line.set(Line::Slow(SLOW));
    let passed = line.messages();
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&line.address.to_string()]));
    // The first word gets it a ticket.
    wait_until(SOON, "it has asked with that", || line.messages() > passed + 1);
    let asked = Instant::now();
    meanwhile(&cluster);
    let told = cluster.node(2).request("POST", "/cluster/leave", "");
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(cluster.nodes[2].take().expect("it is up").wait(SOON).code(), Some(0));
    cluster.node(1).signal(libc::SIGCONT);
    line.set(Line::Good);
    wait_until(SETTLED, "what was on its way has come through", || asked.elapsed() > 3 * SLOW);
    cluster.settle();
    for node in cluster.alive() {
        assert_eq!(state(node, &leaver), "none", "{}", node.log());
    }
}

/// It gave the first one up, came in by the second, and was evicted there. Then the first one reads what it asked.
#[test]
fn who_was_evicted_is_not_in_again_by_what_it_asked_before_it_was_in() {
    let line = Proxy::start();
    let mut cluster = Cluster::each(3, |_| Vec::new());
    cluster.up(0);
    cluster.up(1);
    cluster.settle();
    line.leads_to(cluster.node(0).address);
    // Twice as long as anybody waits for an answer.
    let slow = Duration::from_millis(2 * PEER_ANSWER_MS);
    line.set(Line::Slow(slow));
    let by = [line.address, cluster.node(1).address].map(|address| address.to_string());
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&by[0], &by[1]]));
    wait_until(SOON, "it has asked", || line.messages() > 0);
    let asked = Instant::now();
    wait_until(SETTLED, "it is in", || cluster.node(2).log().contains("joined cluster"));
    let evicted = id(cluster.node(2));
    assert_eq!(cluster.node(1).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    wait_until(SETTLED, "it knows", || state(cluster.node(2), &evicted) == "none");
    assert!(asked.elapsed() < slow, "else this test shows nothing");
    wait_until(SETTLED, "all of it has come through", || asked.elapsed() > slow + slow / 4);
    for node in cluster.alive() {
        assert_eq!(state(node, &evicted), "none", "{}", node.log());
    }
}

/// The first takes both in, and neither hears of it: they must not make a cluster of their own.
#[test]
fn new_nodes_that_hear_no_answer_make_no_second_cluster() {
    let (line, addresses) = (Proxy::start(), [free_address(), free_address()]);
    let mut cluster = Cluster::each(3, |_| Vec::new());
    let own = line.address.to_string();
    cluster.nodes[0] = Some(Node::start(&cluster.dir(0), &["--advertise", &own]));
    line.leads_to(cluster.node(0).address);
    line.set(Line::Mute);
    for (number, other) in [(1, addresses[1]), (2, addresses[0])] {
        up_at(&mut cluster, number, addresses[number - 1], &[&own, &other.to_string()]);
    }
    // Longer than a node that starts at the same time may be away.
    let asked = 2 * (JOIN_TOLD_MS / RETRY_MS.1 + 6);
    let of = |number: usize| get(addresses[number], "/membership")["cluster"].clone();
    wait_until(SETTLED, "both ask on", || line.messages() as u64 > asked || of(0) == of(1));
    line.set(Line::Good);
    cluster.settle();
}

/// Both were told of a node that was down, and began a cluster without it. They ask on for it, as the log says.
#[test]
fn who_began_a_cluster_asks_on_for_the_one_that_was_down() {
    let addresses = [free_address(), free_address(), free_address()];
    let mut cluster = Cluster::each(3, |_| Vec::new());
    let late = addresses[0].to_string();
    for (number, other) in [(1, addresses[2]), (2, addresses[1])] {
        up_at(&mut cluster, number, addresses[number], &[&late, &other.to_string()]);
    }
    wait_until(SETTLED, "each was taken in by the other", || {
        (1..3).all(|number| cluster.node(number).log().contains("joined cluster"))
    });
    up_at(&mut cluster, 0, addresses[0], &[]);
    cluster.settle();
}

/// One of the addresses that it is told takes connections, and never answers.
#[test]
fn who_waits_for_an_answer_takes_others_in() {
    let (dirs, hung) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = dirs.path().join("first");
    put(&Node::start(&dir, &[]), "k", "x");
    let first = Node::start(&dir, &[&hung.local_addr().unwrap().to_string()]);
    // As it started it asked as well.
    let asked: Vec<TcpStream> = (0..2).map(|_| hung.accept().unwrap().0).collect();
    let began = Instant::now();
    let other = Node::start(&dirs.path().join("other"), &[&first.address.to_string()]);
    wait_until(SETTLED, "it is in", || state(&first, &id(&other)) == "alive");
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_millis(PEER_ANSWER_MS) / 2,
        "it waited for the other's answer: {waited:?}"
    );
    drop(asked);
    shows(&other, "k", Some("x"));
}

/// Evicted, and set back to before its last write: nobody who does not know it says so, before it is taken in. It serves under
/// another id then, or what it writes would go.
#[test]
fn an_evicted_node_that_was_set_back_takes_no_write_under_its_old_id() {
    let mut cluster = Cluster::start(3);
    let old = id(cluster.node(2));
    put(cluster.node(2), "k?w=3", "x");
    cluster.kill(2);
    let backup = cluster.dir(2).with_extension("backup");
    copy(&cluster.dir(2), &backup);
    cluster.up_untold(2);
    put(cluster.node(2), "later?w=3", "y");
    cluster.kill(2);
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{old}"), "").status, 200);
    cluster.settle();
    set_back(&cluster.dir(2), &backup);
    cluster.up_untold(2);
    let written = put(cluster.node(2), "at-once", "z");
    assert_eq!(written.status, 201, "{}", written.text());
    assert_ne!(id(cluster.node(2)), old);
    wait_until(SETTLED, "it is in", || cluster.node(0).request("GET", "/key/at-once", "").status == 200);
    cluster.shows(&[("k", "x"), ("later", "y"), ("at-once", "z")]);
}

/// The one that it came to is gone before it had all from it, and evicted: nobody has any more than this one.
#[test]
fn the_last_member_is_ready_with_what_it_has() {
    let mut cluster = Cluster::each(2, |_| Vec::new());
    cluster.up(0);
    let large = "x".repeat(500_000);
    (0..40).for_each(|n| drop(put(cluster.node(0), &format!("large{n}"), &large)));
    let ready = |node: &Node| node.request("GET", "/ready", "").status == 200;
    // One that is cut off half way.
    for number in 1.. {
        assert!(number < 20, "none of them is cut off half way");
        cluster.nodes[1] = Some(Node::start(&cluster.dir(number), &[&cluster.node(0).address.to_string()]));
        wait_until(SOON, "it is taken in", || cluster.node(1).log().contains("joined cluster"));
        cluster.node(0).signal(libc::SIGSTOP);
        if !ready(cluster.node(1)) {
            break;
        }
        cluster.node(0).signal(libc::SIGCONT);
        cluster.kill(1);
    }
    cluster.kill(0);
    let last = cluster.node(1);
    assert!(!ready(last));
    for member in get(last.address, "/membership")["members"].as_array().unwrap() {
        let whom = member["id"].as_str().unwrap();
        if whom != id(last) {
            assert_eq!(last.request("DELETE", &format!("/membership/{whom}"), "").status, 200);
        }
    }
    wait_until(SETTLED, "it is ready", || ready(last));
    wait_until(SOON, "its log says so", || last.log().contains("is the last member now"));
}

/// Who takes it in has never heard of it, and no more of its eviction by one that is cut off: that ends what it is a member by.
#[test]
fn an_eviction_ends_what_a_member_wrote_that_had_never_heard_of_the_node() {
    let mut cluster = Cluster::each(3, |_| Vec::new());
    cluster.up(0);
    cluster.up(1);
    cluster.settle();
    let addresses: Vec<_> = cluster.alive().map(|node| node.address).collect();
    cluster.kill(1);
    cluster.up(2);
    wait_until(SETTLED, "it is in", || cluster.node(2).log().contains("joined cluster"));
    let evicted = id(cluster.node(2));
    wait_until(SETTLED, "it has all", || cluster.node(2).request("GET", "/ready", "").status == 200);
    cluster.kill(0);
    cluster.kill(2);
    up_at(&mut cluster, 1, addresses[1], &[]);
    cluster.up_untold(2);
    both_know_each_other(cluster.node(1), cluster.node(2));
    // Now only the sponsor is up.
    cluster.node(2).signal(libc::SIGSTOP);
    cluster.kill(1);
    up_at(&mut cluster, 0, addresses[0], &[]);
    assert_eq!(cluster.node(0).request("DELETE", &format!("/membership/{evicted}"), "").status, 200);
    up_at(&mut cluster, 1, addresses[1], &[]);
    for node in [cluster.node(0), cluster.node(1)] {
        wait_until(SETTLED, "both know", || state(node, &evicted) == "none");
    }
    cluster.node(2).signal(libc::SIGCONT);
    wait_until(SETTLED, "it knows", || state(cluster.node(2), &evicted) == "none");
    for node in [cluster.node(0), cluster.node(1)] {
        assert_eq!(state(node, &evicted), "none");
    }
}

/// It stands still while they ask it, for longer than one that can't be reached is waited for, and is started again then.
#[test]
fn new_nodes_wait_for_one_that_is_started_again() {
    let mut cluster = Cluster::start(1);
    let by = cluster.node(0).address;
    put(cluster.node(0), "k", "x");
    cluster.node(0).signal(libc::SIGSTOP);
    let dirs = tempfile::tempdir().unwrap();
    let addresses = [free_address(), free_address()];
    let list: Vec<String> = [by].iter().chain(&addresses).map(ToString::to_string).collect();
    let start = |number: usize| {
        let mut command = Command::new(binary());
        command.arg(addresses[number].to_string()).args(&list);
        command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
        Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"))
    };
    let nodes = [start(0), start(1)];
    let began = Instant::now();
    wait_until(SETTLED, "they have asked for long", || {
        began.elapsed() > Duration::from_millis(JOIN_TOLD_MS + 1_000)
    });
    cluster.kill(0);
    for node in &nodes {
        wait_until(SETTLED, "they see that it is gone", || node.log().contains("refused"));
    }
    up_at(&mut cluster, 0, by, &[]);
    nodes.iter().for_each(|node| shows(node, "k", Some("x")));
}
