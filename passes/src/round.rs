//! Rounding with statistics: which integers lose least of what a matrix does to its rows.
//!
//! # What
//! A matrix `W[N, K]` becomes integers `Q` so that `tr((W − Q) · E[x xᵀ] · (W − Q)ᵀ)`, the mean
//! squared error of its product, is small.
//!
//! # Why it is exact (or how far off)
//! It is not: `loss` says how far.
//!
//! # Requires
//! Second moments of the rows that the matrix multiplies, in the basis that it ends up in.
//!
//! # Paper
//! GPTQ (arXiv 2210.17323); details as in the code that comes with SpinQuant.

mod factor;
mod gptq;

pub use gptq::{Gptq, gptq};

use factor::Factor;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// `½ tr(Δ · E[x xᵀ] · Δᵀ)`, half the mean squared error that a change `Δ[N][K]` of a matrix makes in
/// its product.
pub fn loss(change: &[f32], second: &[f32], columns: usize) -> f64 {
    let rows = change.len() / columns;
    let mut product = vec![0f32; change.len()];
    matmul(
        MatMut::from_row_major_slice_mut(&mut product, rows, columns),
        Accum::Replace,
        MatRef::from_row_major_slice(change, rows, columns),
        MatRef::from_row_major_slice(second, columns, columns),
        1.0f32,
        Par::Seq,
    );
    let terms = change.iter().zip(&product).map(|(&d, &p)| f64::from(d) * f64::from(p));
    terms.sum::<f64>() / 2.0
}

/// The share of what rounding to nearest loses that GPTQ loses, on one grid: the error of column `i`
/// weighs `1 / U[i][i]²` instead of `E[x[i]²]`, for the columns behind it make good the rest.
pub fn left_by_gptq(second: &[f32], columns: usize) -> f64 {
    let order: Vec<usize> = (0..columns).collect();
    let factor = Factor::new(second, &order, Gptq::default().damp);
    let diagonal = |of: &[f32], i: usize| f64::from(of[i * columns + i]);
    let nearest: f64 = (0..columns).map(|i| diagonal(second, i)).sum();
    let left: f64 = (0..columns).map(|i| diagonal(&factor.upper, i).powi(-2)).sum();
    (left / nearest.max(f64::MIN_POSITIVE)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Accumulator;
    use ir::quant::Quantised;
    use ir::random::mix;
    use ir::{IntFormat, Tensor};

    #[test]
    fn what_gptq_leaves_is_foretold() {
        const COLUMNS: usize = 64;
        let noise = |seed: u64, count: u64| -> Vec<f32> {
            let one = |i| (mix(mix(seed) + i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            (0..count).map(one).collect()
        };
        // Neighbours are alike.
        let mut rows = noise(1, 400 * COLUMNS as u64);
        for row in rows.chunks_mut(COLUMNS) {
            (1..COLUMNS).for_each(|i| row[i] = 0.9 * row[i - 1] + 0.4 * row[i]);
        }
        let mut sums = Accumulator::new(COLUMNS, true);
        sums.add(&rows);
        let second = sums.finish().second.expect("it was asked for");
        let tensor = Tensor { dims: vec![64, COLUMNS as u64], data: noise(2, 64 * COLUMNS as u64) };
        let lost = |rounded: Quantised| {
            let changed = rounded.dequantise().data;
            let change: Vec<f32> = changed.iter().zip(&tensor.data).map(|(a, b)| a - b).collect();
            loss(&change, &second, COLUMNS)
        };
        let format = IntFormat::symmetric(4, 32);
        let found = lost(gptq(&tensor, &second, format, Gptq::default()))
            / lost(Quantised::round(&tensor, format));
        let foretold = left_by_gptq(&second, COLUMNS);
        assert!(foretold < 0.6 && (found / foretold - 1.0).abs() < 0.3, "{found}, {foretold}");
    }
}
