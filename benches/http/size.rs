//! What a store costs when it is large: memory and disk with all keys in it, the time until it serves again after
//! SIGKILL, and the disk after many overwrites of few keys.

use crate::contestant::Contestant;
use crate::options::{Kind, Options};
use crate::shared::Failure;
use crate::shared::machine::{self, Room};
use crate::shared::report::{Report, Table, median, rate_text};

/// Measures and reports; `false` is never returned, since a store that answers wrongly while it is filled is an error.
pub fn measure(options: &Options, room: &Room, report: &mut Report) -> Result<bool, Failure> {
    let keys = options.scale_keys;
    let mut table = Table::new(&[
        "store",
        "memory, loaded",
        "memory, restarted",
        "disk, loaded",
        "first GET after SIGKILL",
        "disk, overwritten",
    ]);
    let mut skipped = Vec::new();
    for kind in options.contestants() {
        if kind == Kind::Actix {
            continue;
        }
        match Contestant::missing(kind) {
            Some(why) => skipped.push(why),
            None => table.row(measure_one(kind, options, room)?),
        }
    }
    report.section("Size and restart");
    report.line(&format!(
        "Loaded: {} keys with values of {} bytes. Restarted: median of {RESTARTS}. Overwritten: {} writes over {} keys.",
        rate_text(keys as f64),
        options.value_bytes,
        rate_text(keys as f64),
        rate_text(options.keys as f64)
    ));
    report.line("");
    for why in skipped {
        report.line(&why);
    }
    report.table(&table);
    Ok(true)
}

fn measure_one(kind: Kind, options: &Options, room: &Room) -> Result<Vec<String>, Failure> {
    let mut loaded = Contestant::start(kind, options, room)?;
    eprintln!("size: loading {}", kind.name());
    loaded.fill(options.scale_keys).map_err(|e| loaded.complaint(&e.to_string()))?;
    let memory = loaded.memory_mib();
    let disk = loaded.disk_mib();
    let mut restarts = Vec::new();
    for _ in 0..RESTARTS {
        machine::wait_for_quiet(options.common.quiet);
        restarts.push(loaded.kill_and_restart()?.as_secs_f64());
    }
    let restarted = loaded.memory_mib();
    drop(loaded);
    let overwritten = Contestant::start(kind, options, room)?;
    eprintln!("size: overwriting {}", kind.name());
    overwritten.fill(options.keys).map_err(|e| overwritten.complaint(&e.to_string()))?;
    overwritten
        .overwrite(options.scale_keys, options.keys)
        .map_err(|e| overwritten.complaint(&e.to_string()))?;
    Ok(vec![
        match kind {
            Kind::Node => "DynaRust".to_owned(),
            Kind::Redis => "Redis, appendfsync always".to_owned(),
            kind => kind.name().to_owned(),
        },
        format!("{memory:.0} MiB"),
        format!("{restarted:.0} MiB"),
        format!("{disk:.0} MiB"),
        format!("{:.2} s", median(restarts)),
        format!("{:.0} MiB", overwritten.disk_mib()),
    ])
}

const RESTARTS: usize = 3;
