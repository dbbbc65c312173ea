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

use super::interrupts::Interrupts;
use super::lane::{Counts, Job, Lane, Order, Stop};
use super::{Error, address, line, no_address, wait};
use crate::cli::{Format, Import};
use crate::limits::{BAD_LINES_TOLD, IMPORT_BYTES_MAX, IMPORT_WAITING_LINES, LINE_BYTES_MAX, NOTE_PAUSE_MS};
use crate::told::{Told, count};

/// Imports them; what came of it.
pub fn import(flags: &Import, now_ms: fn() -> u64) -> Result<String, Error> {
    let node = address(&flags.node).ok_or_else(|| no_address(&flags.node))?;
    let input = Input::open(flags.file.as_deref(), &flags.node)?;
    let order = Order {
        node,
        if_absent: flags.if_absent,
        dry_run: flags.dry_run,
        retry_seconds: flags.retry_seconds,
        now_ms,
    };
    let shared = Arc::new(Shared::new(flags.from_line));
    let done = wait(run(flags, Arc::new(order), input, &shared));
    let (told, bad) = (shared.summary(flags), shared.bad.load(Ordering::Relaxed));
    match done {
        Ok(()) if bad > 0 => {
            let are = if bad == 1 { "is" } else { "are" };
            Err(Error::Findings(format!("{} {are} wrong; {told}", count(bad, "line"))))
        }
        Ok(()) => Ok(told),
        Err(why @ Error::Beyond { .. }) => Err(why),
        Err(why) if flags.dry_run => Err(why.part(told)),
        Err(why) => {
            let through = shared.ledger().through;
            let goes_on =
                format!("lines up to {through} are done; go on with --from-line {}; {told}", through + 1);
            Err(why.part(goes_on))
        }
    }
}

/// Where the lines come from.
struct Input {
    file: File,
    shown: String,
    /// How many are to come, when that is known.
    bytes: Option<u64>,
}

impl Input {
    /// The file or stdin.
    fn open(file: Option<&Path>, node: &str) -> Result<Input, Error> {
        let path = file.filter(|file| *file != Path::new("-"));
        let shown = path.map_or("stdin".into(), |path| path.display().to_string());
        let open = || {
            let mut file = match path {
                Some(path) => File::open(path)?,
                None => File::from(io::stdin().as_fd().try_clone_to_owned()?),
            };
            let about = file.metadata()?;
            let here = if about.is_file() { Some(file.stream_position()?) } else { None };
            Ok((file, about.is_dir(), here.map(|here| about.len().saturating_sub(here))))
        };
        let (file, is_dir, bytes) = open().map_err(|e: io::Error| Error::Input(format!("{shown}: {e}")))?;
        if is_dir {
            return Err(Error::Input(format!(
                "{shown}: it is a directory; if it is a data directory: DynaRust export {shown} | DynaRust import {node}"
            )));
        }
        Ok(Input { file, shown, bytes })
    }
}

/// What the reading thread, the lanes and the one who waits for them share.
struct Shared {
    ledger: Mutex<Ledger>,
    counts: Arc<Counts>,
    /// Lines that a dry run has found wrong.
    bad: AtomicU64,
    /// Bytes of the file that were read.
    read: AtomicU64,
    /// Lines that were read.
    lines: AtomicU64,
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

    /// How many lines are done before the first that is not: who goes on behind them misses none.
    fn in_order(&self) -> u64 {
        self.through + 1 - self.first
    }
}

