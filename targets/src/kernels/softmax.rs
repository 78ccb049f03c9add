//! `softmax` of rows of scores within a block of positions: `exp((s - max) · scale)`, where the maximum
//! is that of all positions so far. `attention` multiplies what a row had by the factor that comes
//! with it (online softmax: Milakov and Gimelshein, arXiv 1805.02867).
//!
//! With a window, positions before it are not seen either.
//!
//! For a cache of integers the weights leave as quantised rows in groups of 32 positions, each
//! weight times the scale of its value. The sum is that of the weights before both.

use super::attention::BLOCK;
use super::kv_append::PANEL_POSITIONS;
use super::quant_rows::{group_bytes, one_group, row_stride};
use super::score::below;
use crate::asm::x64_softmax;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::{exp, exp2};
use cranelift_codegen::ir::types::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Bytes from one row of scores to the next.
pub const SCORE_STRIDE: u64 = 4 * BLOCK;

/// Bytes from one quantised row of weights to the next.
pub fn weight_stride() -> u64 {
    row_stride(BLOCK, PANEL_POSITIONS)
}

/// What is kept of a row from block to block.
pub mod running {
    /// Bytes of it; what is not named here is a kernel's own.
    pub const BYTES: u64 = 32;
    /// The maximum so far.
    pub const MAX: i32 = 0;
    /// The sum of weights so far.
    pub const SUM: i32 = 4;
    /// The factor on weights before this block, exactly 1 where the maximum stays.
    pub const FACTOR: i32 = 8;
    /// Maximum and sum before the first block.
    pub const NOTHING: (f32, f32) = (f32::MIN, 0.0);
}

/// Emits it: parameters scores (rows of whole panels), rows, positions that row 0 sees from the first
/// one of the block on (none if negative), how many more each row sees, positions of the block, what is
/// kept of the rows; with `quantised` also the scales of the block's values, f32, and where the
/// quantised rows go. With a window, of the positions that a row sees only so many last ones, over all
/// blocks. Weights of positions that are not seen are 0.
pub fn define(
    e: &mut Emitter,
    name: &str,
    scale: f32,
    quantised: bool,
    window: Option<u64>,
) -> Func {
    let params = if quantised { 8 } else { 6 };
    let f = e.declare(name, &vec![I64; params], &[]);
    if e.target.facts.avx2 {
        let code = x64_softmax::softmax(e.target.facts.avx512, scale, quantised, window);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| {
        let [scores, rows, seen, step, all, kept, quantised @ ..] = args else {
            unreachable!("six or more parameters")
        };
        k.each(k.i64(0), *rows, 1, |t| {
            let own = *seen + t * *step;
            let hidden = window.map(|window| positive(own - window as i64));
            let own = positive(own).umin(*all);
            let own = hidden.map_or(own, |hidden| hidden.lt(own).select(own, k.i64(0)));
            let row = Row {
                scores: *scores + t * SCORE_STRIDE as i64,
                own,
                hidden,
                all: *all,
                kept: *kept + t * running::BYTES as i64,
                quantised: match quantised {
                    [scales, to] => Some((*scales, *to + t * weight_stride() as i64)),
                    _ => None,
                },
            };
            one_row(k, &row, scale);
        });
        k.ret(&[]);
    });
    f
}

fn positive(x: Val<'_>) -> Val<'_> {
    let zero = x.k.i64(0);
    x.lt(zero).select(zero, x)
}

/// Bytes of the scores of a group.
const GROUP_BYTES: i64 = 4 * PANEL_POSITIONS as i64;

struct Row<'k> {
    scores: Val<'k>,
    /// Positions it sees.
    own: Val<'k>,
    /// How many of those a window hides, the first ones.
    hidden: Option<Val<'k>>,
    /// Positions of the block.
    all: Val<'k>,
    kept: Val<'k>,
    /// Scales of values, where the quantised row goes.
    quantised: Option<(Val<'k>, Val<'k>)>,
}

fn one_row<'k>(k: &'k Kernel<'k>, row: &Row<'k>, scale: f32) {
    // One value where positions are seen, another where they are not.
    let where_seen = |i: Val<'k>, a: Val<'k>, b: Val<'k>| {
        let a = below(k, i, row.own).select(a, b);
        row.hidden.map_or(a, |hidden| below(k, i, hidden).select(b, a))
    };
    let lowest = k.f32x4(running::NOTHING.0);
    let maximum = k.var(lowest);
    k.each(k.i64(0), row.own, 4, |i| {
        let scores = (row.scores + (i << 2)).load(F32X4, 0);
        maximum.set(maximum.get().pmax(where_seen(i, scores, lowest)));
    });
    let before = row.kept.load(F32, running::MAX);
    let highest = before.pmax(maximum.get().max_lanes());
    let shift = highest.splat(F32X4);
    let start = -(shift * (scale * LOG2_E));
    // What is rounded to 8 bits need not be more exact than that.
    let weight = |scores: Val<'k>| match row.quantised {
        None => exp((scores - shift) * scale),
        Some(_) => exp2(scores.fma(k.f32x4(scale * LOG2_E), start)),
    };
    let factor = match row.quantised {
        None => exp(((before - highest) * scale).splat(F32X4)),
        Some(_) => exp2(((before - highest) * (scale * LOG2_E)).splat(F32X4)),
    };
    let factor = before.feq(highest).select(k.f32(1.0), factor.lane(0));
    // Four chains of four lanes: the lanes of one vector of 512 bits.
    let sums = k.vars(4, k.f32x4(0.0));
    let group = PANEL_POSITIONS as i64;
    k.each(k.i64(0), row.own, group, |first| {
        for j in 0..8 {
            let i = first + 4 * j;
            let at = row.scores + (i << 2);
            let weights = where_seen(i, weight(at.load(F32X4, 0)), k.f32x4(0.0));
            sums[j as usize % 4].add(weights);
            let weights = match row.quantised {
                Some((scales, _)) => weights * (scales + (i << 2)).load(F32X4, 0),
                None => weights,
            };
            at.store(0, weights);
        }
    });
    let whole = (row.own + (group - 1)) & -group;
    if let Some((_, to)) = row.quantised {
        quantise(k, row.scores, whole, row.all, to);
    } else {
        k.each(whole, row.all, group, |first| zero(k, row.scores + (first << 2), GROUP_BYTES));
    }
    let sum = (sums[0].get() + sums[1].get()) + (sums[2].get() + sums[3].get());
    row.kept.store(running::MAX, highest);
    row.kept.store(running::SUM, row.kept.load(F32, running::SUM) * factor + sum.sum_lanes());
    row.kept.store(running::FACTOR, factor);
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

/// The plain reference: weights and their sum.
pub fn reference(scores: &[f32], seen: Range<usize>, scale: f32) -> (Vec<f64>, f64) {
    let seen = &scores[seen];
    let highest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |s: &f32| (f64::from(s - highest) * f64::from(scale)).exp();
    let weights: Vec<f64> = seen.iter().map(weight).collect();
    let sum = weights.iter().sum();
    (weights, sum)
}
