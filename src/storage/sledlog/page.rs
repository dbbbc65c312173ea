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

/// The keys of a leaf whose body does not hold, if they look right: then `proven_values` finds those values that are,
/// and `likely_values` those that may be.
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
/// are a value of that key, and no others can be. Where none stands, the next one is looked for. A key may come more than once:
/// what was put over the damaged part may be of an older copy.
pub fn proven_values(
    body: &[u8],
    (mut at, count): (usize, usize),
    mut fits: impl FnMut(usize, Range<usize>) -> bool,
) -> Vec<(usize, Range<usize>)> {
    let mut found = Vec::new();
    let mut likely = 0;
    while at < body.len() {
        let here = value(body, at);
        let proven = here.and_then(|range| {
            let mut keys = (likely..count).chain(0..likely.min(count));
            keys.find(|key| fits(*key, range.clone())).map(|key| (key, range))
        });
        match proven {
            Some((key, range)) => {
                (at, likely) = (range.end, key + 1);
                found.push((key, range));
            }
            None => at += 1,
        }
    }
    found
}

/// The same where no value proves itself: those that follow each other from the first on, and those that end where the body
/// does. A key may come twice, and what is damaged comes as well.
pub fn likely_values(body: &[u8], (begin, count): (usize, usize)) -> Vec<(usize, Range<usize>)> {
    let mut found: Vec<(usize, Range<usize>)> = Vec::new();
    let mut at = begin;
    while let Some(range) = value(body, at).filter(|_| found.len() < count) {
        at = range.end;
        found.push((found.len(), range));
    }
    if found.len() == count && at == body.len() {
        return found;
    }
    let tail = (begin + 1..body.len()).find_map(|at| chain(body, at, count));
    let tail = tail.unwrap_or_default();
    let first = count - tail.len();
    found.extend(tail.into_iter().enumerate().map(|(at, range)| (first + at, range)));
    found
}

/// The value whose length stands here; none is empty.
fn value(body: &[u8], at: usize) -> Option<Range<usize>> {
    Reader::at(body, at).range().filter(|range| !range.is_empty())
}

/// The values that stand from here to the end of the body, if they end there and are no more than so many.
fn chain(body: &[u8], mut at: usize, most: usize) -> Option<Vec<Range<usize>>> {
    let mut values = Vec::new();
    while values.len() < most {
        let next = value(body, at)?;
        at = next.end;
        values.push(next);
        if at == body.len() {
            return Some(values);
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
