//! Lines of the log that others cause, as often as they like: each is written now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{LOOKED_FOR_MS, TOLD_AGAIN_MS};
use crate::replica::NodeId;

/// When something was last said.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Is it to be said now? Then it was.
    pub(super) fn due(&self) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|told| told.elapsed() >= Duration::from_millis(TOLD_AGAIN_MS));
        if due {
            *told = Some(Instant::now());
        }
        due
    }
}

/// Another node that members look for where this one answers. While addresses change that is so for a moment.
#[derive(Default)]
pub(super) struct LookedFor(Mutex<Option<Sought>>);

struct Sought {
    id: NodeId,
    since: Instant,
    told: bool,
}

impl LookedFor {
    /// Once more. Is it to be said now? Then it was.
    pub(super) fn due(&self, id: NodeId) -> bool {
        let mut sought = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sought = match &mut *sought {
            Some(sought) if sought.id == id => sought,
            other => other.insert(Sought { id, since: Instant::now(), told: false }),
        };
        let due = !sought.told && sought.since.elapsed() >= Duration::from_millis(LOOKED_FOR_MS);
        sought.told |= due;
        due
    }
}
