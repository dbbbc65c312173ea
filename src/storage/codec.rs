//! Bytes on disk: entries, rows of the log, the summary. Every integer is big endian or a LEB128 varint.
//!
//! ```text
//! entry    check:4  flags:1  versions  [context]       check = low half of XXH3(rest, seed = XXH3(key))
//!          flags bit 0: exactly one version, and the context is its dot (nearly always): no counts, no context
//! versions [count:varint] (version)*
//! version  origin:8 seq:varint hlc:8 flags:1 [expires_at_ms:varint] length:varint (text | checksum:8)
//!          flags bit 0: expires; bit 1: the text is in chunks
//! context  count:varint (origin:8 seq:varint)*
//! row      kind:1  count:varint (seq*2+foreign:varint [origin:8])*  key      the versions live before the event
//! summary  check:8 vv floor hlc:8 keys:varint versions:varint digest:16 unit     vectors as context
//! ```
//!
//! Decoding rejects junk with [`Junk`] and never panics: these bytes come from a disk.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::replica::{Clock, Digest, Dot, Entry, Hlc, Kind, NodeId, Totals, Value, Version, VersionVector};

/// The bytes are not what the codec wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Junk;

const PLAIN: u8 = 1;
const EXPIRES: u8 = 1;
const CHUNKED: u8 = 2;

/// An entry's bytes under this key.
pub fn encode_entry(key: &[u8], entry: &Entry) -> Vec<u8> {
    let inline: u64 = entry.versions().iter().map(|version| version.value.bytes()).sum();
    let mut out = Vec::with_capacity(48 + inline as usize);
    out.extend([0; 4]);
    match entry.versions() {
        [only] if entry.context().iter().eq([only.dot]) => {
            out.push(PLAIN);
            put_version(&mut out, only);
        }
        versions => {
            out.push(0);
            put_number(&mut out, versions.len() as u64);
            versions.iter().for_each(|version| put_version(&mut out, version));
            put_vector(&mut out, entry.context());
        }
    }
    let check = entry_check(key, &out[4..]);
    out[..4].copy_from_slice(&check);
    out
}

/// The entry that these bytes hold under this key.
pub fn decode_entry(key: &[u8], bytes: &[u8]) -> Result<Entry, Junk> {
    let mut from = Reader(bytes);
    let check: [u8; 4] = from.array()?;
    if check != entry_check(key, from.0) {
        return Err(Junk);
    }
    let entry = if from.byte()? == PLAIN {
        let version = from.version()?;
        let context = [version.dot].into_iter().collect();
        Entry::from_parts(vec![version], context)
    } else {
        let count = from.number()?;
        let versions = (0..count).map(|_| from.version()).collect::<Result<_, _>>()?;
        Entry::from_parts(versions, from.vector()?)
    };
    from.end(entry)
}

fn entry_check(key: &[u8], bytes: &[u8]) -> [u8; 4] {
    (xxh3_64_with_seed(bytes, xxh3_64(key)) as u32).to_be_bytes()
}

/// What the log says of one event: which key it touched, and which versions lived there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key's tree.
    pub kind: Kind,
    /// The key.
    pub key: Vec<u8>,
    /// The versions that were live at this node just before the commit touched the key.
    pub before: Vec<Dot>,
}

/// A row's bytes in the log of `origin`.
pub fn encode_row(origin: NodeId, kind: Kind, key: &[u8], before: &[Dot]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + key.len());
    out.push(kind as u8);
    put_number(&mut out, before.len() as u64);
    for dot in before {
        let foreign = dot.origin != origin;
        put_number(&mut out, dot.seq << 1 | u64::from(foreign));
        if foreign {
            out.extend(dot.origin.0.to_be_bytes());
        }
    }
    out.extend(key);
    out
}

/// The row that these bytes hold in the log of `origin`.
pub fn decode_row(origin: NodeId, bytes: &[u8]) -> Result<Row, Junk> {
    let mut from = Reader(bytes);
    let kind = kind(from.byte()?)?;
    let count = from.number()?;
    let mut before = Vec::new();
    for _ in 0..count {
        let number = from.number()?;
        let origin = if number & 1 == 1 { NodeId(from.fixed()?) } else { origin };
        before.push(Dot::new(origin, number >> 1));
    }
    Ok(Row { kind, key: from.0.to_vec(), before })
}

/// What a commit leaves behind of a replica's small part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// What is incorporated.
    pub vv: VersionVector,
    /// What is forgotten.
    pub floor: VersionVector,
    /// The highest stamp given or taken in.
    pub clock: Clock,
    /// Counts and digest of what is live.
    pub totals: Totals,
    /// `vv` before the last unit of writing: rows after it may still have garbage to drop.
    pub unit: VersionVector,
}

/// A summary's bytes.
pub fn encode_summary(summary: &Summary) -> Vec<u8> {
    let mut out = vec![0; 8];
    put_vector(&mut out, &summary.vv);
    put_vector(&mut out, &summary.floor);
    out.extend(summary.clock.last().0.to_be_bytes());
    put_number(&mut out, summary.totals.keys);
    put_number(&mut out, summary.totals.versions);
    out.extend(summary.totals.digest.0.to_be_bytes());
    put_vector(&mut out, &summary.unit);
    let check = xxh3_64(&out[8..]).to_be_bytes();
    out[..8].copy_from_slice(&check);
    out
}

