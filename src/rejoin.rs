//! `--rejoin-empty`: a node whose directory does not open begins anew, under a new id, and takes everything from the others.
//!
//! Only a directory that does not open is moved aside, and only when somebody is named to join: a flag that was forgotten in a
//! unit file must do no harm. Whether it opens is asked in a process of its own, since sled ends the one in which it does not.

use std::path::Path;
use std::process::Command;

use crate::config::Config;
use crate::exit::Exit;
use crate::storage::{self, Error, PrivateCopy};
use crate::time;

/// Moves the data directory aside if it does not open.
/// What is opened to find out has a `name` that nothing else has.
pub fn make_way(config: &Config, now_ms: u64, name: u64) -> Result<(), Error> {
    let dir = &config.data_dir;
    if !storage::was_served(dir) {
        return Ok(());
    }
    let Some(why) = damage(dir, name)? else {
        log::warn!(
            "--rejoin-empty does nothing: {} opens and is used as it is. Take the flag away",
            dir.display()
        );
        return Ok(());
    };
    let Some(sponsor) = config.join.first() else {
        return Err(Error::Refused(format!(
            "{} does not open: {why}. With --rejoin-empty it would be moved aside, but there is nobody to take everything from: \
             name a member, as in DynaRust LISTEN JOIN. Nothing was moved",
            dir.display()
        )));
    };
    let former = storage::last_tenant(dir);
    let aside = storage::move_aside(dir, &time::text(now_ms).replace(':', ""))?;
    log::warn!("{} does not open: {why}. All of it is in {} now", dir.display(), aside.display());
    let secret = if config.secret.is_some() { " -H \"Authorization: Bearer $(cat FILE)\"" } else { "" };
    let (whom, id) = match former.and_then(|tenant| tenant.node) {
        Some(id) => (format!("node {id}, which this was, is"), id.to_string()),
        None => (
            format!(
                "the node that this was (the one that stays down in curl http://{sponsor}/membership) is"
            ),
            "ID".into(),
        ),
    };
    log::warn!(
        "starting empty, under a new id, and taking everything from the others; {whom} a member until it is evicted: \
         curl -X DELETE{secret} http://{sponsor}/membership/{id}"
    );
    Ok(())
}

/// Why the directory does not open; `None` when it does. What is no damage is an error.
fn damage(dir: &Path, name: u64) -> Result<Option<String>, Error> {
    // Opening cuts off what lies behind damage, and somebody may want to salvage that: a copy will do, where there is room for
    // it, and for what a migration takes.
    let copy = PrivateCopy::of(dir, (&std::env::temp_dir(), name));
    let why = match copy.map(|copy| ask(copy.path(), dir)) {
        Err(error) | Ok(Err(error @ Error::Refused(_))) => error,
        Ok(told) => return told,
    };
    log::info!("what is asked whether it opens is the directory itself, and no copy: {why}");
    ask(dir, dir)
}

/// Opens it in a process of its own; what that says is told of `dir`.
fn ask(opened: &Path, dir: &Path) -> Result<Option<String>, Error> {
    let failed = |e: std::io::Error| Error::Failed(format!("can't ask whether {} opens: {e}", dir.display()));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    let ended =
        command.arg("try-open").arg("--").arg(opened).env("RUST_LOG", "error").output().map_err(failed)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    let why = line.split_once("ERROR ").map_or(line, |(_, why)| why).trim_start_matches("error: ");
    let why = why
        .replace(storage::CHOICES, "")
        .replace(storage::OPENED, "")
        .replace(&opened.display().to_string(), &dir.display().to_string());
    match ended.status.code() {
        Some(code) if code == Exit::Stopped as i32 => Ok(None),
        Some(code) if code == Exit::Damaged as i32 => Ok(Some(why)),
        Some(code) if code == Exit::Refused as i32 => Err(Error::Refused(why)),
        _ => Err(Error::Failed(format!("can't tell whether {} opens: {why}", dir.display()))),
    }
}
