//! Rewrites a stopped node's store into a fresh one: sled's files grow to several times what is in them, and never shrink.
//!
//! 1. The old store is opened, mended and proven as a node's start does it: what that would drop is dropped, and what it would
//!    refuse is refused.
//! 2. Every row of every tree goes into a fresh store beside it, which is closed, opened again and compared row by row.
//! 3. When all of that is on the disk the two change places in one step, and the old one is removed.
//!
//! A crash at any moment leaves a whole store in its place. What is beside it is nobody's, and goes when the directory is
//! claimed the next time. The old store must never go before the fresh one is proven and on the disk.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sled::{Db, IVec, Tree};

use super::changes::Changes;
use super::directory::{self, Directory};
use super::disk::{self, Disk};
use super::durable::{self, end_process};
use super::engine;
use super::error::Error;
use super::manifest;
use super::offline::{TreeSize, files, unused};
use super::recover::{self, open_sled_at};
use super::trees::meta;
use super::watchdog::Watchdog;
use crate::exit::Exit;
use crate::limits::{
    COMMIT_DEADLINE_MS_DEFAULT, COMPACT_BYTES_PER_ROW_BYTE, COMPACT_CACHE_BYTES, COMPACT_FLUSH_BYTES,
    COMPACT_SPARE_BYTES, LOCK_RETRY_MS,
};

/// What a compaction has come to.
#[derive(Debug)]
pub struct Compacted {
    /// Bytes of the directory's files before, the ballast too: as `inspect summary` counts them.
    pub before_bytes: u64,
    /// The same after it. Of a store that was left as it is, both are what it takes now.
    pub after_bytes: u64,
    /// What is in each tree.
    pub trees: Vec<TreeSize>,
    /// The format that it had, and the one that it has: opening it brings it to the newest.
    pub formats: (u32, u32),
}

/// Hears what is under way, how many bytes of rows are done, and of how many.
pub type Told<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Compacts the directory of a stopped node. A store that would not get smaller by a segment is left as it is.
pub fn compact(dir: &Path, told: Told) -> Result<Compacted, Error> {
    let had = manifest::served(dir)?;
    drop(unused(dir)?);
    let mut directory = Directory::claim(dir)?;
    // As it was left: opening a store makes it larger, at times by half a segment and more.
    let store_bytes = bytes_of(&directory.store())?;
    let mut disk = Disk::claim(dir, None)?;
    Beside::make(&directory)?.try_exchange()?;
    let watchdog = Watchdog::start(Duration::from_millis(COMMIT_DEADLINE_MS_DEFAULT))?;
    engine::opening(true);
    let changes = Changes::new(usize::MAX, usize::MAX);
    let found = recover::open(&mut directory, (COMPACT_CACHE_BYTES, &disk), changes, &watchdog, || [0; 2])?;
    engine::opening(false);
    let old = Rows::of(&found.trees.db)?;
    drop(found);
    enough_room(dir, old.bytes(), store_bytes)?;

    let fresh = Beside::make(&directory)?;
    fresh.fill(&directory, &watchdog, &old, told)?;
    let smaller = bytes_of(&fresh.0)? + directory.manifest.segment_bytes as u64 <= store_bytes;
    if smaller {
        fresh.take_the_place_of_the_old(&directory)?;
    }
    drop(fresh);
    disk.keep_ballast();
    // What is beside the store takes the same before and after.
    let after_bytes = bytes_of(dir)?;
    let beside = after_bytes - bytes_of(&directory.store())?;
    let before_bytes = if smaller { store_bytes + beside } else { after_bytes };
    let formats = (had.migrating_from.unwrap_or(had.format), directory.manifest.format);
    Ok(Compacted { before_bytes, after_bytes, trees: old.sizes, formats })
}

/// All rows of a store.
struct Rows {
    /// By name, but the default tree, which every sled has and nobody uses.
    trees: Vec<(String, Tree)>,
    sizes: Vec<TreeSize>,
}

