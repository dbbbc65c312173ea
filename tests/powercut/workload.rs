//! One life of a store in a process of its own: opens, writes from many threads so that commits group, closes or is
//! cut off; the next life goes on. Everything that is sent, answered or shown goes into the trace.
//!
//! Two rules keep the history exact. The clock is the test's and stands still while writes are under way, so that it is
//! known when a version expires. And before a life is killed a key belongs to one thread, so that a write without an
//! answer can be told by what its key holds afterwards.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dynarust::metrics::Metrics;
use dynarust::replica::{Dot, Entry, Kind, Token};
use dynarust::storage::{Action, Condition, Rejection, Request, Settings, Store, Tags};
use xxhash_rust::xxh3::xxh3_64;

use crate::interpose;
use crate::older::to_format_1;
use crate::rng::{Rng, mix};
use crate::trace::{Event, Op, Put};

/// How a store is used.
pub struct Shape {
    /// For the table.
    pub name: &'static str,
    /// How many keys there are.
    pub keys: u32,
    /// Threads at once, by phase.
    lanes: &'static [usize],
    /// Writes of a phase.
    writes: usize,
    phases: u64,
    /// Processes one after another.
    pub lives: u64,
    /// Is every second life killed?
    kills: bool,
    /// Length of a value, log-uniform.
    bytes: (usize, usize),
    deletes_percent: u64,
    ttl_percent: u64,
    siblings_percent: u64,
    /// Does every life but the first begin with a compaction?
    compacts: bool,
    /// Does every life but the first begin with a migration?
    migrates: bool,
    /// How much of a key a client has seen whose write leaves siblings.
    seen_percent: u64,
}

/// All shapes: single commits, commits over several segments, chunks, reuse of segments, everything with kills, keys
/// with so many siblings that they leave the leaf, compactions, and migrations.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "single",
        keys: 120,
        lanes: &[1, 3, 8],
        writes: 120,
        phases: 4,
        lives: 4,
        kills: false,
        bytes: (2, 3_000),
        deletes_percent: 20,
        ttl_percent: 10,
        siblings_percent: 5,
        compacts: false,
        migrates: false,
        seen_percent: 50,
    },
    Shape {
        name: "burst",
        keys: 640,
        lanes: &[600, 64, 600],
        writes: 900,
        phases: 3,
        lives: 3,
        kills: true,
        bytes: (1_000, 9_000),
        deletes_percent: 15,
        ttl_percent: 5,
        siblings_percent: 0,
        compacts: false,
        migrates: false,
        seen_percent: 50,
    },
    Shape {
        name: "large",
        keys: 24,
        lanes: &[2, 8],
        writes: 40,
        phases: 3,
        lives: 4,
        kills: true,
        bytes: (3_000, 1 << 20),
        deletes_percent: 20,
        ttl_percent: 5,
        siblings_percent: 5,
        compacts: false,
        migrates: false,
        seen_percent: 50,
    },
    Shape {
        name: "churn",
        keys: 48,
        lanes: &[48, 4],
        writes: 500,
        phases: 3,
        lives: 4,
        kills: false,
        bytes: (500, 30_000),
        deletes_percent: 10,
        ttl_percent: 0,
        siblings_percent: 0,
        compacts: false,
        migrates: false,
        seen_percent: 50,
    },
    Shape {
        name: "mixed",
        keys: 100,
        lanes: &[1, 30, 90],
        writes: 250,
        phases: 3,
        lives: 5,
        kills: true,
        bytes: (2, 60_000),
        deletes_percent: 15,
        ttl_percent: 20,
        siblings_percent: 25,
        compacts: false,
        migrates: false,
        seen_percent: 50,
    },
    Shape {
        name: "siblings",
        keys: 16,
        lanes: &[2, 16],
        writes: 200,
        phases: 3,
        lives: 4,
        kills: true,
        bytes: (1_000, 4_096),
        deletes_percent: 15,
        ttl_percent: 10,
        siblings_percent: 95,
        compacts: false,
        migrates: false,
        seen_percent: 8,
    },
    Shape {
        name: "compact",
        keys: 32,
        lanes: &[16, 4],
        writes: 300,
        phases: 3,
        lives: 4,
        kills: false,
        bytes: (2_000, 60_000),
        deletes_percent: 10,
        ttl_percent: 0,
        siblings_percent: 10,
        compacts: true,
        migrates: false,
        seen_percent: 50,
    },
    Shape {
        name: "migrate",
        keys: 24,
        lanes: &[2, 8],
        writes: 30,
        phases: 2,
        lives: 4,
        kills: true,
        bytes: (3_000, 200_000),
        deletes_percent: 15,
        ttl_percent: 5,
        siblings_percent: 15,
        compacts: false,
        migrates: true,
        seen_percent: 50,
    },
];

