//! What messages are taken for whose page is known from other times only, or whose place in the log is not sure.

use std::io::Write;

use super::*;
use crate::replica::{Hlc, NodeId, VersionVector};
use crate::storage::codec::{encode_entry, encode_piece};
use crate::storage::sledlog::{Kind as MessageKind, Message};

fn slices(of: &[&[u8]]) -> Vec<u8> {
    of.iter().flat_map(|slice| [&[slice.len() as u8], *slice].concat()).collect()
}

/// A leaf whose keys begin with the first `prefix` bytes of `lo`, up to the end of all keys.
fn leaf(prefix: u8, lo: &[u8], items: &[(&[u8], &[u8])]) -> Vec<u8> {
    let keys: Vec<&[u8]> = items.iter().map(|(key, _)| &key[prefix as usize..]).collect();
    let values: Vec<&[u8]> = items.iter().map(|(_, value)| *value).collect();
    let head = [&[0, 0, 0, prefix], slices(&[lo, b""]).as_slice(), &[0, items.len() as u8]].concat();
    [head, slices(&keys), slices(&values)].concat()
}

fn set(rest: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], slices(&[rest, value]).as_slice()].concat()
}

/// An entry with one version.
fn entry(key: &[u8], seq: u64) -> Vec<u8> {
    let dot = Dot::new(NodeId(7), seq);
    let version =
        Version { dot, hlc: Hlc::default(), expires_at_ms: None, value: Value::Inline(b"1".to_vec()) };
    encode_entry(key, &Entry::from_parts(vec![version], VersionVector::from_iter([dot])))
}

/// What is found of a key in these messages of one page (whether their place is sure, and when they were written), and whether
/// it is there for sure.
fn found(key: &[u8], messages: &[(MessageKind, Vec<u8>, bool, u64)]) -> Option<(Vec<u8>, bool)> {
    let mut log = tempfile::tempfile().expect("a file");
    let mut found = Gather::new(Arc::new(log.try_clone().expect("a file")), SEGMENT_BYTES);
    let mut at = 0;
    for (kind, body, placed, lsn) in messages {
        log.write_all(body).expect("it can be written");
        let (kind, placed, lsn) = (*kind, *placed, *lsn);
        found.take(&Message { kind, lsn, placed, page: 293, body, at, holds: true });
        at += body.len() as u64;
    }
    structure::settle(&mut found, &log);
    let sure = found.data.newest(key);
    let (_, place) = sure.or_else(|| found.data.doubtful(key))?;
    Some((read_place(&log, place)?, sure.is_some()))
}

#[test]
fn a_page_that_was_another_one_meanwhile_loses_nothing() {
    let key = b"sixteen/00000458";
    let name = piece_key(Dot::new(NodeId(7), 1), 0);
    let piece = encode_piece(&name, b"of a large value");
    // It held a piece; then came what is lost: it was given back, and is a page of data now whose keys have no prefix.
    let messages = [
        (MessageKind::Node, leaf(14, &name, &[(&name, &piece)]), true, 1000),
        (MessageKind::Link, set(key, &entry(key, 3)), true, 2000),
    ];
    assert_eq!(found(key, &messages), Some((entry(key, 3), true)));
}

#[test]
fn a_write_whose_place_is_not_sure_is_the_newer_one_if_it_has_seen_the_other() {
    let key = b"sixteen/00000458";
    // As after a block that is lost: it may be anywhere in its segment, so its page may not be what it was.
    for (placed, moved) in [(entry(key, 3), entry(key, 8)), (entry(key, 8), entry(key, 3))] {
        let messages = [
            (MessageKind::Node, leaf(8, b"sixteen/", &[(key, &placed)]), true, 1000),
            (MessageKind::Link, set(&key[8..], &moved), false, 0),
        ];
        assert_eq!(found(key, &messages), Some((entry(key, 8), true)));
    }
}

#[test]
fn a_write_whose_place_is_not_sure_may_come_after_a_page_without_it() {
    let (key, other) = (b"sixteen/00000458", b"sixteen/00000459");
    let page = |lsn| (MessageKind::Node, leaf(8, b"sixteen/", &[(other, &entry(other, 1))]), true, lsn);
    let write = (MessageKind::Link, set(&key[8..], &entry(key, 3)), false, 0);
    assert_eq!(found(key, &[page(1000), write.clone()]), Some((entry(key, 3), false)));
    // In a later segment the page is the newer one for sure.
    assert_eq!(found(key, &[page(SEGMENT_BYTES as u64 + 1000), write]), None);
}
