//! A row of the change log, under the name of its first event.
//!
//! ```text
//! row      check:4  flags:1  through:varint  count:varint (event)*
//!          flags bit 0: its unit forgot something; through is counted from the row's first event
//! event    flags:1 [skipped:varint] shared:varint length:varint rest-of-key [seq:varint | dots] [brought: dots]
//!          flags bits 0-1: kind; bit 2: events are missing before it, so many; bit 3: the key stands in this unit already;
//!          bit 4: one version of the row's origin lived before, with this seq; neither 3 nor 4: these lived before;
//!          bit 5: versions of this key come along whose own events are not here.
//!          A key begins like the one before it in the row: so many bytes are shared with that.
//! dots     count:varint (seq*2+foreign:varint [origin:8])*      foreign: not of the row's origin
//! ```
//!
//! A key that a unit changes without an event (it is forgotten, or swept) stands in a *repair row*, under an origin that no
//! node has and with numbers of its own: it tells what lived there until the unit is complete, and then goes.

use std::collections::HashSet;

use super::{Junk, Reader, kind, put_number, stamp, stamped};
use crate::limits::LOG_ROW_BYTES;
use crate::replica::{Dot, Kind, NodeId, Place, Unit};
use crate::storage::trees::change_key;

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
    /// Versions of the key that the unit brings in without their own events; told with `before`.
    pub brought: Vec<Dot>,
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
    /// Did the unit forget what it had to know until then?
    pub forgot: bool,
}

/// The origin of repair rows; no node has this id.
pub const REPAIR: NodeId = NodeId::NOBODY;

/// The rows of what a unit logs, and behind them its repair rows, numbered from `repairs`: in the order in which they are to
/// be written.
pub fn encode_rows(unit: &Unit, repairs: u64) -> Vec<(Row, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut told = HashSet::new();
    for (origin, stretch) in unit.stretches() {
        let open = |first: u64| {
            let first = Dot::new(origin, first);
            Row { first, through: first.seq, events: Vec::new(), forgot: unit.forgot() }
        };
        let mut row = open(stretch.after + 1);
        let mut bytes = 0;
        for (seq, place) in &stretch.events {
            if bytes >= LOG_ROW_BYTES {
                let next = open(row.events.last().map_or(*seq, |event| event.seq + 1));
                row.through = next.first.seq - 1;
                rows.push(std::mem::replace(&mut row, next));
                bytes = 0;
            }
            let touch = unit.at(*place);
            let first = told.insert(*place);
            let before = first.then(|| touch.before.clone());
            let brought = if first { unit.brought(touch).collect() } else { Vec::new() };
            bytes += touch.key.len() + 8;
            bytes += (brought.len() + before.as_ref().map_or(0, Vec::len)) * DOT_BYTES_MAX;
            row.events.push(Event { seq: *seq, kind: touch.kind, key: touch.key.clone(), before, brought });
        }
        row.through = stretch.through;
        rows.push(row);
    }
    rows.extend(repair_rows(unit, &told, repairs));
    let with_bytes = |row: Row| {
        let bytes = encode_row(&row);
        (row, bytes)
    };
    rows.into_iter().map(with_bytes).collect()
}

/// What recovery must know of keys that no event of the unit names.
fn repair_rows(unit: &Unit, told: &HashSet<Place>, mut number: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut bytes = LOG_ROW_BYTES;
    for (_, touch) in unit.placed().filter(|(place, touch)| touch.changed && !told.contains(place)) {
        number += 1;
        if bytes >= LOG_ROW_BYTES {
            let first = Dot::new(REPAIR, number);
            rows.push(Row { first, through: number, events: Vec::new(), forgot: unit.forgot() });
            bytes = 0;
        }
        let brought: Vec<Dot> = unit.brought(touch).collect();
        bytes += touch.key.len() + 8 + (brought.len() + touch.before.len()) * DOT_BYTES_MAX;
        let before = Some(touch.before.clone());
        let event = Event { seq: number, kind: touch.kind, key: touch.key.clone(), before, brought };
        let row = rows.last_mut().expect("one was opened");
        row.events.push(event);
        row.through = number;
    }
    rows
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
        let brings = if event.brought.is_empty() { 0 } else { BRINGS };
        out.push(event.kind as u8 | if skipped > 0 { SKIPPED } else { 0 } | told | brings);
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
        if brings > 0 {
            put_dots(&mut out, row.first.origin, &event.brought);
        }
        (next, last) = (event.seq + 1, &event.key);
    }
    stamp(&change_key(row.first), out)
}

const SKIPPED: u8 = 4;
const TOLD: u8 = 8;
const ONE: u8 = 16;
const BRINGS: u8 = 32;

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
        let brought = if flags & BRINGS != 0 { from.dots(first.origin)? } else { Vec::new() };
        events.push(Event { seq, kind: kind(flags & 3)?, key, before, brought });
        next = seq.checked_add(1).ok_or(Junk)?;
    }
    from.end(Row { first, through, events, forgot })
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

impl Reader<'_> {
    fn dots(&mut self, origin: NodeId) -> Result<Vec<Dot>, Junk> {
        let count = self.number()?;
        let dot = |_| {
            let number = self.number()?;
            let origin = if number & 1 == 1 { NodeId(self.fixed()?) } else { origin };
            Ok(Dot::new(origin, number >> 1))
        };
        (0..count).map(dot).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::dots;
    use super::*;

    proptest! {
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
                let (key, brought) = (key.into_bytes(), brought.clone());
                Event { seq: seq - 1, kind: Kind::Membership, key, before, brought }
            });
            let events: Vec<Event> = events.collect();
            let row = Row { first, through: first.seq + 40, events, forgot: first.seq % 2 == 1 };
            let bytes = encode_row(&row);
            prop_assert_eq!(decode_row(Dot::new(first.origin, 0), &bytes), Err(Junk));
            prop_assert_eq!(decode_row(first, &bytes), Ok(row));
        }
    }
}
