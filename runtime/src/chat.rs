//! `NAME_chat`: one turn of a conversation to tokens.
//!
//! What a chat template writes between two texts depends on who said them, and is known when the
//! library is built: first tokens, then perhaps text that the turn's own text joins, as if both were
//! one. Only the template's part can hold special tokens.

use crate::encode::{self, CONTINUES, PLAIN_TEXT, Sections, buffer_end, check_text};
use crate::errors::{E_ARG, E_SIZE, E_TEMPLATE, E_TOKENIZER, fail_if};
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_module::DataId;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Who speaks; the numbers are those of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody: before it a conversation has not begun, after it an answer is to come.
    Start = 0,
    /// Whoever says what the assistant is.
    System = 1,
    /// Whoever asks.
    User = 2,
    /// The model.
    Assistant = 3,
}

/// Number of roles.
const ROLES: usize = 4;

/// How a turn begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it was before.
    pub after: Role,
    /// Whose turn it is.
    pub role: Role,
    /// Tokens before the turn's text.
    pub tokens: Vec<u32>,
    /// Text after them that the turn's text joins.
    pub head: Vec<u8>,
    /// Whether white space around the turn's text is taken away.
    pub trim: bool,
}

/// Numbers of a turn in the table.
const FIELDS: usize = 5;
/// Bits of a turn's flags.
mod flag {
    pub const EXISTS: i64 = 1;
    pub const TRIM: i64 = 2;
    pub const CONTINUES: i64 = 4;
}

/// The table of turns, who speaks after whom, and what its rows point into.
struct Tables {
    rows: DataId,
    tokens: DataId,
    heads: DataId,
}

impl Tables {
    fn new(e: &mut Emitter, turns: &[Turn]) -> Tables {
        let (mut rows, mut tokens, mut heads) =
            (vec![0u32; ROLES * ROLES * FIELDS], vec![], vec![]);
        for turn in turns {
            let continues = turn.after != Role::Start || !turn.tokens.is_empty();
            let mut flags = flag::EXISTS;
            flags |= if turn.trim { flag::TRIM } else { 0 };
            flags |= if continues { flag::CONTINUES } else { 0 };
            let at = (turn.after as usize * ROLES + turn.role as usize) * FIELDS;
            rows[at..at + FIELDS].copy_from_slice(&[
                flags as u32,
                tokens.len() as u32,
                turn.tokens.len() as u32 * 4,
                heads.len() as u32,
                turn.head.len() as u32,
            ]);
            tokens.extend(turn.tokens.iter().flat_map(|token| token.to_le_bytes()));
            heads.extend(&turn.head);
        }
        let rows =
            e.constant("chat.turns", rows.iter().flat_map(|n| n.to_le_bytes()).collect(), 64);
        // An object has no place for nothing.
        let tokens = e.constant("chat.tokens", [&tokens[..], &[0; 4]].concat(), 64);
        let heads = e.constant("chat.heads", [&heads[..], &[0]].concat(), 64);
        Tables { rows, tokens, heads }
    }
}

