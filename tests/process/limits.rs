//! Everything that could grow is bounded: the queue of writes, connections, idle ones. Past a bound clients are
//! refused or wait, and the others notice nothing.

use crate::child::{memory_mib, raise_file_limit, sockets};
use crate::load::{Crowd, Reply, Script, request};
use crate::shim::Faults;
use crate::support::{Client, Node, wait_until};
use crate::{alone, beside, skipped};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One request a connection, and what became of it.
pub struct Once {
    requests: Vec<Option<Vec<u8>>>,
    pub replies: Vec<Option<Reply>>,
    pub closed: usize,
}

impl Once {
    pub fn new(requests: Vec<Vec<u8>>) -> Once {
        let replies = requests.iter().map(|_| None).collect();
        Once { requests: requests.into_iter().map(Some).collect(), replies, closed: 0 }
    }

    pub fn count(&self, statuses: &[u16]) -> usize {
        self.replies.iter().flatten().filter(|reply| statuses.contains(&reply.status)).count()
    }
}

impl Script for Once {
    fn next(&mut self, connection: usize) -> Option<Vec<u8>> {
        self.requests[connection].take()
    }

    fn answer(&mut self, connection: usize, reply: Reply) {
        self.replies[connection] = Some(reply);
    }

    fn closed(&mut self, _connection: usize, _unanswered: bool) {
        self.closed += 1;
    }
}

/// The allocator asks for them, and clearing one holds up all writers for as long as some commits take.
#[test]
fn a_node_has_no_huge_pages() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("it runs");
    match status.lines().find_map(|line| line.strip_prefix("THP_enabled:")) {
        Some(enabled) => assert_eq!(enabled.trim(), "0"),
        None => skipped("huge pages", "this kernel does not tell of them"),
    }
}

/// While the disk stalls, the queue takes what it holds and refuses the rest at once, and says when to come back.
#[test]
fn a_full_queue_refuses_with_retry_after() {
    let _alone = alone();
    let Some(faults) = Faults::new("a full write queue") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let node = faults.start(dir.path(), &["--write-queue", "8"]);
    faults.set("sync stall 1500");
    let address = node.address;
    let first =
        std::thread::spawn(move || Client::new(address).request("PUT", "/key/first", &[], b"{\"value\": 0}"));
    faults.wait_for_hit();

    let put = |n: usize| request("PUT", &format!("/key/q{n}"), &format!("{{\"value\": {n}}}"));
    let mut once = Once::new((0..64).map(put).collect());
    let mut crowd = Crowd::connect(address, 64).expect("connections");
    let begun = Instant::now();
    crowd.run(&mut once, begun + Duration::from_secs(1), |o| o.count(&[503]) >= 56);
    let refused = once.count(&[503]);
    let at_once = begun.elapsed();
    crowd.run(&mut once, begun + Duration::from_secs(20), |_| false);
    let accepted = once.count(&[200, 201]);
    assert_eq!(first.join().expect("it ran").expect("an answer").status, 201);
    assert_eq!(accepted + once.count(&[503]), 64, "every request has its answer, 2xx or 503");
    assert!((48..=56).contains(&refused), "{refused} of 64 refused at once with a queue of 8");
    crate::say(&format!(
        "limits: queue of 8, 64 writes: {refused} refused within {at_once:?}, {accepted} accepted and answered"
    ));
    assert!(at_once < Duration::from_millis(1000), "the refusals took {at_once:?}");
    for reply in once.replies.iter().flatten().filter(|reply| reply.status == 503) {
        let after: u32 =
            reply.header("retry-after").and_then(|n| n.parse().ok()).expect("Retry-After in seconds");
        assert!((1..=60).contains(&after), "Retry-After: {after}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("a problem");
        assert_eq!(body["type"], "urn:dynarust:problem:busy");
    }
    faults.clear();
    let stats = node.request("GET", "/stats", "").json();
    assert_eq!(stats["queue"]["capacity"], 8, "{stats}");
    assert_eq!(stats["queue"]["refused"], once.count(&[503]), "{stats}");
    for (n, reply) in once.replies.iter().enumerate() {
        let there = node.request("GET", &format!("/key/q{n}"), "").status;
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        assert_eq!(there == 200, status == 201, "key q{n}: answered {status}, now {there}");
    }
    // Who was refused may come back on the same connection.
    let again = |n: usize| request("PUT", &format!("/key/q{n}"), "{\"value\": 1}");
    let mut once = Once::new((0..4).map(again).collect());
    once.requests.resize_with(64, || None);
    once.replies.resize_with(64, || None);
    crowd.run(&mut once, Instant::now() + Duration::from_secs(10), |_| false);
    assert_eq!(once.count(&[200, 201]), 4, "the connections of the refused are of use");
}

/// What a raw connection got: a status, its end, or nothing in time.
#[derive(Debug, PartialEq)]
pub enum Got {
    Status(u16),
    Closed,
    Nothing,
}

pub fn listen(stream: &mut TcpStream, within: Duration) -> Got {
    stream.set_read_timeout(Some(within)).expect("a time-out can be set");
    let mut line = [0; 12];
    match stream.read_exact(&mut line) {
        Ok(()) => Got::Status(String::from_utf8_lossy(&line[9..]).parse().expect("a status line")),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Got::Nothing,
        Err(_) => Got::Closed,
    }
}

fn knock(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n").ok()?;
    Some(stream)
}

/// Moves those that were served from `outside` to `served`, where they stay open; those turned away become `None`.
fn answered(outside: &mut Vec<Option<TcpStream>>, served: &mut Vec<TcpStream>) {
    outside.retain_mut(|slot| {
        let Some(stream) = slot else { return true };
        match listen(stream, Duration::from_millis(100)) {
            Got::Nothing => true,
            Got::Status(200) => {
                served.extend(slot.take());
                false
            }
            Got::Status(503) | Got::Closed => {
                *slot = None;
                true
            }
            Got::Status(other) => panic!("past the limit: {other}"),
        }
    });
}

#[test]
fn connections_past_the_limit_wait_or_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &["--max-connections", "32"]);
    let health = |client: &mut Client| client.request("GET", "/health", &[], b"").map(|answer| answer.status);
    let mut inside: Vec<Client> = Vec::new();
    // Fewer than 32 may fit when the limit is kept by each of several workers; not more.
    for _ in 0..28 {
        let mut client = Client::new(node.address);
        assert_eq!(health(&mut client).expect("an answer"), 200);
        inside.push(client);
    }
    let mut outside: Vec<Option<TcpStream>> = (0..20).map(|_| knock(node.address)).collect();
    let mut served: Vec<TcpStream> = Vec::new();
    answered(&mut outside, &mut served);
    assert!(served.len() <= 4, "{} connections with a limit of 32", inside.len() + served.len());
    for client in &mut inside {
        assert_eq!(health(client).expect("an answer"), 200, "those inside go on");
    }
    inside.truncate(4);
    wait_until(Duration::from_secs(20), "all others get in when there is room", || {
        for slot in outside.iter_mut().filter(|slot| slot.is_none()) {
            *slot = knock(node.address);
        }
        answered(&mut outside, &mut served);
        outside.is_empty()
    });
    for client in &mut inside {
        assert_eq!(health(client).expect("an answer"), 200, "those inside go on");
    }
}

