//! How fast a client takes what it is sent. One that takes next to nothing while more waits for it is cut off: its answer holds a
//! turn, and a backup what deletes leave behind, for as long as it is read.
//!
//! Only time counts in which the kernel takes no more, so that a node that is slow itself blames nobody.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::{READER_BYTES_LEAST, READER_WINDOW_MS};

const WINDOW: Duration = Duration::from_millis(READER_WINDOW_MS);

/// The pace of one connection.
#[derive(Default)]
pub struct Pace {
    window: Window,
    /// It is waited since then.
    since: Option<Instant>,
    over: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// So many bytes were taken.
    pub fn took(&mut self, bytes: usize) {
        let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.window.add(waited, bytes);
    }

    /// Nothing is taken now. Is it too slow? The task is woken when that may be.
    pub fn too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let end = *self.since.get_or_insert_with(Instant::now) + self.window.left();
            let over = self.over.get_or_insert_with(|| Box::pin(sleep_until(end)));
            if over.deadline() != end {
                over.as_mut().reset(end);
            }
            if over.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            self.since = None;
            if self.window.ends_too_slow() {
                return true;
            }
        }
    }
}

/// What was taken in some time of waiting.
#[derive(Default)]
struct Window {
    bytes: usize,
    waited: Duration,
}

impl Window {
    fn add(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        if !self.waited.is_zero() {
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// For how long it still goes on.
    fn left(&self) -> Duration {
        WINDOW.saturating_sub(self.waited)
    }

    /// It is over; was too little taken? The next one begins.
    fn ends_too_slow(&mut self) -> bool {
        std::mem::take(self).bytes < READER_BYTES_LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds of waiting a client is too slow that takes so many bytes a second.
    fn patience(rate: usize) -> Option<u64> {
        let mut window = Window::default();
        (0..READER_WINDOW_MS / 100).find(|_| {
            window.add(Duration::from_secs(1), rate);
            window.left().is_zero() && window.ends_too_slow()
        })
    }

    #[test]
    fn who_takes_less_than_the_least_is_too_slow() {
        let seconds = READER_WINDOW_MS / 1_000;
        let least = READER_BYTES_LEAST / seconds as usize;
        assert_eq!(patience(0), Some(seconds - 1));
        assert_eq!(patience(least / 2), Some(seconds - 1));
        assert_eq!(patience(least * 2), None);
    }

    #[test]
    fn who_is_never_waited_for_is_never_too_slow() {
        let mut window = Window::default();
        (0..1_000).for_each(|_| window.add(Duration::ZERO, 1));
        assert_eq!(window.left(), WINDOW);
        assert_eq!(window.bytes, 0, "what was taken before there was any waiting says nothing of it");
    }
}
