//! The bytes of a backup: a first line, then blocks. Each block's check covers all that came before it, so
//! none can be changed, left out or put elsewhere without a trace; and only the last kind of block says that all is there.
//!
//! ```text
//! file   "DynaRust backup 1\n" block…
//! block  length:4 check:8 body      check = XXH3 of (the check before:8, length:4, body); before the first it is 0
//! body   postcard of `Block`
//! ```
//!
//! Integers are big endian.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::limits::BACKUP_BLOCK_BYTES_MAX;
use crate::replica::{Digest, Frame, NodeId, Sweep, VersionVector};

/// The first bytes of every backup; the number is that of the format.
const MAGIC: &[u8] = b"DynaRust backup 1\n";
/// What is the same in the first bytes of all formats.
const KIND: &[u8] = b"DynaRust backup ";

/// A piece of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// The first: of what it is.
    Head(Head),
    /// Entries of a stretch of keys, in order. Another first stretch begins them anew.
    Keys(Sweep),
    /// Events since, with the entries of their keys.
    Events(Frame),
    /// The last: what whoever has taken in all of it holds.
    End(End),
}

/// Of what it is a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The release that made it.
    pub release: String,
    /// The node that was asked.
    pub node: NodeId,
    /// Its cluster; nobody's id when it belonged to none.
    pub cluster: NodeId,
    /// When it began, in milliseconds since 1970 by that node's clock.
    pub began_ms: u64,
    /// Live keys when it began: how much is to come.
    pub keys: u64,
}

/// What it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// All events up to here are in it, and none beyond.
    pub vv: VersionVector,
    /// Over all that lives.
    pub digest: Digest,
    /// Live keys.
    pub keys: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: u64,
}

/// What is wrong with a file that should be a backup.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It begins as nothing that we know.
    #[error("it is no backup of DynaRust")]
    Foreign,
    /// It begins as a backup of another format.
    #[error("it has format {0}, and this release reads 1: use the release that made it, or a newer one")]
    Format(String),
    /// It ends too early.
    #[error("it is cut off: there is no end after {0} bytes")]
    CutOff(u64),
    /// It goes on behind its end.
    #[error("something follows its end at byte {0}")]
    Beyond(u64),
    /// Its bytes are not those that were written.
    #[error("it was changed: the block at byte {0} is not as it was written")]
    Changed(u64),
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
}

/// Makes bytes of blocks.
#[derive(Default)]
pub struct Writer {
    /// The check of the block before.
    check: u64,
    begun: bool,
}

impl Writer {
    /// The bytes of the next block.
    pub fn block(&mut self, block: &Block) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            bytes.extend_from_slice(MAGIC);
        }
        let from = bytes.len();
        bytes.extend_from_slice(&[0; HEAD_BYTES]);
        let mut bytes = postcard::to_extend(block, bytes)?;
        let length = ((bytes.len() - from - HEAD_BYTES) as u32).to_be_bytes();
        self.check = chained(self.check, length, &bytes[from + HEAD_BYTES..]);
        bytes[from..from + 4].copy_from_slice(&length);
        bytes[from + 4..from + HEAD_BYTES].copy_from_slice(&self.check.to_be_bytes());
        Ok(bytes)
    }
}

/// Length and check.
const HEAD_BYTES: usize = 12;

fn chained(before: u64, length: [u8; 4], body: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&before.to_be_bytes());
    sum.update(&length);
    sum.update(body);
    sum.digest()
}

/// Takes a backup apart, from its first byte to its end.
pub struct Reader<R> {
    from: R,
    check: u64,
    /// Bytes that were read.
    at: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Over something that should be a backup.
    pub fn new(mut from: R) -> Result<Reader<R>, Broken> {
        let mut magic = vec![0; MAGIC.len()];
        let read = fill(&mut from, &mut magic)?;
        if magic[..read] == MAGIC[..] {
            return Ok(Reader { from, check: 0, at: read as u64, ended: false });
        }
        if MAGIC.starts_with(&magic[..read]) {
            return Err(Broken::CutOff(read as u64));
        }
        match magic[..read].strip_prefix(KIND) {
            Some(format) => Err(Broken::Format(String::from_utf8_lossy(format).trim().into())),
            None => Err(Broken::Foreign),
        }
    }

