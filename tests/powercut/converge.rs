//! What a child does with a crash state of a node in a cluster: opens it, says what it finds, takes what was under way once
//! more, and then talks with its peers, and with the same peers as they were some time ago, until all have the same.
//! `judge` is the parent's part: it compares.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use dynarust::limits::{CHUNK_BYTES, VALUE_INLINE_BYTES_MAX};
use dynarust::replica::{Bounds, Dot, NodeId, VersionVector};
use dynarust::storage::{self, Store};
use serde::{Deserialize, Serialize};

use crate::campaign::Judge;
use crate::check::{Audit, begin, exec_audit};
use crate::cluster::{Shape, after, give, look, note, ship, totals, write};
use crate::interpose;
use crate::ledger::Ledger;
use crate::note::{Found, Happening, Note, Offer, Version, name};
use crate::peer::{ALL, Kept, Peer};
use crate::rng::{Rng, mix};
use crate::trace::{Event, Record};
use crate::verdict::hear;
use crate::workload::{KEY_OF_CHECK, LOG_KEPT_BYTES, newest, open, set_clock};

/// What a child is told.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    pub keys: Vec<u32>,
    /// Whoever was sweeping comes first.
    pub peers: Vec<Kept>,
    /// The same, some rounds ago.
    pub stale: Vec<Kept>,
    /// What was sent and not yet answered.
    pub offers: Vec<Offer>,
    /// Was a sweep under way?
    pub swept: bool,
    pub seed: u64,
}

/// What it says.
#[derive(Serialize, Deserialize)]
pub struct Report {
    found: Found,
    wrote: Vec<(Happening, Dot)>,
    last: Found,
    /// What the peers hold in the end.
    peers: Vec<At>,
}

#[derive(Serialize, Deserialize)]
struct At {
    vv: VersionVector,
    totals: (u64, u64, String),
    holds: BTreeMap<u32, Vec<Version>>,
}

