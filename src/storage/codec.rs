//! Bytes on disk: entries, rows of the log, the summary. Every integer is big endian or a LEB128 varint.
//!
//! ```text
//! entry    check:4  flags:1  versions  [context]       check = low half of XXH3(rest, seed = XXH3(key))
//!          flags bit 0: exactly one version, and the context is its dot (nearly always): no counts, no context
//! versions [count:varint] (version)*
//! version  origin:8 seq:varint hlc:8 flags:1 [expires_at_ms:varint] length:varint (text | checksum:8)
//!          flags bit 0: expires; bit 1: the text is in chunks
//! context  count:varint (origin:8 seq:varint)*
//! row      check:4  flags:1  through:varint  count:varint (event)*  brought    check = low half of XXH3(rest, seed = XXH3(key))
//!          flags bit 0: its unit forgot something; through is counted from the row's first event, which its key names
//! event    flags:1 [skipped:varint] shared:varint length:varint rest-of-key [seq:varint | dots]
//!          flags bits 0-1: kind; bit 2: events are missing before it, so many; bit 3: the key stands in this unit already;
//!          bit 4: one version of the row's origin lived before, with this seq; neither 3 nor 4: these lived before.
//!          A key begins like the one before it in the row: so many bytes are shared with that.
//! brought  dots                                                               versions that come without their events
//! dots     count:varint (seq*2+foreign:varint [origin:8])*                    foreign: not of the row's origin
//! summary  check:8 vv floor hlc:8 keys:varint versions:varint digest:16 unit counted:1    vectors as context
//! ```
//!
//! Decoding rejects junk with [`Junk`] and never panics: these bytes come from a disk.

use std::collections::HashSet;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::trees::change_key;
use crate::limits::LOG_ROW_BYTES;
use crate::replica::{
    Clock, Digest, Dot, Entry, Hlc, Kind, NodeId, Totals, Unit, Value, Version, VersionVector,
};

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

/// What the log says of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number at the origin.
    pub seq: u64,
    /// The tree of the key that it touched.
    pub kind: Kind,
    /// That key.
    pub key: Vec<u8>,
    /// The versions that were live at this node before the unit; `None` when an earlier event of the unit tells.
    pub before: Option<Vec<Dot>>,
}

/// A row of the log: a stretch of one origin's events that one unit logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The event by which it is named: the first of the stretch.
    pub first: Dot,
    /// The last event that it stands for.
    pub through: u64,
    /// Its events, by seq; one may be missing where something newer in the same unit stands for it.
    pub events: Vec<Event>,
    /// Versions that the unit brought in without their events.
    pub brought: Vec<Dot>,
    /// Did the unit forget what it had to know until then?
    pub forgot: bool,
}

/// The rows of what a unit logs, each with its key, in the order in which they are to be written.
pub fn encode_rows(unit: &Unit) -> Vec<(Row, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut told = HashSet::new();
    let mut brought: Vec<Dot> = unit.brought().collect();
    for (origin, stretch) in unit.stretches() {
        let open = |first: u64| {
            let (events, brought) = (Vec::new(), Vec::new());
            Row { first: Dot::new(origin, first), through: first, events, brought, forgot: unit.forgot() }
        };
        let mut row = open(stretch.after + 1);
        row.brought.append(&mut brought);
        let mut bytes = row.brought.len() * DOT_BYTES_MAX;
        for (seq, place) in &stretch.events {
            if bytes >= LOG_ROW_BYTES {
                let next = open(row.events.last().map_or(*seq, |event| event.seq + 1));
                row.through = next.first.seq - 1;
                rows.push(std::mem::replace(&mut row, next));
                bytes = 0;
            }
            let touch = unit.at(*place);
            let before = told.insert(*place).then(|| touch.before.clone());
            bytes += touch.key.len() + 8 + before.as_ref().map_or(0, |dots| dots.len() * DOT_BYTES_MAX);
            row.events.push(Event { seq: *seq, kind: touch.kind, key: touch.key.clone(), before });
        }
        row.through = stretch.through;
        rows.push(row);
    }
    let with_bytes = |row: Row| {
        let bytes = encode_row(&row);
        (row, bytes)
    };
    rows.into_iter().map(with_bytes).collect()
}

/// Most bytes of a dot, in a row.
const DOT_BYTES_MAX: usize = 18;

fn encode_row(row: &Row) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, u8::from(row.forgot)];
    put_number(&mut out, row.through - row.first.seq);
    put_number(&mut out, row.events.len() as u64);
    let (mut next, mut last) = (row.first.seq, &[][..]);
    for event in &row.events {
        let one = match event.before.as_deref() {
            Some([only]) if only.origin == row.first.origin => Some(only.seq),
            _ => None,
        };
        let skipped = event.seq - next;
        let told = match (&event.before, one) {
            (None, _) => TOLD,
            (_, Some(_)) => ONE,
            _ => 0,
        };
        out.push(event.kind as u8 | if skipped > 0 { SKIPPED } else { 0 } | told);
        if skipped > 0 {
            put_number(&mut out, skipped);
        }
        let shared = last.iter().zip(&event.key).take_while(|(a, b)| a == b).count();
        put_number(&mut out, shared as u64);
        put_number(&mut out, (event.key.len() - shared) as u64);
        out.extend(&event.key[shared..]);
        match (&event.before, one) {
            (None, _) => {}
            (_, Some(seq)) => put_number(&mut out, seq),
            (Some(before), None) => put_dots(&mut out, row.first.origin, before),
        }
        (next, last) = (event.seq + 1, &event.key);
    }
    put_dots(&mut out, row.first.origin, &row.brought);
    stamp(&change_key(row.first), out)
}

