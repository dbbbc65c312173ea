//! Clients that take next to nothing of an answer: they lose it, and with it their turn. Their windows are a minute long, so
//! this runs beside all the rest, from early on: these files run in the order of their names.

use crate::beside;
use crate::support::{Client, Node};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

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
    let beside = beside();
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
    // From here on it disturbs nobody.
    drop(beside);
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
