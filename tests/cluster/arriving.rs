//! Nodes that are on their way into a cluster: they count as ready when they have what there is, whatever comes in between.

use crate::cluster::{Cluster, SETTLED, free_address, get, id, put, shows, skipped, state};
use crate::departures::with_one_behind_a_line;
use crate::evictions::evict;
use crate::proxy::{Line, Proxy};
use crate::support::{Node, SOON, binary, wait_until};
use crate::unheard::up_at;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dynarust::limits::{PEER_ANSWER_MS, RETRY_MS, ROSTER_LOOK_MS};

/// Enough for some messages.
const KEYS: u64 = 120;

pub fn fill(node: &Node) {
    let value = "x".repeat(20_000);
    for n in 0..KEYS {
        assert_eq!(put(node, &format!("key{n}"), &value).status, 201);
    }
}

/// Waits until it is ready; then it must have everything.
pub fn is_ready_with_all(node: &Node) {
    wait_until(SETTLED, "it is ready", || node.request("GET", "/ready", "").status == 200);
    let keys = keys(node);
    assert!(keys >= KEYS, "it is ready with {keys} keys:\n{}", node.log());
}

pub fn keys(node: &Node) -> u64 {
    get(node.address, "/stats")["keys"].as_u64().expect("a number")
}

/// A node under strace, which does this to its syncs; `None`, said in a line, where that is not possible.
fn injected(dir: &Path, with: &str) -> Option<Command> {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let because = match probe {
        Err(e) => format!("strace does not run ({e})"),
        Ok(probe) if !probe.status.success() => "tracing is not permitted".to_owned(),
        Ok(_) => {
            let node = Node::command(dir, &[]);
            let mut strace = Command::new("strace");
            // With -D the node stays our child.
            strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]);
            strace
                .arg(format!("inject=fdatasync:{with}"))
                .arg("--")
                .arg(node.get_program())
                .args(node.get_args());
            return Some(strace);
        }
    };
    skipped("a node whose syncs take their time", &because);
    None
}

/// At each moment of it. What it is sent takes its time.
#[test]
fn who_is_killed_as_it_is_taken_in_is_ready_when_it_has_everything() {
    let dirs = tempfile::tempdir().unwrap();
    let sponsor = Node::start(&dirs.path().join("sponsor"), &[]);
    fill(&sponsor);
    let by = sponsor.address.to_string();
    for moment in 0..20 {
        let dir = dirs.path().join(format!("joiner{moment}"));
        let line = Proxy::start();
        line.set(Line::Slow(Duration::from_millis(400)));
        let own = line.address.to_string();
        let flags = [by.as_str(), "--advertise", &own];
        let node = Node::start(&dir, &flags);
        line.leads_to(node.address);
        std::thread::sleep(Duration::from_micros(250 * moment));
        node.kill();
        let node = Node::start(&dir, &flags);
        let (ready, keys) = (node.request("GET", "/ready", "").status, keys(&node));
        assert!(ready == 503 || keys >= KEYS, "killed at moment {moment}, it is ready with {keys} keys");
        line.leads_to(node.address);
        line.set(Line::Good);
        is_ready_with_all(&node);
        let left = node.request("POST", "/cluster/leave", "");
        assert_eq!(left.status, 200, "{}", left.text());
    }
}

/// It has next to nothing but a key of its own when it leaves, and comes back.
#[test]
fn who_leaves_before_it_has_arrived_comes_back_as_one_that_has_not() {
    let (mut cluster, line) = with_one_behind_a_line();
    let left = id(cluster.node(1));
    assert_eq!(cluster.node(1).request("POST", "/cluster/leave", "").status, 200);
    cluster.nodes[1].take().unwrap().wait(SOON);
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    wait_until(SETTLED, "it has left", || state(cluster.node(0), &left) == "none");
    fill(cluster.node(0));
    line.set(Line::Slow(Duration::from_millis(400)));
    let address = free_address();
    line.leads_to(address);
    let by = cluster.node(0).address.to_string();
    up_at(&mut cluster, 1, address, &[&by, "--advertise", &line.address.to_string()]);
    wait_until(SETTLED, "it is in", || {
        cluster.node(1).log().contains("joined cluster")
            && get(address, "/membership")["members"].as_array().map(Vec::len) == Some(2)
    });
    put(cluster.node(1), "own", "x");
    shows(cluster.node(0), "own", Some("x"));
    assert_eq!(cluster.node(1).request("GET", "/ready", "").status, 503, "it has all: nothing is shown");
    let left = cluster.node(1).request("POST", "/cluster/leave", "");
    assert_eq!(left.status, 200, "{}", left.text());
    cluster.nodes[1].take().unwrap().wait(SOON);
    up_at(&mut cluster, 1, address, &[&by, "--advertise", &line.address.to_string()]);
    assert!(keys(cluster.node(1)) < KEYS, "it has all: nothing is shown");
    assert_eq!(cluster.node(1).request("GET", "/ready", "").status, 503);
    line.set(Line::Good);
    is_ready_with_all(cluster.node(1));
    cluster.settle();
}

