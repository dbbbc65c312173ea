//! What a directory is, on one page.

use serde_json::json;

use super::lists::{member_key, records};
use super::{Error, Out, shown};
use crate::replica::{Kind, VersionVector};
use crate::storage::Offline;
use crate::{time, told};

/// What all entries of the data tree come to.
#[derive(Default)]
struct Counts {
    keys: u64,
    versions: u64,
    conflicts: u64,
    deletes: u64,
    expired: u64,
    /// Keys of which all is expired.
    expired_keys: u64,
    /// Versions that are records of members.
    of_members: u64,
    unreadable: u64,
    value_bytes: u64,
}

/// A vector for programs.
pub fn vector(vv: &VersionVector) -> serde_json::Map<String, serde_json::Value> {
    vv.iter().map(|dot| (dot.origin.to_string(), dot.seq.into())).collect()
}

/// Shows the summary.
pub fn show(store: &Offline, out: &mut Out) -> Result<(), Error> {
    let about = store.about()?;
    let mut counts = Counts::default();
    let (mut told, mut read) = (told::Told::new("reading"), 0);
    store.entries(Kind::Data, (&[], None), |_, entry| {
        read += 1;
        told.counted(read, "keys", None);
        let Some(entry) = entry else {
            counts.unreadable += 1;
            return Ok::<_, Error>(true);
        };
        let visible = entry.visible(out.now_ms).count() as u64;
        counts.keys += u64::from(visible > 0);
        counts.versions += visible;
        counts.expired_keys += u64::from(visible == 0 && !entry.versions().is_empty());
        counts.conflicts += u64::from(visible > 1);
        counts.deletes += u64::from(entry.versions().is_empty());
        counts.expired += entry.versions().len() as u64 - visible;
        counts.value_bytes += entry.versions().iter().map(|version| version.value.bytes()).sum::<u64>();
        Ok(true)
    })?;
    drop(told);
    let mut members = Vec::new();
    store.entries(Kind::Membership, (&[], None), |key, entry| {
        let Some(entry) = entry else { return Ok::<_, Error>(true) };
        counts.of_members += entry.versions().len() as u64;
        members.extend(records(store, &entry)?.standing().map(|member| (member_key(key), member.address)));
        Ok(true)
    })?;
    let sizes = store.sizes()?;
    let logical: u64 = sizes.iter().map(|size| size.bytes).sum();
    let (summary, manifest) = (&about.summary, &store.manifest);
    let clock = time::text(summary.clock.last().ms());
    if out.json {
        let trees: serde_json::Map<_, _> = sizes
            .iter()
            .map(|size| (size.name.clone(), json!({"items": size.items, "bytes": size.bytes})))
            .collect();
        return out.object(&json!({
            "node": about.node.to_string(),
            "cluster": (about.cluster.0 != 0).then(|| about.cluster.to_string()),
            "left": about.left.map(|id| id.to_string()),
            "former": about.former.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "format": manifest.format,
            "release": manifest.release,
            "keys": counts.keys,
            "versions": counts.versions,
            "conflicts": counts.conflicts,
            "deletes_not_forgotten": counts.deletes,
            "expired_versions": counts.expired,
            "expired_keys": counts.expired_keys,
            "member_versions": counts.of_members,
            "members": members.iter().map(|(id, address)| json!({"id": id, "address": address})).collect::<Vec<_>>(),
            "unreadable_entries": counts.unreadable,
            "value_bytes": counts.value_bytes,
            "version_vector": vector(&summary.vv),
            "floor": vector(&summary.floor),
            "clock": clock,
            "digest": summary.totals.digest.to_string(),
            "trees": trees,
            "logical_bytes": logical,
            "disk_bytes": store.disk_bytes,
        }));
    }
    let cluster = match (about.cluster.0, about.left) {
        (0, Some(left)) => format!("none; it has left {left}"),
        (0, None) => "none".into(),
        _ => about.cluster.to_string(),
    };
    let former: Vec<String> = about.former.iter().map(ToString::to_string).collect();
    let former = match former.is_empty() {
        true => String::new(),
        false => format!("; it wrote as {} before it was set back", former.join(", then as ")),
    };
    let expired = match counts.expired_keys {
        0 => String::new(),
        expired => format!(" and {expired} expired"),
    };
    let lines = [
        ("node", format!("{}{former}", about.node)),
        ("cluster", cluster),
        ("format", format!("{}, written by release {}", manifest.format, manifest.release)),
        ("keys", format!("{}{expired}, with {} of values", counts.keys, told::bytes(counts.value_bytes))),
        (
            "versions",
            format!(
                "{} that readers see, {} expired, {} of members: {} in all, as verify and /stats count",
                counts.versions,
                counts.expired,
                counts.of_members,
                counts.versions + counts.expired + counts.of_members
            ),
        ),
        ("conflicts", format!("{} with siblings", told::count(counts.conflicts, "key"))),
        ("deletes", format!("{} not yet forgotten", counts.deletes)),
        ("clock", clock),
        ("digest", summary.totals.digest.to_string()),
        ("disk", format!("{} in files, {} in them", told::bytes(store.disk_bytes), told::bytes(logical))),
    ];
    for (name, text) in lines {
        out.line(&format!("{name:<10} {text}"))?;
    }
    if counts.unreadable > 0 {
        out.line(&format!("damaged    {} entries can't be read: see verify", counts.unreadable))?;
    }
    out.line("")?;
    let mut table = shown::Table::new(&["origin", ">incorporated", ">forgotten up to", ""]);
    for dot in summary.vv.iter() {
        let me = if dot.origin == about.node { "this node" } else { "" };
        let floor = summary.floor.get(dot.origin);
        table.row(out, vec![dot.origin.to_string(), dot.seq.to_string(), floor.to_string(), me.into()])?;
    }
    table.show(out)?;
    out.line("")?;
    let mut table = shown::Table::new(&["member", "address"]);
    for (id, address) in members {
        table.row(out, vec![id, address])?;
    }
    table.show(out)?;
    out.line("")?;
    let mut table = shown::Table::new(&["tree", ">items", ">size"]);
    for size in sizes {
        table.row(out, vec![size.name, size.items.to_string(), told::bytes(size.bytes)])?;
    }
    table.show(out)
}
