//! `attention`: grouped-query attention over a slot of the cache.
//!
//! A tile is a few query rows that share a KV head: neighbouring tokens of one head in prefill, the
//! heads of one group in decode. Positions are taken in blocks of `BLOCK` at fixed places; each
//! block has its own maximum, sum and weighted values, and blocks are merged in order (online
//! softmax: Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). So a row's
//! result depends on its position alone, not on how rows were grouped.
//!
//! A cache of integers is multiplied as it is: queries come in int8, and the weights of a block are
//! quantised in groups of 32 positions, each times the scale of its value (`softmax`).

use super::kv_append::{PANEL_POSITIONS, Slot};
use super::panel::Panel;
use super::quant_rows::{group_bytes, row_stride};
use super::{int_panel, softmax};
use crate::asm::x64_amx::TILE_ROWS;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::exp;
use crate::target::Facts;
use cranelift_codegen::ir::types::*;

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
    /// Positions that a row sees, its own the last; none: all of them.
    pub window: Option<u64>,
}

impl Shape {
    /// Query heads that share a KV head.
    fn group(&self) -> u64 {
        self.heads / self.slot.heads
    }

    /// Query rows of a tile: what the panel kernels take at once.
    pub fn tile(&self) -> u64 {
        if self.ints() { 2 * TILE_ROWS } else { 12 }
    }

    fn ints(&self) -> bool {
        self.slot.int_bits().is_some()
    }

    /// Bytes of a head of a query.
    fn query_bytes(&self) -> u64 {
        if self.ints() { group_bytes(self.slot.head) } else { self.slot.head * 4 }
    }

    /// Bytes from one row of a block's weights to the next: quantised ones have a place of their own.
    fn weight_stride(&self) -> u64 {
        if self.ints() { row_stride(BLOCK, PANEL_POSITIONS) } else { SCORE_STRIDE as u64 }
    }

    /// Bytes from one row of weighted values to the next.
    fn value_stride(&self) -> u64 {
        self.slot.value_blocks() * self.slot.value_width() * 4
    }

    /// Where the parts of a worker's private memory begin, and its size.
    fn private(&self) -> Private<u64> {
        let tile = self.tile();
        let weights = if self.ints() { tile * SCORE_STRIDE as u64 } else { 0 };
        let values = weights + tile * self.weight_stride();
        let block = values + tile * self.value_stride();
        let running = block + tile * 8;
        let room = (running + tile * 8).next_multiple_of(64);
        Private { scores: 0, weights, values, block, running, room }
    }

    /// Private memory of one worker.
    pub fn private_bytes(&self, facts: &Facts) -> u64 {
        let room = int_panel::room_bytes(facts, self.slot.head.max(BLOCK));
        self.private().room + if self.ints() { room } else { 0 }
    }
}

/// Private memory of a tile: offsets, or addresses.
struct Private<T> {
    /// `[tile][BLOCK]` scores.
    scores: T,
    /// `[tile]` rows of weights: floats over the scores, or quantised rows.
    weights: T,
    /// `[tile]` rows of a block's weighted values.
    values: T,
    /// `[tile]` pairs (maximum, sum) of a block.
    block: T,
    /// `[tile]` pairs (maximum, sum) of all blocks so far.
    running: T,
    /// What panel kernels of integers want.
    room: T,
}

/// The kernels that multiply keys and values, each over any number of rows.
#[derive(Clone)]
pub struct Products {
    keys: Func,
    values: Func,
}

impl Products {
    /// Of a cache of floats.
    pub fn floats(keys: &Panel, values: &Panel) -> Products {
        Products { keys: keys.rows.clone(), values: values.rows.clone() }
    }

    /// Of a cache of integers, if this slot is one; `panel` gives the kernel of a shape.
    pub fn ints(slot: &Slot, mut panel: impl FnMut(int_panel::Shape) -> Func) -> Option<Products> {
        let (keys, values) = (slot.key_shape()?, slot.value_shape()?);
        Some(Products { keys: panel(keys), values: panel(values) })
    }
}

/// Emits `attention`: parameters q, out (rows of `heads · head`; q quantised for a cache of
/// integers), keys, values, rows, position of row 0, q_stride, out_stride, private memory, worker,
/// workers. Tiles are dealt to workers in contiguous shares.
pub fn define(e: &mut Emitter, name: &str, shape: Shape, products: &Products) -> Func {
    let (ints, windowed) = (shape.ints(), shape.window.is_some());
    let softmax = softmax::define(e, &format!("{name}_softmax"), shape.scale, ints, windowed);
    let merge = define_merge(e, &format!("{name}_merge"), shape.slot.head, shape.scale);
    let tile = e.declare(&format!("{name}_tile"), &[I64; 10], &[]);
    let parts = Parts { shape, products, softmax: &softmax, merge: &merge };
    e.define(&tile, Tuning::Optimised, |k, args| tile_body(k, args, &parts));
    let f = e.declare(name, &[I64; 11], &[]);
    e.define(&f, Tuning::Optimised, |k, args| deal(k, args, shape, &tile));
    f
}

