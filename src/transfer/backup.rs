//! `DynaRust backup`: a running node's backup into a file, or to stdout, where nothing can be taken back: there the exit code
//! tells whether it is whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use reqwest::Response;
use tokio::runtime::Runtime;

use super::{Error, address, beginning, client, detail, no_address, runtime, stdout_is_read, told};
use crate::backup::{Block, Broken, End, Reader};
use crate::cli::Backup;
use crate::limits::BACKUP_SYNC_BYTES;
use crate::part::Part;
use crate::time;
use crate::told::{Told, count};

/// Fetches a backup into a file that is not there yet, and comes back with what is told of it.
pub fn backup(flags: &Backup) -> Result<String, Error> {
    let node = address(&flags.node).ok_or_else(|| no_address(&flags.node))?;
    let shown = if flags.to_stdout() { Path::new("stdout") } else { &flags.output }.display();
    let failed = |e: io::Error| Error::File(format!("can't write {shown}: {e}"));
    let to = To::begin(flags).map_err(failed)?;
    let url = format!("http://{node}/backup");
    let mut download = Download::begin(url, &to)?;
    let proven = proven(&mut download);
    // It breaks off where nothing more comes, or nothing more can be written.
    let broken = |why| download.failed.take().unwrap_or_else(|| Error::Broken(download.url.clone(), why));
    let (bytes, End { keys, ended_ms, .. }) = proven.map_err(broken)?;
    if let To::File(part) = to {
        part.finish().map_err(failed)?;
    }
    Ok(format!("{shown}: {} in {bytes} bytes, as of {}", count(keys, "key"), time::text(ended_ms)))
}

/// Where it goes.
enum To {
    File(Part),
    Stdout(File),
}

impl To {
    fn begin(flags: &Backup) -> io::Result<To> {
        if !flags.to_stdout() {
            return Part::begin(&flags.output).map(To::File);
        }
        stdout_is_read()?;
        Ok(To::Stdout(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }

    fn path(&self) -> &Path {
        match self {
            To::File(part) => part.as_yet(),
            To::Stdout(_) => Path::new("stdout"),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            To::File(part) => part.file().write_all(bytes),
            To::Stdout(pipe) => (&*pipe).write_all(bytes),
        }
    }

    /// A pipe has no disk.
    fn sync(&self) -> io::Result<()> {
        match self {
            To::File(part) => part.file().sync_data(),
            To::Stdout(_) => Ok(()),
        }
    }
}

/// Reads all of a backup; how long it is and what it says at its end.
fn proven(from: &mut impl Read) -> Result<(u64, End), Broken> {
    let mut reader = Reader::new(from)?;
    let (mut told, mut read, mut of, mut end) = (Told::new("backing up"), 0, 0, None);
    while let Some(block) = reader.block()? {
        match block {
            Block::Head(head) => of = head.keys,
            Block::Keys(sweep) => read += sweep.entries.len() as u64,
            Block::Events(_) => {}
            Block::End(last) => end = Some(last),
        }
        told.counted(read, "keys", (of > 0).then(|| (read as f64 / of as f64).min(1.0)));
    }
    Ok((reader.at(), end.ok_or(Broken::CutOff(reader.at()))?))
}

/// A node's answer, each byte of which goes into a file as it is read.
struct Download<'a> {
    runtime: Runtime,
    url: String,
    answer: Response,
    /// What came last and how much of it was read.
    came: (Vec<u8>, usize),
    to: &'a To,
    /// Bytes that may not be on the disk yet.
    unsynced: usize,
    failed: Option<Error>,
}

impl<'a> Download<'a> {
    fn begin(url: String, to: &'a To) -> Result<Download<'a>, Error> {
        let runtime = runtime()?;
        let lost = |e: reqwest::Error| Error::Node(format!("{url}: {}", told(&e)));
        let client = client()?;
        // Called in it, not only waited for: it looks for the runtime at once.
        let answer = runtime.block_on(async { client.get(&url).send().await }).map_err(lost)?;
        if !answer.status().is_success() {
            let (status, body) = (answer.status(), runtime.block_on(beginning(answer)).map_err(lost)?);
            return Err(Error::Node(format!("{url} answers {status}: {}", detail(&body))));
        }
        Ok(Download { runtime, url, answer, came: (Vec::new(), 0), to, unsynced: 0, failed: None })
    }

    fn more(&mut self) -> Result<(), Error> {
        let lost = |e: reqwest::Error| Error::Node(format!("{}: {}", self.url, told(&e)));
        let next = self.runtime.block_on(async {
            loop {
                match self.answer.chunk().await {
                    // Only what ends it may look like an end.
                    Ok(Some(bytes)) if bytes.is_empty() => {}
                    next => break next,
                }
            }
        });
        let came = next.map_err(lost)?.unwrap_or_default();
        let failed = |e: io::Error| Error::File(format!("can't write {}: {e}", self.to.path().display()));
        self.to.write(&came).map_err(failed)?;
        self.unsynced += came.len();
        if self.unsynced > BACKUP_SYNC_BYTES {
            self.to.sync().map_err(failed)?;
            self.unsynced = 0;
        }
        self.came = (came.into(), 0);
        Ok(())
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.came.1 == self.came.0.len()
            && let Err(error) = self.more()
        {
            self.failed = Some(error);
            return Err(io::Error::other("no more of it"));
        }
        let (bytes, at) = &mut self.came;
        let read = (bytes.len() - *at).min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[*at..*at + read]);
        *at += read;
        Ok(read)
    }
}
