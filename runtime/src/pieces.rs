//! `NAME_piece`: the bytes of a token, from two constant tables.

use crate::errors::{E_ARG, E_TOKEN, E_TOKENIZER, fail_if};
use cranelift_codegen::ir::types::{I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func};

/// Emits `NAME_piece`; `pieces` holds the bytes of each token, none for a control token, or is
/// `None` where no tokenizer is known.
pub fn emit(emitter: &mut Emitter<'_>, pieces: Option<&[Vec<u8>]>) -> Func {
    let tables = pieces.map(|pieces| {
        let offsets = emitter.constant("piece.offsets", offsets(pieces), 64);
        let bytes = emitter.constant("piece.bytes", text(pieces), 64);
        (pieces.len() as i32, offsets, bytes)
    });
    let f = emitter.declare_export("piece", &[I32, I64, I64], &[I32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let Some((vocab, offsets, bytes)) = tables else {
            return k.ret(&[k.i32(E_TOKENIZER)]);
        };
        let (token, out, cap) = (args[0], args[1], args[2]);
        fail_if(k, !token.ult(k.i32(vocab)), E_TOKEN, I32);
        fail_if(k, out.is(0) & cap.is_not(0), E_ARG, I32);
        let entry = k.data(offsets) + (token.uext(I64) << 2);
        let (start, end) = (entry.load_constant(I32, 0), entry.load_constant(I32, 4));
        let piece = k.data(bytes) + start.uext(I64);
        let n = end - start;
        k.each(k.i64(0), n.uext(I64).umin(cap), 1, |i| {
            (out + i).store_byte(0, (piece + i).load_byte(0));
        });
        k.ret(&[n]);
    });
    f
}

/// Where each piece starts, and where the last one ends.
fn offsets(pieces: &[Vec<u8>]) -> Vec<u8> {
    let ends = pieces.iter().scan(0u32, |end, piece| {
        *end += piece.len() as u32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).flat_map(u32::to_le_bytes).collect()
}

/// All pieces, one after the other; never empty, for an object has no place for nothing.
fn text(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut text = pieces.concat();
    if text.is_empty() {
        text.push(0);
    }
    text
}
