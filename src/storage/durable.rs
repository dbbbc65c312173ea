//! Makes "on the disk" true, and ends the process when it can't be.
//!
//! sled 0.34.7 syncs its file with `sync_file_range`, which writes no metadata and flushes no disk cache ("extremely
//! dangerous", says its man page): under simulated power cuts acknowledged writes were lost in most crash states. sled
//! calls it through the C symbol, and the symbol that the linker finds first is ours: it is `fdatasync`. An fsync of
//! our own after sled's flush would not do, since sled reuses segments before that.
//!
//! A failed sync is never tried again: the kernel may have dropped the dirty pages and report success the next time
//! (Rebello et al., "Can Applications Recover from fsync Failures?", 2020). The process ends, and recovers at restart.
//!
//! A read that fails while sled opens its log looks to sled like the log's end, behind which it wipes everything. std reads at
//! a place through the C symbol `pread64`, which is ours as well: while sled opens, a failed read ends the process before
//! anything is written.
//!
//! This is the only file with `unsafe`: defining C symbols, calling `fdatasync` on a descriptor that only sled knows,
//! `renameat2` by the name under which the power-cut test stands in for it, and what ends the process without running
//! anything more of it: `_exit`, and a signal.

#![expect(unsafe_code, reason = "see above; nowhere else")]

use std::ffi::{CString, c_int, c_uint, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::exit::Exit;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many logs sled is opening now, and how often was read while it did.
static OPENING: AtomicUsize = AtomicUsize::new(0);
static READS: AtomicU64 = AtomicU64::new(0);

/// Takes the place of the C library's function of this name for the whole process.
///
/// # Safety
/// As the system call: any `fd` may be passed, a bad one fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: fdatasync takes any number and has no memory effects.
    if unsafe { libc::fdatasync(fd) } == 0 {
        return 0;
    }
    let error = io::Error::last_os_error();
    end_process(
        Exit::Failed,
        &format!("fdatasync of the store failed: {error}; restart to recover the last commit"),
    )
}

/// Takes the place of the C library's function of this name for the whole process.
///
/// # Safety
/// As the system call: `to` must have room for so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(fd: c_int, to: *mut c_void, bytes: usize, at: i64) -> isize {
    // SAFETY: handed on as it came. Offsets have 64 bits in both, on the 64-bit systems that sled needs.
    let read = unsafe { libc::pread(fd, to, bytes, at) };
    if OPENING.load(Ordering::Relaxed) == 0 {
        return read;
    }
    READS.fetch_add(1, Ordering::Relaxed);
    if read >= 0 {
        return read;
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted {
        return read;
    }
    end_process(
        Exit::Failed,
        &format!(
            "the store can't be read while it is opened: {error}. Nothing was changed: the disk, or the file system, fails to \
             give back what is there"
        ),
    )
}

/// Runs what lets sled open a log: a read that fails meanwhile ends the process. Tells too how often was read; never, of a log
/// that has something, means that the symbol above is not in use.
pub fn opening<T>(open: impl FnOnce() -> T) -> (T, u64) {
    let before = READS.load(Ordering::SeqCst);
    OPENING.fetch_add(1, Ordering::SeqCst);
    let opened = open();
    OPENING.fetch_sub(1, Ordering::SeqCst);
    (opened, READS.load(Ordering::SeqCst) - before)
}

/// How often sled has synced through us. A flush that does not raise it means that the symbol above is not in use.
pub fn sync_calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Lets two directories of one file system change places in one step: whoever looks finds both, before or after.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (one, other) = (name(one)?, name(other)?);
    // SAFETY: both names end in NUL and live until the call is over.
    let done = unsafe {
        libc::renameat2(libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Says why, and ends the process at once: no destructor runs, no other thread gets further than it is.
pub fn end_process(exit: Exit, why: &str) -> ! {
    log::error!("{why}");
    log::logger().flush();
    // SAFETY: _exit never returns and touches nothing of ours.
    unsafe { libc::_exit(exit as c_int) }
}

/// Ends the process by this signal, as if nobody had handled it.
pub fn end_of_signal(number: c_int) -> ! {
    // SAFETY: the default is put in the place of a handler, and nothing of ours is touched; `_exit` never returns.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
        libc::_exit(128 + number)
    }
}
