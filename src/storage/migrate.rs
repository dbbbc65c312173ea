//! Brings the trees of an older format up to the newest, step by step, before anything reads them.
//!
//! The steps live in `/migrations`, each with its own frozen copy of the world that it changes. Here is what all of them share:
//!
//! 1. there must be room for what the step builds, or nothing is changed;
//! 2. what an earlier begin has left is removed, and all is built anew beside what is there;
//! 3. when all of it was built, the manifest says that the step is under way: from here on an older release refuses the
//!    directory;
//! 4. the store gets the new number, in one write;
//! 5. what nobody reads any more goes, and the manifest says that the step is done.
//!
//! Between two portions everything is put on the disk, within the watchdog's deadline. Cut off before 4, a step is begun anew by
//! the next start; after it, it is finished.

use std::time::{Duration, Instant};

use sled::Db;

use super::directory::Directory;
use super::disk;
use super::error::Error;
use super::manifest::{Manifest, State};
use super::trees::meta;
use crate::limits::{MIGRATE_BYTES_PER_ROW_BYTE, MIGRATE_SPARE_BYTES, MIGRATE_TOLD_MS};

#[path = "../../migrations/mod.rs"]
mod steps;

use steps::{Portions, STEPS, Size, Step};

/// Puts everything on the disk, in time.
type Flush<'a> = &'a dyn Fn() -> sled::Result<usize>;

/// The format that the newest step leaves.
pub const NEWEST: u32 = STEPS.len() as u32;

/// Takes every step that the store has not taken. `reserve_bytes` are to stay free; `flush` puts what was done on the disk.
pub fn run(db: &Db, directory: &mut Directory, reserve_bytes: u64, flush: Flush) -> Result<(), Error> {
    let stamped = stamp(db)?;
    let manifest = &directory.manifest;
    let (new, says, from) = (manifest.state == State::Creating, manifest.format, manifest.migrating_from);
    if !new && !stamped.is_some_and(|stamped| stamped == says || Some(stamped) == from) {
        let stamped = stamped.map_or("nothing".into(), |number| number.to_string());
        return Err(Error::Damaged(format!("the manifest says format {says}, the store says {stamped}")));
    }
    let mut migration = Migration { db, directory, reserve_bytes, flush, new };
    let stamped = stamped.unwrap_or(0);
    if let Some(from) = from.filter(|from| *from < stamped) {
        log::info!("finishing the migration of {} from format {from}", migration.directory.shown());
        migration.finish(stamped, &STEPS[stamped as usize - 1])?;
    }
    for (number, step) in (1..).zip(STEPS).skip(stamped as usize) {
        migration.take(number, step)?;
    }
    Ok(())
}

/// The format that the store has.
fn stamp(db: &Db) -> Result<Option<u32>, Error> {
    if !db.tree_names().iter().any(|name| name.as_ref() == b"meta") {
        return Ok(None);
    }
    let bytes = db.open_tree("meta")?.get(meta::FORMAT)?;
    Ok(bytes.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u32::from_be_bytes))
}

/// A store on its way.
struct Migration<'a> {
    db: &'a Db,
    directory: &'a mut Directory,
    reserve_bytes: u64,
    flush: Flush<'a>,
    /// Nothing in it was ever served: nobody is told, and no manifest says anything yet.
    new: bool,
}

impl Migration<'_> {
    fn take(&mut self, number: u32, step: &Step) -> Result<(), Error> {
        let began = Instant::now();
        let size = (step.measure)(self.db)?;
        if !self.new {
            self.enough_room(number, size)?;
            log::info!(
                "migrating {} to format {number}: {}; {} rows with {} bytes",
                self.directory.shown(),
                step.what,
                size.rows,
                size.bytes
            );
        }
        self.portions("clearing what was begun before", step.reset, Size::default())?;
        let built = self.portions("building", step.build, size)?;
        if built != size {
            return Err(self.incomplete(number, built, size));
        }
        if !self.new {
            self.directory.migrating(number)?;
        }
        self.db.open_tree("meta")?.insert(meta::FORMAT, &u32::to_be_bytes(number))?;
        self.flush()?;
        self.finish(number, step)?;
        if !self.new {
            log::info!("migrated to format {number} in {} ms", began.elapsed().as_millis());
        }
        Ok(())
    }

    /// What follows when the store has its new number.
    fn finish(&mut self, number: u32, step: &Step) -> Result<(), Error> {
        self.portions("removing the old", step.clear, Size::default())?;
        if !self.new {
            self.directory.migrated(number)?;
        }
        Ok(())
    }

    /// Does all of it, so much at a time as goes between two flushes; says how much that was.
    fn portions(&self, what: &str, portions: Portions, of: Size) -> Result<Size, Error> {
        let (mut after, mut done, mut told) = (None, Size::default(), Instant::now());
        while let Some(portion) = portions(self.db, after.as_deref())? {
            self.flush()?;
            if of.rows > 0 {
                self.room_left()?;
            }
            done.rows += portion.size.rows;
            done.bytes += portion.size.bytes;
            after = Some(portion.through);
            if told.elapsed() >= Duration::from_millis(MIGRATE_TOLD_MS) {
                told = Instant::now();
                let whole = if of.rows > 0 { format!(" of {}", of.rows) } else { String::new() };
                log::info!("{what}: {}{whole} rows, {} bytes", done.rows, done.bytes);
            }
        }
        self.flush()?;
        Ok(done)
    }

    fn flush(&self) -> Result<(), Error> {
        Ok((self.flush)().map(drop)?)
    }

    /// Not everything was built: that must never become the store.
    fn incomplete(&self, number: u32, built: Size, of: Size) -> Error {
        let Manifest { format, release, .. } = &self.directory.manifest;
        Error::Refused(format!(
            "of {} rows with {} bytes {} with {} came to format {number}, which is a fault of this release: {} stays in format \
             {format}, and nothing of it is lost; go on with release {release}",
            of.rows,
            of.bytes,
            built.rows,
            built.bytes,
            self.directory.path().display()
        ))
    }

    /// Refuses when there is no room for what the step builds.
    fn enough_room(&self, number: u32, size: Size) -> Result<(), Error> {
        let takes = size.bytes * MIGRATE_BYTES_PER_ROW_BYTE;
        let (free, _) = disk::space(self.directory.path())?;
        if size.bytes == 0 || free >= takes + MIGRATE_SPARE_BYTES.max(self.reserve_bytes) {
            return Ok(());
        }
        let (dir, manifest) = (self.directory.path().display(), &self.directory.manifest);
        Err(Error::Refused(format!(
            "no room to bring {dir} to format {number}: that takes about {takes} bytes beside what is there, {} are to stay \
             free, and there are {free}; it stays in format {}: make room and start again, or go on with release {}",
            MIGRATE_SPARE_BYTES.max(self.reserve_bytes),
            manifest.format,
            manifest.release
        )))
    }

    /// Stops before the file system is full: sled does not survive that.
    fn room_left(&self) -> Result<(), Error> {
        let dir = self.directory.path();
        let (free, _) = disk::space(dir)?;
        if free >= MIGRATE_SPARE_BYTES / 2 {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "something else fills {}, where {free} bytes are left: the migration was stopped, and nothing is lost; make room and \
             start again",
            dir.display()
        )))
    }
}
