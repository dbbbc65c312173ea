//! A witness outside of sled's log of how far the commits got.
//!
//! When a part of its log is damaged, sled forgets everything behind it without a word. The summary with counts and digest
//! lies in the same log, so the older state that is left looks sound: old values, deleted keys, and sequence numbers that
//! would be given out twice. So the number of events of the newest durable commit is kept beside the log as well.
//!
//! It is written after the flush, hence never ahead of the log, and before the answers, hence never behind them when the
//! process is killed. It is not synced with every commit: after a power cut it may be behind, which weakens the proof for
//! the last moments and never raises a false alarm. It is synced when the store opens and when it closes.
//!
//! ```text
//! PROGRESS   events:8 check:8     events = sum of all seqs of the version vector; check = XXH3(events)
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::error::Error;
use crate::replica::VersionVector;

/// The open witness of a data directory.
pub struct Progress(File);

impl Progress {
    /// Opens the witness, or makes it for a store that has never been served.
    pub fn open(directory: &Path, new: bool) -> Result<Progress, Error> {
        let path = directory.join("PROGRESS");
        let file = File::options().read(true).write(true).create(new).truncate(false).open(&path);
        match file {
            Ok(file) => Ok(Progress(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::Damaged(format!("{} is missing", path.display())))
            }
            Err(e) => Err(Error::Refused(format!("can't open {}: {e}", path.display()))),
        }
    }

    /// What the witness of this directory says. It is opened as for use, so that whatever hinders that is met here.
    pub fn witness(directory: &Path) -> Result<u64, Error> {
        Progress::open(directory, false)?.committed()
    }

    fn committed(&self) -> Result<u64, Error> {
        let mut bytes = [0; 16];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            // Too short. What the disk does not give just now says nothing of what is on it.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(e) => return Err(Error::Failed(format!("can't read the PROGRESS file: {e}"))),
        }
        decode(&bytes).ok_or_else(|| Error::Damaged("the PROGRESS file is damaged".into()))
    }

    /// Is this what was committed last, or more?
    pub fn check(&self, recovered: &VersionVector) -> Result<(), Error> {
        let committed = self.committed()?;
        let found = events_of(recovered);
        if found < committed {
            return Err(Error::Damaged(format!(
                "the store has fallen back: it holds {found} events, {committed} were committed"
            )));
        }
        Ok(())
    }

    /// This vector is on the disk.
    pub fn note(&self, vv: &VersionVector) -> Result<(), Error> {
        let events = events_of(vv).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&events);
        bytes[8..].copy_from_slice(&xxh3_64(&events).to_be_bytes());
        self.0.write_all_at(&bytes, 0).map_err(failed)
    }

    /// Puts the witness itself on the disk.
    pub fn sync(&self) -> Result<(), Error> {
        self.0.sync_all().map_err(failed)
    }
}

/// What the witness of this directory says; `None` when it is missing or damaged.
pub fn read(directory: &Path) -> Option<u64> {
    decode(&std::fs::read(directory.join("PROGRESS")).ok()?.try_into().ok()?)
}

fn decode(bytes: &[u8; 16]) -> Option<u64> {
    let (events, check) = bytes.split_first_chunk::<8>()?;
    (xxh3_64(events).to_be_bytes() == check).then(|| u64::from_be_bytes(*events))
}

fn failed(e: std::io::Error) -> Error {
    Error::Failed(format!("can't write the PROGRESS file: {e}"))
}

/// How many events a vector covers: it grows with every commit, whoever made the events.
pub fn events_of(vv: &VersionVector) -> u64 {
    vv.iter().fold(0, |sum, dot| sum.wrapping_add(dot.seq))
}
