//! How a log line looks and which level is on; and that some lines of the storage engine end the process.

use std::io::Write;

use env_logger::Logger;
use log::{Log, Metadata, Record};

use crate::{node, storage};

/// What the libraries say, unless `RUST_LOG` names them.
const LIBRARIES: [&str; 8] =
    ["actix_server", "actix_http", "hyper", "hyper_util", "mio", "reqwest", "sled", "tracing"];

/// Lines go to stderr: time, level, text. `RUST_LOG` sets the level, `info` by default.
pub fn start() {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let asked = if asked.trim().is_empty() { "info".to_owned() } else { asked };
    let mut inner = filtered(&asked);
    let ours = Metadata::builder().level(log::Level::Error).target("dynarust").build();
    let silent = !inner.enabled(&ours) && !asked.trim().eq_ignore_ascii_case("off");
    if silent {
        inner = filtered("info");
    }
    // Errors of the engine must reach `Guard` whatever RUST_LOG says.
    let level = inner.filter().max(log::LevelFilter::Error);
    if log::set_boxed_logger(Box::new(Guard(inner))).is_ok() {
        log::set_max_level(level);
    }
    if silent {
        log::warn!("RUST_LOG={asked} would show nothing of DynaRust: the level is info");
    }
}

fn filtered(filter: &str) -> Logger {
    let mut builder = env_logger::Builder::new();
    for library in LIBRARIES {
        builder.filter_module(library, log::LevelFilter::Warn);
    }
    builder.parse_filters(filter);
    builder.format(|out, record| {
        let time = out.timestamp_millis();
        writeln!(out, "{time} {:5} {}", record.level(), record.args())
    });
    builder.build()
}

struct Guard(Logger);

impl Log for Guard {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() == log::Level::Error || self.0.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        // What clients send is no error of the node, though the HTTP library calls it one.
        let clients = record.target().starts_with("actix_http") && log::max_level() < log::LevelFilter::Debug;
        if self.0.matches(record) && !clients {
            self.0.log(record);
        }
        if let Some(exit) = storage::fatal(record) {
            node::end_with_advice(exit, "the storage engine gave up");
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}