/// The second stands still, and the third has it from the second that there is more.
#[test]
fn who_joins_by_one_that_has_not_arrived_is_ready_when_it_has_everything() {
    let dirs = tempfile::tempdir().unwrap();
    let first = Node::start(&dirs.path().join("first"), &[]);
    fill(&first);
    let line = Proxy::start();
    let address = free_address();
    line.leads_to(address);
    // What the first sends takes its time; what others ask does not.
    line.set(Line::Slow(Duration::from_millis(400)));
    let node = |name: &str, address: std::net::SocketAddr, flags: &[&str]| {
        let mut command = Command::new(binary());
        command.arg(address.to_string()).args(flags).arg("--data-dir").arg(dirs.path().join(name));
        Node::launch(command).unwrap_or_else(|log| panic!("{name} did not serve:\n{log}"))
    };
    let own = line.address.to_string();
    let second = node("second", address, &[&first.address.to_string(), "--advertise", &own]);
    wait_until(SETTLED, "it is in", || state(&second, &id(&first)) == "alive");
    first.signal(libc::SIGSTOP);
    assert_eq!(second.request("GET", "/ready", "").status, 503, "it has all: nothing is shown");
    let third = node("third", free_address(), &[&address.to_string()]);
    wait_until(SETTLED, "it is in", || third.log().contains("joined cluster"));
    // It has what the second has, and looks whether that is all several times a second.
    put(&second, "new", "x");
    shows(&third, "new", Some("x"));
    let since = Instant::now();
    wait_until(SOON, "it has looked", || {
        assert_eq!(third.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(&third));
        since.elapsed() > Duration::from_millis(4 * ROSTER_LOOK_MS)
    });
    first.signal(libc::SIGCONT);
    line.set(Line::Good);
    is_ready_with_all(&third);
    is_ready_with_all(&second);
}

/// Each with a key of its own, all told to join all.
#[test]
fn nodes_with_data_that_are_started_at_once_become_one_cluster() {
    for _ in 0..3 {
        start_at_once();
    }
}

fn start_at_once() {
    let others: Vec<String> = (0..4).map(|_| free_address().to_string()).collect();
    let mut cluster = Cluster::each(4, |_| Vec::new());
    for number in 0..4 {
        cluster.up_untold(number);
        put(cluster.node(number), &format!("own{number}"), "x");
        cluster.kill(number);
    }
    let start = |number: usize| {
        let mut command = Command::new(binary());
        command.args(std::iter::once(&others[number]).chain(&others));
        command.arg("--data-dir").arg(cluster.dir(number));
        std::thread::spawn(move || Node::launch(command).expect("it serves"))
    };
    let starting: Vec<_> = (0..4).map(start).collect();
    for (number, node) in starting.into_iter().enumerate() {
        cluster.nodes[number] = Some(node.join().unwrap());
    }
    cluster.settle();
    cluster.shows(&[("own0", "x"), ("own1", "x"), ("own2", "x"), ("own3", "x")]);
}

/// The disk of the one that takes it in is slow: what it is told of a member it sees before it is on the disk.
#[test]
fn a_member_that_comes_back_is_followed_by_one_whose_disk_is_slow() {
    let dirs = tempfile::tempdir().unwrap();
    let Some(command) = injected(&dirs.path().join("slow"), "delay_enter=600000") else {
        return;
    };
    let slow = Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"));
    let (by, dir) = (slow.address.to_string(), dirs.path().join("other"));
    let mut other = Node::start(&dir, &[&by]);
    let its = id(&other);
    wait_until(SETTLED, "it is in", || state(&slow, &its) == "alive");
    assert_eq!(other.request("POST", "/cluster/leave", "").status, 200);
    other.wait(SOON);
    wait_until(SETTLED, "it has left", || state(&slow, &its) == "none");
    put(&slow, "k", "x");
    let other = Node::start(&dir, &[&by]);
    wait_until(SETTLED, "it is followed", || state(&slow, &its) == "alive");
    shows(&other, "k", Some("x"));
}

