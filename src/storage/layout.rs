//! What is where in a data directory.
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

use std::fs;
use std::io;
use std::path::Path;

use super::aside::is_aside;
use super::error::Error;

/// Where a compaction makes the store that is to take the place of the other.
pub const NEXT_STORE: &str = "store.new";

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

/// Refuses a directory in which something else has the name of a file that is about to be opened: a pipe would be waited for
/// without end.
pub fn all_files(dir: &Path) -> Result<(), Error> {
    for name in ["MANIFEST", "LOCK", "PROGRESS", "store/conf", "store/db"] {
        let path = dir.join(name);
        if fs::metadata(&path).is_ok_and(|about| !about.is_file() && !about.is_dir()) {
            return Err(Error::Refused(format!("{} is no file: put back what was there", path.display())));
        }
    }
    Ok(())
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
