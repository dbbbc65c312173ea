//! The vault: is it on the disk, and can I read it back?
//!
//! A [`Store`] is a cheap handle. Writes go through a bounded queue to the one committer thread; reads go to sled
//! directly and wait only for a commit of their own key that is not yet on the disk. Nothing outside of this room says
//! `sled`, and nothing here knows a status code or a peer.
//!
//! Invariants:
//! 1. an answer to a write, even a refusal, comes after everything that it rests on is on the disk;
//! 2. no read shows what a crash could take back;
//! 3. an error of sled ends the process: nothing is served from memory that is ahead of the disk.

mod apply;
mod aside;
mod audience;
mod changes;
mod codec;
mod committer;
mod compact;
mod directory;
mod disk;
mod draft;
mod durable;
mod engine;
mod error;
mod exchange;
mod feed;
mod guard;
mod heard;
mod identity;
mod layout;
mod listing;
mod lock;
mod manifest;
mod migrate;
mod offline;
mod panics;
mod pass;
mod private;
mod progress;
mod recent;
mod recover;
mod request;
mod restore;
mod roster;
mod salvage;
mod shipping;
mod siblings;
pub mod sledlog;
mod snapshot;
mod trees;
mod watchdog;
mod watermark;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

pub use aside::{move_aside, opens, was_served};
pub use audience::Audience;
pub use changes::{Changes, Kept};
pub use codec::{Event, Row, Summary};
pub use compact::{Compacted, compact};
pub use directory::whole_conf;
pub use durable::{end_process, sync_calls};
pub use engine::{engine_exit, fatal, panic_exit};
pub use error::{CHOICES, Error, OPENED, Rejection};
pub use heard::{Heard, Said};
pub use listing::{Asked, Shown, Stretch};
pub use lock::{Tenant, last_tenant, tenant};
pub use manifest::{FORMAT, served};
pub use offline::{About, Fault, Offline, TreeSize, blobs};
pub use panics::{end_on_panic, panics_are_told};
pub use pass::Pass;
pub use private::PrivateCopy;
pub use request::{Action, Condition, Parcel, Request, Tags, Written};
pub use restore::Filling;
pub use salvage::{Incomplete, Salvage, Stale, bad_places};
pub use shipping::Next;
pub use siblings::Conflicts;
pub use snapshot::{Guest, Moment};
pub use trees::read_row;
use watchdog::Watchdog;
use watermark::Watermark;

use crate::limits::CHUNK_READ_RETRIES_MAX;
use crate::metrics::Metrics;
use crate::replica::{
    Clock, Entry, Kind, NodeId, Replica, Totals, Trees as _, Value, Version, VersionVector,
};
use audience::Guests;
use committer::{Committer, Message};
use disk::Disk;
use identity::Birth;
use manifest::State;
use recent::Recent;
use roster::{Evicted, Roster};
use trees::Trees;

/// How a store is opened; values are valid.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory.
    pub directory: PathBuf,
    /// sled's page cache, in bytes.
    pub cache_bytes: u64,
    /// Free space below which writes stop; `None` follows the size of the file system.
    pub reserve_bytes: Option<u64>,
    /// How many writes may wait.
    pub queue: usize,
    /// How much of the change log is kept although every member has it, in bytes.
    pub log_kept_bytes: usize,
    /// How much of it is kept for a member that lacks it, in bytes.
    pub log_held_bytes: usize,
    /// A member that has been away for longer does not hold forgetting back.
    pub forget_after: Duration,
    /// How long a commit may take before the process ends.
    pub commit_deadline: Duration,
    /// Milliseconds since 1970.
    pub now_ms: fn() -> u64,
    /// Random bits, for the ids of a new store.
    pub random: fn() -> u64,
}

/// A handle to the open store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    trees: Trees,
    now_ms: fn() -> u64,
    forget_after_ms: u64,
    feed: watch::Receiver<u64>,
    /// Held while all keys are read for a client.
    listing: Arc<Semaphore>,
    directory: directory::Directory,
    birth: Birth,
    reserve_bytes: u64,
    capacity: usize,
    inbox: SyncSender<Message>,
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

