//! Lines to a node: one thread reads and checks them in their order, and deals them out to the lanes by key.
//!
//! A line is done when the node has answered for good. `Ledger` knows up to which line all are, whatever the order in which
//! that happened: there an import that was stopped goes on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use super::lane::{Counts, Job, Lane, Order};
use super::{Error, address, line, no_address, wait};
use crate::cli::{Format, Import};
use crate::limits::{BAD_LINES_TOLD, IMPORT_BYTES_MAX, IMPORT_WAITING_LINES, LINE_BYTES_MAX, NOTE_PAUSE_MS};
use crate::told::Told;

/// Imports them; what came of it.
pub fn import(flags: &Import, now_ms: fn() -> u64) -> Result<String, Error> {
    let node = address(&flags.node).ok_or_else(|| no_address(&flags.node))?;
    let (input, bytes) = input(flags.file.as_deref())?;
    let order = Order {
        node,
        if_absent: flags.if_absent,
        dry_run: flags.dry_run,
        retry_seconds: flags.retry_seconds,
        now_ms,
    };
    let shared = Arc::new(Shared::new(flags.from_line));
    let done = wait(run(flags, Arc::new(order), (input, bytes), &shared));
    let (told, bad) = (shared.summary(flags), shared.bad.load(Ordering::Relaxed));
    match done {
        Ok(()) if bad > 0 => Err(Error::Findings(format!("{bad} lines are wrong; {told}"))),
        Ok(()) => Ok(told),
        Err(why) if flags.dry_run => Err(why.part(told)),
        Err(why) => {
            let through = shared.ledger().through;
            let goes_on =
                format!("lines up to {through} are done; go on with --from-line {}; {told}", through + 1);
            Err(why.part(goes_on))
        }
    }
}

/// The file or stdin, and how many bytes of it are to come, when that is known.
fn input(file: Option<&Path>) -> Result<(File, Option<u64>), Error> {
    let file = file.filter(|file| *file != Path::new("-"));
    let shown = file.map_or("stdin".into(), |file| file.display().to_string());
    let open = || {
        let mut input = match file {
            Some(file) => File::open(file)?,
            None => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        };
        let about = input.metadata()?;
        let here = if about.is_file() { Some(input.stream_position()?) } else { None };
        Ok((input, here.map(|here| about.len().saturating_sub(here))))
    };
    open().map_err(|e: io::Error| Error::Input(format!("{shown}: {e}")))
}

/// What the reading thread, the lanes and the one who waits for them share.
struct Shared {
    ledger: Mutex<Ledger>,
    counts: Arc<Counts>,
    /// Lines that a dry run has found wrong.
    bad: AtomicU64,
    /// Bytes of the file that were read.
    read: AtomicU64,
    /// No further line is to be dealt out.
    stop: AtomicBool,
    noted: Mutex<Option<Instant>>,
}

/// Which lines are done.
struct Ledger {
    first: u64,
    /// All up to this one.
    through: u64,
    /// Those beyond the first that is not.
    beyond: BTreeSet<u64>,
}

impl Ledger {
    fn done(&mut self, number: u64) {
        self.beyond.insert(number);
        while self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
        }
    }

    /// How many lines are done.
    fn lines(&self) -> u64 {
        self.through + 1 - self.first + self.beyond.len() as u64
    }
}

impl Shared {
    fn new(first: u64) -> Shared {
        Shared {
            ledger: Mutex::new(Ledger { first, through: first - 1, beyond: BTreeSet::new() }),
            counts: Arc::default(),
            bad: AtomicU64::new(0),
            read: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            noted: Mutex::new(None),
        }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is tried again: says so now and then.
    fn note(&self, why: &str) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.is_none_or(|at| at.elapsed() >= Duration::from_millis(NOTE_PAUSE_MS)) {
            *noted = Some(Instant::now());
            let _ = writeln!(io::stderr(), "note: {why}; trying again");
        }
    }

    fn summary(&self, flags: &Import) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { new, replaced, present, expired } = &*self.counts;
        let (new, replaced, present, expired) = (count(new), count(replaced), count(present), count(expired));
        let written = if flags.dry_run { "would be written" } else { "written" };
        let dry = if flags.dry_run { "nothing was written: " } else { "" };
        format!(
            "{dry}{} keys {written} ({new} new, {replaced} replaced), {present} left as they were, {expired} expired",
            new + replaced
        )
    }
}

