//! How things look to people: tables, keys. Nothing here knows what they mean.

use super::{Error, Out};

/// A key as text: what would confuse a terminal is escaped.
pub fn key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}

/// Aligned columns: numbers to the right, words to the left.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these heads.
    pub fn new(heads: &[&'static str]) -> Table {
        Table { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// One more row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes it.
    pub fn show(&self, out: &mut Out) -> Result<(), Error> {
        let wide = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.chain([self.heads[at].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(wide).collect();
        let number = |cell: &str| !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
        let right: Vec<bool> = (0..self.heads.len())
            .map(|at| !self.rows.is_empty() && self.rows.iter().all(|row| number(&row[at])))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.enumerate().map(|(at, cell)| match right[at] {
                true => format!("{cell:>width$}", width = widths[at]),
                false => format!("{cell:<width$}", width = widths[at]),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        out.line(&line(&mut self.heads.iter().copied()))?;
        for row in &self.rows {
            out.line(&line(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_no_harm_to_a_terminal() {
        assert_eq!(key("größe/1".as_bytes()), "größe/1");
        assert_eq!(key(b"a\x1b[2J"), "a\\x1b[2J");
        assert_eq!(key(b"\xff"), "\\xff");
    }
}
