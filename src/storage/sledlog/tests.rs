//! The reader against sled itself: what sled wrote is read as it was written, and no bytes make it panic.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::message::Reader;
use super::*;

/// Small, so that little data fills many and they are used anew.
const SEGMENT_BYTES: usize = 8 << 10;

/// Writes and removes keys with sled; what is there at the end.
fn written(dir: &std::path::Path, steps: &[(u16, Option<u8>)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let config = sled::Config::new().path(dir).segment_size(SEGMENT_BYTES).flush_every_ms(None);
    let tree = config.open().and_then(|db| db.open_tree("t")).expect("it opens");
    let mut truth = BTreeMap::new();
    for (key, value) in steps {
        let key = format!("key/{:05}", key % 400).into_bytes();
        match value {
            Some(length) => {
                // A page of more than a quarter of a segment goes into a file of its own.
                let value = vec![*length; 1 + usize::from(*length % 40)];
                tree.insert(&key, value.as_slice()).expect("it is written");
                truth.insert(key, value);
            }
            None => {
                tree.remove(&key).expect("it is removed");
                truth.remove(&key);
            }
        }
    }
    tree.flush().expect("it is on the disk");
    truth
}

/// Page by page as sled would: the newest node of each, and its links in order.
fn read(file: &File) -> (BTreeMap<Vec<u8>, Vec<u8>>, Vec<BadPlace>) {
    type Page = (Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);
    let mut pages: BTreeMap<u64, Page> = BTreeMap::new();
    let segments = Segments::of(file, SEGMENT_BYTES).expect("segments");
    let bad = segments.each(
        || {},
        |message| match message.kind {
            Kind::Node => {
                let node = decode_node(message.body).expect("a node");
                let Data::Leaf(values) = node.data else { return };
                let key = |key: &&[u8]| [node.prefix, key].concat();
                let values = values.into_iter().map(|at| message.body[at].to_vec());
                pages.insert(
                    message.page,
                    (node.prefix.to_vec(), node.keys.iter().map(key).zip(values).collect()),
                );
            }
            Kind::Link => {
                let Some((prefix, items)) = pages.get_mut(&message.page) else { return };
                match decode_link(message.body).expect("a link") {
                    Link::Set(rest, at) => {
                        drop(items.insert([prefix, rest].concat(), message.body[at].to_vec()))
                    }
                    Link::Del(rest) => drop(items.remove(&[prefix, rest].concat())),
                    Link::Merge => {}
                }
            }
            Kind::Free => drop(pages.remove(&message.page)),
            _ => {}
        },
    );
    let items = pages.into_values().flat_map(|(_, items)| items);
    (items.filter(|(key, _)| key.starts_with(b"key/")).collect(), bad)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_sled_wrote_is_read(
        steps in proptest::collection::vec((any::<u16>(), proptest::option::weighted(0.7, any::<u8>())), 1..900),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let truth = written(dir.path(), &steps);
        let (found, bad) = read(&File::open(dir.path().join("db")).expect("the log"));
        prop_assert_eq!(found, truth);
        prop_assert_eq!(bad, vec![]);
    }

    #[test]
    fn a_bad_place_is_found_and_hides_nothing_behind_it(at in any::<usize>(), length in 1..600usize, seed in any::<u8>()) {
        let dir = tempfile::tempdir().expect("a directory");
        let steps: Vec<_> = (0..300).map(|n| (n, Some(n as u8 ^ seed))).collect();
        written(dir.path(), &steps);
        let path = dir.path().join("db");
        let mut bytes = std::fs::read(&path).expect("the log");
        let at = at % bytes.len();
        let end = (at + length).min(bytes.len());
        let hit = bytes[at..end].iter().any(|byte| *byte != 0);
        let file = File::options().read(true).write(true).open(&path).expect("the log");
        let messages = || {
            let mut all = BTreeMap::new();
            let segments = Segments::of(&file, SEGMENT_BYTES).expect("segments");
            let bad = segments.each(|| {}, |message| {
                if message.holds {
                    all.insert(message.at, message.body.to_vec());
                }
            });
            (all, bad)
        };
        let (all, sound) = messages();
        prop_assert_eq!(sound, vec![]);
        bytes[at..end].fill(0);
        file.write_all_at(&bytes, 0).expect("it is written");
        let (left, bad) = messages();
        // A head has 32 bytes at most.
        let untouched = |place: u64, body: &[u8]| place + body.len() as u64 <= at as u64 || place >= end as u64 + 32;
        for (place, body) in all.iter().filter(|(place, body)| untouched(**place, body)) {
            prop_assert_eq!(left.get(place), Some(body), "at {}", place);
        }
        let tip = bytes.len() / SEGMENT_BYTES * SEGMENT_BYTES;
        prop_assert!(!hit || at >= tip || !bad.is_empty(), "nothing was noticed");
    }

    #[test]
    fn junk_is_no_panic(body in proptest::collection::vec(any::<u8>(), 0..300), count in 0..30usize) {
        decode_node(&body);
        decode_link(&body);
        decode_meta(&body);
        if let Some(Node { data: Data::Torn(from), .. }) = decode_torn_node(&body) {
            proven_values(&body, (from, count), |_, at| at.len() % 3 == 0);
            likely_values(&body, (from, count));
        }
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&body, 0).expect("it is written");
        Segments::of(&file, 64).expect("segments").each(|| {}, |_| {});
    }
}

