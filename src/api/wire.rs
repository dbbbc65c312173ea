//! A client's connection, as the HTTP library sees it: one request at a time, and no answer without words.
//!
//! The library reads ahead, and decides by the request that it has read *last* whether an answer has a body: of two
//! requests sent at once, a HEAD behind a GET took the body of the GET's answer. So what follows a request waits here until
//! the answer to it has been handed to the kernel. And what the library refuses by itself (no HTTP, a huge head, a late one)
//! it answers with a bare status; here the client is told what was wrong.
//!
//! Nothing is parsed here but where a request ends (RFC 9112 sections 2.2 and 7.1): the library stays the judge of the rest.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, Payload};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::pace::Pace;
use super::problem::{Code, Problem};
use crate::limits::{HEAD_BYTES_MAX, READER_BYTES_LEAST, READER_WINDOW_MS};
use crate::metrics::Metrics;

/// A stream that hands the library one request after the other.
pub struct Wire {
    stream: TcpStream,
    turn: Turn,
    metrics: Arc<Metrics>,
    /// A head must be complete so long after its first byte.
    head_timeout: Duration,
    /// Runs while a head comes in behind the first of the connection, which the library times by itself.
    late: Option<Pin<Box<Sleep>>>,
    served: bool,
    /// Read, and not yet handed on.
    ahead: Vec<u8>,
    /// Is the task woken when more comes in?
    awaits: bool,
    /// Our words in the place of the library's, and how many of them are out.
    instead: Option<(Vec<u8>, usize)>,
    pace: Pace,
}

/// Whose turn it is on a connection; shared with the request that is being served.
#[derive(Clone)]
pub struct Turn(Rc<RefCell<Stage>>);

enum Stage {
    /// A head comes in.
    Head(Head),
    /// A head is complete; nobody serves it yet. Who waits to pass on its body.
    Asked(Option<Waker>),
    /// It is served, and this is its body; `true` while what came of it together with the head has yet to pass.
    Body(Body, bool),
    /// The whole answer is with the library.
    Answered,
    /// The connection ends with this answer: what comes in is nobody's.
    Last,
}

impl Wire {
    /// Over a new connection.
    pub fn new(stream: TcpStream, metrics: Arc<Metrics>, head_timeout: Duration) -> Wire {
        let turn = Turn(Rc::new(RefCell::new(Stage::Head(Head::default()))));
        let (late, served, ahead, pace) = (None, false, Vec::new(), Pace::default());
        Wire { stream, turn, metrics, head_timeout, late, served, ahead, awaits: false, instead: None, pace }
    }

    /// The turns of this connection.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Hands on what may pass of what was read ahead.
    fn pass_ahead(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let some = self.ahead.len().min(buf.remaining());
        let passed = self.turn.take(&self.ahead[..some]);
        buf.put_slice(&self.ahead[..passed]);
        self.ahead.drain(..passed);
        if self.ahead.is_empty() {
            // An idle connection keeps nothing.
            self.ahead = Vec::new();
        }
        passed > 0
    }

    /// Times a head that has begun; `true` when it is too late.
    fn too_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.turn.half_a_head() || !self.served {
            self.late = None;
            return false;
        }
        let timeout = self.head_timeout;
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        late.as_mut().poll(cx).is_ready()
    }

    /// The connection ends: what still comes in is read, so that the client meets no reset, and is nobody's.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead = Vec::new();
        for _ in 0..DISCARDS_AT_ONCE {
            let mut some = [0; AHEAD_BYTES];
            let mut read = ReadBuf::new(&mut some);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands bytes of an answer to the kernel, unless the client takes too few of them.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let state = Pin::new(&mut self.stream).poll_write(cx, bytes);
        match &state {
            Poll::Ready(Ok(taken)) => self.pace.took(*taken),
            Poll::Pending if self.pace.too_slow(cx) => {
                let who = self.stream.peer_addr().map_or("a client".into(), |peer| peer.to_string());
                log::info!(
                    "cut {who} off: it has taken less than {READER_BYTES_LEAST} bytes of its answer in {} s",
                    READER_WINDOW_MS / 1_000
                );
                // What the kernel has goes too, and the client hears of it: else it would wait for more.
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            _ => {}
        }
        state
    }

    /// Nothing may pass: looks whether the client is still there, and keeps a little of what it sends.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.is_empty() {
            let mut little = [0; AHEAD_BYTES];
            let mut read = ReadBuf::new(&mut little);
            let state = Pin::new(&mut self.stream).poll_read(cx, &mut read);
            self.awaits = state.is_pending();
            ready!(state)?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(read.filled());
        }
        self.turn.wait(cx.waker());
        Poll::Pending
    }
}

