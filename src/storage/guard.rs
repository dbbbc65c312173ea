//! Looks at a store's log before sled opens it, and refuses where sled would make damage worse: sled takes a damaged place for
//! the end of its log, or passes over it, and wipes what it then holds to be of no use. Nothing is changed here.
//!
//! A crash leaves such places too, and those must pass. What a crash can't bring about:
//!
//! 1. *The end is before what was on the disk for certain.* Headers of segments, and the snapshot, say how far everything was.
//!    But as it opens, sled pads the segment in which the log ended, goes on in the next one, and calls the padding stable in the
//!    header of that before it is on the disk: the power may take the padding back, and nothing else.
//! 2. *A later commit stands behind the end.* A commit begins when the one before it is on the disk, so a power cut leaves
//!    parts of one commit behind the end, never of two. Each commit sets the summary. As a rule that is a link, which sled never
//!    copies; as a part of a whole page it may have been copied later, so two pages prove nothing, and three do.
//! 3. *The end is before the commit that the witness knows* (`progress.rs`).
//! 4. *A torn segment before the end has something that nothing newer replaces*, or one without a header has. sled frees a
//!    segment when all in it was replaced by what is on the disk, and writes only to free ones: one in use is whole.
//! 5. *A page is neither where the snapshot has it nor anywhere later*, or is nowhere, though one with a higher number is
//!    somewhere. At that sled panics, when it has wiped what it wanted to.
//!
//! What is left to the checks behind the opening (`recover.rs`): damage in the last commit after a power cut, which looks as if
//! it had been under way, and segments that are gone as a whole and were written since the last start.
//!
//! Memory: a segment, and some bytes for each page.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::codec;
use super::error::{Error, UNTOUCHED};
use super::progress::events_of;
use super::sledlog::{
    Data, End, Kind, Link, Opening, Sound, decode_link, decode_meta, decode_node, snapshot_body,
    snapshot_pages,
};
use super::trees::meta;

/// Damage that sled must not meet.
struct Damage {
    /// Where in the file.
    at: Option<u64>,
    /// What sled would do.
    what: String,
}

/// May sled open the log in this store? It has segments of this size, a snapshot of everything before an LSN, and commits up
/// to so many events.
pub fn check(
    store: &Path,
    segment_bytes: usize,
    snapshot: Option<(u64, PathBuf)>,
    witness: u64,
) -> Result<(), Error> {
    let db = store.join("db");
    let failed = |e: io::Error| Error::of_files("read", &db, &e);
    let file = File::open(&db).map_err(failed)?;
    let (lsn, snapshot) = snapshot.unwrap_or_default();
    let log = Opening::of(&file, segment_bytes, lsn).map_err(failed)?;
    let bytes = match snapshot.as_os_str().is_empty() {
        true => None,
        false => Some(std::fs::read(&snapshot).map_err(|e| Error::of_files("read", &snapshot, &e))?),
    };
    let body = bytes.as_deref().map(snapshot_body);
    if body == Some(None) {
        return Err(Error::Damaged(format!(
            "{} is damaged: the storage engine does not open the store with it, and {UNTOUCHED}. It has nothing that the log \
             has not: move it away and start again",
            snapshot.display()
        )));
    }
    let snapshot = body.flatten().unwrap_or_default();
    match damage(&log, snapshot, witness).map_err(failed)? {
        None => Ok(()),
        Some(Damage { at, what }) => {
            let place = at.map_or(String::new(), |at| format!(" at byte {at}"));
            let db = db.display();
            Err(Error::Damaged(format!(
                "{db} is damaged{place}: {what}; so it was not opened, and {UNTOUCHED}"
            )))
        }
    }
}

