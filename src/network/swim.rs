//! Who answers? SWIM with suspicion (Das, Gupta, Motivala, 2002), as the crate `foca` has it, for the members of the roster.
//!
//! Each node pings one other at a time and spreads what it finds with the next messages, so a node's own effort stays the
//! same however many members there are. Sans-io: told the time, what has come in and who belongs, it gives out packets by
//! node. It holds opinions; who is a member is never its affair.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, Foca, NoCustomBroadcast, Notification, PostcardCodec, Runtime, State, Timer};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::limits::{
    SWIM_FORGET_MS, SWIM_GOSSIP_MS, SWIM_HELLO_MS, SWIM_PACKET_BYTES_MAX, SWIM_PERIOD_MS, SWIM_ROUND_TRIP_MS,
    SWIM_SUSPECT_MS, SWIM_UNHEARD_MS,
};
use crate::peers::Liveness;
use crate::replica::NodeId;

/// A node and one of its lives: whoever was called down comes back with the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    node: NodeId,
    #[serde(deserialize_with = "sane")]
    generation: u64,
}

/// A clock's ms and some lives more. Who is told of the last of all lives would have none to come back with.
const GENERATION_MAX: u64 = 1 << 62;

fn sane<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let generation = u64::deserialize(from)?;
    match generation < GENERATION_MAX {
        true => Ok(generation),
        false => Err(serde::de::Error::custom("a generation beyond all clocks")),
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Identity> {
        Some(Identity { generation: self.generation.saturating_add(1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Identity) -> bool {
        self.generation > adversary.generation
    }
}

/// What to send, and to whom.
pub type Packet = (NodeId, Vec<u8>);

/// One node's view of the others.
pub struct Swim {
    foca: Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>,
    effects: Effects,
    /// The other members, and since when each is known.
    others: BTreeMap<NodeId, Duration>,
    /// Who is suspect, in which life, and since when.
    suspects: BTreeMap<NodeId, (foca::Member<Identity>, Duration)>,
    random: SmallRng,
    /// When those who are not known to be up are greeted next.
    hello: Duration,
}

/// What the protocol asks for while it works.
#[derive(Default)]
struct Effects {
    now: Duration,
    packets: Vec<Packet>,
    /// By the time at which they are due; those of one moment in order.
    timers: BTreeMap<(Duration, u64), Timer<Identity>>,
    count: u64,
}

impl Runtime<Identity> for &mut Effects {
    fn notify(&mut self, _: Notification<'_, Identity>) {}

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.packets.push((to.node, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.count += 1;
        self.timers.insert((self.now + after, self.count), event);
    }
}

/// How many members at most are greeted, or told something, at a time.
const FEW: NonZeroUsize = NonZeroUsize::new(3).expect("not zero");

impl Swim {
    /// A node that knows nobody yet. `generation` should be more than in its earlier lives: others correct it if it is not.
    pub fn new(me: NodeId, generation: u64, seed: u64) -> Swim {
        let mut random = SmallRng::seed_from_u64(seed);
        let config = Config {
            probe_period: Duration::from_millis(SWIM_PERIOD_MS),
            probe_rtt: Duration::from_millis(SWIM_ROUND_TRIP_MS),
            num_indirect_probes: FEW,
            // Enough for some thousand members: each round of it may triple those who know.
            max_transmissions: NonZeroU8::new(10).expect("not zero"),
            suspect_to_down_after: Duration::from_millis(SWIM_SUSPECT_MS),
            remove_down_after: Some(Duration::from_millis(SWIM_FORGET_MS)),
            max_packet_size: NonZeroUsize::new(SWIM_PACKET_BYTES_MAX).expect("not zero"),
            notify_down_members: true,
            // Who is not known to be up is greeted by `tick`, which knows the roster.
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(foca::PeriodicParams {
                frequency: Duration::from_millis(SWIM_GOSSIP_MS),
                num_members: FEW,
            }),
        };
        let own = SmallRng::seed_from_u64(random.random());
        Swim {
            foca: Foca::new(Identity { node: me, generation }, config, own, PostcardCodec),
            effects: Effects::default(),
            others: BTreeMap::new(),
            suspects: BTreeMap::new(),
            random,
            hello: Duration::ZERO,
        }
    }

    /// These are the other members now.
    pub fn follow(&mut self, others: &BTreeSet<NodeId>, now: Duration) {
        self.effects.now = now;
        self.others.retain(|id, _| others.contains(id));
        for id in others {
            self.others.entry(*id).or_insert_with(|| {
                // Somebody new: at once.
                self.hello = now;
                now
            });
        }
        let gone: Vec<foca::Member<Identity>> = self.foca.iter_members().cloned().collect();
        let gone = gone.into_iter().filter(|member| !self.others.contains_key(&member.id().node));
        let gone: Vec<_> = gone.map(|member| foca::Member::down(*member.id())).collect();
        note(self.foca.apply_many(gone.into_iter(), false, &mut self.effects));
    }

    /// A packet came in.
    pub fn receive(&mut self, packet: &[u8], now: Duration) {
        self.effects.now = now;
        note(self.foca.handle_data(packet, &mut self.effects));
    }

    /// Somebody knows this node under this generation: if that is a later one than ours (its clock was ahead then), nobody
    /// listens to us before we go beyond it.
    pub fn known_as(&mut self, generation: u64, now: Duration) {
        self.effects.now = now;
        let own = *self.foca.identity();
        if generation > own.generation && generation < GENERATION_MAX {
            let next = Identity { generation: generation.saturating_add(1), ..own };
            note(self.foca.change_identity(next, &mut self.effects));
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        self.effects.now = now;
        while let Some(due) = self.effects.timers.first_entry().filter(|due| due.key().0 <= now) {
            let timer = due.remove();
            note(self.foca.handle_timer(timer, &mut self.effects));
        }
        self.convict(now);
        if self.hello > now {
            return;
        }
        self.hello = now + Duration::from_millis(SWIM_HELLO_MS);
        let mut strangers: Vec<NodeId> = self.others.keys().copied().collect();
        strangers.retain(|id| !self.foca.iter_members().any(|member| member.id().node == *id));
        for _ in 0..FEW.get().min(strangers.len()) {
            let stranger = strangers.swap_remove(self.random.random_range(..strangers.len()));
            // Whatever its life is, it takes a greeting.
            let to = Identity { node: stranger, generation: 0 };
            note(self.foca.announce(to, &mut self.effects));
        }
    }

    /// A suspicion ends in time. The library drops its own timers when this node takes another life, and would suspect for
    /// ever whom nobody has told; who is called down is told, and comes back.
    fn convict(&mut self, now: Duration) {
        let suspects = self.foca.iter_members().filter(|member| member.state() == State::Suspect);
        let mut seen = BTreeMap::new();
        for member in suspects {
            let before = self.suspects.remove(&member.id().node).filter(|(before, _)| before == member);
            seen.insert(member.id().node, before.unwrap_or_else(|| (member.clone(), now)));
        }
        self.suspects = seen;
        let late = Duration::from_millis(2 * SWIM_SUSPECT_MS);
        let overdue = self.suspects.values().filter(|(_, since)| now.saturating_sub(*since) > late);
        let down = |(member, _): &(foca::Member<Identity>, Duration)| {
            foca::Member::new(*member.id(), member.incarnation(), State::Down)
        };
        let overdue: Vec<_> = overdue.map(down).collect();
        note(self.foca.apply_many(overdue.into_iter(), true, &mut self.effects));
    }

    /// When the next thing is due.
    pub fn due(&self) -> Duration {
        let timer = self.effects.timers.first_key_value().map(|(due, _)| due.0);
        timer.map_or(self.hello, |timer| timer.min(self.hello))
    }

    /// What is to be sent now.
    pub fn packets(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.effects.packets)
    }

    /// This node's generation.
    pub fn generation(&self) -> u64 {
        self.foca.identity().generation
    }

    /// The latest generation of another node that is known here; 0 when none is.
    pub fn generation_of(&self, node: NodeId) -> u64 {
        let known = self.foca.iter_membership_state().find(|member| member.id().node == node);
        known.map_or(0, |member| member.id().generation)
    }

    /// What is thought of each other member.
    pub fn opinions(&self, now: Duration) -> BTreeMap<NodeId, Liveness> {
        let unheard =
            |since: Duration| match now.saturating_sub(since) > Duration::from_millis(SWIM_UNHEARD_MS) {
                true => Liveness::Down,
                false => Liveness::Suspect,
            };
        let mut opinions: BTreeMap<NodeId, Liveness> =
            self.others.iter().map(|(id, since)| (*id, unheard(*since))).collect();
        for member in self.foca.iter_membership_state() {
            if let Some(opinion) = opinions.get_mut(&member.id().node) {
                *opinion = match member.state() {
                    State::Alive => Liveness::Alive,
                    State::Suspect => Liveness::Suspect,
                    // Of one that has just joined, the protocol may have heard before the roster did, and have dropped it. It
                    // has its time to come back, as if nothing had been heard.
                    State::Down => *opinion,
                };
            }
        }
        opinions
    }
}

/// Nothing here fails for good: a packet of another release or a timer of an earlier life says so, and that is all.
fn note(result: Result<(), foca::Error>) {
    if let Err(error) = result {
        log::debug!("SWIM: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes in virtual time, over a network of 1 ms.
    struct World {
        now: Duration,
        nodes: BTreeMap<NodeId, Swim>,
        wire: Vec<(Duration, NodeId, NodeId, Vec<u8>)>,
        /// Packets from the first to the second of these get lost.
        cut: BTreeSet<(NodeId, NodeId)>,
        sent: usize,
    }

    impl World {
        fn of(count: u64, seed: u64) -> World {
            let ids: BTreeSet<NodeId> = (1..=count).map(NodeId).collect();
            let node = |id: &NodeId| {
                let mut swim = Swim::new(*id, 1_000, seed.wrapping_mul(1_000).wrapping_add(id.0));
                let others = ids.iter().copied().filter(|other| other != id).collect();
                swim.follow(&others, Duration::ZERO);
                (*id, swim)
            };
            let nodes = ids.iter().map(node).collect();
            World { now: Duration::ZERO, nodes, wire: Vec::new(), cut: BTreeSet::new(), sent: 0 }
        }

        /// Runs until `done`, at most for so long; how long it took.
        fn until(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> Duration {
            let began = self.now;
            while !done(self) {
                assert!(self.now - began < limit, "not within {limit:?}");
                self.step();
            }
            self.now - began
        }

        fn step(&mut self) {
            self.now += Duration::from_millis(1);
            let (due, later) =
                std::mem::take(&mut self.wire).into_iter().partition(|mail| mail.0 <= self.now);
            self.wire = later;
            let due: Vec<(Duration, NodeId, NodeId, Vec<u8>)> = due;
            for (_, from, to, packet) in due {
                let generation = self.nodes.get(&from).map_or(0, Swim::generation);
                let Some(node) = self.nodes.get_mut(&to) else { continue };
                node.receive(&packet, self.now);
                let known = node.generation_of(from);
                if known > generation
                    && let Some(sender) = self.nodes.get_mut(&from)
                {
                    sender.known_as(known, self.now);
                }
            }
            let now = self.now;
            for (id, node) in &mut self.nodes {
                if node.due() <= now {
                    node.tick(now);
                }
                for (to, packet) in node.packets() {
                    self.sent += 1;
                    if !self.cut.contains(&(*id, to)) {
                        self.wire.push((now + Duration::from_millis(1), *id, to, packet));
                    }
                }
            }
        }

        fn all_think(&self, of: impl Fn(NodeId, NodeId) -> Liveness) -> bool {
            self.nodes.iter().all(|(me, node)| {
                node.opinions(self.now).into_iter().all(|(other, liveness)| liveness == of(*me, other))
            })
        }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn everybody_finds_everybody_and_notices_a_death() {
        for (count, seed) in [(2, 1), (3, 2), (5, 3), (50, 4), (50, 5), (50, 6)] {
            let mut world = World::of(count, seed);
            world.until(S * 10, |world| world.all_think(|_, _| Liveness::Alive));
            let dead = NodeId(count);
            world.nodes.remove(&dead);
            let expected = move |_, of| if of == dead { Liveness::Down } else { Liveness::Alive };
            world.until(S * 12, |world| world.all_think(expected));
            // It comes back with the next life, whatever its clock says.
            let mut again = Swim::new(dead, 1, 99);
            again.follow(&(1..count).map(NodeId).collect(), world.now);
            world.nodes.insert(dead, again);
            world.until(S * 20, |world| world.all_think(|_, _| Liveness::Alive));
        }
    }

    /// The effort of a node is the same in a large cluster as in a small one.
    #[test]
    fn idle_packets_do_not_grow_with_the_cluster() {
        let rate = |count: u64| {
            let mut world = World::of(count, 7);
            world.until(S * 20, |world| world.all_think(|_, _| Liveness::Alive));
            let quiet = world.now + S * 20;
            world.until(S * 30, |world| world.now >= quiet);
            let before = world.sent;
            let end = world.now + S * 30;
            world.until(S * 31, |world| world.now >= end);
            (world.sent - before) as f64 / 30.0 / count as f64
        };
        let (small, large) = (rate(5), rate(50));
        assert!(small <= 2.2 && large <= 2.2, "{small:.1} and {large:.1} packets a second and node");
    }

    /// A link that is cut in one direction: others ask in our stead, and nobody is called down.
    #[test]
    fn a_one_way_cut_between_two_is_bridged() {
        let mut world = World::of(5, 8);
        world.until(S * 10, |world| world.all_think(|_, _| Liveness::Alive));
        world.cut.insert((NodeId(1), NodeId(2)));
        let end = world.now + S * 60;
        let down = |world: &World| {
            let opinions =
                |node: &Swim| node.opinions(world.now).into_values().any(|of| of == Liveness::Down);
            world.nodes.values().any(opinions)
        };
        while world.now < end {
            world.step();
            assert!(!down(&world), "somebody was called down at {:?}", world.now);
        }
    }

    #[test]
    fn a_partition_is_seen_on_both_sides_and_heals() {
        for count in [2, 5] {
            let mut world = World::of(count, 9);
            world.until(S * 10, |world| world.all_think(|_, _| Liveness::Alive));
            let side = |id: NodeId| id.0 <= 1;
            let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
            let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
            world.cut = pairs.filter(|(a, b)| side(*a) != side(*b)).collect();
            let expected = move |me, of| if side(me) == side(of) { Liveness::Alive } else { Liveness::Down };
            world.until(S * 40, |world| world.all_think(expected));
            world.cut.clear();
            world.until(S * 20, |world| world.all_think(|_, _| Liveness::Alive));
        }
    }

    /// Ways are cut and opened at random, in each direction by itself; when all are open again, all find each other.
    #[test]
    fn random_cuts_heal() {
        for seed in 0..60 {
            let mut random = SmallRng::seed_from_u64(seed);
            let count = random.random_range(2..6);
            let mut world = World::of(count, seed);
            for _ in 0..12 {
                let ids = 1..=count;
                let pairs = ids.clone().flat_map(|a| ids.clone().map(move |b| (NodeId(a), NodeId(b))));
                let share = random.random_range(0..3);
                world.cut = pairs.filter(|_| random.random_range(0..3) < share).collect();
                let end = world.now + Duration::from_millis(random.random_range(100..8_000));
                world.until(S * 9, |world| world.now >= end);
            }
            world.cut.clear();
            let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                world.until(S * 20, |world| world.all_think(|_, _| Liveness::Alive));
            }));
            assert!(settled.is_ok(), "seed {seed}");
        }
    }

    #[test]
    fn who_is_no_member_is_not_thought_of() {
        let mut world = World::of(3, 10);
        world.until(S * 10, |world| world.all_think(|_, _| Liveness::Alive));
        let gone = NodeId(3);
        world.nodes.remove(&gone);
        let now = world.now;
        world.nodes.get_mut(&NodeId(1)).unwrap().follow(&[NodeId(2)].into(), now);
        world.nodes.get_mut(&NodeId(2)).unwrap().follow(&[NodeId(1)].into(), now);
        assert!(world.all_think(|_, _| Liveness::Alive));
        let end = world.now + S * 10;
        world.until(S * 11, |world| world.now >= end);
        assert!(world.all_think(|_, _| Liveness::Alive));
    }

    #[test]
    fn who_greets_before_the_roster_has_it_is_not_down() {
        let (old, new) = (NodeId(1), NodeId(3));
        let mut swim = Swim::new(old, 1, 1);
        swim.follow(&[NodeId(2)].into(), Duration::ZERO);
        let mut joins = Swim::new(new, 1, 2);
        joins.follow(&[old].into(), Duration::ZERO);
        joins.tick(Duration::ZERO);
        for (_, hello) in joins.packets() {
            swim.receive(&hello, Duration::ZERO);
        }
        swim.follow(&[NodeId(2)].into(), Duration::ZERO);
        swim.follow(&[NodeId(2), new].into(), S);
        assert_eq!(swim.opinions(S)[&new], Liveness::Suspect);
        assert_eq!(swim.opinions(S * 9)[&new], Liveness::Down, "unless it stays away");
    }

    #[test]
    fn rubbish_changes_nothing() {
        let mut swim = Swim::new(NodeId(1), 1, 1);
        swim.follow(&[NodeId(2)].into(), Duration::ZERO);
        swim.tick(Duration::ZERO);
        let hello = swim.packets().remove(0).1;
        for length in 0..hello.len() {
            let mut other = Swim::new(NodeId(2), 1, 2);
            other.follow(&[NodeId(1)].into(), Duration::ZERO);
            other.receive(&hello[..length], Duration::ZERO);
            other.receive(&vec![0xff; length], Duration::ZERO);
        }
    }
}
