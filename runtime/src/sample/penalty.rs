//! Penalties for tokens that the conversation has already seen, on a copy of the logits.

use cranelift_codegen::ir::types::{F32, F32X4, I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// `penalise(logits, copy, tokens, n, counts, repeat, frequency, presence)`: copies the logits and
/// penalises each distinct one of the last `n` tokens once. `counts` is room for an `i32` per
/// token of the vocabulary; only the entries of tokens seen are touched.
pub fn emit_penalise(emitter: &mut Emitter<'_>, vocab: i64) -> Func {
    let params = [I64, I64, I64, I64, I64, F32, F32, F32];
    let f = emitter.declare("sample.penalise", &params, &[]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (logits, copy, tokens, n, counts) = (args[0], args[1], args[2], args[3], args[4]);
        let (repeat, frequency, presence) = (args[5], args[6], args[7]);
        k.each(k.i64(0), k.i64(vocab * 4), 16, |i| {
            (copy + i).store(0, (logits + i).load(F32X4, 0));
        });
        let zero = k.i32(0);
        each_token(k, tokens, n, vocab, |offset| (counts + offset).store(0, zero));
        each_token(k, tokens, n, vocab, |offset| {
            let count = counts + offset;
            count.store(0, count.load(I32, 0) + 1);
        });
        each_token(k, tokens, n, vocab, |offset| {
            let count = (counts + offset).load(I32, 0);
            k.if_(count.is_not(0), || {
                // The token's next occurrence finds nothing to do.
                (counts + offset).store(0, zero);
                let l = (copy + offset).load(F32, 0);
                let l = k.f32(0.0).flt(l).select(l / repeat, l * repeat);
                let l = l - frequency * count.to_float(F32) - presence;
                (copy + offset).store(0, l);
            });
        });
        k.ret(&[]);
    });
    f
}

/// The byte offset of each of `n` tokens in a table of 4-byte entries; tokens that are not in the
/// vocabulary are passed over, so that a damaged state cannot reach other memory.
fn each_token<'k>(
    k: &'k Kernel<'k>,
    tokens: Val<'k>,
    n: Val<'k>,
    vocab: i64,
    visit: impl FnOnce(Val<'k>),
) {
    k.each(k.i64(0), n, 1, |i| {
        let token = (tokens + (i << 2)).load(I32, 0).uext(I64);
        k.if_(token.ult(k.i64(vocab)), || visit(token << 2));
    });
}
