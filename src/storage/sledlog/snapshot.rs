//! sled's snapshot: up to which LSN it has gone through its log, and where each page stood then.
//!
//! ```text
//! snap.LSN   body, its length:8, its CRC-32:4;  body = lsn:8 segment:varint pages
//! page       0 lsn:8 place: given back; else 1 and how many links, then where the node and the links are
//! where      lsn:8 place bytes:varint;  place = 0 offset:varint, or 1 offset:varint blob:8
//! ```

use super::message::Reader;

/// What is in a snapshot that is whole; `None`: its writing did not come to an end, or it is damaged.
pub fn snapshot_body(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, check) = bytes.split_last_chunk::<4>()?;
    let (body, length) = rest.split_last_chunk::<8>()?;
    let whole = !body.is_empty()
        && u64::from_le_bytes(*length) == body.len() as u64
        && u32::from_le_bytes(*check) == crc32fast::hash(body);
    whole.then_some(body)
}

/// The LSN at which each page was written as a whole or given back, by page; ends early where it can't be read.
pub fn snapshot_pages(body: &[u8]) -> impl Iterator<Item = u64> {
    let mut from = Reader::at(body, 0);
    let begun = from.array::<8>().is_some() && from.number().is_some();
    std::iter::from_fn(move || if begun { page(&mut from) } else { None })
}

fn page(from: &mut Reader<'_>) -> Option<u64> {
    let kind = from.byte()?;
    let lsn = u64::from_le_bytes(from.array()?);
    place(from)?;
    if kind > 0 {
        from.number()?;
    }
    for _ in 1..kind {
        from.array::<8>()?;
        place(from)?;
        from.number()?;
    }
    Some(lsn)
}

fn place(from: &mut Reader<'_>) -> Option<()> {
    let blob = from.byte()? == 1;
    from.number()?;
    if blob {
        from.array::<8>()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_snapshot_is_told_from_a_torn_one() {
        let mut bytes = b"123456789".to_vec();
        bytes.extend(9u64.to_le_bytes());
        bytes.extend(0xcbf4_3926u32.to_le_bytes());
        assert_eq!(snapshot_body(&bytes), Some(&b"123456789"[..]));
        for cut in 0..bytes.len() {
            assert_eq!(snapshot_body(&bytes[..cut]), None);
        }
        bytes[3] ^= 1;
        assert_eq!(snapshot_body(&bytes), None);
        assert_eq!(snapshot_body(&[0; 12]), None);
    }
}
