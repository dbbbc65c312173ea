//! The cluster secret: whoever shows it is a peer.

use subtle::ConstantTimeEq;

/// What all nodes of a cluster know.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The secret in the text of a file: without white space around it. `Err` says what stands there in its place: what is
    /// shown in a header is one line of plain signs.
    pub fn of(text: &str) -> Result<Secret, &'static str> {
        let text = text.trim();
        match text {
            "" => Err("is empty"),
            _ if text.lines().count() > 1 => Err("has more than one line"),
            _ if text.contains([' ', '\t']) => Err("has a space in its line"),
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("has a sign in it that is not ASCII")
            }
            _ => Ok(Secret(text.to_owned())),
        }
    }

    /// As it is shown to a peer.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Is this what a peer shows? Compared in constant time.
    pub fn is(&self, shown: Option<&[u8]>) -> bool {
        let expected = self.header();
        shown.is_some_and(|shown| expected.as_bytes().ct_eq(shown).into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_is_taken() {
        let secret = Secret::of(" s3cret\n").expect("a secret");
        assert!(secret.is(Some(b"Bearer s3cret")));
        for shown in [None, Some(&b""[..]), Some(b"s3cret"), Some(b"Bearer s3cre"), Some(b"Bearer s3cret ")] {
            assert!(!secret.is(shown), "{shown:?}");
        }
        for (text, why) in [
            ("", "empty"),
            ("\n ", "empty"),
            ("one\ntwo\n", "more than one line"),
            ("one\r\n\r\ntwo", "more than one line"),
            ("two words", "space"),
            ("gehe\u{ef}m", "ASCII"),
            ("a\u{7}b", "ASCII"),
        ] {
            assert!(Secret::of(text).expect_err("it is none").contains(why), "{text:?}");
        }
        assert!(!format!("{secret:?}").contains("s3cret"));
    }
}
