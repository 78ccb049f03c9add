//! `softmax` of one row of scores within a block of positions: `exp((s - max) · scale)`, the maximum
//! and the sum; `attention` merges blocks.
//!
//! With a window, positions before it are not seen either.
//!
//! For a cache of integers the weights leave as a quantised row in groups of 32 positions, each
//! weight times the scale of its value. The sum is that of the weights before both.

use super::kv_append::PANEL_POSITIONS;
use super::quant_rows::{group_bytes, one_group};
use super::score::below;
use crate::asm::x64_softmax;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::{exp, exp2, f16_to_f32};
use cranelift_codegen::ir::types::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Emits it: parameters row (scores, in whole panels), positions seen, positions of the block; with
/// `quantised` also the scales of the block's values as f16, and where the quantised row goes; with
/// `windowed` also how many of the positions seen are hidden after all, the first ones.
/// Weights of positions that are not seen are 0. Results: maximum, sum.
pub fn define(e: &mut Emitter, name: &str, scale: f32, quantised: bool, windowed: bool) -> Func {
    let params = if quantised { 5 } else { 3 } + usize::from(windowed);
    let f = e.declare(name, &vec![I64; params], &[F32, F32]);
    if e.target.facts.avx512 {
        let code = x64_softmax::softmax(scale, quantised, windowed);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| match args.split_last() {
        Some((hidden, args)) if windowed => body(k, args, scale, Some(*hidden)),
        _ => body(k, args, scale, None),
    });
    f
}

/// Bytes of the scores of a group.
const GROUP_BYTES: i64 = 4 * PANEL_POSITIONS as i64;

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], scale: f32, hidden: Option<Val<'k>>) {
    let [row, seen, all, quantised @ ..] = args else { unreachable!("three or more parameters") };
    // One value where positions are seen, another where they are not.
    let where_seen = |i: Val<'k>, a: Val<'k>, b: Val<'k>| {
        let a = below(k, i, *seen).select(a, b);
        hidden.map_or(a, |hidden| below(k, i, hidden).select(b, a))
    };
    let lowest = k.f32x4(f32::NEG_INFINITY);
    let maximum = k.var(lowest);
    k.each(k.i64(0), *seen, 4, |i| {
        let scores = (*row + (i << 2)).load(F32X4, 0);
        maximum.set(maximum.get().pmax(where_seen(i, scores, lowest)));
    });
    let highest = maximum.get().max_lanes();
    let shift = highest.splat(F32X4);
    let start = -(shift * (scale * LOG2_E));
    // Four chains of four lanes: the lanes of one vector of 512 bits.
    let sums = k.vars(4, k.f32x4(0.0));
    let group = PANEL_POSITIONS as i64;
    k.each(k.i64(0), *seen, group, |first| {
        for j in 0..8 {
            let i = first + 4 * j;
            let at = *row + (i << 2);
            let scores = at.load(F32X4, 0);
            let weights = match quantised {
                [] => exp((scores - shift) * scale),
                // To be rounded to 8 bits.
                _ => exp2(scores.fma(k.f32x4(scale * LOG2_E), start)),
            };
            let weights = where_seen(i, weights, k.f32x4(0.0));
            sums[j as usize % 4].add(weights);
            let weights = match quantised {
                [scales, _] => weights * f16_to_f32((*scales + (i << 1)).load_s16x4(0)),
                _ => weights,
            };
            at.store(0, weights);
        }
    });
    let whole = (*seen + (group - 1)) & -group;
    if let [_, to] = quantised {
        quantise(k, *row, whole, *all, *to);
    } else {
        k.each(whole, *all, group, |first| zero(k, *row + (first << 2), GROUP_BYTES));
    }
    let sum = (sums[0].get() + sums[1].get()) + (sums[2].get() + sums[3].get());
    k.ret(&[highest, sum.sum_lanes()]);
}

/// Groups of weights to integers up to `whole`; from there on groups are nothing.
fn quantise<'k>(k: &'k Kernel<'k>, row: Val<'k>, whole: Val<'k>, all: Val<'k>, to: Val<'k>) {
    let group = PANEL_POSITIONS;
    let to = k.var(to);
    k.each(k.i64(0), whole, group as i64, |first| {
        let from = row + (first << 2);
        one_group(k, &|i| (from + i).load(F32X4, 0), to.get(), group);
        to.set(to.get() + group_bytes(group) as i64);
    });
    k.each(whole, all, group as i64, |_| {
        zero(k, to.get(), group_bytes(group) as i64);
        to.set(to.get() + group_bytes(group) as i64);
    });
}

fn zero<'k>(k: &'k Kernel<'k>, to: Val<'k>, bytes: i64) {
    (0..bytes as i32).step_by(16).for_each(|at| to.store(at, k.f32x4(0.0)));
}

/// The plain reference: weights of the positions seen, and their sum.
pub fn reference(scores: &[f32], seen: Range<usize>, scale: f32) -> (Vec<f64>, f64) {
    let seen = &scores[seen];
    let highest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |s: &f32| (f64::from(s - highest) * f64::from(scale)).exp();
    let weights: Vec<f64> = seen.iter().map(weight).collect();
    let sum = weights.iter().sum();
    (weights, sum)
}
