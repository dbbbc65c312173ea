//! What the disk may hold after a power cut: rebuilt from a trace, for any moment of it.
//!
//! The model is a journalling file system like ext4, at its least kind:
//! - a finished sync of a file keeps all that was written to it before the sync began;
//! - of later writes, each 4 KiB block is kept as it was at some moment, often now or never, in some states sector by
//!   sector; how far the file had grown is a matter of its own;
//! - names and lengths cut come back in order, up to some moment (the journal); a sync brings the journal up to its
//!   own begin when its file or directory has changes there that are not yet in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use crate::rng::{Rng, mix};
use crate::trace::{Event, Trace, exchanged};

const SECTOR: usize = 512;
const SECTORS_PER_BLOCK: usize = 8;

/// Directories and files with their bytes.
#[derive(Clone, Default)]
pub struct Image {
    /// Paths of directories, "" for the data directory itself.
    pub dirs: BTreeSet<String>,
    /// Files by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// Puts it on a real file system.
    pub fn write(&self, root: &Path) {
        for dir in &self.dirs {
            std::fs::create_dir_all(root.join(dir)).expect("a directory can be made");
        }
        for (name, bytes) in &self.files {
            std::fs::write(root.join(name), bytes).expect("a file can be written");
        }
    }
}

/// Promises that do not count, to see that the checks notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Everything counts.
    None,
    /// The syncs of sled's file do not count, as with stock `sync_file_range`.
    DataSync,
    /// The syncs of `conf` and of directories do not count.
    NameSync,
    /// Nobody removes an unfinished snapshot.
    CleanUp,
    /// The syncs of the store that a compaction makes do not count.
    Fresh,
    /// A commit writes no rows for keys that it changes without an event.
    Repair,
}

enum Step {
    Mkdir(String),
    Rmdir(String),
    Create(String, usize),
    Rename(String, String),
    Exchange(String, String),
    Unlink(String),
    Other,
}

enum Change {
    Truncate(u64),
    Write(u64, Range<usize>),
}

struct Sync {
    begin: usize,
    end: Option<usize>,
    file: Option<usize>,
    commits: bool,
}

/// A trace, understood: which file each change is about, and what each sync keeps.
pub struct Journal {
    bytes: Vec<u8>,
    base: Image,
    /// One a record.
    steps: Vec<Step>,
    syncs: Vec<Sync>,
    /// By file: the record and the change, in order.
    changes: Vec<Vec<(usize, Change)>>,
    /// Names at the beginning.
    names: BTreeMap<String, usize>,
    /// Records that change or sync something: moments to cut at.
    pub moments: Vec<usize>,
    /// From the begin of each opening of the store to its end.
    pub openings: Vec<Range<usize>>,
    /// While sled writes a snapshot.
    pub snapshots: Vec<Range<usize>>,
    /// While the test itself is at the store.
    agings: Vec<Range<usize>>,
}

/// A moment, and what came through.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Records before this one happened.
    pub at: usize,
    journal: usize,
    keep_percent: u64,
    torn: bool,
    seed: u64,
}

impl Journal {
    /// Understands a trace that begins with `base`, all of which is on the disk.
    pub fn new(trace: Trace, base: Image, control: Control) -> Journal {
        let names: BTreeMap<String, usize> = base.files.keys().cloned().zip(0..).collect();
        let mut journal = Journal {
            bytes: trace.bytes,
            steps: Vec::with_capacity(trace.records.len()),
            syncs: Vec::new(),
            changes: names.iter().map(|_| Vec::new()).collect(),
            names: names.clone(),
            moments: Vec::new(),
            openings: Vec::new(),
            snapshots: Vec::new(),
            agings: Vec::new(),
            base,
        };
        let mut reader = Reader {
            sizes: journal.base.files.values().map(|bytes| bytes.len() as u64).collect(),
            touched: vec![(None, None); names.len()],
            names,
            dirs: HashMap::new(),
            running: HashMap::new(),
            journaled: 0,
        };
        for (at, record) in trace.records.into_iter().enumerate() {
            journal.mark(at, &record.event);
            let step = reader.take(&mut journal, control, at, record.event, record.data);
            journal.steps.push(step);
        }
        journal
    }

    fn mark(&mut self, at: usize, event: &Event) {
        match event {
            Event::Life => self.openings.push(at..at),
            Event::Opened { .. } => {
                self.openings.last_mut().into_iter().for_each(|opening| opening.end = at);
            }
            Event::Aging => self.agings.push(at..at),
            Event::Aged => self.agings.last_mut().into_iter().for_each(|aging| aging.end = at),
            Event::Create(path) if path.ends_with(".generating") => self.snapshots.push(at + 1..at + 1),
            Event::Rename(from, _) if from.ends_with(".generating") => {
                self.snapshots.last_mut().into_iter().for_each(|writing| writing.end = at);
            }
            _ => {}
        }
        let promise = matches!(
            event,
            Event::Submit { .. }
                | Event::Ack { .. }
                | Event::Refused { .. }
                | Event::Seen(_)
                | Event::Holds { .. }
                | Event::Cluster(_)
        );
        if !promise {
            self.moments.push(at);
        }
    }

