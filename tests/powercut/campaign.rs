//! Records the lives of stores, and puts crash states of them to the children, as many at a time as there are CPUs.
//!
//! All randomness of a state comes from (seed, number of the state), so that a kept trace replays it. Threads of a
//! workload race, so the trace of a failure is kept.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::crash::{Builder, Control, Image, Journal};
use crate::rng::{Rng, mix};
use crate::trace::{Record, Trace};

/// Power cuts during the recovery from a power cut during the recovery from a power cut.
const DEPTH_MAX: u64 = 3;

/// In so many of a hundred states the recovery is cut off too; in more when it has something to do.
const RECOVERY_CUT_PERCENT: (u64, u64) = (5, 20);

/// What a store must hold, by its history.
pub trait Judge: Sync + Sized {
    /// What a child is called to do with a crash state.
    const MODE: &'static str;

    /// Tells a child what it needs for a crash before record `at`.
    fn prepare(&self, at: usize, number: u64, scratch: &Path, command: &mut Command);

    /// Goes on with what a trace says.
    fn go_on(self, records: &[Record]) -> Self;

    /// Is what a child found what it must be? The history that begins with it, and whether it was more than was promised.
    fn judge(&self, output: &Output, at: usize) -> Result<(Self, bool), String>;
}

/// The lives of one store, and how crash states are drawn from them.
pub struct Campaign<'a, M> {
    seed: u64,
    control: Control,
    /// The traced lives.
    pub journal: Journal,
    model: M,
    scratch: &'a Path,
    /// What is promised to nobody but may be there, as a count of states.
    pub beyond: AtomicU64,
    /// States with an unfinished snapshot.
    pub unfinished: AtomicU64,
    /// States of recoveries.
    pub nested: AtomicU64,
    /// States in all.
    pub states: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// A state to be: its number, its moment, and the randomness of the rest.
struct Draw {
    number: u64,
    at: usize,
    rng: Rng,
}