struct Parts<'p> {
    shape: Shape,
    products: &'p Products,
    softmax: &'p Func,
    merge: &'p Func,
}

/// Deals tiles: in prefill (head, tokens), in decode (KV head, heads of its group).
fn deal<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape, tile: &Func) {
    let [q, out, keys, values, rows, position, q_stride, out_stride, private, worker, workers] =
        args
    else {
        unreachable!("eleven parameters are declared")
    };
    let slot = shape.slot;
    let group = shape.group() as i64;
    let tile_rows = shape.tile() as i64;
    let decode = rows.is(1);
    let kv_heads = k.i64(slot.heads as i64);
    let heads = k.i64(shape.heads as i64);
    // In decode the rows of a tile are the heads of a group, all at one position.
    let tiled = decode.select(k.i64(group), *rows);
    let tiles = (tiled + (tile_rows - 1)) / tile_rows;
    let outer = decode.select(kv_heads, heads);
    let pieces = outer * tiles;
    let first = pieces * *worker / *workers;
    let end = pieces * (*worker + 1) / *workers;
    let head_bytes = [shape.query_bytes() as i64, slot.head as i64 * 4];
    let steps = [(head_bytes[0], *q_stride), (head_bytes[1], *out_stride)];
    let steps = steps.map(|(head, row)| decode.select(k.i64(head), row));
    k.each(first, end, 1, |piece| {
        let (outer, start) = (piece / tiles, piece.urem(tiles) * tile_rows);
        let head = decode.select(outer * group, outer);
        let kv_head = head / group;
        let q = *q + head * head_bytes[0] + start * steps[0];
        let out = *out + head * head_bytes[1] + start * steps[1];
        let m = (tiled - start).umin(k.i64(tile_rows));
        let seen = *position + decode.select(k.i64(1), start + 1);
        let seen_step = decode.select(k.i64(0), k.i64(1));
        let keys = *keys + kv_head * slot.key_head_bytes() as i64;
        let values = *values + kv_head * slot.value_head_bytes() as i64;
        let strides = [steps[0], steps[1]];
        k.call(tile, &[q, out, strides[0], strides[1], m, seen, seen_step, keys, values, *private]);
    });
    k.ret(&[]);
}

/// One block of positions of a tile.
struct Block<'k> {
    /// Its first position.
    start: Val<'k>,
    /// How many.
    positions: Val<'k>,
    /// Rows of the tile.
    m: Val<'k>,
}

/// One tile: q, out, bytes between rows of each, rows, positions seen by row 0, more per row, keys,
/// values, private memory.
fn tile_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], parts: &Parts) {
    let [q, out, q_stride, out_stride, m, seen, seen_step, keys, values, private] = args else {
        unreachable!("ten parameters are declared")
    };
    let shape = parts.shape;
    let at = shape.private();
    let [scores, weights, blocks, pairs, running, room] =
        [at.scores, at.weights, at.values, at.block, at.running, at.room]
            .map(|offset| *private + offset as i64);
    let private = Private { scores, weights, values: blocks, block: pairs, running, room };
    let most = *seen + (*m - 1) * *seen_step;
    let slot = shape.slot;
    let value_scales = *values + (slot.value_blocks() * slot.value_block_bytes()) as i64;
    // Where what a row sees begins, given where it ends.
    let low = |seen: Val<'k>| match shape.window {
        None => k.i64(0),
        Some(window) => seen - seen.umin(k.i64(window as i64)),
    };
    let block_of = |position: Val<'k>| position & -(BLOCK as i64);
    k.each(block_of(low(*seen)), most, BLOCK as i64, |start| {
        let positions = (most - start).umin(k.i64(BLOCK as i64));
        let block = Block { start, positions, m: *m };
        score_block(k, parts, (*q, *q_stride), *keys, &block, &private);
        k.each(k.i64(0), *m, 1, |t| {
            // Positions of this block before `position`.
            let before = |position: Val<'k>| position.lt(start).select(k.i64(0), position - start);
            let seen = *seen + t * *seen_step;
            let own = before(seen).umin(positions);
            let hidden = shape.window.map(|_| before(low(seen)));
            let own = hidden.map_or(own, |hidden| hidden.lt(own).select(own, k.i64(0)));
            let row = private.scores + t * SCORE_STRIDE;
            let mut args = vec![row, own, positions];
            if shape.ints() {
                let to = private.weights + t * shape.weight_stride() as i64;
                args.extend([value_scales + (start << 1), to]);
            }
            args.extend(hidden);
            let pair = k.call(parts.softmax, &args);
            (private.block + (t << 3)).store(0, pair[0]);
            (private.block + (t << 3)).store(4, pair[1]);
        });
        value_block(k, parts, *values, &block, &private);
        k.each(k.i64(0), *m, 1, |t| {
            let (block, running) = (private.block + (t << 3), private.running + (t << 3));
            let from = private.values + t * shape.value_stride() as i64;
            let age = start - block_of(low(*seen + t * *seen_step));
            k.call(parts.merge, &[*out + t * *out_stride, from, running, block, age]);
        });
    });
    k.each(k.i64(0), *m, 1, |t| {
        let sum = (private.running + (t << 3)).load(F32, 4);
        let factor = (k.f32(1.0) / sum).splat(F32X4);
        let row = *out + t * *out_stride;
        k.each(k.i64(0), k.i64(slot.head as i64 * 4), 16, |i| {
            (row + i).store(0, (row + i).load(F32X4, 0) * factor);
        });
    });
    k.ret(&[]);
}

