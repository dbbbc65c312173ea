//! The data directory as files: what must be on the disk before sled may be trusted.
//!
//! A directory that is not empty and has no manifest is foreign: not a byte of it is changed. A directory is made in
//! the state `creating` and serves only as `ready`; whatever is found in `creating` was never served, so it is made anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::guard;
use super::layout::{NEXT_STORE, is_empty, no_links};
use super::lock::Lock;
use super::manifest::{FORMAT, Manifest, State};
use super::progress::Progress;
use super::sledlog::snapshot_body;
use crate::limits::BALLAST_BYTES;
use crate::replica::NodeId;

/// A data directory that this process has locked.
pub struct Directory {
    path: PathBuf,
    lock: Lock,
    /// As read or written last.
    pub manifest: Manifest,
}

impl Directory {
    /// Locks the directory, making it when it is not there.
    pub fn claim(path: &Path) -> Result<Directory, Error> {
        let shown = path.display();
        let refuse = |e: io::Error| {
            Error::Refused(format!(
                "can't use the data directory {shown}: {e}; give another with --data-dir or mend its permissions"
            ))
        };
        if !path.join("MANIFEST").exists() {
            not_within_another(path)?;
        }
        if !path.exists() {
            make_durable(path).map_err(refuse)?;
        }
        let manifest = Manifest::read(path)?;
        if manifest.is_none() && !is_empty(path).map_err(refuse)? {
            return Err(Manifest::lacking(path));
        }
        manifest.as_ref().map_or(Ok(()), |manifest| manifest.known(path))?;
        no_links(path)?;
        let lock = Lock::take(path)?;
        // Whoever held the lock until now may have made the directory ready meanwhile.
        let manifest = Manifest::read(path)?;
        let mut directory =
            Directory { path: path.to_owned(), lock, manifest: manifest.unwrap_or_else(Manifest::fresh) };
        directory.clear().map_err(refuse)?;
        if directory.manifest.state == State::Creating {
            directory.set_state(State::Creating).map_err(refuse)?;
            match fs::remove_dir_all(directory.store()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(refuse(e)),
                _ => {}
            }
            make_durable(&directory.store()).map_err(refuse)?;
        }
        Ok(directory)
    }

    /// Where sled lives.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where a compaction makes the store that is to take the place of the other.
    pub fn next_store(&self) -> PathBuf {
        self.path.join(NEXT_STORE)
    }

