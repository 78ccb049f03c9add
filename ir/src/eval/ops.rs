//! One function per operation, on plain slices. Shapes are the verifier's promise.

use crate::hadamard::Hadamard;
use crate::op::{Gate, Levels, Rope};
use crate::quant::{FakeGrid, cache_row, quant_group};
use crate::types::DType;
use crate::weights::Tensor;
use half::f16;
use rayon::prelude::*;
use std::ops::Range;

/// One slot of the KV cache, `[position][heads · head]` each.
#[derive(Clone, Default)]
pub(super) struct Slot {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
    /// `[position][heads]` scales of the values in a cache of integers; empty for floats.
    pub value_scales: Vec<f32>,
    pub heads: usize,
    pub width: usize,
}

impl Slot {
    /// `kv_append`: keys and values from a position on, as the type of the slot keeps them.
    pub fn append(&mut self, dtype: DType, start: usize, keys: &[f32], values: &[f32]) {
        self.truncate(start);
        let head = self.width / self.heads;
        self.keys.extend(keys.chunks(head).flat_map(|x| stored(dtype, x)));
        self.values.extend(values.chunks(head).flat_map(|x| stored(dtype, x)));
        if let DType::Int(format) = dtype {
            let scale = |x: &[f32]| cache_row(x, format.bits).1;
            self.value_scales.extend(values.chunks(head).map(scale));
        }
    }

    /// Forgets every position from this one on.
    pub fn truncate(&mut self, position: usize) {
        self.keys.truncate(position * self.width);
        self.values.truncate(position * self.width);
        self.value_scales.truncate(position * self.heads);
    }
}

/// What a cache of that type gives back of a head: f16 saturates, so that no score becomes infinite.
fn stored(dtype: DType, x: &[f32]) -> Vec<f32> {
    match dtype {
        DType::F16 => {
            let (least, most) = (f16::MIN.to_f32(), f16::MAX.to_f32());
            x.iter().map(|x| f16::from_f32(x.clamp(least, most)).to_f32()).collect()
        }
        DType::Int(format) => {
            let (q, scale) = cache_row(x, format.bits);
            q.into_iter().map(|q| f32::from(q) * scale).collect()
        }
        _ => x.to_vec(),
    }
}

pub(super) fn zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// `silu_mul`, `gelu_mul`.
pub(super) fn gate_mul(kind: Gate, gate: f32, up: f32) -> f32 {
    let gate = f64::from(gate);
    let x = match kind {
        Gate::Silu => gate,
        Gate::Gelu => gate * (Gate::GELU_LINEAR + Gate::GELU_CUBIC * gate * gate),
    };
    (gate / (1.0 + (-x).exp()) * f64::from(up)) as f32
}

/// `scale`.
pub(super) fn scale(x: &[f32], by: f64) -> Vec<f32> {
    x.iter().map(|&x| (f64::from(x) * by) as f32).collect()
}

/// `softcap`.
pub(super) fn softcap(x: &[f32], cap: f64) -> Vec<f32> {
    x.iter().map(|&x| capped(f64::from(x), cap) as f32).collect()
}

