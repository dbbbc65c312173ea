//! Follows the roster: one shipper for each other member, none for anybody else; and compares what members hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::clocks::Clocks;
use super::evict::Evictions;
use super::pulse::{self, Beat};
use super::{House, NOWHERE, seeker, shipper};
use crate::limits::ROSTER_LOOK_MS;
use crate::peers::Liveness;
use crate::replica::{Digest, NodeId, VersionVector};

/// Works for as long as the process; joins by these addresses, and whom else it has to.
pub async fn keep(house: Arc<House>, beats: mpsc::Receiver<Beat>, addresses: Vec<String>) {
    tokio::spawn(pulse::beat(house.clone(), beats));
    tokio::spawn(seeker::seek(house.clone(), addresses));
    let mut shippers: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
    let (mut evictions, mut clocks) = (Evictions::default(), Clocks::default());
    let mut feed = house.store.feed();
    let (mut look, mut followed) = (true, NOWHERE);
    loop {
        let cluster = house.store.cluster();
        evictions.look(&house).await;
        if (look || cluster != followed) && cluster != NOWHERE {
            follow(&house, &mut shippers).await;
        }
        followed = cluster;
        retire(&house, &shippers).await;
        compare(&house, &shippers);
        let others: Vec<NodeId> = shippers.keys().copied().collect();
        clocks.look(&house, &others);
        house.tell_of_ways(&others).await;
        tokio::time::sleep(Duration::from_millis(ROSTER_LOOK_MS)).await;
        look = feed.has_changed().unwrap_or(true);
        feed.mark_unchanged();
        // It tells of what is about to be on the disk, and who is a member is known when it is.
        house.store.settled().await;
    }
}

/// Nobody may go by an id that this node gave up. Who still answers under it is another process, on a later copy of the
/// directory, and stays, whatever becomes of it later.
async fn retire(house: &House, shippers: &BTreeMap<NodeId, JoinHandle<()>>) {
    // Those that it is to join may know it by them.
    let joined = !house.fellows().is_empty() || house.settings.join.is_empty();
    for former in house.store.former().unwrap_or_default() {
        let known = house.peers.get(former);
        let done = match known.liveness {
            // Nothing is known of it yet.
            _ if !shippers.contains_key(&former) => {
                joined && house.store.cluster() != NOWHERE && !house.store.is_member(former)
            }
            // That it is alive others may only believe, from when this node went by it.
            Liveness::Suspect | Liveness::Alive => known.seen_ms.is_some(),
            Liveness::Down => house.remove(former).await.is_ok() && joined,
        };
        if done {
            // Else it is looked at again.
            let _ = house.store.forget_former(former).await;
        }
    }
}

/// Starts and ends shippers as the roster says.
async fn follow(house: &Arc<House>, shippers: &mut BTreeMap<NodeId, JoinHandle<()>>) {
    let others = house.others();
    // It ends with the process only.
    let _ = house.pulse.send(Beat::Roster(others.iter().copied().collect())).await;
    shippers.retain(|id, shipper| {
        let stays = others.contains(id);
        if !stays {
            shipper.abort();
            house.peers.forget(*id);
            log::info!("{id} is no member any more");
        }
        stays
    });
    for id in others {
        shippers.entry(id).or_insert_with(|| tokio::spawn(shipper::ship(house.clone(), id)));
    }
    house.look_for_address().await;
    // Somebody may have written another address into it, or the same at the same time.
    house.introduce().await;
}

/// Who has incorporated the same must hold the same.
fn compare(house: &House, shippers: &BTreeMap<NodeId, JoinHandle<()>>) {
    if house.store.is_out() {
        // Nobody tells it anything any more.
        return;
    }
    let published = house.store.published();
    let now_ms = (house.settings.now_ms)();
    let said = house.store.said();
    // Of who is on its way to what there is, the vector does not tell what it holds.
    let on_its_way = house.peers.arrival().is_some() || house.sweepers().sweeps(house.age_ms());
    for id in shippers.keys() {
        let has = said.get(id).map(|said| &said.vv);
        let lacks = |vv: &VersionVector| has.is_none_or(|has| !has.covers_all(vv));
        house.peers.update(*id, |peer| {
            // Under load a member is always a little behind, each time something else.
            peer.owed = peer.owed.take().filter(|(vv, _)| lacks(vv));
            if peer.owed.is_none() && lacks(&published.vv) {
                peer.owed = Some((published.vv.clone(), now_ms));
            }
            // Entries travel as they are now, a little ahead of the vector: only what stays so is wrong. What one of them got
            // ahead of its vector, from a disk that is gone, nobody else would ever send: the shipper shows it.
            let own = published.totals.digest;
            let differs = |(vv, its): &&(VersionVector, Digest)| *vv == published.vv && *its != own;
            let apart =
                peer.state.as_ref().filter(|_| !on_its_way).filter(differs).map(|(_, its)| (*its, own));
            peer.unequal = match apart {
                Some(_) if apart == peer.apart => peer.unequal + 1,
                apart => u32::from(apart.is_some()),
            };
            peer.apart = apart;
        });
    }
}
