//! Clients that take their time: a byte a second, in the head or in the body. They are cut off when their time is
//! up, and meanwhile nobody waits for them.

use crate::limits::{Got, listen};
use crate::support::{Client, Node};
use crate::{alone, beside, say};
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

/// A client that asks and then takes what it takes.
struct Taker {
    stream: TcpStream,
    taken: Vec<u8>,
    ended: bool,
}

impl Taker {
    fn start(address: SocketAddr, path: &str) -> Taker {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        // A larger one is filled at once; in a smaller one no segment of this line fits, for which the kernel ends it.
        socket.set_recv_buffer_size(256 << 10).expect("an option");
        socket.connect(&address.into()).expect("a connection");
        let mut stream = TcpStream::from(socket);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).expect("sent");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        Taker { stream, taken: Vec::new(), ended: false }
    }

    /// Takes so many bytes, if there are so many.
    fn take(&mut self, bytes: usize) {
        let mut piece = vec![0; bytes];
        let mut at = 0;
        while at < bytes && !self.ended {
            match self.stream.read(&mut piece[at..]) {
                Ok(0) => self.ended = true,
                Ok(count) => at += count,
                // Silence as well: when the kernel gives a connection up, it tells nobody.
                Err(_) => self.ended = true,
            }
        }
        self.taken.extend_from_slice(&piece[..at]);
    }

    fn is_whole(&self) -> bool {
        self.taken.ends_with(b"\r\n0\r\n\r\n")
    }
}

/// Who reads next to nothing of a stream loses it, and with it the turn; who reads slowly goes on.
#[test]
fn who_takes_next_to_nothing_is_cut_off() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    let mut client = Client::new(node.address);
    let body = format!("{{\"value\": \"{}\"}}", "x".repeat(1_000_000));
    for key in 0..16 {
        let answer = client.request("PUT", &format!("/key/large/{key}"), &[], body.as_bytes());
        assert_eq!(answer.expect("an answer").status, 201);
    }
    let status = |path: &str| {
        let mut taker = Taker::start(node.address, path);
        taker.take(12);
        String::from_utf8_lossy(&taker.taken[9..]).into_owned()
    };
    // All turns are taken: two of backups, four of lists.
    let mut stuck: Vec<Taker> =
        ["/backup", "/keys", "/keys"].map(|path| Taker::start(node.address, path)).into();
    let mut tricklers: Vec<Taker> = ["/backup", "/keys"].map(|path| Taker::start(node.address, path)).into();
    let mut decent = Taker::start(node.address, "/keys");
    // The head of each is there, so that each has its turn.
    for taker in stuck.iter_mut().chain(&mut tricklers).chain([&mut decent]) {
        taker.take(12);
        assert_eq!(taker.taken, b"HTTP/1.1 200");
    }
    assert_eq!([status("/backup"), status("/keys")], ["503", "503"]);
    // Slowness, and nothing that is waited for: 6 and 40 KiB a second, for two windows and more.
    for _ in 0..70 {
        std::thread::sleep(Duration::from_secs(1));
        tricklers.iter_mut().for_each(|taker| taker.take(6 << 10));
        decent.take(40 << 10);
    }
    assert_eq!(status("/backup"), "200");
    let deadline = Instant::now() + Duration::from_secs(20);
    while status("/keys") != "200" {
        assert!(Instant::now() < deadline, "the turns of lists did not come back");
    }
    for taker in stuck.iter_mut().chain(&mut tricklers) {
        taker.take(64 << 20);
        assert!(taker.ended && !taker.is_whole(), "{} bytes came", taker.taken.len());
    }
    decent.take(64 << 20);
    assert!(decent.is_whole(), "who took 40 KiB a second was cut off after {} bytes", decent.taken.len());
}
