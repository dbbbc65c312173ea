//! A segment's header, a message's header, and the numbers in both.

use std::ops::Range;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins in so many last bytes of a segment (sled's `MAX_MSG_HEADER_LEN`).
pub const RED_ZONE_BYTES: usize = 32;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Room that was taken and not used.
    Canceled,
    /// The end of a segment.
    Cap,
    /// Where a batch ends.
    BatchManifest,
    /// A page is given back.
    Free,
    /// The highest id that was given out.
    Counter,
    /// The names of the trees.
    Meta,
    /// A whole page.
    Node,
    /// A change of a page.
    Link,
    /// What it says is in a file of `blobs/`.
    Blob,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Canceled,
            2 => Kind::Cap,
            3 => Kind::BatchManifest,
            4 => Kind::Free,
            5 => Kind::Counter,
            6 => Kind::Meta,
            8 => Kind::Node,
            10 => Kind::Link,
            7 | 9 | 11 => Kind::Blob,
            _ => return None,
        })
    }
}

/// What stands before a message's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    /// The number of the segment for which it was written.
    pub segment: u64,
    pub page: u64,
    /// Its body, in the bytes that it was read from.
    pub body: Range<usize>,
    check: u32,
}

impl Head {
    /// The head at this place, if there is one by its looks: its body must not go beyond the bytes.
    pub fn read(bytes: &[u8], at: usize) -> Option<Head> {
        let (head, end) = Head::by_looks(bytes, at)?;
        (end <= bytes.len()).then_some(head)
    }

    /// The same where the bytes may end too early: of a body that goes beyond them, but not beyond its segment, what is there.
    pub fn read_torn(bytes: &[u8], at: usize, segment_bytes: usize) -> Option<Head> {
        let (head, end) = Head::by_looks(bytes, at)?;
        (end <= segment_bytes).then_some(head)
    }

    /// The head, with as much of its body as there is, and where the body ends.
    fn by_looks(bytes: &[u8], at: usize) -> Option<(Head, usize)> {
        let mut from = Reader::at(bytes, at);
        let check = u32::from_le_bytes(from.array()?);
        let kind = Kind::of(from.byte()?)?;
        let length = usize::try_from(from.number()?).ok()?;
        let (segment, page) = (from.number()?, from.number()?);
        let end = from.place.checked_add(length)?;
        Some((Head { kind, segment, page, body: from.place..end.min(bytes.len()), check }, end))
    }

    /// Do the bytes that it was read from, at the same place, fit its check?
    pub fn holds(&self, bytes: &[u8], at: usize) -> bool {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[self.body.clone()]);
        hasher.update(&bytes[at + 4..self.body.start]);
        hasher.finalize() ^ u32::MAX == self.check
    }
}

/// What the header of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// The LSN at which the segment begins.
    pub lsn: u64,
    /// Up to and with this LSN everything was on the disk when the segment was begun; `None`: nothing was.
    pub stable: Option<u64>,
}

impl SegmentHead {
    /// The header at the begin of these bytes; `None` when it is damaged, or none is there.
    pub fn read(bytes: &[u8]) -> Option<SegmentHead> {
        let mut from = Reader::at(bytes, 0);
        let check = u32::from_le_bytes(from.array()?) ^ u32::MAX;
        let lsn = u64::from_le_bytes(from.array()?) ^ i64::MAX as u64;
        let stable = u64::from_le_bytes(from.array()?) ^ i64::MAX as u64;
        let sound = crc32fast::hash(bytes.get(4..SEGMENT_HEADER_BYTES)?) == check;
        let of = |number: u64| i64::try_from(number).is_ok().then_some(number);
        // sled's are signed, and only the second one may be negative.
        let lsn = of(lsn).filter(|_| sound)?;
        Some(SegmentHead { lsn, stable: of(stable) })
    }
}

/// The LSN at which a segment begins, by its header; `None` when that is damaged, or none.
pub fn segment_lsn(bytes: &[u8]) -> Option<u64> {
    SegmentHead::read(bytes).map(|head| head.lsn)
}

/// Reads on from a place; whatever does not fit is `None`.
pub struct Reader<'a> {
    bytes: &'a [u8],
    pub place: usize,
}

impl<'a> Reader<'a> {
    pub fn at(bytes: &'a [u8], place: usize) -> Reader<'a> {
        Reader { bytes, place }
    }

    pub fn is_empty(&self) -> bool {
        self.place >= self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.place.checked_add(count)?;
        let taken = self.bytes.get(self.place..end)?;
        self.place = end;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|one| one[0])
    }

    /// sled's varint: small ones are one byte, and the first byte of the others says how many follow.
    pub fn number(&mut self) -> Option<u64> {
        Some(match self.byte()? {
            small @ 0..=240 => u64::from(small),
            high @ 241..=248 => 240 + 256 * (u64::from(high) - 241) + u64::from(self.byte()?),
            249 => {
                let [high, low] = self.array()?;
                2_288 + 256 * u64::from(high) + u64::from(low)
            }
            more => {
                let count = usize::from(more) - 247;
                let mut bytes = [0; 8];
                bytes[..count].copy_from_slice(self.take(count)?);
                u64::from_le_bytes(bytes)
            }
        })
    }

    /// Where the bytes are whose length stands here.
    pub fn range(&mut self) -> Option<Range<usize>> {
        let length = usize::try_from(self.number()?).ok()?;
        let from = self.place;
        self.take(length)?;
        Some(from..self.place)
    }

    pub fn slice(&mut self) -> Option<&'a [u8]> {
        let range = self.range()?;
        self.bytes.get(range)
    }
}
