//! How a log line looks and which level is on; and that some lines of the storage engine end the process.

use std::io::Write;

use env_logger::{Env, Logger};
use log::{Log, Metadata, Record};

use crate::{node, storage};

/// Lines go to stderr: time, level, text. `RUST_LOG` sets the level, `info` by default.
pub fn start() {
    let inner =
        env_logger::Builder::from_env(Env::default().default_filter_or("info,actix_server=warn,sled=warn"))
            .format(|out, record| {
                let time = out.timestamp_millis();
                writeln!(out, "{time} {:5} {}", record.level(), record.args())
            })
            .build();
    // Errors of the engine must reach `Guard` whatever RUST_LOG says.
    let level = inner.filter().max(log::LevelFilter::Error);
    if log::set_boxed_logger(Box::new(Guard(inner))).is_ok() {
        log::set_max_level(level);
    }
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