/// So short a log that its old end goes all the time.
pub const LOG_KEPT_BYTES: usize = 16 << 10;

/// The key that only checks write.
pub const KEY_OF_CHECK: u32 = u32::MAX;

static CLOCK_MS: AtomicU64 = AtomicU64::new(0);
static CLOCK_STEP_MS: AtomicU64 = AtomicU64::new(0);

/// Sets the clock of the test; it moves on by `step_ms` whenever somebody looks at it.
pub fn set_clock(now_ms: u64, step_ms: u64) {
    CLOCK_STEP_MS.store(step_ms, Ordering::SeqCst);
    CLOCK_MS.store(now_ms, Ordering::SeqCst);
}

fn now_ms() -> u64 {
    CLOCK_MS.fetch_add(CLOCK_STEP_MS.load(Ordering::SeqCst), Ordering::SeqCst)
}

fn random() -> u64 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    mix(u64::from(std::process::id()), DRAWN.fetch_add(1, Ordering::SeqCst))
}

/// Opens the real store on the clock of the test.
pub fn open(dir: &Path) -> Result<Store, dynarust::storage::Error> {
    let settings = Settings {
        directory: dir.to_owned(),
        cache_bytes: 32 << 20,
        reserve_bytes: Some(1 << 20),
        queue: 4_096,
        log_kept_bytes: LOG_KEPT_BYTES,
        log_held_bytes: 64 << 20,
        forget_after: std::time::Duration::from_secs(86_400),
        commit_deadline: Duration::from_secs(60),
        now_ms,
        random,
    };
    Store::open(&settings, Arc::new(Metrics::default()))
}

/// A key's bytes: some are long, so that index pages split in odd places.
pub fn key_name(key: u32) -> Vec<u8> {
    let long = if key.is_multiple_of(7) { "/long".repeat(60) } else { String::new() };
    format!("{:08x}/{key}{long}", mix(u64::from(key), 1) as u32).into_bytes()
}

/// The text of a write: no two are alike.
pub fn text(id: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(id);
    let mut text: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| rng.bits().to_le_bytes()).collect();
    text.truncate(bytes);
    text
}

/// What a key holds, waiting until it is durable.
pub fn entry(store: &Store, key: u32) -> Entry {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(store.entry(Kind::Data, &key_name(key))).expect("an entry that can be read")
}

/// The newest event of this node that the store has published.
pub fn newest(store: &Store) -> u64 {
    store.published().vv.get(store.me())
}

/// Sends one write and notes what comes of it. `Some` with its event when it was done.
pub fn send(store: &Store, id: u64, op: Op, text: Option<Vec<u8>>, fresh_only: bool) -> Option<u64> {
    let ttl_ms =
        op.put.and_then(|put| put.expires_at_ms).map(|at| at.saturating_sub(CLOCK_MS.load(Ordering::SeqCst)));
    let dots = |named: &Vec<u64>| named.iter().map(|&seq| Dot::new(store.me(), seq)).collect();
    let request = Request {
        kind: Kind::Data,
        key: key_name(op.key),
        action: text.map_or(Action::Delete, |text| Action::Put(text, ttl_ms)),
        condition: Condition { matches: None, matches_none: fresh_only.then_some(Tags::Any) },
        token: op.named.as_ref().map(|named| Token::new(dots(named))),
        room: None,
    };
    interpose::note(&Event::Submit { id, op });
    match store.write_blocking(request) {
        Ok(written) => {
            assert_eq!(written.dot.origin, store.me());
            interpose::note(&Event::Ack { id, seq: written.dot.seq });
            return Some(written.dot.seq);
        }
        Err(Rejection::Precondition(Some(token))) => {
            // A refusal shows what the key holds: that too must stay.
            token.dots().iter().for_each(|dot| interpose::note(&Event::Seen(dot.seq)));
        }
        Err(
            Rejection::Nothing
            | Rejection::TokenSpent
            | Rejection::Precondition(None)
            | Rejection::TooManySiblings,
        ) => {}
        Err(other) => panic!("a write was refused: {other}"),
    }
    interpose::note(&Event::Refused { id });
    None
}

