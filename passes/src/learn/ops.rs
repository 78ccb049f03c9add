//! Operations on rows of f32 and their gradients, on plain slices. Products are cut into fixed tiles,
//! so that the number of threads changes no bit.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ir::{Gate, Rope};
use rayon::prelude::*;

/// Tasks of a product.
const TILES: usize = 8;
/// Rows or columns that are not worth a task.
const TILE_MIN: usize = 96;

/// A view of rows of `width` floats.
pub(super) fn view(data: &[f32], width: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, data.len() / width, width)
}

/// `out[m][n] += a · b`, cut along the longer side of `out`.
pub(super) fn add_product(out: &mut [f32], n: usize, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let m = out.len() / n;
    let tile = m.max(n).div_ceil(TILES).max(TILE_MIN);
    let out = MatMut::from_row_major_slice_mut(out, m, n);
    let add = |out: MatMut<'_, f32>, a, b| matmul(out, Accum::Add, a, b, 1.0f32, Par::Seq);
    match m > n {
        true => out
            .par_row_chunks_mut(tile)
            .zip(a.par_row_chunks(tile))
            .for_each(|(out, a)| add(out, a, b)),
        false => out
            .par_col_chunks_mut(tile)
            .zip(b.par_col_chunks(tile))
            .for_each(|(out, b)| add(out, a, b)),
    }
}

/// `a · b`.
pub(super) fn product(a: MatRef<'_, f32>, b: MatRef<'_, f32>) -> Vec<f32> {
    let mut out = vec![0.0; a.nrows() * b.ncols()];
    add_product(&mut out, b.ncols(), a, b);
    out
}

/// `sum += more`.
pub(super) fn add(sum: &mut [f32], more: &[f32]) {
    sum.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
}

/// `rms_norm`: what one group is multiplied with.
fn factor(x: &[f32], eps: f64) -> f64 {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (squares / x.len() as f64 + eps).sqrt().recip()
}

/// `rms_norm`.
pub(super) fn rms_norm(x: &[f32], gain: Option<&[f32]>, group: usize, eps: f64) -> Vec<f32> {
    let one = |x: &[f32]| {
        let f = factor(x, eps) as f32;
        let gain = |i: usize| gain.map_or(1.0, |gain| gain[i]);
        x.iter().enumerate().map(|(i, x)| x * f * gain(i)).collect::<Vec<f32>>()
    };
    x.chunks(group).flat_map(one).collect()
}

/// Of `rms_norm`: `dx = f · (g·dy − x · f² · mean(x · g·dy))`.
pub(super) fn rms_norm_back(
    x: &[f32],
    gain: Option<&[f32]>,
    group: usize,
    eps: f64,
    dy: &[f32],
) -> Vec<f32> {
    let one = |(x, dy): (&[f32], &[f32])| {
        let f = factor(x, eps);
        let gain = |i: usize| gain.map_or(1.0, |gain| gain[i]);
        let dy: Vec<f64> = dy.iter().enumerate().map(|(i, dy)| f64::from(dy * gain(i))).collect();
        let dot: f64 = x.iter().zip(&dy).map(|(&x, dy)| f64::from(x) * dy).sum();
        let share = f * f * dot / group as f64;
        let dx = x.iter().zip(&dy).map(|(&x, dy)| (f * (dy - f64::from(x) * share)) as f32);
        dx.collect::<Vec<f32>>()
    };
    x.chunks(group).zip(dy.chunks(group)).flat_map(one).collect()
}

/// What the sigmoid of a gate is taken of, and its slope.
fn sigmoid_of(kind: Gate, g: f32) -> (f32, f32) {
    let [linear, cubic] = [Gate::GELU_LINEAR, Gate::GELU_CUBIC].map(|c| c as f32);
    match kind {
        Gate::Silu => (g, 1.0),
        Gate::Gelu => (g * (linear + cubic * g * g), linear + 3.0 * cubic * g * g),
    }
}

/// `silu_mul`, `gelu_mul`.
pub(super) fn gate_mul(kind: Gate, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let one = |(&g, &u): (&f32, &f32)| g / (1.0 + (-sigmoid_of(kind, g).0).exp()) * u;
    gate.iter().zip(up).map(one).collect()
}

/// Of `silu_mul`, `gelu_mul`: of the gate, of up.
pub(super) fn gate_mul_back(
    kind: Gate,
    gate: &[f32],
    up: &[f32],
    dy: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let one = |((&g, &u), &dy): ((&f32, &f32), &f32)| {
        let (x, slope) = sigmoid_of(kind, g);
        let s = 1.0 / (1.0 + (-x).exp());
        (dy * u * s * (1.0 + g * slope * (1.0 - s)), dy * g * s)
    };
    gate.iter().zip(up).zip(dy).map(one).unzip()
}

/// `scale`, and its gradient.
pub(super) fn scale(x: &[f32], by: f64) -> Vec<f32> {
    x.iter().map(|x| x * by as f32).collect()
}

/// `softcap` of one number.
fn capped(x: f32, cap: f64) -> f32 {
    let cap = cap as f32;
    cap * (x / cap).tanh()
}