/// What the committer and everybody else both see.
pub struct Shared {
    /// This node, and where it belongs, as they are on the disk.
    me: AtomicU64,
    cluster: AtomicU64,
    watermark: Watermark,
    /// What was written last, for those who send it on.
    recent: Recent,
    metrics: Arc<Metrics>,
    published: Mutex<Arc<Published>>,
    /// What the members have on their disks.
    heard: Heard,
    guests: Guests,
    /// Who was evicted.
    evicted: Evicted,
    stopping: AtomicBool,
    /// Writes sent and not yet answered.
    waiting: AtomicU64,
}

/// The replica as of the newest durable commit.
#[derive(Clone, Debug)]
pub struct Published {
    /// What is incorporated.
    pub vv: VersionVector,
    /// What is forgotten.
    pub floor: VersionVector,
    /// What entries had seen that was forgotten since the start.
    pub forgotten: VersionVector,
    /// The hybrid clock.
    pub clock: Clock,
    /// Counts and digest.
    pub totals: Totals,
    /// Versions from the far future taken in since the start.
    pub far_future: u64,
}

impl Published {
    fn of(replica: &Replica) -> Published {
        Published {
            vv: replica.vv().clone(),
            floor: replica.floor().clone(),
            forgotten: replica.forgotten().clone(),
            clock: replica.clock(),
            totals: *replica.totals(),
            far_future: replica.far_future(),
        }
    }
}

impl Shared {
    fn publish(&self, published: Published) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(published);
    }

    fn published(&self) -> Arc<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Space, as `/stats` shows it.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Bytes of sled's files.
    pub store_bytes: u64,
    /// Files in sled's `blobs/`: must be 0, sled never syncs them.
    pub blob_files: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Free bytes below which writes are refused.
    pub reserve_bytes: u64,
}

/// How full the queue of writes is.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Writes sent and not yet answered.
    pub depth: u64,
    /// How many may wait.
    pub capacity: usize,
}

impl Store {
    /// Opens or makes the store, proves it, and starts its threads. Blocks for as long as recovery takes.
    pub fn open(settings: &Settings, metrics: Arc<Metrics>) -> Result<Store, Error> {
        Store::open_as(settings, metrics, State::Ready)
    }

    /// The same; a directory that is to be `Creating` must not be anybody's, and stays so.
    fn open_as(settings: &Settings, metrics: Arc<Metrics>, to_be: State) -> Result<Store, Error> {
        engine::opening(true);
        let taken = || {
            let shown = std::path::absolute(&settings.directory).unwrap_or(settings.directory.clone());
            Error::Refused(format!("{} is a node's data directory: give an empty one", shown.display()))
        };
        // Asked before it is claimed, which writes into its lock.
        if to_be == State::Creating && manifest::served(&settings.directory).is_ok() {
            return Err(offline::unused(&settings.directory).err().unwrap_or_else(taken));
        }
        let mut directory = directory::Directory::claim(&settings.directory)?;
        if to_be == State::Creating && directory.manifest.state == State::Ready {
            return Err(taken());
        }
        let mut disk = Disk::claim(&settings.directory, settings.reserve_bytes)?;
        let fresh = || [(settings.random)(), (settings.random)()];
        let watchdog = Watchdog::start(settings.commit_deadline)?;
        let changes = Changes::new(settings.log_kept_bytes, settings.log_held_bytes);
        let found = recover::open(&mut directory, (settings.cache_bytes, &disk), changes, &watchdog, fresh)?;
        if to_be == State::Ready {
            directory.ready()?;
        }
        engine::opening(false);
        let shared = Arc::new(Shared {
            me: AtomicU64::new(found.replica.me().0),
            cluster: AtomicU64::new(found.cluster),
            watermark: Watermark::new(),
            recent: Recent::new(found.replica.vv()),
            metrics,
            published: Mutex::new(Arc::new(Published::of(&found.replica))),
            heard: Heard::new((settings.now_ms)()),
            guests: Guests::default(),
            evicted: Evicted::default(),
            stopping: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
        });
        let (inbox, messages) = sync_channel(settings.queue);
        let (trees, reserve_bytes) = (found.trees.clone(), disk.reserve_bytes());
        let birth = Birth::of(&directory, &trees)?;
        disk.keep_ballast();
        let feed = feed::start(&trees.changes)?;
        let roster = Roster::read(&trees)?;
        shared.heard.keep(&roster.members, (settings.now_ms)());
        shared.evicted.keep(roster.evicted);
        let committer = Committer::new(found, disk, messages, shared.clone(), watchdog, settings);
        Ok(Store(Arc::new(Inner {
            trees,
            now_ms: settings.now_ms,
            forget_after_ms: settings.forget_after.as_millis() as u64,
            feed,
            listing: Arc::new(Semaphore::new(1)),
            birth,
            directory,
            reserve_bytes,
            capacity: settings.queue,
            inbox,
            shared,
            committer: Mutex::new(Some(thread("committer", move || committer.run())?)),
        })))
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        NodeId(self.0.shared.me.load(Ordering::Acquire))
    }