/// The steps of `Serialize for u64` in sled's `serialization.rs`.
#[test]
fn numbers_are_read_as_sled_writes_them() {
    let cases: [(&[u8], u64); 9] = [
        (&[0], 0),
        (&[240], 240),
        (&[241, 1], 241),
        (&[248, 255], 2_287),
        (&[249, 0, 0], 2_288),
        (&[249, 255, 255], 67_823),
        (&[250, 1, 2, 3], 0x03_0201),
        (&[251, 1, 2, 3, 4], 0x0403_0201),
        (&[255, 1, 2, 3, 4, 5, 6, 7, 8], 0x0807_0605_0403_0201),
    ];
    for (bytes, number) in cases {
        assert_eq!(Reader::at(bytes, 0).number(), Some(number));
        assert_eq!(Reader::at(&bytes[..bytes.len() - 1], 0).number(), None);
    }
}

fn body(values: &[&[u8]]) -> Vec<u8> {
    values.iter().flat_map(|value| [&[value.len() as u8], *value].concat()).collect()
}

#[test]
fn values_are_found_behind_a_damaged_one() {
    let values: [&[u8]; 5] = [b"one", b"two", b"three", b"four", b"five"];
    let whole = body(&values);
    let find = |body: &[u8]| -> Vec<usize> {
        let fits = |key: usize, at: std::ops::Range<usize>| body[at] == *values[key];
        proven_values(body, (0, 5), fits).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(find(&whole), [0, 1, 2, 3, 4]);
    let mut bytes_damaged = whole.clone();
    bytes_damaged[5] = b'?';
    assert_eq!(find(&bytes_damaged), [0, 2, 3, 4]);
    let mut length_damaged = whole.clone();
    length_damaged[4] = 200;
    assert_eq!(find(&length_damaged), [0, 2, 3, 4]);
    let mut wiped = whole.clone();
    wiped[3..15].fill(0);
    assert_eq!(find(&wiped), [4]);
    // What came over it is of another copy: nothing else is lost by that.
    let mut covered = whole.clone();
    covered[4..13].copy_from_slice(b"\x04four\x03one");
    assert_eq!(find(&covered), [0, 3, 0, 3, 4]);
}

#[test]
fn values_that_prove_nothing_are_counted_from_both_ends() {
    let whole = body(&[b"one", b"two", b"three", b"four", b"five"]);
    let find = |body: &[u8]| likely_values(body, (0, 5));
    let all = find(&whole);
    assert_eq!(all.len(), 5);
    let mut wiped = whole.clone();
    wiped[6..9].fill(0);
    let found = find(&wiped);
    for expected in [&all[0], &all[3], &all[4]] {
        assert!(found.contains(expected), "{expected:?} in {found:?}");
    }
    let cut = find(&whole[..10]);
    assert!(cut.contains(&all[0]) && cut.contains(&all[1]), "{cut:?}");
}