impl Rows {
    fn of(db: &Db) -> Result<Rows, Error> {
        let mut names = db.tree_names();
        names.retain(|name| name != b"__sled__default");
        names.sort();
        let mut rows = Rows { trees: Vec::new(), sizes: Vec::new() };
        for name in names {
            let (text, tree) = (String::from_utf8_lossy(&name).into_owned(), db.open_tree(name)?);
            rows.sizes.push(TreeSize::of(text.clone(), &tree)?);
            rows.trees.push((text, tree));
        }
        Ok(rows)
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|size| size.bytes).sum()
    }
}

/// The directory beside the store; what is in it when this goes, goes with it.
struct Beside(PathBuf);

impl Beside {
    fn make(directory: &Directory) -> Result<Beside, Error> {
        let path = directory.next_store();
        fs::create_dir(&path).map_err(|e| Error::of_files("make", &path, &e))?;
        Ok(Beside(path))
    }

    /// Can this file system do it at all?
    fn try_exchange(&self) -> Result<(), Error> {
        let (one, other) = (self.0.join("one"), self.0.join("other"));
        let made = fs::create_dir(&one).and_then(|()| fs::create_dir(&other));
        made.map_err(|e| Error::of_files("write to", &self.0, &e))?;
        durable::exchange(&one, &other).map_err(|e| self.cant_exchange(&e))?;
        let gone = fs::remove_dir(&one).and_then(|()| fs::remove_dir(&other));
        gone.map_err(|e| Error::of_files("write to", &self.0, &e))
    }

    /// Makes the fresh store and proves it; it is on the disk when this comes back.
    fn fill(&self, directory: &Directory, watchdog: &Watchdog, old: &Rows, told: Told) -> Result<(), Error> {
        let open = || open_sled_at(&self.0, directory.manifest.segment_bytes, COMPACT_CACHE_BYTES);
        let db = open()?;
        let births = Births { old: directory.birth(), fresh: directory::birth(&self.0) };
        let mut done = 0;
        for (name, tree) in &old.trees {
            let to = db.open_tree(name)?;
            for piece in pieces(tree) {
                let piece = piece?;
                for (key, value) in &piece.rows {
                    to.insert(key, births.row(name, key, value))?;
                }
                watchdog.guard(|| db.flush())?;
                room_left(directory.path())?;
                done += piece.bytes;
                told("copying", done, old.bytes());
            }
        }
        watchdog.guard(|| db.flush())?;
        drop(db);
        // What the next start would find.
        let db = open()?;
        compare(old, &Rows::of(&db)?, &births, &mut |done| told("comparing", done, old.bytes()))?;
        drop(db);
        let_go(&self.0)?;
        let blobs = self.0.join("blobs");
        if fs::read_dir(&blobs).map_err(|e| Error::of_files("read", &blobs, &e))?.count() > 0 {
            return Err(Error::Failed(format!(
                "there are files in {}, which sled does not sync",
                blobs.display()
            )));
        }
        directory::sync_store(&self.0)
    }

    fn cant_exchange(&self, e: &io::Error) -> Error {
        let dir = self.0.parent().unwrap_or(&self.0).display();
        Error::Refused(format!(
            "the file system of {dir} can't let two directories change places in one step ({e}), so nothing was changed: \
             move the directory to another one, such as ext4, XFS or btrfs, and compact it there"
        ))
    }

    /// The fresh store, which is on the disk, becomes the store; what is here is the old one then.
    fn take_the_place_of_the_old(&self, directory: &Directory) -> Result<(), Error> {
        let path = directory.path();
        // Its name as well, so that there are two stores on the disk whatever comes of the exchange.
        directory::sync(path).map_err(|e| Error::of_files("sync", path, &e))?;
        durable::exchange(&directory.store(), &self.0).map_err(|e| self.cant_exchange(&e))?;
        if let Err(e) = directory::sync(path) {
            // Which of the two is the store after a power cut is not known: none may go.
            end_process(Exit::Failed, &format!("can't sync {}: {e}; start again", path.display()));
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            log::warn!("can't remove {}: {e}; the next start does it", self.0.display());
        }
    }
}

/// When the files of the two stores were made. The node tells by it whether its directory is a copy.
struct Births {
    old: Option<[u8; 12]>,
    fresh: Option<[u8; 12]>,
}