    /// Records, and finished syncs that count.
    pub fn size(&self) -> (usize, usize) {
        (self.steps.len(), self.syncs.iter().filter(|sync| sync.end.is_some()).count())
    }

    /// The next moment from here at which the power may go.
    pub fn possible(&self, at: usize) -> usize {
        let during = self.agings.iter().find(|aging| aging.contains(&at));
        during.map_or(at, |aging| aging.end + 1)
    }

    /// A random outcome of a power cut just before record `at`.
    pub fn cut(&self, at: usize, rng: &mut Rng) -> Cut {
        let done = self.syncs.iter().filter(|sync| sync.commits && sync.end.is_some_and(|end| end < at));
        let least = done.map(|sync| sync.begin).max().unwrap_or(0);
        let journal = match rng.below(4) {
            0 => least,
            1 => at,
            _ => rng.between(least, at),
        };
        let keep_percent = rng.of(&[0, 50, 90, 100]);
        Cut { at, journal, keep_percent, torn: rng.percent(30), seed: rng.bits() }
    }
}

/// What must be remembered from record to record.
struct Reader {
    names: BTreeMap<String, usize>,
    sizes: Vec<u64>,
    /// By file: the last change of what the journal holds of it, and the last change of any kind.
    touched: Vec<(Option<usize>, Option<usize>)>,
    /// By directory: the last change of a name in it.
    dirs: HashMap<String, usize>,
    running: HashMap<u64, usize>,
    /// Records before this one are in the journal on the disk.
    journaled: usize,
}

impl Reader {
    fn take(
        &mut self,
        journal: &mut Journal,
        control: Control,
        at: usize,
        event: Event,
        data: Range<usize>,
    ) -> Step {
        match event {
            Event::Mkdir(path) => {
                self.name_changed(&path, at);
                Step::Mkdir(path)
            }
            Event::Rmdir(path) => {
                self.name_changed(&path, at);
                Step::Rmdir(path)
            }
            Event::Create(path) => {
                self.name_changed(&path, at);
                let file = journal.changes.len();
                journal.changes.push(Vec::new());
                self.sizes.push(0);
                self.touched.push((Some(at), Some(at)));
                self.names.insert(path.clone(), file);
                Step::Create(path, file)
            }
            Event::Unlink(path) => {
                self.name_changed(&path, at);
                self.names.remove(&path);
                Step::Unlink(path)
            }
            Event::Rename(from, to) => {
                self.name_changed(&from, at);
                self.name_changed(&to, at);
                if let Some(file) = self.names.remove(&from) {
                    self.touched[file].1 = Some(at);
                    self.names.insert(to.clone(), file);
                }
                Step::Rename(from, to)
            }
            Event::Exchange(one, other) => {
                self.name_changed(&one, at);
                self.name_changed(&other, at);
                let moved = |path: &String| exchanged(path, &one, &other);
                self.names = self.names.iter().map(|(path, file)| (moved(path), *file)).collect();
                self.dirs = self.dirs.iter().map(|(path, at)| (moved(path), *at)).collect();
                Step::Exchange(one, other)
            }
            Event::Truncate(path, length) => {
                let file = self.names[&path];
                self.sizes[file] = length;
                self.touched[file] = (Some(at), Some(at));
                journal.changes[file].push((at, Change::Truncate(length)));
                Step::Other
            }
            Event::Write(path, offset) => {
                let (file, end) = (self.names[&path], offset + data.len() as u64);
                if end > self.sizes[file] {
                    self.sizes[file] = end;
                    self.touched[file].0 = Some(at);
                }
                self.touched[file].1 = Some(at);
                journal.changes[file].push((at, Change::Write(offset, data)));
                Step::Other
            }
            Event::SyncBegin { id, path, data_only } => {
                let file = self.names.get(&path).copied();
                let counts = match control {
                    Control::DataSync => path != "store/db" || !data_only,
                    Control::NameSync => file.is_some() && path != "store/conf",
                    Control::Fresh => !path.starts_with("store.new"),
                    Control::None | Control::CleanUp | Control::Repair => true,
                };
                if counts {
                    let last = match file {
                        Some(file) if data_only => self.touched[file].0,
                        Some(file) => self.touched[file].1,
                        None => self.dirs.get(&path).copied(),
                    };
                    let commits = last.is_some_and(|last| last >= self.journaled);
                    self.running.insert(id, journal.syncs.len());
                    journal.syncs.push(Sync { begin: at, end: None, file, commits });
                }
                Step::Other
            }
            Event::SyncEnd(id) => {
                if let Some(sync) = self.running.remove(&id).map(|sync| &mut journal.syncs[sync]) {
                    sync.end = Some(at);
                    if sync.commits {
                        self.journaled = self.journaled.max(sync.begin);
                    }
                }
                Step::Other
            }
            _ => Step::Other,
        }
    }

