//! What every handler can reach: the store once it is open, the limits, the counters; and who is still being served.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::problem::{Code, Problem};
use crate::limits::{BACKUPS_MAX, LISTINGS_MAX, TRANSIT_BYTES_MAX};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::storage::Store;

/// One for the whole process, shared by all workers.
pub struct App {
    store: OnceLock<Store>,
    stopping: AtomicBool,
    /// Wakes the requests that wait for other members when the node is on its way out.
    told_to_stop: Notify,
    /// Requests whose answer is not out yet.
    serving: AtomicUsize,
    transit: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// What has been seen of the other members.
    pub peers: Arc<Peers>,
    /// Longest value text, in bytes.
    pub value_bytes_max: usize,
    /// A request's body must be in by then.
    pub request_timeout: Duration,
    /// Milliseconds since 1970.
    pub now_ms: fn() -> u64,
    /// Where the node listens.
    pub address: SocketAddr,
    /// When the process started.
    pub started: Instant,
}

impl App {
    /// An app without a store yet: it answers that it is starting.
    pub fn new(
        address: SocketAddr,
        value_bytes_max: usize,
        request_timeout: Duration,
        metrics: Arc<Metrics>,
        peers: Arc<Peers>,
        now_ms: fn() -> u64,
    ) -> App {
        App {
            store: OnceLock::new(),
            stopping: AtomicBool::new(false),
            told_to_stop: Notify::new(),
            serving: AtomicUsize::new(0),
            transit: Arc::new(Semaphore::new(TRANSIT_BYTES_MAX)),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            listings: Arc::new(Semaphore::new(LISTINGS_MAX)),
            metrics,
            peers,
            value_bytes_max,
            request_timeout,
            now_ms,
            address,
            started: Instant::now(),
        }
    }

    /// From now on requests are served.
    pub fn open(&self, store: Store) {
        let _ = self.store.set(store);
    }

    /// From now on they are not; those under way are finished. Who waits for other members is answered as things stand: their
    /// word may come long after this node is gone.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.told_to_stop.notify_waiters();
    }

    /// From now on they are again: the node stays.
    pub fn resume(&self) {
        self.stopping.store(false, Ordering::SeqCst);
    }

    /// Is the node on its way out?
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Comes back with what `waiting` does, or with nothing when that takes longer than the node has.
    pub async fn unless_stopping<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        let mut told = std::pin::pin!(self.told_to_stop.notified());
        // From here on no word is missed, so a look that comes after this one sees the rest.
        told.as_mut().enable();
        let told = async {
            if !self.stopping() {
                told.await;
            }
        };
        tokio::select! {
            biased;
            done = waiting => Some(done),
            () = told => None,
        }
    }

    /// The store, if requests are served.
    pub fn store(&self) -> Result<&Store, Problem> {
        if self.stopping() {
            return Err(Problem::stopping());
        }
        self.store.get().ok_or_else(|| {
            Problem::new(
                Code::Starting,
                "its data directory is recovered, then its members are asked: try again",
            )
        })
    }

    /// Counts a request until its answer is out.
    pub fn serve(self: &Arc<App>) -> Serving {
        self.serving.fetch_add(1, Ordering::SeqCst);
        Serving(self.clone())
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.serving.load(Ordering::SeqCst)
    }

    /// Room in memory for so many bytes of a large body or answer, until the permit is dropped.
    pub fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let wanted = u32::try_from(bytes).ok().filter(|&bytes| bytes as usize <= TRANSIT_BYTES_MAX);
        let permit = wanted.and_then(|bytes| self.transit.clone().try_acquire_many_owned(bytes).ok());
        permit.ok_or_else(|| Problem::new(Code::Busy, "too many large values are under way: try again"))
    }

    /// One of the backups that may be read at a time, until the permit is dropped.
    pub fn backup_turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = self.backups.clone().try_acquire_owned();
        turn.map_err(|_| Problem::new(Code::Busy, "as many backups as may be are being read: try again"))
    }

    /// The same for who can't be told to try again: waits, and takes all the room there is for more than that.
    pub async fn room_in_turn(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = bytes.min(TRANSIT_BYTES_MAX) as u32;
        self.transit.clone().acquire_many_owned(bytes).await.ok()
    }

    /// A listing's turn, until the permit is dropped.
    pub fn listing(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = self.listings.clone().try_acquire_owned();
        permit.map_err(|_| {
            Problem::new(Code::Busy, format!("{LISTINGS_MAX} lists of keys are under way: try again"))
        })
    }
}

/// A request under way.
pub struct Serving(Arc<App>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::SeqCst);
    }
}
