//! `--rejoin-empty`: a node whose directory does not open begins anew, under a new id, and takes everything from the others.
//!
//! Only a directory that does not open is moved aside, and only when a member answers from whom everything can be taken: a
//! flag that was forgotten in a unit file, or a misspelt address, must do no harm. Whether it opens is asked in a
//! process of its own, since sled ends the one in which it does not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::config::Config;
use crate::exit::Exit;
use crate::limits::{PEER_ANSWER_MS, RETRY_MS};
use crate::network;
use crate::storage::{self, Error, PrivateCopy};
use crate::time;

/// Moves the data directory aside if it does not open.
/// Blocks, on a thread of the runtime's that may.
pub fn make_way(config: &Config, now_ms: u64, random: fn() -> u64) -> Result<(), Error> {
    let dir = &config.data_dir;
    if !storage::was_served(dir) {
        return Ok(());
    }
    let Some(why) = damage(dir, random())? else {
        log::warn!(
            "--rejoin-empty does nothing: {} opens and is used as it is. Take the flag away",
            dir.display()
        );
        return Ok(());
    };
    let nobody = |because: &str| {
        Error::Refused(format!(
            "{} does not open: {why}. With --rejoin-empty it would be moved aside, but there is nobody to take everything from: \
             {because}. Nothing was moved",
            dir.display()
        ))
    };
    if config.join.is_empty() {
        return Err(nobody("name a member, as in DynaRust LISTEN JOIN"));
    }
    let sponsor = tokio::runtime::Handle::current().block_on(sponsor(config, random)).map_err(|whys| {
        let whys: Vec<String> = whys.iter().map(|(address, why)| format!("{address}: {why}")).collect();
        nobody(&format!("no member answers ({}); give the JOIN address of one that is up", whys.join("; ")))
    })?;
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

/// The first of those that are named to join who answers as a member; or why none did for long.
async fn sponsor(config: &Config, random: fn() -> u64) -> Result<&str, BTreeMap<&str, String>> {
    let mut whys = BTreeMap::new();
    let asked = async {
        loop {
            for address in &config.join {
                match network::is_member(address, config.secret.clone(), random).await {
                    Ok(()) => return address.as_str(),
                    Err(error) => whys.insert(address.as_str(), error.to_string()),
                };
            }
            tokio::time::sleep(Duration::from_millis(RETRY_MS.1)).await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_millis(PEER_ANSWER_MS), asked).await;
    asked.map_err(|_| whys)
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
