//! What a message is taken for whose page is known from other times only.

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

#[test]
fn a_page_that_was_another_one_meanwhile_loses_nothing() {
    let (key, dot) = (b"sixteen/00000458", Dot::new(NodeId(7), 3));
    let version =
        Version { dot, hlc: Hlc::default(), expires_at_ms: None, value: Value::Inline(b"1".to_vec()) };
    let entry = encode_entry(key, &Entry::from_parts(vec![version], VersionVector::default()));
    let name = piece_key(Dot::new(NodeId(7), 1), 0);
    let piece = encode_piece(&name, b"of a large value");
    // It held a piece; then came what is lost: it was given back, and is a page of data now whose keys have no prefix.
    let bodies =
        [(MessageKind::Node, leaf(14, &name, &[(&name, &piece)])), (MessageKind::Link, set(key, &entry))];

    let mut log = tempfile::tempfile().expect("a file");
    let mut found = Gather::new(Arc::new(log.try_clone().expect("a file")), SEGMENT_BYTES);
    let mut at = 0;
    for (kind, body) in &bodies {
        log.write_all(body).expect("it can be written");
        found.take(&Message { kind: *kind, lsn: at + 1, placed: true, page: 293, body, at, holds: true });
        at += body.len() as u64;
    }
    structure::settle(&mut found, &log);
    let (_, place) = found.data.newest(key).expect("it is found");
    assert_eq!(read_place(&log, place), Some(entry));
}