/// Emits `NAME_chat` for the turns of a template, if there is one.
pub fn emit(e: &mut Emitter, sections: Option<&Sections>, turns: &[Turn]) -> Func {
    let Some(sections) = sections else {
        let f = e.declare_export("chat", &[I32, I32, I64, I64, I64, I64], &[I32]);
        e.define(&f, Tuning::Optimised, |k, _| k.ret(&[k.i32(E_TOKENIZER)]));
        return f;
    };
    let Tables { rows, tokens, heads } = Tables::new(e, turns);
    let trim = emit_trim(e);

    let f = e.declare_export("chat", &[I32, I32, I64, I64, I64, I64], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [after, role, text, bytes, out, cap] = *args else { unreachable!("six are declared") };
        let roles = k.i32(ROLES as i32);
        fail_if(k, !after.ult(roles) | !role.ult(roles), E_ARG, I32);
        // An answer without text is one to come.
        let opens = role.is(Role::Assistant as i64) & bytes.is(0);
        let role = opens.select(k.i32(Role::Start as i32), role);
        let row = (after * ROLES as i64 + role).uext(I64) * (FIELDS as i64 * 4) + k.data(rows);
        let [flags, first, token_bytes, head, head_bytes] =
            [0, 4, 8, 12, 16].map(|offset| row.load_constant(I32, offset).uext(I64));
        fail_if(k, (flags & flag::EXISTS).is(0), E_TEMPLATE, I32);
        check_text(k, text, bytes);
        let end = text + bytes;
        k.if_(cap.is(0), || {
            let room = k.call(&sections.room, &[text, end])[0];
            let room = room + (token_bytes >> 2) + (head_bytes << 1);
            k.return_if(room.is_not(0), &[room.truncate(I32)]);
        });
        let out_end = buffer_end(k, out, cap);
        fail_if(k, (out_end - out).lt(token_bytes), E_SIZE, I32);
        let tokens = k.data(tokens) + first;
        k.each(k.i64(0), token_bytes, 4, |i| (out + i).store(0, (tokens + i).load(I32, 0)));
        let (text, end) = (k.var(text), k.var(end));
        k.if_((flags & flag::TRIM).is_not(0), || {
            let trimmed = k.call(&trim, &[text.get(), end.get()]);
            text.set(trimmed[0]);
            end.set(trimmed[1]);
        });
        let continues = (flags & flag::CONTINUES).is_not(0);
        let flags = continues.select(k.i64(PLAIN_TEXT | CONTINUES), k.i64(PLAIN_TEXT));
        let head = k.data(heads) + head;
        let (text, end) = (text.get(), end.get());
        let done = [head, head_bytes, text, end, out + token_bytes, out_end, flags];
        let done = k.call(&sections.text, &done)[0];
        k.ret(&[encode::count(k, out, done)]);
    });
    f
}

/// Unicode's white space, by bytes in UTF-8: how many, and first and last as numbers.
const SPACES: &[(usize, i64, i64)] = &[
    (1, 0x09, 0x0d),
    (1, 0x20, 0x20),
    (2, 0xc285, 0xc285),
    (2, 0xc2a0, 0xc2a0),
    (3, 0xe1_9a80, 0xe1_9a80),
    (3, 0xe2_8080, 0xe2_808a),
    (3, 0xe2_80a8, 0xe2_80a9),
    (3, 0xe2_80af, 0xe2_80af),
    (3, 0xe2_819f, 0xe2_819f),
    (3, 0xe3_8080, 0xe3_8080),
];

/// Emits `trim(text, end) -> (start, end)`: a text without Unicode's white space at its ends.
fn emit_trim(e: &mut Emitter) -> Func {
    let f = e.declare("chat.trim", &[I64, I64], &[I64, I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, end) = (k.var(args[0]), k.var(args[1]));
        let strip = |from_end: bool| {
            let more = k.var(k.i32(1));
            k.while_(
                || more.get().is_not(0),
                || {
                    more.set(k.i32(0));
                    for bytes in 1..=3 {
                        let at = if from_end { end.get() - bytes } else { text.get() };
                        k.if_(!(end.get() - text.get()).lt(k.i64(bytes)), || {
                            k.if_(is_space(k, at, bytes as usize), || {
                                more.set(k.i32(1));
                                match from_end {
                                    true => end.set(end.get() - bytes),
                                    false => text.add(k.i64(bytes)),
                                }
                            });
                        });
                    }
                },
            );
        };
        strip(false);
        strip(true);
        k.ret(&[text.get(), end.get()]);
    });
    f
}

/// Whether white space of so many bytes is at an address.
fn is_space<'k>(k: &'k Kernel<'k>, at: Val<'k>, bytes: usize) -> Val<'k> {
    let number = (0..bytes).fold(k.i64(0), |n, i| (n << 8) | at.load_byte(i as i32));
    let ranges = SPACES.iter().filter(|range| range.0 == bytes);
    let inside = ranges.map(|(_, first, last)| (number - *first).ult(k.i64(last - first + 1)));
    inside.reduce(|a, b| a | b).expect("there is white space of each length")
}
