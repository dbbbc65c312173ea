//! What was done to each key, and whether what is seen of it can be true.
//!
//! Each key has one writer, which does one thing after another, so the states a key can be in form a line: the
//! operations in the order of their numbers. The *floor* is the latest of them that is known to be on the disk: an
//! acknowledgement raises it, and so does a read, since nothing that was seen may be taken back. The laws:
//!
//! 1. A read never shows a state below the floor at the moment it was sent, across crashes too.
//! 2. It never shows what was not submitted, was refused, or was found missing after a crash.
//! 3. A value comes back whole and under the one version it was given.
//! 4. A version belongs to one write for ever, over all keys and all runs of the node.
//!
//! The tests in `checker.rs` hold forged histories against these laws: each must be found guilty.

use crate::random::Random;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// `Err` says which law was broken, and how.
pub type Verdict = Result<(), String>;

pub struct History {
    keys: Vec<Key>,
    /// Which write each version ever seen belongs to: key and number.
    versions: HashMap<String, (usize, u32)>,
}

struct Key {
    /// Ascending numbers; the first is known to be durable.
    operations: Vec<Operation>,
    floor: u32,
    next: u32,
}

struct Operation {
    number: u32,
    /// The length of the value put; `None` leaves the key absent (a delete, or the beginning).
    put: Option<usize>,
    version: Option<String>,
    acknowledged: bool,
}

/// What an answer said about a key.
pub enum Seen {
    Absent,
    Value { text: String, version: String },
}

impl Seen {
    /// From the answer to a GET; `Err` when it is neither a value nor its absence.
    pub fn from_answer(status: u16, body: &[u8]) -> Result<Seen, String> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            value: &'a RawValue,
            version: String,
        }
        let shown = || String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        match status {
            404 => Ok(Seen::Absent),
            200 => {
                let Body { value, version } =
                    serde_json::from_slice(body).map_err(|e| format!("not an entry ({e}): {}", shown()))?;
                Ok(Seen::Value { text: value.get().to_owned(), version })
            }
            _ => Err(format!("status {status}: {}", shown())),
        }
    }
}

