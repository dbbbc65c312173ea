//! Fills an empty directory with what a backup holds. Until it is finished the directory counts as one that was never served:
//! a crash, or a refusal, leaves nothing that a node would take for data.
//!
//! What comes is taken in by the rules by which a new member is swept. A node that is to be a cluster of its own then takes all
//! of it for its own writing: had it kept the names of another cluster's events without that one's members, the two could
//! never be made one again without loss.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::{self, Junk, Summary};
use super::disk::{self, Disk};
use super::error::Error;
use super::layout::is_empty;
use super::manifest::{Manifest, State};
use super::offline::unused;
use super::progress::Progress;
use super::trees::{Trees, change_key, damaged_piece, meta, piece_key, read_piece_key};
use super::{Inner, Published, Settings, Store};
use crate::limits::{RESTORE_FLUSH_PART, RESTORE_STEP_KEYS};
use crate::metrics::Metrics;
use crate::replica::{Bound, Dot, Entry, Kind, NodeId, Totals, Trees as _, Value, Version, VersionVector};

/// A directory that is being filled.
pub struct Filling {
    store: Store,
    directory: PathBuf,
    /// It was not there before.
    made: bool,
}

impl Filling {
    /// Begins with a directory that is empty or not there. Blocks.
    pub fn begin(settings: &Settings, metrics: Arc<Metrics>) -> Result<Filling, Error> {
        let directory = settings.directory.clone();
        let made = !directory.exists();
        let store = Store::open_as(settings, metrics, State::Creating);
        let store = store.inspect_err(|_| clear_away(&directory, made))?;
        Ok(Filling { store, directory, made })
    }

    /// What takes in what comes.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// From now on the directory is a node's. One that is `alone` is a cluster of its own. When it is to `stop` before that, what
    /// was made goes, and there is nothing. Blocks.
    pub fn finish(self, alone: bool, stop: &dyn Fn() -> bool) -> Result<Option<Published>, Error> {
        let Filling { store, directory, made } = self;
        let done = finish(store, alone, stop);
        if !matches!(done, Ok(Some(_))) {
            clear_away(&directory, made);
        }
        done
    }

    /// It comes to nothing: what was made goes.
    pub fn give_up(self) {
        self.store.close();
        drop(self.store);
        clear_away(&self.directory, self.made);
    }
}

fn finish(store: Store, alone: bool, stop: &dyn Fn() -> bool) -> Result<Option<Published>, Error> {
    store.close();
    let published = store.published();
    let inner = Arc::into_inner(store.0);
    let mut inner = inner.ok_or_else(|| Error::Failed("something still uses the new store".into()))?;
    if alone {
        own(&inner, stop)?;
    }
    inner.trees.db.flush()?;
    if stop() {
        return Ok(None);
    }
    inner.directory.sync_names()?;
    inner.directory.ready()?;
    Ok(Some(Published::clone(&published)))
}

