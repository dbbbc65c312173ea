//! A stopped node's directory, for whoever wants to know what is in it. Not a byte of it is changed.
//!
//! sled writes as it opens, so what is opened is a private copy. Nothing is recovered and nothing proven here: what does not
//! hold is what its reader wants to see. It must never be used to serve anything.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::aside::is_aside;
use super::codec::{self, Junk, Row, Summary};
use super::directory::Directory;
use super::error::{Error, UNTOUCHED};
use super::layout::{NEXT_STORE, no_links};
use super::lock::{self, Tenant};
use super::manifest::{self, Manifest};
use super::private::PrivateCopy;
use super::recover::open_sled;
use super::trees::{Trees, expiry_key, meta, piece_key, pieces_of, read_piece_key, read_row};
use super::{migrate, progress};
use crate::replica::{Dot, Entry, Kind, NodeId, Value, Version};

/// An open copy of a directory.
pub struct Offline {
    // In this order they go: sled lets go of its files before they do.
    trees: Trees,
    /// What the directory says of itself.
    pub manifest: Manifest,
    /// Bytes of the files, the ballast too.
    pub disk_bytes: u64,
    /// Why a node does not open it, if it was opened all the same.
    pub refused: Option<String>,
    _directory: Directory,
    copy: PrivateCopy,
}

/// Who a node is and how far it got.
#[derive(Debug)]
pub struct About {
    /// Its id.
    pub node: NodeId,
    /// Its cluster; nobody's id when it belongs to none.
    pub cluster: NodeId,
    /// The cluster that it left.
    pub left: Option<NodeId>,
    /// The ids under which it wrote before it was found to be set back and that may still be members, the last one last.
    pub former: Vec<NodeId>,
    /// What the last commit left.
    pub summary: Summary,
    /// Events that were committed, as a witness beside the log has it; `None` when that one is missing or damaged.
    pub witness: Option<u64>,
}

