//! Candidates as keys, and a heap of them: the best comes out first, and no more is sorted than is
//! asked for.
//!
//! A key is an unsigned integer of 64 bits that orders candidates: the logit above, the token below
//! with its bits flipped, so that of equal logits the lowest token is the best.

use cranelift_codegen::ir::types::{F32, I32, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// The key of a clean logit and its token, an `i64`.
pub fn key<'k>(logit: Val<'k>, token: Val<'k>) -> Val<'k> {
    let bits = ordered(logit.cast(I32)) ^ SIGN;
    (bits.uext(I64) << 32) | (token ^ 0xffff_ffff)
}

/// The logit of a key.
pub fn logit<'k>(key: Val<'k>) -> Val<'k> {
    ordered((key >> 32).truncate(I32) ^ SIGN).cast(F32)
}

/// The token of a key, an `i32`.
pub fn token<'k>(key: Val<'k>) -> Val<'k> {
    key.truncate(I32) ^ -1
}

const SIGN: i64 = 1 << 31;

/// The bits of a float as an integer in the same order; its own inverse.
fn ordered(bits: Val<'_>) -> Val<'_> {
    bits ^ (bits.sshr(31) & 0x7fff_ffff)
}

/// Functions on heaps.
pub struct Heap {
    /// `sift(keys, n, hole, key)`: puts `key` into the heap of `n` whose place `hole` is free and
    /// whose places below `hole` are in order.
    pub sift: Func,
    /// `heapify(keys, n)`: makes any `n` keys a heap.
    pub heapify: Func,
}

impl Heap {
    /// Emits the functions.
    pub fn emit(emitter: &mut Emitter<'_>) -> Heap {
        let sift = emit_sift(emitter);
        let heapify = emitter.declare("sample.heapify", &[I64, I64], &[]);
        emitter.define(&heapify, Tuning::Optimised, |k, args| {
            let (keys, n) = (args[0], args[1]);
            let i = k.var(n >> 1);
            k.while_(
                || i.get().is_not(0),
                || {
                    i.set(i.get() - 1);
                    let key = at(keys, i.get()).load(I64, 0);
                    k.call(&sift, &[keys, n, i.get(), key]);
                },
            );
            k.ret(&[]);
        });
        Heap { sift, heapify }
    }
}

fn emit_sift(emitter: &mut Emitter<'_>) -> Func {
    let f = emitter.declare("sample.sift", &[I64; 4], &[]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (keys, n, key) = (args[0], args[1], args[3]);
        let hole = k.var(args[2]);
        k.loop_(|| {
            let left = (hole.get() << 1) + 1;
            k.break_if(!left.ult(n));
            // A lone left child is compared with itself.
            let right = (left + 1).umin(n - 1);
            let (l, r) = (at(keys, left).load(I64, 0), at(keys, right).load(I64, 0));
            let child = l.ult(r).select(right, left);
            let best = l.umax(r);
            k.break_if(!key.ult(best));
            at(keys, hole.get()).store(0, best);
            hole.set(child);
        });
        at(keys, hole.get()).store(0, key);
        k.ret(&[]);
    });
    f
}

/// The address of the key at index `i`.
pub fn at<'k>(keys: Val<'k>, i: Val<'k>) -> Val<'k> {
    keys + (i << 3)
}

/// Takes the best key out of a heap of `n`, which becomes one of `n - 1`; the key goes to the place
/// that the heap leaves.
pub fn pop<'k>(k: &'k Kernel<'k>, heap: &Heap, keys: Val<'k>, n: Val<'k>) -> Val<'k> {
    let best = keys.load(I64, 0);
    let last = at(keys, n - 1);
    let key = last.load(I64, 0);
    k.call(&heap.sift, &[keys, n - 1, k.i64(0), key]);
    last.store(0, best);
    best
}
