//! Scales that are searched for, site by site: those under which what a matrix and its rows lose
//! by rounding is least.
//!
//! Candidates are those of AWQ (arXiv 2306.00978), powers of a channel's mean magnitude, those of
//! SmoothQuant (2211.10438), and those of Outlier Suppression+ (2304.09145), which touch only channels
//! that reach beyond an end (the shifts of LLM-FP4, 2310.16836, are whole octaves of these); the loss is that of AQAS (EMNLP 2023), of weights and rows together. None at
//! all is among them.

use crate::factors::{beyond, power, smooth};
use crate::round::loss;
use crate::stats::Moments;
use ir::history::factor;
use ir::quant::Quantised;
use ir::{IntFormat, Levels, Tensor};
use rayon::prelude::*;

/// Powers of the mean magnitude; 0 is no scaling.
const POWERS: [f64; 8] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8];
/// Shares of the range. Fixed ranges want the largest: every row pays for the widest channel.
const ALPHAS: [f64; 6] = [0.3, 0.5, 0.7, 0.8, 0.9, 1.0];
/// Ends that are tried, each half an octave below the one before, from the widest channel down.
const ENDS: i32 = 14;
/// How many times its root mean square the largest element of a channel is taken to be, in a row.
const PEAK: f64 = 3.0;

/// A place where rows meet matrices.
pub struct Place<'a> {
    /// The matrices, each with the format it will have; `None` for floats.
    pub matrices: Vec<(Tensor, Option<IntFormat>)>,
    /// Of the rows, with `E[x xᵀ]`.
    pub moments: Moments,
    /// How rows are rounded; `None` for not at all.
    pub rows: Option<Rows>,
    /// One number for each factor, from one for each column: the largest of those that share it.
    pub fold: &'a (dyn Fn(&[f32]) -> Vec<f32> + Sync),
    /// One factor for each column.
    pub spread: &'a (dyn Fn(&[i8]) -> Vec<i8> + Sync),
}

/// How rows are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// To what.
    pub levels: Levels,
    /// Elements that share a range, 0 for the row.
    pub group: u32,
    /// Whether the range is that of all rows that were seen, not of each.
    pub fixed: bool,
}

impl Place<'_> {
    /// The best factors, in quarter octaves.
    pub fn search(&self) -> Vec<i8> {
        let (means, most) =
            ((self.fold)(&self.moments.abs_mean), (self.fold)(&self.moments.absmax));
        let columns = (self.fold)(&self.columns());
        let powers = POWERS.iter().map(|&p| power(p, &means));
        let shares = ALPHAS.iter().map(|&alpha| smooth(alpha, &most, &columns));
        let widest = most.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let ends = (1..=ENDS).map(|i| beyond(widest * (-0.5 * i as f32).exp2(), &most));
        let all: Vec<Vec<i8>> = powers.chain(shares).chain(ends).collect();
        let losses: Vec<f64> = all.par_iter().map(|quarters| self.loss(quarters)).collect();
        let best = losses.into_iter().zip(all).min_by(|a, b| a.0.total_cmp(&b.0));
        best.expect("there are candidates").1
    }

    /// The largest element of each column.
    fn columns(&self) -> Vec<f32> {
        let width = self.moments.width();
        let mut largest = vec![0f32; width];
        for row in self.matrices.iter().flat_map(|(w, _)| w.data.chunks(width)) {
            largest.iter_mut().zip(row).for_each(|(l, x)| *l = l.max(x.abs()));
        }
        largest
    }

    /// Half the mean squared error of all products.
    fn loss(&self, quarters: &[i8]) -> f64 {
        let factors: Vec<f32> = (self.spread)(quarters).iter().map(|&q| factor(q) as f32).collect();
        let rows = self.row_errors(&factors);
        let second = self.moments.second.as_deref().unwrap_or_default();
        let one = |(matrix, format): &(Tensor, Option<IntFormat>)| {
            let columns = factors.len();
            let squares = matrix.data.chunks(columns).flat_map(|row| row.iter().zip(&rows));
            let of_rows: f64 = squares.map(|(&w, e)| f64::from(w * w) * e).sum::<f64>() / 2.0;
            let Some(format) = format else { return of_rows };
            let mut change = matrix.data.clone();
            scale(&mut change, &factors, |x, s| x * s);
            let scaled = Tensor { dims: matrix.dims.clone(), data: change };
            let mut change = Quantised::nearest(&scaled, *format).dequantise().data;
            scale(&mut change, &factors, |x, s| x / s);
            change.iter_mut().zip(&matrix.data).for_each(|(x, w)| *x -= w);
            of_rows + loss(&change, second, columns)
        };
        self.matrices.iter().map(one).sum()
    }

    /// Mean squared error of each channel of the rows, as the matrix sees it.
    fn row_errors(&self, factors: &[f32]) -> Vec<f64> {
        let Some(Rows { levels, group, fixed }) = self.rows else {
            return vec![0.0; factors.len()];
        };
        let divided = |of: &[f32]| -> Vec<f64> {
            of.iter().zip(factors).map(|(&x, &s)| f64::from(x) / f64::from(s)).collect()
        };
        let squares = self.moments.square.iter().map(|x| x.sqrt()).collect::<Vec<f32>>();
        let squares = divided(&squares);
        let peaks = match fixed {
            true => divided(&self.moments.absmax),
            false => squares.iter().map(|x| x * PEAK).collect(),
        };
        let group = if group == 0 { factors.len() } else { group as usize };
        let errors = peaks.chunks(group).zip(squares.chunks(group)).flat_map(|(peaks, squares)| {
            let most = peaks.iter().copied().fold(0.0, f64::max);
            // What is far below a step becomes 0 and loses no more than itself.
            squares.iter().map(move |&x| (step(levels, most, x).powi(2) / 12.0).min(x * x))
        });
        errors.zip(factors).map(|(error, &s)| error * f64::from(s).powi(2)).collect()
    }
}