    /// The cluster's id.
    pub fn cluster(&self) -> NodeId {
        NodeId(self.0.shared.cluster.load(Ordering::Acquire))
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        self.0.directory.path()
    }

    /// The data directory as people should read of it: from the root.
    pub fn directory_shown(&self) -> String {
        self.0.directory.shown()
    }

    /// Tells whoever looks into the directory which node it is and where this process listens.
    pub fn tell(&self, address: std::net::SocketAddr) -> Result<(), Error> {
        let told = self.0.directory.tell(address, self.me());
        told.map_err(|e| Error::Failed(format!("can't write the LOCK file: {e}")))
    }

    /// Writes, and comes back when it is on the disk; or says why not.
    pub async fn write(&self, request: Request) -> Result<Written, Rejection> {
        self.send(request)?.await.unwrap_or(Err(Rejection::Stopping))
    }

    /// The same for a thread outside of the async world.
    pub fn write_blocking(&self, request: Request) -> Result<Written, Rejection> {
        self.send(request)?.blocking_recv().unwrap_or(Err(Rejection::Stopping))
    }

    fn send(&self, request: Request) -> Result<oneshot::Receiver<Result<Written, Rejection>>, Rejection> {
        let shared = &self.0.shared;
        if shared.stopping.load(Ordering::Acquire) {
            return Err(Rejection::Stopping);
        }
        let (reply, answer) = oneshot::channel();
        // Counted before it is sent: the committer takes it off, maybe at once.
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = match self.0.inbox.try_send(Message::Write(request, reply)) {
            Ok(()) => return Ok(answer),
            Err(TrySendError::Full(_)) => {
                shared.metrics.refused_busy.one();
                Rejection::Busy
            }
            Err(TrySendError::Disconnected(_)) => Rejection::Stopping,
        };
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        Err(refused)
    }

    /// What a key holds, once nothing of it can be taken back by a crash any more.
    pub async fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Error> {
        let entry = fatal_if_failed(self.0.trees.entry(kind, key));
        let shared = &self.0.shared;
        if let Some(commit) = shared.watermark.pending(key) {
            shared.metrics.reads_waited.one();
            shared.watermark.reached(commit).await;
        }
        entry
    }

    /// The versions of an entry that are to be seen at this time, the winner first, with their texts. `None` when one was
    /// superseded since the entry was read: read that again.
    pub async fn texts(
        &self,
        kind: Kind,
        key: &[u8],
        entry: Entry,
        now_ms: u64,
    ) -> Result<Option<Vec<(Version, Vec<u8>)>>, Error> {
        let mut shown = Vec::with_capacity(1);
        for mut version in entry.into_visible(now_ms) {
            let text = match &mut version.value {
                Value::Inline(text) => std::mem::take(text),
                Value::Chunked { .. } => match self.chunked_text(kind, key, &version).await? {
                    Some(text) => text,
                    None => return Ok(None),
                },
            };
            shown.push((version, text));
        }
        Ok(Some(shown))
    }

    /// A large text, put together on a thread that may block.
    async fn chunked_text(
        &self,
        kind: Kind,
        key: &[u8],
        version: &Version,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (trees, version, key) = (self.0.trees.clone(), version.clone(), key.to_vec());
        blocking(move || {
            let text = fatal_if_failed(trees.text(&version))?;
            if text.is_none() && fatal_if_failed(trees.entry(kind, &key))?.holds(version.dot) {
                return Err(Error::Damaged(format!("a piece of the value of {} is missing", version.dot)));
            }
            Ok(text)
        })
        .await
    }

