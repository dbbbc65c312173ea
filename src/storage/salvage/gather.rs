//! Takes in what messages say of our trees, in whatever order and with whatever is missing, and keeps of each key where in the
//! log it was last spoken of.
//!
//! Two things speak of a key: a link of its own, and a node whose range it falls into, which says as well that a key is *not*
//! there. The one with the highest LSN is right. That needs neither the tree above nor a page that is whole, and it is why old
//! copies in segments that are not yet used anew do no harm.
//!
//! Which tree a page is of, its items tell: entries, rows and the summary carry a check that is bound to their key. Where that
//! is not enough (no items, or a key that may be a member's id), it stays undecided until the structure is known.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use super::keys::{Place, Stated, Tree};
use super::read_place;
use crate::limits::{CHUNK_BYTES, ENTRY_BYTES_MAX, SALVAGE_HUNT_BYTES, SEQ_MAX};
use crate::replica::{Dot, Entry, Kind, NodeId};
use crate::storage::codec::{self, PIECE_HEAD_BYTES, REPAIR};
use crate::storage::sledlog::{self, Data, Link, Message, Node};
use crate::storage::trees::{meta, read_change_key, read_expiry_key, read_piece_key, read_row};

/// What a page holds, as its items tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    Data,
    Membership,
    /// One of the two: every key may be a member's id.
    Entries,
    Changes,
    /// Pieces of large values without a check, as until format 1.
    Chunks,
    Pieces,
    Expiry,
    Meta,
}

impl Holds {
    /// The tree of this name.
    pub fn named(name: &[u8]) -> Option<Holds> {
        Some(match name {
            b"data" => Holds::Data,
            b"membership" => Holds::Membership,
            b"changes" => Holds::Changes,
            b"chunks" => Holds::Chunks,
            b"pieces" => Holds::Pieces,
            b"expiry" => Holds::Expiry,
            b"meta" => Holds::Meta,
            _ => return None,
        })
    }
}

/// What is known of a leaf: its newest node, and the widest range that it had.
pub struct Leaf {
    pub lsn: u64,
    prefix: Vec<u8>,
    pub lo: Vec<u8>,
    pub hi: Vec<u8>,
    pub next: u64,
    pub holds: Option<Holds>,
    /// The last message of it.
    pub last: u64,
}

/// An inner page: its newest node's children, with the key from which on each is.
pub struct Inner {
    lsn: u64,
    pub children: Vec<(Vec<u8>, u64)>,
    pub hi: Vec<u8>,
}

/// How sure it is that bytes are the piece that they are taken for: where they have no check, only the whole value proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sure {
    /// Their check holds.
    Proven,
    /// They stand under their name.
    Named,
    /// They were written under a name whose begin is that of the newest node which is left.
    Likely,
    /// The check of what they stand in does not hold.
    Torn,
}

/// A link without the node that says how its key begins.
pub struct Orphan {
    pub page: u64,
    pub lsn: u64,
    /// Is its place in the log known for sure?
    pub placed: bool,
    /// How the key ends.
    pub rest: Vec<u8>,
    /// Its value; `None`: the key was deleted.
    pub place: Option<Place>,
}

/// The newest event of an origin that names a key.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub dot: Dot,
    /// Where its row was written; 0 when only copies of the row are left.
    pub lsn: u64,
}

/// The newest summary.
pub struct Summarised {
    /// Where it was found last,
    last: u64,
    /// and first: up to here it was the newest for sure.
    pub lsn: u64,
    pub bytes: Vec<u8>,
}

/// Everything that was taken in.
pub struct Gather {
    file: Arc<File>,
    segment_bytes: u64,
    pub data: Tree,
    pub membership: Tree,
    pub changes: Tree,
    /// Where copies of each piece of a large value are, the surest first.
    pub pieces: HashMap<(Dot, u32), Vec<(Sure, Place)>>,
    pub leaves: HashMap<u64, Leaf>,
    pub inner: HashMap<u64, Inner>,
    /// Pages that were given back: when, and the range that they had.
    pub freed: Vec<(u64, Leaf)>,
    /// The trees' roots.
    pub roots: (u64, Vec<(Vec<u8>, u64)>),
    /// What was said of keys on pages that may be of either tree of entries, or of any, page by page.
    pub undecided: HashMap<u64, Tree>,
    pub orphans: Vec<Orphan>,
    pub named: HashMap<(Kind, Vec<u8>), Vec<Named>>,
    /// Keys of entries whose own bytes are damaged, and where.
    pub unread: HashMap<Vec<u8>, u64>,
    pub summary: Option<Summarised>,
    /// Items that held.
    pub records: u64,
    hunted: u64,
}

