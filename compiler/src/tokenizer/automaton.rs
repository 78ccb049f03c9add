//! A regular expression that cuts text, as the automaton of `runtime::encode::Cut`.
//!
//! Supported is what pre-tokenizers use: classes, alternatives, repetition, groups, flags, and the
//! look-ahead `(?!\S)`. The first alternative that matches wins, as in backtracking engines: a state
//! is a list of places in the expression, best first, and a match takes away what comes after it.

use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind};
use runtime::encode::added::{SPACE, WORD};
use runtime::encode::cut::MATCH;
use runtime::encode::{Classes, Cut};
use std::collections::HashMap;
use std::ops::Range;

/// The look-ahead.
const LOOK_AHEAD: &str = r"(?!\S)";
/// The name of the empty group that stands for it while the expression is parsed.
const STAND_IN: &str = "not_before_a_word";

/// A set of characters: ranges of code points, ends excluded, in order.
type Set = Vec<Range<u32>>;

/// Code points.
const ALL: u32 = 0x11_0000;
/// Most states, and most places in an expression; those of pre-tokenizers have some 50.
const MOST: usize = 1000;

/// A place in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A character of a set, then on.
    Set(usize, usize),
    /// Several ways on, best first.
    Either(Vec<usize>),
    /// On, unless a character follows that is no white space.
    Ahead(usize),
    /// The end.
    Match,
}

/// The automaton of an expression; what of it is not supported otherwise.
pub fn compile(expression: &str) -> Result<Cut, String> {
    let plain = expression.replace(LOOK_AHEAD, &format!("(?P<{STAND_IN}>)"));
    let hir = regex_syntax::parse(&plain).map_err(|e| match e {
        regex_syntax::Error::Parse(e) => e.kind().to_string(),
        regex_syntax::Error::Translate(e) => e.kind().to_string(),
        other => other.to_string(),
    })?;
    from_hir(&hir)
}

/// The automaton that finds single characters for which `belongs` holds.
pub fn single(belongs: impl Fn(char) -> bool) -> Result<Cut, String> {
    let ranges = ('\0'..=char::MAX).filter(|&c| belongs(c));
    let ranges = ranges.map(|c| regex_syntax::hir::ClassUnicodeRange::new(c, c));
    from_hir(&Hir::class(Class::Unicode(ClassUnicode::new(ranges))))
}

/// An automaton of tables and rows of states.
pub(super) fn cut(tables: Tables, states: Vec<u16>, columns: usize) -> Cut {
    Cut {
        first: tables.first,
        inner: tables.inner.rows.concat(),
        last: tables.last.rows.concat(),
        states,
        classes: columns as u16,
        start: columns as u16,
    }
}

fn from_hir(hir: &Hir) -> Result<Cut, String> {
    let mut program = Program { sets: vec![named(r"\s")], places: vec![Place::Match] };
    let start = program.add(hir, 0)?;
    let (classes, class_of) = classes(&program.sets);
    automaton(&program, start, &classes, &class_of)
}

/// The characters of a class that has a name.
fn named(class: &str) -> Set {
    let hir = regex_syntax::parse(class).expect("it is one class");
    match hir.kind() {
        HirKind::Class(class) => set(class),
        _ => unreachable!("it is one class"),
    }
}

/// Whether a code point is in a set.
fn holds(set: &Set, c: u32) -> bool {
    let after = set.partition_point(|range| range.end <= c);
    set.get(after).is_some_and(|range| range.contains(&c))
}

fn set(class: &Class) -> Set {
    match class {
        Class::Unicode(class) => {
            class.iter().map(|r| u32::from(r.start())..u32::from(r.end()) + 1).collect()
        }
        Class::Bytes(class) => {
            class.iter().map(|r| u32::from(r.start())..u32::from(r.end()) + 1).collect()
        }
    }
}

/// An expression as places; the first set is white space.
struct Program {
    sets: Vec<Set>,
    places: Vec<Place>,
}

impl Program {
    fn place(&mut self, place: Place) -> Result<usize, String> {
        if self.places.len() >= MOST {
            return Err("it is too long".into());
        }
        self.places.push(place);
        Ok(self.places.len() - 1)
    }