/// `scores[t][s] = q[t] · k[start + s]`, in whole panels.
fn score_block<'k>(
    k: &'k Kernel<'k>,
    parts: &Parts,
    (q, stride): (Val<'k>, Val<'k>),
    keys: Val<'k>,
    block: &Block<'k>,
    private: &Private<Val<'k>>,
) {
    let slot = parts.shape.slot;
    let length = if parts.shape.ints() { 1 } else { slot.head as i64 };
    let (length, score_stride, none) = (k.i64(length), k.i64(SCORE_STRIDE), k.i64(0));
    let first = block.start / PANEL_POSITIONS as i64;
    let panels = (block.positions + (PANEL_POSITIONS as i64 - 1)) / PANEL_POSITIONS as i64;
    k.each(k.i64(0), panels, 1, |p| {
        let panel = keys + (first + p) * slot.key_panel_bytes() as i64;
        let to = private.scores + p * (4 * PANEL_POSITIONS as i64);
        let args = [panel, q, to, length, stride, score_stride, none, block.m, private.room];
        call_rows(k, &parts.products.keys, &args);
    });
}

/// `values[t] = Σ_s weights[t][s] · v[start + s]`.
fn value_block<'k>(
    k: &'k Kernel<'k>,
    parts: &Parts,
    values: Val<'k>,
    block: &Block<'k>,
    private: &Private<Val<'k>>,
) {
    let (shape, slot) = (parts.shape, parts.shape.slot);
    let panels = (block.positions + (PANEL_POSITIONS as i64 - 1)) / PANEL_POSITIONS as i64;
    let length = if shape.ints() { panels } else { block.positions };
    let (weight_stride, value_stride, none) =
        (k.i64(shape.weight_stride() as i64), k.i64(shape.value_stride() as i64), k.i64(0));
    let first = block.start / PANEL_POSITIONS as i64 * slot.value_panel_bytes() as i64;
    for at in 0..slot.value_blocks() as i64 {
        let panel = values + first + at * slot.value_block_bytes() as i64;
        let to = private.values + at * slot.value_width() as i64 * 4;
        let strides = [weight_stride, value_stride];
        let args = [panel, private.weights, to, length, strides[0], strides[1], none, block.m];
        call_rows(k, &parts.products.values, &[&args[..], &[private.room]].concat());
    }
}

/// Calls a panel kernel; those of floats want no room.
fn call_rows<'k>(k: &'k Kernel<'k>, f: &Func, args: &[Val<'k>]) {
    k.call(f, &args[..f.signature.params.len()]);
}

/// Emits the merge of a block into what was before: parameters row of `out`, weighted values of the
/// block, running pair, the block's pair, positions since the first block that the row sees.
fn define_merge(e: &mut Emitter, name: &str, head: u64, scale: f32) -> Func {
    let f = e.declare(name, &[I64; 5], &[]);
    e.define(&f, Tuning::Optimised, |k, args| merge_body(k, args, head, scale));
    f
}

fn merge_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], head: u64, scale: f32) {
    let [out, values, running, block, age] = args else {
        unreachable!("five parameters are declared")
    };
    let bytes = k.i64(head as i64 * 4);
    let (max, sum) = (block.load(F32, 0), block.load(F32, 4));
    k.if_else(
        age.is(0),
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