/// The member was away for all of them, and nothing comes after.
#[test]
fn what_was_deleted_is_forgotten_when_nothing_else_happens() {
    let cluster = Cluster::start(2);
    let deletes = 1_200;
    for n in 0..deletes {
        put(cluster.node(0), &format!("k{n}"), "x");
    }
    cluster.settle();
    cluster.node(1).signal(libc::SIGSTOP);
    for n in 0..deletes {
        assert_eq!(cluster.node(0).request("DELETE", &format!("/key/k{n}"), "").status, 200);
    }
    cluster.node(1).signal(libc::SIGCONT);
    cluster.settle();
    let writer = id(cluster.node(0));
    for node in cluster.alive() {
        wait_until(SOON, "the last one is forgotten", || {
            let stats = get(node.address, "/stats");
            stats["floor"][&writer] == stats["version_vector"][&writer]
        });
    }
}

/// A node on its way in, which is sent next to nothing: by a line that leads there.
pub fn on_its_way(dir: &Path, by: &Node) -> (Node, Proxy) {
    let line = Proxy::start();
    let address = free_address();
    line.leads_to(address);
    line.set(Line::Slow(Duration::from_millis(400)));
    let mut command = Command::new(binary());
    command.args([&address.to_string(), &by.address.to_string(), "--advertise", &line.address.to_string()]);
    command.arg("--data-dir").arg(dir);
    let node = Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"));
    wait_until(SETTLED, "it is in", || state(&node, &id(by)) != "none");
    (node, line)
}

/// The one that took it in is gone for good, and evicted. Until then it asks on for it.
#[test]
fn who_lacks_what_nobody_has_is_ready_when_those_who_had_it_are_evicted() {
    let dirs = tempfile::tempdir().unwrap();
    let sponsor = Node::start(&dirs.path().join("sponsor"), &[]);
    fill(&sponsor);
    let lost = id(&sponsor);
    let (node, line) = on_its_way(&dirs.path().join("node"), &sponsor);
    sponsor.kill();
    line.set(Line::Good);
    wait_until(SETTLED, "it asks", || node.log().contains("nothing comes any more"));
    assert_eq!(node.request("GET", "/ready", "").status, 503);
    evict(&node, &lost);
    wait_until(SETTLED, "it is ready", || node.request("GET", "/ready", "").status == 200);
}

/// Whichever of the two has the lower id.
#[test]
fn who_takes_in_one_with_data_is_ready_when_it_has_that() {
    for round in 0..4 {
        let dirs = tempfile::tempdir().unwrap();
        let old = Node::start(&dirs.path().join("old"), &[]);
        fill(&old);
        old.kill();
        let addresses = [free_address().to_string(), free_address().to_string()];
        let start = |number: usize, name: &str| {
            let mut command = Command::new(binary());
            command.arg(&addresses[number]).args(&addresses).arg("--data-dir").arg(dirs.path().join(name));
            std::thread::spawn(move || {
                Node::launch(command).unwrap_or_else(|log| panic!("does not serve:\n{log}"))
            })
        };
        let (old, new) = (start(0, "old"), start(1, "new"));
        let (old, new) = (old.join().unwrap(), new.join().unwrap());
        is_ready_with_all(&new);
        wait_until(SETTLED, &format!("round {round}: one cluster"), || state(&old, &id(&new)) == "alive");
    }
}

/// The second of a new cluster is gone before it has sent anything, not even its own record.
#[test]
fn who_begins_a_cluster_with_one_that_is_gone_is_ready() {
    let dirs = tempfile::tempdir().unwrap();
    let addresses = [free_address(), free_address()];
    let start = |number: usize| {
        let mut command = Command::new(binary());
        command.args([addresses[number].to_string(), addresses[1 - number].to_string()]);
        command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
        Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"))
    };
    let mut nodes = vec![start(0), start(1)];
    let founder = |node: &Node| node.log().contains("is a member now");
    wait_until(SETTLED, "one takes the other in", || nodes.iter().any(founder));
    nodes.retain_mut(|node| {
        let stays = founder(node);
        if !stays {
            node.signal(libc::SIGKILL);
        }
        stays
    });
    let node = &nodes[0];
    wait_until(SETTLED, "it is ready", || node.request("GET", "/ready", "").status == 200);
    let third = Node::start(&dirs.path().join("third"), &[&node.address.to_string()]);
    wait_until(SETTLED, "another one is", || third.request("GET", "/ready", "").status == 200);
}

