//! What a data directory says of itself, and who may read it.
//!
//! The file is replaced as a whole, and holds a check of its own: a half of it is never taken for all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::directory::sync;
use super::error::Error;
use super::layout::{all_files, is_empty};
use crate::limits::SEGMENT_BYTES;

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

impl Manifest {
    /// Of a directory in which nothing was served yet.
    pub fn fresh() -> Manifest {
        Manifest {
            format: FORMAT,
            segment_bytes: SEGMENT_BYTES,
            state: State::Creating,
            release: env!("CARGO_PKG_VERSION").into(),
            migrating_from: None,
        }
    }

    /// What is in this directory; `None` when it has no manifest.
    pub fn read(path: &Path) -> Result<Option<Manifest>, Error> {
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
                return Err(Error::Refused(format!(
                    "can't read {}: {e}; mend its permissions",
                    path.display()
                )));
            }
        };
        let manifest = text.split_once('\n').and_then(|(line, check)| {
            let sound = check.trim_end() == format!("{:016x}", xxh3_64(line.as_bytes()));
            sound.then(|| serde_json::from_str(line).ok()).flatten()
        });
        let damaged = || Error::Damaged(format!("{} is damaged", path.display())).untouched();
        manifest.map(Some).ok_or_else(damaged)
    }

    /// What is to be said of a directory without one. It is foreign, unless what only a node makes is there.
    pub fn lacking(dir: &Path) -> Error {
        let shown = dir.display();
        if ["store/db", "PROGRESS"].iter().all(|part| dir.join(part).is_file()) {
            let path = dir.join("MANIFEST");
            let why = format!("{} is missing, though the rest of a data directory is there", path.display());
            return Error::Damaged(why).untouched();
        }
        let what = match is_empty(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => "is not there",
            Ok(true) => "is empty",
            _ => "is not empty and has no MANIFEST: not a data directory of DynaRust",
        };
        Error::Refused(format!("{shown} {what}; give another one"))
    }

    /// Puts it in its place, on the disk.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let line = serde_json::to_string(self)?;
        let text = format!("{line}\n{:016x}\n", xxh3_64(line.as_bytes()));
        let next = dir.join("MANIFEST.new");
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, dir.join("MANIFEST"))?;
        sync(dir)
    }

    /// Refuses a directory whose format only a newer release reads.
    pub fn known(&self, dir: &Path) -> Result<(), Error> {
        if self.format <= FORMAT {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "{} has format {}, written by release {}; this release ({}) reads up to {FORMAT}: run the newer one",
            dir.display(),
            self.format,
            self.release,
            env!("CARGO_PKG_VERSION")
        )))
    }
}

/// The manifest of a directory that a node has served.
pub fn served(dir: &Path) -> Result<Manifest, Error> {
    let shown = dir.display();
    match Manifest::read(dir)? {
        None => Err(Manifest::lacking(dir)),
        Some(manifest) if manifest.state == State::Creating => Err(Error::Refused(format!(
            "{shown} was never served: its making did not come to an end, and nothing is in it"
        ))),
        Some(manifest) => manifest.known(dir).map(|()| manifest),
    }
}
