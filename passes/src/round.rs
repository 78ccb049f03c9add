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
        Par::rayon(0),
    );
    let terms = change.iter().zip(&product).map(|(&d, &p)| f64::from(d) * f64::from(p));
    terms.sum::<f64>() / 2.0
}
