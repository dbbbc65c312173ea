//! Goes through a log file, segment by segment in the order of the log, and comes back with every message that holds, with
//! those that nearly do, and with every place where there is something else.
//!
//! In a segment one message follows the other. Where none follows, the next one is looked for at every byte: one whose check
//! holds, and which was written for this segment. What was written for another one (a segment that is used anew still has its
//! old messages behind the new ones, and blocks may have been mixed up) comes back as well, with the LSN that it had.
//!
//! Memory is bounded by one segment, and a few bytes for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::message::{Head, Kind, RED_ZONE_BYTES, SEGMENT_HEADER_BYTES, segment_lsn};

/// A message as it was found.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// Where in the log it stands. Of one that may be out of its place, where its segment began.
    pub lsn: u64,
    /// Is it where it was written, as far as can be seen?
    pub placed: bool,
    /// The page that it tells of.
    pub page: u64,
    /// What it says.
    pub body: &'a [u8],
    /// Where its body begins in the file.
    pub at: u64,
    /// Does its check hold? If not, all of it is as it looks.
    pub holds: bool,
}

/// Bytes that are no message, where one should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPlace {
    /// Where they begin in the file.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// Up to which LSN something was lost in them; `None`: nobody knows.
    pub through: Option<u64>,
    /// What may have stood there.
    pub reach: Reach,
    /// What is wrong.
    pub why: &'static str,
}

/// What a disk loses at a time.
const BLOCK_BYTES: usize = 4 << 10;

/// What of the store a bad place may have told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anything.
    All,
    /// This page.
    Page(u64),
    /// Padding, in which nothing was.
    Nothing,
}

/// A log file.
pub struct Segments<'a> {
    file: &'a File,
    size: usize,
    /// Length of the file.
    bytes: u64,
    /// By number, where a segment stands; one number may be there twice.
    homes: BTreeMap<u64, BTreeSet<u64>>,
    /// Where nothing but zeros is: never used, wiped by sled as it opened, or lost.
    pub blank: Vec<u64>,
    /// Where no message is that holds, and more than zeros.
    junk: Vec<u64>,
}