impl Shared {
    fn new(first: u64) -> Shared {
        Shared {
            ledger: Mutex::new(Ledger { first, through: first - 1, beyond: BTreeSet::new() }),
            counts: Arc::default(),
            bad: AtomicU64::new(0),
            read: AtomicU64::new(0),
            lines: AtomicU64::new(0),
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

    /// How many lines are done, and which part of those that there are, of so many bytes.
    fn progress(&self, bytes: Option<u64>) -> (u64, Option<f64>) {
        let (done, through) = {
            let ledger = self.ledger();
            (ledger.in_order(), ledger.through)
        };
        let (read, lines) = (self.read.load(Ordering::Relaxed), self.lines.load(Ordering::Relaxed));
        let part = bytes.filter(|_| done > 0 && read > 0).map(|bytes| {
            let all = lines as f64 * bytes as f64 / read as f64;
            done as f64 / (done as f64 + (all - through as f64).max(0.0))
        });
        (done, part)
    }

    fn summary(&self, flags: &Import) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { new, replaced, present, expired } = &*self.counts;
        let (new, replaced, present, expired) = (of(new), of(replaced), of(present), of(expired));
        let written = if flags.dry_run { "would be written" } else { "written" };
        let dry = if flags.dry_run { "nothing was written: " } else { "" };
        format!(
            "{dry}{} {written} ({new} new, {replaced} replaced), {present} left as they were, {expired} expired",
            count(new + replaced, "key")
        )
    }
}

async fn run(
    flags: &Import,
    order: Arc<Order>,
    Input { file, shown, bytes }: Input,
    shared: &Arc<Shared>,
) -> Result<(), Error> {
    let mut interrupts = Interrupts::watch()?;
    let (stop, stopped) = watch::channel(Stop::No);
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
        shown: shown.clone(),
        dry_run: flags.dry_run,
        lanes: senders,
        room: Arc::new(Semaphore::new(IMPORT_BYTES_MAX)),
        runtime: Handle::current(),
        shared: shared.clone(),
    };
    let (tell, read) = oneshot::channel();
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || tell.send(reader.run(BufReader::with_capacity(READ_BYTES, file))))
        .map_err(|e| Error::Input(format!("{shown}: {e}")))?;
    let mut failed: Option<Error> = None;
    let mut told = Told::new(if flags.dry_run { "checking" } else { "importing" });
    let (mut asked, mut tick) = (0, tokio::time::interval(Duration::from_millis(250)));
    loop {
        tokio::select! {
            ended = lanes.join_next() => match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    // Those that wait already are finished, so that the end is a clean one.
                    shared.stop.store(true, Ordering::Relaxed);
                    stop.send_if_modified(|stop| {
                        let goes_on = *stop == Stop::No;
                        *stop = if goes_on { Stop::WhenDone } else { *stop };
                        goes_on
                    });
                    failed = Some(first(failed, error));
                }
                Some(Err(e)) => failed = Some(Error::Node(format!("a connection's task ended: {e}"))),
            },
            () = interrupts.beyond(asked) => {
                asked = interrupts.count();
                failed = Some(failed.unwrap_or(Error::Interrupted));
                if asked > 1 {
                    break;
                }
                shared.stop.store(true, Ordering::Relaxed);
                stop.send_replace(Stop::Soon);
                told.note("interrupted: finishing the lines that are under way; a second time ends it at once");
            }
            _ = tick.tick() => {
                let (lines, part) = shared.progress(bytes);
                told.counted(lines, "lines", part);
            }
        }
    }
    match failed {
        // The reader may wait for a pipe that says nothing more; it ends with the process.
        Some(error) => Err(error),
        None => {
            let lines =
                read.await.unwrap_or_else(|_| Err(Error::Input(format!("{shown}: its thread ended"))))?;
            match flags.from_line > lines + 1 {
                true => Err(Error::Beyond { shown, lines, from: flags.from_line }),
                false => Ok(()),
            }
        }
    }
}

/// Bytes that are read from the file at a time.
const READ_BYTES: usize = 256 << 10;

/// Of two lines that failed, the one that stands before the other; what fails as it is interrupted does so because of that.
fn first(one: Option<Error>, other: Error) -> Error {
    match (one, other) {
        (Some(Error::Line { number, what }), Error::Line { number: later, .. }) if number < later => {
            Error::Line { number, what }
        }
        (Some(Error::Interrupted), _) => Error::Interrupted,
        (_, other) => other,
    }
}

/// Reads and checks the lines, and deals them out.
struct Reader {
    format: Format,
    first: u64,
    shown: String,
    dry_run: bool,
    lanes: Vec<mpsc::Sender<Job>>,
    room: Arc<Semaphore>,
    runtime: Handle,
    shared: Arc<Shared>,
}

impl Reader {
    /// How many lines there are, unless it was told to stop.
    fn run(self, mut input: impl BufRead) -> Result<u64, Error> {
        let (mut text, mut number) = (Vec::new(), 0);
        loop {
            number += 1;
            text.clear();
            let most = LINE_BYTES_MAX as u64 + 1;
            let bytes = input.by_ref().take(most).read_until(b'\n', &mut text);
            let bytes = bytes.map_err(|e| Error::Input(format!("line {number} of {}: {e}", self.shown)))?;
            self.shared.read.fetch_add(bytes as u64, Ordering::Relaxed);
            if bytes == 0 || self.shared.stop.load(Ordering::Relaxed) {
                return Ok(number - 1);
            }
            self.shared.lines.store(number, Ordering::Relaxed);
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
                        return Ok(number);
                    }
                }
                Err(what) if self.dry_run => self.find(number, &what),
                Err(what) => return Err(Error::Line { number, what }),
            }
        }
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
        for (number, through, lines) in [(6, 4, 0), (8, 4, 0), (5, 6, 2), (7, 8, 4)] {
            let mut ledger = shared.ledger();
            ledger.done(number);
            assert_eq!((ledger.through, ledger.in_order()), (through, lines), "{number}");
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
