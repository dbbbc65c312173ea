//! Asked to stop: the node finishes what it has accepted, takes nothing new, and exits with 0 within seconds,
//! however many clients sit on open connections.

use crate::beside;
use crate::random::seed;
use crate::shim::Faults;
use crate::support::{Client, Node, Response, SOON, wait_until};
use crate::workload::Workload;
use std::time::{Duration, Instant};

const AT_ONCE: Duration = Duration::from_secs(5);

/// Less than the ten seconds after which `docker stop` kills.
pub const BEFORE_THE_KILL: Duration = Duration::from_secs(9);

#[test]
fn sigterm_under_load() {
    under_load(libc::SIGTERM);
}

#[test]
fn sigint_under_load() {
    under_load(libc::SIGINT);
}

#[test]
fn a_node_that_stood_still_is_not_late() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(dir.path(), &["--commit-deadline-ms", "1000"]);
    let mut workload = Workload::new(seed(), 64, 2, 8);
    let mut crowd = workload.connect(&node);
    for round in 1..=3 {
        let wanted = 200 * round;
        crowd.run(&mut workload, Instant::now() + Duration::from_secs(20), |w| w.acknowledged >= wanted);
        assert!(workload.acknowledged >= wanted, "hardly any load: {}", node.log());
        // Requests are under way, hence a commit too. The pause is what is tested.
        node.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(1_700));
        node.signal(libc::SIGCONT);
    }
    let wanted = workload.acknowledged + 200;
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(20), |w| w.acknowledged >= wanted);
    assert!(workload.acknowledged >= wanted, "it does not go on: {}", node.log());
    drop(crowd);
    node.signal(libc::SIGTERM);
    assert_eq!(node.wait(BEFORE_THE_KILL).code(), Some(0), "{}", node.log());
}

fn under_load(signal: i32) {
    let _beside = beside();
    let seed = seed();
    let context = format!("signal {signal}, DYNARUST_SEED={seed}");
    let dir = tempfile::tempdir().expect("a directory");
    let mut workload = Workload::new(seed, 64, 2, 8);
    for round in 0..4 {
        let mut node = Node::start(dir.path(), &[]);
        workload.audit(&node);
        let mut idle: Vec<Client> = (0..20).map(|_| Client::new(node.address)).collect();
        for client in &mut idle {
            assert_eq!(client.request("GET", "/health", &[], b"").expect("an answer").status, 200);
        }
        workload.refusals = &[];
        let mut crowd = workload.connect(&node);
        let wanted = workload.acknowledged + 100 + 200 * round;
        crowd.run(&mut workload, Instant::now() + Duration::from_secs(20), |w| w.acknowledged >= wanted);
        assert!(workload.acknowledged >= wanted, "{context}: hardly any load");
        workload.acquit(&context);

        // The clients do not know, and go on.
        let asked = Instant::now();
        node.signal(signal);
        workload.refusals = &[503];
        crowd.run(&mut workload, asked + Duration::from_millis(round * 3), |_| false);
        node.signal(signal);
        crowd.run(&mut workload, asked + AT_ONCE, |_| false);
        let status = node.wait(AT_ONCE.saturating_sub(asked.elapsed()) + Duration::from_secs(1));
        assert_eq!(status.code(), Some(0), "{context}: {status}\n{}", node.log());
        assert!(Client::connect(node.address).is_err(), "{context}: somebody still listens");
        workload.stopped = true;
        assert!(
            crowd.drain(&mut workload, Duration::from_secs(5)),
            "{context}: connections outlive the node"
        );
        drop(idle);
    }
    let node = Node::start(dir.path(), &[]);
    workload.audit(&node);
    workload.acquit(&context);
}

#[test]
fn idle_connections_hold_nothing_up() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(dir.path(), &[]);
    let mut idle: Vec<Client> = (0..50).map(|_| Client::new(node.address)).collect();
    // Half of them have not said a word yet.
    for client in &mut idle[..25] {
        assert_eq!(client.request("GET", "/ready", &[], b"").expect("an answer").status, 200);
    }
    let asked = Instant::now();
    node.signal(libc::SIGTERM);
    let status = node.wait(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", node.log());
    assert!(asked.elapsed() < AT_ONCE, "stopped after {:?}\n{}", asked.elapsed(), node.log());
}