impl<'a> Segments<'a> {
    /// Looks at what segments there are.
    pub fn of(file: &'a File, size: usize) -> io::Result<Segments<'a>> {
        let bytes = file.metadata()?.len();
        let mut segments =
            Segments { file, size, bytes, homes: BTreeMap::new(), blank: Vec::new(), junk: Vec::new() };
        let mut buffer = Vec::new();
        for at in (0..bytes).step_by(size) {
            let mut header = [0; SEGMENT_HEADER_BYTES];
            let whole = read_at_most(file, &mut header, at).is_ok_and(|read| read == header.len());
            let lsn = segment_lsn(&header).filter(|lsn| whole && lsn % size as u64 == 0);
            let number = match lsn {
                Some(lsn) => Some(lsn / size as u64),
                None => {
                    segments.read(at, &mut buffer);
                    if buffer.iter().all(|byte| *byte == 0) {
                        segments.blank.push(at);
                        continue;
                    }
                    most_common_number(&buffer, size)
                }
            };
            match number {
                Some(number) => drop(segments.homes.entry(number).or_default().insert(at)),
                None => segments.junk.push(at),
            }
        }
        Ok(segments)
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are, the blank ones too.
    pub fn count(&self) -> u64 {
        self.bytes.div_ceil(self.size as u64)
    }

    /// How many have something that can be read.
    pub fn readable(&self) -> usize {
        self.homes.values().map(BTreeSet::len).sum()
    }

    /// Does the file end in the middle of a segment that is not the one where the log ends?
    pub fn is_cut(&self) -> bool {
        let last = self.bytes / self.size as u64 * self.size as u64;
        let tip = self.homes.values().next_back();
        last < self.bytes && tip.is_none_or(|places| !places.contains(&last))
    }

    /// Comes back with every message, segment by segment in the order of the log, and with all bad places at the end; `told`
    /// hears of each segment.
    pub fn each(&self, mut told: impl FnMut(), mut message: impl FnMut(Message<'_>)) -> Vec<BadPlace> {
        let mut bad = Vec::new();
        let mut buffer = Vec::new();
        let tip = self.homes.keys().next_back();
        for (number, places) in &self.homes {
            for at in places {
                told();
                self.read(*at, &mut buffer);
                let mut segment = Segment {
                    of: self,
                    bytes: &buffer,
                    at: *at,
                    number: *number,
                    tip: Some(number) == tip,
                    bad: &mut bad,
                };
                segment.walk(&mut message);
            }
        }
        for at in &self.junk {
            bad.push(BadPlace {
                offset: *at,
                bytes: (self.bytes - at).min(self.size as u64),
                through: None,
                reach: Reach::All,
                why: "nothing in this segment can be read",
            });
        }
        bad.sort_by_key(|place| place.offset);
        bad
    }

    /// A segment. Of a disk that does not give all of it back, what it gives: the rest is zeros.
    fn read(&self, at: u64, buffer: &mut Vec<u8>) {
        let length = (self.bytes - at).min(self.size as u64);
        buffer.clear();
        buffer.resize(length as usize, 0);
        if read_at_most(self.file, buffer, at).is_err() {
            buffer.fill(0);
            for (block, at) in buffer.chunks_mut(BLOCK_BYTES).zip((at..).step_by(BLOCK_BYTES)) {
                if read_at_most(self.file, block, at).is_err() {
                    block.fill(0);
                }
            }
        }
    }
}

/// One segment, in memory.
struct Segment<'a, 'b> {
    of: &'a Segments<'a>,
    bytes: &'b [u8],
    at: u64,
    number: u64,
    /// Is it where the log ends?
    tip: bool,
    bad: &'b mut Vec<BadPlace>,
}

impl Segment<'_, '_> {
    fn walk(&mut self, message: &mut impl FnMut(Message<'_>)) {
        let mut at = SEGMENT_HEADER_BYTES;
        if segment_lsn(self.bytes) != Some(self.number.saturating_mul(self.of.size as u64)) {
            self.lost(0..at, Reach::All, "the header of the segment");
        }
        let ends = self.of.size - RED_ZONE_BYTES;
        // The next message that holds, and up to where those go that may have come from elsewhere.
        let (mut next, mut moved) = (Some(0), 0);
        while at <= ends {
            if let Some(head) = self.sound(at) {
                self.tell(&head, at, (true, at >= moved), message);
                if head.kind == Kind::Cap {
                    return;
                }
                at = head.body.end;
                continue;
            }
            if next.is_some_and(|next| next <= at) {
                next = (at + 1..self.bytes.len()).find(|at| self.sound(*at).is_some());
            }
            let torn = Head::read_torn(self.bytes, at, self.of.size);
            let torn = torn.filter(|head| head.segment == self.number);
            // A block from elsewhere may have brought messages into it, but what follows must follow.
            let follows = |head: &Head| {
                let end = head.body.end;
                next.is_none_or(|next| end <= next) || self.sound(end).is_some()
            };
            if let Some(head) = torn.as_ref().filter(|head| follows(head)) {
                let end = head.body.end;
                let reach = match head.kind {
                    Kind::Node | Kind::Link => Reach::Page(head.page),
                    Kind::Cap if head.page == u64::MAX && end == ends => Reach::Nothing,
                    _ => Reach::All,
                };
                self.lost(at..end, reach, "a message whose check does not hold");
                if reach == Reach::Nothing {
                    return;
                }
                self.tell(head, at, (false, true), message);
                self.strays(head.body.clone(), message);
                at = end;
                continue;
            }
            // What it has may still prove itself, where its length is right and what follows is lost as well.
            if let Some(head) = torn {
                self.tell(&head, at, (false, true), message);
            }
            let end = match next {
                Some(next) => next,
                // Where the log ends, there is what was there before; else it goes on to the end of the segment.
                None if self.tip => at,
                None => self.of.size,
            };
            if at < end {
                self.lost(at..end, Reach::All, "no message can be read");
            }
            self.strays(at..next.unwrap_or(self.bytes.len()), message);
            let Some(next) = next else { return };
            (at, moved) = (next, self.moved(next));
        }
    }

    /// Up to where the messages that begin here may be those of a block from another place: a few that fill no more than one,
    /// with nothing behind them that holds. Their order among the others is not known then.
    fn moved(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(head) = self.sound(at) {
            if head.kind == Kind::Cap {
                return from;
            }
            at = head.body.end;
        }
        if (at - 1) / BLOCK_BYTES == from / BLOCK_BYTES { at } else { from }
    }

    /// The message of this segment at this place, if its check holds.
    fn sound(&self, at: usize) -> Option<Head> {
        sound(self.bytes, at, self.of.size).filter(|head| head.segment == self.number)
    }

    /// What was written for other segments.
    fn strays(&self, within: Range<usize>, message: &mut impl FnMut(Message<'_>)) {
        let mut at = within.start;
        while at < within.end {
            match sound(self.bytes, at, self.of.size) {
                Some(head) => {
                    self.tell(&head, at, (true, false), message);
                    at = head.body.end;
                }
                None => at += 1,
            }
        }
    }

    fn tell(
        &self,
        head: &Head,
        at: usize,
        (holds, in_place): (bool, bool),
        message: &mut impl FnMut(Message<'_>),
    ) {
        let begin = head.segment.saturating_mul(self.of.size as u64);
        // What a segment that is used anew still has of before is where it was.
        let before = head.segment != self.number && !self.of.homes.contains_key(&head.segment);
        let placed = in_place || before;
        message(Message {
            kind: head.kind,
            lsn: if placed { begin.saturating_add(at as u64) } else { begin },
            placed,
            page: head.page,
            body: &self.bytes[head.body.clone()],
            at: self.at + head.body.start as u64,
            holds,
        });
    }

    fn lost(&mut self, range: Range<usize>, reach: Reach, why: &'static str) {
        let through = self.number.saturating_mul(self.of.size as u64).saturating_add(range.end as u64);
        self.bad.push(BadPlace {
            offset: self.at + range.start as u64,
            bytes: range.len() as u64,
            through: Some(through),
            reach,
            why,
        });
    }
}

/// A message of any segment at this place, if its check holds.
pub fn sound(bytes: &[u8], at: usize, segment_bytes: usize) -> Option<Head> {
    // Most places are passed over here: at a megabyte a segment, each instruction counts.
    if !matches!(bytes.get(at + 4), Some(1..=11)) {
        return None;
    }
    let head = Head::read(bytes, at)?;
    // sled moves what is longer than this to a file of its own; only padding is.
    let likely = head.kind == Kind::Cap || head.body.len() <= segment_bytes / 4;
    (likely && head.holds(bytes, at)).then_some(head)
}

/// The segment number that most bytes of messages in it have.
pub fn most_common_number(bytes: &[u8], segment_bytes: usize) -> Option<u64> {
    let mut found: BTreeMap<u64, usize> = BTreeMap::new();
    let mut at = 0;
    while at < bytes.len() {
        match sound(bytes, at, segment_bytes) {
            Some(head) => {
                *found.entry(head.segment).or_default() += head.body.end - at;
                at = head.body.end;
            }
            None => at += 1,
        }
    }
    found.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(number, _)| number)
}

pub fn read_at_most(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
