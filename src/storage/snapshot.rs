//! What a backup takes from a store beside its keys: the events since, and the last of them at one moment between two commits.
//!
//! The keys themselves are read as for a member that is swept (`shipping.rs`), while writes go on.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::committer::Message;
use super::shipping;
use super::trees::Trees;
use super::{Error, Rejection, Shared, Store};
use crate::replica::{Bounds, Frame, NodeId, Replica, Totals, VersionVector};

/// What a store holds at one moment, for whoever has `have` of it.
#[derive(Debug)]
pub struct Moment {
    /// The next events that are lacking; everything is there when they reach its vector.
    pub frame: Frame,
    /// Counts and digest of all entries at this moment.
    pub totals: Totals,
}

/// Somebody for whom is kept what happens: nothing of it is forgotten, and the log keeps as much of it as for a member, until
/// this is dropped.
pub struct Guest {
    store: Store,
    id: NodeId,
    /// What there was when it came.
    pub vv: VersionVector,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.store.0.shared.guests.part(self.id);
        // When the queue is full, the committer sees it by itself.
        let _ = self.store.0.inbox.try_send(Message::Heard);
    }
}

/// A question to the committer.
#[derive(Debug)]
pub struct Ask {
    pub have: VersionVector,
    pub bounds: Bounds,
    /// `None` when the log no longer reaches back so far.
    pub reply: oneshot::Sender<Result<Option<Moment>, Error>>,
}

impl Ask {
    /// Answers between two commits: nobody writes meanwhile.
    pub fn answer(self, trees: &Trees, shared: &Shared, replica: &Replica) {
        let read = || {
            if replica.must_sweep(&self.have, |_| true) {
                return Ok(None);
            }
            let (frame, _) =
                shipping::frame(trees, shared, replica, &self.have, self.bounds, &origins(replica.vv()))?;
            Ok(Some(Moment { frame, totals: *replica.totals() }))
        };
        // Who asked may be gone.
        let _ = self.reply.send(read());
    }
}

impl Store {
    /// From now on what happens is kept for whoever holds this.
    pub async fn guest(&self) -> Result<Guest, Error> {
        let (reply, answer) = oneshot::channel();
        self.post(Message::Receive(reply)).await.map_err(stopping)?;
        let (id, vv) = answer.await.map_err(|_| stopping(Rejection::Stopping))?;
        Ok(Guest { store: self.clone(), id, vv })
    }

    /// The next events that whoever has `have` lacks, with the entries of their keys as they are now; `None` when the log no
    /// longer reaches back so far.
    pub async fn events_since(&self, have: &VersionVector, bounds: Bounds) -> Result<Option<Frame>, Error> {
        let too_far = || shipping::replica(self.me(), &self.published()).must_sweep(have, |_| true);
        if too_far() {
            return Ok(None);
        }
        let (inner, had, me) = (self.0.clone(), have.clone(), self.me());
        let read = move || {
            let published = inner.shared.published();
            let replica = shipping::replica(me, &published);
            shipping::frame(&inner.trees, &inner.shared, &replica, &had, bounds, &origins(&published.vv))
        };
        let frame = self.shown(read).await?;
        // What it was read from may have been forgotten meanwhile.
        Ok((!too_far()).then_some(frame))
    }

    /// The same at one moment, with what all entries come to then. Writers wait as long as it takes to read that much.
    pub async fn moment(&self, have: VersionVector, bounds: Bounds) -> Result<Option<Moment>, Error> {
        let (reply, answer) = oneshot::channel();
        self.post(Message::Moment(Ask { have, bounds, reply })).await.map_err(stopping)?;
        answer.await.unwrap_or_else(|_| Err(stopping(Rejection::Stopping)))
    }
}

fn stopping(rejection: Rejection) -> Error {
    Error::Refused(rejection.to_string())
}

fn origins(vv: &VersionVector) -> BTreeSet<NodeId> {
    vv.iter().map(|dot| dot.origin).collect()
}
