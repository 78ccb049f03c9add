//! Nested scales: a group's scale is a whole factor of the row's unit, its low end a whole number of
//! steps; see `IntFormat`.

use super::{Grid, ends};

/// The largest factor, zero point and integer: each takes 4 bits.
pub(super) const CODE_MAX: f32 = 15.0;
/// The largest whole multiple that an element may be: it is multiplied as int8.
const MULTIPLE_MAX: f32 = 127.0;

/// The step of a grid from `low` to `high`, both sides of 0.
pub(super) fn step(low: f32, high: f32) -> f32 {
    (high.max(0.0) - low.min(0.0)) / CODE_MAX
}

/// The zero point that a grid from `low` on wants.
fn zero(low: f32, step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { (-low.min(0.0) / step).clamp(0.0, CODE_MAX) }
}

/// The largest factor with a zero point.
fn factor_within(zero: f32) -> f32 {
    (MULTIPLE_MAX / zero.max(CODE_MAX - zero)).floor().min(CODE_MAX)
}

/// The largest factor of a group from `low` to `high`.
pub(super) fn factor_max(low: f32, high: f32) -> f32 {
    factor_within(zero(low, step(low, high)).round())
}

/// The grid of the smallest step from which no element of a group is further off than half of it,
/// as far as factors reach.
pub(crate) fn covering(x: &[f32], unit: f32) -> Grid {
    let (low, high) = ends(x);
    let mut grid = Grid::nested(unit, 0.0, 0.0);
    if unit == 0.0 || step(low, high) == 0.0 {
        return grid;
    }
    for factor in (1..=CODE_MAX as i32).map(|f| f as f32) {
        let step = factor * unit;
        let zero = zero(low, step).round();
        if factor > factor_within(zero) {
            continue;
        }
        grid = Grid::nested(unit, factor, zero);
        if low >= -(zero + 0.5) * step && high <= (CODE_MAX + 0.5 - zero) * step {
            break;
        }
    }
    grid
}

/// Grids around the one that covers a group: steps from a little larger to much smaller, each with
/// the zero points beside the best.
pub(super) fn candidates(x: &[f32], unit: f32) -> Vec<Grid> {
    let (low, high) = ends(x);
    let step = step(low, high);
    if unit == 0.0 || step == 0.0 {
        return vec![Grid::nested(unit, 0.0, 0.0)];
    }
    let exact = step / unit;
    let (first, last) = ((exact * 0.7).floor().max(1.0), (exact * 1.1).ceil());
    let mut grids = vec![];
    for factor in (first as i32..=last.min(CODE_MAX) as i32).map(|f| f as f32) {
        // What is cut off is cut off on both sides.
        let middle = CODE_MAX / 2.0 - (low.min(0.0) + high.max(0.0)) / 2.0 / (factor * unit);
        for zero in [-1.0, 0.0, 1.0].map(|d| (middle.round() + d).clamp(0.0, CODE_MAX)) {
            if factor <= factor_within(zero) {
                grids.push(Grid::nested(unit, factor, zero));
            }
        }
    }
    if grids.is_empty() { vec![covering(x, unit)] } else { grids }
}