fn damage(log: &Opening<'_>, snapshot: &[u8], witness: u64) -> io::Result<Option<Damage>> {
    if let Some(at) = log.twice {
        return Ok(Some(Damage {
            at: Some(at),
            what: "the segment there says that it is another one".into(),
        }));
    }
    let end = log.end()?;
    let last = log.number(end.lsn);
    let mut known = Known::default();
    let (mut torn, mut buffer) = (Vec::new(), Vec::new());
    for number in log.segments().into_iter().filter(|number| *number <= last) {
        let at = log.read(number, &mut buffer, |message| {
            if message.lsn < end.lsn {
                known.take(&message);
            }
        })?;
        torn.extend(at.filter(|_| number < last).map(|at| (number, at)));
    }
    let headless = log.headless()?;
    let behind = Behind::of(log, &end, &headless)?;
    let fallen_back = known.events(log)?.is_some_and(|events| events < witness);
    let lacks_padding_only = log.stable == log.begin(last + 1);
    let lacks_stable = end.lsn < log.stable && !lacks_padding_only;
    if lacks_stable || behind.later_commit || fallen_back {
        let Behind { records, segments, .. } = behind;
        let what = match records {
            0 => "the log ends there, before what was committed last".into(),
            _ => format!(
                "the storage engine would take it for the end of its log, and wipe {records} records in {segments} segments \
                 behind it"
            ),
        };
        return Ok(Some(Damage { at: end.at, what }));
    }
    for (number, at) in torn {
        if loses(log, &known, (number, at))? {
            let what = "the storage engine would pass over the rest of a segment that is in use".into();
            return Ok(Some(Damage { at: log.home(number).map(|home| home + at as u64), what }));
        }
    }
    for (number, at) in headless {
        let mut live = false;
        log.search_at((number, at), 0, |message| {
            live |= message.lsn < log.stable && known.is_live(&message)
        })?;
        if live {
            let what =
                "the storage engine would wipe a segment that is in use, whose header does not hold".into();
            return Ok(Some(Damage { at: Some(at), what }));
        }
    }
    let lacks = |(page, lsn): (u64, u64)| known.pages.get(&page).is_none_or(|last| *last < lsn);
    let in_snapshot: Vec<(u64, u64)> = (0..).zip(snapshot_pages(snapshot)).collect();
    let later = in_snapshot.len() as u64..known.pages.keys().max().copied().unwrap_or(0);
    let nowhere = later.filter(|page| !known.pages.contains_key(page)).count();
    let lost = in_snapshot.into_iter().filter(|page| lacks(*page)).count() + nowhere;
    Ok((lost > 0).then(|| Damage { at: None, what: format!("{lost} pages of the store were in it") }))
}

/// What there is before the end.
#[derive(Default)]
struct Known {
    /// Where each page was last written as a whole.
    pages: HashMap<u64, u64>,
    /// The names of the trees, and where that stands.
    names: (u64, Vec<u8>),
    /// The last summary that is a link, and the events that it covers.
    summary: (u64, Option<u64>),
}

impl Known {
    fn take(&mut self, message: &Sound<'_>) {
        let Sound { lsn, kind, page, body } = *message;
        match kind {
            Kind::Node | Kind::Meta | Kind::Counter | Kind::Free => {
                let last = self.pages.entry(page).or_default();
                *last = lsn.max(*last);
                if kind == Kind::Meta && self.names.0 <= lsn {
                    self.names = (lsn, body.to_vec());
                }
            }
            Kind::Link if self.summary.0 <= lsn => {
                if let Some(events) = summary_of_link(body) {
                    self.summary = (lsn, Some(events));
                }
            }
            _ => {}
        }
    }

    /// Has nothing newer taken its place?
    fn is_live(&self, message: &Sound<'_>) -> bool {
        let told = matches!(message.kind, Kind::Node | Kind::Link | Kind::Meta | Kind::Counter | Kind::Free);
        told && self.pages.get(&message.page).is_none_or(|last| message.lsn >= *last)
    }

