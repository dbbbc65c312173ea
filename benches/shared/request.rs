//! The bytes of one kind of request, built once; before it is sent only the key and a counter in the value are patched in.
//! It must not allocate while a measurement runs.

use std::net::SocketAddr;

use super::connection::Answers;

/// A request whose key, and for writes the start of whose value, can be set in place.
pub struct Request {
    bytes: Vec<u8>,
    key_at: usize,
    /// Where the counter goes that makes every written value another one.
    counter_at: Option<usize>,
    base64: bool,
    /// How its answer is told from what comes next.
    pub answers: Answers,
}

/// What is asked of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Put,
    Get,
}

impl Request {
    /// `PUT` or `GET /key/…` as a node of ours takes it, and as the minimal server does.
    pub fn node(address: SocketAddr, operation: Operation, value_bytes: usize) -> Request {
        Request::node_with(address, operation, value_bytes, "")
    }

    /// The same with a query, such as `?w=2`.
    pub fn node_with(address: SocketAddr, operation: Operation, value_bytes: usize, query: &str) -> Request {
        let path = format!("/key/{}{query}", key_text(0));
        match operation {
            Operation::Get => {
                let bytes = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
                Request::plain(bytes, "GET /key/".len(), None)
            }
            Operation::Put => {
                let body = format!("{{\"value\":\"{}\"}}", value_text(value_bytes));
                let length = body.len();
                let head = head("PUT", &path, address, length);
                let counter_at = counter_at(head.len() + "{\"value\":\"".len(), value_bytes);
                let bytes = [head, body].concat().into_bytes();
                Request::plain(bytes, "PUT /key/".len(), counter_at)
            }
        }
    }

    /// etcd's JSON gateway: keys and values are base64.
    pub fn etcd(address: SocketAddr, operation: Operation, value_bytes: usize) -> Request {
        Request::etcd_reading(address, operation, value_bytes, "")
    }

    /// The same, but a read asks this member alone, as a node of ours is asked, and not a majority.
    pub fn etcd_serializable(address: SocketAddr, operation: Operation, value_bytes: usize) -> Request {
        Request::etcd_reading(address, operation, value_bytes, ",\"serializable\":true")
    }

    fn etcd_reading(address: SocketAddr, operation: Operation, value_bytes: usize, reading: &str) -> Request {
        let key = base64(key_text(0).as_bytes());
        let (path, tail) = match operation {
            Operation::Put => {
                ("/v3/kv/put", format!(",\"value\":\"{}\"}}", base64(value_text(value_bytes).as_bytes())))
            }
            Operation::Get => ("/v3/kv/range", format!("{reading}}}")),
        };
        let body = format!("{{\"key\":\"{key}\"{tail}");
        let length = body.len();
        let head = head("POST", path, address, length);
        let key_at = head.len() + "{\"key\":\"".len();
        let value_at = key_at + key.len() + "\",\"value\":\"".len();
        let counter_at = if operation == Operation::Put { counter_at(value_at, value_bytes) } else { None };
        let bytes = [head, body].concat().into_bytes();
        Request { base64: true, ..Request::plain(bytes, key_at, counter_at) }
    }

    /// Redis' own protocol: a SET, and the number of replicas to wait for in the same breath, if any; or a GET.
    pub fn redis(operation: Operation, value_bytes: usize, wait_for: usize) -> Request {
        let (key, value) = (key_text(0), value_text(value_bytes));
        match operation {
            Operation::Get => {
                let bytes = redis_command(&["GET", &key]);
                let key_at = bytes.len() - key.len() - 2;
                Request { answers: Answers::Bulk, ..Request::plain(bytes, key_at, None) }
            }
            Operation::Put => {
                let mut bytes = redis_command(&["SET", &key, &value]);
                let value_at = bytes.len() - value.len() - 2;
                let key_at = redis_command(&["SET", &key]).len() - key.len() - 2;
                if wait_for > 0 {
                    let timeout_ms = WAIT_MS_MAX.to_string();
                    bytes.extend(redis_command(&["WAIT", &wait_for.to_string(), &timeout_ms]));
                }
                let answers = Answers::Lines(1 + usize::from(wait_for > 0));
                Request { answers, ..Request::plain(bytes, key_at, counter_at(value_at, value_bytes)) }
            }
        }
    }

    /// Any bytes that hold no key: for the checks of the generator itself.
    pub fn fixed(bytes: &[u8]) -> Request {
        Request::plain(bytes.to_vec(), usize::MAX, None)
    }

    fn plain(bytes: Vec<u8>, key_at: usize, counter_at: Option<usize>) -> Request {
        Request { bytes, key_at, counter_at, base64: false, answers: Answers::Http }
    }

    /// How the start of the value with this counter looks in an answer.
    pub fn mark(&self, counter: u64) -> Vec<u8> {
        let mut text = [0; DIGITS];
        digits(counter, &mut text);
        if self.base64 { base64(&text).into_bytes() } else { text.to_vec() }
    }

    /// The bytes to send for this key; `counter` makes the value differ from the last one.
    pub fn with(&mut self, key: u64, counter: u64) -> &[u8] {
        if self.key_at != usize::MAX {
            let mut text = [0; KEY_BYTES];
            text[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
            digits(key, &mut text[KEY_PREFIX.len()..]);
            self.patch(self.key_at, &text);
        }
        if let Some(at) = self.counter_at {
            let mut text = [0; DIGITS];
            digits(counter, &mut text);
            self.patch(at, &text);
        }
        &self.bytes
    }

    fn patch(&mut self, at: usize, plain: &[u8]) {
        if self.base64 {
            base64_into(plain, &mut self.bytes[at..]);
        } else {
            self.bytes[at..at + plain.len()].copy_from_slice(plain);
        }
    }
}

fn head(method: &str, path: &str, address: SocketAddr, length: usize) -> String {
    let kind = "Content-Type: application/json";
    format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n")
}

/// A command as Redis reads it.
pub fn redis_command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// The text of a key, as `redis-benchmark` makes it.
pub fn key_text(key: u64) -> String {
    format!("key:{key:0DIGITS$}")
}

/// A value of that many characters that need no escape in JSON.
pub fn value_text(bytes: usize) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut random = Random::new(1);
    (0..bytes).map(|_| char::from(letters[random.below(letters.len() as u64) as usize])).collect()
}

/// Uniform numbers from a seed: splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(bound)) >> 64) as u64
    }
}

/// Values too short for a counter stay the same.
fn counter_at(value_at: usize, value_bytes: usize) -> Option<usize> {
    (value_bytes >= DIGITS).then_some(value_at)
}

fn digits(mut number: u64, into: &mut [u8]) {
    for place in into.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn base64(plain: &[u8]) -> String {
    let mut out = vec![0; plain.len().div_ceil(3) * 4];
    base64_into(plain, &mut out);
    out.into_iter().map(char::from).collect()
}

fn base64_into(plain: &[u8], out: &mut [u8]) {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (three, four) in plain.chunks(3).zip(out.chunks_mut(4)) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (i, place) in four.iter_mut().enumerate() {
            *place = if i <= three.len() { letters[(bits >> (18 - 6 * i)) as usize & 63] } else { b'=' };
        }
    }
}

const KEY_PREFIX: &[u8] = b"key:";
/// Twelve digits are a multiple of three bytes, so that a counter is patched into base64 without touching its neighbours.
const DIGITS: usize = 12;
const KEY_BYTES: usize = KEY_PREFIX.len() + DIGITS;
/// How long a write may wait for its copies, everywhere: as long as a node of ours waits when it is not told.
const WAIT_MS_MAX: u64 = 5_000;
