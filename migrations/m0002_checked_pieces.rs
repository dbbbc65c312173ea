//! Format 2: a piece of a large value carries a check that is bound to its key, like every other item. Before, only the
//! checksum of the whole value covered it, so nobody could tell which piece was bad, nor a bad one from one that was gone.
//!
//! ```text
//! chunks   origin:8 seq:8 index:4    text                   before
//! pieces   origin:8 seq:8 index:4    check:4 text           since
//!
//! check    low half of XXH3(text, seed = XXH3("pieces" key))
//! ```
//!
//! A piece that was damaged before gets a check of what is there: the checksum of its value still tells.

use std::ops::Bound;

use sled::{Db, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Portion, Size};

const OLD: &str = "chunks";
const NEW: &str = "pieces";
/// Bytes of rows between two flushes.
const PORTION_BYTES: u64 = 1 << 20;

/// Everything in the old tree.
pub fn measure(db: &Db) -> Result<Size> {
    let mut size = Size::default();
    for row in db.open_tree(OLD)?.iter() {
        let (key, text) = row?;
        size.rows += 1;
        size.bytes += (key.len() + text.len()) as u64;
    }
    Ok(size)
}

/// A release that does not know the new tree may have gone on with the old one since.
pub fn reset(db: &Db, _after: Option<&[u8]>) -> Result<Option<Portion>> {
    empty(db, NEW)
}

/// Copies pieces, each with its check.
pub fn build(db: &Db, after: Option<&[u8]>) -> Result<Option<Portion>> {
    let (old, new) = (db.open_tree(OLD)?, db.open_tree(NEW)?);
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut done = None;
    for row in old.range::<&[u8], _>((from, Bound::Unbounded)) {
        let (key, text) = row?;
        let check = xxh3_64_with_seed(&text, xxh3_64(&[b"pieces", &*key].concat())) as u32;
        new.insert(&key, [&check.to_be_bytes()[..], &text].concat())?;
        if is_enough(&mut done, &key, &text) {
            break;
        }
    }
    Ok(done)
}

/// Removes the old tree.
pub fn clear(db: &Db, _after: Option<&[u8]>) -> Result<Option<Portion>> {
    empty(db, OLD)
}

/// Removes the first rows of a tree, and the tree when there are none: sled takes all of a tree that it drops into memory.
fn empty(db: &Db, name: &str) -> Result<Option<Portion>> {
    if !db.tree_names().iter().any(|there| there == name.as_bytes()) {
        return Ok(None);
    }
    let mut done = None;
    let tree = db.open_tree(name)?;
    for row in tree.iter() {
        let (key, text) = row?;
        tree.remove(&key)?;
        if is_enough(&mut done, &key, &text) {
            break;
        }
    }
    if done.is_none() {
        drop(tree);
        db.drop_tree(name)?;
    }
    Ok(done)
}

/// Counts a row that was done.
fn is_enough(done: &mut Option<Portion>, key: &[u8], text: &[u8]) -> bool {
    let portion = done.get_or_insert_with(|| Portion { through: Vec::new(), size: Size::default() });
    portion.through = key.to_vec();
    portion.size.rows += 1;
    portion.size.bytes += (key.len() + text.len()) as u64;
    portion.size.bytes >= PORTION_BYTES
}