/// One life, number `life` of a store of this shape.
pub fn live(dir: &Path, shape: &Shape, seed: u64, life: u64) {
    let killed = shape.kills && life.is_multiple_of(2) && life + 1 < shape.lives;
    set_clock((life + 1) * 1_000_000, 0);
    if shape.migrates && life > 0 {
        interpose::note(&Event::Aging);
        assert!(to_format_1(dir) > 0, "nothing to migrate");
        interpose::note(&Event::Aged);
    }
    interpose::note(&Event::Life);
    if shape.compacts && life > 0 {
        let done = dynarust::storage::compact(dir, &mut |_, _, _| {}).expect("a store that can be compacted");
        assert!(done.after_bytes < done.before_bytes, "nothing was saved, and no stores changed places");
    }
    let store = open(dir).expect("a store that was not cut off opens");
    interpose::note(&Event::Opened { me: store.me().0, seq: newest(&store) });
    for key in 0..shape.keys {
        let seqs: Vec<u64> = entry(&store, key).dots().map(|dot| dot.seq).collect();
        if !seqs.is_empty() {
            interpose::note(&Event::Holds { key, seqs });
        }
    }
    let ids = AtomicU64::new(life << 32);
    for phase in 0..shape.phases {
        let last = phase + 1 == shape.phases;
        // In a last phase that is cut off nothing expires, see above.
        if !(last && killed) {
            set_clock((life + 1) * 1_000_000 + phase * 1_000, 0);
        }
        let rng = &mut Rng::new(mix(seed, life * 100 + phase));
        run_phase(&store, shape, rng, &ids, last && killed);
    }
    store.close();
    interpose::note(&Event::Closed { seq: newest(&store) });
}

fn run_phase(store: &Store, shape: &Shape, rng: &mut Rng, ids: &AtomicU64, killed: bool) {
    let lanes = rng.of(shape.lanes);
    let over = AtomicBool::new(false);
    let pause_ms = rng.between(10, 150) as u64;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes)
            .map(|lane| {
                let mut rng = Rng::new(rng.bits());
                let share = shape.writes.div_ceil(lanes);
                scope.spawn(move || {
                    let mut done = 0;
                    while done < share || killed {
                        let key = if killed {
                            lane + rng.below((shape.keys as usize - lane).div_ceil(lanes)) * lanes
                        } else {
                            rng.below(shape.keys as usize)
                        };
                        let id = ids.fetch_add(1, Ordering::SeqCst);
                        write_once(store, shape, &mut rng, id, key as u32, killed);
                        done += 1;
                    }
                })
            })
            .collect();
        let (mut rng, over) = (Rng::new(rng.bits()), &over);
        scope.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let shown =
                    entry(store, rng.below(shape.keys as usize) as u32).dots().map(|dot| dot.seq).max();
                shown.into_iter().for_each(|seq| interpose::note(&Event::Seen(seq)));
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        if killed {
            std::thread::sleep(Duration::from_millis(pause_ms));
            interpose::end_now();
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a lane that ends"));
        over.store(true, Ordering::SeqCst);
    });
}

fn write_once(store: &Store, shape: &Shape, rng: &mut Rng, id: u64, key: u32, plain: bool) {
    let delete = !plain && rng.percent(shape.deletes_percent);
    let mut named = None;
    if !plain && rng.percent(shape.siblings_percent) {
        // As a client that has not seen all of it.
        let held: Vec<u64> = entry(store, key).dots().map(|dot| dot.seq).collect();
        named = Some(held.into_iter().filter(|_| rng.percent(shape.seen_percent)).collect::<Vec<u64>>());
    }
    if delete {
        send(store, id, Op { key, put: None, named }, None, false);
        return;
    }
    let (low, high) = shape.bytes;
    let doublings = rng.below((high / low).ilog2() as usize + 1);
    let bytes = rng.between(low << doublings, (low << (doublings + 1)).min(high).max(low << doublings));
    let text = text(id, bytes);
    let expires = !plain && rng.percent(shape.ttl_percent);
    let expires_at_ms = expires.then(|| CLOCK_MS.load(Ordering::SeqCst) + 1 + 500 * rng.between(0, 4) as u64);
    let put = Some(Put { hash: xxh3_64(&text), bytes: text.len() as u64, expires_at_ms });
    let fresh_only = !plain && named.is_none() && rng.percent(10);
    send(store, id, Op { key, put, named }, Some(text), fresh_only);
}
