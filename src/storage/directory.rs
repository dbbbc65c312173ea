//! The data directory as files: whose it is, who uses it, what must be on the disk before sled may be trusted.
//!
//! ```text
//! MANIFEST   one line of JSON (format, segment_bytes, state, release, and migrating_from while a step is under way), one line
//!            with its XXH3
//! LOCK       flock while a process uses it; JSON with its pid, the node's id, and the address of one that runs
//! BALLAST    space to give back when the disk is too full for sled to open
//! PROGRESS   how far the commits got, outside of sled's log
//! store/     sled: conf, db, blobs/ (always empty), snap.*
//! store.new/ what a compaction that was cut off has left: the next to claim the directory removes it
//! aside-…/   what --rejoin-empty moved out of the way here, if it could not be moved beside the directory: see aside.rs
//! ```
//!
//! A directory that is not empty and has no manifest is foreign: not a byte of it is changed. A directory is made in
//! the state `creating` and serves only as `ready`; whatever is found in `creating` was never served, so it is made anew.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::aside::is_aside;
use super::error::Error;
use super::guard;
use super::progress::Progress;
use super::sledlog::snapshot_body;
use crate::limits::{BALLAST_BYTES, LOCK_RETRY_MS, SEGMENT_BYTES};
use crate::replica::NodeId;

/// The newest format that this build reads, and the one that it writes.
pub const FORMAT: u32 = super::migrate::NEWEST;

/// What a data directory says of itself.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub struct Manifest {
    /// Number of the layout of the trees.
    pub format: u32,
    /// sled's segment size, fixed when the directory was made.
    pub segment_bytes: usize,
    /// Is it complete?
    pub state: State,
    /// The release that wrote this manifest, so that a refusal can name it.
    pub release: String,
    /// The format that the trees may still have, while they are brought to the other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrating_from: Option<u32>,
}

/// How far the making of a directory got.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing in it was ever served.
    Creating,
    /// It holds acknowledged writes.
    Ready,
}

/// A data directory that this process has locked.
pub struct Directory {
    path: PathBuf,
    lock: File,
    /// What the lock said before it was taken.
    former: Vec<u8>,
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
        let manifest = read_manifest(path)?;
        if manifest.is_none() && !is_empty(path).map_err(refuse)? {
            return Err(Error::Refused(format!(
                "{shown} is not empty and has no MANIFEST: not a data directory of DynaRust; give another with --data-dir"
            )));
        }
        manifest.as_ref().map_or(Ok(()), |manifest| known(path, manifest))?;
        no_links(path)?;
        let (lock, former) = take_lock(path)?;
        // Whoever held the lock until now may have made the directory ready meanwhile.
        let manifest = read_manifest(path)?;
        let fresh = Manifest {
            format: FORMAT,
            segment_bytes: SEGMENT_BYTES,
            state: State::Creating,
            release: env!("CARGO_PKG_VERSION").into(),
            migrating_from: None,
        };
        let mut directory =
            Directory { path: path.to_owned(), lock, former, manifest: manifest.unwrap_or(fresh) };
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
        self.sound().inspect_err(|_| {
            // Who has it is asked of a lock that is held: what it says else is nobody's concern.
            let _ = write(&self.lock, &self.former);
        })
    }

    fn sound(&self) -> Result<(), Error> {
        let store = self.store();
        for name in ["conf", "db"] {
            let length = fs::metadata(store.join(name)).map(|m| m.len()).unwrap_or(0);
            if length == 0 {
                return Err(Error::Damaged(format!("{} is missing or empty", store.join(name).display())));
            }
        }
        let snapshot = snapshot(&store).map_err(|e| Error::of_files("read", &store, &e))?;
        guard::check(&store, self.manifest.segment_bytes, snapshot, Progress::witness(&self.path)?)
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
        tell(&self.lock, Some(address), Some(node.to_string()))
    }

    fn set_state(&mut self, state: State) -> io::Result<()> {
        self.manifest.state = state;
        let line = serde_json::to_string(&self.manifest)?;
        let text = format!("{line}\n{:016x}\n", xxh3_64(line.as_bytes()));
        let next = self.path.join("MANIFEST.new");
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, self.path.join("MANIFEST"))?;
        sync(&self.path)
    }
}

