//! Tokens of the text form: words, names with a sigil, strings and marks, each with its position.

use std::fmt;
use std::iter::Peekable;
use std::str::CharIndices;

/// Text that is no module: where, and what was found and expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What was found and what was expected.
    pub what: String,
}

/// A position in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub line: u32,
    pub column: u32,
}

impl Spot {
    /// An error here.
    pub(crate) fn error(self, what: impl Into<String>) -> ParseError {
        ParseError { line: self.line, column: self.column, what: what.into() }
    }
}

/// The first character of a name: what kind of thing it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sigil {
    Value,
    Weight,
    Cache,
    Graph,
}

impl Sigil {
    pub(crate) fn char(self) -> char {
        match self {
            Sigil::Value => '%',
            Sigil::Weight => '$',
            Sigil::Cache => '^',
            Sigil::Graph => '@',
        }
    }

    fn from_char(c: char) -> Option<Sigil> {
        [Sigil::Value, Sigil::Weight, Sigil::Cache, Sigil::Graph]
            .into_iter()
            .find(|s| s.char() == c)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword, operation, type or number.
    Word(&'a str),
    /// A name and its kind.
    Name(Sigil, &'a str),
    /// A string, escapes resolved.
    Text(String),
    /// `= : , ( ) [ ] { } ->`.
    Mark(&'static str),
    End,
}

const MARKS: &[(char, &str)] = &[
    ('=', "="),
    (':', ":"),
    (',', ","),
    ('(', "("),
    (')', ")"),
    ('[', "["),
    (']', "]"),
    ('{', "{"),
    ('}', "}"),
];

/// Longest part of the source that an error quotes, in characters.
const QUOTE: usize = 40;

/// Source text in back quotes, cut to a readable length.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => f.write_str(&quote(word)),
            Token::Name(sigil, name) => f.write_str(&quote(&format!("{}{name}", sigil.char()))),
            Token::Text(_) => f.write_str("a string"),
            Token::Mark(mark) => write!(f, "`{mark}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// Whether a character may be part of a name.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// Reads tokens one after another.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    at: Spot,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, chars: text.char_indices().peekable(), at: Spot { line: 1, column: 1 } }
    }

    /// The next token and where it starts.
    pub(crate) fn next(&mut self) -> Result<(Token<'a>, Spot), ParseError> {
        self.skip_blank();
        let spot = self.at;
        let Some(&(start, c)) = self.chars.peek() else { return Ok((Token::End, spot)) };
        let token = if let Some(sigil) = Sigil::from_char(c) {
            self.bump();
            let name = self.take_while(start + 1, |_, c| is_name_char(c));
            if name.is_empty() {
                return Err(spot.error(format!("found `{c}` alone, expected a name after it")));
            }
            Token::Name(sigil, name)
        } else if let Some((_, mark)) = MARKS.iter().find(|(m, _)| *m == c) {
            self.bump();
            Token::Mark(mark)
        } else if c == '"' {
            Token::Text(self.string(spot)?)
        } else if self.text[start..].starts_with("->") {
            self.bump();
            self.bump();
            Token::Mark("->")
        } else if is_name_char(c) || c == '-' {
            Token::Word(self.word(start, c))
        } else {
            return Err(spot.error(format!("found {c:?}, which starts nothing")));
        };
        Ok((token, spot))
    }

    /// A keyword, or a number with its sign and the sign of its exponent.
    fn word(&mut self, start: usize, first: char) -> &'a str {
        self.bump();
        let number = first.is_ascii_digit() || first == '-';
        self.take_while(start, |before, c| {
            is_name_char(c) || (number && "+-".contains(c) && matches!(before, 'e' | 'E'))
        })
    }

    /// Extends the token that began at `start` while `more(character before, character)`.
    fn take_while(&mut self, start: usize, more: impl Fn(char, char) -> bool) -> &'a str {
        let mut before = ' ';
        while let Some(&(i, c)) = self.chars.peek() {
            if i > start {
                before = self.text[..i].chars().next_back().unwrap_or(' ');
            }
            if !more(before, c) {
                return &self.text[start..i];
            }
            self.bump();
        }
        &self.text[start..]
    }

    fn skip_blank(&mut self) {
        while let Some(&(_, c)) = self.chars.peek() {
            if c == ';' {
                while self.chars.peek().is_some_and(|&(_, c)| c != '\n') {
                    self.bump();
                }
            } else if c.is_ascii_whitespace() {
                self.bump();
            } else {
                return;
            }
        }
    }

    fn bump(&mut self) -> Option<char> {
        let (_, c) = self.chars.next()?;
        if c == '\n' {
            self.at = Spot { line: self.at.line.saturating_add(1), column: 1 };
        } else {
            self.at.column = self.at.column.saturating_add(1);
        }
        Some(c)
    }

    fn string(&mut self, start: Spot) -> Result<String, ParseError> {
        self.bump();
        let mut text = String::new();
        loop {
            let spot = self.at;
            match self.bump() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape(spot)?),
                None | Some('\n') => {
                    return Err(
                        start.error("found a string without end, expected `\"` on its line")
                    );
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, spot: Spot) -> Result<char, ParseError> {
        match self.bump() {
            Some(c @ ('"' | '\\' | '/')) => Ok(c),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('u') => self.unicode(spot),
            _ => {
                Err(spot
                    .error("found an unknown escape, expected \\\" \\\\ \\n \\r \\t or \\uXXXX"))
            }
        }
    }

    /// `XXXX` after `\u`, or a surrogate pair `XXXX\uXXXX`, as in JSON.
    fn unicode(&mut self, spot: Spot) -> Result<char, ParseError> {
        let high = self.hex4(spot)?;
        let mut code = high;
        if (0xd800..0xdc00).contains(&high) {
            let more = self.bump() == Some('\\') && self.bump() == Some('u');
            let low = if more { self.hex4(spot)? } else { 0 };
            if !(0xdc00..0xe000).contains(&low) {
                return Err(spot.error("found half of a surrogate pair, expected both"));
            }
            code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or_else(|| spot.error("found an escape that is no character"))
    }

    fn hex4(&mut self, spot: Spot) -> Result<u32, ParseError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.bump().and_then(|c| c.to_digit(16));
            code = code * 16 + digit.ok_or_else(|| spot.error("expected four hex digits"))?;
        }
        Ok(code)
    }
}
