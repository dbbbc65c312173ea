//! Clients that take their time: a byte a second, in the head or in the body. They are cut off when their time is
//! up, and meanwhile nobody waits for them.

use crate::limits::{Got, listen};
use crate::support::{Client, Node};
use crate::{alone, say};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HEAD: &[u8] = b"GET /key/a HTTP/1.1\r\nHost: node\r\nX-Slow: ";
const BODY: &[u8] = b"PUT /key/slow HTTP/1.1\r\nHost: node\r\nContent-Length: 100000\r\n\r\n{\"value\": \"";

/// A client that has said `beginning` and goes on with a byte a second.
struct Dribble {
    stream: TcpStream,
    begun: Instant,
    answer: Vec<u8>,
    cut_off: Option<Duration>,
}

impl Dribble {
    fn start(address: SocketAddr, beginning: &[u8]) -> Dribble {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(beginning).expect("the beginning is sent");
        stream.set_nonblocking(true).expect("it can be made so");
        Dribble { stream, begun: Instant::now(), answer: Vec::new(), cut_off: None }
    }

    fn go_on(&mut self) {
        if self.cut_off.is_some() {
            return;
        }
        let mut piece = [0; 1024];
        let end = loop {
            match self.stream.read(&mut piece) {
                Ok(0) => break true,
                Ok(count) => self.answer.extend_from_slice(&piece[..count]),
                Err(e) => break e.kind() != ErrorKind::WouldBlock,
            }
        };
        // An answer is the end too: what follows is only closing.
        if end || !self.answer.is_empty() {
            self.cut_off = Some(self.begun.elapsed());
            return;
        }
        let _ = self.stream.write(b"x");
    }

    /// Cut off after about `timeout`, with 408 or without a word.
    fn check(&self, timeout: Duration) -> Result<(), String> {
        let took = self.cut_off.ok_or("is still served")?;
        if took < timeout * 3 / 4 || took > timeout + Duration::from_secs(4) {
            return Err(format!("cut off after {took:?} for {timeout:?}"));
        }
        let answer = String::from_utf8_lossy(&self.answer);
        match self.answer.is_empty() || answer.starts_with("HTTP/1.1 408") {
            true => Ok(()),
            false => Err(format!("answered {answer}")),
        }
    }
}

/// Goes on with all of them, a byte a second each, until they are cut off or `deadline` has passed. The pause is
/// the clients' slowness, nothing is waited for by it.
fn dribble(clients: &mut [Dribble], deadline: Instant) {
    let parts = 10;
    let size = clients.len().div_ceil(parts).max(1);
    while clients.iter().any(|client| client.cut_off.is_none()) && Instant::now() < deadline {
        for part in clients.chunks_mut(size) {
            part.iter_mut().for_each(Dribble::go_on);
            std::thread::sleep(Duration::from_millis(1000 / parts as u64));
        }
    }
}

#[test]
fn a_byte_a_second_is_cut_off() {
    let _alone = alone();
    let timeout = Duration::from_millis(2500);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &["--request-timeout-ms", "2500"]);
    for beginning in [HEAD, BODY] {
        let mut clients: Vec<Dribble> = (0..4).map(|_| Dribble::start(node.address, beginning)).collect();
        dribble(&mut clients, Instant::now() + timeout + Duration::from_secs(5));
        for client in &clients {
            let what = String::from_utf8_lossy(beginning);
            client.check(timeout).unwrap_or_else(|why| panic!("a slow client {why}: {what}"));
        }
    }
    // A body that stops half way, without another byte.
    let mut silent = TcpStream::connect(node.address).expect("a connection");
    silent.write_all(BODY).expect("sent");
    let begun = Instant::now();
    let got = listen(&mut silent, timeout + Duration::from_secs(4));
    assert!(
        matches!(got, Got::Status(408) | Got::Closed),
        "a body that stops: {got:?} after {:?}",
        begun.elapsed()
    );
    assert_eq!(node.request("GET", "/key/slow", "").status, 404, "half a body changes nothing");
    // A slow but decent client is within its rights.
    let mut client = Client::new(node.address);
    client.send(b"PUT /key/decent HTTP/1.1\r\nHost: node\r\n").expect("sent");
    std::thread::sleep(Duration::from_millis(700));
    client.send(b"Content-Length: 12\r\n\r\n{\"value\"").expect("sent");
    std::thread::sleep(Duration::from_millis(700));
    client.send(b": 1}").expect("sent");
    assert_eq!(client.receive(false).expect("an answer").status, 201);
}

#[test]
fn a_thousand_slow_clients_hold_nobody_up() {
    let _alone = alone();
    let timeout = Duration::from_secs(6);
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &["--request-timeout-ms", "6000"]);
    let address = node.address;
    let (alone_median, alone_worst) = latency(address, Duration::from_secs(2), &AtomicBool::new(false));

    let mut clients: Vec<Dribble> =
        (0..1000).map(|n| Dribble::start(address, if n % 2 == 0 { HEAD } else { BODY })).collect();
    let over = AtomicBool::new(false);
    let (median, worst) = std::thread::scope(|scope| {
        let good = scope.spawn(|| latency(address, Duration::from_secs(30), &over));
        dribble(&mut clients, Instant::now() + timeout + Duration::from_secs(6));
        over.store(true, Ordering::Relaxed);
        good.join().expect("the good client ran")
    });
    say(&format!(
        "slow: good clients beside 1,000 slow ones: median {median:?}, 99 % within {worst:?} \
         (without them {alone_median:?}, {alone_worst:?})"
    ));
    for client in &clients {
        client.check(timeout).unwrap_or_else(|why| panic!("one of a thousand slow clients {why}"));
    }
    assert!(
        median < alone_median * 5 + Duration::from_millis(20),
        "median {median:?}, alone {alone_median:?}"
    );
    assert!(worst < alone_worst * 5 + Duration::from_millis(100), "99 % {worst:?}, alone {alone_worst:?}");
    assert_eq!(node.request("GET", "/key/slow", "").status, 404, "half a body changes nothing");
}

/// Median and 99th percentile of a client that writes and reads in turn, for so long or until `over`.
pub fn latency(address: SocketAddr, long: Duration, over: &AtomicBool) -> (Duration, Duration) {
    let mut client = Client::new(address);
    let until = Instant::now() + long;
    let mut times = Vec::new();
    while Instant::now() < until && !over.load(Ordering::Relaxed) {
        for (method, body) in [("PUT", "{\"value\": 1}"), ("GET", "")] {
            let asked = Instant::now();
            let answer = client.request(method, "/key/good", &[], body.as_bytes()).expect("an answer");
            assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
            times.push(asked.elapsed());
        }
    }
    times.sort();
    assert!(times.len() >= 20, "{} requests in {long:?}", times.len());
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
