//! `attention`: grouped-query attention over a slot of the cache.
//!
//! A tile is a few query rows that share a KV head: neighbouring tokens of one head in prefill, the
//! heads of one group in decode. Positions are taken in blocks of `BLOCK` at fixed places and in order:
//! each adds its weighted values to those of the blocks before, which are made smaller where the
//! maximum rose (online softmax: Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv
//! 2205.14135). So a row's result depends on its position alone, not on how rows were grouped.
//!
//! With a cap, scores go through `softcap` before they are weighed.
//!
//! A cache of integers is multiplied as it is: queries come in int8, and the weights of a block are
//! quantised in groups of 32 positions, each times the scale of its value (`softmax`).

use super::elementwise::softcap_bits;
use super::int_panel;
use super::kv_append::{PANEL_POSITIONS, Slot};
use super::panel::Panel;
use super::quant_rows::group_bytes;
use super::softmax::{self, SCORE_STRIDE, running};
use crate::asm::x64_amx::{self, TILE_ROWS};
use crate::asm::x64_amx_scores;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::f16_to_f32;
use crate::target::Facts;
use cranelift_codegen::ir::types::*;

/// Positions of a block.
pub const BLOCK: u64 = 256;

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
    /// What scores stay below.
    pub cap: Option<f32>,
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
        if self.ints() { softmax::weight_stride() } else { SCORE_STRIDE }
    }

    /// Bytes from one row of weighted values to the next.
    fn value_stride(&self) -> u64 {
        self.slot.value_blocks() * self.slot.value_width() * 4
    }

    /// Where the parts of a worker's private memory begin, and its size.
    fn private(&self) -> Private<u64> {
        let tile = self.tile();
        let weights = if self.ints() { tile * SCORE_STRIDE } else { 0 };
        let values = weights + tile * self.weight_stride();
        let kept = values + tile * self.value_stride();
        let scales = kept + tile * running::BYTES;
        let scales_bytes = if self.ints() { 4 * BLOCK } else { 0 };
        let room = (scales + scales_bytes).next_multiple_of(64);
        Private { scores: 0, weights, values, kept, scales, room }
    }

    /// Private memory of one worker.
    pub fn private_bytes(&self, facts: &Facts) -> u64 {
        // Only tiles want room for keys and values.
        let room = match self.ints() && facts.amx {
            true => x64_amx::room_bytes(self.slot.head.max(BLOCK)).max(x64_amx_scores::ROOM_BYTES),
            false => 0,
        };
        self.private().room + room
    }
}

/// Private memory of a tile: offsets, or addresses.
struct Private<T> {
    /// `[tile][BLOCK]` scores.
    scores: T,
    /// `[tile]` rows of weights: floats over the scores, or quantised rows.
    weights: T,
    /// `[tile]` rows of weighted values of all blocks so far.
    values: T,
    /// `[tile]` maxima and sums of all blocks so far, see `softmax::running`.
    kept: T,
    /// `[BLOCK]` scales of values as f32, of a cache of integers.
    scales: T,
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
/// workers. Tiles are dealt to workers in contiguous shares. `softcap` is wanted where there is a cap.
pub fn define(
    e: &mut Emitter,
    name: &str,
    shape: Shape,
    products: &Products,
    softcap: Option<&Func>,
) -> Func {
    let (ints, window) = (shape.ints(), shape.window);
    // `softcap` has multiplied already.
    let scale = shape.cap.map_or(shape.scale, |_| 1.0);
    let softmax = softmax::define(e, &format!("{name}_softmax"), scale, ints, window);
    let scores = define_scores(e, &format!("{name}_scores"), shape, products);
    let tile = e.declare(&format!("{name}_tile"), &[I64; 10], &[]);
    let values = &products.values;
    let parts = Parts { shape, scores: &scores, values, softcap, softmax: &softmax };
    e.define(&tile, Tuning::Optimised, |k, args| tile_body(k, args, &parts));
    let f = e.declare(name, &[I64; 11], &[]);
    e.define(&f, Tuning::Optimised, |k, args| deal(k, args, shape, &tile));
    f
}

struct Parts<'p> {
    shape: Shape,
    scores: &'p Func,
    values: &'p Func,
    softcap: Option<&'p Func>,
    softmax: &'p Func,
}

