//! Text as it comes from outside: how much of it is UTF-8, and a copy in which all of it is.
//!
//! What is not UTF-8 becomes U+FFFD, one for each maximal part of a character, as Unicode 15 section
//! 3.9 recommends and Rust's `String::from_utf8_lossy` does.

use cranelift_codegen::ir::types::{I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// `▁`, which SentencePiece writes for a space.
const LOW_LINE: [u8; 3] = [0xe2, 0x96, 0x81];
/// U+FFFD.
const REPLACEMENT: [u8; 3] = [0xef, 0xbf, 0xbd];

/// Functions on text from outside.
pub struct Utf8 {
    /// `scan(text, end) -> (i64, i32)`: bytes of the copy, and whether it would be the text itself.
    pub scan: Func,
    /// `repair(text, end, to)`: writes the copy.
    pub repair: Func,
}

impl Utf8 {
    /// Emits the functions; with `spaces` a text with `▁` in it is not itself its copy.
    pub fn emit(e: &mut Emitter, spaces: bool) -> Utf8 {
        let character = emit_character(e);
        Utf8 { scan: emit_scan(e, &character, spaces), repair: emit_repair(e, &character) }
    }
}

/// Emits `character(text, end) -> i64`: the bytes of the first character, which is not ASCII; or
/// negative, of what is no character.
fn emit_character(e: &mut Emitter) -> Func {
    let f = e.declare("encode.character", &[I64, I64], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, end) = (args[0], args[1]);
        let first = text.load_byte(0);
        let starts = (first - 0xc2).ult(k.i64(0xf5 - 0xc2));
        k.return_if(!starts, &[k.i64(-1)]);
        let at_least = |limit: i64| k.i64(limit - 1).ult(first).uext(I64);
        let bytes = at_least(0xe0) + at_least(0xf0) + 2;
        // The second byte says more than that it continues a character.
        let low = first.is(0xe0).select(k.i64(0xa0), k.i64(0x80));
        let low = k.var(first.is(0xf0).select(k.i64(0x90), low));
        let high = first.is(0xed).select(k.i64(0xa0), k.i64(0xc0));
        let high = k.var(first.is(0xf4).select(k.i64(0x90), high));
        k.each(k.i64(1), bytes, 1, |i| {
            k.return_if(!(text + i).ult(end), &[-i]);
            let byte = (text + i).load_byte(0);
            k.return_if(!(byte - low.get()).ult(high.get() - low.get()), &[-i]);
            low.set(k.i64(0x80));
            high.set(k.i64(0xc0));
        });
        k.ret(&[bytes]);
    });
    f
}

/// Calls `ascii` for each ASCII byte, and `other` with the bytes of what is not ASCII, negative if it
/// is no character. Without `ascii` eight of those bytes are passed over at a time.
fn each_character<'k>(
    k: &'k Kernel<'k>,
    character: &Func,
    (text, end): (Val<'k>, Val<'k>),
    ascii: Option<&dyn Fn(Val<'k>)>,
    other: impl FnOnce(Val<'k>, Val<'k>),
) {
    let p = k.var(text);
    let step = || {
        let at = p.get();
        k.if_else(
            at.load_byte(0).ult(k.i64(0x80)),
            || {
                ascii.into_iter().for_each(|ascii| ascii(at));
                p.add(k.i64(1));
            },
            || {
                let bytes = k.call(character, &[at, end])[0];
                other(at, bytes);
                p.add(bytes.lt(k.i64(0)).select(-bytes, bytes));
            },
        );
    };
    k.while_(
        || p.get().ult(end),
        || {
            if ascii.is_some() {
                return step();
            }
            let high = k.var(k.i64(-1));
            // Not every machine loads eight bytes from an odd address.
            let whole = (p.get() & 7).is(0) & !(end - p.get()).ult(k.i64(8));
            k.if_(whole, || high.set(p.get().load(I64, 0) & 0x8080_8080_8080_8080_u64 as i64));
            k.if_else(high.get().is(0), || p.add(k.i64(8)), step);
        },
    );
}

fn emit_scan(e: &mut Emitter, character: &Func, spaces: bool) -> Func {
    let f = e.declare("encode.scan", &[I64, I64], &[I64, I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (text, end) = (args[0], args[1]);
        let (bytes, plain) = (k.var(end - text), k.var(k.i32(1)));
        each_character(k, character, (text, end), None, |at, found| {
            k.if_(found.lt(k.i64(0)), || {
                bytes.add(found + REPLACEMENT.len() as i64);
                plain.set(k.i32(0));
            });
            if spaces {
                k.if_(found.is(3) & is_low_line(at), || plain.set(k.i32(0)));
            }
        });
        k.ret(&[bytes.get(), plain.get()]);
    });
    f
}

/// Whether there is a `▁` at an address with three bytes.
pub fn is_low_line(at: Val<'_>) -> Val<'_> {
    let [a, b, c] = [0, 1, 2].map(|i| at.load_byte(i as i32).is(LOW_LINE[i].into()));
    a & b & c
}

fn emit_repair(e: &mut Emitter, character: &Func) -> Func {
    let f = e.declare("encode.repair", &[I64; 3], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let to = k.var(args[2]);
        let put = |byte| {
            to.get().store_byte(0, byte);
            to.add(k.i64(1));
        };
        each_character(
            k,
            character,
            (args[0], args[1]),
            Some(&|at| put(at.load_byte(0))),
            |at, bytes| {
                k.if_else(
                    bytes.lt(k.i64(0)),
                    || REPLACEMENT.iter().for_each(|&byte| put(k.i64(byte.into()))),
                    || k.each_address(at, at + bytes, k.i64(1), |from| put(from.load_byte(0))),
                );
            },
        );
        k.ret(&[]);
    });
    f
}
