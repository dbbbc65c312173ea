//! Writes at a steady pace, whatever the server does: a stall is felt by every write that was due in it, and not only by the
//! one that hit it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Failure;
use super::client::Client;
use super::histogram::Histogram;
use super::request::{Operation, Random, Request};

/// Writers at work.
pub struct Paced {
    stopped: Arc<AtomicBool>,
    phase: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Result<[Histogram; PHASES], String>>>,
}

impl Paced {
    /// Starts writers that together send so many writes a second, each to one of the `keys`, at random.
    pub fn start(address: SocketAddr, rate: u64, keys: u64, value_bytes: usize) -> Paced {
        let (stopped, phase) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let pause = Duration::from_secs_f64(WRITERS as f64 / rate as f64);
        let writer = |index: u64| {
            let (stopped, phase) = (stopped.clone(), phase.clone());
            let first = Instant::now() + pause * index as u32 / WRITERS as u32;
            std::thread::spawn(move || {
                write(address, (first, pause), keys, value_bytes, index, (&stopped, &phase))
                    .map_err(|e| e.to_string())
            })
        };
        let writers = (0..WRITERS).map(writer).collect();
        Paced { stopped, phase, writers }
    }

    /// What is sent from now on is booked there.
    pub fn enter(&self, phase: usize) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Ends it; the latencies by phase.
    pub fn stop(self) -> Result<[Histogram; PHASES], Failure> {
        self.stopped.store(true, Ordering::Relaxed);
        let mut all: [Histogram; PHASES] = std::array::from_fn(|_| Histogram::new());
        for writer in self.writers {
            let phases = writer.join().map_err(|_| "a writer panicked")??;
            all.iter_mut().zip(&phases).for_each(|(all, own)| all.add(own));
        }
        Ok(all)
    }
}

/// One writer. A write counts from when it was due, if the one before it was late, else from when it was sent: that this
/// thread woke late is not the server's doing.
fn write(
    address: SocketAddr,
    (first, pause): (Instant, Duration),
    keys: u64,
    value_bytes: usize,
    seed: u64,
    (stopped, phase): (&AtomicBool, &AtomicUsize),
) -> Result<[Histogram; PHASES], Failure> {
    let mut latencies = std::array::from_fn(|_| Histogram::new());
    let mut request = Request::node(address, Operation::Put, value_bytes);
    let answers = request.answers;
    let mut client = Client::open(address)?;
    let mut random = Random::new(seed);
    let (mut due, mut free_at, mut count) = (first, first, 0);
    while !stopped.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now < due {
            std::thread::sleep(due - now);
        }
        let from = if free_at > due { due } else { Instant::now() };
        let booked = phase.load(Ordering::Relaxed);
        count += 1;
        let bytes = request.with(random.below(keys), seed * 1_000_000_000 + count);
        let status = client.ask(bytes, answers)?.0;
        if !matches!(status, 200 | 201) {
            return Err(format!("a write was answered {status}").into());
        }
        free_at = Instant::now();
        latencies[booked].record(free_at - from);
        due += pause;
    }
    Ok(latencies)
}

/// Before, and during.
pub const PHASES: usize = 2;
/// As many connections, so that one slow answer does not make the pace one that can't be kept.
pub const WRITERS: u64 = 16;