/// Opens and reports.
pub fn check(dir: &Path, plan: &Path) -> ! {
    let plan = std::fs::read(plan).expect("a plan");
    let plan: Plan = serde_json::from_slice(&plan).expect("a plan");
    begin();
    set_clock(0, 0);
    interpose::note(&Event::Life);
    let store = open(dir).unwrap_or_else(|e| storage::end_process(e.exit(), &e.to_string()));
    interpose::note(&Event::Opened { me: store.me().0, seq: newest(&store) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(converge(&store, &plan));
    store.close();
    interpose::note(&Event::Closed { seq: newest(&store) });
    println!("{}", serde_json::to_string(&report).expect("plain data"));
    exec_audit(dir)
}

async fn converge(store: &Store, plan: &Plan) -> Report {
    let found = look(store, &plan.keys).await;
    note(Note::Found(found.clone()));
    let members = store.members();
    let mut listed: Vec<NodeId> = Vec::new();
    for key in found.holds.keys().filter(|key| name(**key).0 == dynarust::replica::Kind::Membership) {
        listed.push(NodeId(u64::from_be_bytes(name(*key).1.try_into().expect("eight bytes"))));
    }
    assert_eq!(members, listed, "members are not those with a record");
    let rng = &mut Rng::new(plan.seed);
    let mut ids = u64::from(std::process::id()) << 32 | 1 << 63;
    let mut id = || {
        ids += 1;
        ids
    };
    for offer in &plan.offers {
        let have = store.published().vv.clone();
        let vv = give(store.clone(), id(), offer.clone()).await;
        if let Offer::Frame(frame) = offer {
            let fits = frame.ranges.iter().filter(|range| range.after <= have.get(range.origin));
            let ends = fits.map(|range| Dot::new(range.origin, range.through));
            ends.for_each(|end| assert!(vv.covers(end), "a frame that fits is not incorporated: {end}"));
        }
    }
    let mut peers: Vec<Peer> = plan.peers.iter().chain(&plan.stale).map(Peer::of).collect();
    let current = plan.peers.len();
    let bounds = |rng: &mut Rng| Bounds { count: rng.between(1, 40) as u64, bytes: 1 << rng.between(10, 20) };
    for peer in &mut peers {
        (peer.sweep, peer.sweeping) = (None, false);
    }
    for peer in &mut peers[current..] {
        // Early, with all that the last life has forgotten or cut off.
        let bounds = bounds(rng);
        while !plan.swept && ship(store, peer, bounds).await {}
    }
    let mut wrote = Vec::new();
    for bytes in [Some(100), Some(40_000), None] {
        wrote.push(client(store, id(), bytes).await);
    }
    for peer in &mut peers {
        push(store, peer, bounds(rng), &mut id).await;
    }
    catch_up(store, &mut peers, bounds(rng)).await;
    for peer in &peers[..current] {
        store.acknowledge(peer.replica.me(), peer.replica.vv());
    }
    // Forgetting and the log's old end go with the next commits.
    for bytes in [Some(9_000), Some(20), None] {
        wrote.push(client(store, id(), bytes).await);
    }
    for peer in &mut peers {
        push(store, peer, bounds(rng), &mut id).await;
    }
    catch_up(store, &mut peers, ALL).await;
    let last = look(store, &plan.keys).await;
    let peers = peers.iter().map(|peer| At {
        vv: peer.replica.vv().clone(),
        totals: peer.totals(),
        holds: peer.all(),
    });
    Report { found, wrote, last, peers: peers.collect() }
}

/// A write of a key that nobody else writes.
async fn client(store: &Store, id: u64, bytes: Option<u64>) -> (Happening, Dot) {
    let (kind, name) = name(KEY_OF_CHECK);
    let held = store.entry(kind, &name).await.expect("an entry that can be read");
    let replaced = held.dots().collect();
    let happening = Happening { key: KEY_OF_CHECK, text: bytes.map(|bytes| (id, bytes)), replaced };
    let dot = write(store.clone(), id, happening.clone(), true).await;
    (happening, dot.expect("a write of a key of its own is taken"))
}

/// Sends the store all that a peer has.
async fn push(store: &Store, peer: &mut Peer, bounds: Bounds, id: &mut impl FnMut() -> u64) {
    for _ in 0..100_000 {
        let have = store.published().vv.clone();
        let offer = peer.next(&have, bounds, false);
        if matches!(&offer, Offer::Frame(frame) if frame.ranges.is_empty()) {
            return;
        }
        let expected = after(&offer, &have);
        let last = match &offer {
            Offer::Sweep(sweep) if sweep.through.is_none() => Some(sweep.target.clone()),
            _ => None,
        };
        let vv = give(store.clone(), id(), offer).await;
        assert!(vv.covers_all(&expected), "a frame that fits is not incorporated");
        assert!(last.is_none_or(|target| vv.covers_all(&target)), "a sweep is over and not incorporated");
    }
    panic!("a peer never comes to an end");
}

/// Sends all peers what the store has.
async fn catch_up(store: &Store, peers: &mut [Peer], bounds: Bounds) {
    for peer in peers {
        while ship(store, peer, bounds).await {}
    }
}

impl Judge for (&Shape, Ledger) {
    const MODE: &'static str = "converge";

    fn prepare(&self, at: usize, number: u64, scratch: &Path, command: &mut Command) {
        let mut plan = self.1.plan(at);
        (plan.keys, plan.seed) = (self.0.keys(), mix(number, at as u64));
        let path = scratch.join("plan");
        std::fs::write(&path, serde_json::to_vec(&plan).expect("plain data")).expect("a file can be written");
        command.arg(path);
    }

    fn go_on(self, records: &[Record]) -> Self {
        (self.0, self.1.read(records))
    }

    fn judge(&self, output: &Output, at: usize) -> Result<(Self, bool), String> {
        let (report, audit): (Report, Audit) = hear(output)?;
        let ledger = &self.1;
        let settled = ledger.settle(&report.found, at)?;
        if report.found.totals != totals(&report.found) {
            return Err(format!("counts {:?}, to be {:?}", report.found.totals, totals(&report.found)));
        }
        let beyond = report.found.vv != ledger.promised(at);
        let next = |settled| if ledger.served(at) { Ledger::from(settled, at) } else { Ledger::default() };
        let next = next(settled);
        in_the_end(&report, &next)?;
        left_over(&report, &audit, self.0.guest())?;
        Ok(((self.0, next), beyond))
    }
}

/// Everybody must have all, and the same: exactly what causality leaves.
fn in_the_end(report: &Report, ledger: &Ledger) -> Result<(), String> {
    let Report { found, wrote, last, peers } = report;
    let mut events = ledger.events.clone();
    for ((happening, dot), seq) in wrote.iter().zip(found.vv.get(found.me) + 1..) {
        if *dot != Dot::new(found.me, seq) {
            return Err(format!("the next write is {dot}, not event {seq}"));
        }
        events.insert(0, *dot, happening);
    }
    if last.vv.get(found.me) != found.vv.get(found.me) + wrote.len() as u64 || !last.vv.covers_all(&found.vv)
    {
        return Err(format!("from {:?} it came to {:?}", found.vv, last.vv));
    }
    if last.totals != totals(last) {
        return Err(format!("in the end counts are {:?}, to be {:?}", last.totals, totals(last)));
    }
    for key in events.keys().chain(last.holds.keys().copied()) {
        let held: Vec<Dot> = last.holds.get(&key).into_iter().flatten().map(|version| version.dot).collect();
        let live: Vec<Dot> = events.live(key, &last.vv).into_iter().collect();
        if held != live {
            return Err(format!("in the end key {key} holds {held:?}, to live is {live:?}"));
        }
    }
    for (number, peer) in peers.iter().enumerate() {
        if (&peer.vv, &peer.totals) != (&last.vv, &last.totals) {
            let (vv, totals) = (&peer.vv, &peer.totals);
            return Err(format!(
                "peer {number} ends at {vv:?} {totals:?}, not {:?} {:?}",
                last.vv, last.totals
            ));
        }
        let texts = |holds: &BTreeMap<u32, Vec<Version>>| -> Vec<(u32, Dot, u64, u64)> {
            let text = |key: &u32, v: &Version| (*key, v.dot, v.id, v.bytes);
            holds.iter().flat_map(|(key, held)| held.iter().map(move |v| text(key, v))).collect()
        };
        if texts(&peer.holds) != texts(&last.holds) {
            return Err(format!("peer {number} does not hold what the store holds"));
        }
    }
    events.texts_are_right(last)
}

/// Of each origin the log must be unbroken up to the vector, and whoever lacks what is not in it below the floor; chunks must
/// be those of what lives.
fn left_over(report: &Report, audit: &Audit, guest: u32) -> Result<(), String> {
    let last = &report.last;
    let mut starts: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ends: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (first, through) in &audit.rows {
        starts.entry(first.origin).or_insert(first.seq - 1);
        let end = ends.insert(first.origin, *through);
        if end.is_some_and(|end| end + 1 != first.seq) {
            return Err(format!("the log goes on with {first}, not after {end:?}"));
        }
    }
    for dot in last.vv.iter() {
        let end = ends.remove(&dot.origin).unwrap_or(dot.seq);
        let start = starts.get(&dot.origin).copied().unwrap_or(dot.seq);
        if end != dot.seq || last.floor.get(dot.origin) < start {
            let floor = &last.floor;
            return Err(format!("the log of {} is {start}..{end}, at {dot}, floor {floor:?}", dot.origin));
        }
    }
    if !ends.is_empty() {
        return Err(format!("the log has rows of {ends:?}"));
    }
    // All peers have all, but a guest says nothing.
    if audit.rows_bytes > 2 * LOG_KEPT_BYTES && !last.holds.contains_key(&guest) {
        return Err(format!("the log has {} bytes", audit.rows_bytes));
    }
    let mut chunks = BTreeMap::new();
    for version in last.holds.values().flatten() {
        if version.bytes > VALUE_INLINE_BYTES_MAX as u64 && !version.chunked {
            return Err(format!("{version:?} is not in chunks"));
        }
        if version.chunked {
            chunks.insert(version.dot, (version.bytes.div_ceil(CHUNK_BYTES as u64), version.bytes));
        }
    }
    let found: BTreeMap<Dot, (u64, u64)> = audit.chunks.iter().copied().collect();
    if found != chunks {
        let stray: Vec<_> = found.iter().filter(|(dot, pieces)| chunks.get(dot) != Some(pieces)).collect();
        let missing: Vec<_> = chunks.keys().filter(|dot| !found.contains_key(dot)).collect();
        return Err(format!("left over in the chunks are {stray:?}, missing {missing:?}"));
    }
    Ok(())
}
