//! An entry in its tree.
//!
//! ```text
//! entry    check:4  flags:1  versions  [context]
//!          flags bit 0: exactly one version, and the context is its dot (nearly always): no counts, no context
//! versions [count:varint] (version)*
//! version  origin:8 seq:varint hlc:8 flags:1 [expires_at_ms:varint] length:varint (text | checksum:8)
//!          flags bit 0: expires; bit 1: the text is in pieces, and here is its checksum: XXH3(text)
//! context  a vector
//! ```

use super::{Junk, Reader, put_number, put_vector, stamp, stamped};
use crate::replica::{Dot, Entry, Hlc, NodeId, Value, Version};

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
    stamp(key, out)
}

/// The entry that these bytes hold under this key.
pub fn decode_entry(key: &[u8], bytes: &[u8]) -> Result<Entry, Junk> {
    let mut from = stamped(key, bytes)?;
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

/// What a scan wants of an entry: the name and the stamp of every version, without a copy of its text.
pub fn skim_entry(key: &[u8], bytes: &[u8], mut version: impl FnMut(Dot, Hlc)) -> Result<(), Junk> {
    let mut from = stamped(key, bytes)?;
    let plain = from.byte()? == PLAIN;
    let count = if plain { 1 } else { from.number()? };
    for _ in 0..count {
        let head = from.version_head()?;
        from.take(head.stored)?;
        version(head.dot, head.hlc);
    }
    if !plain {
        from.vector()?;
    }
    from.end(())
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

/// What stands before a version's text.
struct Head {
    dot: Dot,
    hlc: Hlc,
    expires_at_ms: Option<u64>,
    chunked: bool,
    /// Length of the text.
    bytes: u64,
    /// How many bytes follow here.
    stored: usize,
}

impl Reader<'_> {
    fn version_head(&mut self) -> Result<Head, Junk> {
        let dot = Dot::new(NodeId(self.fixed()?), self.number()?);
        let hlc = Hlc(self.fixed()?);
        let flags = self.byte()?;
        let expires_at_ms = if flags & EXPIRES != 0 { Some(self.number()?) } else { None };
        let bytes = self.number()?;
        let chunked = flags & CHUNKED != 0;
        let stored = if chunked { Ok(8) } else { usize::try_from(bytes) };
        let stored = stored.map_err(|_| Junk)?;
        Ok(Head { dot, hlc, expires_at_ms, chunked, bytes, stored })
    }

    fn version(&mut self) -> Result<Version, Junk> {
        let Head { dot, hlc, expires_at_ms, chunked, bytes, stored } = self.version_head()?;
        let value = match chunked {
            true => Value::Chunked { bytes, checksum: self.fixed()? },
            false => Value::Inline(self.take(stored)?.to_vec()),
        };
        Ok(Version { dot, hlc, expires_at_ms, value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::dots;
    use super::*;

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
        fn a_skimmed_entry_tells_its_versions(entry in entries()) {
            let mut seen = Vec::new();
            let bytes = encode_entry(b"key", &entry);
            prop_assert_eq!(skim_entry(b"key", &bytes, |dot, hlc| seen.push((dot, hlc))), Ok(()));
            prop_assert!(entry.versions().iter().map(|v| (v.dot, v.hlc)).eq(seen));
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