fn capped(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

/// `embed`.
pub(super) fn embed(tokens: &[i32], table: &Tensor) -> Vec<f32> {
    let width = table.dims[1] as usize;
    tokens.iter().flat_map(|&t| &table.data[t as usize * width..][..width]).copied().collect()
}

/// `rms_norm`.
pub(super) fn rms_norm(x: &[f32], gain: Option<&[f32]>, group: usize, eps: f64) -> Vec<f32> {
    let one = |x: &[f32]| -> Vec<f32> {
        let mean = dot(x, x) / group as f64;
        let factor = 1.0 / (mean + eps).sqrt();
        let gain = |i: usize| gain.map_or(1.0, |gain| f64::from(gain[i]));
        x.iter().enumerate().map(|(i, &x)| (f64::from(x) * factor * gain(i)) as f32).collect()
    };
    x.chunks(group).flat_map(one).collect()
}

/// `fake_quant`.
pub(super) fn fake_quant(x: &[f32], levels: Levels, group: usize, range: Option<f32>) -> Vec<f32> {
    let one = |x: &[f32]| {
        let grid = match range {
            Some(range) => FakeGrid::fixed(range, levels),
            None => FakeGrid::of(x, levels),
        };
        x.iter().map(|&x| grid.nearest(x)).collect::<Vec<f32>>()
    };
    x.chunks(group).flat_map(one).collect()
}

/// `hadamard`: each block of `size` by itself.
pub(super) fn hadamard(x: &[f32], size: u64) -> Vec<f32> {
    let matrix = Hadamard::new(size).expect("verified: V6");
    let one = |x: &[f32]| {
        let mut block: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        matrix.apply(&mut block);
        block.into_iter().map(|x| x as f32).collect::<Vec<f32>>()
    };
    x.par_chunks(size as usize).flat_map_iter(one).collect()
}

/// `linear`: all tokens for one row of the matrix, rows in parallel.
pub(super) fn linear(x: &[f32], w: &Tensor, bias: Option<&[f32]>) -> Vec<f32> {
    let (n, k) = (w.dims[0] as usize, w.dims[1] as usize);
    let tokens = x.len() / k;
    let mut columns = vec![0.0; n * tokens]; // [N][T]
    columns.par_chunks_mut(tokens).zip(w.data.par_chunks(k)).enumerate().for_each(
        |(row, (column, w))| {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
            for (y, x) in column.iter_mut().zip(x.chunks(k)) {
                *y = (dot(x, w) + bias) as f32;
            }
        },
    );
    (0..tokens * n).map(|i| columns[i % n * tokens + i / n]).collect()
}

/// `Σ a·b` in f64: eight sums of every eighth product, then the rest, then the eight in order.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a8.remainder().iter().zip(b8.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `rope`.
pub(super) fn rope(x: &[f32], positions: &[i32], width: usize, rope: &Rope) -> Vec<f32> {
    let frequencies = rope.frequencies();
    let half = frequencies.len();
    let mut out = x.to_vec();
    for (row, &position) in out.chunks_mut(width).zip(positions) {
        for head in row.chunks_mut(2 * half) {
            for (i, frequency) in frequencies.iter().enumerate() {
                (head[i], head[i + half]) = rotate(head[i], head[i + half], position, *frequency);
            }
        }
    }
    out
}

/// A pair turned by `position · frequency`; angle, sine and cosine are f32 as in Hugging Face.
fn rotate(a: f32, b: f32, position: i32, frequency: f32) -> (f32, f32) {
    let angle = f64::from(position as f32 * frequency);
    let (sin, cos) = (f64::from(angle.sin() as f32), f64::from(angle.cos() as f32));
    let (a, b) = (f64::from(a), f64::from(b));
    ((a * cos - b * sin) as f32, (b * cos + a * sin) as f32)
}

/// One head of a slot.
pub(super) struct KvHead<'s> {
    pub slot: &'s Slot,
    /// Where the head begins in a row.
    pub offset: usize,
    /// Width of the head.
    pub head: usize,
}

impl KvHead<'_> {
    fn of<'s>(&self, rows: &'s [f32], position: usize) -> &'s [f32] {
        &rows[position * self.slot.width + self.offset..][..self.head]
    }
}

/// What becomes of `q·kᵀ` before the softmax.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    pub scale: f64,
    pub cap: Option<f64>,
}

impl Scores {
    fn of(self, dot: f64) -> f64 {
        let score = dot * self.scale;
        self.cap.map_or(score, |cap| capped(score, cap))
    }
}

/// `softmax(q·kᵀ · scale) · v` of one query over positions `seen`.
pub(super) fn attend(
    query: &[f32],
    kv: &KvHead<'_>,
    seen: Range<usize>,
    scores: Scores,
    out: &mut [f32],
) {
    let score = |p| match seen.contains(&p) {
        true => scores.of(dot(query, kv.of(&kv.slot.keys, p))),
        false => f64::NEG_INFINITY,
    };
    let scores: Vec<f64> = (0..seen.end).map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut shares: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = shares.iter().sum();
    if !kv.slot.value_scales.is_empty() {
        round_shares(&mut shares, kv);
    }
    for (i, out) in out.iter_mut().enumerate() {
        let value = |p| f64::from(kv.of(&kv.slot.values, p)[i]);
        let sum: f64 = shares.iter().enumerate().map(|(p, share)| share * value(p)).sum();
        *out = (sum / total) as f32;
    }
}

/// Positions whose shares are rounded together where values are integers.
const SHARES: usize = 32;

/// Shares as a cache of integers multiplies them: each with the scale of its value, rounded to int8
/// in groups of 32 positions.
fn round_shares(shares: &mut [f64], kv: &KvHead<'_>) {
    let heads = kv.slot.heads;
    let scale = |p: usize| f64::from(kv.slot.value_scales[p * heads + kv.offset / kv.head]);
    for (g, group) in shares.chunks_mut(SHARES).enumerate() {
        let first = g * SHARES;
        let scaled = group.iter().enumerate().map(|(i, s)| (s * scale(first + i)) as f32);
        let (q, step, _) = quant_group(&scaled.collect::<Vec<f32>>());
        for (i, share) in group.iter_mut().enumerate() {
            let own = scale(first + i);
            let factor = if own == 0.0 { 0.0 } else { f64::from(step) / own };
            *share = f64::from(q[i]) * factor;
        }
    }
}