/// Emits `scores[t][s] = q[t] · k[s]` of whole panels of keys: parameters panels, q, to, how many
/// panels, bytes between rows of q, rows of the tile, room.
fn define_scores(e: &mut Emitter, name: &str, shape: Shape, products: &Products) -> Func {
    let f = e.declare(name, &[I64; 7], &[]);
    let slot = shape.slot;
    if e.target.facts.amx && slot.int_bits() == Some(8) {
        let code = x64_amx_scores::scores(slot, SCORE_STRIDE as i32);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| {
        let [keys, q, to, panels, q_stride, rows, room] = args else {
            unreachable!("seven parameters are declared")
        };
        let length = k.i64(if shape.ints() { 1 } else { slot.head as i64 });
        let (score_stride, none) = (k.i64(SCORE_STRIDE as i64), k.i64(0));
        k.each(k.i64(0), *panels, 1, |p| {
            let panel = *keys + p * slot.key_panel_bytes() as i64;
            let to = *to + p * (4 * PANEL_POSITIONS as i64);
            let args = [panel, *q, to, length, *q_stride, score_stride, none, *rows, *room];
            call_rows(k, &products.keys, &args);
        });
        k.ret(&[]);
    });
    f
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

/// The values of a block of positions.
struct Block<'k> {
    /// The first panel of the first columns.
    values: Val<'k>,
    /// Steps of the panel kernel: positions, or panels of them.
    length: Val<'k>,
    /// Whether nothing comes before it.
    is_first: Val<'k>,
}

/// One tile: q, out, bytes between rows of each, rows, positions seen by row 0, more per row, keys,
/// values, private memory.
fn tile_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], parts: &Parts) {
    let [q, out, q_stride, out_stride, m, seen, seen_step, keys, values, private] = args else {
        unreachable!("ten parameters are declared")
    };
    let shape = parts.shape;
    let at = shape.private();
    let [scores, weights, sums, kept, scales, room] =
        [at.scores, at.weights, at.values, at.kept, at.scales, at.room]
            .map(|offset| *private + offset as i64);
    let private = Private { scores, weights, values: sums, kept, scales, room };
    let most = *seen + (*m - 1) * *seen_step;
    let slot = shape.slot;
    let value_scales = *values + (slot.value_blocks() * slot.value_block_bytes()) as i64;
    k.each(k.i64(0), *m, 1, |t| {
        let kept = private.kept + t * running::BYTES as i64;
        kept.store(running::MAX, k.f32(running::NOTHING.0));
        kept.store(running::SUM, k.f32(running::NOTHING.1));
    });
    // Blocks wholly before the window of the first row are nobody's.
    let low = shape.window.map(|window| *seen - seen.umin(k.i64(window as i64)));
    let first_block = low.map_or_else(|| k.i64(0), |low| low & -(BLOCK as i64));
    k.each(first_block, most, BLOCK as i64, |start| {
        let positions = (most - start).umin(k.i64(BLOCK as i64));
        let panels = (positions + (PANEL_POSITIONS as i64 - 1)) / PANEL_POSITIONS as i64;
        let first = start / PANEL_POSITIONS as i64;
        let from = *keys + first * slot.key_panel_bytes() as i64;
        k.call(parts.scores, &[from, *q, private.scores, panels, *q_stride, *m, private.room]);
        cap_scores(k, parts, private.scores, *m, panels);
        let mut args = vec![private.scores, *m, *seen - start, *seen_step, positions, private.kept];
        if shape.ints() {
            widen_scales(k, value_scales + (start << 1), private.scales, panels);
            args.extend([private.scales, private.weights]);
        }
        k.call(parts.softmax, &args);
        // Before the first block there is nothing that a factor could change.
        k.if_(start.ne(first_block), || rescale(k, shape, &private, *m));
        let block = Block {
            values: *values + first * slot.value_panel_bytes() as i64,
            length: if shape.ints() { panels } else { positions },
            is_first: start.eq(first_block),
        };
        value_block(k, parts, &block, *m, &private);
    });
    k.each(k.i64(0), *m, 1, |t| {
        let sum = (private.kept + t * running::BYTES as i64).load(F32, running::SUM);
        let row = private.values + t * shape.value_stride() as i64;
        times(k, row, *out + t * *out_stride, slot.head * 4, k.f32(1.0) / sum);
    });
    k.ret(&[]);
}

