//! Who uses a data directory.
//!
//! One process at a time holds the lock, and says in the file who it is. What stands there says nothing once it is gone, but for
//! the node's id: whose directory it is stays known when the store is damaged.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::layout::all_files;
use crate::limits::LOCK_RETRY_MS;

/// The process that uses a directory.
#[derive(Serialize, Deserialize, Debug)]
pub struct Tenant {
    /// Its process id.
    pub pid: u32,
    /// Where it listens, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Its node's id, for whoever can't read it from the store any more.
    #[serde(default)]
    pub node: Option<String>,
}

/// The lock of a data directory, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// What it said before it was taken.
    former: Vec<u8>,
}

impl Lock {
    /// Takes it, waiting for a moment, and says who takes it; names who has it when that is somebody else.
    pub fn take(directory: &Path) -> Result<Lock, Error> {
        let path = directory.join("LOCK");
        let refuse = |e: io::Error| {
            let user = rustix::process::getuid().as_raw();
            Error::Refused(format!(
                "can't lock {}: {e}; make the directory writable for user {user}",
                path.display()
            ))
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refuse)?;
        let deadline = Instant::now() + Duration::from_millis(LOCK_RETRY_MS);
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    let mut former = Vec::new();
                    let _ = (&file).rewind().and_then(|()| (&file).read_to_end(&mut former));
                    // Which node's it is stays known when the store is damaged.
                    let node = serde_json::from_slice(&former).ok().and_then(|tenant: Tenant| tenant.node);
                    let lock = Lock { file, former };
                    // On a full disk nobody is named.
                    let _ = lock.tell(None, node);
                    return Ok(lock);
                }
                Err(TryLockError::Error(e)) => return Err(refuse(e)),
                // A process that was just killed lets go of its lock a moment later.
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut told, true) {
                        let who = who(&file);
                        log::info!("{} is in use by {who}: waiting for it to end", directory.display());
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Refused(format!(
                        "{} is in use by {}: stop it, or give another directory with --data-dir",
                        directory.display(),
                        who(&file)
                    )));
                }
            }
        }
    }

    /// Lets people and `healthcheck` find the process that holds it, and where it listens. A part of that is never left.
    pub fn tell(&self, address: Option<SocketAddr>, node: Option<String>) -> io::Result<()> {
        let text = serde_json::to_string(&Tenant { pid: std::process::id(), address, node })?;
        self.write(text.as_bytes()).or_else(|e| self.file.set_len(0).and(Err(e)))
    }

    /// What it said before, as if nobody had come.
    pub fn put_back(&self) {
        // Who has it is asked of a lock that is held: what it says else is nobody's concern.
        let _ = self.write(&self.former);
    }

    /// Writes over what is there: on a full disk there is no room for more.
    fn write(&self, text: &[u8]) -> io::Result<()> {
        self.file.write_all_at(text, 0)?;
        self.file.set_len(text.len() as u64)
    }
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

/// Who holds this lock, in words.
fn who(lock: &File) -> String {
    match holder(lock) {
        Some(Tenant { pid, address: Some(address), .. }) => format!("process {pid} at {address}"),
        Some(Tenant { pid, .. }) => format!("process {pid}"),
        None => "another process".into(),
    }
}

/// Who holds this lock. One who only reads the directory has said nothing, and is not taken for who wrote last.
fn holder(lock: &File) -> Option<Tenant> {
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => said(lock),
        Err(TryLockError::Error(_)) => None,
        Ok(()) => {
            // Of two who wait for it, none may keep the other from it.
            let _ = lock.unlock();
            None
        }
    }
}

/// What is written in it.
fn said(mut lock: &File) -> Option<Tenant> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::offline::unused;
    use super::*;
    use crate::replica::NodeId;

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
        for said in [unused(dir).err(), Lock::take(dir).err()] {
            let said = said.expect("it is in use").to_string();
            assert!(said.contains(&me) && !said.contains("127.0.0.1"), "{said}");
        }
        // Which node it is stays known.
        assert_eq!(last_tenant(dir).and_then(|tenant| tenant.node), Some(NodeId(7).to_string()));
        drop(claimed);
        // Who reads changes nothing, and so has not said who it is.
        let reads = unused(dir).expect("nobody uses it");
        let said = Lock::take(dir).expect_err("it is in use").to_string();
        assert!(said.contains("in use by another process"), "{said}");
        assert!(tenant(dir).is_none());
        drop(reads);
    }
}
