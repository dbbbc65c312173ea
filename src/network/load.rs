//! How much one message to a member holds: what its line carries in good time, and what does not hold up its clients.
//!
//! On a thin line a message that takes long is given up, or looks as if nothing came; and several members may send at once. So it
//! begins small, and grows as long as answers come soon.

use std::time::Duration;

use crate::limits::{
    FRAME_BYTES_MAX, FRAME_EVENTS_MAX, MESSAGE_ANSWER_MS, MESSAGE_BYTES_LEAST, SWEEP_ANSWER_MS, SWEEP_KEYS,
};
use crate::replica::Bounds;

/// Of one member.
pub(super) struct Load {
    /// Bytes of the next message, about.
    bytes: usize,
    /// Keys of the next piece of a sweep.
    keys: u64,
}

impl Load {
    /// Nothing has been sent yet.
    pub(super) fn new() -> Load {
        Load { bytes: MESSAGE_BYTES_LEAST, keys: SWEEP_KEYS.0 }
    }

    /// Of a frame.
    pub(super) fn of_events(&self) -> Bounds {
        Bounds { count: FRAME_EVENTS_MAX, bytes: self.bytes }
    }

    /// Of a piece of a sweep.
    pub(super) fn of_keys(&self) -> Bounds {
        Bounds { count: self.keys, bytes: self.bytes }
    }

    /// A message of so many bytes was answered after so long; it was a piece of a sweep if it `sweeps`. What holds little says
    /// nothing of the line.
    pub(super) fn answered(&mut self, bytes: usize, after: Duration, sweeps: bool) {
        let (soon, late) = MESSAGE_ANSWER_MS;
        if after <= Duration::from_millis(soon) {
            if 2 * bytes >= self.bytes {
                self.bytes = (2 * self.bytes).min(FRAME_BYTES_MAX);
            }
        } else if after > Duration::from_millis(late) {
            self.failed();
        }
        if sweeps {
            self.keys = match after > Duration::from_millis(SWEEP_ANSWER_MS) {
                true => (2 * self.keys).min(SWEEP_KEYS.1),
                false => (self.keys / 2).max(SWEEP_KEYS.0),
            };
        }
    }

    /// A message was not, or too late.
    pub(super) fn failed(&mut self) {
        self.bytes = (self.bytes / 2).max(MESSAGE_BYTES_LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_large_as_its_line_can_bear() {
        let mut load = Load::new();
        let answers = |load: &mut Load, bytes_per_ms: usize| {
            let took = Duration::from_millis((load.of_keys().bytes / bytes_per_ms) as u64);
            load.answered(load.of_keys().bytes, took, true);
            took
        };
        for _ in 0..20 {
            assert!(answers(&mut load, 40) < Duration::from_secs(5));
        }
        let before = load.of_events().bytes;
        load.answered(0, Duration::ZERO, false);
        assert!(before < FRAME_BYTES_MAX && load.of_events().bytes == before, "it held nothing");
        for _ in 0..20 {
            answers(&mut load, 100_000);
        }
        assert_eq!((load.of_events().bytes, load.of_keys().count), (FRAME_BYTES_MAX, SWEEP_KEYS.0));
        (0..20).for_each(|_| load.answered(9, Duration::from_millis(2 * SWEEP_ANSWER_MS), true));
        assert_eq!(load.of_keys().count, SWEEP_KEYS.1, "a long line");
        for _ in 0..4 {
            load.failed();
        }
        assert_eq!(load.of_events().bytes, MESSAGE_BYTES_LEAST);
    }
}