/// Scores of whole panels through `softcap`, if they have a cap.
fn cap_scores<'k>(k: &'k Kernel<'k>, parts: &Parts, scores: Val<'k>, m: Val<'k>, panels: Val<'k>) {
    let (Some(softcap), Some(cap)) = (parts.softcap, parts.shape.cap) else { return };
    let [by, cap] = softcap_bits(k, f64::from(parts.shape.scale) / f64::from(cap), cap.into());
    let (stride, end) = (k.i64(SCORE_STRIDE as i64), panels * (4 * PANEL_POSITIONS as i64));
    k.call(softcap, &[scores, scores, m, stride, k.i64(0), end, by, cap]);
}

/// Scales of values in whole panels, f16 to f32.
fn widen_scales<'k>(k: &'k Kernel<'k>, from: Val<'k>, to: Val<'k>, panels: Val<'k>) {
    k.each(k.i64(0), panels * PANEL_POSITIONS as i64, 4, |i| {
        (to + (i << 2)).store(0, f16_to_f32((from + (i << 1)).load_s16x4(0)));
    });
}

/// Values of the blocks before, made smaller where the maximum of a row rose.
fn rescale<'k>(k: &'k Kernel<'k>, shape: Shape, private: &Private<Val<'k>>, m: Val<'k>) {
    k.each(k.i64(0), m, 1, |t| {
        let factor = (private.kept + t * running::BYTES as i64).load(F32, running::FACTOR);
        k.if_(factor.flt(k.f32(1.0)), || {
            let row = private.values + t * shape.value_stride() as i64;
            times(k, row, row, shape.value_stride(), factor);
        });
    });
}

/// `to = from · factor`.
fn times<'k>(k: &'k Kernel<'k>, from: Val<'k>, to: Val<'k>, bytes: u64, factor: Val<'k>) {
    let factor = factor.splat(F32X4);
    k.each(k.i64(0), k.i64(bytes as i64), 16, |i| {
        (to + i).store(0, (from + i).load(F32X4, 0) * factor);
    });
}

/// `values[t] += Σ_s weights[t][s] · v[s]` over a block, or without what was there before.
fn value_block<'k>(
    k: &'k Kernel<'k>,
    parts: &Parts,
    block: &Block<'k>,
    m: Val<'k>,
    private: &Private<Val<'k>>,
) {
    let (shape, slot) = (parts.shape, parts.shape.slot);
    let strides = [shape.weight_stride(), shape.value_stride()].map(|bytes| k.i64(bytes as i64));
    for at in 0..slot.value_blocks() as i64 {
        let panel = block.values + at * slot.value_block_bytes() as i64;
        let to = private.values + at * slot.value_width() as i64 * 4;
        let before = block.is_first.select(k.i64(0), to);
        let product = [panel, private.weights, to, block.length, strides[0], strides[1]];
        call_rows(k, parts.values, &[&product[..], &[before, m, private.room]].concat());
    }
}

/// Calls a panel kernel; those of floats want no room.
fn call_rows<'k>(k: &'k Kernel<'k>, f: &Func, args: &[Val<'k>]) {
    k.call(f, &args[..f.signature.params.len()]);
}

/// The plain reference, in f64: one query over all keys and values, `[positions][head]` each.
pub fn reference(shape: &Shape, q: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
    let head = q.len();
    let capped = |score: f64| match shape.cap.map(f64::from) {
        Some(cap) => cap * (score / cap).tanh(),
        None => score,
    };
    let dot = |key: &[f32]| -> f64 {
        q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let scores: Vec<f64> =
        keys.chunks(head).map(|key| capped(dot(key) * f64::from(shape.scale))).collect();
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0f64; head];
    for (weight, value) in weights.iter().zip(values.chunks(head)) {
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight / sum * f64::from(*v));
    }
    out.into_iter().map(|v| v as f32).collect()
}
