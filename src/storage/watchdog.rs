//! Ends the process when the disk or the engine has stopped answering: a flush of sled may hang for ever after an error,
//! and some of its errors are seen by nobody.
//!
//! Time is counted in looks, not by a clock: while the process or its machine stands still nobody looks, and a commit that
//! stood still with it is not late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::durable;
use super::error::Error;
use super::thread;
use crate::exit::Exit;
use crate::limits::WATCHDOG_PAUSE_MS;

/// A handle to the thread that watches.
#[derive(Clone)]
pub struct Watchdog(Arc<Watched>);

struct Watched {
    /// Grows by one for everything that is guarded, when it begins and when it ends: odd while it is under way.
    turns: AtomicU64,
    db: OnceLock<sled::Db>,
}

impl Watchdog {
    /// Starts watching; what is guarded must be over after `deadline`.
    pub fn start(deadline: Duration) -> Result<Watchdog, Error> {
        let watched = Arc::new(Watched { turns: AtomicU64::new(0), db: OnceLock::new() });
        let watching = watched.clone();
        thread("watchdog", move || watching.watch(deadline))?;
        Ok(Watchdog(watched))
    }

    /// From now on an error of this engine ends the process too.
    pub fn follow(&self, db: &sled::Db) {
        // Set once, since a process opens one store.
        let _ = self.0.db.set(db.clone());
    }

    /// Does this, within the deadline. One thing at a time.
    pub fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        let done = work();
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        done
    }
}

impl Watched {
    fn watch(&self, deadline: Duration) {
        let pause = Duration::from_millis(WATCHDOG_PAUSE_MS);
        let (mut seen, mut running) = (0, Duration::ZERO);
        loop {
            std::thread::sleep(pause);
            if let Some(Err(e)) = self.db.get().map(|db| db.context.global_error()) {
                durable::end_process(Exit::Failed, &Error::from(e).to_string());
            }
            let turn = self.turns.load(Ordering::Relaxed);
            let same = turn == seen && turn % 2 == 1;
            running = if same { running + pause } else { Duration::ZERO };
            seen = turn;
            if running > deadline {
                let ms = deadline.as_millis();
                let why =
                    format!("a commit is not on the disk after {ms} ms; restart to recover the last one");
                durable::end_process(Exit::Failed, &why);
            }
        }
    }
}
