//! Passes over all logits: the best, the sum of weights, the k best, those above a threshold.
//!
//! Logits are read in blocks of 16 and may be anything, not-a-number included; what lies between
//! the vocabulary and the end of the last block is read but never counts.

use super::heap::{Heap, at, key, logit};
use super::weight::{clean, weight};
use cranelift_codegen::ir::types::{F32, F32X4, I32, I32X4, I64, I64X2};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Logits of one block.
const BLOCK: i64 = 16;

/// `max(logits) -> f32`: the largest clean logit.
pub fn emit_max(emitter: &mut Emitter<'_>, vocab: i64) -> Func {
    let f = emitter.declare("sample.max", &[I64], &[F32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let logits = args[0];
        let bests = k.vars(4, k.f32x4(-f32::MAX));
        let whole = vocab / BLOCK * BLOCK;
        k.each(k.i64(0), k.i64(whole), BLOCK, |i| {
            for (n, best) in bests.iter().enumerate() {
                // The order of operands lets not-a-number lose.
                best.set(vector(logits, i, n).pmax(best.get()));
            }
        });
        let bests: Vec<Val<'_>> = bests.iter().map(|b| b.get()).collect();
        let best = bests[0].pmax(bests[1]).pmax(bests[2].pmax(bests[3])).max_lanes();
        let best = k.var(best);
        k.each(k.i64(whole), k.i64(vocab), 1, |i| {
            best.set(element(logits, i).pmax(best.get()));
        });
        k.ret(&[clean(k, best.get())]);
    });
    f
}

/// `find(logits, max) -> i32`: the lowest token whose logit is `max`, the largest one.
pub fn emit_find(emitter: &mut Emitter<'_>, vocab: i64) -> Func {
    let f = emitter.declare("sample.find", &[I64, F32], &[I32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (logits, max) = (args[0], args[1]);
        // Then all are equal, whatever they were before they were clean.
        k.return_if(max.feq(k.f32(-f32::MAX)), &[k.i32(0)]);
        let wanted = max.splat(F32X4);
        each_hit(
            k,
            logits,
            vocab,
            |v| wanted.fle(v),
            |i| {
                let hit = max.fle(element(logits, i));
                k.return_if(hit, &[i.truncate(I32)]);
            },
        );
        k.ret(&[k.i32(0)]);
    });
    f
}

/// `sum(logits, max, inverse) -> i64`: the sum of all weights.
pub fn emit_sum(emitter: &mut Emitter<'_>, vocab: i64) -> Func {
    let f = emitter.declare("sample.sum", &[I64, F32, F32], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (logits, max, inverse) = (args[0], args[1], args[2]);
        let (maxes, inverses) = (max.splat(F32X4), inverse.splat(F32X4));
        let sums = k.vars(2, k.vector(I64X2, &[0; 16]));
        let whole = vocab / 4 * 4;
        k.each(k.i64(0), k.i64(whole), 4, |i| {
            let w = weight(k, clean(k, vector(logits, i, 0)), maxes, inverses);
            sums[0].add(w.uwiden_low());
            sums[1].add(w.uwiden_high());
        });
        let sum = sums[0].get() + sums[1].get();
        let sum = k.var(sum.lane(0) + sum.lane(1));
        k.each(k.i64(whole), k.i64(vocab), 1, |i| {
            sum.add(weight(k, clean(k, element(logits, i)), max, inverse).uext(I64));
        });
        k.ret(&[sum.get()]);
    });
    f
}

/// `collect(logits, keys, threshold, below) -> i64`: writes the keys of all logits above the
/// threshold, or of all others if `below` is -1 instead of 0; returns how many. It writes one key
/// further than that.
pub fn emit_collect(emitter: &mut Emitter<'_>, vocab: i64) -> Func {
    let f = emitter.declare("sample.collect", &[I64, I64, F32, I32], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (logits, keys, threshold, below) = (args[0], args[1], args[2], args[3]);
        let (thresholds, all) = (threshold.splat(F32X4), below.splat(I32X4));
        let n = k.var(k.i64(0));
        each_hit(
            k,
            logits,
            vocab,
            |v| thresholds.flt(v) | all,
            |i| {
                let logit = clean(k, element(logits, i));
                at(keys, n.get()).store(0, key(logit, i));
                let above = threshold.flt(logit).uext(I32);
                n.add((above ^ (below & 1)).uext(I64));
            },
        );
        k.ret(&[n.get()]);
    });
    f
}

/// `top_k(logits, keys, n)`: the `n` best of more than `n` logits, as a heap.
///
/// While it scans, the heap is upside down: the worst of the best so far is on top, and a logit
/// that does not beat it costs a comparison.
pub fn emit_top_k(emitter: &mut Emitter<'_>, heap: &Heap, vocab: i64) -> Func {
    let f = emitter.declare("sample.top_k", &[I64, I64, I64], &[]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (logits, keys, n) = (args[0], args[1], args[2]);
        let zero = k.i64(0);
        k.each(zero, n, 1, |i| {
            at(keys, i).store(0, key(clean(k, element(logits, i)), i) ^ -1);
        });
        k.call(&heap.heapify, &[keys, n]);
        let worst = k.var(keys.load(I64, 0));
        let threshold = k.var(logit(worst.get() ^ -1));
        each_hit(
            k,
            logits,
            vocab,
            |v| threshold.get().splat(F32X4).flt(v),
            |i| {
                let raw = element(logits, i);
                k.if_(threshold.get().flt(raw), || {
                    let key = key(clean(k, raw), i) ^ -1;
                    // The first n are in the heap already; the key of a candidate is its own.
                    k.if_(key.ult(worst.get()) & !i.ult(n), || {
                        k.call(&heap.sift, &[keys, n, zero, key]);
                        worst.set(keys.load(I64, 0));
                        threshold.set(logit(worst.get() ^ -1));
                    });
                });
            },
        );
        k.each(zero, n, 1, |i| at(keys, i).store(0, at(keys, i).load(I64, 0) ^ -1));
        k.call(&heap.heapify, &[keys, n]);
        k.ret(&[]);
    });
    f
}

/// Visits every logit of each block in which `test` holds for any.
fn each_hit<'k>(
    k: &'k Kernel<'k>,
    logits: Val<'k>,
    vocab: i64,
    test: impl Fn(Val<'k>) -> Val<'k>,
    visit: impl FnOnce(Val<'k>),
) {
    k.each(k.i64(0), k.i64(vocab), BLOCK, |block| {
        let hits = [0, 1, 2, 3].map(|n| test(vector(logits, block, n)));
        let hit = (hits[0] | hits[1]) | (hits[2] | hits[3]);
        k.if_(hit.any(), || {
            let end = (block + BLOCK).umin(k.i64(vocab));
            k.each(block, end, 1, visit);
        });
    });
}

/// Four logits from the `n`th vector after index `i`.
fn vector<'k>(logits: Val<'k>, i: Val<'k>, n: usize) -> Val<'k> {
    (logits + (i << 2)).load(F32X4, n as i32 * 16)
}

/// The logit at index `i`.
fn element<'k>(logits: Val<'k>, i: Val<'k>) -> Val<'k> {
    (logits + (i << 2)).load(F32, 0)
}
