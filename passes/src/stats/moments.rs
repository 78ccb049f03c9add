//! Sums over rows: extremes, means and second moments per channel, and `E[x xᵀ]`.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};

/// Statistics of rows of one width.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Rows seen.
    pub rows: u64,
    /// Largest magnitude of each channel.
    pub absmax: Vec<f32>,
    /// Mean magnitude of each channel.
    pub abs_mean: Vec<f32>,
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Mean square of each channel.
    pub square: Vec<f32>,
    /// Smallest value of each channel.
    pub low: Vec<f32>,
    /// Largest value of each channel.
    pub high: Vec<f32>,
    /// `E[x xᵀ]`, `[width][width]`, if it was asked for.
    pub second: Option<Vec<f32>>,
}

impl Moments {
    /// Channels of a row.
    pub fn width(&self) -> usize {
        self.absmax.len()
    }

    /// The statistics of the rows of both.
    pub fn merge(self, more: &Moments) -> Moments {
        let rows = self.rows + more.rows;
        let share = more.rows as f32 / rows.max(1) as f32;
        let means = |a: &[f32], b: &[f32]| zip(a, b, |a, b| a + (b - a) * share);
        let second = self.second.as_deref().zip(more.second.as_deref());
        Moments {
            rows,
            absmax: zip(&self.absmax, &more.absmax, f32::max),
            abs_mean: means(&self.abs_mean, &more.abs_mean),
            mean: means(&self.mean, &more.mean),
            square: means(&self.square, &more.square),
            low: zip(&self.low, &more.low, f32::min),
            high: zip(&self.high, &more.high, f32::max),
            second: second.map(|(a, b)| means(a, b)),
        }
    }
}

fn zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

/// Rows being summed up.
pub struct Accumulator {
    width: usize,
    rows: u64,
    low: Vec<f32>,
    high: Vec<f32>,
    abs_sum: Vec<f64>,
    sum: Vec<f64>,
    squares: Vec<f64>,
    /// Lower triangle of `Σ x xᵀ`.
    second: Option<Vec<f32>>,
}

impl Accumulator {
    /// Nothing seen yet.
    pub fn new(width: usize, second: bool) -> Accumulator {
        Accumulator {
            width,
            rows: 0,
            low: vec![f32::INFINITY; width],
            high: vec![f32::NEG_INFINITY; width],
            abs_sum: vec![0.0; width],
            sum: vec![0.0; width],
            squares: vec![0.0; width],
            second: second.then(|| vec![0.0; width * width]),
        }
    }

    /// Adds rows, `[rows][width]`.
    pub fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.width) {
            for (c, &x) in row.iter().enumerate() {
                self.low[c] = self.low[c].min(x);
                self.high[c] = self.high[c].max(x);
                let x = f64::from(x);
                self.abs_sum[c] += x.abs();
                self.sum[c] += x;
                self.squares[c] += x * x;
            }
        }
        let count = rows.len() / self.width;
        self.rows += count as u64;
        if let Some(second) = &mut self.second {
            lower(second, rows, self.width);
        }
    }

    /// What was seen.
    pub fn finish(self) -> Moments {
        let (width, rows) = (self.width, self.rows.max(1) as f64);
        let means = |sums: &[f64]| sums.iter().map(|s| (s / rows) as f32).collect();
        let second = self.second.map(|mut second| {
            for i in 0..width {
                for j in 0..=i {
                    let mean = second[i * width + j] / rows as f32;
                    second[i * width + j] = mean;
                    second[j * width + i] = mean;
                }
            }
            second
        });
        Moments {
            rows: self.rows,
            absmax: zip(&self.low, &self.high, |l, h| l.abs().max(h.abs())),
            abs_mean: means(&self.abs_sum),
            mean: means(&self.sum),
            square: means(&self.squares),
            low: self.low,
            high: self.high,
            second,
        }
    }
}

/// `sum += xᵀ · x` of rows `x[n][width]`, the lower triangle only.
fn lower(sum: &mut [f32], x: &[f32], width: usize) {
    let rows = MatRef::from_row_major_slice(x, x.len() / width, width);
    triangular::matmul(
        MatMut::from_row_major_slice_mut(sum, width, width),
        BlockStructure::TriangularLower,
        Accum::Add,
        rows.transpose(),
        BlockStructure::Rectangular,
        rows,
        BlockStructure::Rectangular,
        1.0f32,
        Par::Seq,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_rows() {
        let rows = [1.0f32, -2.0, 3.0, 0.5, -1.0, 4.0];
        let mut sums = Accumulator::new(2, true);
        sums.add(&rows[..2]);
        sums.add(&rows[2..]);
        let m = sums.finish();
        assert_eq!((m.rows, m.width()), (3, 2));
        assert_eq!((m.low, m.high), (vec![-1.0, -2.0], vec![3.0, 4.0]));
        assert_eq!((m.absmax, m.mean), (vec![3.0, 4.0], vec![1.0, 2.5 / 3.0]));
        assert_eq!(m.abs_mean, [5.0 / 3.0, 6.5 / 3.0]);
        let expected = [11.0f32, -4.5, -4.5, 20.25].map(|x| x / 3.0);
        let second = m.second.expect("it was asked for");
        assert!(second.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{second:?}");
    }

    #[test]
    fn merged_moments_are_those_of_all_rows() {
        let rows: Vec<f32> = (0..24).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
        let of = |rows: &[f32]| {
            let mut sums = Accumulator::new(4, true);
            sums.add(rows);
            sums.finish()
        };
        let (merged, whole) = (of(&rows[..8]).merge(&of(&rows[8..])), of(&rows));
        assert_eq!((merged.rows, &merged.absmax), (whole.rows, &whole.absmax));
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&merged.square, &whole.square) && close(&merged.mean, &whole.mean));
        assert!(close(&merged.second.unwrap_or_default(), &whole.second.unwrap_or_default()));
    }
}
