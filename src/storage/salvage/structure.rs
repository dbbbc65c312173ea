//! What only the shape of the trees tells: which tree a page is of, what range it had, and how the keys of a link begin whose
//! page is lost.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use super::gather::{Gather, Holds, Orphan, what_is};
use super::keys::{Stated, Tree};
use super::read_place;
use crate::replica::Kind;

/// The shape, as far as it is there.
pub struct Shape {
    /// Which tree a page is of.
    pub trees: HashMap<u64, Holds>,
    /// Removals of keys that have no name.
    pub removals: Vec<(u64, u64)>,
}

/// Puts everything that was undecided into its tree; links that nothing names stay among the orphans.
pub fn settle(found: &mut Gather, file: &File) -> Shape {
    let trees = walk(found);
    for (page, said) in std::mem::take(&mut found.undecided) {
        let page_holds = || found.leaves.get(&page).and_then(|leaf| leaf.holds);
        let holds = trees.get(&page).copied().or_else(page_holds);
        match holds {
            Some(Holds::Data) => found.data.absorb(said),
            Some(Holds::Membership) => found.membership.absorb(said),
            Some(Holds::Changes) => found.changes.absorb(said),
            Some(Holds::Entries) | None => match is_membership(&said, file) {
                true => found.membership.absorb(said),
                false if holds.is_some() => found.data.absorb(said),
                // Of a page that nothing is known of, only what proves itself counts: not that something is missing.
                false => said.entries().for_each(|(key, lsn, place)| found.data.state(key, lsn, place)),
            },
            Some(Holds::Chunks | Holds::Pieces | Holds::Expiry | Holds::Meta) => {}
        }
    }
    let removals = name_orphans(found, &trees, file);
    Shape { trees, removals }
}

/// Which page is of which tree: down from the roots, and from each leaf to its right.
fn walk(found: &Gather) -> HashMap<u64, Holds> {
    let mut trees = HashMap::new();
    let roots = found.roots.1.iter();
    let mut todo: Vec<(u64, Holds)> =
        roots.filter_map(|(name, root)| Some((*root, Holds::named(name)?))).collect();
    while let Some((page, holds)) = todo.pop() {
        if trees.contains_key(&page) {
            continue;
        }
        trees.insert(page, holds);
        if let Some(inner) = found.inner.get(&page) {
            todo.extend(inner.children.iter().map(|(_, child)| (*child, holds)));
        }
        if let Some(leaf) = found.leaves.get(&page).filter(|leaf| leaf.next != 0) {
            todo.push((leaf.next, holds));
        }
    }
    trees
}

/// Are these the records of members? Their keys are random, and their texts have an address.
fn is_membership(said: &Tree, file: &File) -> bool {
    said.entries().any(|(key, _, place)| {
        let text = read_place(file, place).unwrap_or_default();
        std::str::from_utf8(key).is_err() || text.windows(ADDRESS.len()).any(|part| part == ADDRESS)
    })
}

/// How the record of a member begins.
const ADDRESS: &[u8] = b"{\"address\":";

/// Names links by the ranges of their pages and by the names that are known otherwise; whether it is right, an item proves
/// itself. Removals that nothing names come back: their page, and when.
fn name_orphans(found: &mut Gather, trees: &HashMap<u64, Holds>, file: &File) -> Vec<(u64, u64)> {
    let (mut removals, mut left) = (Vec::new(), Vec::new());
    let mut begins: HashMap<u64, HashSet<Vec<u8>>> = HashMap::new();
    let wanted: HashSet<u64> = found.orphans.iter().map(|orphan| orphan.page).collect();
    for page in &wanted {
        let leaf = found.leaves.get(page).into_iter();
        let freed = found.freed.iter().filter(|(freed, _)| freed == page).map(|(_, leaf)| leaf);
        // Nothing may be left to find out, and most begin with nothing.
        let begins = begins.entry(*page).or_insert_with(|| HashSet::from([Vec::new()]));
        begins.extend(leaf.chain(freed).map(|leaf| leaf.lo.clone()));
    }
    for (lo, child) in found.inner.values().flat_map(|inner| &inner.children) {
        if let Some(begins) = begins.get_mut(child) {
            begins.insert(lo.clone());
        }
    }
    for orphan in std::mem::take(&mut found.orphans) {
        let later = found.leaves.get(&orphan.page).is_some_and(|leaf| leaf.last > orphan.lsn)
            || found.freed.iter().any(|(page, leaf)| *page == orphan.page && leaf.last > orphan.lsn);
        let Some(place) = orphan.place else {
            // What was listed after it, did not list it.
            if !later
                && !matches!(trees.get(&orphan.page), Some(Holds::Chunks | Holds::Pieces | Holds::Expiry))
            {
                removals.push((orphan.page, orphan.lsn));
            }
            continue;
        };
        let Some(value) = read_place(file, place) else { continue };
        let begins = begins.get(&orphan.page).into_iter().flatten();
        let prefixes = begins.flat_map(|lo| (0..=lo.len()).map(|length| &lo[..length]));
        let named = prefixes.map(|prefix| [prefix, &orphan.rest].concat()).find(|key| is_entry(key, &value));
        match named {
            Some(key) => adopt(found, trees, &orphan, (&key, &value)),
            None => left.push((orphan, value)),
        }
    }
    by_known_names(found, trees, left);
    removals
}

fn is_entry(key: &[u8], value: &[u8]) -> bool {
    matches!(what_is(key, value), Some(Holds::Data | Holds::Entries))
}

/// Whatever else is known of keys names those that end alike.
fn by_known_names(found: &mut Gather, trees: &HashMap<u64, Holds>, orphans: Vec<(Orphan, Vec<u8>)>) {
    let mut by_rest: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, (orphan, _)) in orphans.iter().enumerate() {
        by_rest.entry(&orphan.rest).or_default().push(at);
    }
    let lengths: HashSet<usize> = by_rest.keys().map(|rest| rest.len()).collect();
    let mut names: HashMap<usize, Vec<u8>> = HashMap::new();
    let known = found.data.names().chain(found.unread.keys()).chain(found.named.keys().map(|(_, key)| key));
    for key in known {
        for length in lengths.iter().filter(|length| **length <= key.len()) {
            for at in by_rest.get(&key[key.len() - length..]).into_iter().flatten() {
                if !names.contains_key(at) && is_entry(key, &orphans[*at].1) {
                    names.insert(*at, key.clone());
                }
            }
        }
    }
    for (at, (orphan, value)) in orphans.into_iter().enumerate() {
        match names.remove(&at) {
            Some(key) => adopt(found, trees, &orphan, (&key, &value)),
            None => found.orphans.push(orphan),
        }
    }
}

fn adopt(found: &mut Gather, trees: &HashMap<u64, Holds>, orphan: &Orphan, item: (&[u8], &[u8])) {
    let Some(place) = orphan.place else { return };
    let kind = match trees.get(&orphan.page) {
        Some(Holds::Membership) => Kind::Membership,
        _ => Kind::Data,
    };
    let Orphan { lsn, placed, .. } = *orphan;
    found.adopt(kind, item, Stated { lsn, until: found.until(lsn, placed), placed, place });
}
