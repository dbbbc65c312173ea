//! Reads a store for a backup, block by block, each when it is asked for: a slow reader keeps nothing waiting but itself.

use std::time::{Duration, Instant};

use super::format::{Block, End, Head, Writer};
use crate::limits::{
    BACKUP_BYTES, BACKUP_KEYS, BACKUP_LAST_BYTES, BACKUP_LAST_EVENTS, BACKUP_PAUSE, BACKUP_SWEEPS_MAX,
    FRAME_BYTES_MAX, FRAME_EVENTS_MAX,
};
use crate::replica::{Bound, Bounds, Dot, Frame, VersionVector};
use crate::storage::{Error, Guest, Moment, Store};

/// A backup that is being made.
pub struct Collector {
    store: Store,
    writer: Writer,
    now_ms: fn() -> u64,
    next: Next,
    /// How often the keys may yet be read from the beginning.
    sweeps: u32,
    /// Keeps what happens meanwhile from being forgotten.
    guest: Option<Guest>,
    /// How long the last keys took to be read.
    took: Duration,
}

/// What comes next.
enum Next {
    Head,
    /// The keys after this one, for whoever then has the target.
    Keys(VersionVector, Bound),
    /// The events since.
    Events(VersionVector),
    End(End),
    Nothing,
}

impl Collector {
    /// Of this store.
    pub fn new(store: Store, now_ms: fn() -> u64) -> Collector {
        let (writer, sweeps) = (Writer::default(), BACKUP_SWEEPS_MAX);
        Collector { store, writer, now_ms, next: Next::Head, sweeps, guest: None, took: Duration::ZERO }
    }

    /// The bytes of the next block; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let block = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Head => self.head().await?,
            Next::Keys(target, after) => self.keys(target, after).await?,
            Next::Events(have) => self.events(have).await?,
            Next::End(end) => Block::End(end),
            Next::Nothing => return Ok(None),
        };
        if matches!(block, Block::End(_)) {
            self.guest = None;
        }
        let bytes = self.writer.block(&block);
        bytes.map(Some).map_err(|e| Error::Failed(format!("a block of a backup can't be written: {e}")))
    }

    async fn head(&mut self) -> Result<Block, Error> {
        self.next = Next::Keys(self.receive().await?, None);
        Ok(Block::Head(Head {
            release: env!("CARGO_PKG_VERSION").into(),
            node: self.store.me(),
            cluster: self.store.cluster(),
            began_ms: (self.now_ms)(),
            keys: self.store.published().totals.keys,
        }))
    }

    /// What there is now; from now on what happens is kept.
    async fn receive(&mut self) -> Result<VersionVector, Error> {
        self.guest = None;
        let guest = self.guest.insert(self.store.guest().await?);
        Ok(guest.vv.clone())
    }

    async fn keys(&mut self, target: VersionVector, after: Bound) -> Result<Block, Error> {
        // A backup can wait and clients can't: it leaves them most of what there is of processors.
        if after.is_some() {
            self.store.leave_to_others(self.took * BACKUP_PAUSE).await;
        }
        let bounds = Bounds { count: BACKUP_KEYS, bytes: BACKUP_BYTES };
        let began = Instant::now();
        let piece = self.store.sweep_for(target, after, bounds).await?;
        self.took = began.elapsed();
        self.next = match piece.through.clone() {
            None => Next::Events(piece.target.clone()),
            through => Next::Keys(piece.target.clone(), through),
        };
        Ok(Block::Keys(piece))
    }

    async fn events(&mut self, have: VersionVector) -> Result<Block, Error> {
        let lacks = self.store.published().vv.beyond(&have, |_| true);
        let frame = match lacks > BACKUP_LAST_EVENTS {
            true => {
                let bounds = Bounds { count: FRAME_EVENTS_MAX, bytes: FRAME_BYTES_MAX };
                let frame = self.store.events_since(&have, bounds).await?;
                frame.inspect(|frame| self.next = Next::Events(reached(&have, frame)))
            }
            false => {
                let bounds = Bounds { count: BACKUP_LAST_EVENTS, bytes: BACKUP_LAST_BYTES };
                let moment = self.store.moment(have.clone(), bounds).await?;
                moment.map(|moment| self.may_end(&have, moment))
            }
        };
        match frame {
            Some(frame) => Ok(Block::Events(frame)),
            None => self.again().await,
        }
    }

    /// What was left is all there is, if it has become so little.
    fn may_end(&mut self, have: &VersionVector, moment: Moment) -> Frame {
        let Moment { frame, totals } = moment;
        let reached = reached(have, &frame);
        self.next = match reached.covers_all(&frame.vv) {
            false => Next::Events(reached),
            true => {
                let (vv, ended_ms) = (frame.vv.clone(), (self.now_ms)());
                Next::End(End { vv, digest: totals.digest, keys: totals.keys, ended_ms })
            }
        };
        frame
    }

    /// The log no longer has what was written meanwhile: the keys are read once more.
    async fn again(&mut self) -> Result<Block, Error> {
        self.sweeps = self.sweeps.checked_sub(1).ok_or_else(|| {
            Error::Refused(
                "more is written while a backup is read than the log keeps: read it faster, or give --log-held-mib more"
                    .into(),
            )
        })?;
        let target = self.receive().await?;
        self.keys(target, None).await
    }
}

/// What whoever had so much has with this.
fn reached(have: &VersionVector, frame: &Frame) -> VersionVector {
    let mut reached = have.clone();
    frame.ranges.iter().for_each(|range| reached.raise(Dot::new(range.origin, range.through)));
    reached
}
