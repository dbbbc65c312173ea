//! Fills an empty directory with what a backup holds. Until it is finished the directory counts as one that was never served:
//! a crash, or a refusal, leaves nothing that a node would take for data.
//!
//! What comes is taken in by the rules by which a new member is swept. A node that is to be a cluster of its own then takes all
//! of it for its own writing: had it kept the names of another cluster's events without that one's members, the two could
//! never be made one again without loss.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::codec::{self, Summary};
use super::directory::State;
use super::error::Error;
use super::progress::Progress;
use super::trees::{Trees, change_key, meta};
use super::{Inner, Published, Settings, Store};
use crate::limits::RESTORE_STEP_KEYS;
use crate::metrics::Metrics;
use crate::replica::{Bound, Dot, Entry, Kind, NodeId, Totals, Trees as _, Value, Version, VersionVector};

/// A directory that is being filled.
pub struct Filling {
    store: Store,
    directory: PathBuf,
    /// It was not there before.
    made: bool,
}

impl Filling {
    /// Begins with a directory that is empty or not there. Blocks.
    pub fn begin(settings: &Settings, metrics: Arc<Metrics>) -> Result<Filling, Error> {
        let directory = settings.directory.clone();
        let made = !directory.exists();
        let store = Store::open_as(settings, metrics, State::Creating)?;
        Ok(Filling { store, directory, made })
    }

    /// What takes in what comes.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// From now on the directory is a node's. One that is `alone` is a cluster of its own. Blocks.
    pub fn finish(self, alone: bool) -> Result<Published, Error> {
        self.store.close();
        let published = self.store.published();
        let inner = Arc::into_inner(self.store.0);
        let mut inner = inner.ok_or_else(|| Error::Failed("something still uses the new store".into()))?;
        if alone {
            own(&inner)?;
        }
        inner.trees.db.flush()?;
        inner.directory.sync_names()?;
        inner.directory.ready()?;
        Ok(Published::clone(&published))
    }

    /// It comes to nothing: what was made goes.
    pub fn give_up(self) {
        self.store.close();
        drop(self.store);
        // What can't be removed is taken for nothing all the same.
        let _ = match self.made {
            true => fs::remove_dir_all(&self.directory),
            false => fs::remove_dir_all(self.directory.join("store")),
        };
        for name in ["MANIFEST", "MANIFEST.new", "PROGRESS", "BALLAST", "LOCK"] {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}

/// All versions get names of this node's; nothing else is known to it.
fn own(inner: &Inner) -> Result<(), Error> {
    let (trees, me) = (&inner.trees, NodeId(inner.trees.id(meta::NODE)?));
    let clock = trees.summary()?.clock;
    let (mut after, mut last, mut totals): (Bound, u64, Totals) = (None, 0, Totals::default());
    loop {
        let held = trees.entries_after(after.as_ref(), RESTORE_STEP_KEYS)?;
        let end = held.len() < RESTORE_STEP_KEYS;
        after = held.last().map(|(kind, key, _)| (*kind, key.clone()));
        for (kind, key, entry) in held {
            let entry = match kind {
                Kind::Data => rename(trees, me, &mut last, &entry)?,
                Kind::Membership => Entry::default(),
            };
            totals.add(kind, &key, entry.dots());
            trees.put_entry(kind, &key, entry)?;
        }
        if end {
            break;
        }
    }
    trees.changes.clear()?;
    let vv: VersionVector = [Dot::new(me, last)].into_iter().filter(|dot| dot.seq > 0).collect();
    let summary = Summary {
        floor: vv.clone(),
        unit: vv.clone(),
        vv: vv.clone(),
        clock,
        totals,
        counted: false,
        repairs: 0,
    };
    trees.meta.insert(meta::SUMMARY, codec::encode_summary(&summary))?;
    trees.db.flush()?;
    let progress = Progress::open(inner.directory.path(), false)?;
    progress.note(&vv)?;
    progress.sync()
}

/// The same versions under the next names; who won among them wins.
fn rename(trees: &Trees, me: NodeId, last: &mut u64, entry: &Entry) -> Result<Entry, Error> {
    let mut versions = Vec::with_capacity(entry.versions().len());
    for version in entry.versions().iter().rev() {
        *last += 1;
        let dot = Dot::new(me, *last);
        if let Value::Chunked { .. } = version.value {
            trees.rename_chunks(version.dot, dot)?;
        }
        versions.push(Version { dot, ..version.clone() });
    }
    let seen = versions.iter().map(|version| version.dot).collect();
    Ok(Entry::from_parts(versions, seen))
}

impl Trees {
    /// A large value's pieces go by another version's name.
    fn rename_chunks(&self, from: Dot, to: Dot) -> Result<(), Error> {
        for item in self.chunks.scan_prefix(change_key(from)) {
            let (key, piece) = item?;
            let mut renamed = change_key(to).to_vec();
            renamed.extend_from_slice(&key[renamed.len()..]);
            self.chunks.insert(renamed, piece)?;
            self.chunks.remove(key)?;
        }
        Ok(())
    }
}