    /// Removes what a compaction has left that was cut off: before its end a store that never was one, after it the old one.
    fn clear(&self) -> io::Result<()> {
        let left = self.next_store();
        if !left.exists() {
            return Ok(());
        }
        log::info!("removing {}, which a compaction has left that was cut off", left.display());
        // Which of the two is the store must be on the disk before the other one goes.
        sync(&self.path)?;
        fs::remove_dir_all(left)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory as people should read of it: from the root.
    pub fn shown(&self) -> String {
        std::path::absolute(&self.path).unwrap_or(self.path.clone()).display().to_string()
    }

    /// When the file that holds the data was made.
    pub fn birth(&self) -> Option<[u8; 12]> {
        birth(&self.store())
    }

    /// May sled open what was served? If not, not a byte has changed.
    pub fn check(&self) -> Result<(), Error> {
        sound(&self.path, self.manifest.segment_bytes)
            .map_err(Error::untouched)
            .inspect_err(|_| self.lock.put_back())
    }

    /// Makes what is there fit to be opened: a snapshot that was being written when the machine stopped bricks sled,
    /// which takes it for the newest one.
    pub fn repair(&self) -> Result<(), Error> {
        let store = self.store();
        let failed = |e: io::Error| Error::of_files("prepare", &store, &e);
        if self.manifest.state == State::Ready {
            // After a kill the last writes may be in memory only, and sled's new snapshot would rest on them.
            sync(&store.join("db")).map_err(|e| Error::of_files("open", &store.join("db"), &e))?;
        }
        for file in fs::read_dir(&store).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "generating") {
                settle_snapshot(&path).map_err(failed)?;
            }
        }
        sync(&store).map_err(failed)
    }

    /// Puts sled's configuration and all names on the disk; sled itself never does.
    pub fn sync_names(&self) -> Result<(), Error> {
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_store(&self.store())?;
        sync(&self.path).map_err(|e| Error::of_files("sync", &self.path, &e))?;
        // The parent may be someone else's: its sync matters only for the name of a new directory.
        let _ = sync(parent);
        Ok(())
    }

    /// From now on the directory holds what must not be lost.
    pub fn ready(&mut self) -> Result<(), Error> {
        match self.manifest.state {
            State::Ready => Ok(()),
            State::Creating => self.has_format(FORMAT, None),
        }
    }

    /// From now on its trees have this format or the one before it: only who knows both may open it.
    pub fn migrating(&mut self, to: u32) -> Result<(), Error> {
        self.has_format(to, Some(to - 1))
    }

    /// From now on its trees have this format.
    pub fn migrated(&mut self, to: u32) -> Result<(), Error> {
        self.has_format(to, None)
    }

    fn has_format(&mut self, format: u32, migrating_from: Option<u32>) -> Result<(), Error> {
        let release = env!("CARGO_PKG_VERSION").into();
        self.manifest = Manifest { format, release, migrating_from, ..self.manifest };
        self.set_state(State::Ready)
            .map_err(|e| Error::Failed(format!("can't write {}: {e}", self.path.join("MANIFEST").display())))
    }

    /// Lets people and `healthcheck` find the process that uses the directory.
    pub fn tell(&self, address: std::net::SocketAddr, node: NodeId) -> io::Result<()> {
        self.lock.tell(Some(address), Some(node.to_string()))
    }

    fn set_state(&mut self, state: State) -> io::Result<()> {
        self.manifest.state = state;
        self.manifest.write(&self.path)
    }
}

/// Refuses to make a directory within another node's, which may be moved aside, replaced or removed as a whole.
fn not_within_another(path: &Path) -> Result<(), Error> {
    let whole = std::path::absolute(path).unwrap_or(path.to_owned());
    let there = whole.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_default();
    let mut above = there.ancestors().skip(usize::from(whole.exists()));
    match above.find(|above| matches!(Manifest::read(above), Ok(Some(_)))) {
        None => Ok(()),
        Some(other) => Err(Error::Refused(format!(
            "{} is within {}, which is a node's data directory: give one beside it with --data-dir",
            path.display(),
            other.display()
        ))),
    }
}

/// Puts the configuration and the names of the sled in this place on the disk.
pub fn sync_store(store: &Path) -> Result<(), Error> {
    for path in [&store.join("conf"), &store.join("db"), &store.join("blobs"), store] {
        sync(path).map_err(|e| Error::of_files("sync", path, &e))?;
    }
    Ok(())
}

/// When the file was made that holds the data of a store, in seconds since 1970:8 and nanoseconds:4; `None` where the file
/// system does not say.
pub fn birth(store: &Path) -> Option<[u8; 12]> {
    let made = fs::metadata(store.join("db")).and_then(|file| file.created()).ok()?;
    let since = made.duration_since(std::time::UNIX_EPOCH).ok()?;
    let mut birth = [0; 12];
    birth[..8].copy_from_slice(&since.as_secs().to_be_bytes());
    birth[8..].copy_from_slice(&since.subsec_nanos().to_be_bytes());
    Some(birth)
}

/// Gives the ballast back.
pub fn drop_ballast(directory: &Path) {
    let _ = fs::remove_file(directory.join("BALLAST"));
}

/// Takes the ballast, if it is not there. `Err` says why it can't be had; then nothing is left of it.
pub fn take_ballast(directory: &Path) -> io::Result<()> {
    let path = directory.join("BALLAST");
    if fs::metadata(&path).is_ok_and(|m| m.len() == BALLAST_BYTES) {
        return Ok(());
    }
    let made = File::create(&path).and_then(|file| {
        let flags = rustix::fs::FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&file, flags, 0, BALLAST_BYTES)?)
    });
    made.inspect_err(|_| drop_ballast(directory))
}

