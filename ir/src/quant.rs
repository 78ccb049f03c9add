//! Numbers in integer formats: weights rounded to a format, and rows quantised as `quant_rows` does.
//!
//! The one definition of every rounding: packing, kernels' references and the interpreter use it.

mod fake;
pub(crate) mod nested;

pub use fake::{EXPONENT, FakeGrid};

use crate::op::RowRange;
use crate::types::{Codes, IntFormat};
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
    /// `[rows][columns]`: -8..8 or -128..128 without a low end; 0..16 or 0..256 with one; elements of
    /// a table.
    pub q: Vec<i16>,
    /// `[rows][groups]`, values of f16, or whole multiples of the row's unit.
    pub scales: Vec<f32>,
    /// `[rows][groups]`, values of f16, or whole multiples of the group's scale; empty without a low
    /// end.
    pub lows: Vec<f32>,
    /// `[rows]` units of nested scales, values of f16; else empty.
    pub units: Vec<f32>,
}

/// Scales that are tried around the one that just covers a group.
const TRIALS: i32 = 12;

impl Quantised {
    /// Rounds a matrix, each group by itself: of several scales the one with the least squared
    /// error, elements to nearest. The format must fit the columns.
    pub fn round(tensor: &Tensor, format: IntFormat) -> Quantised {
        Quantised::by_rows(tensor, format, |row| {
            let tried = Grids::tried(row, format).into_iter().map(|grids| grids.round(row));
            tried.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are units to try").1
        })
    }

    /// Rounds a matrix, each group by itself: the scale that just covers it, elements to nearest.
    pub fn nearest(tensor: &Tensor, format: IntFormat) -> Quantised {
        Quantised::by_rows(tensor, format, |row| {
            let grids = Grids::of(row, format);
            let group = format.group_of(row.len() as u64) as usize;
            let groups = row.chunks(group).map(|x| Group::on(grids.covering(x), x)).collect();
            Row { groups, unit: grids.unit }
        })
    }

    fn by_rows(
        tensor: &Tensor,
        format: IntFormat,
        round: impl Fn(&[f32]) -> Row + Sync + Send,
    ) -> Quantised {
        let dims = [tensor.dims[0], tensor.dims[1]];
        let rows: Vec<Row> = tensor.data.par_chunks(dims[1] as usize).map(round).collect();
        let groups = || rows.iter().flat_map(|row| &row.groups);
        let lows = if format.zero { groups().map(|g| g.low).collect() } else { vec![] };
        let units = if format.nested { rows.iter().map(|r| r.unit).collect() } else { vec![] };
        let scales = groups().map(|g| g.scale).collect();
        let q = groups().flat_map(|g| &g.q).copied().collect();
        Quantised { dims, format, q, scales, lows, units }
    }

