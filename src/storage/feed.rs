//! sled's own stream of updates of the change log, drained by one thread that never waits for anyone.
//!
//! The stream is a hint, the log is the truth: an event comes before its commit is on the disk, and inside a commit in any
//! order. So all that it says is that there is something new; who is told waits for the watermark, and reads the log.
//!
//! A subscriber of sled holds 1,024 events and then blocks every writer: hence this thread does nothing but count. It
//! lives as long as the process, since dropping a subscriber can deadlock.

use tokio::sync::watch;

use super::error::Error;
use super::thread;

/// Starts the thread; the receiver sees a number that grows with every row of the log.
pub fn start(changes: &sled::Tree) -> Result<watch::Receiver<u64>, Error> {
    let (news, feed) = watch::channel(0);
    let subscriber = changes.watch_prefix([]);
    thread("feed", move || {
        for event in subscriber {
            if let sled::Event::Insert { .. } = event {
                news.send_modify(|rows| *rows += 1);
            }
        }
    })?;
    Ok(feed)
}
