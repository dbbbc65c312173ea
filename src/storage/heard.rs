//! What the members have said that they have on their disks: told by the network, read by the committer and by writes that
//! wait for copies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::limits::LAPSE_LOOK_MS;
use crate::replica::{NodeId, VersionVector};

/// What a member has said.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// It has all of this on its disk.
    pub vv: VersionVector,
    /// When it last said something, in ms since 1970; when it was first known if it never did.
    pub at_ms: u64,
    /// It has less than it once said: what the committer knows of it must be replaced, not joined.
    pub fell_back: bool,
}

/// All of it.
pub struct Heard {
    said: Mutex<BTreeMap<NodeId, Said>>,
    /// Has anything been said that the committer has not read?
    news: AtomicBool,
    /// Does the committer want to be woken by the next word?
    wanted: AtomicBool,
    /// When the committer last read all, to see who has fallen silent.
    read_ms: AtomicU64,
    /// Wakes whoever waits for a member to have something.
    spoken: Notify,
}

impl Heard {
    /// Nobody has said anything yet.
    pub fn new(now_ms: u64) -> Heard {
        Heard {
            said: Mutex::new(BTreeMap::new()),
            news: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            read_ms: AtomicU64::new(now_ms),
            spoken: Notify::new(),
        }
    }

    /// A member has this on its disk; words of strangers are dropped. `true` when the committer wants to know.
    pub fn say(&self, peer: NodeId, vv: &VersionVector, now_ms: u64) -> bool {
        let mut said = self.said();
        let Some(known) = said.get_mut(&peer) else { return false };
        // Who was away for long may be one that forgetting goes on without: it is waited for again.
        let back = now_ms.saturating_sub(known.at_ms) > LAPSE_LOOK_MS;
        known.at_ms = now_ms;
        if known.vv.covers_all(vv) && !back {
            return false;
        }
        known.vv.join(vv);
        drop(said);
        self.news.store(true, Ordering::SeqCst);
        self.spoken.notify_waiters();
        self.wanted.swap(false, Ordering::SeqCst)
    }

    /// A member has no more than this, though it once said otherwise: it was set back.
    pub fn fell_back(&self, peer: NodeId, vv: &VersionVector) {
        if let Some(known) = self.said().get_mut(&peer) {
            known.vv = vv.clone();
            known.fell_back = true;
        }
        self.news.store(true, Ordering::Release);
        self.spoken.notify_waiters();
    }

    /// These are the members; what others have said is forgotten.
    pub fn keep(&self, members: &BTreeSet<NodeId>, now_ms: u64) {
        let mut said = self.said();
        said.retain(|peer, _| members.contains(peer));
        for member in members {
            let new = Said { vv: VersionVector::new(), at_ms: now_ms, fell_back: false };
            said.entry(*member).or_insert(new);
        }
        drop(said);
        self.news.store(true, Ordering::Release);
        self.spoken.notify_waiters();
    }

    /// The committer wants to be woken by the next word, or not. `true` when it has come already: nobody wakes it for that.
    #[must_use]
    pub fn want(&self, wanted: bool) -> bool {
        self.wanted.store(wanted, Ordering::SeqCst);
        wanted && self.news.load(Ordering::SeqCst)
    }

    /// What has been said, if the committer has something to read in it.
    pub fn news(&self, now_ms: u64) -> Option<BTreeMap<NodeId, Said>> {
        let late = now_ms.saturating_sub(self.read_ms.load(Ordering::Relaxed)) > LAPSE_LOOK_MS;
        if !self.news.swap(false, Ordering::AcqRel) && !late {
            return None;
        }
        self.read_ms.store(now_ms, Ordering::Relaxed);
        let mut said = self.said();
        let all = said.clone();
        said.values_mut().for_each(|said| said.fell_back = false);
        Some(all)
    }

    /// What has been said, by member.
    pub fn all(&self) -> BTreeMap<NodeId, Said> {
        self.said().clone()
    }

    /// What a member has said; `None` for strangers.
    pub fn of(&self, peer: NodeId) -> Option<Said> {
        self.said().get(&peer).cloned()
    }

    /// Looks at what has been said. Nobody can say anything meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<NodeId, Said>) -> T) -> T {
        look(&self.said())
    }

    /// Waits until the next word, or until `done` holds.
    pub async fn until(&self, mut done: impl FnMut(&BTreeMap<NodeId, Said>) -> bool) {
        loop {
            let mut spoken = std::pin::pin!(self.spoken.notified());
            spoken.as_mut().enable();
            if done(&self.said()) {
                return;
            }
            spoken.await;
        }
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<NodeId, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Dot;

    #[test]
    fn who_comes_back_with_nothing_new_is_news() {
        let (peer, heard) = (NodeId(7), Heard::new(0));
        let vv = [Dot::new(peer, 3)].into_iter().collect();
        heard.keep(&[peer].into(), 0);
        heard.say(peer, &vv, 1);
        assert!(heard.news(1).is_some());
        let says = |now_ms| {
            assert!(!heard.want(true));
            heard.say(peer, &vv, now_ms)
        };
        assert!(!says(2) && heard.news(2).is_none(), "it says the same as before");
        assert!(says(3 + LAPSE_LOOK_MS), "nobody else may be there to speak");
    }
}