/// Refuses to make a directory within another node's, which may be moved aside, replaced or removed as a whole.
fn not_within_another(path: &Path) -> Result<(), Error> {
    let whole = std::path::absolute(path).unwrap_or(path.to_owned());
    let there = whole.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_default();
    let mut above = there.ancestors().skip(usize::from(whole.exists()));
    match above.find(|above| matches!(read_manifest(above), Ok(Some(_)))) {
        None => Ok(()),
        Some(other) => Err(Error::Refused(format!(
            "{} is within {}, which is a node's data directory: give one beside it with --data-dir",
            path.display(),
            other.display()
        ))),
    }
}

/// The name of [`Directory::next_store`].
pub const NEXT_STORE: &str = "store.new";

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

/// The process that uses a directory.
#[derive(Serialize, Deserialize, Debug)]
pub struct Tenant {
    /// Its process id.
    pub pid: u32,
    /// Where it listens, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::SocketAddr>,
    /// Its node's id, for whoever can't read it from the store any more.
    #[serde(default)]
    pub node: Option<String>,
}

/// Who used this data directory last, or does so now.
pub fn last_tenant(path: &Path) -> Option<Tenant> {
    serde_json::from_str(&fs::read_to_string(path.join("LOCK")).ok()?).ok()
}

/// Who uses this data directory, as it said itself; what a process that is gone has written says nothing.
pub fn tenant(path: &Path) -> Option<Tenant> {
    all_files(path).ok()?;
    holder(&File::open(path.join("LOCK")).ok()?)
}

/// Who holds this lock. One who only reads the directory has said nothing, and is not taken for who wrote last.
fn holder(lock: &File) -> Option<Tenant> {
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => said(lock),
        _ => None,
    }
}

/// What is written in it.
fn said(mut lock: &File) -> Option<Tenant> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Writes into the lock, which this process holds, who that is. A part of it is never left.
fn tell(lock: &File, address: Option<std::net::SocketAddr>, node: Option<String>) -> io::Result<()> {
    let text = serde_json::to_string(&Tenant { pid: std::process::id(), address, node })?;
    write(lock, text.as_bytes()).or_else(|e| lock.set_len(0).and(Err(e)))
}

/// Writes over what is there: on a full disk there is no room for more.
fn write(lock: &File, text: &[u8]) -> io::Result<()> {
    lock.write_all_at(text, 0)?;
    lock.set_len(text.len() as u64)
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

/// The manifest of a directory that a node has served.
pub fn served(dir: &Path) -> Result<Manifest, Error> {
    let shown = dir.display();
    match read_manifest(dir)? {
        None => Err(Error::Refused(format!("{shown} has no MANIFEST: not a data directory of DynaRust"))),
        Some(manifest) if manifest.state == State::Creating => Err(Error::Refused(format!(
            "{shown} was never served: its making did not come to an end, and nothing is in it"
        ))),
        Some(manifest) => known(dir, &manifest).map(|()| manifest),
    }
}

/// Refuses a directory of which a part is elsewhere: who copies it, moves it or makes it anew would take the link for all of it.
pub fn no_links(dir: &Path) -> Result<(), Error> {
    let parts = ["MANIFEST", "PROGRESS", "LOCK", "store", "store/db", "store/conf", "store/blobs"]
        .map(|part| dir.join(part));
    match parts.iter().find(|path| path.is_symlink()) {
        None => Ok(()),
        Some(link) => Err(Error::Refused(format!(
            "{} is a symbolic link, and all of a data directory must be in it: put it in the link's place, or give the \
             directory where all of it is with --data-dir, which may be a link itself",
            link.display()
        ))),
    }
}

/// Refuses a directory whose format only a newer release reads.
pub fn known(dir: &Path, manifest: &Manifest) -> Result<(), Error> {
    if manifest.format <= FORMAT {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{} has format {}, written by release {}; this release ({}) reads up to {FORMAT}: run the newer one",
        dir.display(),
        manifest.format,
        manifest.release,
        env!("CARGO_PKG_VERSION")
    )))
}

/// Refuses a directory in which something else has the name of a file that is about to be opened: a pipe would be waited for
/// without end.
fn all_files(dir: &Path) -> Result<(), Error> {
    for name in ["MANIFEST", "LOCK", "PROGRESS", "store/conf", "store/db"] {
        let path = dir.join(name);
        if fs::metadata(&path).is_ok_and(|about| !about.is_file() && !about.is_dir()) {
            return Err(Error::Refused(format!("{} is no file: put back what was there", path.display())));
        }
    }
    Ok(())
}

