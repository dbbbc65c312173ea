//! Carries SWIM's packets over the node's one HTTP port, and tells whoever asks what it thinks of each member.
//!
//! A packet is a message like any other; what the protocol wants to say back to its sender at once rides on the answer, so
//! that a ping and its acknowledgement are one exchange. Nothing here waits for anybody: a packet that can't be sent, or finds
//! the inbox full, is lost, which the protocol expects of any network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::error::Error;
use super::swim::{Packet, Swim};
use super::wire::{Message, Pulse, Reply};
use super::{House, NOWHERE};
use crate::limits::{DOWN_TOLD_MS, SWIM_PACKETS_MAX, SWIM_PERIOD_MS, SWIM_UNDER_WAY_MAX};
use crate::peers::Liveness;
use crate::replica::NodeId;

/// What the pulse is told.
pub enum Beat {
    /// These are the other members.
    Roster(BTreeSet<NodeId>),
    /// A packet came in, and here goes the answer.
    Packet(NodeId, Pulse, oneshot::Sender<Pulse>),
    /// A packet of ours was answered.
    Answer(Pulse),
}

/// Works for as long as the process.
pub async fn beat(house: Arc<House>, mut beats: mpsc::Receiver<Beat>) {
    let settings = &house.settings;
    let started = Instant::now();
    let mut swim = Swim::new(house.store.me(), (settings.now_ms)(), (settings.random)());
    let mut told = Told::default();
    let under_way = Arc::new(Semaphore::new(SWIM_UNDER_WAY_MAX));
    loop {
        let due = tokio::time::Instant::from_std(started + swim.due());
        let beat = tokio::select! {
            beat = beats.recv() => beat,
            () = tokio::time::sleep_until(due) => None,
        };
        let now = started.elapsed();
        let mut asker = None;
        match beat {
            Some(Beat::Roster(others)) => swim.follow(&others, now),
            Some(Beat::Packet(from, pulse, reply)) => {
                pulse.packets.iter().take(SWIM_PACKETS_MAX).for_each(|packet| swim.receive(packet, now));
                asker = Some((from, pulse.generation, reply));
            }
            Some(Beat::Answer(pulse)) => {
                swim.known_as(pulse.generation, now);
                pulse.packets.iter().take(SWIM_PACKETS_MAX).for_each(|packet| swim.receive(packet, now));
            }
            None => {}
        }
        swim.tick(now);
        let mut packets = swim.packets();
        if let Some((from, generation, reply)) = asker {
            let (back, others): (Vec<Packet>, Vec<Packet>) =
                packets.into_iter().partition(|(to, _)| *to == from);
            packets = others;
            let known = swim.generation_of(from);
            let back = back.into_iter().map(|(_, packet)| packet).take(SWIM_PACKETS_MAX).collect();
            let generation = if known > generation { known } else { 0 };
            // Who does not wait any more does not want to know.
            let _ = reply.send(Pulse { generation, packets: back });
        }
        for (to, packet) in packets {
            let Ok(permit) = under_way.clone().try_acquire_owned() else { continue };
            let house = house.clone();
            let pulse = Pulse { generation: swim.generation(), packets: vec![packet] };
            tokio::spawn(async move {
                match exchange(&house, to, pulse).await {
                    // A full inbox loses it.
                    Ok(Some(answer)) => drop(house.pulse.try_send(Beat::Answer(answer))),
                    Ok(None) => log::debug!("SWIM: {to} is no member here"),
                    Err(error) => house.missed(to, &error),
                }
                drop(permit);
            });
        }
        note(&house, &swim, &mut told, now);
    }
}

/// Sends a packet, and what comes back; `None` when nobody of that name is a member.
async fn exchange(house: &House, to: NodeId, pulse: Pulse) -> Result<Option<Pulse>, Error> {
    let Some(address) = house.reach(to).await else { return Ok(None) };
    let limit = Duration::from_millis(SWIM_PERIOD_MS);
    match house.ask_within(&address, Message::Pulse(to, pulse), limit).await? {
        (from, Reply::Pulse(pulse)) if from == to => Ok(Some(pulse)),
        _ => Err(Error::Unreadable("it answered something else".into())),
    }
}

/// What the log says of the members.
#[derive(Default)]
struct Told {
    /// Who is up.
    up: BTreeSet<NodeId>,
    /// Who is down, since when, and whether that was said.
    downs: BTreeMap<NodeId, (Duration, bool)>,
}

/// What is thought of each member is there for all to read. The log tells of those who stay down, and of those who come up: a
/// suspicion passes or ends so, and may come again and again.
fn note(house: &House, swim: &Swim, told: &mut Told, now: Duration) {
    let Told { up, downs } = told;
    let opinions = swim.opinions(now);
    up.retain(|id| opinions.contains_key(id));
    downs.retain(|id, _| opinions.get(id) == Some(&Liveness::Down));
    let me = house.store.me();
    // Nobody answers one that is no member any more: that says nothing about them.
    let member = house.store.cluster() != NOWHERE && house.store.is_member(me);
    for (id, liveness) in opinions {
        let mut trouble = None;
        house.peers.update(id, |peer| {
            if peer.liveness != liveness && liveness != Liveness::Down && member {
                let news = liveness == Liveness::Alive && up.insert(id);
                let level = if news { log::Level::Info } else { log::Level::Debug };
                log::log!(level, "member {id} is {}", liveness.word());
            }
            peer.liveness = liveness;
            trouble = peer.trouble.clone();
        });
        if liveness != Liveness::Down {
            continue;
        }
        let (since, told) = downs.entry(id).or_insert((now, false));
        if *told || !member || now.saturating_sub(*since) < Duration::from_millis(DOWN_TOLD_MS) {
            continue;
        }
        *told = true;
        up.remove(&id);
        // This node went by that id itself, and takes it out of the roster.
        if !house.store.former().unwrap_or_default().contains(&id) {
            let why = trouble.map(|why| format!(": {why}")).unwrap_or_default();
            log::warn!("member {id} is down{why}");
        }
    }
}
