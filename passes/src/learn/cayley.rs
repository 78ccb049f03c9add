//! Steps along the manifold of orthogonal matrices (Cayley SGD, arXiv 2002.01113, as SpinQuant has
//! it), and back onto it.

use faer::{Mat, MatRef};

/// Rounds of the fixed-point iteration that stands for the inverse in the Cayley transform.
const ROUNDS: usize = 5;

/// One step from the rotation `r[n][n]` against the gradient `g`, however long that is: no channel
/// turns by more than about `rate`, in radians. A polar retraction follows, so that what the iteration
/// leaves of an error does not pile up.
pub(super) fn step(r: &mut [f32], g: &[f32], n: usize, rate: f64) {
    let to_f64 = |x: &[f32]| Mat::from_fn(n, n, |i, j| f64::from(x[i * n + j]));
    let (x, g) = (to_f64(r), to_f64(g));
    // The gradient along the manifold is `A · X` with `A` skew.
    let gx = &g * x.transpose();
    let xgx = x.as_ref() * (x.transpose() * &gx);
    let w = &gx - 0.5 * xgx;
    let a = &w - w.transpose();
    let alpha = rate / largest_column(a.as_ref()).max(f64::MIN_POSITIVE);
    let mut y = &x - alpha * (&a * &x);
    for _ in 0..ROUNDS {
        y = &x - (alpha / 2.0) * (&a * (&x + &y));
    }
    let y = orthogonal(y);
    for i in 0..n {
        for j in 0..n {
            r[i * n + j] = y[(i, j)] as f32;
        }
    }
}

fn largest_column(a: MatRef<'_, f64>) -> f64 {
    let column = |j: usize| a.col(j).iter().map(|x| x * x).sum::<f64>().sqrt();
    (0..a.ncols()).map(column).fold(0.0, f64::max)
}

/// The nearest orthogonal matrix to one that nearly is: Newton and Schulz' iteration of the polar
/// factor.
fn orthogonal(mut y: Mat<f64>) -> Mat<f64> {
    let n = y.nrows();
    for _ in 0..6 {
        let correction = 1.5 * Mat::<f64>::identity(n, n) - 0.5 * (y.transpose() * &y);
        y = &y * correction;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::random::signs;

    #[test]
    fn steps_stay_orthogonal_and_go_down() {
        let n = 12;
        let mut r = vec![0f32; n * n];
        (0..n).for_each(|i| r[i * n + i] = 1.0);
        let mut aim = r.clone();
        for seed in 0..8 {
            let g: Vec<f32> = signs(seed, n * n).into_iter().map(|s| s as f32).collect();
            step(&mut aim, &g, n, 0.2);
        }
        // How far the rotation is from another: its gradient is the difference.
        let loss = |r: &[f32]| -> f32 { r.iter().zip(&aim).map(|(a, b)| (a - b).powi(2)).sum() };
        let mut before = loss(&r);
        for _ in 0..60 {
            let g: Vec<f32> = r.iter().zip(&aim).map(|(a, b)| 2.0 * (a - b)).collect();
            step(&mut r, &g, n, 0.05);
            let now = loss(&r);
            assert!(now < before || now < 0.05, "{now} after {before}");
            before = now;
        }
        assert!(before < 0.05, "{before} is left");
        for i in 0..n {
            for j in 0..n {
                let dot: f32 = (0..n).map(|k| r[i * n + k] * r[j * n + k]).sum();
                assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-5, "{i} {j}: {dot}");
            }
        }
    }
}