/// What a tree takes.
#[derive(Debug)]
pub struct TreeSize {
    /// Its name.
    pub name: String,
    /// Rows.
    pub items: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl TreeSize {
    /// Of this tree, all of which is read.
    pub fn of(name: String, tree: &sled::Tree) -> Result<TreeSize, Error> {
        let mut size = TreeSize { name, items: 0, bytes: 0 };
        for item in tree.iter() {
            let (key, value) = item?;
            size.items += 1;
            size.bytes += (key.len() + value.len()) as u64;
        }
        Ok(size)
    }
}

impl Offline {
    /// Opens a copy of `dir`, made in `work_dir` under a `name` of its own; `told` hears how many bytes are copied, and of how
    /// many. Refused when a process uses the directory, or there is no room for the copy; damaged where a node would not open
    /// it: what sled makes of that is a part of what was there, and looks whole.
    pub fn open(
        dir: &Path,
        (work_dir, name): (&Path, u64),
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<Offline, Error> {
        Offline::open_before(dir, None, (work_dir, name), told)
    }

    /// Opens one that a node would not open as well, as far as it goes: for whoever tells everything that is wrong with it.
    pub fn open_anyway(
        dir: &Path,
        work: (&Path, u64),
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<Offline, Error> {
        Offline::open_with(dir, None, work, told, true)
    }

    /// The same, of one that is to be opened together with `another`: refused as well when there is no room for copies of both.
    pub fn open_before(
        dir: &Path,
        another: Option<&Path>,
        work: (&Path, u64),
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<Offline, Error> {
        Offline::open_with(dir, another, work, told, false)
    }

    fn open_with(
        dir: &Path,
        another: Option<&Path>,
        (work_dir, name): (&Path, u64),
        told: &mut dyn FnMut(u64, u64),
        anyway: bool,
    ) -> Result<Offline, Error> {
        let manifest = manifest::served(dir).map_err(|error| advised(error, dir))?;
        let disk_bytes = files(dir)?.iter().map(|(_, bytes)| bytes).sum();
        let copy = copy(dir, another, (work_dir, name), told)?;
        let ours = |error: Error| match named(error, copy.path(), dir) {
            Error::Damaged(why) if !why.contains(UNTOUCHED) => {
                Error::Damaged(format!("{why}; only a copy was opened, and {UNTOUCHED}"))
            }
            error => error,
        };
        let mut directory = Directory::claim(copy.path()).map_err(ours)?;
        let refused = match directory.check().map_err(ours) {
            Err(Error::Damaged(why)) if anyway => Some(why),
            Err(error) => return Err(advised(error, dir)),
            Ok(()) => None,
        };
        directory.repair().map_err(ours)?;
        let db = open_sled(&directory, CACHE_BYTES).map_err(|error| match &refused {
            // What was seen before says more than what sled makes of it.
            Some(why) => Error::Damaged(why.clone()),
            None => ours(error),
        })?;
        // In the copy's own place: that is where room may be lacking.
        let migrated = migrate::run(&db, &mut directory, SPARE_BYTES, &|| db.flush());
        migrated.map_err(|error| match error {
            Error::Refused(_) => named(error, copy.path(), work_dir),
            error => ours(error),
        })?;
        let trees = Trees::of(db).map_err(ours)?;
        Ok(Offline { trees, manifest, disk_bytes, refused, _directory: directory, copy })
    }

    /// Who the node is and how far it got.
    pub fn about(&self) -> Result<About, Error> {
        let id = |name| Ok::<_, Error>(self.trees.id_if_any(name)?.map(NodeId));
        Ok(About {
            node: NodeId(self.trees.id(meta::NODE)?),
            cluster: NodeId(self.trees.id(meta::CLUSTER)?),
            left: id(meta::LEFT)?,
            former: self.trees.former()?,
            summary: self.trees.summary()?,
            witness: progress::read(self.copy.path()),
        })
    }

    /// What each tree takes.
    pub fn sizes(&self) -> Result<Vec<TreeSize>, Error> {
        let Trees { data, membership, changes, pieces, expiry, meta, .. } = &self.trees;
        let trees = [
            ("data", data),
            ("membership", membership),
            ("changes", changes),
            ("pieces", pieces),
            ("expiry", expiry),
            ("meta", meta),
        ];
        trees.into_iter().map(|(name, tree)| TreeSize::of(name.into(), tree)).collect()
    }

    /// Every entry of a kind whose key begins so and comes after that one, by key, until `each` says `false`; `None`: its bytes
    /// are not what was written.
    pub fn entries<E: From<Error>>(
        &self,
        kind: Kind,
        from: (&[u8], Option<&[u8]>),
        mut each: impl FnMut(&[u8], Option<Entry>) -> Result<bool, E>,
    ) -> Result<(), E> {
        for item in self.scan(kind, from) {
            let (key, entry) = item?;
            if !each(&key, entry)? {
                break;
            }
        }
        Ok(())
    }

    /// The same, one after the other.
    pub fn scan(
        &self,
        kind: Kind,
        (prefix, after): (&[u8], Option<&[u8]>),
    ) -> impl Iterator<Item = Result<(Vec<u8>, Option<Entry>), Error>> {
        self.trees.range(kind, prefix, after).map(|item| {
            let (key, bytes) = item?;
            Ok((key.to_vec(), codec::decode_entry(&key, &bytes).ok()))
        })
    }

    /// What a key holds; `None` when nothing is known of it.
    pub fn entry(&self, kind: Kind, key: &[u8]) -> Result<Option<Entry>, Error> {
        let bytes = self.trees.of_kind(kind).get(key)?;
        let decode = |bytes: sled::IVec| {
            codec::decode_entry(key, &bytes).map_err(|Junk| super::trees::damaged_entry(kind, key))
        };
        bytes.map(decode).transpose()
    }

    /// A version's text; `None` when pieces of it are missing or damaged: [`Offline::faults`] names them.
    pub fn text(&self, version: &Version) -> Result<Option<Vec<u8>>, Error> {
        match self.trees.text(version) {
            Err(Error::Damaged(_)) => Ok(None),
            text => text,
        }
    }

    /// What is wrong with a version's text.
    pub fn faults(&self, version: &Version) -> Result<Vec<Fault>, Error> {
        let Value::Chunked { bytes, .. } = version.value else { return Ok(Vec::new()) };
        let mut faults = Vec::new();
        for index in 0..pieces_of(bytes as usize) {
            let key = piece_key(version.dot, index);
            match self.trees.pieces.get(key).map_err(Error::from) {
                Ok(Some(piece)) if codec::decode_piece(&key, &piece).is_ok() => {}
                Ok(None) => faults.push(Fault::Missing(index)),
                Ok(Some(_)) | Err(Error::Damaged(_)) => faults.push(Fault::Damaged(index)),
                Err(error) => return Err(error),
            }
        }
        if faults.is_empty() && self.text(version)?.is_none() {
            faults.push(Fault::Whole);
        }
        Ok(faults)
    }

    /// Every row of the log, by origin and number; `None`: its bytes are not what was written.
    pub fn rows<E: From<Error>>(
        &self,
        mut each: impl FnMut(&[u8], Option<Row>) -> Result<bool, E>,
    ) -> Result<(), E> {
        for item in self.trees.changes.iter() {
            let (key, bytes) = item.map_err(Error::from)?;
            if !each(&key, read_row(&key, &bytes).ok())? {
                break;
            }
        }
        Ok(())
    }

    /// Every piece of a large value, by version and index; `None`: its key names none.
    pub fn pieces<E: From<Error>>(
        &self,
        mut each: impl FnMut(&[u8], Option<(Dot, u32)>) -> Result<(), E>,
    ) -> Result<(), E> {
        for item in self.trees.pieces.iter() {
            let (key, _) = item.map_err(Error::from)?;
            each(&key, read_piece_key(&key))?;
        }
        Ok(())
    }

    /// Does the expiry index know of this time of a key?
    pub fn expires(&self, at_ms: u64, kind: Kind, key: &[u8]) -> Result<bool, Error> {
        Ok(self.trees.expiry.contains_key(expiry_key(at_ms, kind, key))?)
    }
}

/// What is wrong with a large value. Pieces are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This piece is not there.
    Missing(u32),
    /// This piece is not what was written.
    Damaged(u32),
    /// Each piece is one that was written, but they do not make up this value.
    Whole,
}

/// The names of files in a directory that sled never syncs.
pub fn blobs(dir: &Path) -> Result<Vec<String>, Error> {
    let blobs = dir.join("store/blobs");
    let found = if blobs.exists() { files(&blobs)? } else { Vec::new() };
    Ok(found
        .iter()
        .map(|(path, _)| path.strip_prefix(&blobs).unwrap_or(path).display().to_string())
        .collect())
}

/// The page cache of an offline store: scans read each page once.
const CACHE_BYTES: u64 = 64 << 20;
/// Room that a copy leaves free, for what sled writes as it opens.
const SPARE_BYTES: u64 = 64 << 20;
/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// All files below a directory, by name, with their lengths.
pub fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    let failed = |path: &Path, e: &io::Error| Error::of_files("read", path, e);
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = todo.pop() {
        for file in fs::read_dir(&folder).map_err(|e| failed(&folder, &e))? {
            let path = file.map_err(|e| failed(&folder, &e))?.path();
            let about = fs::symlink_metadata(&path).map_err(|e| failed(&path, &e))?;
            match about.is_dir() {
                true => todo.push(path),
                false if about.is_file() => found.push((path, about.len())),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a copy of a directory has: its files, by name, with their lengths.
fn copied(dir: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    // The lock is for processes, the ballast for full disks, the rest of a compaction for nobody, and what was moved aside is
    // a directory of its own.
    let left_out = |path: &Path| {
        let top = path.strip_prefix(dir).ok().and_then(|within| within.iter().next()).unwrap_or_default();
        ["LOCK", "BALLAST", NEXT_STORE].iter().any(|name| top == *name) || is_aside(&dir.join(top))
    };
    Ok(files(dir)?.into_iter().filter(|(path, _)| !left_out(path)).collect())
}

/// What else there is to look with, where a directory is damaged.
fn advised(error: Error, dir: &Path) -> Error {
    match error {
        Error::Damaged(why) => Error::Damaged(format!(
            "{why}. What is wrong with it: DynaRust inspect {0} verify; what can be read of it: DynaRust inspect {0} salvage \
             --out FILE",
            dir.display()
        )),
        error => error,
    }
}

/// Makes a copy, with room for one of `another` directory too.
pub fn copy(
    dir: &Path,
    another: Option<&Path>,
    (work_dir, name): (&Path, u64),
    told: &mut dyn FnMut(u64, u64),
) -> Result<PrivateCopy, Error> {
    // Held, so that no node starts on it meanwhile.
    let _lock = unused(dir)?;
    no_links(dir)?;
    let bytes = |files: &[(PathBuf, u64)]| files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let files = copied(dir)?;
    let total = bytes(&files);
    let another = another.map(|dir| Ok::<_, Error>((dir, bytes(&copied(dir)?)))).transpose()?;
    let refuse = |e: io::Error| {
        Error::Refused(format!("can't make a copy in {}: {e}; give another --work-dir", work_dir.display()))
    };
    let within = |dir: &&Path| Some(work_dir.canonicalize().ok()?.starts_with(dir.canonicalize().ok()?));
    if let Some(changed) =
        [Some(dir), another.map(|(dir, _)| dir)].into_iter().flatten().find(|dir| within(dir) == Some(true))
    {
        return Err(Error::Refused(format!(
            "a copy in {} would change {}, which is to stay as it is: give another --work-dir",
            work_dir.display(),
            changed.display()
        )));
    }
    let copy = PrivateCopy::make((work_dir, name)).map_err(refuse)?;
    let mut done = 0;
    for (path, bytes) in &files {
        let within = path.strip_prefix(dir).unwrap_or(path);
        let to = copy.path().join(within);
        fs::create_dir_all(to.parent().unwrap_or(copy.path())).map_err(refuse)?;
        let mut from = File::open(path).map_err(|e| Error::of_files("read", path, &e))?;
        let mut to = File::create_new(&to).map_err(refuse)?;
        // Where the file system can, a copy takes no time and no room.
        if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
            let room = room(work_dir)?;
            let more = another.map_or(0, |(_, bytes)| bytes + SPARE_BYTES);
            if room < total - done + SPARE_BYTES + more {
                let other = another.map(|(dir, bytes)| format!(", one of {} takes {bytes}", dir.display()));
                return Err(Error::Refused(format!(
                    "a copy of {} takes {} more bytes{}, and {} more are to stay free, but {} has {room}: give another \
                     --work-dir",
                    dir.display(),
                    total - done,
                    other.unwrap_or_default(),
                    SPARE_BYTES * if another.is_some() { 2 } else { 1 },
                    work_dir.display()
                )));
            }
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                let read = from.read(&mut buffer).map_err(|e| Error::of_files("read", path, &e))?;
                if read == 0 {
                    break;
                }
                to.write_all(&buffer[..read]).map_err(refuse)?;
                done += read as u64;
                told(done.min(total), total);
            }
        } else {
            done += bytes;
        }
        done = done.min(total);
    }
    // sled looks for it, and it may be empty.
    fs::create_dir_all(copy.path().join("store/blobs")).map_err(refuse)?;
    Ok(copy)
}

/// Free bytes of the file system.
fn room(path: &Path) -> Result<u64, Error> {
    let found = rustix::fs::statvfs(path).map_err(|e| Error::of_files("look at", path, &e.into()))?;
    Ok(found.f_bavail * found.f_frsize)
}

/// The lock of a directory that nobody uses, if there is one.
pub fn unused(dir: &Path) -> Result<Option<File>, Error> {
    let path = dir.join("LOCK");
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::of_files("read", &path, &e)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::Error(e)) => Err(Error::of_files("lock", &path, &e)),
        Err(TryLockError::WouldBlock) => Err(Error::Refused(match lock::tenant(dir) {
            Some(Tenant { pid, address: Some(address), .. }) => format!(
                "{} is in use by process {pid}: stop it first, or ask it: curl http://{address}/stats, /membership, /conflicts \
                 or /key/KEY",
                dir.display()
            ),
            Some(Tenant { pid, .. }) => {
                format!("{} is in use by process {pid}: stop it first, or wait for its end", dir.display())
            }
            None => format!("{} is in use by another process: stop it first", dir.display()),
        })),
    }
}

/// The same error, told of the directory and not of its copy.
fn named(error: Error, copy: &Path, dir: &Path) -> Error {
    let told = |text: String| text.replace(&copy.display().to_string(), &dir.display().to_string());
    match error {
        Error::Refused(text) => Error::Refused(told(text)),
        Error::Damaged(text) => Error::Damaged(told(text)),
        Error::Failed(text) => Error::Failed(told(text)),
    }
}
