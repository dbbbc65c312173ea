//! A light crowd of keep-alive HTTP connections on one thread: as little of the two cores as possible should go
//! into making load. What to ask, and what an answer means, is a `Script`'s business.

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub trait Script {
    /// The next request of a connection that has none under way; `None`: it rests until the next `run`.
    fn next(&mut self, connection: usize) -> Option<Vec<u8>>;
    fn answer(&mut self, connection: usize, reply: Reply);
    /// The node closed the connection; `unanswered` when a request was under way.
    fn closed(&mut self, connection: usize, unanswered: bool);
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

pub struct Crowd {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    busy: usize,
}

struct Connection {
    stream: TcpStream,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    busy: bool,
}

impl Crowd {
    pub fn connect(address: SocketAddr, count: usize) -> std::io::Result<Crowd> {
        let mut crowd = Crowd { poll: Poll::new()?, connections: Vec::new(), busy: 0 };
        for index in 0..count {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            crowd.poll.registry().register(&mut stream, Token(index), interest)?;
            let connection =
                Connection { stream, output: Vec::new(), sent: 0, input: Vec::new(), busy: false };
            crowd.connections.push(Some(connection));
        }
        Ok(crowd)
    }

    pub fn open(&self) -> usize {
        self.connections.iter().flatten().count()
    }

    /// Asks and listens until `done`, or `until` has come, or nobody has a request under way or wants to make one.
    pub fn run<S: Script>(&mut self, script: &mut S, until: Instant, mut done: impl FnMut(&S) -> bool) {
        let mut free: Vec<usize> = (0..self.connections.len()).collect();
        let mut events = Events::with_capacity(1024);
        loop {
            for index in free.drain(..) {
                self.ask(index, script);
            }
            let now = Instant::now();
            if done(script) || now >= until || self.busy == 0 {
                return;
            }
            let patience = (until - now).min(Duration::from_millis(20));
            match self.poll.poll(&mut events, Some(patience)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.expect("epoll works"),
            }
            for event in &events {
                let Token(index) = event.token();
                if self.serve(index, script) {
                    free.push(index);
                }
            }
        }
    }

    /// Listens without asking until every connection is closed by the node; false when `within` was not enough.
    pub fn drain<S: Script>(&mut self, script: &mut S, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut events = Events::with_capacity(1024);
        for index in 0..self.connections.len() {
            self.serve(index, script);
        }
        while self.open() > 0 && Instant::now() < until {
            let _ = self.poll.poll(&mut events, Some(Duration::from_millis(20)));
            for event in &events {
                self.serve(event.token().0, script);
            }
        }
        self.open() == 0
    }

    fn ask<S: Script>(&mut self, index: usize, script: &mut S) {
        let Some(connection) = &mut self.connections[index] else { return };
        if connection.busy {
            return;
        }
        let Some(request) = script.next(index) else { return };
        connection.output = request;
        connection.sent = 0;
        connection.busy = true;
        self.busy += 1;
        // A failure to write shows up as the end of the stream when it is read.
        let _ = connection.write();
    }

    /// Moves what can be moved on a connection; true when it is free for the next request.
    fn serve<S: Script>(&mut self, index: usize, script: &mut S) -> bool {
        let Some(connection) = &mut self.connections[index] else { return false };
        let _ = connection.write();
        let open = connection.read();
        let mut free = false;
        while let Some((reply, length)) = parse(&connection.input) {
            connection.input.drain(..length);
            if reply.status < 200 {
                continue;
            }
            assert!(connection.busy, "an answer without a request: {}", reply.head);
            connection.busy = false;
            self.busy -= 1;
            free = true;
            script.answer(index, reply);
        }
        if !open {
            let unanswered = connection.busy;
            self.busy -= usize::from(unanswered);
            self.connections[index] = None;
            script.closed(index, unanswered);
            return false;
        }
        free
    }
}

impl Connection {
    fn write(&mut self) -> std::io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes in what has come; false when nothing more will.
    fn read(&mut self) -> bool {
        let mut piece = [0; 65536];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// The first whole answer in `input`, and its length there.
fn parse(input: &[u8]) -> Option<(Reply, usize)> {
    let end = input.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    let mut reply = Reply { status, head, body: Vec::new() };
    if let Some(length) = reply.header("content-length") {
        let length: usize = length.parse().expect("a length");
        reply.body = input.get(end..end + length)?.to_vec();
        return Some((reply, end + length));
    }
    if reply.header("transfer-encoding").is_none() {
        return Some((reply, end));
    }
    let mut at = end;
    loop {
        let line = input[at..].windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&input[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).expect("the size of a chunk");
        at += line + 2;
        reply.body.extend_from_slice(input.get(at..at + size)?);
        at += size + 2;
        if at > input.len() {
            return None;
        }
        if size == 0 {
            return Some((reply, at));
        }
    }
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = match method {
        "PUT" => format!("Content-Length: {}\r\n", body.len()),
        _ => String::new(),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: node\r\n{length}\r\n{body}").into_bytes()
}
