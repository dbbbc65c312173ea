//! How long a node that does not answer is asked again, and with which pauses.

use std::time::{Duration, Instant};

use crate::limits::RETRY_MS;

/// One who asks.
pub struct Retry {
    patience: Duration,
    since: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// Gives up when nothing has come of it for so long.
    pub fn new(seconds: u64) -> Retry {
        Retry {
            patience: Duration::from_secs(seconds),
            since: None,
            pause: Duration::from_millis(RETRY_MS.0),
        }
    }

    /// Something came of it.
    pub fn succeed(&mut self) {
        (self.since, self.pause) = (None, Duration::from_millis(RETRY_MS.0));
    }

    /// Waits before the next try; `false` when there is to be none.
    pub async fn again(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.patience {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(RETRY_MS.1));
        true
    }
}
