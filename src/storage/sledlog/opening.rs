//! How sled 0.34.7 goes through its log as it opens it: which segments it knows, and what it takes for the end. What lies behind
//! that it wipes; of a segment that is torn before the end it passes over the rest. Nothing is decided here and nothing written.
//!
//! From sled's `src/pagecache/{iterator,snapshot}.rs`. Only headers that hold count. The highest LSN that one of them, or the
//! snapshot, calls stable says where the tail begins: at that one's segment. In the tail one segment must follow the other, and
//! one message the other; where that ends, the log does. In every other segment a message that does not hold is like a Cap: that
//! happens where a segment was free, and a crash came as it was being used anew.
//!
//! Memory is one segment, and some bytes for each. An error of the disk is given back: nothing is known then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use super::message::{Head, Kind, RED_ZONE_BYTES, SEGMENT_HEADER_BYTES, SegmentHead};
use super::segments::{most_common_number, read_at_most, sound};

/// A log that sled has not opened yet.
pub struct Opening<'a> {
    file: &'a File,
    size: usize,
    bytes: u64,
    /// Where segments are, by number: those whose header holds.
    homes: BTreeMap<u64, u64>,
    /// Where those are whose header does not.
    headless: Vec<u64>,
    /// Where one is that says it is another one.
    pub twice: Option<u64>,
    /// The first segment that counts: the snapshot has what is in those before it.
    first: u64,
    /// Everything before this LSN was on the disk for certain.
    pub stable: u64,
}

/// A message that is where it was written, and holds.
pub struct Sound<'a> {
    /// Where in the log it stands.
    pub lsn: u64,
    /// What it is.
    pub kind: Kind,
    /// The page that it tells of.
    pub page: u64,
    /// What it says.
    pub body: &'a [u8],
}

/// Where sled takes the log to end.
#[derive(Debug)]
pub struct End {
    /// The LSN.
    pub lsn: u64,
    /// Where in the file it is; `None`: the next segment is not there.
    pub at: Option<u64>,
}

