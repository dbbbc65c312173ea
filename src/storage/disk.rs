//! How much room the file system has, and when writes must stop: before sled meets a full disk, which it does not survive.

use std::path::{Path, PathBuf};

use super::directory::set_ballast;
use super::error::Error;
use crate::limits::{BALLAST_BYTES, DISK_LOOK_MS, DISK_RESERVE_MIB};

/// The file system of a data directory.
pub struct Disk {
    directory: PathBuf,
    reserve_bytes: u64,
    looked_ms: u64,
    room: Room,
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
        let reserve_bytes = reserve_bytes.unwrap_or(default);
        if free < BALLAST_BYTES {
            set_ballast(directory, false);
        }
        Ok(Disk { directory: directory.to_owned(), reserve_bytes, looked_ms: 0, room: Room::Plenty })
    }

    /// Free space below which writes stop.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// What may be written now; asks the file system at most every `DISK_LOOK_MS`.
    pub fn room(&mut self, now_ms: u64) -> Result<Room, Error> {
        if now_ms.abs_diff(self.looked_ms) < DISK_LOOK_MS {
            return Ok(self.room);
        }
        self.looked_ms = now_ms;
        let (free, _) = space(&self.directory)?;
        let room = if free >= self.reserve_bytes {
            Room::Plenty
        } else if free >= self.reserve_bytes / 2 {
            Room::Deletes
        } else {
            Room::None
        };
        if room != self.room {
            let reserve = self.reserve_bytes >> 20;
            match room {
                Room::Plenty => log::info!("there is room on the disk again: writes are taken"),
                _ => log::warn!(
                    "{} MiB free, less than the reserve of {reserve} MiB: writes are refused",
                    free >> 20
                ),
            }
        }
        self.room = room;
        if room == Room::Plenty && free >= self.reserve_bytes + 2 * BALLAST_BYTES {
            set_ballast(&self.directory, true);
        }
        Ok(room)
    }
}

/// Free bytes for us, and the size, of the file system of `path`.
pub fn space(path: &Path) -> Result<(u64, u64), Error> {
    let found = rustix::fs::statvfs(path).map_err(|e| {
        Error::Failed(format!("can't ask the file system of {} for its room: {e}", path.display()))
    })?;
    Ok((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
}