/// Its slope where it is `y`.
fn slope_of_capped(y: f32, cap: f64) -> f32 {
    let share = y / cap as f32;
    1.0 - share * share
}

/// `softcap`.
pub(super) fn softcap(x: &[f32], cap: f64) -> Vec<f32> {
    x.iter().map(|&x| capped(x, cap)).collect()
}

/// Of `softcap`, by what it gave.
pub(super) fn softcap_back(y: &[f32], cap: f64, dy: &[f32]) -> Vec<f32> {
    y.iter().zip(dy).map(|(&y, dy)| dy * slope_of_capped(y, cap)).collect()
}

/// `rope` of rows at positions 0, 1, …; `back` turns the other way, which is its gradient.
pub(super) fn rope(x: &[f32], width: usize, rope: &Rope, back: bool) -> Vec<f32> {
    let frequencies = rope.frequencies();
    let half = frequencies.len();
    let mut out = x.to_vec();
    for (position, row) in out.chunks_mut(width).enumerate() {
        let turns: Vec<(f32, f32)> = frequencies
            .iter()
            .map(|f| (position as f32 * f).sin_cos())
            .map(|(sin, cos)| (if back { -sin } else { sin }, cos))
            .collect();
        for head in row.chunks_mut(2 * half) {
            for (i, (sin, cos)) in turns.iter().enumerate() {
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
    out
}

/// `exp` of it is nothing beside one.
const FAR: f32 = -30.0;

/// The shape of `attention`.
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub scale: f32,
    /// What scores stay below.
    pub cap: Option<f64>,
    /// Positions that are seen, the own one the last.
    pub window: usize,
}

impl Attention {
    fn columns<'m>(&self, rows: &'m [f32], heads: usize, at: usize) -> MatRef<'m, f32> {
        view(rows, heads * self.head).subcols(at * self.head, self.head)
    }

    /// Scores of one query head, `[T][T]`.
    fn scores(&self, q: &[f32], k: &[f32], at: usize) -> Vec<f32> {
        let kv = at / (self.heads / self.kv_heads);
        let (q, k) = (self.columns(q, self.heads, at), self.columns(k, self.kv_heads, kv));
        let count = q.nrows();
        let mut scores = vec![0f32; count * count];
        let out = MatMut::from_row_major_slice_mut(&mut scores, count, count);
        matmul(out, Accum::Replace, q, k.transpose(), self.scale, Par::Seq);
        if let Some(cap) = self.cap {
            scores.iter_mut().for_each(|score| *score = capped(*score, cap));
        }
        scores
    }

    /// Shares of one query head, `[T][T]`.
    fn shares(&self, q: &[f32], k: &[f32], at: usize) -> Vec<f32> {
        let mut scores = self.scores(q, k, at);
        let count = scores.len().isqrt();
        for (t, row) in scores.chunks_mut(count).enumerate() {
            let (seen, later) = row.split_at_mut(t + 1);
            let (before, seen) = seen.split_at_mut((t + 1).saturating_sub(self.window));
            let most = seen.iter().copied().fold(f32::MIN, f32::max);
            // What is far below the largest adds nothing in f32, and would be slow: denormal.
            let share = |s: f32| if s < FAR { 0.0 } else { s.exp() };
            seen.iter_mut().for_each(|s| *s = share(*s - most));
            let total: f32 = seen.iter().sum();
            seen.iter_mut().for_each(|s| *s /= total);
            before.fill(0.0);
            later.fill(0.0);
        }
        scores
    }

    /// `attention` of whole conversations: queries, keys and values of all positions.
    pub(super) fn run(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let width = self.heads * self.head;
        let one = |at: usize| {
            let kv = at / (self.heads / self.kv_heads);
            let shares = self.shares(q, k, at);
            let count = q.len() / width;
            let v = self.columns(v, self.kv_heads, kv);
            let mut out = vec![0f32; count * self.head];
            let to = MatMut::from_row_major_slice_mut(&mut out, count, self.head);
            matmul(to, Accum::Replace, view(&shares, count), v, 1.0f32, Par::Seq);
            out
        };
        let heads: Vec<Vec<f32>> = (0..self.heads).into_par_iter().map(one).collect();
        self.side_by_side(&heads)
    }

    /// Of `attention`: of queries, keys and values.
    pub(super) fn back(&self, q: &[f32], k: &[f32], v: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let count = q.len() / (self.heads * self.head);
        let each = self.heads / self.kv_heads;
        // The query heads of a head of keys one after the other, because they add up.
        let one = |kv: usize| {
            let (key, value) =
                (self.columns(k, self.kv_heads, kv), self.columns(v, self.kv_heads, kv));
            let mut dq = vec![];
            let (mut dk, mut dv) = (vec![0f32; count * self.head], vec![0f32; count * self.head]);
            for at in kv * each..(kv + 1) * each {
                let shares = self.shares(q, k, at);
                let dy = self.columns(dy, self.heads, at);
                add_product(&mut dv, self.head, view(&shares, count).transpose(), dy);
                let mut slope = product(dy, value.transpose());
                for (slope, shares) in slope.chunks_mut(count).zip(shares.chunks(count)) {
                    let dot: f32 = slope.iter().zip(shares).map(|(d, p)| d * p).sum();
                    let one = |(d, p): (&mut f32, &f32)| *d = p * (*d - dot) * self.scale;
                    slope.iter_mut().zip(shares).for_each(one);
                }
                if let Some(cap) = self.cap {
                    let scores = self.scores(q, k, at);
                    let one = |(d, score): (&mut f32, f32)| *d *= slope_of_capped(score, cap);
                    slope.iter_mut().zip(scores).for_each(one);
                }
                let slope = view(&slope, count);
                dq.push(product(slope, key));
                add_product(&mut dk, self.head, slope.transpose(), self.columns(q, self.heads, at));
            }
            (dq, dk, dv)
        };
        let all: Vec<_> = (0..self.kv_heads).into_par_iter().map(one).collect();
        let (mut dq, mut dk, mut dv) = (vec![], vec![], vec![]);
        for (queries, keys, values) in all {
            dq.extend(queries);
            dk.push(keys);
            dv.push(values);
        }
        [&dq, &dk, &dv].map(|heads| self.side_by_side(heads))
    }

    fn side_by_side(&self, heads: &[Vec<f32>]) -> Vec<f32> {
        let count = heads[0].len() / self.head;
        let row = |t: usize| heads.iter().flat_map(move |h| &h[t * self.head..][..self.head]);
        (0..count).flat_map(row).copied().collect()
    }
}

