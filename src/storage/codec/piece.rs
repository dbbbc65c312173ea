//! A piece of a large value, under origin:8 seq:8 index:4 of the version that it is of.
//!
//! ```text
//! piece    check:4 text        check = as of every item, of the key "pieces" key
//! ```
//!
//! The check is bound to the tree as well: a text is the client's, and could be made to look like an entry.

use super::{Junk, check};

/// What stands before the text.
pub const PIECE_HEAD_BYTES: usize = 4;

/// A piece's bytes under this key.
pub fn encode_piece(key: &[u8], text: &[u8]) -> Vec<u8> {
    [&check(&name(key), text)[..], text].concat()
}

/// The text that these bytes hold under this key.
pub fn decode_piece<'a>(key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], Junk> {
    match bytes.split_first_chunk::<PIECE_HEAD_BYTES>() {
        Some((head, text)) if *head == check(&name(key), text) => Ok(text),
        _ => Err(Junk),
    }
}

fn name(key: &[u8]) -> Vec<u8> {
    [b"pieces", key].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_come_back_under_their_key_and_whole(
            key in proptest::collection::vec(any::<u8>(), 20),
            text in proptest::collection::vec(any::<u8>(), 0..60),
            at in any::<usize>(),
            bit in 0..8u8,
        ) {
            let mut bytes = encode_piece(&key, &text);
            prop_assert_eq!(decode_piece(&key, &bytes), Ok(text.as_slice()));
            let at = at % bytes.len();
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(decode_piece(&key, &bytes), Err(Junk));
            bytes[at] ^= 1u8 << bit;
            prop_assert!(super::super::stamped(&key, &bytes).is_err(), "it could be another item");
            let mut other = key.clone();
            other[at % 20] ^= 1u8 << bit;
            prop_assert_eq!(decode_piece(&other, &bytes), Err(Junk));
        }
    }
}
