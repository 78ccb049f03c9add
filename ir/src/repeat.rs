//! Lines that come again with another number: equal layers are printed once.
//!
//! ```text
//! for 0..30 {
//!   weight $l{}.wq : f32[576, 576] = blob "blk.{}.attn_q.weight" via rotate_in($r1)
//!   weight $r2.{}  : f32[64, 64]   = hadamard({+1})
//! }
//! ```
//!
//! stands for its lines 30 times, with 0 to 29 in the place of `{}` and 1 to 30 in that of `{+1}`. It
//! is text for text: expanded before anything is read, found when everything is written.

use crate::parse::ParseError;
use std::borrow::Cow;
use std::ops::Range;

/// Rounds of lines that are written as one, at least.
const ROUNDS: usize = 3;
/// Rounds that one `for` may have, and bytes that a text may stand for.
const ROUNDS_MAX: u64 = 1 << 16;
const EXPANDED_MAX: usize = 16 << 20;

/// A text without `for`, and where its lines come from.
pub(crate) struct Expanded<'a> {
    pub text: Cow<'a, str>,
    source: &'a str,
    /// Of each line its line in the source, from 0, and the number in it; empty if nothing repeats.
    origins: Vec<(usize, Option<u64>)>,
}

impl Expanded<'_> {
    /// The line of the source, both from 1.
    pub fn line(&self, line: u32) -> u32 {
        self.origin(line).map_or(line, |(at, _)| at as u32 + 1)
    }

    /// The same error where the source has it.
    pub fn place(&self, error: ParseError) -> ParseError {
        let Some((at, number)) = self.origin(error.line) else { return error };
        let text = self.source.lines().nth(at).unwrap_or_default();
        let column = number.map_or(error.column, |n| source_column(text, n, error.column));
        ParseError { line: at as u32 + 1, column, ..error }
    }

    fn origin(&self, line: u32) -> Option<(usize, Option<u64>)> {
        self.origins.get((line as usize).saturating_sub(1)).copied()
    }
}

/// Writes out every `for`.
pub(crate) fn expand(source: &str) -> Result<Expanded<'_>, ParseError> {
    let lines: Vec<&str> = source.lines().collect();
    if !lines.iter().any(|line| opening(line).is_some()) {
        return Ok(Expanded { text: Cow::Borrowed(source), source, origins: vec![] });
    }
    let (mut text, mut origins, mut at) = (String::new(), vec![], 0);
    let mut put = |text: &mut String, line: &str, origin| {
        text.push_str(line);
        text.push('\n');
        origins.push(origin);
    };
    while at < lines.len() {
        let Some(range) = opening(lines[at]) else {
            put(&mut text, lines[at], (at, None));
            at += 1;
            continue;
        };
        let error = |what: String| ParseError { line: at as u32 + 1, column: 1, what };
        let length = lines[at + 1..].iter().position(|line| line.trim() == "}");
        let Some(length) = length else {
            return Err(error("found `for` without end, expected a line `}`".into()));
        };
        let body = at + 1..at + 1 + length;
        if let Some(inner) = body.clone().find(|&i| opening(lines[i]).is_some()) {
            let what = "found `for` within `for`, expected lines".into();
            return Err(ParseError { line: inner as u32 + 1, column: 1, what });
        }
        if range.end.saturating_sub(range.start) > ROUNDS_MAX {
            return Err(error(format!("found more than {ROUNDS_MAX} rounds")));
        }
        for n in range {
            for i in body.clone() {
                let line = fill(lines[i], n).ok_or_else(|| ParseError {
                    line: i as u32 + 1,
                    column: 1,
                    what: format!("found a number below 0 in round {n} of `for`"),
                })?;
                put(&mut text, &line, (i, Some(n)));
                if text.len() > EXPANDED_MAX {
                    return Err(error(format!("found more than {EXPANDED_MAX} bytes of lines")));
                }
            }
        }
        at = body.end + 1;
    }
    Ok(Expanded { text: Cow::Owned(text), source, origins })
}

/// The numbers of a line `for A..B {`.
fn opening(line: &str) -> Option<Range<u64>> {
    let range = line.trim().strip_prefix("for ")?.strip_suffix('{')?.trim();
    let (start, end) = range.split_once("..")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

/// A part of a line in a `for`.
enum Piece<'a> {
    Text(&'a str),
    /// `{}`, `{+N}` or `{-N}`, and the text of it.
    Number(i64, &'a str),
}

fn pieces(line: &str) -> Vec<Piece<'_>> {
    let (mut found, mut rest) = (vec![], line);
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').map(|n| open + n);
        let number = close.and_then(|close| match &rest[open + 1..close] {
            "" => Some((0, close)),
            offset if offset.starts_with(['+', '-']) => Some((offset.parse().ok()?, close)),
            _ => None,
        });
        // A brace that holds no number is one of attributes.
        let end = number.map_or(open + 1, |(_, close)| close + 1);
        match number {
            Some((offset, _)) => {
                found.extend([Piece::Text(&rest[..open]), Piece::Number(offset, &rest[open..end])]);
            }
            None => found.push(Piece::Text(&rest[..end])),
        }
        rest = &rest[end..];
    }
    found.push(Piece::Text(rest));
    found
}

