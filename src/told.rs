//! How far something is that takes its time, for who waits for it: on stderr, once a second.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Tells on stderr how far something is that takes longer than a second.
pub struct Told {
    what: &'static str,
    began: Instant,
    last: Instant,
}

impl Told {
    /// It begins now.
    pub fn new(what: &'static str) -> Told {
        Told { what, began: Instant::now(), last: Instant::now() }
    }

    /// So many bytes, of how many.
    pub fn copied(&mut self, done: u64, of: u64) {
        self.tell(|after| format!("{} of {} after {} s", bytes(done), bytes(of), after.as_secs()));
    }

    /// So many things, and which part of all of them that is, when it is known.
    pub fn counted(&mut self, done: u64, things: &str, part: Option<f64>) {
        self.tell(|after| {
            let rate = done as f64 / after.as_secs_f64();
            let left = part.filter(|part| *part > 0.0).map(|part| after.as_secs_f64() * (1.0 - part) / part);
            let left = left.map(|seconds| format!(", about {:.0} s to go", seconds.max(0.0)));
            format!(
                "{}, {rate:.0} a second{}",
                count(done, things.trim_end_matches('s')),
                left.unwrap_or_default()
            )
        });
    }

    /// Something happened that explains a pause.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(io::stderr(), "note: {text}");
    }

    fn tell(&mut self, line: impl FnOnce(Duration) -> String) {
        if self.last.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.last = Instant::now();
        let line = format!("{}: {}", self.what, line(self.began.elapsed()));
        // On a terminal one line changes.
        let mut to = io::stderr();
        let _ = match to.is_terminal() {
            true => write!(to, "\r{line}  "),
            false => writeln!(to, "{line}"),
        };
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.last > self.began + Duration::from_secs(1) && io::stderr().is_terminal() {
            let _ = writeln!(io::stderr());
        }
    }
}

/// So many of a thing, whose word takes an s.
pub fn count(many: u64, thing: &str) -> String {
    format!("{many} {thing}{}", if many == 1 { "" } else { "s" })
}

/// A size with three digits at least, and its unit.
pub fn bytes(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < units.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    match unit {
        0 if bytes == 1 => "1 byte".into(),
        0 => format!("{bytes} bytes"),
        _ => format!("{size:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (given, shown) in
            [(0, "0 bytes"), (1, "1 byte"), (1_023, "1023 bytes"), (1_536, "1.5 KiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(bytes(given), shown);
        }
    }
}
