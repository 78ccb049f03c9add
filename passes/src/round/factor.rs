//! Factors of second moments.

use faer::{Mat, Side};

/// Second moments made ready for rounding.
pub(super) struct Factor {
    /// Upper triangle `U[K][K]` with `Uᵀ U = (H + λ)⁻¹`, rows one after the other.
    pub(super) upper: Vec<f32>,
}

impl Factor {
    /// Of `second`, `[columns][columns]`, with its rows and columns in `order`; `damp` times the mean
    /// of the diagonal is added to it, and more if that does not make it definite.
    pub(super) fn new(second: &[f32], order: &[usize], damp: f64) -> Factor {
        let n = order.len();
        let diagonal = |i: usize| f64::from(second[order[i] * n + order[i]]);
        let mean = ((0..n).map(diagonal).sum::<f64>() / n as f64).max(f64::MIN_POSITIVE);
        let mut damp = damp.max(1e-6);
        loop {
            // Reversed, so that the inverse of the lower factor is the upper one that is wanted.
            let reversed = Mat::from_fn(n, n, |i, j| {
                let (i, j) = (n - 1 - i, n - 1 - j);
                let dead = i == j && diagonal(i) == 0.0;
                let x = f64::from(second[order[i] * n + order[j]]);
                x + if i == j { damp * mean } else { 0.0 } + if dead { mean } else { 0.0 }
            });
            if let Ok(cholesky) = reversed.llt(Side::Lower) {
                return Factor { upper: inverse_reversed(cholesky.L().to_owned()) };
            }
            damp *= 10.0;
        }
    }
}

/// `J · L⁻¹ · J`, row-major.
fn inverse_reversed(lower: Mat<f64>) -> Vec<f32> {
    let n = lower.nrows();
    let mut inverse = Mat::<f64>::identity(n, n);
    faer::linalg::triangular_solve::solve_lower_triangular_in_place(
        lower.as_ref(),
        inverse.as_mut(),
        faer::Par::rayon(0),
    );
    let mut upper = vec![0f32; n * n];
    for i in 0..n {
        for j in i..n {
            upper[i * n + j] = inverse[(n - 1 - i, n - 1 - j)] as f32;
        }
    }
    upper
}
