//! Standard output: results only, for people or for other programs. Standard error: the rest.

use crate::Error;
use serde_json::Value;
use std::io::{self, ErrorKind, Write};

/// Prints a text as it is.
pub fn print(text: &str) -> Result<(), Error> {
    write(text.as_bytes())
}

/// Prints bytes at once, also where a line is not complete.
pub fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // The reader has seen enough, as `head` does; nothing is left to do for anyone.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Error::new("IG0601", "cannot write")
            .file("standard output".as_ref())
            .note(e.to_string())),
    }
}

/// A line on standard error; that nobody reads it is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints a JSON value, one object per call.
pub fn json(value: &Value) -> Result<(), Error> {
    print(&format!("{value:#}\n"))
}

/// Rows of cells as columns: the first flush left, the others flush right, two spaces between.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, &width))| match c {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Names and what they stand for, in two columns flush left.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A number and what it counts, whose plural ends in s.
pub fn counted(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// A number with a space between groups of three digits.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "1".into()], vec!["long".into(), "100".into()]];
        assert_eq!(table(&rows), "a       1\nlong  100\n");
    }

    #[test]
    fn digits_come_in_groups() {
        assert_eq!([grouped(1), grouped(1000), grouped(1234567)], ["1", "1 000", "1 234 567"]);
    }
}
