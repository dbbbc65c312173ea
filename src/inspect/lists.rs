//! What a directory holds, one thing a line: keys, one key's versions, members, conflicts.

use serde_json::{Value as Json, json, value::RawValue};

use super::shown::{self, Table, Tone};
use super::{Error, Out};
use crate::cli::{Conflicts, Get, Keys};
use crate::replica::{Entry, Kind, Member, Records, Version};
use crate::storage::Offline;
use crate::time;
use crate::told::{self, Told};

/// The live keys.
pub fn keys(store: &Offline, flags: &Keys, out: &mut Out) -> Result<(), Error> {
    let mut left = flags.limit.unwrap_or(u64::MAX);
    let prefix = flags.prefix.as_deref().unwrap_or_default();
    let mut table = Table::new(&["version", "updated", ">size", ">siblings", "expires", "key"]);
    if left > 0 {
        store.entries(Kind::Data, (prefix.as_bytes(), None), |key, entry| {
            let Some(entry) = entry else {
                let text = shown::key(key);
                match out.json {
                    true => out.object(&json!({"key": shown::plain(key), "damaged": true}))?,
                    false if flags.long => {
                        let nothing = || String::new();
                        let cells = vec!["damaged".into(), nothing(), nothing(), nothing(), nothing(), text];
                        table.toned(Tone::Bad, out, cells)?;
                    }
                    false => out.toned(Tone::Bad, &format!("{text}  (damaged)"))?,
                }
                return Ok(true);
            };
            let mut versions = entry.visible(out.now_ms);
            let Some(winner) = versions.next() else { return Ok::<_, Error>(true) };
            let siblings = versions.count();
            let expires = winner.expires_at_ms.map(time::text);
            let updated = time::text(winner.hlc.ms());
            match (out.json, flags.long) {
                (true, _) => out.object(&json!({
                    "key": shown::plain(key),
                    "version": winner.dot.to_string(),
                    "updated_at": updated,
                    "bytes": winner.value.bytes(),
                    "siblings": siblings,
                    "expires_at": expires,
                }))?,
                (false, true) => {
                    let size = told::bytes(winner.value.bytes());
                    let (siblings, expires) = (siblings.to_string(), expires.unwrap_or_default());
                    let cells =
                        vec![winner.dot.to_string(), updated, size, siblings, expires, shown::key(key)];
                    table.row(out, cells)?;
                }
                (false, false) => out.line(&shown::key(key))?,
            }
            left -= 1;
            Ok(left > 0)
        })?;
    }
    match flags.long && !out.json {
        true => table.show(out),
        false => Ok(()),
    }
}

/// Which key is asked for.
pub fn key_of(flags: &Get, out: &Out) -> Result<String, Error> {
    if flags.raw && out.json {
        let what = "--raw shows the value alone, as it was written, and --json an object: give one of them";
        return Err(Error::Usage(what.into()));
    }
    shown::given(&flags.key, flags.escaped)
}

/// The exit codes for a key that readers see, and for one that they do not.
const SEEN: u8 = 0;
const UNSEEN: u8 = 1;

/// Everything that is known of one key; the exit code is 0 when readers see a version, else 1.
pub fn get(store: &Offline, (text, raw): (&str, bool), out: &mut Out) -> Result<u8, Error> {
    let key = text.as_bytes();
    let missing = || Error::Missing(format!("the key '{}' is not there", shown::key(key)));
    let entry = store.entry(Kind::Data, key)?.ok_or_else(missing)?;
    if raw {
        let winner = entry.visible(out.now_ms).next().ok_or_else(missing)?;
        let text = store.text(winner)?;
        let text = text.ok_or_else(|| Error::Missing("pieces of the value are missing or damaged".into()))?;
        out.to.write_all(&text)?;
        return out.line("").map(|()| SEEN);
    }
    let seen = if entry.visible(out.now_ms).next().is_some() { SEEN } else { UNSEEN };
    let versions: Result<Vec<Json>, Error> =
        entry.versions().iter().map(|version| version_of(store, version, out.now_ms)).collect();
    let context: Vec<String> = entry.context().iter().map(|dot| dot.to_string()).collect();
    if out.json {
        let object = json!({"key": text, "versions": versions?, "context": context});
        return out.object(&object).map(|()| seen);
    }
    if entry.versions().is_empty() {
        out.line("deleted; the delete is not yet forgotten")?;
    }
    for (at, version) in entry.versions().iter().enumerate() {
        if at > 0 {
            out.line("")?;
        }
        let state = match (version.expired(out.now_ms), at) {
            (true, _) => "expired",
            (false, 0) => "shown",
            (false, _) => "sibling",
        };
        out.line(&format!("version    {} ({state})", version.dot))?;
        let clock = version.hlc.0 & 0xffff;
        out.line(&format!("written    {} (counter {clock})", time::text(version.hlc.ms())))?;
        if let Some(at) = version.expires_at_ms {
            out.line(&format!("expires    {}", time::text(at)))?;
        }
        let text = match store.text(version)? {
            Some(text) => shown::line(&shown::plain(&text)),
            None => "(pieces of it are missing or damaged)".into(),
        };
        out.line(&format!("value      {text}"))?;
    }
    out.line(&format!("context    {}", context.join(" "))).map(|()| seen)
}

