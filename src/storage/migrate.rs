//! Brings the trees of an older format up to the newest, step by step, before anything reads them.
//!
//! The steps live in `/migrations`, each with its own frozen copy of the world that it changes.

use super::error::Error;
use super::trees::meta;

#[path = "../../migrations/mod.rs"]
mod steps;

/// The format that the newest step leaves.
pub const NEWEST: u32 = steps::STEPS.len() as u32;

/// Runs every step that the store has not seen; `found` is what the manifest says, 0 for a new store.
pub fn run(db: &sled::Db, found: u32) -> Result<(), Error> {
    let stamped = stamp(db)?;
    // A step that was done, and stopped before the manifest said so, leaves the store ahead of the manifest.
    let known = found == 0 || stamped.is_some_and(|stamped| (found..=NEWEST).contains(&stamped));
    if !known {
        let stamped = stamped.map_or("nothing".into(), |number| number.to_string());
        return Err(Error::Damaged(format!("the manifest says format {found}, the store says {stamped}")));
    }
    for (number, step) in (1..).zip(steps::STEPS).skip(stamped.unwrap_or(0) as usize) {
        if found > 0 {
            log::info!("migrating the store to format {number}: {}", step.what);
        }
        (step.run)(db)?;
        db.open_tree("meta")?.insert(meta::FORMAT, &u32::to_be_bytes(number))?;
        db.flush()?;
    }
    Ok(())
}

fn stamp(db: &sled::Db) -> Result<Option<u32>, Error> {
    if !db.tree_names().iter().any(|name| name.as_ref() == b"meta") {
        return Ok(None);
    }
    let bytes = db.open_tree("meta")?.get(meta::FORMAT)?;
    Ok(bytes.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u32::from_be_bytes))
}