/// What it was told by a client is not what there is.
#[test]
fn who_is_started_again_before_anybody_took_it_in_is_ready_when_it_has_everything() {
    let mut cluster = Cluster::start(1);
    fill(cluster.node(0));
    let by = cluster.node(0).address;
    cluster.kill(0);
    let dirs = tempfile::tempdir().unwrap();
    let node = Node::start(dirs.path(), &[&by.to_string()]);
    assert_eq!(put(&node, "own", "x").status, 201);
    node.kill();
    let node = Node::start(dirs.path(), &[&by.to_string()]);
    assert_eq!(node.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(&node));
    up_at(&mut cluster, 0, by, &[]);
    is_ready_with_all(&node);
    shows(cluster.node(0), "own", Some("x"));
}

/// It was away since before there was anything, and does not know who came meanwhile. The one that does stands still: whether
/// what it has is all, nobody can say.
#[test]
fn a_member_that_comes_back_does_not_say_what_a_newcomer_has_to_get() {
    let mut cluster = Cluster::start(2);
    cluster.settle();
    let (first, address) = (id(cluster.node(0)), cluster.node(1).address);
    cluster.kill(1);
    fill(cluster.node(0));
    let dirs = tempfile::tempdir().unwrap();
    let (node, line) = on_its_way(dirs.path(), cluster.node(0));
    cluster.node(0).signal(libc::SIGSTOP);
    up_at(&mut cluster, 1, address, &[]);
    wait_until(SETTLED, "it is taken in there too", || cluster.node(1).log().contains("is a member now"));
    stays_unready(&node, 4 * ROSTER_LOOK_MS);
    wait_until(SETTLED, "it asks what there is", || node.log().contains("nothing comes any more"));
    wait_until(SETTLED, "the one that has it is down", || state(&node, &first) == "down");
    stays_unready(&node, PEER_ANSWER_MS + 4 * ROSTER_LOOK_MS);
    cluster.node(0).signal(libc::SIGCONT);
    line.set(Line::Good);
    is_ready_with_all(&node);
}

/// For so long.
fn stays_unready(node: &Node, ms: u64) {
    let since = Instant::now();
    wait_until(SETTLED, "it has looked", || {
        assert_eq!(node.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(node));
        since.elapsed() > Duration::from_millis(ms)
    });
}

/// The member by which it comes has been told by another one what there is, and has not got it.
#[test]
fn who_joins_by_a_member_that_is_behind_is_ready_when_it_has_everything() {
    let (mut cluster, line) = with_one_behind_a_line();
    let address = cluster.node(1).address;
    cluster.kill(1);
    fill(cluster.node(0));
    line.set(Line::Thin(2));
    up_at(&mut cluster, 1, address, &["--advertise", &line.address.to_string()]);
    let first = id(cluster.node(0));
    wait_until(SETTLED, "it has heard the first", || state(cluster.node(1), &first) == "alive");
    let dirs = tempfile::tempdir().unwrap();
    let (node, its_line) = on_its_way(dirs.path(), cluster.node(1));
    stays_unready(&node, 5_000);
    its_line.set(Line::Good);
    is_ready_with_all(&node);
}

/// Of the two others one is up, and lacks nearly everything itself; the other one has it, and is down.
#[test]
fn a_member_that_is_behind_does_not_say_what_a_newcomer_has_to_get() {
    let (mut cluster, line) = with_one_behind_a_line();
    let (first, address) = (id(cluster.node(0)), cluster.node(1).address);
    cluster.kill(1);
    fill(cluster.node(0));
    line.set(Line::Thin(2));
    up_at(&mut cluster, 1, address, &["--advertise", &line.address.to_string()]);
    wait_until(SETTLED, "it has heard the first", || state(cluster.node(1), &first) == "alive");
    let dirs = tempfile::tempdir().unwrap();
    let (node, its_line) = on_its_way(dirs.path(), cluster.node(1));
    cluster.node(0).signal(libc::SIGSTOP);
    [line, its_line].iter().for_each(|line| line.set(Line::Good));
    wait_until(SETTLED, "it asks what there is", || node.log().contains("nothing comes any more"));
    wait_until(SETTLED, "the one that has it is down", || state(&node, &first) == "down");
    stays_unready(&node, 2 * PEER_ANSWER_MS);
    assert!(keys(cluster.node(1)) < KEYS, "the other one has it: nothing is shown");
    cluster.node(0).signal(libc::SIGCONT);
    is_ready_with_all(&node);
}