fn version_of(store: &Offline, version: &Version, now_ms: u64) -> Result<Json, Error> {
    let text = store.text(version)?.and_then(|text| String::from_utf8(text).ok());
    // As it was written, digit for digit.
    let value = text.and_then(|text| RawValue::from_string(text).ok());
    Ok(json!({
        "version": version.dot.to_string(),
        "updated_at": time::text(version.hlc.ms()),
        "hlc": version.hlc.0,
        "expires_at": version.expires_at_ms.map(time::text),
        "expired": version.expired(now_ms),
        "bytes": version.value.bytes(),
        "value": value,
        "damaged": value.is_none(),
    }))
}

/// The tree of a kind.
pub fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Data => "data",
        Kind::Membership => "membership",
    }
}

/// A key of a kind, for programs or for people.
pub fn named(kind: Kind, key: &[u8], json: bool) -> String {
    match (kind, json) {
        (Kind::Membership, _) => member_key(key),
        (Kind::Data, true) => shown::plain(key),
        (Kind::Data, false) => shown::key(key),
    }
}

/// A node's id, as the key of its record has it.
pub fn member_key(key: &[u8]) -> String {
    let id = key.try_into().map(|id| crate::replica::NodeId(u64::from_be_bytes(id)).to_string());
    id.unwrap_or_else(|_| shown::key(key))
}

/// What is recorded of a member.
pub fn records(store: &Offline, entry: &Entry) -> Result<Records, Error> {
    let mut records = Vec::new();
    for version in entry.versions() {
        records.push((version.dot, Member::of(&store.text(version)?.unwrap_or_default())));
    }
    Ok(Records::new(records))
}

/// The roster.
pub fn members(store: &Offline, out: &mut Out) -> Result<(), Error> {
    let me = store.about()?.node;
    let mut table = Table::new(&["id", "address", "joined", ""]);
    store.entries(Kind::Membership, (&[], None), |key, entry| {
        let id = member_key(key);
        let Some(entry) = entry else {
            match out.json {
                true => out.object(&json!({"id": id, "damaged": true}))?,
                false => {
                    table.toned(Tone::Bad, out, vec![id, "damaged".into(), String::new(), String::new()])?
                }
            }
            return Ok::<_, Error>(true);
        };
        let records = records(store, &entry)?;
        let mark = records.mark().map(|(_, mark)| mark.clone());
        let Some(Member { address, joined_at_ms, evicted_at_ms }) = records.standing().or(mark) else {
            return Ok(true);
        };
        let (joined, this) = (time::text(joined_at_ms), me.to_string() == id);
        if out.json {
            let mut shown = json!({"id": id, "address": address, "joined_at": joined, "self": this});
            if let Some(at) = evicted_at_ms {
                shown["evicted_at"] = time::text(at).into();
            }
            out.object(&shown)?;
            return Ok(true);
        }
        let notes = [(this, "this node"), (evicted_at_ms.is_some(), "evicted")];
        let notes: Vec<&str> = notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note).collect();
        table.row(out, vec![id, address, joined, notes.join(", ")])?;
        Ok(true)
    })?;
    if out.json { Ok(()) } else { table.show(out) }
}

/// The keys that have siblings now.
pub fn conflicts(store: &Offline, flags: &Conflicts, out: &mut Out) -> Result<(), Error> {
    let limit = flags.limit.unwrap_or(u64::MAX);
    let mut found = 0;
    let (mut told, mut read) = (Told::new("reading"), 0);
    store.entries(Kind::Data, (&[], None), |key, entry: Option<Entry>| {
        read += 1;
        told.counted(read, "keys", None);
        if found == limit {
            return Ok::<_, Error>(false);
        }
        let Some(entry) = entry.filter(|entry| entry.visible(out.now_ms).count() > 1) else {
            return Ok(true);
        };
        found += 1;
        let versions: Vec<&Version> = entry.visible(out.now_ms).collect();
        if out.json {
            let now_ms = out.now_ms;
            let siblings: Result<Vec<Json>, Error> =
                versions.into_iter().map(|version| version_of(store, version, now_ms)).collect();
            out.object(&json!({"key": shown::plain(key), "siblings": siblings?}))?;
            return Ok(true);
        }
        out.line(&shown::key(key))?;
        for (at, version) in versions.into_iter().enumerate() {
            let text = store.text(version)?.map(|text| shown::begin(&shown::plain(&text)));
            let text = text.unwrap_or_else(|| "(damaged)".into());
            let mark = if at == 0 { "shown" } else { "     " };
            out.line(&format!("  {mark}  {}  {}  {text}", version.dot, time::text(version.hlc.ms())))?;
        }
        Ok(true)
    })?;
    if found == 0 && limit > 0 && !out.json {
        out.line("no key has siblings")?;
    }
    Ok(())
}