/// Runs all lives of a store, each in a process of its own, and says where their trace is.
pub fn record(name: &str, lives: u64, seed: u64, scratch: &Path) -> PathBuf {
    let (dir, trace) = (scratch.join("node"), scratch.join("trace"));
    let _ = std::fs::remove_dir_all(&dir);
    let _ = std::fs::remove_file(&trace);
    for life in 0..lives {
        let mut command = child("live", &dir);
        command.arg(name).arg(seed.to_string()).arg(life.to_string()).arg(&trace);
        let output = command.output().expect("a child starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "life {life} of '{name}' ended with {}:\n{stderr}", output.status);
    }
    trace
}

fn child(mode: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path to this binary"));
    command.arg(mode).arg(dir).env("RUST_LOG", "warn");
    command
}

impl<'a, M: Judge> Campaign<'a, M> {
    /// Over a trace that was recorded.
    pub fn new(model: M, seed: u64, trace: &Path, control: Control, scratch: &'a Path) -> Campaign<'a, M> {
        let trace = Trace::read(trace);
        Campaign {
            seed,
            control,
            model: model.go_on(&trace.records),
            journal: Journal::new(trace, Image::default(), control),
            scratch,
            beyond: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
            nested: AtomicU64::new(0),
            states: AtomicU64::new(0),
            failures: Mutex::new(Vec::new()),
        }
    }

    /// Puts these states to the test until there are so many failures; says which.
    pub fn run(self: &Campaign<'a, M>, numbers: Range<u64>, failures_max: usize) -> Vec<String> {
        let mut draws: Vec<Draw> = numbers.map(|number| self.draw(number)).collect();
        draws.sort_by_key(|draw| draw.at);
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let next = AtomicUsize::new(0);
        let (draws, next) = (&draws, &next);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    let mut builder = Builder::new(&self.journal);
                    while let Some(draw) = draws.get(next.fetch_add(1, Ordering::SeqCst)) {
                        if self.failed().len() >= failures_max {
                            return;
                        }
                        self.put(draw, &mut builder, &self.scratch.join(format!("state{thread}")));
                    }
                });
            }
        });
        std::mem::take(&mut *self.failed())
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failures.lock().expect("no thread panics with it")
    }

    fn draw(&self, number: u64) -> Draw {
        let mut rng = Rng::new(mix(self.seed, number));
        let journal = &self.journal;
        let (end, _) = journal.size();
        let writing: Vec<_> = journal.snapshots.iter().filter(|writing| !writing.is_empty()).collect();
        let at = match rng.below(100) {
            _ if self.control == Control::CleanUp => within(one(&writing, number), &mut rng),
            0..15 => within(one(&writing, number), &mut rng),
            15..30 => within(one(&journal.openings.iter().collect::<Vec<_>>(), number), &mut rng),
            30..38 => within(&journal.openings[0], &mut rng),
            38..40 => end,
            _ => moment(journal, &mut rng),
        };
        Draw { number, at: journal.possible(at), rng }
    }

    fn put(&self, draw: &Draw, builder: &mut Builder, scratch: &Path) {
        let mut rng = Rng::new(draw.rng.clone().bits());
        let cut = self.journal.cut(draw.at, &mut rng);
        let image = builder.image(&cut);
        let depth = if self.control == Control::None { 1 } else { DEPTH_MAX };
        let mut path = format!("state {}: {cut:?}", draw.number);
        if let Err(why) = self.examine(image, &self.model, draw.at, depth, &mut rng, scratch, &mut path) {
            self.failed().push(format!("{path}: {why}"));
        }
    }

    /// One image and, below `DEPTH_MAX`, power cuts during its recovery.
    #[expect(clippy::too_many_arguments, reason = "what a state is, taken apart once")]
    fn examine(
        &self,
        image: Image,
        model: &M,
        at: usize,
        depth: u64,
        rng: &mut Rng,
        scratch: &Path,
        path: &mut String,
    ) -> Result<(), String> {
        let (dir, trace) = (scratch.join("node"), scratch.join("trace"));
        let _ = std::fs::remove_dir_all(scratch);
        std::fs::create_dir_all(scratch).expect("a scratch directory");
        image.write(&dir);
        self.states.fetch_add(1, Ordering::Relaxed);
        if image.files.keys().any(|name| name.ends_with(".generating")) {
            self.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        if self.control == Control::Repair {
            let _ = child("drop-repair-rows", &dir).output();
        }
        let mut command = child(M::MODE, &dir);
        model.prepare(at, rng.clone().bits(), scratch, &mut command);
        if depth < DEPTH_MAX {
            command.arg(&trace);
        }
        if self.control == Control::CleanUp {
            command.env("DYNARUST_POWERCUT_SPARE", "1");
        }
        let (base, beyond) = model.judge(&command.output().expect("a child starts"), at)?;
        if beyond {
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
        let (idle, busy) = RECOVERY_CUT_PERCENT;
        if depth == DEPTH_MAX || depth == 1 && !rng.percent(if beyond { busy } else { idle }) {
            return Ok(());
        }
        let trace = Trace::read(&trace);
        let model = base.go_on(&trace.records);
        let journal = Journal::new(trace, image, self.control);
        let count = if depth == 1 { rng.between(1, 3) } else { 1 };
        let opening = journal.openings[0].clone();
        let mut moments: Vec<usize> = (0..count)
            .map(|_| if rng.percent(60) { within(&opening, rng).max(1) } else { moment(&journal, rng) })
            .collect();
        moments.sort_unstable();
        let mut builder = Builder::new(&journal);
        for at in moments {
            self.nested.fetch_add(1, Ordering::Relaxed);
            let cut = journal.cut(at, rng);
            let length = path.len();
            path.push_str(&format!(", then {cut:?}"));
            self.examine(builder.image(&cut), &model, at, depth + 1, rng, scratch, path)?;
            path.truncate(length);
        }
        Ok(())
    }
}

/// After a record that changed something, and some of the promises that followed.
fn moment(journal: &Journal, rng: &mut Rng) -> usize {
    let moments = &journal.moments;
    let place = rng.below(moments.len());
    let end = moments.get(place + 1).copied().unwrap_or(journal.size().0);
    rng.between(moments[place] + 1, end)
}

/// Somewhere in this stretch of records.
fn within(range: &Range<usize>, rng: &mut Rng) -> usize {
    rng.between(range.start, range.end)
}

fn one<'r>(ranges: &[&'r Range<usize>], number: u64) -> &'r Range<usize> {
    ranges[mix(number, 7) as usize % ranges.len()]
}
