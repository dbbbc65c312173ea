//! What it means for the process when sled gives up: some of its errors are panics, and some only lines of its log.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

static OPENING: AtomicBool = AtomicBool::new(false);

/// A store is being opened, or is not any more.
pub fn opening(is: bool) {
    OPENING.store(is, Ordering::SeqCst);
}

/// What it means for the process when the engine gives up now: while a store opens, its directory is damaged, and starting
/// again would not help.
pub fn engine_exit() -> Exit {
    if OPENING.load(Ordering::SeqCst) { Exit::Damaged } else { Exit::Failed }
}

/// What a panic at this place means for the process: sled panics on damage, most of all while it opens.
pub fn panic_exit(file: &str) -> Exit {
    if file.contains("sled-0.34") { engine_exit() } else { Exit::Unforeseen }
}

/// How the process must end when sled says this, if it must: some of its threads only log what ends them.
pub fn fatal(record: &log::Record) -> Option<Exit> {
    if record.level() != log::Level::Error || !record.target().starts_with("sled") {
        return None;
    }
    let text = record.args().to_string();
    let says = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    if says(&["cache capacity is limited", "config has already been used"]) {
        return None;
    }
    // Trouble with the disk or the system is none of the data's, even while the store opens.
    let trouble = says(&["hit error while writing", "failed to initialize threadpool", "failed to flush"]);
    Some(if trouble { Exit::Failed } else { engine_exit() })
}
