//! `attention`: grouped-query attention over a slot of the cache.
//!
//! A tile is up to `TILE` query rows that share a KV head: neighbouring tokens of one head in
//! prefill, the heads of one group in decode. Positions are taken in blocks of `BLOCK` at fixed
//! places; each block has its own maximum, sum and weighted values, and blocks are merged in order
//! (online softmax: Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). So a
//! row's result depends on its position alone, not on how rows were grouped.

use super::kv_append::{PANEL_POSITIONS, Slot};
use super::panel::Panel;
use super::score::below;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::exp;
use cranelift_codegen::ir::types::*;

/// Query rows of a tile.
pub const TILE: u64 = 12;
/// Positions of a block.
pub const BLOCK: u64 = 256;
/// Bytes from one row of scores to the next.
const SCORE_STRIDE: i64 = 4 * BLOCK as i64;

/// What one kernel is specialised for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// The cache.
    pub slot: Slot,
    /// Query heads.
    pub heads: u64,
    /// Factor on the scores.
    pub scale: f32,
}

impl Shape {
    /// Query heads that share a KV head.
    fn group(&self) -> u64 {
        self.heads / self.slot.heads
    }

    /// Private memory of one worker: scores, a block's weighted values, and per row the maximum
    /// and sum of the block and of all blocks so far.
    pub fn private_bytes(&self) -> u64 {
        TILE * (SCORE_STRIDE as u64 + self.slot.head * 4 + 16)
    }
}

/// Private memory of a tile.
struct Private<'k> {
    /// `[TILE][BLOCK]` scores, then probabilities.
    scores: Val<'k>,
    /// `[TILE][head]` weighted values of a block.
    values: Val<'k>,
    /// `[TILE]` pairs (maximum, sum) of a block.
    block: Val<'k>,
    /// `[TILE]` pairs (maximum, sum) of all blocks so far.
    running: Val<'k>,
}

/// Emits `attention`: parameters q, out (rows of `heads · head`), keys, values, rows, position of
/// row 0, row stride in bytes, private memory, worker, workers. Tiles are dealt to workers in
/// contiguous shares.
pub fn define(e: &mut Emitter, name: &str, shape: Shape, keys: &Panel, values: &Panel) -> Func {
    let softmax = define_softmax(e, &format!("{name}_softmax"), shape.scale);
    let merge = define_merge(e, &format!("{name}_merge"), shape.slot.head, shape.scale);
    let tile = e.declare(&format!("{name}_tile"), &[I64; 9], &[]);
    let parts = Parts { shape, keys, values, softmax: &softmax, merge: &merge };
    e.define(&tile, Tuning::Optimised, |k, args| tile_body(k, args, &parts));
    let f = e.declare(name, &[I64; 10], &[]);
    e.define(&f, Tuning::Optimised, |k, args| deal(k, args, shape, &tile));
    f
}

struct Parts<'p> {
    shape: Shape,
    keys: &'p Panel,
    values: &'p Panel,
    softmax: &'p Func,
    merge: &'p Func,
}

/// Deals tiles: in prefill (head, tokens), in decode (KV head, heads of its group).
fn deal<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape, tile: &Func) {
    let [q, out, keys, values, rows, position, stride, private, worker, workers] = args else {
        unreachable!("ten parameters are declared")
    };
    let head_bytes = (shape.slot.head * 4) as i64;
    let cache_bytes = shape.slot.head_bytes() as i64;
    let group = shape.group() as i64;
    let tile_rows = TILE as i64;
    let decode = rows.is(1);
    let kv_heads = k.i64(shape.slot.heads as i64);
    let heads = k.i64(shape.heads as i64);
    // In decode the rows of a tile are the heads of a group, all at one position.
    let tiled = decode.select(k.i64(group), *rows);
    let tiles = (tiled + (tile_rows - 1)) / tile_rows;
    let outer = decode.select(kv_heads, heads);
    let pieces = outer * tiles;
    let first = pieces * *worker / *workers;
    let end = pieces * (*worker + 1) / *workers;
    let step = decode.select(k.i64(head_bytes), *stride);
    k.each(first, end, 1, |piece| {
        let (outer, start) = (piece / tiles, piece.urem(tiles) * tile_rows);
        let head = decode.select(outer * group, outer);
        let kv_head = head / group;
        let at = head * head_bytes + start * step;
        let m = (tiled - start).umin(k.i64(tile_rows));
        let seen = *position + decode.select(k.i64(1), start + 1);
        let seen_step = decode.select(k.i64(0), k.i64(1));
        let cache = kv_head * cache_bytes;
        let (kv_k, kv_v) = (*keys + cache, *values + cache);
        k.call(tile, &[*q + at, *out + at, step, m, seen, seen_step, kv_k, kv_v, *private]);
    });
    k.ret(&[]);
}