impl Gather {
    /// Nothing yet, of this file with segments of this size.
    pub fn new(file: Arc<File>, segment_bytes: usize) -> Gather {
        Gather {
            file,
            segment_bytes: segment_bytes as u64,
            data: Tree::default(),
            membership: Tree::default(),
            changes: Tree::default(),
            pieces: HashMap::new(),
            leaves: HashMap::new(),
            inner: HashMap::new(),
            freed: Vec::new(),
            roots: (0, Vec::new()),
            undecided: HashMap::new(),
            orphans: Vec::new(),
            named: HashMap::new(),
            unread: HashMap::new(),
            summary: None,
            records: 0,
            hunted: 0,
        }
    }

    /// Takes in a message.
    pub fn take(&mut self, message: &Message<'_>) {
        match message.kind {
            sledlog::Kind::Meta if message.holds => self.roots(message),
            sledlog::Kind::Node if message.holds => {
                if let Some(node) = sledlog::decode_node(message.body) {
                    self.node(message, node);
                }
            }
            sledlog::Kind::Node => {
                if let Some(node) = sledlog::decode_torn_node(message.body) {
                    self.torn_node(message, &node);
                }
            }
            sledlog::Kind::Link => {
                if let Some(link) = sledlog::decode_link(message.body) {
                    self.link(message, link);
                }
            }
            sledlog::Kind::Free if message.holds => {
                if let Some(leaf) = self.leaves.remove(&message.page) {
                    self.freed.push((message.page, leaf));
                }
            }
            _ => {}
        }
    }

    fn undecided(&mut self, page: u64) -> &mut Tree {
        self.undecided.entry(page).or_default()
    }

    fn roots(&mut self, message: &Message<'_>) {
        if message.lsn < self.roots.0 {
            return;
        }
        if let Some(trees) = sledlog::decode_meta(message.body) {
            let owned = trees.into_iter().map(|(name, root)| (name.to_vec(), root));
            self.roots = (message.lsn, owned.collect());
        }
    }

    fn node(&mut self, message: &Message<'_>, node: Node<'_>) {
        let Message { lsn, page, body, .. } = *message;
        let values = match node.data {
            Data::Leaf(values) => values,
            Data::Index(pages) => {
                let keys = node.keys.iter().map(|key| [node.prefix, key].concat());
                let inner = Inner { lsn, children: keys.zip(pages).collect(), hi: node.hi.to_vec() };
                if self.inner.get(&page).is_none_or(|newest| newest.lsn <= lsn) {
                    self.inner.insert(page, inner);
                }
                return;
            }
            Data::Torn(_) => return,
        };
        let keys: Vec<Vec<u8>> = node.keys.iter().map(|key| [node.prefix, key].concat()).collect();
        let items = || keys.iter().zip(&values).map(|(key, at)| (key.as_slice(), &body[at.clone()]));
        let holds = items().fold(None, |page, (key, value)| of_both(page, what_is(key, value)));
        let piece = |(key, value): (&[u8], &[u8])| key.len() == PIECE_KEY_BYTES && !value.is_empty();
        let holds = holds
            .or_else(|| (!keys.is_empty() && items().all(piece)).then_some(Holds::Chunks))
            .or_else(|| self.leaves.get(&page).and_then(|leaf| leaf.holds));
        match holds {
            Some(Holds::Data) => self.data.list(node.lo, node.hi, lsn),
            Some(Holds::Membership) => self.membership.list(node.lo, node.hi, lsn),
            Some(Holds::Changes) => self.changes.list(node.lo, node.hi, lsn),
            Some(Holds::Entries) | None => self.undecided(page).list(node.lo, node.hi, lsn),
            Some(Holds::Chunks | Holds::Pieces | Holds::Expiry | Holds::Meta) => {}
        }
        for (key, at) in keys.iter().zip(&values) {
            let place = Place { at: message.at + at.start as u64, bytes: at.len() as u32 };
            self.item(message, holds, (key, &body[at.clone()]), place, false);
        }
        self.leaf(message, node.prefix, (node.lo, node.hi), node.next, holds);
    }

