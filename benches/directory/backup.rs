//! A backup of a node that is written to: what its writers feel of it.

use std::path::Path;
use std::time::Duration;

use crate::command::{Ran, run};
use crate::options::Options;
use crate::shared::Failure;
use crate::shared::child::Server;
use crate::shared::paced::{Paced, WRITERS};
use crate::shared::report::{Report, Table, median, rate_text};

/// Median, p99 and most of the writers' latencies in ms.
pub struct Felt {
    before: [f64; 3],
    during: [f64; 3],
}

/// Backs a node up into a file while clients write over its keys.
pub fn beside_writers(options: &Options, node: &Server, file: &Path) -> Result<(Ran, Felt), Failure> {
    let url = node.address.to_string();
    let file = file.to_str().ok_or("the name of the backup is no text")?;
    let paced = Paced::start(node.address, options.pace, options.scale_keys, options.value_bytes);
    std::thread::sleep(Duration::from_secs_f64(options.before_seconds));
    paced.enter(1);
    let ran = run(&["backup", &url, "-o", file], None, None);
    let [before, during] =
        paced.stop()?.map(|felt| [felt.quantile_ms(0.5), felt.quantile_ms(0.99), felt.max_ms()]);
    Ok((ran?, Felt { before, during }))
}

/// The table.
pub fn tell(options: &Options, rounds: &[&Felt], report: &mut Report) {
    report.section("Backup");
    report.line(&format!(
        "A node takes {} writes/s over {WRITERS} connections, for {} s, and then while it is backed up. A write that was \
         due while others were late counts from when it was due.",
        rate_text(options.pace as f64),
        options.before_seconds
    ));
    report.line("");
    let mut table = Table::new(&["writes", "before, ms", "during, ms", "times", "each round"]);
    for (name, at) in [("median", 0), ("p99", 1), ("max", 2)] {
        let times = |felt: &&&Felt| felt.during[at] / felt.before[at];
        let each: Vec<String> = rounds.iter().map(|felt| format!("{:.1}", times(&felt))).collect();
        table.row(vec![
            name.to_owned(),
            format!("{:.2}", median(rounds.iter().map(|felt| felt.before[at]))),
            format!("{:.2}", median(rounds.iter().map(|felt| felt.during[at]))),
            format!("{:.1} x", median(rounds.iter().map(|felt| times(&felt)))),
            each.join(", "),
        ]);
    }
    report.table(&table);
}