/// Requests that will never be whole: `docker stop` and its like wait ten seconds before they kill.
#[test]
fn half_a_request_does_not_hold_up_for_long() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    for half in [
        &b"PUT /key/half HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n{\"value"[..],
        b"GET /key/half HTTP/1.1\r\nHost: no",
    ] {
        let mut node = Node::start(dir.path(), &[]);
        let mut client = Client::new(node.address);
        client.send(half).expect("sent");
        // Whoever was accepted later has been answered: the half has arrived.
        assert_eq!(node.request("GET", "/ready", "").status, 200);
        let asked = Instant::now();
        node.signal(libc::SIGTERM);
        let status = node.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(0), "{}", node.log());
        assert!(asked.elapsed() < BEFORE_THE_KILL, "stopped after {:?}\n{}", asked.elapsed(), node.log());
        drop(client);
        let node = Node::start(dir.path(), &[]);
        assert_eq!(node.request("GET", "/key/half", "").status, 404);
    }
}

/// With a disk slow enough to look at it: a write that was accepted before the signal is answered after it.
#[test]
fn what_was_accepted_is_answered() {
    let _beside = beside();
    let Some(faults) = Faults::new("a stop in the middle of a commit") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = faults.start(dir.path(), &[]);
    let mut watcher = Client::new(node.address);
    assert_eq!(watcher.request("GET", "/ready", &[], b"").expect("an answer").status, 200);
    assert_eq!(node.request("PUT", "/key/before", "{\"value\": 1}").status, 201);
    faults.set("sync stall 2000");
    let address = node.address;
    let writer = std::thread::spawn(move || {
        Client::new(address).request("PUT", "/key/under-way", &[], b"{\"value\": 2}")
    });
    faults.wait_for_hit();

    node.signal(libc::SIGTERM);
    wait_until(Duration::from_millis(1500), "a new client is turned away", || {
        let asked = Client::connect(address).and_then(|mut c| c.request("GET", "/ready", &[], b""));
        stopping(&asked)
    });
    let asked = watcher.request("GET", "/ready", &[], b"");
    assert!(stopping(&asked), "an old client is told nothing: {asked:?}");
    node.signal(libc::SIGTERM);

    let answer = writer.join().expect("the writer ran").unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
    assert_eq!(answer.status, 201, "{}", answer.text());
    faults.clear();
    let status = node.wait(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", node.log());
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("GET", "/key/under-way", "").json()["value"], 2);
    assert_eq!(node.request("GET", "/key/before", "").json()["value"], 1);
}

/// It is acknowledged after the node has asked who has all, and the only other member stands still by then.
#[test]
fn what_a_slow_disk_acknowledges_late_keeps_the_node_a_member() {
    let _beside = beside();
    let Some(faults) = Faults::new("a leave from a slow disk") else { return };
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let other = Node::start(dirs[0].path(), &[]);
    let flags = [&*other.address.to_string(), "--leave-on-exit"];
    let mut node = faults.start(dirs[1].path(), &flags);
    let has_arrived = || node.request("GET", "/ready", "").status == 200;
    wait_until(SOON, "it has arrived", has_arrived);
    assert_eq!(node.request("PUT", "/key/before?w=2&timeout_ms=10000", "{\"value\": 1}").status, 201);
    // Longer than requests under way are waited for.
    faults.set("sync stall 6000");
    let address = node.address;
    let writer = std::thread::spawn(move || {
        let mut client = Client::patient(address, Duration::from_secs(20)).expect("a connection");
        client.request("PUT", "/key/late", &[], b"{\"value\": 2}")
    });
    faults.wait_for_hit();
    other.signal(libc::SIGSTOP);
    node.signal(libc::SIGTERM);
    let answer = writer.join().expect("the writer ran").unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
    assert_eq!(answer.status, 201, "{}", answer.text());
    faults.clear();
    let status = node.wait(Duration::from_secs(40));
    other.signal(libc::SIGCONT);
    assert_eq!(status.code(), Some(1), "it leaves with what nobody else has:\n{}", node.log());
    assert!(node.log().contains("start it again to bring it to them"), "{}", node.log());
    let node = Node::start(dirs[1].path(), &["--leave-on-exit"]);
    wait_until(SOON, "the other one has it", || other.request("GET", "/key/late", "").status == 200);
    assert_eq!(node.stop().code(), Some(0));
}

/// Turned away: no connection, or a plain word that the node is stopping.
fn stopping(asked: &std::io::Result<Response>) -> bool {
    match asked {
        Err(_) => true,
        Ok(answer) => answer.status == 503 && answer.json()["type"] == "urn:dynarust:problem:stopping",
    }
}

#[test]
fn a_stop_right_after_the_start() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    for _ in 0..20 {
        let node = Node::start(dir.path(), &[]);
        let log = node.log();
        assert_eq!(node.stop().code(), Some(0), "{log}");
    }
}