/// One tile: q, out, bytes between rows, rows, positions seen by row 0, more per row, keys, values,
/// private memory.
fn tile_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], parts: &Parts) {
    let [q, out, stride, m, seen, seen_step, keys, values, private] = args else {
        unreachable!("nine parameters are declared")
    };
    let head = parts.shape.slot.head as i64;
    let pairs = *private + TILE as i64 * (SCORE_STRIDE + head * 4);
    let private = Private {
        scores: *private,
        values: *private + TILE as i64 * SCORE_STRIDE,
        block: pairs,
        running: pairs + TILE as i64 * 8,
    };
    let most = *seen + (*m - 1) * *seen_step;
    k.each(k.i64(0), most, BLOCK as i64, |start| {
        let positions = (most - start).umin(k.i64(BLOCK as i64));
        score_block(k, parts, (*q, *stride, *m), *keys, start, positions, &private);
        k.each(k.i64(0), *m, 1, |t| {
            let own = *seen + t * *seen_step;
            let own = own.lt(start).select(k.i64(0), own - start).umin(positions);
            let pair = k.call(parts.softmax, &[private.scores + t * SCORE_STRIDE, own, positions]);
            (private.block + (t << 3)).store(0, pair[0]);
            (private.block + (t << 3)).store(4, pair[1]);
        });
        value_block(k, parts, *m, *values, start, positions, &private);
        k.each(k.i64(0), *m, 1, |t| {
            let (block, running) = (private.block + (t << 3), private.running + (t << 3));
            let from = private.values + t * (head * 4);
            k.call(parts.merge, &[*out + t * *stride, from, running, block, start]);
        });
    });
    k.each(k.i64(0), *m, 1, |t| {
        let sum = (private.running + (t << 3)).load(F32, 4);
        let factor = (k.f32(1.0) / sum).splat(F32X4);
        let row = *out + t * *stride;
        k.each(k.i64(0), k.i64(head * 4), 16, |i| {
            (row + i).store(0, (row + i).load(F32X4, 0) * factor);
        });
    });
    k.ret(&[]);
}

/// `scores[t][s] = q[t] · k[start + s]`, in whole panels.
fn score_block<'k>(
    k: &'k Kernel<'k>,
    parts: &Parts,
    (q, stride, m): (Val<'k>, Val<'k>, Val<'k>),
    keys: Val<'k>,
    start: Val<'k>,
    positions: Val<'k>,
    private: &Private<'k>,
) {
    let slot = parts.shape.slot;
    let position_bytes = (slot.head * slot.dtype.bytes()) as i64;
    let (length, score_stride, none) = (k.i64(slot.head as i64), k.i64(SCORE_STRIDE), k.i64(0));
    k.each(k.i64(0), positions, PANEL_POSITIONS as i64, |s| {
        let panel = keys + (start + s) * position_bytes;
        let to = private.scores + (s << 2);
        k.call(&parts.keys.rows, &[panel, q, to, length, stride, score_stride, none, m]);
    });
}

/// `values[t] = Σ_s scores[t][s] · v[start + s]`.
fn value_block<'k>(
    k: &'k Kernel<'k>,
    parts: &Parts,
    m: Val<'k>,
    values: Val<'k>,
    start: Val<'k>,
    positions: Val<'k>,
    private: &Private<'k>,
) {
    let slot = parts.shape.slot;
    let row_bytes = (slot.value_width() * slot.dtype.bytes()) as i64;
    let (score_stride, value_stride, none) =
        (k.i64(SCORE_STRIDE), k.i64(slot.head as i64 * 4), k.i64(0));
    let block_bytes = slot.positions as i64 * row_bytes;
    for block in 0..(slot.head / slot.value_width()) as i64 {
        let panel = values + start * row_bytes + block * block_bytes;
        let to = private.values + block * slot.value_width() as i64 * 4;
        let args = [panel, private.scores, to, positions, score_stride, value_stride, none, m];
        k.call(&parts.values.rows, &args);
    }
}

