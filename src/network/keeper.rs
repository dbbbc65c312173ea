//! Follows the roster: one shipper for each other member, none for anybody else; and judges who is reachable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{House, NOWHERE, join, shipper};
use crate::limits::{ROSTER_LOOK_MS, SUSPECT_MS, UNEQUAL_LOOKS};
use crate::peers::Liveness;
use crate::replica::{Digest, NodeId, VersionVector};
use crate::storage::Action;

/// Works for as long as the process.
pub async fn keep(house: Arc<House>) {
    if !house.settings.join.is_empty() {
        tokio::spawn(join::join(house.clone()));
    }
    let mut shippers: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
    let mut feed = house.store.feed();
    let mut look = true;
    loop {
        if look && house.store.cluster() != NOWHERE {
            follow(&house, &mut shippers).await;
        }
        judge(&house, &shippers);
        tokio::time::sleep(Duration::from_millis(ROSTER_LOOK_MS)).await;
        look = feed.has_changed().unwrap_or(true);
        feed.mark_unchanged();
    }
}

/// Starts and ends shippers as the roster says.
async fn follow(house: &Arc<House>, shippers: &mut BTreeMap<NodeId, JoinHandle<()>>) {
    let others = house.others();
    if let Some(former) = house.former.get().filter(|former| others.contains(former)) {
        let _ = house.record(former.0.to_be_bytes().to_vec(), Action::Delete).await;
    }
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
    let evicted = !house.store.members().unwrap_or_default().contains(&house.store.me());
    if !evicted {
        // Somebody may have written another address into it, or the same at the same time.
        house.introduce().await;
    }
}

/// Who has been silent for long is suspect, then down. Who has incorporated the same must hold the same.
fn judge(house: &House, shippers: &BTreeMap<NodeId, JoinHandle<()>>) {
    let now_ms = (house.settings.now_ms)();
    let published = house.store.published();
    for id in shippers.keys() {
        house.peers.update(*id, |peer| {
            // Entries travel as they are now, a little ahead of the vector: only what stays so is wrong.
            let differs = |(vv, digest): &(VersionVector, Digest)| {
                *vv == published.vv && *digest != published.totals.digest
            };
            peer.unequal = if peer.state.as_ref().is_some_and(differs) { peer.unequal + 1 } else { 0 };
            if peer.unequal == UNEQUAL_LOOKS {
                log::error!("member {id} has incorporated the same events and holds something else (digest): report this");
            }
            let silent_ms = now_ms.saturating_sub(*peer.seen_ms.get_or_insert(now_ms));
            let liveness = match silent_ms {
                ms if ms > SUSPECT_MS.1 => Liveness::Down,
                ms if ms > SUSPECT_MS.0 => Liveness::Suspect,
                _ => peer.liveness,
            };
            if liveness != peer.liveness {
                let why = peer.trouble.as_deref().unwrap_or("it does not answer");
                log::warn!("member {id} is {}: {why}", liveness.word());
            }
            peer.liveness = liveness;
        });
    }
}