    /// Factor and zero point of a group of nested scales: `at` counts groups of all rows.
    pub fn nested(&self, at: usize) -> (u8, u8) {
        let groups = (self.dims[1] / u64::from(self.format.group)) as usize;
        let (unit, scale, low) = (self.units[at / groups], self.scales[at], self.lows[at]);
        let whole = |x: f32, of: f32| if of == 0.0 { 0 } else { (x / of).round() as u8 };
        (whole(scale, unit), whole(-low, scale))
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

/// One row.
struct Row {
    groups: Vec<Group>,
    unit: f32,
}

/// One group.
struct Group {
    q: Vec<i16>,
    scale: f32,
    low: f32,
}

impl Group {
    fn on(grid: Grid, x: &[f32]) -> Group {
        let q = x.iter().map(|&x| grid.nearest(x) as i16).collect();
        Group { q, scale: grid.scale, low: grid.low }
    }
}

/// The grids that groups of one row may have.
#[derive(Clone, Copy, Debug)]
pub struct Grids {
    /// The format.
    pub format: IntFormat,
    /// What nested scales are multiples of, a value of f16; else 0.
    pub unit: f32,
}

impl Grids {
    /// The grids of a row: nested scales reach the group that spans most.
    pub fn of(row: &[f32], format: IntFormat) -> Grids {
        Grids::shrunk(row, format, 1.0)
    }

    fn shrunk(row: &[f32], format: IntFormat, by: f32) -> Grids {
        if !format.nested {
            return Grids { format, unit: 0.0 };
        }
        let spans = row.chunks(format.group as usize).map(|x| {
            let (low, high) = ends(x);
            // Whole multiples are of 8 bits: a group that leans to one side has a smaller factor.
            nested::step(low, high) / nested::factor_max(low, high)
        });
        let unit = spans.fold(0f32, f32::max) * by;
        Grids { format, unit: f16_value(unit) }
    }

    /// Grids that are tried for a row.
    fn tried(row: &[f32], format: IntFormat) -> Vec<Grids> {
        let units: &[f32] = if format.nested { &[1.0, 0.94, 0.88, 0.82] } else { &[1.0] };
        units.iter().map(|&by| Grids::shrunk(row, format, by)).collect()
    }

    /// Those that are tried for a group.
    pub fn candidates(self, x: &[f32]) -> Vec<Grid> {
        let format = self.format;
        let pairs = match (format.nested, format.zero) {
            (true, _) => return nested::candidates(x, self.unit),
            (false, true) => with_low(x, format),
            (false, false) => symmetric(x, format),
        };
        pairs.into_iter().map(|(scale, low)| Grid::stored(format, scale, low)).collect()
    }

    /// All groups of a row on their best grids, and the squared error.
    fn round(self, row: &[f32]) -> (f32, Row) {
        let group = self.format.group_of(row.len() as u64) as usize;
        let best = row.chunks(group).map(|x| {
            let errors = self.candidates(x).into_iter().map(|grid| (grid.error(x), grid));
            let best = errors.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are candidates");
            (best.0, Group::on(best.1, x))
        });
        let (errors, groups): (Vec<f32>, Vec<Group>) = best.unzip();
        (errors.iter().sum(), Row { groups, unit: self.unit })
    }
}

/// Smallest and largest element.
pub(crate) fn ends(x: &[f32]) -> (f32, f32) {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    (low, x.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// The values that a scale and a low end can express.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Between neighbours.
    pub scale: f32,
    inverse: f32,
    /// What the integer 0 stands for.
    pub low: f32,
    least: f32,
    most: f32,
    /// What `q` may be, in order, if not every integer of the range.
    table: Option<[f32; 16]>,
}

/// Adding and taking away `1.5 · 2^23` rounds a small float to the nearest integer, ties to even.
pub const ROUND: f32 = 12_582_912.0;
/// Partial sums, so that the compiler may use vectors.
pub(crate) const LANES: usize = 16;

impl Grid {
    /// The grid of nested scales: `factor · unit · (q - zero)`.
    pub(crate) fn nested(unit: f32, factor: f32, zero: f32) -> Grid {
        let scale = unit * factor;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        Grid { scale, inverse, low: -scale * zero, least: 0.0, most: nested::CODE_MAX, table: None }
    }

    /// The grid of a scale and a low end as they are.
    pub fn of(format: IntFormat, scale: f32, low: f32) -> Grid {
        let (least, most) = range(format);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        Grid { scale, inverse, low, least, most, table: sorted(format.codes) }
    }

    /// The grid of a scale and a low end, each rounded to f16 as it is stored.
    pub fn stored(format: IntFormat, scale: f32, low: f32) -> Grid {
        Grid::of(format, f16_value(scale), f16_value(low))
    }

    /// The integer nearest to `x`.
    pub fn nearest(self, x: f32) -> f32 {
        let q = (x - self.low) * self.inverse;
        // Bounded first: the trick needs small numbers.
        let q = q.max(self.least).min(self.most);
        match &self.table {
            Some(table) => nearest_of(table, q),
            None => (q + ROUND) - ROUND,
        }
    }

    /// What an integer of the range stands for.
    pub fn value(self, q: f32) -> f32 {
        self.scale * q + self.low
    }

    /// Sum of squared errors; the group is a multiple of 16 elements.
    fn error(self, x: &[f32]) -> f32 {
        let mut sums = [0f32; LANES];
        for x in x.chunks_exact(LANES) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                let e = x - (self.scale * self.nearest(x) + self.low);
                *sum += e * e;
            }
        }
        sums.iter().sum()
    }
}

/// The elements of a table in order.
fn sorted(codes: Codes) -> Option<[f32; 16]> {
    let Codes::Table(mut table) = codes else { return None };
    table.sort_unstable();
    Some(table.map(f32::from))
}

/// The element of a table that is nearest to `q`; the smaller of two that are equally near.
fn nearest_of(table: &[f32; 16], q: f32) -> f32 {
    let mut nearest = table[0];
    for i in 1..table.len() {
        let middle = (table[i - 1] + table[i]) * 0.5;
        nearest = if q > middle { table[i] } else { nearest };
    }
    nearest
}

/// Smallest and largest integer.
pub(crate) fn range(format: IntFormat) -> (f32, f32) {
    if let Some(table) = sorted(format.codes) {
        return (table[0], table[15]);
    }
    let codes = f32::from(1u16 << format.bits);
    if format.zero { (0.0, codes - 1.0) } else { (-codes / 2.0, codes / 2.0 - 1.0) }
}

/// Scales for a group without a low end. The range has one more negative integer than positive
/// ones, so a scale of either sign may put the largest element there. A table of floats has steps that
/// grow with magnitude, so the best scale may be far from the one that just covers the group.
fn symmetric(x: &[f32], format: IntFormat) -> Vec<(f32, f32)> {
    let (least, most) = range(format);
    let extreme = x.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    if format.bits == 8 {
        return vec![(extreme.abs() / most, 0.0)];
    }
    let full = extreme / if -least < most { most } else { least };
    let below = if format.codes == Codes::Whole { TRIALS / 2 } else { TRIALS };
    (-below..=TRIALS)
        .flat_map(|i| {
            let scale = full * (1.0 + i as f32 * 0.025);
            [(scale, 0.0), (-scale, 0.0)]
        })
        .collect()
}

/// Scales and low ends for a group that has both.
fn with_low(x: &[f32], format: IntFormat) -> Vec<(f32, f32)> {
    let (low, high) = ends(x);
    let (_, most) = range(format);
    let trials = if format.bits == 8 { 0 } else { TRIALS / 2 };
    // Few values stand for more if the outermost are not at the ends.
    let part = if format.bits == 2 { 0.03 } else { 0.01 };
    (-1..=trials)
        .flat_map(|a| (-1..=trials).map(move |b| (a, b)))
        .map(|(a, b)| {
            let width = high - low;
            let (from, to) = (low + width * part * a as f32, high - width * part * b as f32);
            ((to - from) / most, from)
        })
        .collect()
}

/// The nearest value of f16. Searches ask for very many, nearly all of them normal numbers.
fn f16_value(x: f32) -> f32 {
    const NORMAL: std::ops::Range<f32> = 6.2e-5..65504.0;
    if !NORMAL.contains(&x.abs()) {
        return f16::from_f32(x).to_f32();
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// One group of a row as `quant_rows` makes it: integers, scale, sum of the integers.
///
/// Plain f32 arithmetic in a fixed order, so that emitted code gives the same bits.
pub fn quant_group(x: &[f32]) -> (Vec<i8>, f32, i32) {
    quant_within(x, largest(x))
}

/// The same with a range that is given; what is beyond it becomes its end.
pub fn quant_within(x: &[f32], range: f32) -> (Vec<i8>, f32, i32) {
    let scale = range * (1.0 / 127.0);
    let inverse = if range > 0.0 { 127.0 / range } else { 0.0 };
    let round = |x: &f32| (x.max(-range).min(range) * inverse).round_ties_even() as i8;
    let q: Vec<i8> = x.iter().map(round).collect();
    let sum = q.iter().map(|&q| i32::from(q)).sum();
    (q, scale, sum)
}

/// Rows of `width` as `quant_rows` makes them, group by group; `fixed` is the range that is given.
pub fn quant_rows(
    x: &[f32],
    width: usize,
    group: usize,
    range: RowRange,
    fixed: Option<f32>,
) -> Vec<(Vec<i8>, f32, i32)> {
    let row = |row: &[f32]| -> Vec<(Vec<i8>, f32, i32)> {
        let whole = match range {
            RowRange::Group => None,
            RowRange::Row => Some(largest(row)),
            RowRange::Fixed => fixed,
        };
        let one = |x: &[f32]| quant_within(x, whole.unwrap_or_else(|| largest(x)));
        row.chunks(group).map(one).collect()
    };
    x.chunks(width).flat_map(row).collect()
}

/// The floats that the integers of `quant_rows` stand for.
pub fn quantised_rows(
    x: &[f32],
    width: usize,
    group: usize,
    range: RowRange,
    fixed: Option<f32>,
) -> Vec<f32> {
    let groups = quant_rows(x, width, group, range, fixed).into_iter();
    groups.flat_map(|(q, scale, _)| q.into_iter().map(move |q| f32::from(q) * scale)).collect()
}

/// The largest magnitude.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |m, x| m.max(x.abs()))
}

/// One head of a key or value as a cache of integers keeps it: integers of `bits`, and a scale that
/// is a value of f16 and puts the element of largest magnitude at the low end of the range.
///
/// Plain f32 arithmetic in a fixed order, so that emitted code gives the same bits.
pub fn cache_row(x: &[f32], bits: u8) -> (Vec<i8>, f32) {
    let largest = |sign: f32| x.iter().fold(f32::NEG_INFINITY, |m, x| m.max(x * sign));
    let (high, low) = (largest(1.0), largest(-1.0));
    let extreme = if high < low { -low } else { high };
    let half = f32::from(1u16 << (bits - 1));
    let limit = f16::MAX.to_f32();
    let scale = f16::from_f32((extreme * (-1.0 / half)).clamp(-limit, limit)).to_f32();
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let round = |x: &f32| (x * inverse).max(-half).min(half - 1.0).round_ties_even() as i8;
    (x.iter().map(round).collect(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_table_holds_is_kept_and_the_rest_goes_to_the_nearest() {
        for (name, table) in crate::types::TABLES {
            let format = IntFormat::from_name(&format!("{name}g32")).expect("a format");
            let data: Vec<f32> = table.iter().chain(table).map(|&v| f32::from(v) * 0.5).collect();
            let held = Tensor { dims: vec![1, 32], data };
            assert_eq!(Quantised::round(&held, format).dequantise(), held, "{name}");
            let grid = Grid::of(format, 0.25, 0.0);
            for x in (-140..=140).map(|i| i as f32 * 0.25 + 0.01) {
                let off = |value: i8| (x * 4.0 - f32::from(value)).abs();
                let least = table.iter().map(|&v| off(v)).fold(f32::INFINITY, f32::min);
                assert_eq!((x * 4.0 - grid.nearest(x)).abs(), least, "{name}: {x}");
            }
        }
    }

    #[test]
    fn scales_are_values_of_f16() {
        let near = |x: f32| {
            (-40..=40).map(move |i| f32::from_bits(x.to_bits().wrapping_add_signed(i * 77)))
        };
        let all = [6.1e-5, 6.3e-5, 1e-7, 0.01, 0.5, 1.0, 3.25, 2047.5, 65503.0, 65520.0, 0.0];
        for x in all.into_iter().flat_map(near).filter(|x| x.is_finite()) {
            for x in [x, -x] {
                assert_eq!(f16_value(x), f16::from_f32(x).to_f32(), "{x}");
            }
        }
    }
}