    fn name_changed(&mut self, path: &str, at: usize) {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        self.dirs.insert(dir.to_owned(), at);
    }
}

/// Builds images of later and later cuts of one journal: what is on the disk for good is put together once.
pub struct Builder<'a> {
    journal: &'a Journal,
    /// By file: its bytes after so many of its changes.
    settled: Vec<(Vec<u8>, usize)>,
}

impl<'a> Builder<'a> {
    /// At the beginning of the journal.
    pub fn new(journal: &'a Journal) -> Builder<'a> {
        let mut settled: Vec<(Vec<u8>, usize)> =
            journal.base.files.values().map(|bytes| (bytes.clone(), 0)).collect();
        settled.resize(journal.changes.len(), (Vec::new(), 0));
        Builder { journal, settled }
    }

    /// The image of a cut that is not before the last one.
    pub fn image(&mut self, cut: &Cut) -> Image {
        let journal = self.journal;
        let mut names = journal.names.clone();
        let mut dirs = journal.base.dirs.clone();
        for step in &journal.steps[..cut.journal] {
            match step {
                Step::Mkdir(path) => drop(dirs.insert(path.clone())),
                Step::Rmdir(path) => drop(dirs.remove(path)),
                Step::Create(path, file) => drop(names.insert(path.clone(), *file)),
                Step::Unlink(path) => drop(names.remove(path)),
                Step::Rename(from, to) => {
                    if let Some(file) = names.remove(from) {
                        names.insert(to.clone(), file);
                    }
                }
                Step::Exchange(one, other) => {
                    names =
                        names.into_iter().map(|(path, file)| (exchanged(&path, one, other), file)).collect();
                    dirs = dirs.into_iter().map(|path| exchanged(&path, one, other)).collect();
                }
                Step::Other => {}
            }
        }
        let mut synced = vec![0; journal.changes.len()];
        for sync in journal.syncs.iter().filter(|sync| sync.end.is_some_and(|end| end < cut.at)) {
            sync.file.into_iter().for_each(|file| synced[file] = synced[file].max(sync.begin));
        }
        let files = names.into_iter().map(|(name, file)| (name, self.bytes(file, synced[file], cut)));
        Image { files: files.collect(), dirs }
    }

    fn bytes(&mut self, file: usize, synced: usize, cut: &Cut) -> Vec<u8> {
        let journal = self.journal;
        let changes = &journal.changes[file];
        let (settled, count) = &mut self.settled[file];
        while let Some((_, change)) = changes.get(*count).filter(|(at, _)| *at < synced) {
            match change {
                Change::Truncate(length) => settled.resize(*length as usize, 0),
                Change::Write(offset, data) => put(settled, *offset as usize, &journal.bytes[data.clone()]),
            }
            *count += 1;
        }
        let mut bytes = settled.clone();
        let luck = mix(cut.seed, file as u64);
        let grown = match luck % 3 {
            0 => synced,
            1 => cut.at,
            _ => synced + (luck >> 8) as usize % (cut.at - synced + 1),
        };
        for (at, change) in changes[*count..].iter().take_while(|(at, _)| *at < cut.at) {
            match change {
                Change::Truncate(length) if *at < cut.journal => bytes.resize(*length as usize, 0),
                Change::Truncate(_) => {}
                Change::Write(offset, data) => {
                    let (offset, data) = (*offset as usize, &journal.bytes[data.clone()]);
                    if *at < grown && bytes.len() < offset + data.len() {
                        bytes.resize(offset + data.len(), 0);
                    }
                    let end = bytes.len().min(offset + data.len());
                    let mut from = offset;
                    while from < end {
                        let to = ((from / SECTOR + 1) * SECTOR).min(end);
                        if kept(cut, luck, from / SECTOR, *at, synced) {
                            bytes[from..to].copy_from_slice(&data[from - offset..to - offset]);
                        }
                        from = to;
                    }
                }
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// Did this sector reach the disk after it was written in record `at`?
fn kept(cut: &Cut, luck: u64, sector: usize, at: usize, synced: usize) -> bool {
    let block = mix(luck, (sector / SECTORS_PER_BLOCK) as u64);
    let torn = cut.torn && block >> 32 & 3 == 0;
    let luck = if torn { mix(block, sector as u64) } else { block };
    if luck % 100 < cut.keep_percent {
        return true;
    }
    if cut.keep_percent == 0 || cut.keep_percent == 100 || luck >> 40 & 1 == 0 {
        return false;
    }
    // As it was at some moment before.
    at < synced + (luck >> 42) as usize % (cut.at - synced).max(1)
}