    /// What is to be seen of a key at this time, the winner first, with all texts.
    pub async fn read(&self, kind: Kind, key: &[u8], now_ms: u64) -> Result<Vec<(Version, Vec<u8>)>, Error> {
        for _ in 0..CHUNK_READ_RETRIES_MAX {
            let entry = self.entry(kind, key).await?;
            if let Some(shown) = self.texts(kind, key, entry, now_ms).await? {
                return Ok(shown);
            }
        }
        Err(Error::Failed("a key is overwritten faster than it can be read".into()))
    }

    /// Some of the keys that hold siblings, after this one.
    pub async fn conflicts(
        &self,
        after: Option<Vec<u8>>,
        most: usize,
        now_ms: u64,
    ) -> Result<Conflicts, Error> {
        let members = self.members().len() as u64;
        let (trees, counted) = (self.0.trees.clone(), (members, self.published().totals));
        // The list that is asked for after this one waits for it, even when nobody waits for this one any more.
        let turn = self.0.listing.clone().acquire_owned().await;
        let read = move || {
            let _turn = turn;
            fatal_if_failed(siblings::conflicts(&trees, counted, after, most, now_ms))
        };
        let found = blocking(read).await?;
        self.settled().await;
        Ok(found)
    }

    /// The replica as of the newest durable commit.
    pub fn published(&self) -> Arc<Published> {
        self.0.shared.published()
    }

    /// Waits until everything that `seen` names is incorporated, and on the disk.
    pub async fn until_incorporated(&self, seen: &VersionVector) {
        let shared = &self.0.shared;
        loop {
            let durable = shared.watermark.durable();
            if shared.published().vv.covers_all(seen) {
                return;
            }
            shared.watermark.reached(durable + 1).await;
        }
    }

    /// A number that changes whenever the log is about to grow; [`Store::settled`] tells when it has.
    pub fn feed(&self) -> watch::Receiver<u64> {
        self.0.feed.clone()
    }

    /// How full the queue of writes is.
    pub fn queue(&self) -> Queue {
        Queue { depth: self.0.shared.waiting.load(Ordering::Relaxed), capacity: self.0.capacity }
    }

    /// Space on the disk.
    pub fn space(&self) -> Result<Space, Error> {
        let (free_bytes, _) = disk::space(self.directory())?;
        let store_bytes = fatal_if_failed(self.0.trees.db.size_on_disk().map_err(Error::from))?;
        let blobs = std::fs::read_dir(self.0.directory.store().join("blobs"));
        let blob_files = blobs.map(|files| files.count() as u64).unwrap_or(0);
        Ok(Space { store_bytes, blob_files, free_bytes, reserve_bytes: self.0.reserve_bytes })
    }

    /// Finishes the writes that were taken, refuses further ones, and comes back when all is on the disk.
    pub fn close(&self) {
        self.0.shared.stopping.store(true, Ordering::Release);
        // The queue may be full: then this waits its turn.
        let _ = self.0.inbox.send(Message::Stop);
        let thread = self.0.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Reads on a thread that may block.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|e| Err(Error::Failed(format!("a reading thread ended: {e}"))))
}

/// A failure of sled must not be survived; damage of one entry can be told to the one who asked.
fn fatal_if_failed<T>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(Error::Failed(why)) => {
            let error = Error::Failed(why);
            durable::end_process(error.exit(), &error.to_string())
        }
        result => result,
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|e| Error::Failed(format!("can't start the thread '{name}': {e}")))
}

#[cfg(test)]
mod tests {
    use super::Settings;

    /// Of a small store.
    pub fn settings(directory: &std::path::Path) -> Settings {
        Settings {
            directory: directory.to_owned(),
            cache_bytes: 1 << 20,
            reserve_bytes: Some(0),
            queue: 1,
            log_kept_bytes: 0,
            log_held_bytes: 0,
            forget_after: std::time::Duration::from_secs(86_400),
            commit_deadline: std::time::Duration::from_secs(60),
            now_ms: || 1,
            random: || 1,
        }
    }
}
