//! Times as clients read them: RFC 3339, UTC, milliseconds.

use jiff::Timestamp;

/// `2026-11-22T10:00:00.123Z`; what lies beyond the year 9999 is shown as its last moment.
pub fn text(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_milliseconds_always() {
        assert_eq!(super::text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::text(1_795_341_600_120), "2026-11-22T10:00:00.120Z");
        assert!(super::text(u64::MAX >> 16).starts_with("9999-12-"));
    }
}
