//! `NAME_encode`: text to tokens, from constant tables; no memory but the caller's buffer.
//!
//! | module | what |
//! |---|---|
//! | `utf8` | text that is not UTF-8 |
//! | `added` | tokens that are found as they are spelled |
//! | `sections` | the text between them, words |
//! | `normal` | text to Unicode's NFC |
//! | `classes` | classes of characters |
//! | `cut` | how text is cut into words |
//! | `word` | a word's tokens |
//! | `merges` | which tokens can stand side by side |
//! | `trie` | strings and their values |

pub mod added;
pub mod classes;
pub mod cut;
pub mod merges;
pub mod normal;
mod sections;
mod trie;
mod utf8;
mod word;

pub use classes::Classes;
pub use cut::Cut;
pub use merges::Merge;
pub use sections::{CONTINUES, PLAIN_TEXT, Sections};

use crate::errors::{E_ARG, E_SIZE, E_TOKENIZER, fail_if};
use cranelift_codegen::ir::types::{I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// What is merged first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Bytes.
    Bytes,
    /// Characters; a space is written `▁`, and stands for it in the bytes of tokens.
    Characters,
}

/// Where a space is put before text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Nowhere.
    None,
    /// Before each section.
    Every,
    /// Before each section that does not begin with one.
    Missing,
    /// Before the text, unless it begins with one.
    First,
}

/// A token that is found in text as it is spelled, before anything is cut or merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// How it is spelled; not empty, no two alike.
    pub bytes: Vec<u8>,
    /// The token.
    pub token: u32,
    /// Whether it is a mark that text from outside should not be able to write.
    pub special: bool,
    /// Whether white space before it is part of it.
    pub lstrip: bool,
    /// Whether white space behind it is part of it.
    pub rstrip: bool,
    /// Whether it counts only where no part of a word is beside it.
    pub single_word: bool,
}

impl Added {
    /// Whether the text around it matters.
    pub fn looks_around(&self) -> bool {
        self.lstrip || self.rstrip || self.single_word
    }
}

/// Unicode's NFC as tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    /// Its first piece is the whole text if that surely is in NFC.
    pub quick: Cut,
    /// Of each character the place of its combining class, and flags.
    pub marks: Classes,
    /// Characters with their full canonical decompositions, in order; without Hangul.
    pub decompositions: Vec<(char, Vec<char>)>,
    /// What two characters compose to; without Hangul.
    pub compositions: Vec<(char, char, char)>,
}

/// A tokenizer as the device needs it.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// What is merged first.
    pub alphabet: Alphabet,
    /// Bytes of each token that text can lead to; no two alike.
    pub tokens: Vec<Option<Vec<u8>>>,
    /// Merges, the ones that happen first first.
    pub merges: Vec<Merge>,
    /// Of each byte the token that stands for it where a character has no token.
    pub fallback: Option<Box<[u32; 256]>>,
    /// Whether a piece that is a token as a whole is taken without merging.
    pub whole: bool,
    /// How text is brought to Unicode's NFC; none: it is not.
    pub normal: Option<Normal>,
    /// Cuts, each within the pieces of the one before; none: nothing is cut.
    pub cuts: Vec<Cut>,
    /// Where a space is put before text.
    pub prefix: Prefix,
    /// Tokens that are found as they are spelled.
    pub added: Vec<Added>,
    /// Which characters are white space or part of a word ([`added`]); none if no token asks.
    pub around: Option<Classes>,
}

/// Most bytes of one text.
const LONGEST: i64 = 1 << 29;

/// Emits `NAME_encode` on the functions of a tokenizer, if there is one.
pub fn emit(e: &mut Emitter, sections: Option<&Sections>) -> Func {
    let f = e.declare_export("encode", &[I64; 4], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [text, bytes, tokens, cap] = *args else { unreachable!("four are declared") };
        let Some(sections) = sections else { return k.ret(&[k.i32(E_TOKENIZER)]) };
        check_text(k, text, bytes);
        let none = k.i64(0);
        k.if_(cap.is(0), || {
            let room = k.call(&sections.room, &[text, text + bytes])[0];
            k.return_if(room.is_not(0), &[room.truncate(I32)]);
        });
        let out_end = buffer_end(k, tokens, cap);
        let done = [none, none, text, text + bytes, tokens, out_end, none];
        let done = k.call(&sections.text, &done)[0];
        k.ret(&[count(k, tokens, done)]);
    });
    f
}

/// Leaves the function with an error unless `bytes` at `text` can be a text.
pub fn check_text<'k>(k: &'k Kernel<'k>, text: Val<'k>, bytes: Val<'k>) {
    let missing = text.is(0) & bytes.is_not(0);
    fail_if(k, missing | k.i64(LONGEST).ult(bytes), E_ARG, I32);
}

/// Where a buffer of `cap` tokens ends, as far as it counts.
pub fn buffer_end<'k>(k: &'k Kernel<'k>, tokens: Val<'k>, cap: Val<'k>) -> Val<'k> {
    fail_if(k, tokens.is(0), E_ARG, I32);
    tokens + (cap.umin(k.i64(i32::MAX.into())) << 2)
}

/// The tokens from `tokens` to `done`; leaves the function where they did not fit.
pub fn count<'k>(k: &'k Kernel<'k>, tokens: Val<'k>, done: Val<'k>) -> Val<'k> {
    fail_if(k, done.ult(k.i64(word::FIRST_ADDRESS)), E_SIZE, I32);
    ((done - tokens) >> 2).truncate(I32)
}