/// Mean divergence in nats of the distributions of logits `q` from those of `p`, and its gradient by
/// `q`.
pub(super) fn divergence(p: &[f32], q: &[f32], vocab: usize) -> (f64, Vec<f32>) {
    let rows = q.len() / vocab;
    let mut slope = vec![0f32; q.len()];
    let losses: Vec<f64> = (p.par_chunks(vocab), q.par_chunks(vocab), slope.par_chunks_mut(vocab))
        .into_par_iter()
        .map(|(p, q, slope)| {
            let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
            let mut loss = 0.0;
            for ((p, q), slope) in p.iter().zip(q).zip(slope) {
                let (log_p, log_q) = (p - p_norm, q - q_norm);
                loss += f64::from(log_p.exp() * (log_p - log_q));
                *slope = (log_q.exp() - log_p.exp()) / rows as f32;
            }
            loss
        })
        .collect();
    (losses.iter().sum::<f64>() / rows as f64, slope)
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from((x - most).exp())).sum();
    most + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::RopeScaling;
    use ir::random::mix;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        (0..count as u64)
            .map(|i| (mix(mix(seed) + i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect()
    }

    /// `gradient` against the difference of `f` for a small change of every element of `x`, all
    /// weighed by `dy`.
    fn check(x: &[f32], dy: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
        let value = |x: &[f32]| -> f64 { f(x).iter().zip(dy).map(|(y, d)| f64::from(y * d)).sum() };
        for i in 0..x.len() {
            let moved = |by: f32| {
                let mut x = x.to_vec();
                x[i] += by;
                value(&x)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 2e-3, "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn gradients_are_differences() {
        let (x, y, dy) = (noise(1, 32), noise(2, 32), noise(3, 32));
        let gain = noise(4, 16);
        let norm = |x: &[f32]| rms_norm(x, Some(&gain), 16, 1e-5);
        check(&x, &dy, &rms_norm_back(&x, Some(&gain), 16, 1e-5, &dy), norm);
        for kind in Gate::ALL {
            let (gate, up) = gate_mul_back(kind, &x, &y, &dy);
            check(&x, &dy, &gate, |x| gate_mul(kind, x, &y));
            check(&y, &dy, &up, |y| gate_mul(kind, &x, y));
        }
        check(&x, &dy, &softcap_back(&softcap(&x, 0.7), 0.7, &dy), |x| softcap(x, 0.7));
        let turn = Rope { head: 4, theta: 100.0, scaling: RopeScaling::None };
        check(&x, &dy, &rope(&dy, 8, &turn, true), |x| rope(x, 8, &turn, false));
        let (_, slope) = divergence(&x, &y, 8);
        check(&y, &[1.0], &slope, |y| vec![divergence(&x, y, 8).0 as f32]);
    }

    #[test]
    fn gradients_of_attention_are_differences() {
        for (window, cap) in [(2, None), (usize::MAX, None), (3, Some(0.5))] {
            let shape = Attention { heads: 4, kv_heads: 2, head: 4, scale: 0.5, window, cap };
            let (q, k, v, dy) = (noise(1, 80), noise(2, 40), noise(3, 40), noise(4, 80));
            let [dq, dk, dv] = shape.back(&q, &k, &v, &dy);
            check(&q, &dy, &dq, |q| shape.run(q, &k, &v));
            check(&k, &dy, &dk, |k| shape.run(&q, k, &v));
            check(&v, &dy, &dv, |v| shape.run(&q, &k, v));
        }
    }
}
