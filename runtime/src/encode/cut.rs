//! How text is cut before merging, as automata over classes of characters.
//!
//! A character's class is found by its bytes in three small tables. The automaton is that of a
//! regular expression whose first alternative that matches wins; it knows of a match when it sees
//! the character behind it, so that `\s+(?!\S)` is a state like any other.

use super::word::character_bytes;
use cranelift_codegen::ir::types::{I16, I64};
use cranelift_module::DataId;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// One way to cut: the text of each match is a piece, and so is what lies between matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Of each first byte of a character: of one byte its class; of two its row in `last`; of more
    /// its row in `inner`.
    pub first: Vec<u16>,
    /// Rows of 64, by the low bits of the next byte but the last: the next row.
    pub inner: Vec<u16>,
    /// Rows of 64, by the low bits of the last byte: the class.
    pub last: Vec<u8>,
    /// Rows of states, by class, the end of the text being the last class: where the next state's
    /// row starts, and [`MATCH`] if a match ends before this character. 0 is the end.
    pub states: Vec<u16>,
    /// Classes, the end of the text included.
    pub classes: u16,
    /// Where the first state's row starts.
    pub start: u16,
}

/// In `Cut::states`: a match ends here.
pub const MATCH: u16 = 1 << 15;

/// The bytes of a table.
pub(super) fn halves(numbers: &[u16]) -> Vec<u8> {
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    // An object has no place for nothing.
    bytes.resize(bytes.len().max(2), 0);
    bytes
}

/// Emits `cut(text, end) -> address`: where the first piece of a text ends, which is valid UTF-8
/// and not empty.
pub fn emit(e: &mut Emitter, name: &str, cut: &Cut) -> Func {
    let mut table = |part: &str, bytes| e.constant(&format!("{name}.{part}"), bytes, 64);
    let first = table("first", halves(&cut.first));
    let inner = table("inner", halves(&cut.inner));
    let last = table("last", [&cut.last[..], &[0]].concat());
    let states = table("states", halves(&cut.states));
    let f = e.declare(name, &[I64, I64], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, end) = (args[0], args[1]);
        let start = k.var(text);
        k.while_(
            || start.get().ult(end),
            || {
                let (p, found) = (k.var(start.get()), k.var(k.i64(0)));
                let state = k.var(k.i64(cut.start.into()));
                k.loop_(|| {
                    let (class, after) = (k.var(k.i64(i64::from(cut.classes) - 1)), k.var(p.get()));
                    k.if_(p.get().ult(end), || {
                        let byte = p.get().load_byte(0);
                        class.set(half(k, first, byte));
                        after.add(k.i64(1));
                        let next = || {
                            let low = after.get().load_byte(0) & 63;
                            after.add(k.i64(1));
                            (class.get() << 6) + low
                        };
                        k.if_(k.i64(0xbf).ult(byte), || {
                            k.if_(k.i64(0xdf).ult(byte), || {
                                k.if_(k.i64(0xef).ult(byte), || class.set(half(k, inner, next())));
                                class.set(half(k, inner, next()));
                            });
                            class.set((k.data(last) + next()).load_byte(0));
                        });
                    });
                    let entry = half(k, states, state.get() + class.get());
                    let matched = (entry & i64::from(MATCH)).is_not(0);
                    found.set(matched.select(p.get(), found.get()));
                    state.set(entry & i64::from(MATCH - 1));
                    k.break_if(state.get().is(0));
                    p.set(after.get());
                });
                let piece = start.get().eq(text).select(found.get(), start.get());
                k.return_if(found.get().is_not(0), &[piece]);
                start.add(character_bytes(k, start.get().load_byte(0)));
            },
        );
        k.ret(&[end]);
    });
    f
}

/// The number at an index of a table, as an `i64`.
pub(super) fn half<'k>(k: &'k Kernel<'k>, table: DataId, index: Val<'k>) -> Val<'k> {
    (k.data(table) + (index << 1)).load_constant(I16, 0).uext(I64)
}
