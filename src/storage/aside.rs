//! Moves what is in a directory that does not open out of the way. It must never remove anything, nor stop where a part of it
//! could be taken for the whole.
//!
//! As a rule the directory gets another name beside the old one, in one step. Where that can't be (it is a mount point, or
//! what is above it is not ours), its content moves into a directory within: the manifest last, so that a move that was cut
//! off leaves a directory that is damaged still, and the next one goes on with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{Directory, sync};
use super::disk::Disk;
use super::error::Error;
use super::lock::Lock;
use super::manifest::served;
use super::watchdog::Watchdog;
use super::{Changes, engine, recover};
use crate::limits::{COMMIT_DEADLINE_MS_DEFAULT, OPENS_CACHE_BYTES};

/// Opens a directory as a start does, and mends what that mends. sled may end the process over it: ask in one of its own.
pub fn opens(dir: &Path) -> Result<(), Error> {
    served(dir)?;
    engine::opening(true);
    let mut directory = Directory::claim(dir)?;
    let disk = Disk::claim(dir, None)?;
    let watchdog = Watchdog::start(std::time::Duration::from_millis(COMMIT_DEADLINE_MS_DEFAULT))?;
    let changes = Changes::new(usize::MAX, usize::MAX);
    recover::open(&mut directory, (OPENS_CACHE_BYTES, &disk), changes, &watchdog, || [0; 2]).map(drop)
}

/// Was there ever something in this directory that a start must not lose?
pub fn was_served(dir: &Path) -> bool {
    !matches!(served(dir), Err(Error::Refused(_)))
}

/// Moves all that is in the directory aside, under a name with this time in it, and says where it is. The directory is empty
/// then, or is not there.
pub fn move_aside(dir: &Path, time: &str) -> Result<PathBuf, Error> {
    // Held until all is moved, so that nobody starts on it meanwhile.
    let _lock = Lock::take(dir)?;
    if !dir.join("MANIFEST").exists() {
        // Whatever a move that is cut off leaves is told by it from what is foreign, and so is what was moved.
        fs::File::create(dir.join("MANIFEST")).map_err(|e| Error::of_files("write into", dir, &e))?;
    }
    let whole = std::path::absolute(dir).map_err(|e| Error::of_files("find", dir, &e))?;
    let begun = unfinished(&whole)?;
    if begun.is_none() {
        let mut beside = whole.clone().into_os_string();
        beside.push(format!(".aside-{time}"));
        let beside = PathBuf::from(beside);
        let parent = whole.parent().unwrap_or(&whole);
        match fs::rename(&whole, &beside) {
            Ok(()) => return sync(parent).map(|()| beside).map_err(|e| Error::of_files("sync", parent, &e)),
            Err(e) => {
                log::info!("{} can't be renamed ({e}): its content is moved within it", whole.display())
            }
        }
    }
    let within = begun.unwrap_or_else(|| whole.join(format!("{ASIDE}{time}")));
    move_within(&whole, &within).map_err(|e| Error::of_files("move aside all of", &whole, &e))?;
    Ok(within)
}

/// Names of directories that hold what was moved within begin so.
const ASIDE: &str = "aside-";

/// Is this, in a data directory, what was moved aside, all of it? What merely has such a name is not.
pub fn is_aside(path: &Path) -> bool {
    is_named_so(path) && path.join("MANIFEST").is_file()
}

fn is_named_so(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ASIDE)) && path.is_dir()
}

/// Where a move within the directory was cut off.
fn unfinished(dir: &Path) -> Result<Option<PathBuf>, Error> {
    let list = fs::read_dir(dir).map_err(|e| Error::of_files("read", dir, &e))?;
    let mut named = list.filter_map(|file| file.ok().map(|file| file.path()));
    Ok(named.find(|path| is_named_so(path) && !is_aside(path)))
}

fn move_within(dir: &Path, within: &Path) -> io::Result<()> {
    if !within.exists() {
        fs::create_dir(within)?;
    }
    let stays = |path: &Path| {
        path == within
            || is_aside(path)
            || ["LOCK", "MANIFEST", "lost+found"].iter().any(|name| path.ends_with(name))
    };
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if let Some(name) = path.file_name().filter(|_| !stays(&path)) {
            let to = within.join(name);
            if to.exists() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("{} is there already", to.display()),
                ));
            }
            fs::rename(&path, to)?;
        }
    }
    sync(within)?;
    sync(dir)?;
    fs::rename(dir.join("MANIFEST"), within.join("MANIFEST"))?;
    sync(within)?;
    sync(dir)
}
