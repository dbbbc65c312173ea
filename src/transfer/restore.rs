//! `DynaRust restore`: a backup's file into a new directory.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::interrupts::Interrupts;
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
use crate::told::{bytes, count};

/// Read at a time from a file.
const READ_BYTES: usize = 1 << 20;

/// Makes a node's directory of a backup, and comes back with what is told of it.
pub fn restore(flags: &Restore, now_ms: fn() -> u64, random: fn() -> u64) -> Result<String, Error> {
    let name = flags.file.display().to_string();
    let broken = |why: Broken| Error::Broken(name.clone(), why);
    let from: Box<dyn Read + Send> = match flags.file.as_os_str() == "-" {
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
    let mut interrupts = Interrupts::watch()?;
    let mut blocks = Blocks { from: read_on(reader)?, name };
    let filling = Filling::begin(&settings, Arc::new(Metrics::default()))?;
    let me = filling.store().me();
    let filled = wait(async {
        tokio::select! {
            () = interrupts.beyond(0) => Err(Error::Interrupted),
            filled = fill(filling.store(), &head, flags.into_cluster, &mut blocks) => filled,
        }
    });
    let nothing = || Error::Interrupted.part(format!("nothing was made in {}", flags.data_dir.display()));
    let end = match filled {
        Ok(end) => end,
        Err(error) => {
            filling.give_up();
            return Err(if matches!(error, Error::Interrupted) { nothing() } else { error });
        }
    };
    let held = filling.finish(!flags.into_cluster, &|| interrupts.count() > 0)?.ok_or_else(nothing)?;
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
    format!(
        "{dir}: {} of node {}, as of {at}; node {me} holds them, and {next}",
        count(keys, "key"),
        head.node
    )
}

/// What comes of a backup, and what it is called.
struct Blocks {
    from: mpsc::Receiver<Result<Option<Block>, Broken>>,
    name: String,
}

impl Blocks {
    async fn next(&mut self) -> Result<Option<Block>, Error> {
        let next = self.from.recv().await.unwrap_or(Ok(None));
        next.map_err(|why| Error::Broken(self.name.clone(), why))
    }
}

/// Reads the rest on a thread of its own: what is interrupted must not wait for a pipe that says nothing.
fn read_on(
    mut reader: Reader<impl Read + Send + 'static>,
) -> Result<mpsc::Receiver<Result<Option<Block>, Broken>>, Error> {
    let (to, blocks) = mpsc::channel(1);
    let read = move || {
        loop {
            let next = reader.block();
            let last = !matches!(next, Ok(Some(_)));
            if to.blocking_send(next).is_err() || last {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("reader".into()).spawn(read);
    thread.map_err(|e| Error::Input(format!("the backup: {e}")))?;
    Ok(blocks)
}

/// Takes in what comes, up to the end.
async fn fill(store: &Store, head: &Head, into_cluster: bool, blocks: &mut Blocks) -> Result<End, Error> {
    let not_taken = |why| not_taken(store, head, why);
    if into_cluster {
        store.adopt(head.cluster).await.map_err(not_taken)?;
    }
    let mut end = None;
    while let Some(block) = blocks.next().await? {
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
        store.take(parcel, None).await.map_err(not_taken)?;
    }
    // Without one the reader has said that it is cut off.
    end.ok_or_else(|| Error::Node("the backup has no end".into()))
}

fn not_taken(store: &Store, head: &Head, rejection: Rejection) -> Error {
    match rejection {
        Rejection::DiskFull => no_room(store, head).unwrap_or_else(|error| error).into(),
        other => storage::Error::Failed(format!("a piece of the backup was not taken in: {other}")).into(),
    }
}

/// How far it came, and what to do.
fn no_room(store: &Store, head: &Head) -> Result<storage::Error, storage::Error> {
    let (space, keys) = (store.space()?, store.published().totals.keys);
    Ok(storage::Error::Refused(format!(
        "no room in {} for all of it, and nothing was made there: with {keys} of about {} keys in, {} were free, of which {} are \
         to stay so; make room, or give a --data-dir on a larger file system",
        store.directory_shown(),
        head.keys,
        bytes(space.free_bytes),
        bytes(space.reserve_bytes),
    )))
}