/// From one value to the next about `x`, where the largest is `most`.
fn step(levels: Levels, most: f64, x: f64) -> f64 {
    match levels {
        Levels::Even(bits) => most / f64::from((1u32 << (bits - 1)) - 1),
        Levels::Float { mantissa, .. } => {
            let octave = x.max(most / f64::from(levels.float_max()));
            octave * (-f64::from(mantissa)).exp2()
        }
    }
}

fn scale(data: &mut [f32], factors: &[f32], by: impl Fn(f32, f32) -> f32) {
    for row in data.chunks_mut(factors.len()) {
        row.iter_mut().zip(factors).for_each(|(x, &s)| *x = by(*x, s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Accumulator;
    use ir::random::mix;

    const COLUMNS: usize = 64;

    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let one = |i: u64| (mix(mix(seed) + i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..count as u64).map(one).collect()
    }

    fn place(loud: f32) -> Place<'static> {
        let mut sums = Accumulator::new(COLUMNS, true);
        let mut rows = noise(1, COLUMNS * 200);
        for row in rows.chunks_mut(COLUMNS) {
            row.iter_mut().step_by(16).for_each(|x| *x *= loud);
        }
        sums.add(&rows);
        let matrix = Tensor { dims: vec![32, COLUMNS as u64], data: noise(2, 32 * COLUMNS) };
        Place {
            matrices: vec![(matrix, IntFormat::from_name("i4g32"))],
            moments: sums.finish(),
            rows: Some(Rows { levels: Levels::Even(8), group: 32, fixed: false }),
            fold: &|x| x.to_vec(),
            spread: &|q| q.to_vec(),
        }
    }

    #[test]
    fn channels_that_say_more_are_rounded_finer() {
        let place = place(20.0);
        let (found, none) = (place.search(), vec![0; COLUMNS]);
        assert!(found[0] > found[1] && found[16] > found[17], "{found:?}");
        let (found, none) = (place.loss(&found), place.loss(&none));
        assert!(found < none * 0.7, "{found} against {none}");
    }

    #[test]
    fn a_fixed_range_moves_more_of_it_into_the_weights() {
        let spread = |place: &Place<'_>| {
            let found = place.search();
            found[0] - found[1]
        };
        let own = Place {
            rows: Some(Rows { levels: Levels::Even(8), group: 0, fixed: false }),
            ..place(200.0)
        };
        // One row in 200 has ten times the range of the others.
        let mut fixed = Place {
            rows: Some(Rows { levels: Levels::Even(8), group: 0, fixed: true }),
            ..place(200.0)
        };
        fixed.moments.absmax.iter_mut().step_by(16).for_each(|x| *x *= 10.0);
        assert!(spread(&fixed) > spread(&own), "{} and {}", spread(&fixed), spread(&own));
    }

    #[test]
    fn the_search_is_never_worse_than_no_scaling() {
        let place = place(1.0);
        assert!(place.loss(&place.search()) <= place.loss(&[0; COLUMNS]));
    }
}
