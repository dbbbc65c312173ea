//! Bytes on disk: entries, rows of the log, pieces of large values, the summary. Every integer is big endian or a LEB128 varint.
//!
//! Each item has a file with its layout; here is what they share. An item carries a check that is bound to its key.
//! Decoding rejects junk with [`Junk`] and never panics: these bytes come from a disk.
//!
//! ```text
//! vector   count:varint (origin:8 seq:varint)*
//! check    low half of XXH3(what follows, seed = XXH3(key of the item))
//! ```

mod entry;
mod piece;
mod row;
mod summary;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::replica::{Dot, Kind, NodeId, VersionVector};

pub use entry::{decode_entry, encode_entry, skim_entry};
pub use piece::{PIECE_HEAD_BYTES, decode_piece, encode_piece};
pub use row::{Event, REPAIR, Row, decode_row, encode_rows};
pub use summary::{Summary, decode_summary, encode_summary};

/// The bytes are not what the codec wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Junk;

/// The tree that a byte of a row or an index key names.
pub fn kind(byte: u8) -> Result<Kind, Junk> {
    match byte {
        1 => Ok(Kind::Data),
        2 => Ok(Kind::Membership),
        _ => Err(Junk),
    }
}

/// Puts the check in front of an item, for which 4 bytes are left.
fn stamp(key: &[u8], mut item: Vec<u8>) -> Vec<u8> {
    let check = check(key, &item[4..]);
    item[..4].copy_from_slice(&check);
    item
}

/// What stands behind an item's check, which must hold.
fn stamped<'a>(key: &[u8], bytes: &'a [u8]) -> Result<Reader<'a>, Junk> {
    let mut from = Reader(bytes);
    if from.array::<4>()? != check(key, from.0) {
        return Err(Junk);
    }
    Ok(from)
}

/// Bound to the key, so that an item under another key is junk.
fn check(key: &[u8], bytes: &[u8]) -> [u8; 4] {
    (xxh3_64_with_seed(bytes, xxh3_64(key)) as u32).to_be_bytes()
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_vector(out: &mut Vec<u8>, vector: &VersionVector) {
    put_number(out, vector.iter().len() as u64);
    for dot in vector.iter() {
        out.extend(dot.origin.0.to_be_bytes());
        put_number(out, dot.seq);
    }
}

/// What is left to decode.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Junk> {
        let (head, tail) = self.0.split_at_checked(bytes).ok_or(Junk)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Junk> {
        self.take(N)?.try_into().map_err(|_| Junk)
    }

    fn fixed(&mut self) -> Result<u64, Junk> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn byte(&mut self) -> Result<u8, Junk> {
        Ok(self.array::<1>()?[0])
    }

    fn number(&mut self) -> Result<u64, Junk> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Junk);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Junk)
    }

    fn vector(&mut self) -> Result<VersionVector, Junk> {
        let count = self.number()?;
        let mut vector = VersionVector::new();
        for _ in 0..count {
            vector.raise(Dot::new(NodeId(self.fixed()?), self.number()?));
        }
        Ok(vector)
    }

    fn length(&mut self) -> Result<usize, Junk> {
        usize::try_from(self.number()?).map_err(|_| Junk)
    }

    fn end<T>(self, whole: T) -> Result<T, Junk> {
        if self.0.is_empty() { Ok(whole) } else { Err(Junk) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replica::{Entry, Hlc, Value, Version};
    use crate::storage::trees::piece_key;

    /// Events of a few origins.
    pub fn dots() -> impl Strategy<Value = Vec<Dot>> {
        let dot = (0..4u64, 1..u64::MAX >> 1).prop_map(|(o, s)| Dot::new(NodeId(o << 40), s));
        proptest::collection::vec(dot, 0..5)
    }

    /// Worked out by hand, and by another implementation of the hash.
    #[test]
    fn the_document_s_examples_are_what_is_written() {
        let document = include_str!("../../../docs/storage.md");
        let byte = |text: &str| u8::from_str_radix(text, 16).expect("a byte in hex");
        let bytes = |line: &str| line[..24].split_whitespace().map(byte).collect::<Vec<u8>>();
        let blocks =
            document.split("```hex\n").skip(1).map(|rest| rest.split("```").next().expect("its end"));
        let shown: Vec<Vec<u8>> = blocks.map(|block| block.lines().flat_map(bytes).collect()).collect();
        let dot = Dot::new(NodeId(0x00c0_ffee_00c0_ffee), 300);
        let version = Version {
            dot,
            hlc: Hlc::at_ms(1_795_341_600_120),
            expires_at_ms: None,
            value: Value::Inline(b"{\"a\":1}".to_vec()),
        };
        let entry = Entry::from_parts(vec![version], [dot].into_iter().collect());
        let piece = piece_key(Dot::new(dot.origin, 301), 2);
        let written = [encode_entry(b"greeting", &entry), encode_piece(&piece, b"abc")];
        assert_eq!(shown, written);
    }

    proptest! {
        #[test]
        fn junk_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            // Never a panic; a random check value does not fit.
            prop_assert_eq!(decode_entry(b"k", &bytes), Err(Junk));
            prop_assert_eq!(skim_entry(b"k", &bytes, |_, _| {}), Err(Junk));
            prop_assert_eq!(decode_piece(b"k", &bytes), Err(Junk));
            prop_assert_eq!(decode_summary(&bytes), Err(Junk));
            prop_assert_eq!(decode_row(Dot::new(NodeId(1), 1), &bytes), Err(Junk));
        }
    }
}
