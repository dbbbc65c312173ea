//! Who this node is and where it belongs: rows of the `meta` tree, which no peer ever sees.
//!
//! The committer writes them, between two commits; they are on the disk before anybody is told. What follows from them is the
//! network's to decide.

use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::committer::Message;
use super::directory::Directory;
use super::trees::{Trees, meta};
use super::{Error, Rejection, Store, fatal_if_failed};
use crate::limits::{FORMER_IDS_MAX, RENEW_TO_END_MS};
use crate::replica::{NodeId, VersionVector};

/// Something that the node is to remember of itself.
#[derive(Debug)]
pub enum Note {
    /// It belongs to this cluster.
    Cluster(NodeId),
    /// It belongs to none any more; it may go back by itself to those who are reached here.
    Nowhere { back_to: Option<Vec<String>> },
    /// It writes under this id; the one before is among its former ones.
    Node(NodeId),
    /// This former id need not be remembered.
    NotFormer(NodeId),
    /// It has not yet got what its cluster had when it was taken in; or it has.
    Arriving(Option<VersionVector>),
    /// These files, made at that time, are where it writes under its id.
    Here([u8; 12]),
}

impl Note {
    /// On the disk when this comes back. Blocks.
    pub fn write(&self, trees: &Trees) -> Result<(), Error> {
        match self {
            Note::Cluster(id) => drop(trees.meta.insert(meta::CLUSTER, &id.0.to_be_bytes())?),
            Note::Nowhere { .. } if trees.id(meta::CLUSTER)? == NodeId::NOBODY.0 => {}
            Note::Nowhere { back_to } => {
                match back_to {
                    Some(addresses) => trees.meta.insert(meta::BACK_TO, addresses.join("\n").into_bytes())?,
                    None => trees.meta.remove(meta::BACK_TO)?,
                };
                replace(trees, meta::CLUSTER, NodeId::NOBODY, meta::LEFT)?;
            }
            Note::Node(id) => {
                let before = NodeId(trees.id(meta::NODE)?);
                // What it was is written first here too.
                change_former(trees, |former| {
                    former.retain(|known| *known != before);
                    former.push(before);
                    former.drain(..former.len().saturating_sub(FORMER_IDS_MAX));
                })?;
                trees.meta.insert(meta::NODE, &id.0.to_be_bytes())?;
            }
            Note::NotFormer(id) => change_former(trees, |former| former.retain(|known| known != id))?,
            Note::Arriving(Some(goal)) => {
                trees.meta.insert(meta::ARRIVING, goal.to_string().into_bytes())?;
            }
            Note::Arriving(None) => drop(trees.meta.remove(meta::ARRIVING)?),
            Note::Here(birth) => drop(trees.meta.insert(meta::BIRTH, birth)?),
        }
        trees.db.flush()?;
        Ok(())
    }
}

/// What it was is written first: a crash in between leaves it true, if early.
fn replace(trees: &Trees, row: &[u8], id: NodeId, before: &[u8]) -> Result<(), Error> {
    trees.meta.insert(before, &trees.id(row)?.to_be_bytes())?;
    trees.meta.insert(row, &id.0.to_be_bytes())?;
    Ok(())
}

fn change_former(trees: &Trees, change: impl FnOnce(&mut Vec<NodeId>)) -> Result<(), Error> {
    let mut former = trees.former()?;
    change(&mut former);
    let bytes: Vec<u8> = former.iter().flat_map(|id| id.0.to_be_bytes()).collect();
    match bytes.is_empty() {
        true => trees.meta.remove(meta::FORMER)?,
        false => trees.meta.insert(meta::FORMER, bytes)?,
    };
    Ok(())
}

/// Whether the files are those in which the node wrote before.
pub struct Birth {
    copied: bool,
    /// When they were made, if that is not yet noted.
    to_note: Option<[u8; 12]>,
}

impl Birth {
    /// Compares when the files were made with what was noted.
    pub fn of(directory: &Directory, trees: &Trees) -> Result<Birth, Error> {
        let (now, noted) = (directory.birth(), trees.meta.get(meta::BIRTH)?);
        let copied = noted.as_ref().is_some_and(|noted| now.is_some_and(|now| *noted != now));
        Ok(Birth { copied, to_note: now.filter(|_| copied || noted.is_none()) })
    }
}

impl Store {
    /// From now on the store belongs to this cluster; on the disk when this comes back.
    pub async fn adopt(&self, cluster: NodeId) -> Result<(), Rejection> {
        self.note(Note::Cluster(cluster)).await
    }

    /// From now on the store belongs to no cluster; on the disk when this comes back.
    pub async fn leave(&self, back_to: Option<Vec<String>>) -> Result<(), Rejection> {
        self.note(Note::Nowhere { back_to }).await
    }

    /// The cluster that the node has left, if it belongs to none now.
    pub fn left(&self) -> Result<Option<NodeId>, Error> {
        let left = fatal_if_failed(self.0.trees.id_if_any(meta::LEFT))?;
        Ok(left.map(NodeId).filter(|_| self.cluster() == NodeId::NOBODY))
    }