    fn leaf(
        &mut self,
        message: &Message<'_>,
        prefix: &[u8],
        (lo, hi): (&[u8], &[u8]),
        next: u64,
        holds: Option<Holds>,
    ) {
        let lsn = message.lsn;
        let new = || Leaf {
            lsn,
            prefix: prefix.to_vec(),
            lo: lo.to_vec(),
            hi: hi.to_vec(),
            next,
            holds,
            last: lsn,
        };
        let leaf = self.leaves.entry(message.page).or_insert_with(new);
        if lo < leaf.lo.as_slice() {
            leaf.lo = lo.to_vec();
        }
        if hi.is_empty() || (!leaf.hi.is_empty() && hi > leaf.hi.as_slice()) {
            leaf.hi = hi.to_vec();
        }
        leaf.last = leaf.last.max(lsn);
        if lsn >= leaf.lsn {
            (leaf.lsn, leaf.next, leaf.holds) = (lsn, next, holds.or(leaf.holds));
            leaf.prefix = prefix.to_vec();
        }
    }

    fn stated(&self, message: &Message<'_>, place: Place) -> Stated {
        let Message { lsn, placed, holds, .. } = *message;
        Stated { lsn, until: self.until(lsn, placed), placed: placed && holds, place }
    }

    /// When something was written at the latest that may have stood anywhere in its segment.
    pub fn until(&self, lsn: u64, placed: bool) -> u64 {
        if placed { lsn } else { lsn.saturating_add(self.segment_bytes) }
    }

    /// A value that the log has for a key on a page of this sort; `new`: written for itself, and not along with its page.
    fn item(
        &mut self,
        message: &Message<'_>,
        page: Option<Holds>,
        (key, value): (&[u8], &[u8]),
        place: Place,
        new: bool,
    ) {
        let lsn = message.lsn;
        match (page, what_is(key, value)) {
            (_, Some(Holds::Pieces)) => {
                self.records += 1;
                self.piece(key, Sure::Proven, place);
            }
            (Some(Holds::Chunks), _) if key.len() == PIECE_KEY_BYTES => {
                self.records += 1;
                let sure = match (message.holds, new) {
                    (true, false) => Sure::Named,
                    (true, true) => Sure::Likely,
                    (false, _) => Sure::Torn,
                };
                self.piece(key, sure, place);
            }
            (_, Some(Holds::Data)) | (Some(Holds::Data), Some(Holds::Entries)) => {
                let stated = self.stated(message, place);
                self.entry(None, (key, value), stated);
            }
            (_, Some(Holds::Entries)) => {
                let stated = self.stated(message, place);
                self.entry(Some(message.page), (key, value), stated);
            }
            (_, Some(Holds::Changes)) => {
                self.records += 1;
                self.row(key, value, lsn, new);
                self.changes.state(key, lsn, place);
            }
            (_, Some(Holds::Meta)) => {
                self.records += 1;
                if key == meta::SUMMARY {
                    self.summary(lsn, value);
                }
            }
            (_, Some(Holds::Expiry)) => self.records += 1,
            (Some(Holds::Data | Holds::Entries), _) => {
                let last = self.unread.entry(key.to_vec()).or_default();
                *last = lsn.max(*last);
            }
            _ => {}
        }
    }

    /// An entry, of a page that is undecided if one is named.
    fn entry(&mut self, undecided: Option<u64>, item: (&[u8], &[u8]), stated: Stated) {
        self.records += 1;
        let tree = match undecided {
            Some(page) => self.undecided.entry(page).or_default(),
            None => &mut self.data,
        };
        newer_of_both(tree, (&self.file, self.segment_bytes), item, stated);
    }

    /// An entry whose name was found out.
    pub fn adopt(&mut self, kind: Kind, item: (&[u8], &[u8]), stated: Stated) {
        let tree = match kind {
            Kind::Data => &mut self.data,
            Kind::Membership => &mut self.membership,
        };
        newer_of_both(tree, (&self.file, self.segment_bytes), item, stated);
    }

    fn piece(&mut self, key: &[u8], sure: Sure, place: Place) {
        let Some(piece) = read_piece_key(key) else { return };
        let places = self.pieces.entry(piece).or_default();
        let before = places.partition_point(|(known, _)| *known < sure);
        places.insert(before, (sure, place));
        places.truncate(PIECE_COPIES_MAX);
    }

