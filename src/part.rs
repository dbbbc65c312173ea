//! A file that has its name only when it is whole and on the disk; until then it is `NAME.part`, locked. An existing file is
//! never touched. What a process has left that was killed is nobody's: the next one takes its place. A link, or what has another
//! name as well, is somebody's: it is never written to.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// A file that is being written. One that goes before it is finished leaves nothing.
pub struct Part {
    file: File,
    as_yet: PathBuf,
    path: PathBuf,
}

impl Part {
    /// Begins. Fails when there is a file of this name, or another process is writing it.
    pub fn begin(path: &Path) -> io::Result<Part> {
        let exists = |what: &str| io::Error::new(io::ErrorKind::AlreadyExists, what);
        if path.symlink_metadata().is_ok() {
            return Err(exists("it is there already: give another name"));
        }
        let mut as_yet = path.as_os_str().to_owned();
        as_yet.push(".part");
        let as_yet = PathBuf::from(as_yet);
        let foreign =
            |what: &str| exists(&format!("{} is {what}: move it, or give another name", as_yet.display()));
        // A link is not followed, and nobody is waited for at the other end of a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let mut how = File::options();
        how.write(true).read(true).create(true).truncate(false).custom_flags(flags);
        loop {
            if fs::symlink_metadata(&as_yet).is_ok_and(|named| !named.is_file()) {
                return Err(foreign("no file, or a link to one"));
            }
            let file = how.open(&as_yet)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(exists(&format!("another process is writing {}", as_yet.display())));
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
            // Whoever had it locked until now may have finished or removed it: then the name is another file's, or nobody's.
            let same = |named: &fs::Metadata, held: &fs::Metadata| {
                (named.dev(), named.ino()) == (held.dev(), held.ino())
            };
            let held = file.metadata()?;
            if fs::symlink_metadata(&as_yet).is_ok_and(|named| same(&named, &held)) {
                if !held.is_file() || held.nlink() > 1 {
                    return Err(foreign("a file that has another name too"));
                }
                file.set_len(0)?;
                return Ok(Part { file, as_yet, path: path.to_owned() });
            }
        }
    }

    /// What is written to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is as yet.
    pub fn as_yet(&self) -> &Path {
        &self.as_yet
    }

    /// Puts it on the disk, and gives it its name.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        match renameat_with(CWD, &self.as_yet, CWD, &self.path, RenameFlags::NOREPLACE) {
            // A file system that can't: nothing was there when it began.
            Err(rustix::io::Errno::INVAL) => fs::rename(&self.as_yet, &self.path)?,
            renamed => renamed?,
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Under its right name by then, or of no use.
        let _ = fs::remove_file(&self.as_yet);
    }
}
