//! The cluster secret: whoever shows it is a peer.

use subtle::ConstantTimeEq;

/// What all nodes of a cluster know.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The secret in the text of a file: without white space around it. `None` when nothing is left, or what can't stand
    /// in a header.
    pub fn of(text: &str) -> Option<Secret> {
        let text = text.trim();
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| Secret(text.to_owned()))
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
        assert!(Secret::of("\n ").is_none() && Secret::of("two words").is_none());
        assert!(!format!("{secret:?}").contains("s3cret"));
    }
}