impl<'a> Opening<'a> {
    /// Looks at the headers of a log in segments of this size, of which a snapshot has everything before an LSN.
    pub fn of(file: &'a File, size: usize, snapshot: u64) -> io::Result<Opening<'a>> {
        let bytes = file.metadata()?.len();
        let first = snapshot / size as u64;
        let (homes, headless, twice) = (BTreeMap::new(), Vec::new(), None);
        let mut log = Opening { file, size, bytes, homes, headless, twice, first, stable: snapshot };
        for at in (0..bytes).step_by(size) {
            let mut header = [0; SEGMENT_HEADER_BYTES];
            let whole = read_at_most(file, &mut header, at)? == header.len();
            match SegmentHead::read(&header).filter(|head| whole && head.lsn % size as u64 == 0) {
                None => log.headless.push(at),
                Some(head) => {
                    let number = head.lsn / size as u64;
                    if log.homes.insert(number, at).is_some() && number >= first {
                        log.twice = Some(at);
                    }
                    if number >= first {
                        log.stable = log.stable.max(head.stable.map_or(0, |last| last + 1));
                    }
                }
            }
        }
        Ok(log)
    }

    /// The LSN at which a segment begins.
    pub fn begin(&self, number: u64) -> u64 {
        number.saturating_mul(self.size as u64)
    }

    /// The segment that has this LSN.
    pub fn number(&self, lsn: u64) -> u64 {
        lsn / self.size as u64
    }

    /// Where sled takes the log to end.
    pub fn end(&self) -> io::Result<End> {
        let mut buffer = Vec::new();
        // sled's is the last LSN that is stable, not the one behind it, and no less than the begin of the first segment.
        let last = self.stable.saturating_sub(1).max(self.begin(self.first));
        let mut batch = (0, 0);
        let mut number = self.number(last);
        let end = loop {
            let lsn = self.begin(number);
            let Some(home) = self.home(number) else { break End { lsn, at: None } };
            let torn = self.read(number, &mut buffer, |message| {
                if message.kind == Kind::BatchManifest && batch.1 < message.lsn {
                    let bytes = message.body.try_into().unwrap_or_default();
                    batch = (message.lsn, u64::from_le_bytes(bytes));
                }
            })?;
            if let Some(at) = torn {
                break End { lsn: lsn + at as u64, at: Some(home + at as u64) };
            }
            number += 1;
        };
        // A batch whose end is not there does not count.
        if batch.1 < end.lsn {
            return Ok(end);
        }
        let home = self.home(self.number(batch.0));
        Ok(End { lsn: batch.0, at: home.map(|home| home + batch.0 % self.size as u64) })
    }

    /// The segments that it knows, in the order of the file.
    pub fn segments(&self) -> Vec<u64> {
        let mut by_place: Vec<(u64, u64)> = self.homes.iter().map(|(number, at)| (*at, *number)).collect();
        by_place.sort_unstable();
        by_place.into_iter().map(|(_, number)| number).collect()
    }

    /// Where a segment is in the file.
    pub fn home(&self, number: u64) -> Option<u64> {
        self.homes.get(&number).copied()
    }

    /// The messages of a segment, one behind the other, up to where none follows: there it is torn, if it is not full.
    pub fn read(
        &self,
        number: u64,
        buffer: &mut Vec<u8>,
        told: impl FnMut(Sound<'_>),
    ) -> io::Result<Option<usize>> {
        let Some(at) = self.home(number) else { return Ok(Some(0)) };
        self.bytes_at(at, buffer)?;
        Ok(self.follow(buffer, (number, SEGMENT_HEADER_BYTES), told))
    }

    /// The message at this LSN.
    pub fn message(&self, lsn: u64) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let (number, at, mut bytes) = (self.number(lsn), (lsn % self.size as u64) as usize, Vec::new());
        let Some(home) = self.home(number) else { return Ok(None) };
        self.bytes_at(home, &mut bytes)?;
        let head = sound(&bytes, at, self.size).filter(|head| head.segment == number);
        Ok(head.map(|head| (head.kind, bytes[head.body].to_vec())))
    }

    fn follow(
        &self,
        bytes: &[u8],
        (number, mut at): (u64, usize),
        mut told: impl FnMut(Sound<'_>),
    ) -> Option<usize> {
        // At the last place of all no message need begin: sled goes on in the next segment then.
        while at < self.size - RED_ZONE_BYTES {
            let head = Head::read(bytes, at).filter(|head| head.segment == number && head.holds(bytes, at));
            let Some(head) = head else { return Some(at) };
            if head.kind == Kind::Cap {
                return None;
            }
            told(self.sound(number, (at, &head), bytes));
            at = head.body.end;
        }
        None
    }

    /// What of a segment, from this place in it on, was written for it and holds, whatever is between.
    pub fn search(&self, number: u64, from: usize, told: impl FnMut(Sound<'_>)) -> io::Result<()> {
        let Some(at) = self.home(number) else { return Ok(()) };
        self.search_at((number, at), from, told)
    }

    /// The same of one that is at this place, whatever its header says.
    pub fn search_at(
        &self,
        (number, at): (u64, u64),
        from: usize,
        told: impl FnMut(Sound<'_>),
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.bytes_at(at, &mut bytes)?;
        self.hunt(&bytes, (number, from), told);
        Ok(())
    }

    /// The segments whose header does not hold, by the number that most of what is in them has: none that has a home.
    pub fn headless(&self) -> io::Result<Vec<(u64, u64)>> {
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        for at in &self.headless {
            self.bytes_at(*at, &mut bytes)?;
            let wiped = bytes.iter().all(|byte| *byte == 0);
            let number = if wiped { None } else { most_common_number(&bytes, self.size) };
            found
                .extend(number.filter(|number| !self.homes.contains_key(number)).map(|number| (number, *at)));
        }
        Ok(found)
    }

    fn hunt(&self, bytes: &[u8], (number, mut at): (u64, usize), mut told: impl FnMut(Sound<'_>)) {
        while at < bytes.len() {
            match sound(bytes, at, self.size).filter(|head| head.segment == number) {
                Some(head) => {
                    told(self.sound(number, (at, &head), bytes));
                    at = head.body.end;
                }
                None => at += 1,
            }
        }
    }

    /// What a torn segment lacks at this place, by its looks, if messages follow behind it without another gap to its end: the
    /// page, or `None` for padding.
    pub fn torn(&self, number: u64, at: usize) -> io::Result<Option<Option<u64>>> {
        let (Some(home), mut bytes) = (self.home(number), Vec::new()) else { return Ok(None) };
        self.bytes_at(home, &mut bytes)?;
        let Some(head) = Head::read_torn(&bytes, at, self.size).filter(|head| head.segment == number) else {
            return Ok(None);
        };
        let end = head.body.end;
        if head.kind == Kind::Cap {
            let padding = head.page == u64::MAX && end == self.size - RED_ZONE_BYTES;
            return Ok(padding.then_some(None));
        }
        let goes_on = self.follow(&bytes, (number, end), |_| {}).is_none();
        Ok(goes_on.then_some(Some(head.page)))
    }

    fn sound<'b>(&self, number: u64, (at, head): (usize, &Head), bytes: &'b [u8]) -> Sound<'b> {
        let lsn = self.begin(number).saturating_add(at as u64);
        Sound { lsn, kind: head.kind, page: head.page, body: &bytes[head.body.clone()] }
    }

    fn bytes_at(&self, at: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize((self.bytes - at).min(self.size as u64) as usize, 0);
        let read = read_at_most(self.file, buffer, at)?;
        buffer.truncate(read);
        Ok(())
    }
}
