//! What can still be read of a directory, whatever is damaged in it. It never opens it with sled, and changes not a byte of it.
//!
//! 1. `sledlog/` finds every message that holds in `store/db`, and every bad place;
//! 2. `gather.rs` keeps of each key where it was last spoken of (`keys.rs`, `cover.rs`);
//! 3. `structure.rs` settles what only the tree's shape tells, and names links whose page is lost;
//! 4. `doubt.rs` proves by the counts and the digest of the last commit that nothing is missing, or else says of which keys
//!    something newer may have stood in a bad place.
//!
//! Memory grows with the number of keys and pages, never with values: those stay in the file until they are asked for.

mod cover;
mod doubt;
mod gather;
mod keys;
mod structure;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{self, Summary};
use super::error::Error;
use super::manifest::{self, Manifest, State};
use super::sledlog::{BadPlace, Opening, Reach, Segments};
use super::trees::{piece_key, pieces_of, read_row};
use super::{directory, offline, progress};
use crate::limits::{CHUNK_BYTES, SALVAGE_TRIES_MAX, SEGMENT_BYTES, VALUE_BYTES_MAX};
use crate::replica::{Dot, Entry, Kind, Totals, Value, Version};
use doubt::Doubt;
use gather::Gather;
use keys::{Place, Tree};

/// What was found in a directory.
pub struct Salvage {
    file: Arc<File>,
    /// How much of it was read.
    pub read: Read,
    /// Where there is something else than what should be there.
    pub bad: Vec<BadPlace>,
    /// Does what was found come to what the last commit counted?
    pub proven: bool,
    found: Gather,
    summary: Option<Summary>,
    doubt: Doubt,
    /// Do those count that may have gone?
    doubtful: bool,
}

/// How much was read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Bytes of the log file.
    pub bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: usize,
    /// Segments that the file has,
    pub segments: u64,
    /// those of them in which something can be read,
    pub readable: usize,
    /// and those in which there are only zeros.
    pub blank: usize,
    /// Does the file end in the middle of a segment that goes on?
    pub cut: bool,
    /// Records that hold, each as often as it is in the log.
    pub records: u64,
}

/// Is what was found of a key the newest there was?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Something newer is known of, and lost.
    Certain,
    /// Something newer may have stood in a bad place.
    Possible,
}

/// A value of which some bytes are missing.
#[derive(Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Pieces that are missing or damaged, counted from 0; empty: all are there, and do not make up the value.
    pub missing: Vec<u32>,
    /// Of so many.
    pub pieces: u32,
}

impl Salvage {
    /// Reads the log in a directory; `told` hears how many bytes of it are done, and of how many. Refused when a process uses the
    /// directory, or no log is there.
    pub fn of(dir: &Path, told: &mut dyn FnMut(u64, u64)) -> Result<Salvage, Error> {
        let dir = &whole(dir);
        // Held, so that no node starts on it meanwhile.
        let _lock = offline::unused(dir)?;
        let path = log_file(dir)?;
        let failed = |e: std::io::Error| Error::of_files("read", &path, &e);
        let file = Arc::new(File::open(&path).map_err(failed)?);
        let manifest = Manifest::read(dir).ok().flatten();
        // Of what it does not know it would say that it is not there.
        manifest.as_ref().map_or(Ok(()), |manifest| manifest.known(dir))?;
        let segment_bytes = manifest.as_ref().map_or(SEGMENT_BYTES, |manifest| manifest.segment_bytes);
        let segments = Segments::of(&file, segment_bytes).map_err(failed)?;
        // Of what was never finished, nobody knows what it was to become.
        let unfinished = manifest.is_some_and(|manifest| manifest.state == State::Creating);
        let (mut found, mut done) = (Gather::new(file.clone(), segment_bytes), 0);
        let bad = segments.each(
            || {
                told(done, segments.bytes());
                done += segment_bytes as u64;
            },
            |message| found.take(&message),
        );
        let read = Read {
            bytes: segments.bytes(),
            segment_bytes,
            segments: segments.count(),
            readable: segments.readable(),
            blank: segments.blank.len(),
            cut: segments.is_cut(),
            records: found.records,
        };
        if found.records == 0 {
            return Err(Error::Damaged(format!("no record can be read in {}", path.display())));
        }
        let shape = structure::settle(&mut found, &file);
        let summary = found.summary.as_ref().and_then(|last| codec::decode_summary(&last.bytes).ok());
        let doubt = Doubt::default();
        let mut salvage = Salvage { file, read, bad, proven: false, found, summary, doubt, doubtful: false };
        salvage.prove(progress::read(dir).filter(|_| !unfinished), &shape);
        Ok(salvage)
    }