impl Births {
    /// A row as it is to be in the fresh store: the file that the node knows for its own is the fresh one from now on. Of a
    /// copy it knows another file, and still does.
    fn row(&self, tree: &str, key: &[u8], value: &IVec) -> IVec {
        match (self.old, self.fresh) {
            (Some(old), Some(fresh)) if tree == "meta" && key == meta::BIRTH && *value == old => {
                (&fresh).into()
            }
            _ => value.clone(),
        }
    }
}

/// Some rows of a tree that follow each other.
struct Piece {
    rows: Vec<(IVec, IVec)>,
    bytes: u64,
}

/// All rows of a tree, so many at a time as go between two flushes.
fn pieces(tree: &Tree) -> impl Iterator<Item = Result<Piece, Error>> {
    let mut rows = tree.iter().peekable();
    std::iter::from_fn(move || {
        rows.peek()?;
        let mut piece = Piece { rows: Vec::new(), bytes: 0 };
        while piece.bytes < COMPACT_FLUSH_BYTES as u64 {
            match rows.next() {
                Some(Ok((key, value))) => {
                    piece.bytes += (key.len() + value.len()) as u64;
                    piece.rows.push((key, value));
                }
                Some(Err(e)) => return Some(Err(e.into())),
                None => break,
            }
        }
        Some(Ok(piece))
    })
}

/// Is every row there, as it should be, and no other?
fn compare(old: &Rows, fresh: &Rows, births: &Births, told: &mut dyn FnMut(u64)) -> Result<(), Error> {
    let unlike = |what: &str| {
        Error::Failed(format!(
            "the fresh store is not like the old one, {what} differs: the old one stays as it was"
        ))
    };
    let names = |rows: &Rows| rows.trees.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(old) != names(fresh) {
        return Err(unlike("its list of trees"));
    }
    let mut done = 0;
    for ((name, old), (_, fresh)) in old.trees.iter().zip(&fresh.trees) {
        let mut rows = fresh.iter();
        for row in old.iter() {
            let (key, value) = row?;
            let found = rows.next().transpose()?;
            if found != Some((key.clone(), births.row(name, &key, &value))) {
                return Err(unlike(&format!("the row '{}' of '{name}'", key.escape_ascii())));
            }
            done += (key.len() + value.len()) as u64;
            told(done);
        }
        if rows.next().is_some() {
            return Err(unlike(&format!("the end of '{name}'")));
        }
    }
    Ok(())
}

/// Waits until the threads of a sled whose last handle is gone have let go of its files.
fn let_go(store: &Path) -> Result<(), Error> {
    let path = store.join("db");
    let file = File::open(&path).map_err(|e| Error::of_files("open", &path, &e))?;
    let deadline = Instant::now() + Duration::from_millis(LOCK_RETRY_MS);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(Error::Failed(format!("{} is not let go of: {e}", path.display()))),
        }
    }
}

/// Refuses when there is no room for a second store of so many bytes of rows. It takes no more than the first one does, or is
/// given up.
fn enough_room(dir: &Path, rows_bytes: u64, before_bytes: u64) -> Result<(), Error> {
    let second = before_bytes.min(rows_bytes * COMPACT_BYTES_PER_ROW_BYTE);
    let (free, _) = disk::space(dir)?;
    if free >= second + COMPACT_SPARE_BYTES {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "no room for a second store beside the first of {before_bytes} bytes: it takes about {second}, {COMPACT_SPARE_BYTES} are \
         to stay free, and {} has {free}; make room there, or compact a copy elsewhere and put it in its place",
        dir.display()
    )))
}

/// Stops before the file system is full: sled does not survive that.
fn room_left(dir: &Path) -> Result<(), Error> {
    let (free, _) = disk::space(dir)?;
    if free >= COMPACT_SPARE_BYTES {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the second store is larger than was to be expected, or something else fills {}, where {free} bytes are left: \
         nothing was changed; make room and try again",
        dir.display()
    )))
}

/// Bytes of all files of a store, or of a whole directory.
fn bytes_of(dir: &Path) -> Result<u64, Error> {
    Ok(files(dir)?.iter().map(|(_, bytes)| bytes).sum())
}