    fn character(&mut self, set: Set, next: usize) -> Result<usize, String> {
        let known = self.sets.iter().position(|s| *s == set);
        let index = known.unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        });
        self.place(Place::Set(index, next))
    }

    /// Adds what leads through `hir` to `next`.
    fn add(&mut self, hir: &Hir, next: usize) -> Result<usize, String> {
        match hir.kind() {
            HirKind::Empty => Ok(next),
            HirKind::Literal(literal) => {
                let text = std::str::from_utf8(&literal.0).map_err(|e| e.to_string())?;
                let one = |c| std::iter::once(u32::from(c)..u32::from(c) + 1).collect();
                text.chars().rev().try_fold(next, |next, c| self.character(one(c), next))
            }
            HirKind::Class(class) => self.character(set(class), next),
            HirKind::Capture(capture) => match capture.name.as_deref() {
                Some(STAND_IN) => self.place(Place::Ahead(next)),
                _ => self.add(&capture.sub, next),
            },
            HirKind::Concat(parts) => {
                parts.iter().rev().try_fold(next, |next, part| self.add(part, next))
            }
            HirKind::Alternation(ways) => {
                let ways: Result<_, _> = ways.iter().map(|way| self.add(way, next)).collect();
                self.place(Place::Either(ways?))
            }
            HirKind::Repetition(repetition) => self.repeat(repetition, next),
            HirKind::Look(look) => Err(format!("`{}` is not supported", look.as_char())),
        }
    }

    fn repeat(
        &mut self,
        repetition: &regex_syntax::hir::Repetition,
        next: usize,
    ) -> Result<usize, String> {
        let sub = &repetition.sub;
        if matches!(sub.kind(), HirKind::Repetition(_)) {
            return Err("possessive repetition is not supported".into());
        }
        if sub.properties().minimum_len() == Some(0) {
            return Err("repetition of what may be empty is not supported".into());
        }
        let either =
            |on, off| Place::Either(if repetition.greedy { vec![on, off] } else { vec![off, on] });
        let mut at = next;
        match repetition.max {
            None => {
                let again = self.place(Place::Match)?;
                let on = self.add(sub, again)?;
                self.places[again] = either(on, next);
                at = again;
            }
            Some(max) => {
                for _ in repetition.min..max {
                    let on = self.add(sub, at)?;
                    at = self.place(either(on, next))?;
                }
            }
        }
        (0..repetition.min).try_fold(at, |next, _| self.add(sub, next))
    }

    /// Adds the places that need a character, and ends, which lead on from a place.
    fn close(&self, place: usize, list: &mut Vec<usize>) {
        match &self.places[place] {
            Place::Either(ways) => ways.iter().for_each(|&way| self.close(way, list)),
            _ if list.contains(&place) => {}
            _ => list.push(place),
        }
    }

    /// What a list of places becomes when a character of `sets` comes (`None`: the text ends), and
    /// whether a match ends before it.
    fn step(&self, list: &[usize], sets: Option<&[bool]>, next: &mut Vec<usize>) -> bool {
        for &place in list {
            match &self.places[place] {
                Place::Match => return true,
                Place::Set(set, on) if sets.is_some_and(|sets| sets[*set]) => self.close(*on, next),
                Place::Ahead(on) if sets.is_none_or(|sets| sets[0]) => {
                    let mut here = vec![];
                    self.close(*on, &mut here);
                    if self.step(&here, sets, next) {
                        return true;
                    }
                }
                _ => {}
            }
        }
        false
    }
}

/// Which sets each class of characters belongs to, and the class of each code point by where it
/// starts to hold.
fn classes(sets: &[Set]) -> (Vec<Vec<bool>>, Vec<(u32, u8)>) {
    let edges = sets.iter().flatten().flat_map(|range| [range.start, range.end]);
    let mut edges: Vec<u32> = edges.chain([0]).filter(|&edge| edge < ALL).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut classes: Vec<Vec<bool>> = vec![];
    let class_of = edges.iter().map(|&edge| {
        let belongs: Vec<bool> = sets.iter().map(|set| holds(set, edge)).collect();
        let known = classes.iter().position(|class| *class == belongs);
        let class = known.unwrap_or_else(|| {
            classes.push(belongs);
            classes.len() - 1
        });
        (edge, class as u8)
    });
    let class_of = class_of.collect();
    (classes, class_of)
}