    /// Does what was found come to the counts of the last commit? What does not is put into doubt.
    fn prove(&mut self, witness: Option<u64>, shape: &structure::Shape) {
        let mut equal = self.comes_out();
        if !equal && self.any_doubtful() {
            self.doubtful = true;
            equal = self.comes_out();
        }
        let proven_through = match &self.found.summary {
            Some(summary) if equal => summary.lsn,
            _ => 0,
        };
        self.doubt = Doubt::of(&self.found, &self.bad, shape, proven_through);
        let lost_tail = match &self.summary {
            // Without the witness it may be the commit before the last: between two of them nothing shows that it was cut.
            Some(summary) => witness.is_none_or(|events| progress::events_of(&summary.vv) < events),
            None => true,
        };
        let at_the_end = |place: &BadPlace| place.offset + place.bytes == self.read.bytes;
        let cut = self.read.cut || self.bad.iter().any(at_the_end);
        let unlocated = self.bad.is_empty() || self.read.blank > 0 || cut || self.has_holes(shape);
        if lost_tail || (!equal && unlocated) {
            self.doubt.everything();
        }
        self.proven = equal && self.doubt.is_none();
        // What comes out may be an earlier commit.
        self.doubtful |= !self.proven;
    }

    /// Is what was found what the last commit counted?
    fn comes_out(&self) -> bool {
        let mut totals = Totals::default();
        for kind in [Kind::Data, Kind::Membership] {
            for (key, place) in self.by_place(kind) {
                if let Some(entry) = self.entry(key, place) {
                    totals.add(kind, key, entry.dots());
                }
            }
        }
        self.summary.as_ref().is_some_and(|summary| self.corrected(summary) == totals)
    }

    fn any_doubtful(&self) -> bool {
        let trees = [&self.found.data, &self.found.membership];
        trees.into_iter().any(|tree| tree.names().any(|key| tree.doubtful(key).is_some()))
    }

    /// The newest value of a key, its LSN, and whether it is still there for sure.
    fn newest(&self, kind: Kind, key: &[u8]) -> Option<(u64, Place, bool)> {
        let tree = self.tree(kind);
        let sure = tree.newest(key).map(|(lsn, place)| (lsn, place, true));
        let doubtful = || tree.doubtful(key).filter(|_| self.doubtful);
        sure.or_else(|| doubtful().map(|(lsn, place)| (lsn, place, false)))
    }

    /// Does the shape of the trees name pages of which nothing is there, nor is there a place where they were?
    fn has_holes(&self, shape: &structure::Shape) -> bool {
        let hit = |page: u64| self.bad.iter().any(|place| place.reach == Reach::Page(page));
        let there = |page: &u64| self.found.leaves.contains_key(page) || self.found.inner.contains_key(page);
        shape.trees.keys().any(|page| !there(page) && !hit(*page))
    }

    /// What the last commit counted, and what a unit made of it that was cut off: as at a start.
    fn corrected(&self, summary: &Summary) -> Totals {
        let mut totals = summary.totals;
        if summary.counted {
            return totals;
        }
        let mut told = BTreeSet::new();
        let mut names: Vec<&Vec<u8>> = self.found.changes.names().collect();
        names.sort_unstable();
        for name in names {
            let newest = self.found.changes.newest(name).and_then(|(_, place)| self.bytes(place));
            let Some(row) = newest.and_then(|bytes| read_row(name, &bytes).ok()) else { continue };
            let complete = match row.first.origin {
                codec::REPAIR => row.first.seq <= summary.repairs,
                _ => summary.vv.covers(row.first),
            };
            for event in row.events.into_iter().filter(|_| !complete) {
                let Some(before) = event.before else { continue };
                if told.insert((event.kind, event.key.clone())) {
                    totals.remove(event.kind, &event.key, before.into_iter());
                    let newest = self.newest(event.kind, &event.key);
                    let entry = newest.and_then(|(_, place, _)| self.entry(&event.key, place));
                    totals.add(event.kind, &event.key, entry.unwrap_or_default().dots());
                }
            }
        }
        totals
    }