pub fn read_manifest(path: &Path) -> Result<Option<Manifest>, Error> {
    all_files(path)?;
    let path = path.join("MANIFEST");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            let what = "is in the place of the data directory, and is none; give another with --data-dir";
            return Err(Error::Refused(format!("can't read {}: a file {what}", path.display())));
        }
        Err(e) => {
            return Err(Error::Refused(format!("can't read {}: {e}; mend its permissions", path.display())));
        }
    };
    let manifest = text.split_once('\n').and_then(|(line, check)| {
        let sound = check.trim_end() == format!("{:016x}", xxh3_64(line.as_bytes()));
        sound.then(|| serde_json::from_str(line).ok()).flatten()
    });
    manifest.map(Some).ok_or_else(|| Error::Damaged(format!("{} is damaged", path.display())))
}

/// Nothing there but what making a directory may have left, what every fresh file system has, or what was moved aside.
pub fn is_empty(path: &Path) -> io::Result<bool> {
    for file in fs::read_dir(path)? {
        let file = file?;
        let made = ["LOCK", "MANIFEST.new", "lost+found"].iter().any(|ours| file.file_name() == *ours);
        if !made && !is_aside(&file.path()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes the lock of a directory, waiting for a moment, and says who has it now; comes with what it said before.
pub fn take_lock(directory: &Path) -> Result<(File, Vec<u8>), Error> {
    let path = directory.join("LOCK");
    let refuse = |e: io::Error| {
        let user = rustix::process::getuid().as_raw();
        Error::Refused(format!(
            "can't lock {}: {e}; make the directory writable for user {user}",
            path.display()
        ))
    };
    let lock =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(refuse)?;
    let deadline = Instant::now() + Duration::from_millis(LOCK_RETRY_MS);
    loop {
        match lock.try_lock() {
            Ok(()) => {
                let mut former = Vec::new();
                let _ = (&lock).read_to_end(&mut former);
                // Which node's it is stays known when the store is damaged.
                let node = serde_json::from_slice(&former).ok().and_then(|tenant: Tenant| tenant.node);
                // On a full disk nobody is named.
                let _ = tell(&lock, None, node);
                return Ok((lock, former));
            }
            Err(TryLockError::Error(e)) => return Err(refuse(e)),
            // A process that was just killed lets go of its lock a moment later.
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let who = match holder(&lock) {
                    Some(Tenant { pid, address: Some(address), .. }) => format!("process {pid} at {address}"),
                    Some(Tenant { pid, .. }) => format!("process {pid}"),
                    None => "another process".into(),
                };
                return Err(Error::Refused(format!(
                    "{} is in use by {who}: stop it, or give another directory with --data-dir",
                    directory.display()
                )));
            }
        }
    }
}

/// The snapshot that sled will read, and before which LSN it has everything.
fn snapshot(store: &Path) -> io::Result<Option<(u64, PathBuf)>> {
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

#[cfg(test)]
mod tests {
    use super::super::offline::unused;
    use super::*;

    #[test]
    fn only_who_holds_a_directory_is_named() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path();
        let claimed = Directory::claim(dir).expect("it is ours");
        claimed.tell("127.0.0.1:1".parse().expect("an address"), NodeId(7)).expect("it can be written");
        let said = unused(dir).expect_err("it is in use").to_string();
        assert!(said.contains("127.0.0.1:1/stats"), "{said}");
        drop(claimed);
        // Whoever works on it next, and listens nowhere.
        let stale = fs::read_to_string(dir.join("LOCK")).expect("a file").replace("\"pid\":", "\"pid\":9");
        fs::write(dir.join("LOCK"), stale).expect("it can be written");
        let claimed = Directory::claim(dir).expect("it is ours");
        let me = format!("in use by process {}: stop it", std::process::id());
        for said in [unused(dir).err(), take_lock(dir).err()] {
            let said = said.expect("it is in use").to_string();
            assert!(said.contains(&me) && !said.contains("127.0.0.1"), "{said}");
        }
        // Which node it is stays known.
        assert_eq!(last_tenant(dir).and_then(|tenant| tenant.node), Some(NodeId(7).to_string()));
        drop(claimed);
        // Who reads changes nothing, and so has not said who it is.
        let reads = unused(dir).expect("nobody uses it");
        let said = take_lock(dir).expect_err("it is in use").to_string();
        assert!(said.contains("in use by another process"), "{said}");
        assert!(tenant(dir).is_none());
        drop(reads);
    }
}
