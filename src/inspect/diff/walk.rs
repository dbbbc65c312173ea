//! Goes through two directories at once, in the order of keys, and tells of each key that is not alike.

use serde_json::json;

use super::sum::{Stands, Sum};
use super::{Directory, Reading};
use crate::inspect::shown::Table;
use crate::inspect::{Error, Out, lists};
use crate::replica::{Entry, Kind, Lack, Side, Standing, Value, Version, compare};
use crate::time;
use crate::told::{self, Told};

/// A walk that is under way.
pub struct Walk<'a, 'b> {
    sides: &'a [Directory<'b>; 2],
    reading: Reading,
    told: Told,
    table: Table,
    /// So many keys are still to be shown.
    limit: u64,
    /// So many were looked at.
    read: u64,
    sum: Sum,
}

/// A key with its entry, if that can be read.
type Item = (Vec<u8>, Option<Entry>);

/// A version as it is shown.
struct Row<'a> {
    version: &'a Version,
    held: &'static str,
    /// What the other directory says to it.
    elsewhere: &'static str,
}

impl<'a, 'b> Walk<'a, 'b> {
    /// Shows so many keys at most.
    pub fn new(sides: &'a [Directory<'b>; 2], reading: Reading, limit: Option<u64>) -> Walk<'a, 'b> {
        let heads = ["here is", "held", "version", "written", ">size", "elsewhere", "key"];
        Walk {
            sides,
            reading,
            told: Told::new("comparing"),
            table: Table::new(&heads),
            limit: limit.unwrap_or(u64::MAX),
            read: 0,
            sum: Sum::default(),
        }
    }

    /// Of this kind, the keys that begin so.
    pub fn kind(&mut self, kind: Kind, prefix: &[u8], out: &mut Out) -> Result<(), Error> {
        let sides = self.sides;
        let mut scans = sides.each_ref().map(|side| side.store.scan(kind, (prefix, None)));
        let mut next = |reading: &Reading, which: usize| {
            reading.set(which);
            let item = scans[which].next().transpose();
            item.map_err(|e| e.in_store(sides[which].path))
        };
        let mut items: [Option<Item>; 2] = [next(&self.reading, 0)?, next(&self.reading, 1)?];
        while let Some(key) = items.iter().flatten().map(|(key, _)| key).min().cloned() {
            let mut entries = [Some(Entry::default()), Some(Entry::default())];
            for which in 0..2 {
                if let Some((_, entry)) = items[which].take_if(|(its, _)| *its == key) {
                    entries[which] = entry;
                    items[which] = next(&self.reading, which)?;
                }
            }
            self.key(kind, &key, entries, out)?;
        }
        Ok(())
    }

    /// All is read.
    pub fn end(mut self, out: &mut Out) -> Result<Sum, Error> {
        if !out.json && self.sum.differ() > self.sum.left_out {
            self.table.show(out)?;
        }
        Ok(self.sum)
    }

    fn key(
        &mut self,
        kind: Kind,
        key: &[u8],
        entries: [Option<Entry>; 2],
        out: &mut Out,
    ) -> Result<(), Error> {
        self.read += 1;
        self.told.counted(self.read, "keys", None);
        let [Some(here), Some(there)] = &entries else {
            self.sum.keys += 1;
            let stands = Stands::Damaged(entries.each_ref().map(Option::is_none));
            return self.tell(kind, key, stands, &[], out);
        };
        // Of what is gone on both sides there is nothing to compare.
        self.sum.keys += u64::from(!here.versions().is_empty() || !there.versions().is_empty());
        let [one, two] = self.sides.each_ref().map(|side| &side.about.summary);
        let apart = compare(
            Side { entry: here, vv: &one.vv, floor: &one.floor },
            Side { entry: there, vv: &two.vv, floor: &two.floor },
        );
        let mut rows = Vec::new();
        let mut twice = false;
        for version in here.versions() {
            let lack = apart.here.iter().find(|(dot, _)| *dot == version.dot).map(|(_, lack)| *lack);
            let its = there.versions().iter().find(|its| its.dot == version.dot);
            if let Some(its) = its
                && !self.same(version, its)?
            {
                twice = true;
                rows.push(Row { version, held: "here", elsewhere: "not the same" });
                rows.push(Row { version: its, held: "there", elsewhere: "not the same" });
                continue;
            }
            let held = if lack.is_some() { "here" } else { "both" };
            rows.push(Row { version, held, elsewhere: lack.map_or("", |lack| word(lack, there)) });
        }
        for (dot, lack) in &apart.there {
            let held = there.versions().iter().filter(|version| version.dot == *dot);
            let elsewhere = word(*lack, here);
            rows.extend(held.map(|version| Row { version, held: "there", elsewhere }));
        }
        match (twice, apart.standing) {
            (true, _) => self.tell(kind, key, Stands::NameTwice, &rows, out),
            (false, Standing::Alike) => Ok(()),
            (false, standing) => self.tell(kind, key, Stands::As(standing), &rows, out),
        }
    }

    /// Do two versions of one name hold the same?
    fn same(&self, here: &Version, there: &Version) -> Result<bool, Error> {
        let stored = |version: &Version| matches!(version.value, Value::Chunked { .. });
        if here.hlc != there.hlc || here.expires_at_ms != there.expires_at_ms {
            return Ok(false);
        }
        if here.value == there.value || stored(here) == stored(there) {
            return Ok(here.value == there.value);
        }
        // What has siblings may be in pieces that would not be in them alone.
        let text = |which: usize, version| {
            self.reading.set(which);
            let text = self.sides[which].store.text(version);
            text.map_err(|e| e.in_store(self.sides[which].path))
        };
        Ok(text(0, here)? == text(1, there)?)
    }

    fn tell(
        &mut self,
        kind: Kind,
        key: &[u8],
        stands: Stands,
        rows: &[Row],
        out: &mut Out,
    ) -> Result<(), Error> {
        self.sum.add(stands);
        if self.limit == 0 {
            self.sum.left_out += 1;
            return Ok(());
        }
        self.limit -= 1;
        if out.json {
            let versions: Vec<_> = rows.iter().map(Row::object).collect();
            return out.object(&json!({
                "tree": lists::word(kind),
                "key": lists::named(kind, key, true),
                "here_is": stands.name(),
                "versions": versions,
            }));
        }
        let shown = match kind {
            Kind::Data => lists::named(kind, key, false),
            Kind::Membership => format!("(member) {}", lists::named(kind, key, false)),
        };
        let word = stands.word().to_owned();
        for row in rows {
            let version = row.version;
            let cells = vec![
                word.clone(),
                row.held.into(),
                version.dot.to_string(),
                time::text(version.hlc.ms()),
                told::bytes(version.value.bytes()),
                row.elsewhere.into(),
                shown.clone(),
            ];
            self.table.toned(stands.tone(), out, cells)?;
        }
        if rows.is_empty() {
            let nothing = || String::new();
            let cells = vec![word, nothing(), nothing(), nothing(), nothing(), nothing(), shown];
            self.table.toned(stands.tone(), out, cells)?;
        }
        Ok(())
    }
}

impl Row<'_> {
    fn object(&self) -> serde_json::Value {
        let version = self.version;
        json!({
            "version": version.dot.to_string(),
            "held": self.held,
            "updated_at": time::text(version.hlc.ms()),
            "expires_at": version.expires_at_ms.map(time::text),
            "bytes": version.value.bytes(),
            "elsewhere": (!self.elsewhere.is_empty()).then_some(self.elsewhere),
        })
    }
}

/// Why a version is not held where its key holds this.
fn word(lack: Lack, its: &Entry) -> &'static str {
    match lack {
        Lack::Unheard => "not yet heard of",
        Lack::Unexplained => "known, and missing",
        Lack::Dropped if its.versions().is_empty() => "deleted",
        Lack::Dropped => "superseded",
    }
}