    fn row(&mut self, key: &[u8], value: &[u8], lsn: u64, new: bool) {
        let Ok(row) = read_row(key, value) else { return };
        if row.first.origin == REPAIR {
            return;
        }
        let origin: NodeId = row.first.origin;
        for event in row.events {
            let named = Named { dot: Dot::new(origin, event.seq), lsn: if new { lsn } else { 0 } };
            let known = self.named.entry((event.kind, event.key)).or_default();
            match known.iter_mut().find(|known| known.dot.origin == origin) {
                Some(known) if known.dot.seq < event.seq => *known = named,
                Some(known) if known.dot.seq == event.seq => known.lsn = known.lsn.max(named.lsn),
                Some(_) => {}
                None => known.push(named),
            }
        }
    }

    fn summary(&mut self, lsn: u64, bytes: &[u8]) {
        match &mut self.summary {
            Some(newest) if newest.bytes == bytes => {
                newest.lsn = newest.lsn.min(lsn);
                newest.last = newest.last.max(lsn);
            }
            Some(newest) if newest.last > lsn => {}
            newest => *newest = Some(Summarised { last: lsn, lsn, bytes: bytes.to_vec() }),
        }
    }

    fn link(&mut self, message: &Message<'_>, link: Link<'_>) {
        let Message { lsn, placed, page, body, holds, .. } = *message;
        let leaf = self.leaves.get_mut(&page).filter(|leaf| leaf.lsn < lsn);
        let (key, of) = match (&leaf, &link) {
            (_, Link::Merge) => return,
            (Some(leaf), Link::Set(rest, _) | Link::Del(rest)) => {
                (Some([&leaf.prefix, *rest].concat()), leaf.holds)
            }
            (None, _) => (None, None),
        };
        if let Some(leaf) = leaf {
            leaf.last = leaf.last.max(lsn);
        }
        match link {
            Link::Set(rest, at) => {
                let place = Place { at: message.at + at.start as u64, bytes: at.len() as u32 };
                let value = &body[at];
                let what = key.as_ref().and_then(|key| what_is(key, value));
                let piece = key.as_ref().is_some_and(|key| key.len() == PIECE_KEY_BYTES)
                    && matches!(of, Some(Holds::Chunks) | None);
                match key {
                    Some(key) if what.is_some() || piece => {
                        let page_holds =
                            if piece && what.is_none() { Some(Holds::Chunks) } else { of_both(of, what) };
                        self.item(message, page_holds, (&key, value), place, true);
                        if let Some(leaf) = self.leaves.get_mut(&page).filter(|_| holds) {
                            leaf.holds = page_holds;
                        }
                    }
                    // It may be that the page was given back and is another one by now: where that was said is lost then, and
                    // how the key begins is not known any more.
                    _ if holds && !value.is_empty() => {
                        let rest = rest.to_vec();
                        self.orphans.push(Orphan { page, lsn, placed, rest, place: Some(place) });
                    }
                    _ => {}
                }
            }
            Link::Del(rest) if holds => match (key, of) {
                (Some(key), Some(Holds::Data)) => self.data.remove(key, lsn),
                (Some(key), Some(Holds::Membership)) => self.membership.remove(key, lsn),
                (Some(key), Some(Holds::Changes)) => self.changes.remove(key, lsn),
                (Some(_), Some(Holds::Chunks | Holds::Pieces | Holds::Expiry | Holds::Meta)) => {}
                (Some(key), Some(Holds::Entries) | None) => {
                    self.undecided(page).remove(key, lsn);
                }
                (None, _) => {
                    self.orphans.push(Orphan { page, lsn, placed, rest: rest.to_vec(), place: None })
                }
            },
            Link::Del(_) | Link::Merge => {}
        }
    }

