//! The directory in which a private copy is: it goes with the process that made it, however that ends. On a signal or a panic
//! it is removed before the process goes; what one has left that was killed, the next one removes that makes a copy there.
//!
//! Whoever has a copy holds a lock on its directory. What is locked, or somebody else's, is never touched.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::durable::end_of_signal;
use super::error::Error;
use super::offline::{self, unused};
use crate::limits::COPY_BEGINS_MS;

/// A private copy of a directory's files; they go with it.
pub struct PrivateCopy {
    path: PathBuf,
    _lock: File,
}

/// Names of copies begin so.
const NAME: &str = "dynarust-inspect-";

/// Those of this process.
static COPIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

impl PrivateCopy {
    /// Of this directory, made in `work_dir` under a `name` of its own.
    pub fn of(dir: &Path, (work_dir, name): (&Path, u64)) -> Result<PrivateCopy, Error> {
        offline::copy(dir, None, (work_dir, name), &mut |_, _| {})
    }

    /// Makes the directory for one, and removes what is left of others.
    pub fn make((work_dir, name): (&Path, u64)) -> io::Result<PrivateCopy> {
        remove_stale(work_dir);
        watch_signals()?;
        let path = work_dir.join(format!("{NAME}{name:016x}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        copies().push(path.clone());
        let locked = File::open(&path).and_then(|dir| {
            dir.try_lock()?;
            Ok(dir)
        });
        match locked {
            Ok(lock) => Ok(PrivateCopy { path, _lock: lock }),
            Err(e) => {
                forget(&path);
                Err(e)
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        forget(&self.path);
    }
}

/// The process ends: nobody needs its copies any more.
pub fn remove_all() {
    for path in copies().drain(..) {
        let _ = fs::remove_dir_all(path);
    }
}

fn copies() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    COPIES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(path: &Path) {
    let _ = fs::remove_dir_all(path);
    copies().retain(|copy| copy != path);
}

/// What is left of processes of this user that were killed.
fn remove_stale(work_dir: &Path) {
    let Ok(list) = fs::read_dir(work_dir) else { return };
    let me = rustix::process::getuid().as_raw();
    for path in list.filter_map(|file| file.ok().map(|file| file.path())) {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NAME));
        let ours = || fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == me);
        if !named || !ours() {
            continue;
        }
        let Ok(dir) = File::open(&path) else { continue };
        if dir.try_lock().is_ok() && !is_begun(&path) && unused(&path).is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Is somebody just making it, who has not locked it yet?
fn is_begun(path: &Path) -> bool {
    let empty = fs::read_dir(path).is_ok_and(|mut files| files.next().is_none());
    let made = fs::metadata(path).and_then(|found| found.modified());
    let long = Duration::from_millis(COPY_BEGINS_MS);
    empty && made.is_ok_and(|made| made.elapsed().is_ok_and(|since| since < long))
}

/// From now on a signal that ends the process first removes its copies.
fn watch_signals() -> io::Result<()> {
    static WATCHED: Once = Once::new();
    let mut failed = Ok(());
    WATCHED.call_once(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        failed = runtime.and_then(|runtime| {
            let entered = runtime.enter();
            let of = |kind: SignalKind| Ok::<_, io::Error>((signal(kind)?, kind));
            // Not the one that `nohup` has it ignore.
            let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
            let mut signals = kinds.into_iter().map(of).collect::<io::Result<Vec<_>>>()?;
            drop(entered);
            let end = move || loop {
                let kind = runtime.block_on(std::future::poll_fn(|cx| any(&mut signals, cx)));
                // A process that has none, or none any more, looks after signals itself.
                if !copies().is_empty() {
                    remove_all();
                    end_of_signal(kind.as_raw_value());
                }
            };
            std::thread::Builder::new().name("signals".into()).spawn(end).map(drop)
        });
    });
    failed
}

fn any(signals: &mut [(Signal, SignalKind)], cx: &mut std::task::Context<'_>) -> std::task::Poll<SignalKind> {
    let ready =
        signals.iter_mut().find_map(|(signal, kind)| signal.poll_recv(cx).is_ready().then_some(*kind));
    ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
}
