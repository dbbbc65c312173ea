//! What is in this directory? The operator's room, at night, offline.
//!
//! It looks at a private copy (`storage/offline.rs`), never changes a byte of the directory, decodes as much as can be, and
//! leaves nothing out but in summaries. It starts no task and knows neither peers nor clients.

mod changes;
mod diff;
mod lists;
mod salvage;
pub mod shown;
mod summary;
mod verify;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use crate::cli::{Inspect, What};
use crate::exit::Exit;
use crate::storage::{self, Offline};
use crate::told::Told;
use shown::Tone;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory can't be looked into.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// The reader went away, or the output can't be written.
    #[error("can't write to stdout: {0}")]
    Output(#[from] io::Error),
    /// What is asked for can't be meant so.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is not there.
    #[error("{0}")]
    Missing(String),
}

impl Error {
    /// What happened, and what to do.
    pub fn advised(&self) -> String {
        match self {
            Error::Store(error) => error.advised(),
            error => error.to_string(),
        }
    }

    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Store(error) => error.exit(),
            Error::Usage(_) => Exit::Usage,
            Error::Output(_) | Error::Missing(_) => Exit::Unforeseen,
        }
    }
}

/// Shows what is asked for; comes back with the exit code. The private copy has a `name` that nothing else has.
pub fn run(flags: &Inspect, now_ms: u64, name: u64) -> Result<u8, Error> {
    let dir = flags.dir.clone();
    storage::panics_are_told(on_damage(&flags.what), move || dir.clone());
    let mut to = io::BufWriter::new(io::stdout().lock());
    let shown = show(flags, (now_ms, name), &mut to).and_then(|code| {
        to.flush()?;
        Ok(code)
    });
    // Their codes are answers, so they have one for when there is none.
    let answers = matches!(flags.what, What::Salvage(_) | What::Diff(_) | What::Verify);
    match shown {
        // Who reads the first lines only has seen enough; but what the rest would have been, nobody knows.
        Err(Error::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
            Ok(if answers { CANT } else { Exit::Stopped as u8 })
        }
        Err(error) if answers => {
            let damaged = matches!(error, Error::Store(storage::Error::Damaged(_)));
            let _ = writeln!(io::stderr(), "error: {error}");
            Ok(if damaged { on_damage(&flags.what) as u8 } else { CANT })
        }
        shown => shown,
    }
}

/// The exit code of what answers by its code, and can't.
const CANT: u8 = 2;

/// How the process ends when the directory is too damaged to be shown.
fn on_damage(what: &What) -> Exit {
    match what {
        // That is what it has found.
        What::Verify => Exit::Unforeseen,
        What::Salvage(_) | What::Diff(_) => diff::INCOMPARABLE,
        _ => Exit::Damaged,
    }
}

fn show(flags: &Inspect, (now_ms, name): (u64, u64), to: &mut dyn Write) -> Result<u8, Error> {
    let work_dir: PathBuf = flags.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let open = || {
        let mut told = Told::new("copying");
        Offline::open(&flags.dir, (&work_dir, name), &mut |done, of| told.copied(done, of))
    };
    let mut out = Out::new(to, flags.json, now_ms);
    match &flags.what {
        What::Summary => summary::show(&open()?, &mut out)?,
        What::Keys(keys) => lists::keys(&open()?, keys, &mut out)?,
        What::Get(get) => {
            let key = lists::key_of(get, &out)?;
            return lists::get(&open()?, (&key, get.raw), &mut out);
        }
        What::Changes(changes) => {
            let follow = changes.follow_key.as_deref().map(|key| shown::given(key, changes.escaped));
            changes::show(&open()?, changes, follow.transpose()?.as_deref(), &mut out)?;
        }
        What::Members => lists::members(&open()?, &mut out)?,
        What::Conflicts(conflicts) => lists::conflicts(&open()?, conflicts, &mut out)?,
        What::Verify => {
            let mut told = Told::new("copying");
            let copied = &mut |done, of| told.copied(done, of);
            let open = || Offline::open_anyway(&flags.dir, (&work_dir, name), copied);
            return verify::run(&flags.dir, open, &mut out);
        }
        What::Diff(flags_of_it) => {
            let names = [name, name.wrapping_add(1)];
            return diff::run(&flags.dir, flags_of_it, (&work_dir, names), &mut out);
        }
        // Of a directory that sled does not open, and no copy would make it do so.
        What::Salvage(flags_of_it) => return salvage::run(&flags.dir, flags_of_it, &mut out),
    }
    Ok(Exit::Stopped as u8)
}

/// Where and how something is shown.
pub struct Out<'a> {
    /// Where to.
    pub to: &'a mut dyn Write,
    /// For programs?
    pub json: bool,
    /// Are lines coloured?
    pub colour: bool,
    /// What has expired by then is told.
    pub now_ms: u64,
}

impl<'a> Out<'a> {
    /// To this, which stands for stdout.
    pub fn new(to: &'a mut dyn Write, json: bool, now_ms: u64) -> Out<'a> {
        // As https://no-color.org has it.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Out { to, json, colour: io::stdout().is_terminal() && !plain, now_ms }
    }

    /// One object, on a line of its own.
    pub fn object(&mut self, object: &serde_json::Value) -> Result<(), Error> {
        Ok(writeln!(self.to, "{object}")?)
    }

    /// In a colour, where there are any.
    pub fn toned(&mut self, tone: Tone, line: &str) -> Result<(), Error> {
        if self.colour { self.line(&tone.of(line)) } else { self.line(line) }
    }

    /// As it is, with its end.
    pub fn line(&mut self, line: &str) -> Result<(), Error> {
        Ok(writeln!(self.to, "{line}")?)
    }
}