#[test]
fn ten_thousand_idle_connections_in_300_mib() {
    const COUNT: usize = 10_000;
    let _alone = alone();
    let limit = raise_file_limit();
    if limit < COUNT as u64 + 500 {
        return skipped("10,000 idle connections", &format!("a process may open {limit} files only"));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &["--idle-timeout-ms", "600000"]);
    let pid = node.child.id();
    assert_eq!(node.request("PUT", "/key/a", "{\"value\": 1}").status, 201);
    let mut crowd = Crowd::connect(node.address, COUNT).expect("connections");
    let mut once = Once::new((0..COUNT).map(|_| request("GET", "/key/a", "")).collect());
    crowd.run(&mut once, Instant::now() + Duration::from_secs(60), |_| false);
    assert_eq!(once.count(&[200]), COUNT, "each was answered");
    assert!(sockets(pid) >= COUNT, "{} sockets are open in the node", sockets(pid));
    let resident = memory_mib(pid, "VmRSS");
    crate::say(&format!("limits: {COUNT} idle connections: {resident} MiB resident"));
    assert!(resident < 300, "{resident} MiB for {COUNT} idle connections");
    let asked = Instant::now();
    assert_eq!(node.request("PUT", "/key/b", "{\"value\": 1}").status, 201);
    assert!(asked.elapsed() < Duration::from_secs(1), "a write took {:?} beside them", asked.elapsed());
    assert_eq!(crowd.open(), COUNT);
    drop(crowd);
    wait_until(Duration::from_secs(20), "the node lets closed connections go", || sockets(pid) < 100);
}

#[test]
fn idle_connections_are_closed_in_time() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &["--idle-timeout-ms", "1000", "--request-timeout-ms", "2000"]);
    let mut client = Client::new(node.address);
    assert_eq!(client.request("GET", "/health", &[], b"").expect("an answer").status, 200);
    let idle = Instant::now();
    let end = client.receive(false);
    assert!(end.is_err(), "an idle connection gets no answer: {end:?}");
    let took = idle.elapsed();
    assert!(
        took > Duration::from_millis(700) && took < Duration::from_secs(5),
        "closed after {took:?} for 1 s"
    );
    // One that never said a word is not kept for ever either.
    let mut silent = TcpStream::connect(node.address).expect("a connection");
    let begun = Instant::now();
    let got = listen(&mut silent, Duration::from_secs(8));
    assert!(matches!(got, Got::Closed | Got::Status(408)), "a silent connection: {got:?}");
    assert!(begun.elapsed() > Duration::from_millis(700), "closed after {:?} already", begun.elapsed());
}