const SKIPPED: u8 = 4;
const TOLD: u8 = 8;
const ONE: u8 = 16;

/// The row that these bytes hold under the name of its first event.
pub fn decode_row(first: Dot, bytes: &[u8]) -> Result<Row, Junk> {
    let mut from = stamped(&change_key(first), bytes)?;
    if first.seq == 0 {
        return Err(Junk);
    }
    let forgot = from.byte()? == 1;
    let through = first.seq.checked_add(from.number()?).ok_or(Junk)?;
    let count = from.number()?;
    let (mut next, mut events) = (first.seq, Vec::<Event>::new());
    for _ in 0..count {
        let flags = from.byte()?;
        let skipped = if flags & SKIPPED != 0 { from.number()? } else { 0 };
        let seq = next.checked_add(skipped).ok_or(Junk)?;
        let (shared, rest) = (from.length()?, from.length()?);
        let last = events.last().map_or(&[][..], |event| &event.key);
        let mut key = last.get(..shared).ok_or(Junk)?.to_vec();
        key.extend_from_slice(from.take(rest)?);
        let before = match (flags & TOLD != 0, flags & ONE != 0) {
            (true, _) => None,
            (_, true) => Some(vec![Dot::new(first.origin, from.number()?)]),
            _ => Some(from.dots(first.origin)?),
        };
        events.push(Event { seq, kind: kind(flags & 3)?, key, before });
        next = seq.checked_add(1).ok_or(Junk)?;
    }
    let brought = from.dots(first.origin)?;
    from.end(Row { first, through, events, brought, forgot })
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
    /// Are rows beyond `vv` in the totals already? Only while a recovery is under way.
    pub counted: bool,
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
    out.push(u8::from(summary.counted));
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
    let counted = from.byte()? == 1;
    from.end(Summary { vv, floor, clock, totals: Totals { keys, versions, digest }, unit, counted })
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

fn put_dots(out: &mut Vec<u8>, origin: NodeId, dots: &[Dot]) {
    put_number(out, dots.len() as u64);
    for dot in dots {
        let foreign = dot.origin != origin;
        put_number(out, dot.seq << 1 | u64::from(foreign));
        if foreign {
            out.extend(dot.origin.0.to_be_bytes());
        }
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

    fn dots(&mut self, origin: NodeId) -> Result<Vec<Dot>, Junk> {
        let count = self.number()?;
        let dot = |_| {
            let number = self.number()?;
            let origin = if number & 1 == 1 { NodeId(self.fixed()?) } else { origin };
            Ok(Dot::new(origin, number >> 1))
        };
        (0..count).map(dot).collect()
    }

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
        fn rows_come_back(
            origin in 0..4u64,
            first in 1..u64::MAX >> 2,
            keyed in proptest::collection::vec(("[ab]{1,6}", 0..3u64, proptest::option::of(dots())), 0..9),
            brought in dots(),
        ) {
            let first = Dot::new(NodeId(origin << 40), first);
            let mut seq = first.seq;
            let events = keyed.into_iter().map(|(key, skipped, before)| {
                seq += skipped + 1;
                Event { seq: seq - 1, kind: Kind::Membership, key: key.into_bytes(), before }
            });
            let events: Vec<Event> = events.collect();
            let row = Row { first, through: first.seq + 40, events, brought, forgot: first.seq % 2 == 1 };
            let bytes = encode_row(&row);
            prop_assert_eq!(decode_row(Dot::new(first.origin, 0), &bytes), Err(Junk));
            prop_assert_eq!(decode_row(first, &bytes), Ok(row));
        }

        #[test]
        fn a_skimmed_entry_tells_its_versions(entry in entries()) {
            let mut seen = Vec::new();
            let bytes = encode_entry(b"key", &entry);
            prop_assert_eq!(skim_entry(b"key", &bytes, |dot, hlc| seen.push((dot, hlc))), Ok(()));
            prop_assert!(entry.versions().iter().map(|v| (v.dot, v.hlc)).eq(seen));
        }

        #[test]
        fn summaries_come_back(vv in dots(), floor in dots(), keys in any::<u64>(), digest in any::<u128>()) {
            let summary = Summary {
                vv: vv.iter().copied().collect(),
                floor: floor.into_iter().collect(),
                clock: Clock::from(Hlc(keys ^ 5)),
                totals: Totals { keys, versions: keys / 2, digest: Digest(digest) },
                unit: vv.into_iter().take(1).collect(),
                counted: keys % 2 == 1,
            };
            prop_assert_eq!(decode_summary(&encode_summary(&summary)), Ok(summary));
        }

        #[test]
        fn junk_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            // Never a panic; a random check value does not fit.
            prop_assert_eq!(decode_entry(b"k", &bytes), Err(Junk));
            prop_assert_eq!(decode_summary(&bytes), Err(Junk));
            prop_assert_eq!(decode_row(Dot::new(NodeId(1), 1), &bytes), Err(Junk));
            prop_assert_eq!(skim_entry(b"k", &bytes, |_, _| {}), Err(Junk));
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
