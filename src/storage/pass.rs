//! Forgetting that walks all keys, since what waits to be forgotten stands in no row of the log.

use crate::replica::{Bound, VersionVector};

/// A walk that is asked for, or on its way.
#[derive(Debug, Default)]
pub struct Pass {
    /// It may begin when every member has this.
    asked: Option<VersionVector>,
    /// Is it on its way?
    begun: bool,
    /// How far it has come.
    pub after: Bound,
}

impl Pass {
    /// There is something to forget once every member has this.
    pub fn ask(&mut self, vv: &VersionVector) {
        self.asked.get_or_insert_default().join(vv);
    }

    /// Is there a step to do?
    pub fn begins(&mut self, stable: impl Fn(&VersionVector) -> bool) -> bool {
        if !self.begun && self.asked.as_ref().is_some_and(stable) {
            *self = Pass { asked: None, begun: true, after: None };
        }
        self.begun
    }

    /// Would [`Pass::begins`] find a step to do?
    pub fn goes_on(&self, stable: impl Fn(&VersionVector) -> bool) -> bool {
        self.begun || self.asked.as_ref().is_some_and(stable)
    }

    /// Does it wait for a member to say that it has something?
    pub fn waits(&self) -> bool {
        self.asked.is_some()
    }

    /// It has come to the last key.
    pub fn end(&mut self) {
        self.begun = false;
    }
}
