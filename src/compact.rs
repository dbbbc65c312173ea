//! `DynaRust compact`: the operator's side of a compaction. What is done is the vault's (`storage/compact.rs`); here it is told.

use std::io;

use serde_json::{Map, json};

use crate::cli::Compact;
use crate::inspect::{Error, Out, shown};
use crate::storage;
use crate::told::{self, Told};

/// Compacts the directory and says what that has saved.
pub fn run(flags: &Compact) -> Result<(), Error> {
    let (mut telling, mut of_what) = (Told::new("copying"), "copying");
    let done = storage::compact(&flags.dir, &mut |what, done, of| {
        if of_what != what {
            (telling, of_what) = (Told::new(what), what);
        }
        telling.copied(done, of);
    })?;
    drop(telling);
    let mut stdout = io::stdout().lock();
    let mut out = Out::new(&mut stdout, flags.json, 0);
    let (before, after) = (done.before_bytes, done.after_bytes);
    if out.json {
        let tree =
            |size: &storage::TreeSize| (size.name.clone(), json!({"items": size.items, "bytes": size.bytes}));
        return out.object(&json!({
            "before_bytes": before,
            "after_bytes": after,
            "saved_bytes": before - after,
            "format_before": done.formats.0,
            "format_after": done.formats.1,
            "trees": done.trees.iter().map(tree).collect::<Map<_, _>>(),
        }));
    }
    let sizes = format!("{} before, {} after", told::bytes(before), told::bytes(after));
    let (had, has) = done.formats;
    let format = match had == has {
        true => String::new(),
        false => {
            format!("; it was brought from format {had} to format {has}, which older releases do not read")
        }
    };
    match before - after {
        0 => {
            let stays = if had == has { ", and stays as it was" } else { &format };
            out.line(&format!("{}: it can't be made smaller than it is{stays}", told::bytes(before)))?;
        }
        saved => out.line(&format!("{sizes}: {} saved{format}", told::bytes(saved)))?,
    }
    out.line("")?;
    let mut table = shown::Table::new(&["tree", ">rows", ">size"]);
    for size in done.trees {
        table.row(&mut out, vec![size.name, size.items.to_string(), told::bytes(size.bytes)])?;
    }
    table.show(&mut out)?;
    Ok(out.to.flush()?)
}