/// By a member that has nothing of what it lacks; and the one that has stands still.
#[test]
fn who_comes_back_by_another_one_lacks_what_it_lacked() {
    let mut cluster = Cluster::start(2);
    cluster.settle();
    let other = cluster.node(1).address;
    cluster.kill(1);
    fill(cluster.node(0));
    let dirs = tempfile::tempdir().unwrap();
    let (mut node, line) = on_its_way(dirs.path(), cluster.node(0));
    assert_eq!(node.request("GET", "/ready", "").status, 503, "it has all: nothing is shown");
    let address = node.address;
    let left = node.request("POST", "/cluster/leave", "");
    assert_eq!(left.status, 200, "{}", left.text());
    node.wait(SOON);
    cluster.node(0).signal(libc::SIGSTOP);
    up_at(&mut cluster, 1, other, &[]);
    let mut command = Command::new(binary());
    command.args([&address.to_string(), &other.to_string(), "--advertise", &line.address.to_string()]);
    command.arg("--data-dir").arg(dirs.path());
    let node = Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"));
    wait_until(SETTLED, "it is in", || node.log().contains("joined cluster"));
    stays_unready(&node, 5_000);
    cluster.node(0).signal(libc::SIGCONT);
    line.set(Line::Good);
    is_ready_with_all(&node);
}

/// Nothing comes to it, though the one that has everything answers whatever it asks.
#[test]
fn who_joins_by_one_that_nobody_reaches_is_ready_when_it_has_everything() {
    let dirs = tempfile::tempdir().unwrap();
    let first = Node::start(&dirs.path().join("first"), &[]);
    fill(&first);
    let line = Proxy::start();
    line.set(Line::Dead);
    let flags = [&first.address.to_string(), "--advertise", &line.address.to_string()];
    let second = Node::start(&dirs.path().join("second"), &flags);
    line.leads_to(second.address);
    wait_until(SETTLED, "it asks what there is", || second.log().contains("nothing comes any more"));
    assert_eq!(second.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(&second));
    let third = Node::start(&dirs.path().join("third"), &[&second.address.to_string()]);
    is_ready_with_all(&third);
    line.set(Line::Good);
    is_ready_with_all(&second);
}

/// It was started again in between, and is told to join by the one that is lost.
#[test]
fn who_was_started_again_is_ready_when_those_who_had_what_it_lacks_are_evicted() {
    let dirs = tempfile::tempdir().unwrap();
    let sponsor = Node::start(&dirs.path().join("sponsor"), &[]);
    fill(&sponsor);
    let (lost, by) = (id(&sponsor), sponsor.address.to_string());
    let dir = dirs.path().join("node");
    let (node, line) = on_its_way(&dir, &sponsor);
    let address = node.address;
    sponsor.kill();
    node.kill();
    line.set(Line::Good);
    let mut command = Command::new(binary());
    command.args([&address.to_string(), &by, "--advertise", &line.address.to_string(), "--data-dir"]);
    command.arg(dir);
    let node = Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"));
    assert_eq!(node.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(&node));
    evict(&node, &lost);
    wait_until(SETTLED, "it is ready", || node.request("GET", "/ready", "").status == 200);
}

/// One that was down when others began a cluster without it, and is told to join nobody: they ask it.
#[test]
fn an_empty_node_that_others_wait_for_is_ready_when_it_has_everything() {
    let (dirs, late) = (tempfile::tempdir().unwrap(), free_address());
    let first = Node::start(&dirs.path().join("first"), &[&late.to_string()]);
    let second = Node::start(&dirs.path().join("second"), &[&first.address.to_string()]);
    wait_until(SETTLED, "they are a cluster", || state(&first, &id(&second)) == "alive");
    fill(&first);
    let line = Proxy::start();
    line.leads_to(late);
    line.set(Line::Slow(Duration::from_millis(400)));
    let mut command = Command::new(binary());
    command.args([&late.to_string(), "--advertise", &line.address.to_string(), "--data-dir"]);
    command.arg(dirs.path().join("late"));
    let node = Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"));
    wait_until(SETTLED, "it belongs there", || state(&node, &id(&first)) != "none");
    assert_eq!(node.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(&node));
    line.set(Line::Good);
    is_ready_with_all(&node);
}

