//! Which bytes of the log each key's record takes: its newest entry, what says how its name begins, and the newest copy of each
//! piece of a large value. Found out message by message in a sound file, whatever a salvage makes of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use dynarust::storage::sledlog::{Data, Kind, Link, Message, Segments, decode_link, decode_node};

/// The bytes of each key that is there.
pub type Records = BTreeMap<String, Vec<Range<u64>>>;

/// Where something was written, and which bytes say so.
type Written = (u64, Vec<Range<u64>>);

/// Most bytes of a message's head.
const HEAD_BYTES: u64 = 32;
const SEGMENT_BYTES: usize = 2 << 20;

#[derive(Default)]
struct Map {
    keys: HashMap<Vec<u8>, Written>,
    pieces: HashMap<Vec<u8>, Written>,
    /// The newest node of each page: its prefix, and its bytes up to the first value.
    pages: HashMap<u64, (Vec<u8>, Range<u64>)>,
}

/// `versions` has every key that is there, with the name of its version: origin and seq, as a key of a piece begins.
pub fn records(db: &Path, versions: &HashMap<String, Vec<u8>>) -> Records {
    let file = File::open(db).expect("the log");
    let segments = Segments::of(&file, SEGMENT_BYTES).expect("segments");
    let known: HashSet<&[u8]> = versions.keys().map(|key| key.as_bytes()).collect();
    let mut map = Map::default();
    let bad = segments.each(|| {}, |message| map.take(&message, &known));
    assert_eq!(bad, [], "it is not sound to begin with");
    let record = |(key, version): (&String, &Vec<u8>)| {
        let (_, mut bytes) = map.keys[key.as_bytes()].clone();
        let pieces = map.pieces.iter().filter(|(piece, _)| piece.starts_with(version));
        bytes.extend(pieces.flat_map(|(_, (_, bytes))| bytes.clone()));
        (key.clone(), bytes)
    };
    versions.iter().map(record).collect()
}

impl Map {
    fn take(&mut self, message: &Message<'_>, known: &HashSet<&[u8]>) {
        let Message { kind, lsn, page, body, at, .. } = *message;
        let begin = at.saturating_sub(HEAD_BYTES);
        match kind {
            Kind::Node => {
                let node = decode_node(body).expect("a node");
                let Data::Leaf(values) = node.data else { return };
                let names = begin..at + values.first().map_or(body.len(), |first| first.start) as u64;
                for (key, value) in node.keys.iter().zip(values) {
                    // Its length stands before it, in no more than three bytes.
                    let value = at + value.start as u64 - 3..at + value.end as u64;
                    self.written([node.prefix, key].concat(), lsn, vec![names.clone(), value], known);
                }
                self.pages.insert(page, (node.prefix.to_vec(), names));
            }
            Kind::Link => {
                let Some(Link::Set(rest, _)) = decode_link(body) else { return };
                let Some((prefix, names)) = self.pages.get(&page) else { return };
                let itself = begin..at + body.len() as u64;
                let named = (!prefix.is_empty()).then(|| names.clone());
                let bytes = std::iter::once(itself).chain(named).collect();
                self.written([prefix, rest].concat(), lsn, bytes, known);
            }
            _ => {}
        }
    }

    fn written(&mut self, key: Vec<u8>, lsn: u64, bytes: Vec<Range<u64>>, known: &HashSet<&[u8]>) {
        let of = match known.contains(key.as_slice()) {
            true => &mut self.keys,
            false if key.len() == 20 => &mut self.pieces,
            false => return,
        };
        let newest = of.entry(key).or_default();
        if newest.0 <= lsn {
            *newest = (lsn, bytes);
        }
    }
}