/// May sled open the store in this directory? Nothing is changed by the look.
pub fn sound(dir: &Path, segment_bytes: usize) -> Result<(), Error> {
    let store = dir.join("store");
    for name in ["conf", "db"] {
        let length = fs::metadata(store.join(name)).map(|m| m.len()).unwrap_or(0);
        if length == 0 {
            return Err(Error::Damaged(format!("{} is missing or empty", store.join(name).display())));
        }
    }
    whole_conf(&store, segment_bytes)?;
    guard::check(&store, segment_bytes, snapshot(&store)?, Progress::witness(dir)?)
}

/// Is sled's configuration what it was? sled only warns when its check does not hold, and takes what it reads.
pub fn whole_conf(store: &Path, segment_bytes: usize) -> Result<(), Error> {
    let path = store.join("conf");
    let bytes = fs::read(&path).map_err(|e| Error::of_files("read", &path, &e))?;
    let whole = bytes.split_last_chunk::<4>().filter(|(text, check)| {
        let size = format!("segment_size: {segment_bytes}\n");
        crc32fast::hash(text) == u32::from_le_bytes(**check) && text.starts_with(size.as_bytes())
    });
    match whole {
        Some(_) => Ok(()),
        None => Err(Error::Damaged(format!(
            "{} is damaged: it is the same in the directory of every node, so put the one of another node in its place, and \
             start again",
            path.display()
        ))),
    }
}

/// The snapshot that sled will read, and before which LSN it has everything.
pub fn snapshot(store: &Path) -> Result<Option<(u64, PathBuf)>, Error> {
    newest(store).map_err(|e| Error::of_files("read", store, &e))
}

fn newest(store: &Path) -> io::Result<Option<(u64, PathBuf)>> {
    let mut last: Option<(u64, PathBuf)> = None;
    for file in fs::read_dir(store)? {
        let path = file?.path();
        // One that is whole will have its name: see below.
        let unnamed = path.extension().is_some_and(|extension| extension == "generating");
        let named = if unnamed { path.with_extension("") } else { path.clone() };
        let lsn = named.extension().and_then(|lsn| u64::from_str_radix(lsn.to_str()?, 16).ok());
        let Some(lsn) = lsn.filter(|_| named.file_stem().is_some_and(|name| name == "snap")) else {
            continue;
        };
        let newer = last.as_ref().is_none_or(|(last, _)| *last < lsn);
        if newer && (!unnamed || snapshot_body(&fs::read(&path)?).is_some()) {
            last = Some((lsn, path));
        }
    }
    Ok(last)
}

/// Finishes or removes a snapshot that still has its name from while it was written.
///
/// sled syncs the snapshot, renames it, and then wipes the segments that it makes superfluous, without a sync of the
/// directory in between. So the power may take the name back and leave the segments wiped: then the store can't be
/// read without this snapshot. One that is whole gets its name. One that is not was never renamed, nothing was wiped
/// because of it, and the one before it is still there.
fn settle_snapshot(path: &Path) -> io::Result<()> {
    if snapshot_body(&fs::read(path)?).is_some() {
        log::warn!("naming {}, a snapshot that was finished but for its name", path.display());
        return fs::rename(path, path.with_extension(""));
    }
    log::warn!("removing {}, a snapshot that was never finished", path.display());
    fs::remove_file(path)
}

/// Makes a directory and all above it, and puts their names on the disk.
fn make_durable(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    fs::create_dir_all(path)?;
    for made in missing {
        let parent = made.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Not ours, perhaps not even readable: then its own file system must do.
        let _ = sync(parent);
    }
    Ok(())
}

/// What was done to this file, or to the names in this directory, is on the disk when this comes back.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