/// Emits: scores to `exp((s - max) · scale)` in place; parameters row, positions seen, positions of
/// the block (the rest becomes 0); results maximum and sum.
fn define_softmax(e: &mut Emitter, name: &str, scale: f32) -> Func {
    let f = e.declare(name, &[I64; 3], &[F32, F32]);
    e.define(&f, Tuning::Optimised, |k, args| softmax_body(k, args, scale));
    f
}

fn softmax_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], scale: f32) {
    let [row, seen, all] = args else { unreachable!("three parameters are declared") };
    let lowest = k.f32x4(f32::NEG_INFINITY);
    let maximum = k.var(lowest);
    k.each(k.i64(0), *seen, 4, |i| {
        let scores = (*row + (i << 2)).load(F32X4, 0);
        maximum.set(maximum.get().pmax(below(k, i, *seen).select(scores, lowest)));
    });
    let highest = maximum.get().max_lanes();
    let (shift, sum) = (highest.splat(F32X4), k.var(k.f32x4(0.0)));
    k.each(k.i64(0), *seen, 4, |i| {
        let scores = (*row + (i << 2)).load(F32X4, 0);
        let weights = exp((scores - shift) * scale);
        let weights = below(k, i, *seen).select(weights, k.f32x4(0.0));
        (*row + (i << 2)).store(0, weights);
        sum.add(weights);
    });
    let rounded = (*seen + 3) & !3;
    k.each(rounded, *all, 4, |i| (*row + (i << 2)).store(0, k.f32x4(0.0)));
    k.ret(&[highest, sum.get().sum_lanes()]);
}

/// Emits the merge of a block into what was before: parameters row of `out`, weighted values of the
/// block, running pair, the block's pair, first position of the block.
fn define_merge(e: &mut Emitter, name: &str, head: u64, scale: f32) -> Func {
    let f = e.declare(name, &[I64; 5], &[]);
    e.define(&f, Tuning::Optimised, |k, args| merge_body(k, args, head, scale));
    f
}

fn merge_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], head: u64, scale: f32) {
    let [out, values, running, block, start] = args else {
        unreachable!("five parameters are declared")
    };
    let bytes = k.i64(head as i64 * 4);
    let (max, sum) = (block.load(F32, 0), block.load(F32, 4));
    k.if_else(
        start.is(0),
        || {
            running.store(0, max);
            running.store(4, sum);
            k.each(k.i64(0), bytes, 16, |i| (*out + i).store(0, (*values + i).load(F32X4, 0)));
        },
        || {
            // A row that sees nothing of this block stays as it is.
            k.return_if(sum.feq(k.f32(0.0)), &[]);
            let (old_max, old_sum) = (running.load(F32, 0), running.load(F32, 4));
            let highest = old_max.pmax(max);
            let old = exp(((old_max - highest) * scale).splat(F32X4));
            let new = exp(((max - highest) * scale).splat(F32X4));
            running.store(0, highest);
            running.store(4, old_sum * old.lane(0) + sum * new.lane(0));
            k.each(k.i64(0), bytes, 16, |i| {
                let (a, b) = ((*out + i).load(F32X4, 0), (*values + i).load(F32X4, 0));
                (*out + i).store(0, a * old + b * new);
            });
        },
    );
    k.ret(&[]);
}

/// The plain reference, in f64: one query over all keys and values, `[positions][head]` each.
pub fn reference(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f32> {
    let head = q.len();
    let dot = |key: &[f32]| -> f64 {
        q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let scores: Vec<f64> = keys.chunks(head).map(|key| dot(key) * f64::from(scale)).collect();
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0f64; head];
    for (weight, value) in weights.iter().zip(values.chunks(head)) {
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight / sum * f64::from(*v));
    }
    out.into_iter().map(|v| v as f32).collect()
}