    /// How many events the last summary covers; `None`: that can't be seen.
    fn events(&self, log: &Opening<'_>) -> io::Result<Option<u64>> {
        let (link, mut events) = self.summary;
        let names = decode_meta(&self.names.1).unwrap_or_default();
        let mut todo: Vec<u64> = names.iter().filter(|tree| tree.0 == b"meta").map(|tree| tree.1).collect();
        for _ in 0..META_PAGES_MAX {
            let Some(page) = todo.pop() else { break };
            let Some(lsn) = self.pages.get(&page) else { return Ok(None) };
            let Some((Kind::Node, body)) = log.message(*lsn)? else { return Ok(None) };
            match decode_node(&body).map(|node| node.data) {
                Some(Data::Index(pages)) => todo.extend(pages),
                _ => {
                    if let Some(found) = summary_of_node(&body).filter(|_| *lsn > link) {
                        events = Some(found);
                    }
                }
            }
        }
        Ok(events)
    }
}

/// The `meta` tree has some ten rows: as a rule they are one page.
const META_PAGES_MAX: usize = 64;

/// The events that the summary in a link covers, if it sets one.
fn summary_of_link(body: &[u8]) -> Option<u64> {
    match decode_link(body)? {
        // It may lack the begin of its name.
        Link::Set(name, at) if meta::SUMMARY.ends_with(name) => events_in(&body[at]),
        _ => None,
    }
}

/// The same of a whole page.
fn summary_of_node(body: &[u8]) -> Option<u64> {
    let node = decode_node(body)?;
    let Data::Leaf(values) = node.data else { return None };
    let at = node.keys.iter().position(|key| [node.prefix, key].concat() == meta::SUMMARY)?;
    events_in(&body[values[at].clone()])
}

fn events_in(value: &[u8]) -> Option<u64> {
    Some(events_of(&codec::decode_summary(value).ok()?.vv))
}

/// What is behind the end.
#[derive(Default)]
struct Behind {
    records: u64,
    segments: u64,
    /// Is a commit there that began when everything before the end was on the disk?
    later_commit: bool,
    /// The events that the summary before covered, and whether one of them was a link.
    last: Option<(u64, bool)>,
    /// How many numbers of events there were.
    commits: u64,
}

impl Behind {
    fn of(log: &Opening<'_>, end: &End, headless: &[(u64, u64)]) -> io::Result<Behind> {
        let mut behind = Behind::default();
        let number = log.number(end.lsn);
        let homes = log.segments().into_iter().filter_map(|number| Some((number, log.home(number)?)));
        let mut places: Vec<(u64, u64)> = homes.chain(headless.iter().copied()).collect();
        places.sort_unstable();
        for (other, at) in places.into_iter().filter(|(other, _)| *other >= number) {
            let from = if other == number { (end.lsn - log.begin(number)) as usize } else { 0 };
            let before = behind.records;
            log.search_at((other, at), from, |message| behind.take(&message))?;
            behind.segments += u64::from(behind.records > before);
        }
        Ok(behind)
    }

    fn take(&mut self, message: &Sound<'_>) {
        self.records += 1;
        let (found, link) = match message.kind {
            Kind::Link => (summary_of_link(message.body), true),
            Kind::Node => (summary_of_node(message.body), false),
            _ => return,
        };
        let Some(events) = found else { return };
        match &mut self.last {
            Some((last, linked)) if *last == events => *linked |= link,
            last => {
                self.commits += 1;
                self.later_commit |= self.commits > 2 || last.is_some_and(|(_, linked)| linked);
                *last = Some((events, link));
            }
        }
    }
}

/// Would something be lost if sled passed over what comes in this segment from there on?
fn loses(log: &Opening<'_>, known: &Known, (number, at): (u64, usize)) -> io::Result<bool> {
    let (mut used, mut behind) = (false, false);
    let torn = log.begin(number) + at as u64;
    log.search(number, 0, |message| {
        let live = known.is_live(&message);
        used |= live;
        behind |= live && message.lsn >= torn;
    })?;
    if behind || !used {
        return Ok(behind);
    }
    // Nothing is known to be lost but what stood there.
    Ok(match log.torn(number, at)? {
        Some(None) => false,
        Some(Some(page)) => known.pages.get(&page).is_none_or(|last| torn >= *last),
        None => true,
    })
}
