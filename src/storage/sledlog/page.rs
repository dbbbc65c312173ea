//! What the bodies of messages say of pages: whole nodes, changes of them, and the names of the trees.

use std::ops::Range;

use super::message::Reader;

/// A page of a tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// The page on its right; 0: there is none.
    pub next: u64,
    /// Every key in it begins so; keys are stored without it.
    pub prefix: &'a [u8],
    /// The first key that belongs here,
    pub lo: &'a [u8],
    /// and the first that does not any more; empty: all do.
    pub hi: &'a [u8],
    /// Keys without the prefix, in order.
    pub keys: Vec<&'a [u8]>,
    /// What they stand for.
    pub data: Data,
}

/// What the keys of a node stand for.
#[derive(Debug, PartialEq, Eq)]
pub enum Data {
    /// Values: where they are in the body.
    Leaf(Vec<Range<usize>>),
    /// Pages that begin there.
    Index(Vec<u64>),
    /// Values, in a body that does not hold: they begin here, if it is right so far.
    Torn(usize),
}

/// A change of a page; its key is without the prefix of the node beneath.
#[derive(Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// The key has a new value: where that is in the body.
    Set(&'a [u8], Range<usize>),
    /// The key is gone.
    Del(&'a [u8]),
    /// A step of a merge with a neighbour; nothing is said of any key.
    Merge,
}

/// The node in a body that holds.
pub fn decode_node(body: &[u8]) -> Option<Node<'_>> {
    let (mut node, mut from, leaf) = head(body)?;
    let count = node.keys.len();
    node.data = match leaf {
        true => Data::Leaf((0..count).map(|_| from.range()).collect::<Option<_>>()?),
        false => Data::Index((0..count).map(|_| from.number()).collect::<Option<_>>()?),
    };
    from.is_empty().then_some(node)
}

/// The keys of a leaf whose body does not hold, if they look right: then `values_behind` finds those values that may be.
pub fn decode_torn_node(body: &[u8]) -> Option<Node<'_>> {
    let (mut node, from, leaf) = head(body)?;
    node.data = Data::Torn(from.place);
    leaf.then_some(node)
}

/// Everything up to the keys; is it a leaf?
fn head(body: &[u8]) -> Option<(Node<'_>, Reader<'_>, bool)> {
    let mut from = Reader::at(body, 0);
    let (next, _merging_child, _merging) = (from.number()?, from.number()?, from.byte()?);
    let prefix = usize::from(from.byte()?);
    let (lo, hi) = (from.slice()?, from.slice()?);
    let leaf = from.byte()? == 0;
    let count = from.number()?;
    // Each takes a byte at least: a count from a damaged place must not ask for memory.
    if count > body.len() as u64 {
        return None;
    }
    let keys = (0..count).map(|_| from.slice()).collect::<Option<_>>()?;
    let node = Node { next, prefix: lo.get(..prefix)?, lo, hi, keys, data: Data::Torn(0) };
    Some((node, from, leaf))
}

/// The values of a torn leaf, from this place in its body on: which of its `count` keys, and where. `fits` says whether bytes
/// can be the value of that key, and `sure` that no other bytes can. A value that does not fit is passed over; where the
/// lengths themselves are damaged, the rest is looked for behind the damage.
pub fn values_behind(
    body: &[u8],
    (mut at, count): (usize, usize),
    mut fits: impl FnMut(usize, Range<usize>) -> bool,
    sure: bool,
) -> Vec<(usize, Range<usize>)> {
    let mut found = Vec::new();
    let mut key = 0;
    let value = |at: usize| {
        let mut from = Reader::at(body, at);
        from.range()
    };
    while key < count && at < body.len() {
        let here = value(at);
        if let Some(range) = here.clone().filter(|range| fits(key, range.clone())) {
            at = range.end;
            found.push((key, range));
            key += 1;
            continue;
        }
        // Only its bytes are damaged when the one behind it is right, or it is the last and ends where it should.
        let behind = here.filter(|here| match value(here.end) {
            Some(next) => key + 1 < count && fits(key + 1, next),
            None => key + 1 == count && here.end == body.len(),
        });
        if let Some(here) = behind {
            (at, key) = (here.end, key + 1);
            continue;
        }
        let next = (at + 1..body.len()).find_map(|at| {
            let first = value(at)?;
            match sure {
                // Values end with the body, and so does a chain of them from the right place.
                false => chain(body, at, count - key).map(|rest| (at, count - rest)),
                true => (key..count).find(|key| fits(*key, first.clone())).map(|key| (at, key)),
            }
        });
        let Some(next) = next else { break };
        (at, key) = next;
    }
    found
}

/// How many values stand from here to the end of the body, if they end there and are no more than so many.
fn chain(body: &[u8], at: usize, most: usize) -> Option<usize> {
    let mut from = Reader::at(body, at);
    for count in 1..=most {
        if from.range()?.is_empty() {
            return None;
        }
        if from.is_empty() {
            return Some(count);
        }
    }
    None
}

/// The change in a body.
pub fn decode_link(body: &[u8]) -> Option<Link<'_>> {
    let mut from = Reader::at(body, 0);
    let link = match from.byte()? {
        0 => Link::Set(from.slice()?, from.range()?),
        1 => Link::Del(from.slice()?),
        2..=4 => return Some(Link::Merge),
        _ => return None,
    };
    from.is_empty().then_some(link)
}

/// The trees: their names, and their root pages.
pub fn decode_meta(body: &[u8]) -> Option<Vec<(&[u8], u64)>> {
    let mut from = Reader::at(body, 0);
    let mut trees = Vec::new();
    while !from.is_empty() {
        trees.push((from.slice()?, from.number()?));
    }
    Some(trees)
}
