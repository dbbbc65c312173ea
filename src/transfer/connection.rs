//! One keep-alive connection to a node: sends a request, reads its answer whole. The plainest HTTP/1.1 that a node speaks: an
//! import makes so many small requests that a general client would take more of the machine than the node.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::{ANSWER_BYTES_MAX, PEER_CONNECT_MS, SILENCE_MS};

/// An open connection.
pub struct Connection {
    stream: TcpStream,
    /// Bytes of the answer that is being read.
    read: Vec<u8>,
}

/// What the node said.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// The connection ends with it.
    pub last: bool,
}

impl Connection {
    /// To this HOST:PORT.
    pub async fn open(address: &str) -> Result<Connection, Error> {
        let stream = timeout(Duration::from_millis(PEER_CONNECT_MS), TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, read: Vec::new() })
    }

    /// Sends a request and reads its answer, which is without a body when it is `headless`.
    pub async fn ask(&mut self, request: &[u8], headless: bool) -> Result<Answer, Error> {
        timeout(Duration::from_millis(SILENCE_MS), self.exchange(request, headless)).await?
    }

    async fn exchange(&mut self, request: &[u8], headless: bool) -> Result<Answer, Error> {
        let mut sent = 0;
        while sent < request.len() {
            match self.stream.try_write(&request[sent..]) {
                Ok(some) => sent += some,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let ready = self
                        .stream
                        .ready(tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)
                        .await?;
                    // A node that refuses a body before it is in has said so, and takes no more of it.
                    if ready.is_readable() && !ready.is_writable() {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
                Err(e) => return Err(e),
            }
        }
        self.read.clear();
        loop {
            if let Some(answer) = answer(&self.read, headless)? {
                return Ok(Answer { last: answer.last || sent < request.len(), ..answer });
            }
            let mut some = [0; 4 << 10];
            match self.stream.try_read(&mut some) {
                Ok(0) => {
                    return Err(Error::new(
                        ErrorKind::UnexpectedEof,
                        "the connection was closed before an answer",
                    ));
                }
                Ok(bytes) => self.read.extend_from_slice(&some[..bytes]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(e) => return Err(e),
            }
            if self.read.len() > ANSWER_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "its answer does not end"));
            }
        }
    }
}

/// The answer that these bytes are; `None` when it is not whole.
fn answer(bytes: &[u8], headless: bool) -> Result<Option<Answer>, Error> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let strange = || Error::new(ErrorKind::InvalidData, "what answers there is no node");
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| strange())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let mut answer = Answer { status: status.ok_or_else(strange)?, body: Vec::new(), last: false };
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name {
            _ if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse::<usize>().ok(),
            _ if name.eq_ignore_ascii_case("connection") => {
                answer.last |= value.trim().eq_ignore_ascii_case("close")
            }
            _ => {}
        }
    }
    // Every answer to a request about one key has a length.
    let length = if headless { 0 } else { length.ok_or_else(strange)? };
    let body = &bytes[end + 4..];
    match body.len() {
        short if short < length => Ok(None),
        _ => Ok(Some(Answer { body: body[..length].to_vec(), ..answer })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        for cut in 0..whole.len() {
            assert_eq!(answer(&whole[..cut], false).expect("nothing strange"), None, "{cut}");
        }
        let read = answer(whole, false).expect("nothing strange");
        assert_eq!(read, Some(Answer { status: 201, body: b"{}".to_vec(), last: true }));
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n";
        assert_eq!(answer(head, true).expect("nothing strange").map(|answer| answer.last), Some(false));
        for strange in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] {
            assert!(answer(strange.as_bytes(), false).is_err(), "{strange}");
        }
    }
}
