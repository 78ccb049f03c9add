//! Eight rows of bytes times a panel of bytes by `smmla`, which multiplies two rows by two rows.
//!
//! Both operands are packed for it (`kernels/int_panel/smmla.rs`), so that nearly all instructions multiply or load
//! whole vectors. Parameters `x0` panel, `x1` activations, `x2` y, `x3` groups,
//! `x4` y_stride, `x5` residual or 0, `x6` scales of the panel's rows as halves. Registers that callers
//! keep are left alone.

use super::Code;
use super::a64::A64;
use crate::kernels::panel::PANEL_ROWS;

/// Rows of activations.
pub const ROWS: u64 = 8;
/// Pairs of them.
const PAIRS: u32 = ROWS as u32 / 2;
/// Rows of weights at a time, and their pairs.
const SLICE: u64 = 4;
const HALVES: u32 = SLICE as u32 / 2;

/// Registers of vectors: four of activations or their scales, two of weights or their scales, one
/// spare; the running sums and products of each pair by each pair.
const X: u32 = 0;
const W: u32 = X + PAIRS;
const SPARE: u32 = 6;
const SUM: u32 = 16;
const PRODUCT: u32 = 24;

/// Parameters.
const PANEL: u32 = 0;
const ACTIVATIONS: u32 = 1;
const Y: u32 = 2;
const GROUPS: u32 = 3;
const Y_STRIDE: u32 = 4;
const RESIDUAL: u32 = 5;
const SCALES: u32 = 6;
/// What is left of slices and groups; where activations, results and residual are read or written.
const SLICES_LEFT: u32 = 7;
const GROUPS_LEFT: u32 = 8;
const X_AT: u32 = 9;
const Y_AT: u32 = 10;
const RESIDUAL_AT: u32 = 11;

/// The kernel for activations in groups of `group`; with `one_range` those of a row have one scale.
pub fn rows(group: u64, one_range: bool) -> Code {
    let mut a = A64::default();
    a.number(SLICES_LEFT, (PANEL_ROWS / SLICE) as u32);
    let slice = a.here();
    let from = if one_range { PRODUCT } else { SUM };
    each(|i, _, _| a.zero(from + i));
    a.copy(X_AT, ACTIVATIONS);
    a.copy(GROUPS_LEFT, GROUPS);
    let next_group = a.here();
    if !one_range {
        each(|i, _, _| a.zero(PRODUCT + i));
    }
    products(&mut a, group);
    if !one_range {
        each(|i, _, _| a.scvtf(PRODUCT + i, PRODUCT + i));
        each(|i, x, _| a.fmla(SUM + i, PRODUCT + i, X + x));
    }
    a.less_one(GROUPS_LEFT, GROUPS_LEFT);
    a.again(next_group);
    if one_range {
        each(|i, _, _| a.scvtf(PRODUCT + i, PRODUCT + i));
        each(|i, x, _| a.fmul(SUM + i, PRODUCT + i, X + x));
    }
    scale(&mut a);
    a.unless_zero(RESIDUAL, |a| {
        add_residual(a);
        a.next(RESIDUAL, RESIDUAL);
    });
    write(&mut a);
    a.next(Y, Y);
    a.less_one(SLICES_LEFT, SLICES_LEFT);
    a.again(slice);
    a.finish()
}

/// Calls `f(place, pair of activations, pair of weights)`.
fn each(mut f: impl FnMut(u32, u32, u32)) {
    (0..PAIRS * HALVES).for_each(|i| f(i, i / HALVES, i % HALVES));
}

/// The products of a group, added to those before; then the scales of its activations in their place.
fn products(a: &mut A64, group: u64) {
    for _ in 0..group / 8 {
        activations(a);
        a.load_two(W, W + 1, PANEL);
        each(|i, x, w| a.smmla(PRODUCT + i, X + x, W + w));
    }
    activations(a);
}

/// The next vector of each pair.
fn activations(a: &mut A64) {
    (0..PAIRS).step_by(2).for_each(|x| a.load_two(X + x, X + x + 1, X_AT));
}

/// Sums times the scales of weight rows, as a vector for each row of activations in the registers of
/// products.
fn scale(a: &mut A64) {
    a.load_half(SPARE, SCALES);
    a.fcvtl(SPARE, SPARE);
    a.low_twice(W, SPARE);
    a.high_twice(W + 1, SPARE);
    each(|i, _, w| a.fmul(SUM + i, SUM + i, W + w));
    for row in (0..ROWS as u32).step_by(2) {
        a.zip1(PRODUCT + row, SUM + row, SUM + row + 1);
        a.zip2(PRODUCT + row + 1, SUM + row, SUM + row + 1);
    }
}

fn add_residual(a: &mut A64) {
    a.copy(RESIDUAL_AT, RESIDUAL);
    for row in PRODUCT..PRODUCT + ROWS as u32 {
        a.load(SPARE, RESIDUAL_AT);
        a.fadd(row, row, SPARE);
        a.add(RESIDUAL_AT, RESIDUAL_AT, Y_STRIDE);
    }
}

fn write(a: &mut A64) {
    a.copy(Y_AT, Y);
    for row in PRODUCT..PRODUCT + ROWS as u32 {
        a.store(row, Y_AT);
        a.add(Y_AT, Y_AT, Y_STRIDE);
    }
}
