//! One blocking keep-alive connection, for what is asked one after the other: probes, polls, figures.
//! It must never retry: what goes wrong is an error.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;

use super::Failure;
use super::connection::{Answers, Head, parse_head, redis_answer};

/// A connection.
pub struct Client {
    stream: TcpStream,
    address: SocketAddr,
    answer: Vec<u8>,
}

impl Client {
    pub fn open(address: SocketAddr) -> Result<Client, Failure> {
        let stream = TcpStream::connect(address).map_err(|e| format!("{address}: {e}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(Client { stream, address, answer: Vec::new() })
    }

    /// One request; the status of its answer, and the whole answer.
    pub fn ask(&mut self, request: &[u8], answers: Answers) -> Result<(u16, &[u8]), Failure> {
        self.stream.write_all(request).map_err(|e| format!("{}: {e}", self.address))?;
        self.answer.clear();
        let mut buffer = [0; 16 << 10];
        loop {
            let read = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(format!("{} closed the connection", self.address).into()),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("{}: {e}", self.address).into()),
            };
            self.answer.extend_from_slice(&buffer[..read]);
            if let Some(status) = whole(&self.answer, answers)? {
                return Ok((status, &self.answer));
            }
        }
    }

    /// What a node says under a path.
    pub fn json(&mut self, method: &str, path: &str) -> Result<Json, Failure> {
        let address = self.address;
        let length = if method == "GET" { "" } else { "Content-Length: 2\r\n" };
        let body = if method == "GET" { "" } else { "{}" };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{length}\r\n{body}");
        let (status, answer) = self.ask(request.as_bytes(), Answers::Http)?;
        let Head::Whole(head) = parse_head(answer) else { return Err("an answer without a head".into()) };
        let body = &answer[head.bytes..];
        if !matches!(status, 200..300) {
            let body = String::from_utf8_lossy(body);
            return Err(format!("{address}: {method} {path} was answered {status}: {body}").into());
        }
        Ok(serde_json::from_slice(body)?)
    }

    /// What a node says about itself.
    pub fn stats(&mut self) -> Result<Json, Failure> {
        self.json("GET", "/stats")
    }
}

/// The status, when the answer is whole.
fn whole(answer: &[u8], answers: Answers) -> Result<Option<u16>, Failure> {
    if answers != Answers::Http {
        return Ok(redis_answer(answers, answer)?);
    }
    match parse_head(answer) {
        Head::Partial => Ok(None),
        Head::Whole(head) if answer.len() < head.bytes + head.content_length => Ok(None),
        Head::Whole(head) => Ok(Some(head.status)),
        Head::Unreadable(why) => Err(why.into()),
    }
}

/// How long nothing may be heard.
const SILENCE_MAX: Duration = Duration::from_secs(30);
