//! Ends the process when the disk or the engine has stopped answering: a flush of sled may hang for ever after an error,
//! and some of its errors are seen by nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::durable;
use super::error::Error;
use super::thread;
use crate::exit::Exit;
use crate::limits::WATCHDOG_PAUSE_MS;

/// A handle to the thread that watches.
#[derive(Clone)]
pub struct Watchdog(Arc<Watched>);

struct Watched {
    started: Instant,
    /// Milliseconds after `started` when what must come to an end began, plus one; 0 when there is nothing.
    since: AtomicU64,
    db: OnceLock<sled::Db>,
}

impl Watchdog {
    /// Starts watching; what is guarded must be over after `deadline`.
    pub fn start(deadline: Duration) -> Result<Watchdog, Error> {
        let (since, db) = (AtomicU64::new(0), OnceLock::new());
        let watched = Arc::new(Watched { started: Instant::now(), since, db });
        let watching = watched.clone();
        thread("watchdog", move || {
            loop {
                std::thread::sleep(Duration::from_millis(WATCHDOG_PAUSE_MS));
                watching.look(deadline);
            }
        })?;
        Ok(Watchdog(watched))
    }

    /// From now on an error of this engine ends the process too.
    pub fn follow(&self, db: &sled::Db) {
        // Set once, since a process opens one store.
        let _ = self.0.db.set(db.clone());
    }

    /// Does this, within the deadline. One thing at a time.
    pub fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.since.store(self.0.now(), Ordering::Relaxed);
        let done = work();
        self.0.since.store(0, Ordering::Relaxed);
        done
    }
}

impl Watched {
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn look(&self, deadline: Duration) {
        if let Some(Err(e)) = self.db.get().map(|db| db.context.global_error()) {
            durable::end_process(Exit::Failed, &Error::from(e).to_string());
        }
        let since = self.since.load(Ordering::Relaxed);
        let running = Duration::from_millis(self.now().saturating_sub(since));
        if since > 0 && running > deadline {
            let ms = deadline.as_millis();
            let why = format!("a commit is not on the disk after {ms} ms; restart to recover the last one");
            durable::end_process(Exit::Failed, &why);
        }
    }
}
