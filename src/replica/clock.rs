//! The hybrid logical clock: physical time that never goes back and counts when it stands still.
//!
//! Kulkarni et al., "Logical Physical Clocks", 2014: 48 bits of milliseconds since 1970 and 16 bits of counter in one
//! number, so that comparing stamps is comparing integers. A stamp only picks the winner among true siblings; what
//! replaces what is decided by contexts. So a wrong clock can make the other sibling win, and can lose nothing.
//!
//! This room never reads the time: `now_ms` is always an argument.

use serde::{Deserialize, Serialize};

use crate::limits::CLOCK_AHEAD_MS_MAX;

/// A stamp: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first stamp of a millisecond. The 48 bits reach to the year 10889.
    pub const fn at_ms(ms: u64) -> Hlc {
        Hlc(ms << 16)
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }
}

/// A node's clock; its value must be kept with every commit, so that it does not go back over a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// A clock that has already shown `last`.
    pub const fn from(last: Hlc) -> Clock {
        Clock { last }
    }

    /// The latest stamp given or taken in.
    pub const fn last(self) -> Hlc {
        self.last
    }

    /// The stamp of a new event: later than every stamp given or taken in before. A full counter carries into the
    /// milliseconds.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.last = Hlc::at_ms(now_ms).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// Takes in a stamp made elsewhere. A stamp from more than `CLOCK_AHEAD_MS_MAX` ahead does not move the clock:
    /// `false`, so that the caller can say so.
    pub fn observe(&mut self, remote: Hlc, now_ms: u64) -> bool {
        let sane = remote.ms() <= now_ms.saturating_add(CLOCK_AHEAD_MS_MAX);
        if sane {
            self.last = self.last.max(remote);
        }
        sane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_even_when_time_goes_back() {
        let mut clock = Clock::default();
        let mut before = Hlc::default();
        for now in [5, 5, 5, 3, 1, 9, 9, 2] {
            let stamp = clock.tick(now);
            assert!(stamp > before);
            before = stamp;
        }
        assert_eq!(before.ms(), 9);
    }

    #[test]
    fn a_full_counter_carries() {
        let mut clock = Clock::from(Hlc((7 << 16) | 0xffff));
        assert_eq!(clock.tick(7), Hlc::at_ms(8));
    }

    #[test]
    fn the_far_future_does_not_move_the_clock() {
        let mut clock = Clock::default();
        assert!(clock.observe(Hlc::at_ms(1_000 + CLOCK_AHEAD_MS_MAX), 1_000));
        assert!(!clock.observe(Hlc::at_ms(1_001 + CLOCK_AHEAD_MS_MAX), 1_000));
        assert_eq!(clock.last().ms(), 1_000 + CLOCK_AHEAD_MS_MAX);
    }
}