/// It left as it stopped, and nobody is there that it could go back to.
#[test]
fn who_comes_back_to_nobody_lacks_what_it_lacked() {
    let mut cluster = Cluster::start(1);
    fill(cluster.node(0));
    let (by, line, dirs) = (cluster.node(0).address, Proxy::start(), tempfile::tempdir().unwrap());
    let address = free_address();
    line.leads_to(address);
    line.set(Line::Slow(Duration::from_millis(400)));
    let start = |join: &[String]| {
        let mut command = Command::new(binary());
        command.arg(address.to_string()).args(join).arg("--leave-on-exit");
        command.args(["--advertise", &line.address.to_string(), "--data-dir"]).arg(dirs.path());
        Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"))
    };
    let node = start(&[by.to_string()]);
    wait_until(SETTLED, "some of it came", || (1..KEYS).contains(&keys(&node)));
    assert_eq!(node.stop().code(), Some(0));
    cluster.kill(0);
    let node = start(&[]);
    assert!(node.log().contains("begins it again"), "{}", node.log());
    assert_eq!(node.request("GET", "/ready", "").status, 503, "it is ready with {} keys", keys(&node));
    up_at(&mut cluster, 0, by, &[]);
    line.set(Line::Good);
    is_ready_with_all(&node);
}

/// All send to it at the same time, over a line that carries little.
#[test]
fn a_thin_line_carries_everything_to_who_joins() {
    let cluster = Cluster::with(4, &["--log-mib", "0"]);
    fill(cluster.node(0));
    (1..4).for_each(|number| drop(put(cluster.node(number), &format!("own{number}"), "x")));
    cluster.settle();
    let dirs = tempfile::tempdir().unwrap();
    let (node, line) = on_its_way(dirs.path(), cluster.node(0));
    line.set(Line::Thin(160));
    is_ready_with_all(&node);
}

/// A member answers, and takes in nobody who shows another secret.
#[test]
fn new_nodes_with_a_wrong_secret_begin_no_cluster_of_their_own() {
    let dirs = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dirs.path().join(name);
        std::fs::write(&path, format!("secret-{name}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right"), file("wrong"));
    let old = Node::start(&dirs.path().join("old"), &["--cluster-secret-file", &right]);
    fill(&old);
    let addresses = [free_address(), free_address()];
    let by: Vec<String> = [old.address].iter().chain(&addresses).map(ToString::to_string).collect();
    let start = |number: usize, secret: &str| {
        let mut command = Command::new(binary());
        command.arg(addresses[number].to_string()).args(&by).args(["--cluster-secret-file", secret]);
        command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
        Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"))
    };
    let nodes = [start(0, &wrong), start(1, &wrong)];
    for node in &nodes {
        wait_until(SETTLED, "it is refused, and asked the rest", || {
            let log = node.log();
            log.contains("the cluster secret is missing") && log.contains("looks for a cluster itself")
        });
    }
    let since = Instant::now();
    wait_until(SOON, "they have asked again", || {
        nodes.iter().for_each(|node| assert_eq!(node.request("GET", "/ready", "").status, 503));
        since.elapsed() > 2 * Duration::from_millis(RETRY_MS.1)
    });
    nodes.into_iter().for_each(Node::kill);
    for node in [start(0, &right), start(1, &right)] {
        is_ready_with_all(&node);
    }
}

/// One value takes longer than anybody waits for a sign of life, and two members send.
#[test]
fn a_thin_line_carries_a_large_value_to_who_joins() {
    let flags = ["--log-mib", "0", "--log-held-mib", "1", "--max-value-bytes", "8000000"];
    let cluster = Cluster::with(2, &flags);
    assert_eq!(put(cluster.node(0), "large", &"x".repeat(6 << 20)).status, 201);
    put(cluster.node(1), "own", "x");
    cluster.settle();
    let dirs = tempfile::tempdir().unwrap();
    let (node, line) = on_its_way(dirs.path(), cluster.node(0));
    line.set(Line::Thin(500));
    wait_until(SETTLED, "it is ready", || node.request("GET", "/ready", "").status == 200);
    assert_eq!(node.request("GET", "/key/large", "").status, 200);
}