fn automaton(
    program: &Program,
    start: usize,
    classes: &[Vec<bool>],
    class_of: &[(u32, u8)],
) -> Result<Cut, String> {
    let columns = classes.len() + 1;
    if columns > usize::from(u8::MAX) {
        return Err("it has too many classes".into());
    }
    let mut first = vec![];
    program.close(start, &mut first);
    let mut numbers = HashMap::from([(vec![], 0), (first.clone(), 1)]);
    let (mut lists, mut states) = (vec![vec![], first], vec![0; columns]);
    let mut at = 1;
    while at < lists.len() {
        let list = lists[at].clone();
        for class in classes.iter().map(|class| Some(class.as_slice())).chain([None]) {
            let mut next = vec![];
            let matched = program.step(&list, class, &mut next);
            let number = *numbers.entry(next.clone()).or_insert_with(|| {
                lists.push(next);
                lists.len() - 1
            });
            if matched && at == 1 {
                return Err("it matches nothing at all".into());
            }
            let row = number * columns;
            if lists.len() > MOST || row >= usize::from(MATCH) {
                return Err("it has too many states".into());
            }
            states.push(row as u16 | if matched { MATCH } else { 0 });
        }
        at += 1;
    }
    Ok(cut(Tables::new(class_of), states, columns))
}

/// Classes of all characters.
pub(super) fn tables(class: impl Fn(char) -> u8) -> Tables {
    let all: Vec<u8> = (0..ALL).map(|c| char::from_u32(c).map_or(0, &class)).collect();
    let starts = (0..ALL).filter(|&c| c == 0 || all[c as usize] != all[c as usize - 1]);
    Tables::new(&starts.map(|c| (c, all[c as usize])).collect::<Vec<_>>())
}

/// Which characters are white space or part of a word: `\s` and `\w`.
pub(super) fn around() -> Classes {
    let (spaces, words) = (named(r"\s"), named(r"\w"));
    let flag = |set, c, flag| if holds(set, u32::from(c)) { flag } else { 0 };
    tables(|c| flag(&spaces, c, SPACE) | flag(&words, c, WORD)).classes()
}

/// Rows of 64, no two alike.
pub(super) struct Rows<T> {
    pub rows: Vec<Vec<T>>,
    known: HashMap<Vec<T>, u16>,
}

impl<T: Clone + Eq + std::hash::Hash> Rows<T> {
    fn add(&mut self, row: Vec<T>) -> u16 {
        *self.known.entry(row.clone()).or_insert_with(|| {
            self.rows.push(row);
            self.rows.len() as u16 - 1
        })
    }
}

/// The class of a character by its bytes in UTF-8.
pub(super) struct Tables {
    pub first: Vec<u16>,
    pub inner: Rows<u16>,
    pub last: Rows<u8>,
}

impl Tables {
    /// The tables alone.
    pub fn classes(self) -> Classes {
        Classes {
            first: self.first,
            inner: self.inner.rows.concat(),
            last: self.last.rows.concat(),
        }
    }

    pub fn new(class_of: &[(u32, u8)]) -> Tables {
        let class = |c: u32| class_of[class_of.partition_point(|(edge, _)| *edge <= c) - 1].1;
        let mut tables = Tables {
            first: (0..128).map(|c| class(c).into()).collect(),
            inner: Rows { rows: vec![], known: HashMap::new() },
            last: Rows { rows: vec![], known: HashMap::new() },
        };
        tables.first.resize(0xc0, 0);
        let two = (0..0x20)
            .map(|lead| tables.last.add((0..64).map(|low| class(lead << 6 | low)).collect()));
        let two: Vec<u16> = two.collect();
        tables.first.extend(two);
        for lead in 0..0x10 {
            let row = tables.inner_row(lead << 12, 6, &class);
            tables.first.push(row);
        }
        for lead in 0..0x10u32 {
            let row = if lead < 5 { tables.inner_row(lead << 18, 12, &class) } else { 0 };
            tables.first.push(row);
        }
        tables
    }

    /// The row for the byte whose low bits stand `shift` bits from the right, after `start`.
    fn inner_row(&mut self, start: u32, shift: u32, class: &impl Fn(u32) -> u8) -> u16 {
        let row = (0..64).map(|low| {
            let start = start | low << shift;
            match shift {
                6 => {
                    let class = |low: u32| class((start | low).min(ALL - 1));
                    self.last.add((0..64).map(class).collect())
                }
                _ => self.inner_row(start, shift - 6, class),
            }
        });
        let row = row.collect();
        self.inner.add(row)
    }
}