    /// To which addresses the node, having left, goes back by itself, if it does.
    pub fn back_to(&self) -> Result<Option<Vec<String>>, Error> {
        Ok(self.text(meta::BACK_TO)?.map(|text| text.lines().map(str::to_owned).collect()))
    }

    /// From now on the node writes under this id; on the disk when this comes back. Nobody may write meanwhile.
    pub async fn renew(&self, me: NodeId) -> Result<(), Rejection> {
        self.note(Note::Node(me)).await
    }

    /// The same for a process that is to end, and whose caller must not be stopped on the way: blocks until it is on the disk, or
    /// has taken too long.
    pub fn renew_to_end(&self, me: NodeId) {
        let (reply, mut answer) = oneshot::channel();
        let (mut message, began) = (Message::Note(Note::Node(me), reply), Instant::now());
        let waits = || {
            std::thread::sleep(Duration::from_millis(1));
            began.elapsed() < Duration::from_millis(RENEW_TO_END_MS)
        };
        while let Err(TrySendError::Full(back)) = self.0.inbox.try_send(message) {
            message = back;
            if !waits() {
                return;
            }
        }
        while matches!(answer.try_recv(), Err(TryRecvError::Empty)) && waits() {}
    }

    /// The ids under which the node wrote before it was found to be set back, until nobody goes by them any more.
    pub fn former(&self) -> Result<Vec<NodeId>, Error> {
        let mut former = fatal_if_failed(self.0.trees.former())?;
        former.retain(|id| *id != self.me());
        Ok(former)
    }

    /// A former id is nobody's any more, or another's.
    pub async fn forget_former(&self, id: NodeId) -> Result<(), Rejection> {
        self.note(Note::NotFormer(id)).await
    }

    /// The node has not arrived before it has this, of which nobody has told it yet if it is nothing; or it has arrived. On the
    /// disk when this comes back.
    pub async fn arrive(&self, goal: Option<VersionVector>) -> Result<(), Rejection> {
        self.note(Note::Arriving(goal)).await
    }

    /// What the node has to get before it has arrived, if it has not; nothing when nobody has told it yet.
    pub fn arriving(&self) -> Result<Option<VersionVector>, Error> {
        let Some(text) = self.text(meta::ARRIVING)? else { return Ok(None) };
        if text.is_empty() {
            return Ok(Some(VersionVector::new()));
        }
        let damaged = |_| Error::Damaged("what the node has yet to get from its cluster is damaged".into());
        let goal = text.parse::<VersionVector>().map_err(damaged)?;
        Ok(Some(goal).filter(|goal| !self.published().vv.covers_all(goal)))
    }

    /// Are the files a copy of those in which the node last wrote under its id? A copy that keeps even the time at which a
    /// file was made, as one of a whole disk does, can't be told.
    pub fn is_copy(&self) -> bool {
        self.0.birth.copied
    }

    /// From now on these files are where the node writes under its id; on the disk when this comes back.
    pub async fn settle_here(&self) -> Result<(), Rejection> {
        match self.0.birth.to_note {
            Some(birth) => self.note(Note::Here(birth)).await,
            None => Ok(()),
        }
    }

    async fn note(&self, note: Note) -> Result<(), Rejection> {
        let (reply, answer) = oneshot::channel();
        self.post(Message::Note(note, reply)).await?;
        answer.await.unwrap_or(Err(Rejection::Stopping))
    }

    fn text(&self, row: &[u8]) -> Result<Option<String>, Error> {
        let text = fatal_if_failed(self.0.trees.meta.get(row).map_err(Error::from))?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    /// Asks, and does not wait for the answer; asks again when that was there at once.
    async fn asks_and_goes<F: Future<Output = Result<(), Rejection>>>(asks: impl Fn() -> F) {
        loop {
            tokio::select! {
                biased;
                noted = asks() => noted.expect("it is noted"),
                () = std::future::ready(()) => return,
            }
        }
    }

    /// A request whose connection breaks is dropped wherever it waits.
    #[test]
    fn what_is_noted_holds_though_nobody_waits_for_it() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Store::open(&settings(place.path()), Default::default()).expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for cluster in [NodeId(7), NodeId::NOBODY, NodeId(8)] {
                let notes = async || match cluster {
                    NodeId::NOBODY => store.leave(None).await,
                    cluster => store.adopt(cluster).await,
                };
                asks_and_goes(notes).await;
                // What comes after it is done after it.
                store.forget_former(NodeId(9)).await.expect("it is noted");
                assert_eq!(store.cluster(), cluster);
                assert_eq!(store.0.trees.id(meta::CLUSTER).ok(), Some(cluster.0));
            }
            asks_and_goes(|| store.renew(NodeId(5))).await;
            store.forget_former(NodeId(9)).await.expect("it is noted");
            assert_eq!(store.me(), NodeId(5));
            store.renew_to_end(NodeId(6));
            assert_eq!((store.me(), store.0.trees.id(meta::NODE).ok()), (NodeId(6), Some(6)));
        });
        store.close();
    }
}