async fn run(
    flags: &Import,
    order: Arc<Order>,
    (input, bytes): (File, Option<u64>),
    shared: &Arc<Shared>,
) -> Result<(), Error> {
    let (stop, stopped) = watch::channel(false);
    let (mut lanes, mut senders) = (JoinSet::new(), Vec::new());
    for _ in 0..flags.connections {
        let (sender, jobs) = mpsc::channel(IMPORT_WAITING_LINES);
        senders.push(sender);
        let (lane, counts, shared) = (Lane::new(order.clone()), shared.counts.clone(), shared.clone());
        let done = move |number, trouble: Option<&str>| match trouble {
            None => shared.ledger().done(number),
            Some(why) => shared.note(why),
        };
        lanes.spawn(lane.run(jobs, stopped.clone(), counts, done));
    }
    let reader = Reader {
        format: flags.format,
        first: flags.from_line,
        dry_run: flags.dry_run,
        lanes: senders,
        room: Arc::new(Semaphore::new(IMPORT_BYTES_MAX)),
        runtime: Handle::current(),
        shared: shared.clone(),
    };
    let (tell, read) = oneshot::channel();
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || tell.send(reader.run(BufReader::with_capacity(READ_BYTES, input))))
        .map_err(|e| Error::Input(format!("the lines: {e}")))?;
    let mut failed: Option<Error> = None;
    let mut told = Told::new(if flags.dry_run { "checking" } else { "importing" });
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            ended = lanes.join_next() => match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    // Those that wait already are finished, so that the end is a clean one.
                    shared.stop.store(true, Ordering::Relaxed);
                    stop.send_replace(true);
                    failed = Some(first(failed, error));
                }
                Some(Err(e)) => failed = Some(Error::Node(format!("a connection's task ended: {e}"))),
            },
            _ = tick.tick() => {
                let part = bytes.map(|of| shared.read.load(Ordering::Relaxed) as f64 / of.max(1) as f64);
                told.counted(shared.ledger().lines(), "lines", part);
            }
        }
    }
    match failed {
        // The reader may wait for a pipe that says nothing more; it ends with the process.
        Some(error) => Err(error),
        None => read.await.unwrap_or_else(|_| Err(Error::Input("the lines: their thread ended".into()))),
    }
}

/// Bytes that are read from the file at a time.
const READ_BYTES: usize = 256 << 10;

/// Of two lines that failed, the one that stands before the other.
fn first(one: Option<Error>, other: Error) -> Error {
    match (one, other) {
        (Some(Error::Line { number, what }), Error::Line { number: later, .. }) if number < later => {
            Error::Line { number, what }
        }
        (_, other) => other,
    }
}

/// Reads and checks the lines, and deals them out.
struct Reader {
    format: Format,
    first: u64,
    dry_run: bool,
    lanes: Vec<mpsc::Sender<Job>>,
    room: Arc<Semaphore>,
    runtime: Handle,
    shared: Arc<Shared>,
}

impl Reader {
    fn run(self, mut input: impl BufRead) -> Result<(), Error> {
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            let most = LINE_BYTES_MAX as u64 + 1;
            let bytes = input.by_ref().take(most).read_until(b'\n', &mut text);
            let bytes = bytes.map_err(|e| Error::Input(format!("line {number}: {e}")))?;
            self.shared.read.fetch_add(bytes as u64, Ordering::Relaxed);
            if bytes == 0 || self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            if bytes as u64 == most {
                let what = format!("it is longer than {LINE_BYTES_MAX} bytes");
                return Err(Error::Line { number, what });
            }
            if number < self.first {
                continue;
            }
            let text = text.strip_suffix(b"\n").unwrap_or(&text);
            match line::read(text, self.format) {
                Ok(None) => self.shared.ledger().done(number),
                Ok(Some(line)) => {
                    if !self.deal(number, line) {
                        break;
                    }
                }
                Err(what) if self.dry_run => self.find(number, &what),
                Err(what) => return Err(Error::Line { number, what }),
            }
        }
        Ok(())
    }

    /// Hands a line to its lane; `false` when that has ended.
    fn deal(&self, number: u64, line: line::Line) -> bool {
        let bytes = (line.key.len() + line.value.len()).clamp(1, IMPORT_BYTES_MAX) as u32;
        let room = match self.room.clone().try_acquire_many_owned(bytes) {
            Ok(room) => Ok(room),
            Err(_) => self.runtime.block_on(self.room.clone().acquire_many_owned(bytes)),
        };
        let Ok(_room) = room else { return false };
        let lane = &self.lanes[xxh3_64(line.key.as_bytes()) as usize % self.lanes.len()];
        lane.blocking_send(Job { number, line, _room }).is_ok()
    }

    /// A dry run goes on behind a bad line.
    fn find(&self, number: u64, what: &str) {
        if self.shared.bad.fetch_add(1, Ordering::Relaxed) < BAD_LINES_TOLD as u64 {
            let _ = writeln!(io::stderr(), "line {number}: {what}");
        }
        self.shared.ledger().done(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_done_up_to_the_first_that_is_not() {
        let shared = Shared::new(5);
        for (number, through, lines) in [(6, 4, 1), (8, 4, 2), (5, 6, 3), (7, 8, 4)] {
            let mut ledger = shared.ledger();
            ledger.done(number);
            assert_eq!((ledger.through, ledger.lines()), (through, lines), "{number}");
        }
    }

    #[test]
    fn of_lines_that_failed_the_first_is_told() {
        let line = |number| Error::Line { number, what: "it".into() };
        let told = |one, other| first(one, line(other)).to_string();
        assert_eq!(told(None, 7), "line 7: it");
        assert_eq!(told(Some(line(7)), 9), "line 7: it");
        assert_eq!(told(Some(line(9)), 7), "line 7: it");
    }
}