/// The line with a number in it; nothing if one would be below 0.
fn fill(line: &str, n: u64) -> Option<String> {
    let piece = |piece| match piece {
        Piece::Text(text) => Some(text.to_string()),
        Piece::Number(offset, _) => n.checked_add_signed(offset).map(|n| n.to_string()),
    };
    pieces(line).into_iter().map(piece).collect()
}

/// The column of a line in a `for` that became `column`, both from 1.
fn source_column(line: &str, n: u64, column: u32) -> u32 {
    let (mut before, mut after) = (1, 1);
    for piece in pieces(line) {
        let (from, to) = match piece {
            Piece::Text(text) => (text.chars().count(), text.chars().count()),
            Piece::Number(offset, text) => {
                (text.len(), n.saturating_add_signed(offset).to_string().len())
            }
        };
        if after + to > column as usize {
            return (before + (column as usize - after).min(from)) as u32;
        }
        (before, after) = (before + from, after + to);
    }
    (before + column as usize - after) as u32
}

/// Rows of columns that belong together: as they are, or the rows of a `for`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Numbers of the `for`.
    pub range: Option<Range<u64>>,
    /// Its rows, with `{}` where numbers come.
    pub rows: Vec<Vec<String>>,
}

/// Finds rows that come again.
pub(crate) fn fold(rows: Vec<Vec<String>>) -> Vec<Block> {
    let shapes: Vec<Shape> = rows.iter().map(|row| Shape::new(row)).collect();
    let (mut blocks, mut at): (Vec<Block>, usize) = (vec![], 0);
    while at < rows.len() {
        let of = |period| (rounds(&shapes[at..], period), period);
        let all = (1..=(rows.len() - at) / ROUNDS).map(of);
        // The first of those that cover most: the shortest.
        let best = all.reduce(|a, b| if b.0 * b.1 > a.0 * a.1 { b } else { a });
        match best {
            Some((rounds, period)) if rounds >= ROUNDS && rounds * period > period + 2 => {
                blocks.push(block(&rows[at..at + period], &shapes[at..], rounds));
                at += rounds * period;
            }
            _ => {
                match blocks.last_mut() {
                    Some(Block { range: None, rows: before }) => before.push(rows[at].clone()),
                    _ => blocks.push(Block { range: None, rows: vec![rows[at].clone()] }),
                }
                at += 1;
            }
        }
    }
    blocks
}

/// A row: its text with numbers taken out, and the numbers.
#[derive(PartialEq, Eq)]
struct Shape {
    text: String,
    numbers: Vec<u64>,
}

impl Shape {
    fn new(row: &[String]) -> Shape {
        let mut shape = Shape { text: String::new(), numbers: vec![] };
        for part in split(&row.join("\t")) {
            match part.parse() {
                Ok(number) if is_number(part) => {
                    shape.numbers.push(number);
                    // No text that is printed has it.
                    shape.text.push('\0');
                }
                _ => shape.text.push_str(part),
            }
        }
        shape
    }

    /// Whether `other` is this row with numbers that are the same or `n` more; both kinds are as in
    /// the round that came first, `next`.
    fn comes_again(&self, next: &Shape, other: &Shape, n: u64) -> bool {
        let numbers = self.numbers.iter().zip(&next.numbers).zip(&other.numbers);
        self.text == other.text
            && self.numbers.len() == other.numbers.len()
            && numbers
                .map(|((a, b), c)| (b.wrapping_sub(*a), c.wrapping_sub(*a)))
                .all(|d| matches!(d, (0, 0)) || d == (1, n))
    }
}

/// How many times the first `period` rows come one after the other; only numbers count up.
fn rounds(shapes: &[Shape], period: usize) -> usize {
    // A line that holds braces could be read as something else.
    if shapes[..period].iter().any(|shape| shape.text.contains(['{', '}'])) {
        return 1;
    }
    let again = |round: usize| {
        (0..period).all(|i| {
            let next = &shapes[period + i];
            shapes[i].text == next.text
                && shapes[i].comes_again(next, &shapes[round * period + i], round as u64)
        })
    };
    let last = shapes.len() / period;
    1 + (1..last).take_while(|&round| again(round)).count()
}

