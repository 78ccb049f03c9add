//! Tokens as they come, to standard output.

use crate::{Error, output};
use std::str;

/// What tokens are written as.
pub enum Form {
    /// Ids with spaces between.
    Ids,
    /// Text: the bytes of every token.
    Text(Vec<Vec<u8>>),
}

/// Writes tokens one by one.
pub struct Writer {
    form: Form,
    /// Whether tokens are only collected.
    quiet: bool,
    /// All bytes of the text so far.
    pub bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Tokens so far.
    count: usize,
}

impl Writer {
    /// A writer; `quiet` collects only.
    pub fn new(form: Form, quiet: bool) -> Writer {
        Writer { form, quiet, bytes: vec![], written: 0, count: 0 }
    }

    /// Writes a token, or as much of it as makes whole characters.
    pub fn token(&mut self, token: i32) -> Result<(), Error> {
        match &self.form {
            Form::Ids => {
                let gap = if self.count > 0 { " " } else { "" };
                self.bytes.extend(format!("{gap}{token}").bytes());
            }
            Form::Text(pieces) => {
                self.bytes.extend(pieces.get(token as usize).into_iter().flatten());
            }
        }
        self.count += 1;
        let end = self.written + whole(&self.bytes[self.written..]);
        self.write_to(end)
    }

    /// Writes what is left, whole characters or not, and ends the line.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.write_to(self.bytes.len())?;
        if self.quiet { Ok(()) } else { output::write(b"\n") }
    }

    fn write_to(&mut self, end: usize) -> Result<(), Error> {
        if !self.quiet && end > self.written {
            output::write(&self.bytes[self.written..end])?;
        }
        self.written = end;
        Ok(())
    }
}

/// Bytes up to the last character that may still grow. Bytes that no character starts with go out
/// as they are.
fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Err(e) = str::from_utf8(&bytes[at..]) {
        at += e.valid_up_to();
        match e.error_len() {
            Some(wrong) => at += wrong,
            None => return at,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn half_a_character_waits() {
        let text = "a→b".as_bytes();
        let ends: Vec<usize> = (0..=text.len()).map(|n| whole(&text[..n])).collect();
        assert_eq!(ends, [0, 1, 1, 1, 4, 5]);
        assert_eq!(whole(b"\xff\xe2"), 1);
    }
}