    /// The summary of the last commit that was found.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// Every entry of a kind that is still there, by key, and whether it may be an old one.
    pub fn entries<E>(
        &self,
        kind: Kind,
        mut each: impl FnMut(&[u8], Entry, Option<Stale>) -> Result<(), E>,
    ) -> Result<(), E> {
        let tree = self.tree(kind);
        let mut names: Vec<&Vec<u8>> = tree.names().collect();
        names.sort_unstable();
        for key in names {
            let Some((lsn, place, sure)) = self.newest(kind, key) else { continue };
            let Some(entry) = self.entry(key, place) else { continue };
            let may_have_gone = (!sure && !self.proven).then_some(Stale::Possible);
            let stale = self.stale((kind, key), lsn, &entry).or(may_have_gone);
            each(key, entry, stale)?;
        }
        Ok(())
    }

    /// Keys of which nothing is left but the name, as far as they may still have been there.
    pub fn names_only(&self) -> BTreeSet<&[u8]> {
        let mut names = BTreeSet::new();
        if self.proven {
            return names;
        }
        let data = &self.found.data;
        for (key, lsn) in &self.found.unread {
            if self.newest(Kind::Data, key).is_none() && *lsn > data.absent(key) {
                names.insert(key.as_slice());
            }
        }
        for ((kind, key), events) in &self.found.named {
            let absent = data.absent(key);
            let after = events.iter().any(|event| event.lsn > absent || absent == 0);
            if *kind == Kind::Data
                && after
                && self.newest(*kind, key).is_none()
                && self.doubt.of_key(key, absent)
            {
                names.insert(key.as_slice());
            }
        }
        names
    }

    fn stale(&self, (kind, key): (Kind, &[u8]), lsn: u64, entry: &Entry) -> Option<Stale> {
        if self.proven {
            return None;
        }
        let committed = |dot: Dot| self.summary.as_ref().is_some_and(|summary| summary.vv.covers(dot));
        let named = self.found.named.get(&(kind, key.to_vec()));
        let newer = named.into_iter().flatten().any(|event| {
            // What everybody has seen of a key is not remembered, so a seq that is not there at all says nothing.
            let seen = entry.context().get(event.dot.origin);
            committed(event.dot) && (event.lsn > lsn || (0 < seen && seen < event.dot.seq))
        });
        let unread = kind == Kind::Data && self.found.unread.get(key).is_some_and(|at| *at > lsn);
        match (newer || unread, self.doubt.of_key(key, lsn)) {
            (true, _) => Some(Stale::Certain),
            (false, true) => Some(Stale::Possible),
            (false, false) => None,
        }
    }

    fn tree(&self, kind: Kind) -> &Tree {
        match kind {
            Kind::Data => &self.found.data,
            Kind::Membership => &self.found.membership,
        }
    }

    /// Every key that has an entry, in the order in which the entries stand in the file.
    fn by_place(&self, kind: Kind) -> Vec<(&[u8], Place)> {
        let tree = self.tree(kind);
        let there = tree.names().filter_map(|key| Some((key.as_slice(), self.newest(kind, key)?.1)));
        let mut places: Vec<(&[u8], Place)> = there.collect();
        places.sort_unstable_by_key(|(_, place)| *place);
        places
    }

    fn bytes(&self, place: Place) -> Option<Vec<u8>> {
        read_place(&self.file, place)
    }

    fn entry(&self, key: &[u8], place: Place) -> Option<Entry> {
        codec::decode_entry(key, &self.bytes(place)?).ok()
    }

    /// A version's text.
    pub fn text(&self, version: &Version) -> Result<Vec<u8>, Incomplete> {
        let (bytes, checksum) = match &version.value {
            Value::Inline(text) => return Ok(text.clone()),
            Value::Chunked { bytes, checksum } => ((*bytes as usize).min(VALUE_BYTES_MAX), *checksum),
        };
        let pieces = pieces_of(bytes);
        let length = |index: u32| (bytes - index as usize * CHUNK_BYTES).min(CHUNK_BYTES);
        let copies: Vec<Vec<Vec<u8>>> =
            (0..pieces).map(|index| self.copies(version.dot, index, length(index))).collect();
        let missing: Vec<u32> = (0..pieces).filter(|index| copies[*index as usize].is_empty()).collect();
        if missing.is_empty() {
            let combinations = copies.iter().fold(1usize, |all, some| all.saturating_mul(some.len()));
            for mut choice in 0..combinations.min(SALVAGE_TRIES_MAX) {
                let mut text = Vec::with_capacity(bytes);
                for some in &copies {
                    text.extend_from_slice(&some[choice % some.len()]);
                    choice /= some.len();
                }
                if xxh3_64(&text) == checksum {
                    return Ok(text);
                }
            }
        }
        Err(Incomplete { missing, pieces })
    }

