//! sled panics over some damage, in whatever thread comes across it. For who only reads a directory that is no bug, but what is
//! to be told of the directory: here the panic gets a reader's words, and the process ends, with no private copy left behind.

use std::io::{self, Write};
use std::panic::{PanicHookInfo, set_hook};
use std::path::{Path, PathBuf};

use super::private;
use crate::exit::Exit;

/// From now on a panic is damage of the directory that `read` says is being read: it is told on stderr, and the process ends so.
pub fn panics_are_told(exit: Exit, read: impl Fn() -> PathBuf + Send + Sync + 'static) {
    end_on_panic(move |why| {
        let dir = read();
        let _ = writeln!(
            io::stderr(),
            "error: {} is damaged beyond what can be shown ({why}): see DynaRust inspect {} verify, and save what can be read \
             with DynaRust inspect {} salvage --out FILE",
            dir.display(),
            dir.display(),
            dir.display()
        );
        exit
    });
}

/// From now on a panic ends the process: `told` hears why it was, and comes back with the exit code.
pub fn end_on_panic(told: impl Fn(&str) -> Exit + Send + Sync + 'static) {
    set_hook(Box::new(move |panic| {
        let exit = told(&why(panic));
        private::remove_all();
        super::end_process(exit, "damaged");
    }));
}

/// The reason, and where it was: enough for whoever has the source, and no path of the machine on which it was built.
fn why(panic: &PanicHookInfo) -> String {
    let reason = panic.payload_as_str().unwrap_or("no reason is given");
    let reason: Vec<&str> = reason.split_whitespace().collect();
    let place = panic.location().map(|at| {
        let file = Path::new(at.file()).file_name().unwrap_or_default();
        format!(", {}:{}", file.display(), at.line())
    });
    format!("{}{}", reason.join(" "), place.unwrap_or_default())
}