fn block(rows: &[Vec<String>], shapes: &[Shape], rounds: usize) -> Block {
    let counts = |row: usize, number: usize| {
        shapes[row].numbers[number] != shapes[rows.len() + row].numbers[number]
    };
    let all = (0..rows.len()).flat_map(|r| (0..shapes[r].numbers.len()).map(move |n| (r, n)));
    let counting = all.filter(|&(r, n)| counts(r, n)).map(|(r, n)| shapes[r].numbers[n]);
    let start = counting.min().unwrap_or(0);
    let template = |(r, row): (usize, &Vec<String>)| {
        let mut number = 0;
        let mut part = |part: &str| {
            let Some(value) = part.parse::<u64>().ok().filter(|_| is_number(part)) else {
                return part.to_string();
            };
            number += 1;
            match (counts(r, number - 1), value.saturating_sub(start)) {
                (false, _) => part.to_string(),
                (true, 0) => "{}".to_string(),
                (true, more) => format!("{{+{more}}}"),
            }
        };
        row.iter().map(|column| split(column).into_iter().map(&mut part).collect()).collect()
    };
    let rows = rows.iter().enumerate().map(template).collect();
    Block { range: Some(start..start + rounds as u64), rows }
}

/// Text cut between digits and other characters.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (vec![], 0);
    let bytes = text.as_bytes();
    for at in 1..bytes.len() {
        if bytes[at].is_ascii_digit() != bytes[at - 1].is_ascii_digit() {
            parts.push(&text[start..at]);
            start = at;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Whether digits are a number that is written as it is read.
fn is_number(part: &str) -> bool {
    let digits = part.bytes().all(|b| b.is_ascii_digit());
    digits && (1..=15).contains(&part.len()) && (part == "0" || !part.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[&str]) -> Vec<Vec<String>> {
        lines.iter().map(|line| line.split('|').map(str::to_string).collect()).collect()
    }

    #[test]
    fn layers_become_one_and_the_rest_stays() {
        let found = fold(rows(&[
            "embed|f16",
            "l0.wq|blob 0 of 9",
            "l0.r|hadamard(5)",
            "l1.wq|blob 1 of 9",
            "l1.r|hadamard(6)",
            "l2.wq|blob 2 of 9",
            "l2.r|hadamard(7)",
            "norm|f32",
        ]));
        let layers = Block {
            range: Some(0..3),
            rows: rows(&["l{}.wq|blob {} of 9", "l{}.r|hadamard({+5})"]),
        };
        let plain = |line| Block { range: None, rows: rows(&[line]) };
        assert_eq!(found, [plain("embed|f16"), layers, plain("norm|f32")]);
    }

    #[test]
    fn what_differs_or_is_short_is_left() {
        for lines in [
            &["a0", "a1", "a2"][..],
            &["a0|f16", "b0", "a1|f16", "b1", "a2|f32", "b2"],
            &["a0 {x}", "a1 {x}", "a2 {x}", "a3 {x}", "a4 {x}"],
            &["a01", "a02", "a03", "a04", "a05"],
            &["a0", "a2", "a4", "a6", "a8"],
        ] {
            assert_eq!(fold(rows(lines)), [Block { range: None, rows: rows(lines) }]);
        }
    }

    #[test]
    fn numbers_are_filled_in() {
        let source = "one\nfor 2..4 {\n  $l{}.a {-1} {x = 1} {+10}\n}\nlast";
        let found = expand(source).expect("a text");
        assert_eq!(found.text, "one\n  $l2.a 1 {x = 1} 12\n  $l3.a 2 {x = 1} 13\nlast\n");
        assert_eq!([1, 2, 3, 4].map(|line| found.line(line)), [1, 3, 3, 5]);
    }

    #[test]
    fn errors_are_where_the_source_has_them() {
        let found = expand("for 9..12 {\n  $l{}.a {+100} x\n}").expect("a text");
        let at = |line, column| {
            let error = found.place(ParseError { line, column, what: String::new() });
            (error.line, error.column)
        };
        // `  $l10.a 110 x`: before the number, in it, behind both.
        assert_eq!([at(2, 4), at(2, 5), at(2, 14)], [(2, 4), (2, 5), (2, 17)]);
    }

    #[test]
    fn what_cannot_be_expanded_is_said() {
        for (source, line, what) in [
            ("a\nfor 0..2 {\nb", 2, "without end"),
            ("for 0..2 {\nfor 0..2 {\n}\n}", 2, "within"),
            ("for 0..2 {\n x{-1}\n}", 2, "below 0"),
            ("for 0..99999999999 {\n}", 1, "rounds"),
            (&format!("for 0..65536 {{\n{}\n}}", "a".repeat(999)), 1, "bytes of lines"),
        ] {
            let error = expand(source).err().expect("an error");
            assert_eq!(error.line, line, "{source}");
            assert!(error.what.contains(what), "{error}");
        }
    }
}
