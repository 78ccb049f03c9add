//! Many rows on AArch64 with `i8mm`: eight at a time by `smmla`, from a panel of bytes.
//!
//! `smmla` multiplies two rows of eight bytes by two rows of eight bytes, where decoding wants four
//! bytes of four rows: two vectors of a panel become the two of `smmla` by `zip1` and `zip2`. So weights
//! are stored once, in the order of decoding, and a panel is put into the room of the worker once for
//! all rows of a chunk: its integers as bytes, which nested ones fit too after they are multiplied by
//! their factors. Rows of activations are put side by side in pairs there, once for the 32 rows of
//! a panel.

use super::planes::held;
use super::{Shape, bytes};
use crate::asm::a64_smmla::{self, ROWS};
use crate::builder::{Func, Kernel, Val, Var};
use crate::emit::{Emitter, Tuning};
use crate::kernels::panel::{PANEL_ROWS, many_rows};
use crate::kernels::quant_rows::{PART, group_bytes};
use cranelift_codegen::ir::types::*;

/// What multiplies rows by eight.
pub struct Smmla {
    shape: Shape,
    expand: Func,
    pair: Func,
    product: Func,
}

/// Whether a panel can be one of bytes whose groups have no scales of their own.
pub fn takes(shape: Shape) -> bool {
    shape.scales_per_row() && !shape.has_lows() && shape.group.is_multiple_of(8)
}

/// Bytes of the room: a panel of bytes; eight rows, and for each group of them their scales.
pub fn room_bytes(columns: u64) -> u64 {
    const LEAST_GROUP: u64 = 16;
    columns * PANEL_ROWS + columns / LEAST_GROUP * pairs_bytes(LEAST_GROUP)
}

/// Bytes of a group of eight rows, each scale twice.
fn pairs_bytes(group: u64) -> u64 {
    ROWS * group + ROWS * 8
}

/// Emits the parts.
pub fn define(e: &mut Emitter, name: &str, shape: Shape) -> Smmla {
    let expand = e.declare(&format!("{name}_expand"), &[I64; 3], &[]);
    e.define(&expand, Tuning::Optimised, |k, args| expand_body(k, args, shape));
    let pair = e.declare(&format!("{name}_pair"), &[I64; 4], &[]);
    e.define(&pair, Tuning::Optimised, |k, args| pair_body(k, args, shape.group));
    let product = e.declare(&format!("{name}_smmla"), &[I64; 7], &[]);
    let code = a64_smmla::rows(shape.group, shape.one_range);
    e.define_assembled(&product, &code.bytes, code.frame_bytes, code.text);
    Smmla { shape, expand, pair, product }
}

/// Rows by eight, the rest by kernels of fixed counts; the results are the same.
pub fn by_eight<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], parts: &Smmla, by_rows: &[(u64, Func)]) {
    let [w, x, y, groups, x_stride, y_stride, residual, rows, room] = args else {
        unreachable!("nine parameters are declared")
    };
    let shape = parts.shape;
    let after = |row: Val<'k>| residual.is(0).select(*residual, *residual + row * *y_stride);
    let whole = *rows & -(ROWS as i64);
    k.if_(whole.is_not(0), || {
        k.call(&parts.expand, &[*w, *room, *groups]);
        let pairs = *room + *groups * (shape.group * PANEL_ROWS) as i64;
        let scales = *w + *groups * (shape.step_bytes() + shape.factors_bytes()) as i64;
        k.each(k.i64(0), whole, ROWS as i64, |row| {
            k.call(&parts.pair, &[*x + row * *x_stride, pairs, *groups, *x_stride]);
            let y = *y + row * *y_stride;
            k.call(&parts.product, &[*room, pairs, y, *groups, *y_stride, after(row), scales]);
        });
    });
    let (x, y) = (*x + whole * *x_stride, *y + whole * *y_stride);
    let rest = [*w, x, y, *groups, *x_stride, *y_stride, after(whole), *rows - whole];
    many_rows(k, &rest, by_rows);
}

/// Parameters panel, bytes, groups. Bytes are in slices of four rows: of eight `k` two rows, then two.
fn expand_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape) {
    let [w, to, groups] = args else { unreachable!("three parameters are declared") };
    let to = k.var(*to);
    k.each(k.i64(0), k.i64(PANEL_ROWS as i64 / 4), 1, |slice| {
        let from = k.var(*w + slice * 16);
        let factors = k.var(*w + *groups * shape.step_bytes() as i64 + slice * 4);
        k.each(k.i64(0), *groups, 1, |_| {
            for at in (0..shape.group).step_by(8) {
                let [low, high] =
                    [at, at + 4].map(|at| integers(k, shape, at, from, factors).cast(I32X4));
                let place = (at * 4) as i32;
                to.get().store(place, low.shuffle32(high, [0, 4, 1, 5]));
                to.get().store(place + 16, low.shuffle32(high, [2, 6, 3, 7]));
            }
            to.set(to.get() + (shape.group * 4) as i64);
            from.set(from.get() + shape.step_bytes() as i64);
            factors.set(factors.get() + shape.factors_bytes() as i64);
        });
    });
    k.ret(&[]);
}

/// Integers `at..at + 4` of a group, of four rows, as signed bytes.
fn integers<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    at: u64,
    from: Var<'k>,
    factors: Var<'k>,
) -> Val<'k> {
    let whole = bytes(k, shape.format, at, &|line| from.get().load(I8X16, line as i32));
    if shape.nested() {
        let both = factors.get().load_u8x8((at / PART * PANEL_ROWS) as i32).uwiden_low();
        let four = |word: Val<'k>| (word * k.i32x4(0x0101_0101)).cast(I8X16);
        let (factor, zero) = (both & k.i32x4(15), both >> 4);
        // Eight bits hold the difference, whatever the products lose.
        return whole * four(factor) - four((factor * zero) & k.i32x4(255));
    }
    match held(shape.format, k.facts.arch).more {
        0 => whole,
        more => whole - k.vector(I8X16, &[more as u8; 16]),
    }
}

/// Parameters first of eight rows, pairs, groups, x_stride. Of eight `k` two rows, and so each pair;
/// after a group the scales of each pair, twice.
fn pair_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], group: u64) {
    let [x, to, groups, x_stride] = args else { unreachable!("four parameters are declared") };
    for pair in 0..ROWS as i64 / 2 {
        let rows = [0, 1].map(|i| k.var(*x + *x_stride * (2 * pair + i)));
        let to = k.var(*to + 16 * pair);
        k.each(k.i64(0), *groups, 1, |_| {
            for (row, place) in rows.iter().zip([0, 8]) {
                for at in (0..group).step_by(8) {
                    let eight = row.get().load(I64, at as i32);
                    to.get().store((ROWS * at) as i32 + place, eight);
                }
                let scale = row.get().load(F32, group as i32);
                let at = (ROWS * group) as i32 + place;
                to.get().store(at, scale);
                to.get().store(at + 4, scale);
                row.set(row.get() + group_bytes(group) as i64);
            }
            to.set(to.get() + pairs_bytes(group) as i64);
        });
    }
    k.ret(&[]);
}
