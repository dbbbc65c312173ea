//! `DynaRust restore`: a backup's file into a new directory.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Error, wait};
use crate::backup::{Block, Broken, End, Head, Reader};
use crate::cli::Restore;
use crate::limits::{
    CACHE_MIB_DEFAULT, COMMIT_DEADLINE_MS_DEFAULT, FORGET_AFTER_HOURS_DEFAULT, WRITE_QUEUE_DEFAULT,
};
use crate::metrics::Metrics;
use crate::replica::NodeId;
use crate::storage::{self, Filling, Parcel, Rejection, Settings, Store};
use crate::time;

/// Read at a time from a file.
const READ_BYTES: usize = 1 << 20;

/// Makes a node's directory of a backup, and comes back with what is told of it.
pub fn restore(flags: &Restore, now_ms: fn() -> u64, random: fn() -> u64) -> Result<String, Error> {
    let name = flags.file.display().to_string();
    let broken = |why: Broken| Error::Broken(name.clone(), why);
    let from: Box<dyn Read> = match flags.file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&flags.file).map_err(|e| broken(e.into()))?),
    };
    let mut reader = Reader::new(BufReader::with_capacity(READ_BYTES, from)).map_err(broken)?;
    let Some(Block::Head(head)) = reader.block().map_err(broken)? else {
        return Err(broken(Broken::CutOff(reader.at())));
    };
    if flags.into_cluster && head.cluster == NodeId::NOBODY {
        return Err(Error::Node(
            "the node of this backup had left its cluster: restore it without --into-cluster".into(),
        ));
    }
    let settings = Settings {
        directory: flags.data_dir.clone(),
        cache_bytes: CACHE_MIB_DEFAULT << 20,
        reserve_bytes: None,
        queue: WRITE_QUEUE_DEFAULT,
        // Who joins the restored node is sent the keys.
        log_kept_bytes: 0,
        log_held_bytes: 1 << 20,
        forget_after: Duration::from_secs(FORGET_AFTER_HOURS_DEFAULT * 3_600),
        commit_deadline: Duration::from_millis(COMMIT_DEADLINE_MS_DEFAULT),
        now_ms,
        random,
    };
    let filling = Filling::begin(&settings, Arc::new(Metrics::default()))?;
    let me = filling.store().me();
    let next = &mut || reader.block().map_err(broken);
    let filled = wait(fill(filling.store(), &head, flags.into_cluster, next));
    let end = match filled {
        Ok(end) => end,
        Err(error) => {
            filling.give_up();
            return Err(error);
        }
    };
    let held = filling.finish(!flags.into_cluster)?;
    let differs = held.totals.digest != end.digest || held.vv != end.vv;
    let doubt = match differs {
        false => String::new(),
        true => format!(
            "\nwarning: all of it is restored as it was sent, but the node that made it held something else at its end ({} keys, \
             digest {}; here are {} keys, digest {}): it was being brought up to date itself",
            end.keys, end.digest, held.totals.keys, held.totals.digest
        ),
    };
    let keys = (held.totals.keys, end.ended_ms);
    Ok(summary(&flags.data_dir, me, &head, keys, flags.into_cluster) + &doubt)
}

fn summary(dir: &Path, me: NodeId, head: &Head, (keys, at_ms): (u64, u64), into_cluster: bool) -> String {
    let (dir, at) = (dir.display(), time::text(at_ms));
    let next = match into_cluster {
        false => "it is a cluster of its own".to_owned(),
        true => format!("when it is started it joins cluster {} again", head.cluster),
    };
    format!("{dir}: {keys} keys of node {}, as of {at}; node {me} holds them, and {next}", head.node)
}

/// Takes in what comes, up to the end.
async fn fill(
    store: &Store,
    head: &Head,
    into_cluster: bool,
    next: &mut dyn FnMut() -> Result<Option<Block>, Error>,
) -> Result<End, Error> {
    if into_cluster {
        store.adopt(head.cluster).await.map_err(not_taken)?;
    }
    let mut end = None;
    while let Some(block) = next()? {
        let parcel = match block {
            // The reader lets it stand nowhere else than at the beginning.
            Block::Head(_) => continue,
            Block::Keys(sweep) => sweep.check().map(|()| Parcel::Sweep(sweep)),
            Block::Events(frame) => frame.check().map(|()| Parcel::Frame(frame)),
            Block::End(last) => {
                end = Some(last);
                continue;
            }
        };
        let parcel = parcel.map_err(|what| Error::Node(format!("what the backup holds can't be: {what}")))?;
        store.take(parcel).await.map_err(not_taken)?;
    }
    // Without one the reader has said that it is cut off.
    end.ok_or_else(|| Error::Node("the backup has no end".into()))
}

fn not_taken(rejection: Rejection) -> Error {
    match rejection {
        Rejection::DiskFull => storage::Error::Refused("the disk is too full for all of it".into()).into(),
        other => storage::Error::Failed(format!("a piece of the backup was not taken in: {other}")).into(),
    }
}
