//! Numbers in integer formats: weights rounded to a format, and rows quantised as `quant_rows` does.
//!
//! The one definition of every rounding: packing, kernels' references and the interpreter use it.

use crate::types::IntFormat;
use crate::weights::Tensor;
use half::f16;
use rayon::prelude::*;

/// A matrix in an integer format.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// Rows and columns.
    pub dims: [u64; 2],
    /// The format.
    pub format: IntFormat,
    /// `[rows][columns]`: -8..8 or -128..128 without a low end; 0..16 or 0..256 with one.
    pub q: Vec<i16>,
    /// `[rows][groups]`, values of f16.
    pub scales: Vec<f32>,
    /// `[rows][groups]`, values of f16; empty without a low end.
    pub lows: Vec<f32>,
}

/// Scales that are tried around the one that just covers a group.
const TRIALS: i32 = 12;

impl Quantised {
    /// Rounds a matrix, each group by itself: of several scales the one with the least squared
    /// error, elements to nearest. The format must fit the columns.
    pub fn round(tensor: &Tensor, format: IntFormat) -> Quantised {
        let dims = [tensor.dims[0], tensor.dims[1]];
        let group = format.group_of(dims[1]) as usize;
        let groups: Vec<Group> =
            tensor.data.par_chunks(group).map(|x| Group::round(x, format)).collect();
        Quantised {
            dims,
            format,
            scales: groups.iter().map(|g| g.scale).collect(),
            lows: if format.zero { groups.iter().map(|g| g.low).collect() } else { vec![] },
            q: groups.into_iter().flat_map(|g| g.q).collect(),
        }
    }

    /// The matrix that the integers stand for.
    pub fn dequantise(&self) -> Tensor {
        let group = self.format.group_of(self.dims[1]) as usize;
        let mut data = vec![0f32; self.q.len()];
        for (i, (to, q)) in data.chunks_mut(group).zip(self.q.chunks(group)).enumerate() {
            let (scale, low) = (self.scales[i], self.lows.get(i).copied().unwrap_or(0.0));
            to.iter_mut().zip(q).for_each(|(x, &q)| *x = scale * f32::from(q) + low);
        }
        Tensor { dims: self.dims.to_vec(), data }
    }
}

/// One group.
struct Group {
    q: Vec<i16>,
    scale: f32,
    low: f32,
}

impl Group {
    fn round(x: &[f32], format: IntFormat) -> Group {
        let candidates = if format.zero { with_low(x, format) } else { symmetric(x, format) };
        let rounded = candidates.into_iter().map(|(scale, low)| Group::at(x, format, scale, low));
        let best = rounded.min_by(|a, b| a.1.total_cmp(&b.1));
        best.expect("there are candidates").0
    }

    /// The group at a scale and low end, with its squared error.
    fn at(x: &[f32], format: IntFormat, scale: f32, low: f32) -> (Group, f64) {
        let (scale, low) = (f16_value(scale), f16_value(low));
        let (least, most) = range(format);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let q: Vec<i16> = x
            .iter()
            .map(|&x| ((x - low) * inverse).round_ties_even().clamp(least, most) as i16)
            .collect();
        let error = x.iter().zip(&q).map(|(&x, &q)| {
            let e = f64::from(x) - f64::from(scale * f32::from(q) + low);
            e * e
        });
        let error = error.sum();
        (Group { q, scale, low }, error)
    }
}

/// Smallest and largest integer.
fn range(format: IntFormat) -> (f32, f32) {
    let codes = f32::from(1u16 << format.bits);
    if format.zero { (0.0, codes - 1.0) } else { (-codes / 2.0, codes / 2.0 - 1.0) }
}

/// Scales for a group without a low end. The range has one more negative integer than positive
/// ones, so a scale of either sign may put the largest element there.
fn symmetric(x: &[f32], format: IntFormat) -> Vec<(f32, f32)> {
    let (least, most) = range(format);
    let extreme = x.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    if format.bits == 8 {
        return vec![(extreme.abs() / most, 0.0)];
    }
    let full = extreme / least;
    (-TRIALS / 2..=TRIALS)
        .flat_map(|i| {
            let scale = full * (1.0 + i as f32 * 0.025);
            [(scale, 0.0), (-scale, 0.0)]
        })
        .collect()
}

/// Scales and low ends for a group that has both.
fn with_low(x: &[f32], format: IntFormat) -> Vec<(f32, f32)> {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (_, most) = range(format);
    let trials = if format.bits == 8 { 0 } else { TRIALS / 2 };
    (-1..=trials)
        .flat_map(|a| (-1..=trials).map(move |b| (a, b)))
        .map(|(a, b)| {
            let width = high - low;
            let (from, to) = (low + width * 0.01 * a as f32, high - width * 0.01 * b as f32);
            ((to - from) / most, from)
        })
        .collect()
}

fn f16_value(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// One group of a row as `quant_rows` makes it: integers, scale, sum of the integers.
///
/// Plain f32 arithmetic in a fixed order, so that emitted code gives the same bits.
pub fn quant_group(x: &[f32]) -> (Vec<i8>, f32, i32) {
    let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let scale = largest * (1.0 / 127.0);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let q: Vec<i8> = x.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
    let sum = q.iter().map(|&q| i32::from(q)).sum();
    (q, scale, sum)
}