    /// The different copies of a piece that have the right length: one alone when it proves that it is this piece.
    fn copies(&self, dot: Dot, index: u32, length: usize) -> Vec<Vec<u8>> {
        let mut copies: Vec<Vec<u8>> = Vec::new();
        let known = self.found.pieces.get(&(dot, index)).into_iter().flatten();
        let key = piece_key(dot, index);
        // A link without its page has only the end of the name.
        let nameless = self.found.orphans.iter().filter(|orphan| key.ends_with(&orphan.rest));
        let places = known.map(|(_, place)| *place).chain(nameless.filter_map(|orphan| orphan.place));
        for place in places {
            let stored = place.bytes as usize;
            // Until format 1 a piece had no check, and was its text.
            if stored != length && stored != length + codec::PIECE_HEAD_BYTES {
                continue;
            }
            let Some(bytes) = self.bytes(place) else { continue };
            match codec::decode_piece(&key, &bytes) {
                Ok(text) if text.len() == length => return vec![text.to_vec()],
                _ if stored == length && !copies.contains(&bytes) => copies.push(bytes),
                _ => {}
            }
        }
        copies
    }
}

fn read_place(file: &File, place: Place) -> Option<Vec<u8>> {
    let mut bytes = vec![0; place.bytes as usize];
    file.read_exact_at(&mut bytes, place.at).ok()?;
    Some(bytes)
}

/// Where the log of a node's directory has something else than messages whose checks hold. Not its end: a crash tears what nobody
/// was told of, and what else may be missing there, the witness says.
pub fn bad_places(dir: &Path, told: &mut dyn FnMut(u64, u64)) -> Result<Vec<BadPlace>, Error> {
    let manifest = manifest::served(dir)?;
    let _lock = offline::unused(dir)?;
    let path = log_file(dir)?;
    let failed = |e: std::io::Error| Error::of_files("read", &path, &e);
    let file = File::open(&path).map_err(failed)?;
    let segments = Segments::of(&file, manifest.segment_bytes).map_err(failed)?;
    let (mut done, mut last) = (0, 0);
    let mut bad = segments.each(
        || {
            told(done, segments.bytes());
            done += manifest.segment_bytes as u64;
        },
        |message| {
            if message.holds && message.placed {
                last = last.max(message.lsn);
            }
        },
    );
    if directory::sound(dir, manifest.segment_bytes).is_ok() {
        // Where sled will end it, parts of one commit may stand behind what never came to the disk.
        let (lsn, _) = directory::snapshot(&dir.join("store"))?.unwrap_or_default();
        let end =
            Opening::of(&file, manifest.segment_bytes, lsn).and_then(|log| log.end()).map_err(failed)?;
        last = last.min(end.lsn);
    }
    bad.retain(|place| place.through.is_none_or(|through| through <= last));
    Ok(bad)
}

/// The data directory of which only the store was named: what says how far it got lies beside that.
fn whole(dir: &Path) -> PathBuf {
    let parent = dir.canonicalize().ok().filter(|path| path.ends_with("store"));
    let parent = parent.and_then(|path| path.parent().map(Path::to_owned));
    parent.filter(|parent| parent.join("MANIFEST").exists()).unwrap_or_else(|| dir.to_owned())
}

/// The log of a data directory, or of what is left of one.
fn log_file(dir: &Path) -> Result<PathBuf, Error> {
    for path in [dir.join("store/db"), dir.join("db")] {
        match fs::metadata(&path) {
            Ok(about) if about.is_file() => return Ok(path),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                return Err(Error::of_files("read", &path, &e));
            }
            _ => {}
        }
    }
    let shown = dir.display();
    Err(Error::Damaged(format!(
        "there is no log in {shown}, neither as store/db nor as db: nothing can be read"
    )))
}
