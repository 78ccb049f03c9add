//! Attribute lists, `{name = value, …}`: read by name, each exactly once.

use crate::lex::{ParseError, Spot, quote};

/// A word of the text and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    pub text: &'a str,
    pub spot: Spot,
}

impl Word<'_> {
    /// A count: decimal digits that fit 64 bits.
    pub(crate) fn integer(self) -> Result<u64, ParseError> {
        let digits = self.text.bytes().all(|b| b.is_ascii_digit());
        let number = if digits { self.text.parse().ok() } else { None };
        number.ok_or_else(|| self.error("a whole number below 2^64"))
    }

    /// A token id: decimal digits that fit 32 bits.
    pub(crate) fn token(self) -> Result<u32, ParseError> {
        u32::try_from(self.integer()?).map_err(|_| self.error("a token id below 2^32"))
    }

    /// A finite number, to the nearest f64.
    pub(crate) fn float(self) -> Result<f64, ParseError> {
        let digits = self.text.strip_prefix('-').unwrap_or(self.text);
        let number: Option<f64> = match digits.starts_with(|c: char| c.is_ascii_digit()) {
            true => self.text.parse().ok(),
            false => None,
        };
        number.filter(|n| n.is_finite()).ok_or_else(|| self.error("a finite number"))
    }

    /// A finite number, to the nearest f32.
    pub(crate) fn single(self) -> Result<f32, ParseError> {
        let number = self.float()? as f32;
        number.is_finite().then_some(number).ok_or_else(|| self.error("a number that f32 holds"))
    }

    /// An error that names the word and what it should be.
    pub(crate) fn error(self, expected: &str) -> ParseError {
        self.spot.error(format!("found {}, expected {expected}", quote(self.text)))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Setting<'a> {
    One(Word<'a>),
    List(Vec<Word<'a>>),
}

/// An attribute list that is being read.
pub(crate) struct Attrs<'a> {
    /// Whose attributes, for errors.
    owner: &'a str,
    /// Where a missing attribute is reported.
    spot: Spot,
    list: Vec<(Word<'a>, Setting<'a>)>,
}

impl<'a> Attrs<'a> {
    pub(crate) fn new(owner: &'a str, spot: Spot) -> Attrs<'a> {
        Attrs { owner, spot, list: vec![] }
    }

    /// Adds one; a name twice is an error.
    pub(crate) fn push(&mut self, name: Word<'a>, setting: Setting<'a>) -> Result<(), ParseError> {
        if self.list.iter().any(|(n, _)| n.text == name.text) {
            return Err(name.spot.error(format!("found {} a second time", quote(name.text))));
        }
        self.list.push((name, setting));
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<Setting<'a>> {
        let index = self.list.iter().position(|(n, _)| n.text == name)?;
        Some(self.list.swap_remove(index).1)
    }

    fn missing(&self, name: &str) -> ParseError {
        self.spot.error(format!("{} has no attribute `{name}`", self.owner))
    }

    /// One word, if the attribute is there.
    pub(crate) fn word(&mut self, name: &str) -> Result<Option<Word<'a>>, ParseError> {
        match self.take(name) {
            None => Ok(None),
            Some(Setting::One(word)) => Ok(Some(word)),
            Some(Setting::List(_)) => {
                Err(self.spot.error(format!("`{name}` is a list, expected one value")))
            }
        }
    }

    pub(crate) fn integer(&mut self, name: &str) -> Result<u64, ParseError> {
        self.word(name)?.ok_or_else(|| self.missing(name))?.integer()
    }

    pub(crate) fn float(&mut self, name: &str) -> Result<f64, ParseError> {
        self.word(name)?.ok_or_else(|| self.missing(name))?.float()
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<Word<'a>>, ParseError> {
        match self.take(name).ok_or_else(|| self.missing(name))? {
            Setting::List(list) => Ok(list),
            Setting::One(word) => Err(word.error("a list, as in `[1, 2]`")),
        }
    }

    /// Everything was taken.
    pub(crate) fn finish(self) -> Result<(), ParseError> {
        match self.list.iter().min_by_key(|(n, _)| (n.spot.line, n.spot.column)) {
            None => Ok(()),
            Some((name, _)) => Err(name.spot.error(format!(
                "found {}, which is no attribute of {} here",
                quote(name.text),
                self.owner
            ))),
        }
    }
}
