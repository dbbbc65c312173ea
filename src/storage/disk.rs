//! How much room the file system has, and when writes must stop: before sled meets a full disk, which it does not survive.

use std::io;
use std::path::{Path, PathBuf};

use super::directory::{drop_ballast, take_ballast};
use super::error::Error;
use crate::limits::{BALLAST_BYTES, DISK_RESERVE_MIB, WRITTEN_PER_BYTE_MAX};

/// The file system of a data directory, as of the last look.
pub struct Disk {
    directory: PathBuf,
    reserve_bytes: u64,
    /// Free bytes, less what the ballast lacks and what the commit under way may take.
    left_bytes: u64,
    full: bool,
    ballast: Ballast,
}

/// Where the ballast is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ballast {
    /// On the disk.
    Kept,
    /// To be taken when there is room.
    Owed,
    /// Not to be had: the file system can't reserve space.
    Impossible,
}

/// What may still be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Everything.
    Plenty,
    /// Only deletes, so that a user can make room.
    Deletes,
    /// Nothing.
    None,
}

impl Disk {
    /// Looks at the file system and gives the ballast back when sled could not open without it.
    /// `reserve_bytes`: free space below which writes stop; the default follows the size of the file system.
    pub fn claim(directory: &Path, reserve_bytes: Option<u64>) -> Result<Disk, Error> {
        let (free, size) = space(directory)?;
        let (least, most) = DISK_RESERVE_MIB;
        let default = (size / 20).clamp(least << 20, most << 20);
        if free < BALLAST_BYTES {
            drop_ballast(directory);
        }
        let reserve_bytes = reserve_bytes.unwrap_or(default);
        Ok(Disk {
            directory: directory.to_owned(),
            reserve_bytes,
            left_bytes: 0,
            full: false,
            ballast: Ballast::Owed,
        })
    }

    /// Free space below which writes stop.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Takes the ballast (back) when there is room: the next start may need it.
    pub fn keep_ballast(&mut self) {
        if self.ballast != Ballast::Owed {
            return;
        }
        self.ballast = match take_ballast(&self.directory) {
            Ok(()) => Ballast::Kept,
            Err(e) => {
                log::debug!("no ballast is kept: {e}");
                if e.kind() == io::ErrorKind::Unsupported { Ballast::Impossible } else { Ballast::Owed }
            }
        };
    }

    /// Asks the file system; once a commit, since a commit may take as much as the whole reserve.
    pub fn look(&mut self) -> Result<(), Error> {
        let (free, _) = space(&self.directory)?;
        let owed = if self.ballast == Ballast::Owed { BALLAST_BYTES } else { 0 };
        self.left_bytes = free.saturating_sub(owed);
        let full = self.room() != Room::Plenty;
        if full != self.full {
            self.full = full;
            let (left, reserve) = (self.left_bytes >> 20, self.reserve_bytes >> 20);
            match full {
                true => {
                    log::warn!("{left} MiB free, less than the reserve of {reserve} MiB: writes are refused")
                }
                false => log::info!("there is room on the disk again: writes are taken"),
            }
        }
        if owed > 0 && self.left_bytes > 0 {
            self.keep_ballast();
        }
        Ok(())
    }

    /// What may be written now.
    pub fn room(&self) -> Room {
        match self.left_bytes {
            left if left >= self.reserve_bytes => Room::Plenty,
            left if left >= self.reserve_bytes / 2 => Room::Deletes,
            _ => Room::None,
        }
    }

    /// The same, if a value of so many bytes comes along; it counts for the rest of the commit if there is room for it.
    pub fn spend(&mut self, bytes: u64) -> Room {
        let before = self.left_bytes;
        self.left_bytes = before.saturating_sub(bytes * WRITTEN_PER_BYTE_MAX);
        let room = self.room();
        if bytes > 0 && room != Room::Plenty {
            self.left_bytes = before;
        }
        room
    }
}

/// Free bytes for us, and the size, of the file system of `path`.
pub fn space(path: &Path) -> Result<(u64, u64), Error> {
    let found = rustix::fs::statvfs(path).map_err(|e| {
        Error::Failed(format!("can't ask the file system of {} for its room: {e}", path.display()))
    })?;
    Ok((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
}