    /// Bytes that were read.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next block; `None` after the end, with nothing behind it.
    pub fn block(&mut self) -> Result<Option<Block>, Broken> {
        let (start, mut head) = (self.at, [0; HEAD_BYTES]);
        let read = fill(&mut self.from, &mut head)?;
        if self.ended {
            return if read == 0 { Ok(None) } else { Err(Broken::Beyond(start)) };
        }
        if read < HEAD_BYTES {
            return Err(Broken::CutOff(start + read as u64));
        }
        let (length, check) = head.split_at(4);
        let length: [u8; 4] = length.try_into().unwrap_or_default();
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > BACKUP_BLOCK_BYTES_MAX {
            return Err(Broken::Changed(start));
        }
        // Grows with what comes: a length that was changed takes no more memory than there are bytes behind it.
        let mut body = Vec::new();
        let came = (&mut self.from).take(bytes as u64).read_to_end(&mut body)?;
        self.at = start + (HEAD_BYTES + came) as u64;
        if came < bytes {
            return Err(Broken::CutOff(self.at));
        }
        self.check = chained(self.check, length, &body);
        if self.check.to_be_bytes() != check {
            return Err(Broken::Changed(start));
        }
        let block = postcard::from_bytes(&body).map_err(|_| Broken::Changed(start))?;
        // A head stands at the beginning and nowhere else.
        if matches!(block, Block::Head(_)) != (start == MAGIC.len() as u64) {
            return Err(Broken::Changed(start));
        }
        self.ended = matches!(block, Block::End(_));
        Ok(Some(block))
    }
}

/// Reads until the buffer is full or nothing more comes.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match from.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Block> {
        let head = Head { release: "1".into(), node: NodeId(1), cluster: NodeId(2), began_ms: 3, keys: 4 };
        let vv = VersionVector::new();
        let sweep = Sweep {
            sender: NodeId(1),
            target: vv.clone(),
            vv: vv.clone(),
            after: None,
            through: None,
            entries: vec![],
        };
        let end = End { vv, digest: Digest::default(), keys: 4, ended_ms: 5 };
        vec![Block::Head(head), Block::Keys(sweep.clone()), Block::Keys(sweep), Block::End(end)]
    }

    fn bytes() -> Vec<u8> {
        let mut writer = Writer::default();
        blocks().iter().flat_map(|block| writer.block(block).expect("it can be encoded")).collect()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Block>, Broken> {
        let mut reader = Reader::new(bytes)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.block()? {
            blocks.push(block);
        }
        Ok(blocks)
    }

    #[test]
    fn blocks_come_back() {
        assert_eq!(read(&bytes()).expect("it is whole"), blocks());
    }

    #[test]
    fn what_was_changed_cut_off_or_added_to_is_refused() {
        let whole = bytes();
        for length in 0..whole.len() {
            let cut = read(&whole[..length]);
            assert!(matches!(cut, Err(Broken::CutOff(_))), "{length} bytes: {cut:?}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "byte {at} changed");
        }
        let mut more = whole.clone();
        more.push(0);
        assert!(matches!(read(&more), Err(Broken::Beyond(_))));
    }

    #[test]
    fn blocks_that_are_sound_by_themselves_have_their_place() {
        let (mut writer, all) = (Writer::default(), blocks());
        let parts: Vec<Vec<u8>> =
            all.iter().map(|block| writer.block(block).expect("it can be encoded")).collect();
        let without = [parts[0].clone(), parts[2].clone(), parts[3].clone()].concat();
        assert!(matches!(read(&without), Err(Broken::Changed(_))), "a block is missing");
        let swapped = [parts[0].clone(), parts[2].clone(), parts[1].clone(), parts[3].clone()].concat();
        assert!(matches!(read(&swapped), Err(Broken::Changed(_))), "two blocks have changed places");
    }

    #[test]
    fn another_format_is_named() {
        let error = read(b"DynaRust backup 2\nxxxx").expect_err("a format of the future");
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