/// Reads of what is thrown away before others have their turn.
const DISCARDS_AT_ONCE: usize = 64;

/// Read at a time of what has to wait; the rest waits in the kernel.
const AHEAD_BYTES: usize = 1 << 10;

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn.last() {
            return this.discard(cx);
        }
        if !this.turn.open() {
            this.served = true;
            return this.look_ahead(cx);
        }
        if !this.ahead.is_empty() && this.pass_ahead(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let state = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.awaits = state.is_pending();
        if state.is_pending() && this.too_late(cx) {
            // To the library this is the end of the connection. The words fit into an empty socket, or are not needed.
            let _ = Pin::new(&mut this.stream).poll_write(cx, &words(Some(StatusCode::REQUEST_TIMEOUT)));
            this.metrics.client_errors.one();
            return Poll::Ready(Ok(()));
        }
        ready!(state)?;
        let passed = before + this.turn.take(&buf.filled()[before..]);
        this.ahead.extend_from_slice(&buf.filled()[passed..]);
        buf.set_filled(passed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_none() && this.turn.unserved() && buf.starts_with(b"HTTP/1.") {
            this.metrics.client_errors.one();
            let status = buf.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
            this.instead = Some((words(status), 0));
        }
        let Some((words, out)) = &mut this.instead else {
            return this.write(cx, buf);
        };
        while *out < words.len() {
            *out += ready!(Pin::new(&mut this.stream).poll_write(cx, &words[*out..]))?;
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn.next() && !(this.awaits && this.ahead.is_empty()) {
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Turn {
    /// A request is served from now on; `headers` tell where its body ends. The library has refused what is ambiguous.
    pub fn begin(&self, method: &Method, headers: &HeaderMap) {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let is_websocket = |value: &HeaderValue| {
            value.to_str().is_ok_and(|value| value.trim().eq_ignore_ascii_case("websocket"))
        };
        // The library's own order of precedence. Of these two kinds it takes all that follows for the body, and ends the
        // connection with the answer.
        let websocket = headers.get_all(header::UPGRADE).any(is_websocket);
        let body = match length {
            _ if headers.contains_key(header::TRANSFER_ENCODING) => Body::Chunked(Chunked::default()),
            _ if websocket => Body::Open,
            Some(bytes @ 1..) => Body::Length(bytes),
            _ if *method == Method::CONNECT => Body::Open,
            _ => Body::Length(0),
        };
        let stage = &mut *self.0.borrow_mut();
        let waiting = match stage {
            Stage::Asked(waiting) if !body.complete() => waiting.take(),
            _ => None,
        };
        *stage = Stage::Body(body, waiting.is_some());
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Is something of the body here that has yet to pass? Then whoever reads the body will be woken.
    pub fn owes(&self) -> bool {
        matches!(&*self.0.borrow(), Stage::Body(_, true))
    }

    /// Something is there that may not pass yet.
    fn wait(&self, waker: &Waker) {
        if let Stage::Asked(waiting) = &mut *self.0.borrow_mut() {
            *waiting = Some(waker.clone());
        }
    }

    /// What to do once all of the answer is with the library: `last` when the connection ends with it. Then `rest` is what
    /// has not been read of the request: the library reads to its end, for ever, once nobody holds it any more.
    pub fn end(self, body: BoxBody, last: bool, rest: Option<Payload>) -> Answer {
        Answer { body, turn: self, last, _rest: rest }
    }

    /// May anything pass?
    fn open(&self) -> bool {
        match &*self.0.borrow() {
            Stage::Head(_) => true,
            Stage::Asked(_) | Stage::Answered | Stage::Last => false,
            Stage::Body(body, _) => !body.complete(),
        }
    }

    /// Has the last answer been given?
    fn last(&self) -> bool {
        matches!(&*self.0.borrow(), Stage::Last)
    }

    /// Has a head begun that is not complete?
    fn half_a_head(&self) -> bool {
        matches!(&*self.0.borrow(), Stage::Head(head) if head.touched)
    }

    /// Is nobody answering? Then it is the library that speaks.
    fn unserved(&self) -> bool {
        matches!(&*self.0.borrow(), Stage::Head(_) | Stage::Asked(_))
    }

    /// How many of these bytes may pass now.
    fn take(&self, bytes: &[u8]) -> usize {
        let stage = &mut *self.0.borrow_mut();
        match stage {
            Stage::Head(head) => {
                let (passed, complete) = head.take(bytes);
                if complete {
                    *stage = Stage::Asked(None);
                }
                passed
            }
            Stage::Body(body, owes) => {
                *owes = false;
                body.take(bytes)
            }
            Stage::Asked(_) | Stage::Answered | Stage::Last => 0,
        }
    }

    /// Everything written so far is out; `true` when that lets the next request in.
    fn next(&self) -> bool {
        let stage = &mut *self.0.borrow_mut();
        let next = matches!(stage, Stage::Answered);
        if next {
            *stage = Stage::Head(Head::default());
        }
        next
    }
}

/// Looks for the empty line at the end of a head.
#[derive(Default)]
struct Head {
    line: Line,
    /// Empty lines before the first one don't count.
    begun: bool,
    /// Has anything come, be it such a line?
    touched: bool,
}

/// What the line so far consists of.
#[derive(Default, Clone, Copy, PartialEq)]
enum Line {
    #[default]
    Empty,
    Return,
    Text,
}

impl Head {
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        self.touched |= !bytes.is_empty();
        for (at, byte) in bytes.iter().enumerate() {
            self.line = match (byte, self.line) {
                (b'\n', Line::Text) => {
                    self.begun = true;
                    Line::Empty
                }
                (b'\n', _) if self.begun => return (at + 1, true),
                (b'\n', _) => Line::Empty,
                (b'\r', Line::Empty) => Line::Return,
                _ => Line::Text,
            };
        }
        (bytes.len(), false)
    }
}

/// Where a body ends.
enum Body {
    /// After so many bytes.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    Open,
}

/// What comes next in a chunked body.
enum Chunked {
    /// The size of a chunk, so far, until the line ends; `true` once its digits are over.
    Size(u64, bool),
    /// So many bytes of data, and the end of the line behind them.
    Data(u64),
    /// Fields, and an empty line.
    Trailers(Head),
    /// Nothing.
    Over,
}

impl Default for Chunked {
    fn default() -> Chunked {
        Chunked::Size(0, false)
    }
}

impl Body {
    fn complete(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunked::Over))
    }

    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Body::Open => bytes.len(),
            Body::Length(left) => {
                let some = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= some as u64;
                some
            }
            Body::Chunked(chunked) => chunked.take(bytes),
        }
    }
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self {
                Chunked::Size(size, over) => {
                    let byte = bytes[at];
                    at += 1;
                    match (char::from(byte).to_digit(16), *over) {
                        // Too large a size is refused by the library before its data is asked for.
                        (Some(digit), false) => *size = size.saturating_mul(16).saturating_add(digit.into()),
                        _ if byte != b'\n' => *over = true,
                        // An empty line here is the end, unless a trailer stands before it.
                        _ if *size == 0 => {
                            *self = Chunked::Trailers(Head { begun: true, ..Head::default() });
                        }
                        _ => *self = Chunked::Data(size.saturating_add(2)),
                    }
                }
                Chunked::Data(left) => {
                    let some = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= some as u64;
                    at += some;
                    if *left == 0 {
                        *self = Chunked::default();
                    }
                }
                Chunked::Trailers(head) => {
                    let (passed, complete) = head.take(&bytes[at..]);
                    at += passed;
                    if complete {
                        *self = Chunked::Over;
                    }
                }
                Chunked::Over => break,
            }
        }
        at
    }
}

/// The body of an answer: when the library is done with it, the next request may come.
pub struct Answer {
    body: BoxBody,
    turn: Turn,
    last: bool,
    _rest: Option<Payload>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        *self.turn.0.borrow_mut() = if self.last { Stage::Last } else { Stage::Answered };
    }
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// What the client is told about a request that the library has refused with this status.
fn words(status: Option<StatusCode>) -> Vec<u8> {
    let problem = match status {
        Some(StatusCode::REQUEST_TIMEOUT) => {
            Problem::new(Code::RequestTimeout, "the head of the request did not arrive in time")
        }
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
            Problem::new(Code::HeadTooLarge, format!("a head has at most {HEAD_BYTES_MAX} bytes"))
        }
        _ => Problem::new(
            Code::InvalidRequest,
            "this is no HTTP/1.1 request: its first line, a header, or what they say together (Host missing or twice, \
             Content-Length twice, no number, or beside Transfer-Encoding, more than 96 headers)",
        ),
    };
    let status = problem.code.status();
    let body = problem.text();
    let mut words = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n",
        body.len()
    );
    words.push_str(&body);
    words.into_bytes()
}
