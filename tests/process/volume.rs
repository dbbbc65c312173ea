//! A small file system of its own for a test, so that a disk can be full without the machine's being so.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A mounted file system; unmounted when dropped. Declare it before the node that lives on it.
pub struct Volume {
    point: PathBuf,
    _dir: TempDir,
}

impl Volume {
    /// In memory.
    pub fn tmpfs(mib: u64) -> Result<Volume, String> {
        Volume::mount(|_, point| {
            let size = format!("size={mib}m");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(point))
        })
    }

    /// A real one, in a file.
    pub fn ext4(mib: u64) -> Result<Volume, String> {
        Volume::mount(|dir, point| {
            let image = dir.join("image");
            let file = File::create(&image).map_err(|e| e.to_string())?;
            file.set_len(mib << 20).map_err(|e| e.to_string())?;
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(point))
        })
    }

    fn mount(how: impl FnOnce(&Path, &Path) -> Result<(), String>) -> Result<Volume, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let point = dir.path().join("volume");
        std::fs::create_dir(&point).expect("a directory in it");
        how(dir.path(), &point)?;
        Ok(Volume { point, _dir: dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Takes so much room, all of it when there is less.
    pub fn fill(&self, name: &str, bytes: u64) {
        let mut file = File::create(self.path(name)).expect("a file can be made even when there is no room");
        let (mut left, mut piece) = (bytes, 1 << 20);
        let zeros = vec![b'f'; piece];
        while left > 0 && piece >= 512 {
            match file.write(&zeros[..piece.min(left as usize)]) {
                Ok(written) if written > 0 => left -= written as u64,
                _ => piece /= 2,
            }
        }
    }

    /// Takes all room but so many bytes.
    pub fn leave(&self, name: &str, bytes: u64) {
        self.fill(name, self.free().saturating_sub(bytes));
    }

    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.point).expect("the volume can be asked");
        found.f_bavail * found.f_frsize
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("the filler is there");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.point)).is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.point));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
