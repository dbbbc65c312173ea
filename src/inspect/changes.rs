//! The events of the log, and of each what has become of it.
//!
//! The log says which key an event touched, and what lived there before; neither what it did nor when. Of a version that stands
//! the entry tells both. What lived before a later event was put. What left nothing that a later event found is a delete, unless
//! it can have been replaced where the log does not tell: within its unit, or, where several nodes wrote the key, before it came;
//! or by what came without its event, as all does that a node is sent when it was away for long.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::shown::{Table, Tone};
use super::{Error, Out, lists};
use crate::cli::Changes;
use crate::replica::{Dot, Entry, Kind, NodeId, Version};
use crate::storage::{Event, Offline, Row};
use crate::time;

/// What has become of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Its version lives.
    Stands,
    /// It put a version, which is gone.
    Replaced,
    /// It deleted what lived there.
    Delete,
    /// It has left nothing that tells.
    Unknown,
}

/// What all of the log says of a key.
#[derive(Default)]
struct Told {
    /// Versions that lived before one of its events.
    lived: HashSet<Dot>,
    /// Its events.
    events: HashSet<Dot>,
    /// Versions that lived before one of its events, and whose own events are not among them.
    unheard: Vec<Dot>,
    /// Who made events of it.
    origins: HashSet<NodeId>,
    /// Events before which, in their unit, the key had been touched already.
    later: HashSet<Dot>,
    /// Of each event the next one of the same node.
    next: HashMap<Dot, Dot>,
}

/// Shows the events that are asked for: of all keys, or of one.
pub fn show(store: &Offline, flags: &Changes, follow: Option<&str>, out: &mut Out) -> Result<(), Error> {
    let me = store.about()?.node;
    let follows =
        |event: &Event| follow.is_none_or(|key| event.kind == Kind::Data && event.key == key.as_bytes());
    let told = read(store, &follows)?;
    let mut left = flags.limit.unwrap_or(u64::MAX);
    let mut table = Table::new(&["event", "did", "written", "tree", "before", "key"]);
    store.rows(|name, row| {
        if left == 0 {
            return Ok(false);
        }
        let Some(Row { first, events, .. }) = row else {
            let name = name.escape_ascii();
            match out.json {
                true => out.object(&json!({"row": name.to_string(), "damaged": true}))?,
                false => {
                    table.show(out)?;
                    out.toned(Tone::Bad, &format!("a row of the log is damaged: {name}"))?;
                }
            }
            return Ok::<_, Error>(true);
        };
        if first.origin == NodeId::NOBODY || flags.origin.is_some_and(|origin| origin != first.origin) {
            return Ok(true);
        }
        for event in events.iter().filter(|event| event.seq > flags.after && follows(event)) {
            if left == 0 {
                break;
            }
            left -= 1;
            let dot = Dot::new(first.origin, event.seq);
            // What an entry holds that can't be read nobody knows.
            let entry = store.entry(event.kind, &event.key).ok().map(Option::unwrap_or_default);
            let of_key = told.get(&(event.kind, event.key.clone()));
            let fate = of_key.map_or(Fate::Unknown, |told| told.fate((me, dot), event, entry.as_ref()));
            let version = entry.iter().flat_map(Entry::versions).find(|version| version.dot == dot);
            change((dot, fate), event, version, &mut table, out)?;
        }
        Ok(true)
    })?;
    if out.json { Ok(()) } else { table.show(out) }
}

/// What the whole log says of the keys.
fn read(store: &Offline, follows: &impl Fn(&Event) -> bool) -> Result<HashMap<(Kind, Vec<u8>), Told>, Error> {
    let mut all: HashMap<(Kind, Vec<u8>), Told> = HashMap::new();
    let mut last: HashMap<(Kind, Vec<u8>), Dot> = HashMap::new();
    store.rows(|_, row| {
        let Some(Row { first, events, .. }) = row else { return Ok::<_, Error>(true) };
        for event in events.into_iter().filter(follows) {
            let (dot, name) = (Dot::new(first.origin, event.seq), (event.kind, event.key));
            let told = all.entry(name.clone()).or_default();
            told.lived.extend(event.before.iter().flatten().chain(&event.brought));
            if first.origin == NodeId::NOBODY {
                continue;
            }
            told.origins.insert(first.origin);
            told.events.insert(dot);
            if event.before.is_none() {
                told.later.insert(dot);
            }
            if let Some(before) = last.insert(name, dot).filter(|before| before.origin == dot.origin) {
                told.next.insert(before, dot);
            }
        }
        Ok(true)
    })?;
    for told in all.values_mut() {
        told.unheard = told.lived.difference(&told.events).copied().collect();
    }
    Ok(all)
}

impl Told {
    fn fate(&self, (me, dot): (NodeId, Dot), event: &Event, entry: Option<&Entry>) -> Fate {
        let Some(entry) = entry else { return Fate::Unknown };
        if entry.dots().any(|lives| lives == dot) {
            return Fate::Stands;
        }
        if self.lived.contains(&dot) {
            return Fate::Replaced;
        }
        let alone = self.origins.len() == 1 && entry.context().iter().all(|seen| seen.origin == dot.origin);
        let replaced_at_once = self.next.get(&dot).is_some_and(|next| self.later.contains(next));
        let over_nothing = event.before.as_ref().is_some_and(Vec::is_empty);
        let older = |seen: Dot| {
            let own = seen.origin == dot.origin && seen.seq <= dot.seq;
            own || event.before.iter().flatten().any(|before| *before == seen)
        };
        let mut seen = entry
            .context()
            .iter()
            .filter(|seen| !self.events.contains(seen))
            .chain(self.unheard.iter().copied());
        let all_told = seen.all(older);
        match (dot.origin == me || alone) && all_told && !replaced_at_once && !over_nothing {
            true => Fate::Delete,
            false => Fate::Unknown,
        }
    }
}

impl Fate {
    /// What it did, for people, and for programs, which learn from `stands` whether it is still there.
    fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Fate::Stands => ("put", Some("put")),
            Fate::Replaced => ("put, replaced", Some("put")),
            Fate::Delete => ("delete", Some("delete")),
            Fate::Unknown => ("not known", None),
        }
    }
}

fn change(
    (dot, fate): (Dot, Fate),
    event: &Event,
    version: Option<&Version>,
    table: &mut Table,
    out: &mut Out,
) -> Result<(), Error> {
    let key = lists::named(event.kind, &event.key, out.json);
    let before: Vec<String> = event.before.iter().flatten().map(Dot::to_string).collect();
    let (word, did) = fate.words();
    let written = version.map(|version| time::text(version.hlc.ms()));
    if out.json {
        return out.object(&json!({
            "event": dot.to_string(),
            "tree": lists::word(event.kind),
            "key": key,
            "before": before,
            "did": did,
            "stands": fate == Fate::Stands,
            "updated_at": written,
        }));
    }
    let cells = [dot.to_string(), word.into(), written.unwrap_or_default(), lists::word(event.kind).into()];
    table.row(out, cells.into_iter().chain([before.join(" "), key]).collect())
}
