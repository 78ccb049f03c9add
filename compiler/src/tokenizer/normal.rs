//! Unicode's NFC (UAX 15) as tables of `runtime::encode::Normal`, from the crate that `tokenizers`
//! normalises with, so that both know the same version of Unicode.

use super::automaton::{cut, tables};
use runtime::encode::cut::MATCH;
use runtime::encode::normal::{DECOMPOSES, SECOND};
use runtime::encode::{Cut, Normal};
use std::collections::BTreeSet;
use unicode_normalization_alignments::char::{
    canonical_combining_class, compose, decompose_canonical,
};
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

/// Hangul syllables, which are computed.
const SYLLABLES: std::ops::RangeInclusive<char> = '\u{ac00}'..='\u{d7a3}';

fn characters() -> impl Iterator<Item = char> {
    ('\0'..=char::MAX).filter(|c| !SYLLABLES.contains(c))
}

/// The full canonical decomposition of a character, if it has one.
fn decomposition(c: char) -> Option<Vec<char>> {
    let mut parts = vec![];
    decompose_canonical(c, |part| parts.push(part));
    (parts != [c]).then_some(parts)
}

/// Combining classes, in order; the first is that of characters which do not combine.
fn orders() -> Vec<u8> {
    let orders: BTreeSet<u8> = characters().map(canonical_combining_class).collect();
    orders.into_iter().collect()
}

/// The place of a character's combining class.
fn order(orders: &[u8], c: char) -> u8 {
    let class = canonical_combining_class(c);
    orders.iter().position(|&other| other == class).unwrap_or_default() as u8
}

/// The tables.
pub fn normal() -> Normal {
    let decompositions: Vec<(char, Vec<char>)> =
        characters().filter_map(|c| Some((c, decomposition(c)?))).collect();
    let composed = decompositions.iter().map(|(c, _)| *c);
    let firsts: BTreeSet<char> =
        composed.chain(decompositions.iter().map(|(_, parts)| parts[0])).collect();
    let seconds: BTreeSet<char> =
        decompositions.iter().flat_map(|(_, parts)| parts[1..].iter().copied()).collect();
    let pairs = firsts.iter().flat_map(|&a| seconds.iter().map(move |&b| (a, b)));
    let compositions: Vec<(char, char, char)> =
        pairs.filter_map(|(a, b)| Some((a, b, compose(a, b)?))).collect();

    let seconds: BTreeSet<char> = compositions.iter().map(|(_, b, _)| *b).collect();
    // Vowels and final consonants of Hangul.
    let jamo = |c: char| matches!(c, '\u{1161}'..='\u{1175}' | '\u{11a8}'..='\u{11c2}');
    let orders = orders();
    assert!(orders.len() <= usize::from(DECOMPOSES), "classes and flags share a byte");
    let class = |c: char| {
        let flag = |holds, flag| if holds { flag } else { 0 };
        order(&orders, c)
            | flag(decompositions.binary_search_by_key(&c, |row| row.0).is_ok(), DECOMPOSES)
            | flag(seconds.contains(&c) || jamo(c), SECOND)
    };
    Normal { quick: quick(&orders), marks: tables(class).classes(), decompositions, compositions }
}

/// The automaton whose first piece is the whole text if that is in NFC by the quick check of UAX 15:
/// no character is one that NFC may change, and marks stand in the order of their classes.
fn quick(orders: &[u8]) -> Cut {
    // Classes are the orders, what is bad, the end; states behind the end are the last order.
    let (bad, columns) = (orders.len(), orders.len() + 2);
    let class = |c: char| match is_nfc_quick(std::iter::once(c)) {
        IsNormalized::Yes => order(orders, c),
        _ => bad as u8,
    };
    let mut states = vec![0; columns];
    for last in 0..orders.len() {
        let next = |class: usize| match class == 0 || (last <= class && class < bad) {
            true => ((class + 1) * columns) as u16,
            false => MATCH,
        };
        states.extend((0..columns).map(next));
    }
    cut(tables(class), states, columns)
}

/// Whether normalising other text can lead to a part of `text`: a string that is looked for before
/// must then not be looked for after. Characters beyond ASCII count as such.
pub fn can_arise(text: &str) -> bool {
    let from = |c: char| characters().any(|other| decomposition(other).is_some_and(|d| d == [c]));
    text.chars().any(|c| !c.is_ascii() || (!c.is_ascii_lowercase() && from(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decomposition_is_at_most_three_times_as_long() {
        let bytes = |parts: &[char]| parts.iter().map(|c| c.len_utf8()).sum::<usize>();
        for (c, parts) in normal().decompositions {
            assert!(bytes(&parts) <= 3 * c.len_utf8(), "{c:?}");
        }
    }

    #[test]
    fn a_composition_is_no_longer_than_its_parts() {
        let normal = normal();
        assert!(normal.compositions.len() > 900);
        for (a, b, c) in normal.compositions {
            assert!(c.len_utf8() <= a.len_utf8() + b.len_utf8(), "{c:?}");
        }
    }

    #[test]
    fn the_kelvin_sign_becomes_a_letter() {
        assert!(can_arise("<|OK|>") && can_arise("é") && can_arise("a;"));
        assert!(!can_arise("<|im_end|>") && !can_arise("</s>"));
    }
}
