//! `score`: log-probabilities of given tokens, without the logits of every row in memory.
//!
//! The head is taken in pieces of `PIECE` logits; each piece leaves its maximum and its sum of
//! exponentials per row, and the pieces of a row are merged in order.

use super::elementwise::softcap_bits;
use super::panel::PANEL_ROWS;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::{exp, ln};
use cranelift_codegen::ir::types::*;

/// Panels of a piece.
const PIECE_PANELS: i64 = 4;
/// Logits of a piece.
pub const PIECE: u64 = PIECE_PANELS as u64 * PANEL_ROWS;

/// Pieces of a head of `vocab` rows.
pub fn pieces(vocab: u64) -> u64 {
    vocab.div_ceil(PIECE)
}

/// Emits the pieces: parameters w, x, k, x_stride, rows, targets (`i32` per row), chosen (`f32` per
/// row: the target's logit), partial (`[pieces][rows]` pairs maximum, sum), private (`[rows][PIECE]`
/// f32), room of `linear`, first piece, end piece. `cap` is the kernel `softcap` and the cap of logits
/// that have one.
pub fn define_pieces(
    e: &mut Emitter,
    linear: &Func,
    cap: Option<(&Func, f64)>,
    vocab: u64,
) -> Func {
    let f = e.declare("score_pieces", &[I64; 12], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [w, x, length, x_stride, rows, targets, chosen, partial, private, room, first, end] =
            args
        else {
            unreachable!("twelve parameters are declared")
        };
        let stride = 4 * PIECE as i64;
        let all_panels = k.i64(vocab.div_ceil(PANEL_ROWS) as i64);
        let none = k.i64(0);
        k.each(*first, *end, 1, |piece| {
            let panel = piece * PIECE_PANELS;
            let end_panel = (panel + PIECE_PANELS).umin(all_panels);
            // `linear` writes panel p at column 32·p: shift so that this piece starts at column 0.
            let to = *private - panel * (4 * PANEL_ROWS as i64);
            let y_stride = k.i64(stride);
            let rows_and_panels = [*rows, panel, end_panel, *room];
            let product = [*w, *x, to, none, none, *length, *x_stride, y_stride];
            k.call(linear, &[&product[..], &rows_and_panels].concat());
            if let Some((softcap, cap)) = cap {
                let [by, cap] = softcap_bits(k, 1.0 / cap, cap);
                let end = (end_panel - panel) * (4 * PANEL_ROWS as i64);
                k.call(softcap, &[*private, *private, *rows, y_stride, none, end, by, cap]);
            }
            let start = piece * PIECE as i64;
            let size = (k.i64(vocab as i64) - start).umin(k.i64(PIECE as i64));
            k.each(k.i64(0), *rows, 1, |t| {
                let row = *private + t * stride;
                let pair = *partial + ((piece * *rows + t) << 3);
                reduce(k, row, size, pair);
                let target = (*targets + (t << 2)).load(I32, 0).uext(I64) - start;
                k.if_(target.ult(size), || {
                    (*chosen + (t << 2)).store(0, (row + (target << 2)).load(F32, 0));
                });
            });
        });
        k.ret(&[]);
    });
    f
}

/// Maximum and sum of `exp(l - maximum)` of `size` logits.
fn reduce<'k>(k: &'k Kernel<'k>, row: Val<'k>, size: Val<'k>, pair: Val<'k>) {
    let (lowest, zero) = (k.f32x4(f32::NEG_INFINITY), k.f32x4(0.0));
    let maximum = k.var(lowest);
    k.each(k.i64(0), size, 4, |i| {
        let logits = (row + (i << 2)).load(F32X4, 0);
        maximum.set(maximum.get().pmax(below(k, i, size).select(logits, lowest)));
    });
    let highest = maximum.get().max_lanes();
    let (shift, sum) = (highest.splat(F32X4), k.var(zero));
    k.each(k.i64(0), size, 4, |i| {
        let weights = exp((row + (i << 2)).load(F32X4, 0) - shift);
        sum.add(below(k, i, size).select(weights, zero));
    });
    pair.store(0, highest);
    pair.store(4, sum.get().sum_lanes());
}

/// Mask of the lanes of `i..i + 4` below `size`.
pub(super) fn below<'k>(k: &'k Kernel<'k>, i: Val<'k>, size: Val<'k>) -> Val<'k> {
    let lanes = k.vector(I32X4, &[0i32, 1, 2, 3].map(i32::to_le_bytes).concat());
    (i.truncate(I32).splat(I32X4) + lanes).lt(size.truncate(I32).splat(I32X4))
}

/// Emits the merge: parameters chosen, partial, rows, first row, end row, logprobs (`f32` per row).
pub fn define_merge(e: &mut Emitter, vocab: u64) -> Func {
    let f = e.declare("score_merge", &[I64; 6], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [chosen, partial, rows, first, end, logprobs] = args else {
            unreachable!("six parameters are declared")
        };
        let step = *rows << 3;
        k.each(*first, *end, 1, |t| {
            let column = *partial + (t << 3);
            let limit = column + step * pieces(vocab) as i64;
            let highest = k.var(k.f32(f32::NEG_INFINITY));
            k.each_address(column, limit, step, |at| {
                highest.set(highest.get().pmax(at.load(F32, 0)));
            });
            let total = k.var(k.f64(0.0));
            k.each_address(column, limit, step, |at| {
                let weight = exp((at.load(F32, 0) - highest.get()).splat(F32X4)).lane(0);
                total.add((at.load(F32, 4) * weight).promote());
            });
            let logit = (*chosen + (t << 2)).load(F32, 0).promote();
            let logprob = logit - highest.get().promote() - ln(total.get());
            (*logprobs + (t << 2)).store(0, logprob.demote());
        });
        k.ret(&[]);
    });
    f
}