impl History {
    pub fn new(keys: usize) -> History {
        let beginning = || Operation { number: 0, put: None, version: None, acknowledged: true };
        let key = || Key { operations: vec![beginning()], floor: 0, next: 1 };
        History { keys: (0..keys).map(|_| key()).collect(), versions: HashMap::new() }
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// A request is about to be sent: a put of a value of so many bytes, or a delete. Returns its number.
    pub fn submit(&mut self, key: usize, put: Option<usize>) -> u32 {
        let key = &mut self.keys[key];
        let number = key.next;
        key.next += 1;
        key.operations.push(Operation { number, put, version: None, acknowledged: false });
        number
    }

    /// The node said that it is done.
    pub fn acknowledge(&mut self, key: usize, number: u32, version: &str) -> Verdict {
        let of = &mut self.keys[key];
        let operation = of.operations.iter_mut().find(|o| o.number == number).expect("a submitted number");
        operation.acknowledged = true;
        of.floor = of.floor.max(number);
        self.name(key, number, version)
    }

    /// The node said that it did not and will not do it.
    pub fn refuse(&mut self, key: usize, number: u32) {
        self.keys[key].operations.retain(|o| o.number != number);
    }

    /// To be asked when a read is sent, and given to `read` when its answer is there.
    pub fn floor(&self, key: usize) -> u32 {
        self.keys[key].floor
    }

    pub fn read(&mut self, key: usize, floor: u32, seen: &Seen) -> Verdict {
        let number = self.locate(key, floor, seen)?;
        let of = &mut self.keys[key];
        of.floor = of.floor.max(number);
        Ok(())
    }

    /// A read after a restart, with nothing else under way: what it does not show is gone for good.
    pub fn recovered(&mut self, key: usize, seen: &Seen) -> Verdict {
        let number = self.locate(key, self.keys[key].floor, seen)?;
        let of = &mut self.keys[key];
        of.operations.retain(|o| o.number == number);
        of.operations[0].acknowledged = true;
        of.floor = number;
        Ok(())
    }

    /// Whether the key has a value once everything submitted is done.
    pub fn present(&self, key: usize) -> bool {
        self.last(key).put.is_some()
    }

    /// Whether the outcome of everything submitted is known.
    pub fn settled(&self, key: usize) -> bool {
        self.last(key).acknowledged
    }

    /// How many keys have a value.
    pub fn live(&self) -> usize {
        (0..self.keys.len()).filter(|key| self.present(*key)).count()
    }

    fn last(&self, key: usize) -> &Operation {
        self.keys[key].operations.last().expect("never empty")
    }

    /// The number of the operation whose outcome is `seen`, not below `floor`.
    fn locate(&mut self, key: usize, floor: u32, seen: &Seen) -> Result<u32, String> {
        let operations = &self.keys[key].operations;
        let story = || {
            let told = operations.iter().map(|o| {
                let what = o.put.map_or("absent".to_owned(), |length| format!("{length} bytes"));
                format!("{}: {what}{}", o.number, if o.acknowledged { " acknowledged" } else { "" })
            });
            format!("floor {floor}, history [{}]", told.collect::<Vec<_>>().join(", "))
        };
        match seen {
            Seen::Absent => operations
                .iter()
                .find(|o| o.number >= floor && o.put.is_none())
                .map(|o| o.number)
                .ok_or_else(|| format!("key {key} is absent: a write was lost; {}", story())),
            Seen::Value { text, version } => {
                let number = identify(key, text)?;
                let known = operations.iter().any(|o| o.number == number && o.put.is_some());
                if !known {
                    return Err(format!(
                        "key {key} shows write {number}, which is gone or never was; {}",
                        story()
                    ));
                }
                if number < floor {
                    return Err(format!("key {key} shows write {number}, older than promised; {}", story()));
                }
                self.name(key, number, version)?;
                Ok(number)
            }
        }
    }

    /// Laws 3 and 4: one version, one write.
    fn name(&mut self, key: usize, number: u32, version: &str) -> Verdict {
        well_formed(version)?;
        let owner = *self.versions.entry(version.to_owned()).or_insert((key, number));
        if owner != (key, number) {
            return Err(format!(
                "version {version} names write {owner:?} (key, number) and {:?}",
                (key, number)
            ));
        }
        let of = &mut self.keys[key];
        let operation = of.operations.iter_mut().find(|o| o.number == number).expect("a known number");
        match &operation.version {
            Some(before) if before != version => {
                Err(format!("write {number} of key {key} had version {before} and now {version}"))
            }
            _ => {
                operation.version = Some(version.to_owned());
                Ok(())
            }
        }
    }
}

/// One version of one node: 16 hex digits, a dash, a number.
fn well_formed(version: &str) -> Verdict {
    let parts = version.split_once('-').filter(|(origin, seq)| {
        origin.len() == 16 && origin.bytes().all(|b| b.is_ascii_hexdigit()) && seq.parse::<u64>().is_ok()
    });
    parts.map(|_| ()).ok_or_else(|| format!("{version:?} is not a version of a single write"))
}

/// The JSON text of a value: it says whose it is, and the rest follows from that.
pub fn value_text(key: usize, number: u32, length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let mut random = Random::new(((key as u64) << 32) | u64::from(number));
    let mut text = format!("\"{key}.{number}.{length}.");
    while text.len() < length {
        let mut bits = random.next();
        for _ in 0..10 {
            text.push(char::from(LETTERS[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
    text.push('"');
    text
}

/// Which write of `key` a value belongs to; `Err` when it is not one whole value of that key.
pub fn identify(key: usize, text: &str) -> Result<u32, String> {
    let shown = &text[..text.len().min(80)];
    let mut parts = text.trim_matches('"').split('.');
    let mut part = || parts.next().and_then(|p| p.parse::<usize>().ok());
    let (Some(owner), Some(number), Some(length)) = (part(), part(), part()) else {
        return Err(format!("key {key} has a value that nobody wrote: {shown}"));
    };
    let number = number as u32;
    if owner != key {
        return Err(format!("key {key} has a value of key {owner}: {shown}"));
    }
    if text != value_text(key, number, length) {
        return Err(format!("key {key} has a damaged value ({} bytes of {length}): {shown}", text.len()));
    }
    Ok(number)
}