/// The summary that these bytes hold.
pub fn decode_summary(bytes: &[u8]) -> Result<Summary, Junk> {
    let mut from = Reader(bytes);
    if from.fixed()? != xxh3_64(from.0) {
        return Err(Junk);
    }
    let vv = from.vector()?;
    let floor = from.vector()?;
    let clock = Clock::from(Hlc(from.fixed()?));
    let (keys, versions) = (from.number()?, from.number()?);
    let digest = Digest(u128::from_be_bytes(from.array()?));
    let unit = from.vector()?;
    from.end(Summary { vv, floor, clock, totals: Totals { keys, versions, digest }, unit })
}

/// The tree that a byte of a row or an index key names.
pub fn kind(byte: u8) -> Result<Kind, Junk> {
    match byte {
        1 => Ok(Kind::Data),
        2 => Ok(Kind::Membership),
        _ => Err(Junk),
    }
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

fn put_version(out: &mut Vec<u8>, version: &Version) {
    out.extend(version.dot.origin.0.to_be_bytes());
    put_number(out, version.dot.seq);
    out.extend(version.hlc.0.to_be_bytes());
    let chunked = matches!(version.value, Value::Chunked { .. });
    out.push(if version.expires_at_ms.is_some() { EXPIRES } else { 0 } | if chunked { CHUNKED } else { 0 });
    if let Some(at) = version.expires_at_ms {
        put_number(out, at);
    }
    put_number(out, version.value.bytes());
    match &version.value {
        Value::Inline(text) => out.extend(text),
        Value::Chunked { checksum, .. } => out.extend(checksum.to_be_bytes()),
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

    fn version(&mut self) -> Result<Version, Junk> {
        let dot = Dot::new(NodeId(self.fixed()?), self.number()?);
        let hlc = Hlc(self.fixed()?);
        let flags = self.byte()?;
        let expires_at_ms = if flags & EXPIRES != 0 { Some(self.number()?) } else { None };
        let bytes = self.number()?;
        let value = if flags & CHUNKED != 0 {
            Value::Chunked { bytes, checksum: self.fixed()? }
        } else {
            Value::Inline(self.take(usize::try_from(bytes).map_err(|_| Junk)?)?.to_vec())
        };
        Ok(Version { dot, hlc, expires_at_ms, value })
    }

    fn end<T>(self, whole: T) -> Result<T, Junk> {
        if self.0.is_empty() { Ok(whole) } else { Err(Junk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dots() -> impl Strategy<Value = Vec<Dot>> {
        let dot = (0..4u64, 1..u64::MAX >> 1).prop_map(|(o, s)| Dot::new(NodeId(o << 40), s));
        proptest::collection::vec(dot, 0..5)
    }

    prop_compose! {
        fn entries()(
            dots in dots(),
            seen in dots(),
            text in proptest::collection::vec(any::<u8>(), 0..40),
            at in proptest::option::of(any::<u64>()),
            chunked in any::<bool>(),
        ) -> Entry {
            let version = |dot: &Dot| Version {
                dot: *dot,
                hlc: Hlc(dot.seq ^ 77),
                expires_at_ms: at,
                value: if chunked { Value::Chunked { bytes: 9, checksum: dot.seq } } else { Value::Inline(text.clone()) },
            };
            let versions: Vec<Version> = dots.iter().map(version).collect();
            Entry::from_parts(versions, dots.iter().chain(&seen).copied().collect())
        }
    }

    proptest! {
        #[test]
        fn entries_come_back(key in proptest::collection::vec(any::<u8>(), 1..20), entry in entries()) {
            prop_assert_eq!(decode_entry(&key, &encode_entry(&key, &entry)), Ok(entry));
        }

        #[test]
        fn rows_come_back(origin in 0..4u64, key in proptest::collection::vec(any::<u8>(), 1..20), before in dots()) {
            let origin = NodeId(origin << 40);
            let row = Row { kind: Kind::Membership, key, before };
            let bytes = encode_row(origin, row.kind, &row.key, &row.before);
            prop_assert_eq!(decode_row(origin, &bytes), Ok(row));
        }

        #[test]
        fn summaries_come_back(vv in dots(), floor in dots(), keys in any::<u64>(), digest in any::<u128>()) {
            let summary = Summary {
                vv: vv.iter().copied().collect(),
                floor: floor.into_iter().collect(),
                clock: Clock::from(Hlc(keys ^ 5)),
                totals: Totals { keys, versions: keys / 2, digest: Digest(digest) },
                unit: vv.into_iter().take(1).collect(),
            };
            prop_assert_eq!(decode_summary(&encode_summary(&summary)), Ok(summary));
        }

        #[test]
        fn junk_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            // Never a panic; a random check value does not fit.
            prop_assert_eq!(decode_entry(b"k", &bytes), Err(Junk));
            prop_assert_eq!(decode_summary(&bytes), Err(Junk));
            let _ = decode_row(NodeId(1), &bytes);
        }

        #[test]
        fn a_flipped_bit_or_another_key_is_found(entry in entries(), at in any::<usize>(), bit in 0..8u8) {
            let mut bytes = encode_entry(b"key", &entry);
            prop_assert_eq!(decode_entry(b"kez", &bytes), Err(Junk));
            let at = at % bytes.len();
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(decode_entry(b"key", &bytes), Err(Junk));
        }
    }
}
