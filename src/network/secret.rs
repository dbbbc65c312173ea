//! The cluster secret: whoever shows it is a peer.

use subtle::ConstantTimeEq;

/// What all nodes of a cluster know: the secret that a node shows, and those that it takes. Two while one takes the place of the
/// other, one node after the other.
#[derive(Clone)]
pub struct Secret {
    shown: String,
    former: Option<String>,
}

impl Secret {
    /// The secret in the text of a file, and below it the one that it takes the place of: without white space around them. `Err`
    /// says what stands there in their place: what is shown in a header is one line of plain signs.
    pub fn of(text: &str) -> Result<Secret, &'static str> {
        let mut lines = text.trim().lines().map(str::trim);
        let shown = lines.next().unwrap_or_default();
        let former = lines.next();
        for secret in [Some(shown), former].into_iter().flatten() {
            match secret {
                "" if former.is_none() => return Err("is empty"),
                "" => return Err("has an empty line"),
                _ if secret.contains([' ', '\t']) => return Err("has a space in a line"),
                _ if !secret.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    return Err("has a sign in it that is not ASCII");
                }
                _ => {}
            }
        }
        match lines.next() {
            Some(_) => Err("has more than two lines"),
            None => Ok(Secret { shown: shown.to_owned(), former: former.map(str::to_owned) }),
        }
    }

    /// As it is shown to a peer.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.shown)
    }

    /// Is this what a peer shows? Compared in constant time.
    pub fn is(&self, shown: Option<&[u8]>) -> bool {
        let Some(shown) = shown.and_then(|shown| shown.strip_prefix(b"Bearer ")) else { return false };
        let is = |secret: &String| bool::from(secret.as_bytes().ct_eq(shown));
        let former = self.former.as_ref().is_some_and(is);
        is(&self.shown) | former
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
            ("one\ntwo\nthree\n", "more than two lines"),
            ("one\r\n\r\ntwo", "an empty line"),
            ("two words", "space"),
            ("gehe\u{ef}m", "ASCII"),
            ("a\u{7}b", "ASCII"),
        ] {
            assert!(Secret::of(text).expect_err("it is none").contains(why), "{text:?}");
        }
        let both = Secret::of("new\r\ns3cret\r\n").expect("a secret, and a former one");
        assert!(
            both.is(Some(b"Bearer new"))
                && both.is(Some(b"Bearer s3cret"))
                && !both.is(Some(b"Bearer new\r\ns3cret"))
        );
        assert_eq!(both.header(), "Bearer new");
        assert!(!format!("{secret:?}").contains("s3cret"));
    }
}
