//! One keep-alive connection of the load generator: sends one request, reads one answer, knows when it is whole.
//! It reads only status and content-length, and never waits.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// How a whole answer is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// HTTP/1.1 with a content-length.
    Http,
    /// So many lines of Redis: statuses, numbers, errors.
    Lines(usize),
    /// One value of Redis, or none.
    Bulk,
}

/// A connection with at most one request under way.
pub struct Connection {
    stream: TcpStream,
    answers: Answers,
    /// What the socket did not take at once.
    unsent: Vec<u8>,
    /// An answer's head that came in pieces.
    head: Vec<u8>,
    /// Status and bytes still to come of an answer whose head is read.
    body: Option<(u16, usize)>,
    /// When the request under way was sent; `None` when there is none.
    pub sent_at: Option<Instant>,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The answer is not whole yet.
    Waiting,
    /// A whole answer with this status.
    Answer(u16),
    /// The connection is of no use any more.
    Broken(&'static str),
}

impl Connection {
    pub fn open(
        address: SocketAddr,
        answers: Answers,
        registry: &Registry,
        token: Token,
    ) -> std::io::Result<Connection> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { stream, answers, unsent: Vec::new(), head: Vec::new(), body: None, sent_at: None })
    }

    /// Starts a request; what does not fit into the socket goes out with `flush`.
    pub fn send(&mut self, request: &[u8], now: Instant) -> Progress {
        self.sent_at = Some(now);
        match self.stream.write(request) {
            Ok(n) if n == request.len() => Progress::Waiting,
            Ok(n) => {
                self.unsent.extend_from_slice(&request[n..]);
                self.flush()
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.unsent.extend_from_slice(request);
                Progress::Waiting
            }
            Err(_) => Progress::Broken("the request could not be written"),
        }
    }

    /// Goes on with what was left unsent.
    pub fn flush(&mut self) -> Progress {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Progress::Broken("the request could not be written"),
            }
        }
        Progress::Waiting
    }

    /// Reads what is there. A read that does not fill the buffer has emptied the socket, and the next bytes bring a new
    /// event; only an end that is known already (`closed`) would not.
    pub fn receive(&mut self, buffer: &mut [u8], closed: bool) -> Progress {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Progress::Broken("the connection was closed"),
                Ok(n) => {
                    let progress = self.take(&buffer[..n]);
                    if progress != Progress::Waiting || (n < buffer.len() && !closed) {
                        return progress;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Progress::Broken("the connection was reset"),
            }
        }
    }

    fn take(&mut self, fresh: &[u8]) -> Progress {
        if self.sent_at.is_none() {
            return Progress::Broken("bytes that nobody had asked for");
        }
        if self.answers != Answers::Http {
            self.head.extend_from_slice(fresh);
            return match redis_answer(self.answers, &self.head) {
                Ok(None) => Progress::Waiting,
                Ok(Some(status)) => {
                    self.head.clear();
                    Progress::Answer(status)
                }
                Err(why) => Progress::Broken(why),
            };
        }
        if let Some((status, left)) = self.body {
            return self.take_body(status, left, fresh.len());
        }
        if self.head.is_empty() {
            return match parse_head(fresh) {
                Head::Partial => {
                    self.head.extend_from_slice(fresh);
                    Progress::Waiting
                }
                Head::Whole(head) => {
                    self.take_body(head.status, head.content_length, fresh.len() - head.bytes)
                }
                Head::Unreadable(why) => Progress::Broken(why),
            };
        }
        self.head.extend_from_slice(fresh);
        match parse_head(&self.head) {
            Head::Partial if self.head.len() > HEAD_BYTES_MAX => {
                Progress::Broken("an answer's head without end")
            }
            Head::Partial => Progress::Waiting,
            Head::Whole(head) => {
                let body = self.head.len() - head.bytes;
                self.head.clear();
                self.take_body(head.status, head.content_length, body)
            }
            Head::Unreadable(why) => Progress::Broken(why),
        }
    }

    fn take_body(&mut self, status: u16, left: usize, got: usize) -> Progress {
        self.body = None;
        if got > left {
            return Progress::Broken("bytes that nobody had asked for");
        }
        if got < left {
            self.body = Some((status, left - got));
            return Progress::Waiting;
        }
        Progress::Answer(status)
    }
}

/// The status of a whole answer of Redis in the words of HTTP; 202 when it waited for replicas and there were none.
pub fn redis_answer(answers: Answers, bytes: &[u8]) -> Result<Option<u16>, &'static str> {
    let lines = bytes.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\r\n"));
    let whole = bytes.ends_with(b"\r\n");
    let status = |line: &[u8]| match line {
        [b'-', ..] => 500,
        b":0\r\n" => 202,
        b"$-1\r\n" => 404,
        _ => 200,
    };
    let wanted = match (answers, bytes.first()) {
        (Answers::Bulk, Some(b'$')) if !bytes.starts_with(b"$-1") => 2,
        (Answers::Lines(lines), _) => lines,
        _ => 1,
    };
    if bytes.first().is_some_and(|first| !matches!(first, b'+' | b'-' | b':' | b'$')) {
        return Err("an answer that is not of Redis");
    }
    match lines.clone().count() {
        count if count > wanted || (count == wanted && !whole) => Err("bytes that nobody had asked for"),
        count if count == wanted => Ok(lines.map(status).max()),
        _ => Ok(None),
    }
}

/// What the first bytes of an answer say.
pub enum Head {
    Partial,
    Whole(WholeHead),
    Unreadable(&'static str),
}

pub struct WholeHead {
    pub status: u16,
    pub content_length: usize,
    /// Length of the head itself, up to the body.
    pub bytes: usize,
}

/// One pass over the lines of a head.
pub fn parse_head(bytes: &[u8]) -> Head {
    let mut at = 0;
    let mut status = None;
    let mut content_length = None;
    while let Some(length) = bytes[at..].iter().position(|&b| b == b'\n') {
        let line = bytes[at..at + length].trim_ascii_end();
        at += length + 1;
        if status.is_none() {
            status = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| number(rest.get(..3)?));
            if status.is_none() {
                return Head::Unreadable("an answer that is not HTTP/1.1");
            }
        } else if line.is_empty() {
            return match (status, content_length) {
                (Some(status), Some(content_length)) => {
                    Head::Whole(WholeHead { status: status as u16, content_length, bytes: at })
                }
                _ => Head::Unreadable("an answer without a content-length"),
            };
        } else if line.len() > LENGTH.len() && line[..LENGTH.len()].eq_ignore_ascii_case(LENGTH) {
            content_length = number(line[LENGTH.len()..].trim_ascii());
        }
    }
    Head::Partial
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

const LENGTH: &[u8] = b"content-length:";
const HEAD_BYTES_MAX: usize = 64 << 10;