/// Removes what was made in a directory that was never served; `made`: and the directory. What is somebody's stays: what was
/// served, what another process is filling, what was there before and is none of ours.
fn clear_away(dir: &Path, made: bool) {
    let never_served = || match Manifest::read(dir) {
        Ok(Some(manifest)) => manifest.state == State::Creating,
        Ok(None) => is_empty(dir).unwrap_or(false),
        Err(_) => false,
    };
    if !never_served() {
        return;
    }
    let Ok(_lock) = unused(dir) else { return };
    // Asked again, since another process may have finished it before it let go of the lock.
    if !never_served() {
        return;
    }
    // What can't be removed is taken for nothing all the same.
    let _ = match made {
        true => fs::remove_dir_all(dir),
        false => fs::remove_dir_all(dir.join("store")),
    };
    for name in ["PROGRESS", "BALLAST", "MANIFEST", "MANIFEST.new", "LOCK"] {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// All versions get names of this node's; nothing else is known to it. It may stop in the middle.
fn own(inner: &Inner, stop: &dyn Fn() -> bool) -> Result<(), Error> {
    let (trees, me) = (&inner.trees, NodeId(inner.trees.id(meta::NODE)?));
    let reserve_bytes = Disk::claim(inner.directory.path(), None)?.reserve_bytes();
    let mut room = Room { db: &trees.db, directory: inner.directory.path(), reserve_bytes, unflushed: 0 };
    room.look()?;
    let clock = trees.summary()?.clock;
    let (mut after, mut last, mut totals): (Bound, u64, Totals) = (None, 0, Totals::default());
    loop {
        let held = trees.entries_after(after.as_ref(), RESTORE_STEP_KEYS)?;
        let end = held.len() < RESTORE_STEP_KEYS;
        after = held.last().map(|(kind, key, _)| (*kind, key.clone()));
        for (kind, key, entry) in held {
            let entry = match kind {
                Kind::Data => rename(trees, &mut room, me, &mut last, &entry)?,
                Kind::Membership => Entry::default(),
            };
            totals.add(kind, &key, entry.dots());
            let bytes = key.len() + entry.versions().iter().map(inline_bytes).sum::<usize>();
            trees.put_entry(kind, &key, entry)?;
            room.spend(bytes)?;
        }
        if stop() {
            return Ok(());
        }
        if end {
            break;
        }
    }
    trees.changes.clear()?;
    let vv: VersionVector = [Dot::new(me, last)].into_iter().filter(|dot| dot.seq > 0).collect();
    let summary = Summary {
        floor: vv.clone(),
        unit: vv.clone(),
        vv: vv.clone(),
        clock,
        totals,
        counted: false,
        repairs: 0,
    };
    trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
    trees.db.flush()?;
    let progress = Progress::open(inner.directory.path(), false)?;
    progress.note(&vv)?;
    progress.sync()
}

/// Of a version in its entry, about.
fn inline_bytes(version: &Version) -> usize {
    match &version.value {
        Value::Inline(text) => 64 + text.len(),
        Value::Chunked { .. } => 64,
    }
}

/// The room on the disk while all is written once more: sled does not survive a full one.
struct Room<'a> {
    db: &'a sled::Db,
    directory: &'a Path,
    reserve_bytes: u64,
    /// Bytes written since the last look.
    unflushed: u64,
}

impl Room<'_> {
    /// So much was written.
    fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        self.unflushed += bytes as u64;
        if self.unflushed < self.reserve_bytes / RESTORE_FLUSH_PART {
            return Ok(());
        }
        self.unflushed = 0;
        self.db.flush()?;
        self.look()
    }

    fn look(&self) -> Result<(), Error> {
        let (free, _) = disk::space(self.directory)?;
        if free >= self.reserve_bytes {
            return Ok(());
        }
        let (dir, reserve) = (self.directory.display(), self.reserve_bytes);
        Err(Error::Refused(format!(
            "no room in {dir} for all of it, and nothing was made there: while all was given new names, {free} bytes were free, \
             of which {reserve} are to stay so; make room, or give a --data-dir on a larger file system"
        )))
    }
}

/// The same versions under the next names; who won among them wins.
fn rename(trees: &Trees, room: &mut Room, me: NodeId, last: &mut u64, entry: &Entry) -> Result<Entry, Error> {
    let mut versions = Vec::with_capacity(entry.versions().len());
    for version in entry.versions().iter().rev() {
        *last += 1;
        let dot = Dot::new(me, *last);
        if let Value::Chunked { .. } = version.value {
            trees.rename_pieces(room, version.dot, dot)?;
        }
        versions.push(Version { dot, ..version.clone() });
    }
    let seen = versions.iter().map(|version| version.dot).collect();
    Ok(Entry::from_parts(versions, seen))
}

impl Trees {
    /// A large value's pieces go by another version's name, to which their checks are bound.
    fn rename_pieces(&self, room: &mut Room, from: Dot, to: Dot) -> Result<(), Error> {
        for item in self.pieces.scan_prefix(change_key(from)) {
            let (key, piece) = item?;
            let text = codec::decode_piece(&key, &piece).map_err(|Junk| damaged_piece(&key))?;
            let (_, index) = read_piece_key(&key).ok_or_else(|| damaged_piece(&key))?;
            let renamed = piece_key(to, index);
            self.pieces.insert(renamed, codec::encode_piece(&renamed, text))?;
            self.pieces.remove(key)?;
            room.spend(piece.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::tests::settings;
    use super::*;

    fn begin(dir: &Path) -> Result<(), Error> {
        Filling::begin(&settings(dir), Arc::default()).map(Filling::give_up)
    }

    fn names(dir: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(dir).expect("a directory").map(|file| file.expect("a file").file_name()).collect()
    }

    /// The witness can't be made where a directory has its name, which is found when the store is there.
    #[test]
    fn a_filling_that_does_not_begin_leaves_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path();
        drop(Directory::claim(dir).expect("it is ours"));
        fs::create_dir(dir.join("PROGRESS")).expect("a directory");
        assert!(matches!(begin(dir), Err(Error::Refused(_))));
        assert_eq!(names(dir), ["PROGRESS"]);
    }

    #[test]
    fn what_is_somebody_s_stays() {
        let place = tempfile::tempdir().expect("a directory");
        fs::write(place.path().join("letters"), "mine").expect("a file");
        assert!(begin(place.path()).is_err());
        assert_eq!(names(place.path()), ["letters"]);
        let place = tempfile::tempdir().expect("a directory");
        let claimed = Directory::claim(place.path()).expect("it is ours");
        let before = names(place.path());
        clear_away(place.path(), true);
        assert_eq!(names(place.path()), before, "another process is filling it");
        drop(claimed);
        clear_away(place.path(), true);
        assert!(!place.path().exists());
    }
}
