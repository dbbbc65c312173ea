//! The C symbols through which std and sled change files, defined in this binary: they do the system call and, for one
//! directory, write down that it was done. The linker takes the first definition, as it does for the library's own
//! `sync_file_range`.
//!
//! One lock spans each system call and its record, so that the order of the trace is the order of the file system. A
//! sync is two records, and other threads go on between them. It syncs nothing: what counts is what the trace says.
//! Nothing here may panic or use std's files: it would come back in.
#![expect(
    unsafe_code,
    reason = "C symbols are defined, and system calls made, here and nowhere else in this test"
)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libc::{mode_t, off64_t, size_t, ssize_t};

use crate::trace::{Event, encode, exchanged};

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);
static RECORDING: AtomicBool = AtomicBool::new(false);
static SYNC_NOTHING: AtomicBool = AtomicBool::new(false);
static SYNC_PAUSE_US: AtomicU64 = AtomicU64::new(0);
static SPARE_GENERATING: AtomicBool = AtomicBool::new(false);

struct Recorder {
    root: String,
    out: c_int,
    /// Files and directories that were opened: the present path, `None` once unlinked.
    nodes: Vec<(Option<String>, bool)>,
    names: HashMap<String, usize>,
    open: HashMap<c_int, usize>,
    syncs: u64,
}

/// From now on this process syncs nothing for real: its directories are disposable.
pub fn sync_nothing() {
    SYNC_NOTHING.store(true, Ordering::SeqCst);
}

/// From now on nobody can unlink a `.generating` file: the control for the clean-up.
pub fn spare_generating() {
    SPARE_GENERATING.store(true, Ordering::SeqCst);
}

/// Appends all that happens in `root` to the file `trace`; a sync lasts `sync_pause_us`.
pub fn record(root: &str, trace: &str, sync_pause_us: u64) {
    let mut path = trace.as_bytes().to_vec();
    path.push(0);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path ends in NUL.
    let out =
        unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644) } as c_int;
    assert!(out >= 0, "can't write the trace {trace}");
    let syncs = u64::from(std::process::id()) << 32;
    let (root, open) = (root.to_owned(), HashMap::new());
    *lock() = Some(Recorder { root, out, nodes: Vec::new(), names: HashMap::new(), open, syncs });
    SYNC_PAUSE_US.store(sync_pause_us, Ordering::SeqCst);
    RECORDING.store(true, Ordering::SeqCst);
}

/// Puts something that is no system call into the trace.
pub fn note(event: &Event) {
    recording(|recorder| recorder.put(event, &[]));
}

/// Has the system end this process if it still runs after so many seconds.
pub fn end_after(seconds: u32) {
    // SAFETY: no handler is set; the signal's default ends the process.
    unsafe { libc::alarm(seconds) };
}

/// Ends the process between two records, as SIGKILL would.
pub fn end_now() -> ! {
    let _guard = lock();
    // SAFETY: _exit never returns and touches nothing of ours.
    unsafe { libc::_exit(0) }
}

fn lock() -> MutexGuard<'static, Option<Recorder>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recording<T>(act: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
    if !RECORDING.load(Ordering::SeqCst) {
        return None;
    }
    lock().as_mut().map(act)
}

impl Recorder {
    fn put(&mut self, event: &Event, data: &[u8]) {
        let record = encode(event, data);
        let mut at = 0;
        while at < record.len() {
            let rest = &record[at..];
            // SAFETY: the bytes are ours for the call.
            match unsafe { libc::syscall(libc::SYS_write, self.out, rest.as_ptr(), rest.len()) } {
                n if n > 0 => at += n as usize,
                // A trace with a hole would accuse the innocent.
                _ => unsafe { libc::_exit(99) },
            }
        }
    }

    /// The path below the root; `None` when it is elsewhere.
    fn below(&self, dir: c_int, path: *const c_char) -> Option<String> {
        // SAFETY: callers pass what the C function of the same name takes.
        let path = unsafe { CStr::from_ptr(path) }.to_str().ok()?;
        if path.starts_with('/') || dir == libc::AT_FDCWD {
            let rest = path.strip_prefix(self.root.as_str())?;
            return match rest.strip_prefix('/') {
                Some(rest) => Some(rest.trim_end_matches('/').to_owned()),
                None if rest.is_empty() => Some(String::new()),
                None => None,
            };
        }
        let (parent, _) = &self.nodes[*self.open.get(&dir)?];
        let parent = parent.as_ref()?;
        Some(if parent.is_empty() { path.to_owned() } else { format!("{parent}/{path}") })
    }

    fn opened(&mut self, fd: c_int, path: String, directory: bool) {
        let nodes = &mut self.nodes;
        let node = *self.names.entry(path.clone()).or_insert_with(|| {
            nodes.push((Some(path), directory));
            nodes.len() - 1
        });
        self.open.insert(fd, node);
    }

    fn path(&self, fd: c_int) -> Option<(String, bool)> {
        let (path, directory) = &self.nodes[*self.open.get(&fd)?];
        Some((path.clone()?, *directory))
    }

    fn gone(&mut self, path: &str) {
        if let Some(node) = self.names.remove(path) {
            self.nodes[node].0 = None;
        }
    }
}

unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_openat, dir, path, flags, c_long::from(mode)) } as c_int;
    let traced = recording(|recorder| {
        let Some(name) = recorder.below(dir, path) else {
            let fd = call();
            recorder.open.remove(&fd);
            return fd;
        };
        let existed = unsafe { libc::syscall(libc::SYS_faccessat, dir, path, libc::F_OK) } == 0;
        let fd = call();
        if fd >= 0 {
            // SAFETY: an all-zero stat is a valid one to write into.
            let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
            let known = unsafe { libc::fstat64(fd, &mut stat) } == 0;
            let directory = known && stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if !existed {
                recorder.put(&Event::Create(name.clone()), &[]);
            } else if flags & libc::O_TRUNC != 0 {
                recorder.put(&Event::Truncate(name.clone(), 0), &[]);
            }
            recorder.opened(fd, name, directory);
        }
        fd
    });
    traced.unwrap_or_else(call)
}

/// # Safety
/// As the C function; the mode is read although it may not have been passed.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As `open`.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

/// # Safety
/// As `open`.
#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(dir, path, flags, mode) }
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    recording(|recorder| recorder.open.remove(&fd));
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

unsafe fn write_at(fd: c_int, from: *const c_void, bytes: size_t, place: Option<off64_t>) -> ssize_t {
    let call = || unsafe {
        match place {
            Some(offset) => libc::syscall(libc::SYS_pwrite64, fd, from, bytes, offset) as ssize_t,
            None => libc::syscall(libc::SYS_write, fd, from, bytes) as ssize_t,
        }
    };
    let traced = recording(|recorder| {
        let (path, false) = recorder.path(fd)? else { return None };
        let here = || unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        let offset = place.unwrap_or_else(here);
        let done = call();
        if done > 0 {
            // SAFETY: the kernel has just read these bytes.
            let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), done as usize) };
            recorder.put(&Event::Write(path, offset as u64), data);
        }
        Some(done)
    });
    traced.flatten().unwrap_or_else(call)
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, bytes: size_t, offset: off64_t) -> ssize_t {
    unsafe { write_at(fd, from, bytes, Some(offset)) }
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, from: *const c_void, bytes: size_t) -> ssize_t {
    unsafe { write_at(fd, from, bytes, None) }
}

fn sync(fd: c_int, data_only: bool) -> c_int {
    let begun = recording(|recorder| {
        let (path, _) = recorder.path(fd)?;
        recorder.syncs += 1;
        let id = recorder.syncs;
        recorder.put(&Event::SyncBegin { id, path, data_only }, &[]);
        Some(id)
    });
    if let Some(id) = begun.flatten() {
        std::thread::sleep(Duration::from_micros(SYNC_PAUSE_US.load(Ordering::Relaxed)));
        note(&Event::SyncEnd(id));
        return 0;
    }
    if SYNC_NOTHING.load(Ordering::Relaxed) {
        return 0;
    }
    let number = if data_only { libc::SYS_fdatasync } else { libc::SYS_fsync };
    // SAFETY: any number may be passed.
    unsafe { libc::syscall(number, fd) as c_int }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, false)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, true)
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    // SAFETY: any number may be passed.
    let call = || unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) } as c_int;
    let traced = recording(|recorder| {
        let (path, _) = recorder.path(fd)?;
        let done = call();
        if done == 0 {
            recorder.put(&Event::Truncate(path, length as u64), &[]);
        }
        Some(done)
    });
    traced.flatten().unwrap_or_else(call)
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_rename, from, to) } as c_int;
    let traced = recording(|recorder| {
        let (old, new) = (recorder.below(libc::AT_FDCWD, from)?, recorder.below(libc::AT_FDCWD, to)?);
        let done = call();
        if done == 0 {
            recorder.gone(&new);
            if let Some(node) = recorder.names.remove(&old) {
                recorder.nodes[node].0 = Some(new.clone());
                recorder.names.insert(new.clone(), node);
            }
            recorder.put(&Event::Rename(old, new), &[]);
        }
        Some(done)
    });
    traced.flatten().unwrap_or_else(call)
}

/// The vault lets two directories change places, and nobody else calls it.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn renameat2(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_renameat2, from_dir, from, to_dir, to, flags) } as c_int;
    let traced = recording(|recorder| {
        let (one, other) = (recorder.below(from_dir, from)?, recorder.below(to_dir, to)?);
        let done = call();
        if done == 0 {
            let names = std::mem::take(&mut recorder.names).into_iter();
            recorder.names = names.map(|(path, node)| (exchanged(&path, &one, &other), node)).collect();
            for (path, _) in &mut recorder.nodes {
                *path = path.take().map(|path| exchanged(&path, &one, &other));
            }
            recorder.put(&Event::Exchange(one, other), &[]);
        }
        Some(done)
    });
    traced.flatten().unwrap_or_else(call)
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    let spared = SPARE_GENERATING.load(Ordering::Relaxed)
        && unsafe { CStr::from_ptr(path) }.to_bytes().ends_with(b".generating");
    if spared {
        return 0;
    }
    let call = || unsafe { libc::syscall(libc::SYS_unlinkat, dir, path, flags) } as c_int;
    let traced = recording(|recorder| {
        let name = recorder.below(dir, path)?;
        let done = call();
        if done == 0 {
            recorder.gone(&name);
            let directory = flags & libc::AT_REMOVEDIR != 0;
            recorder.put(&if directory { Event::Rmdir(name) } else { Event::Unlink(name) }, &[]);
        }
        Some(done)
    });
    traced.flatten().unwrap_or_else(call)
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    let call =
        || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, c_long::from(mode)) } as c_int;
    let traced = recording(|recorder| {
        let name = recorder.below(libc::AT_FDCWD, path)?;
        let done = call();
        if done == 0 {
            recorder.put(&Event::Mkdir(name), &[]);
        }
        Some(done)
    });
    traced.flatten().unwrap_or_else(call)
}