    /// Of a node whose check does not hold, what can prove itself.
    fn torn_node(&mut self, message: &Message<'_>, node: &Node<'_>) {
        let Data::Torn(begin) = node.data else { return };
        let body = message.body;
        let keys: Vec<Vec<u8>> = node.keys.iter().map(|key| [node.prefix, key].concat()).collect();
        let mut hunted = self.hunted;
        let proven = |key: usize, at: std::ops::Range<usize>| {
            hunted += at.len() as u64;
            at.len() <= ITEM_BYTES_MAX
                && hunted <= SALVAGE_HUNT_BYTES
                && what_is(&keys[key], &body[at]).is_some_and(|what| what != Holds::Expiry)
        };
        let mut found = sledlog::proven_values(body, (begin, keys.len()), proven);
        self.hunted = hunted;
        let what = |(key, at): &(usize, std::ops::Range<usize>)| what_is(&keys[*key], &body[at.clone()]);
        let mut holds = found.iter().fold(None, |page, item| of_both(page, what(item)));
        if found.is_empty() && keys.iter().all(|key| key.len() == PIECE_KEY_BYTES) {
            // Pieces prove nothing by themselves; the value that they make up will.
            found = sledlog::likely_values(body, (begin, keys.len()));
            holds = Some(Holds::Chunks);
        }
        for (key, at) in &found {
            let place = Place { at: message.at + at.start as u64, bytes: at.len() as u32 };
            self.item(message, holds, (&keys[*key], &body[at.clone()]), place, false);
        }
        // One that held proves how all of them begin.
        if matches!(holds, Some(Holds::Data | Holds::Entries)) {
            for key in (0..keys.len()).filter(|key| !found.iter().any(|(found, _)| found == key)) {
                let last = self.unread.entry(keys[key].clone()).or_default();
                *last = message.lsn.max(*last);
            }
        }
    }
}

/// Has the tree take in an entry. Where the order of the log does not tell which of two is the newer one, what they have seen of
/// each other does.
fn newer_of_both(
    tree: &mut Tree,
    (file, segment_bytes): (&File, u64),
    (key, value): (&[u8], &[u8]),
    mut stated: Stated,
) {
    if let Some(known) = tree.last_stated(key) {
        let near = known.lsn / segment_bytes == stated.lsn / segment_bytes;
        if near && !(known.placed && stated.placed) {
            let old = read_place(file, known.place);
            let old = old.and_then(|bytes| codec::decode_entry(key, &bytes).ok());
            let lsn = known.lsn.max(stated.lsn);
            match (old, codec::decode_entry(key, value)) {
                (Some(old), Ok(new)) if is_newer(&old, &new) => known.moved_to(lsn),
                _ => stated.moved_to(lsn),
            }
        }
    }
    tree.put(key, stated);
}

/// Has the first of two entries of a key seen more than the other?
fn is_newer(one: &Entry, other: &Entry) -> bool {
    let seen = |one: &Entry, other: &Entry| one.context().covers_all(other.context());
    match (seen(one, other), seen(other, one)) {
        (true, false) => true,
        (false, true) => false,
        // Some of it was forgotten: then the times of the writes tell.
        _ => {
            let latest = |entry: &Entry| entry.versions().iter().map(|version| version.hlc).max();
            latest(one) > latest(other)
        }
    }
}

/// The largest item that proves itself.
const ITEM_BYTES_MAX: usize = CHUNK_BYTES + PIECE_HEAD_BYTES;
const _: () = assert!(ENTRY_BYTES_MAX <= ITEM_BYTES_MAX);
/// Origin, seq and index.
const PIECE_KEY_BYTES: usize = 20;
/// Copies of a piece that are remembered: more than one, for it may be damaged or not this piece at all.
const PIECE_COPIES_MAX: usize = 6;

/// What an item is, if it proves so itself.
pub fn what_is(key: &[u8], value: &[u8]) -> Option<Holds> {
    // First, for the bytes of a row may make an entry too. No text has such a number in its second half.
    let event = read_change_key(key).is_ok_and(|first| first.seq <= SEQ_MAX);
    if event && read_row(key, value).is_ok() {
        return Some(Holds::Changes);
    }
    if codec::skim_entry(key, value, |_, _| {}).is_ok() {
        // A member's id has 8 bytes.
        return Some(if key.len() == 8 { Holds::Entries } else { Holds::Data });
    }
    if key.len() == PIECE_KEY_BYTES && codec::decode_piece(key, value).is_ok() {
        return Some(Holds::Pieces);
    }
    let known = [meta::FORMAT, meta::NODE, meta::CLUSTER, meta::LEFT, meta::FORMER, meta::BIRTH];
    match key {
        meta::SUMMARY => codec::decode_summary(value).is_ok().then_some(Holds::Meta),
        _ if known.contains(&key) || key == meta::BACK_TO || key == meta::ARRIVING => Some(Holds::Meta),
        _ if value.is_empty() && read_expiry_key(key).is_ok() => Some(Holds::Expiry),
        _ => None,
    }
}

/// What a page holds, one of whose items is this.
fn of_both(page: Option<Holds>, item: Option<Holds>) -> Option<Holds> {
    match (page, item) {
        (Some(Holds::Entries), Some(Holds::Data)) => item,
        (None, _) => item,
        _ => page,
    }
}
