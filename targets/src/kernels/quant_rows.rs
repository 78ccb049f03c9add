//! `quant_rows`: rows of f32 to int8 in groups, as `ir::quant::quant_group` defines it.
//!
//! A quantised row is its groups one after another, each the integers and then a record: `f32`
//! scale, `i32` minus the sum of the integers, `f32` scale times the sum, `i32` minus 128 sums; in
//! groups of more than one part of 32 follow `i32` minus the sums of the parts, filled up to 16
//! bytes. A kernel that multiplies it needs one pointer, and what it reads for a group is together.

use crate::asm::x64_quant_rows;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;
use ir::RowRange;
use ir::types::NESTED_GROUP;

/// Elements whose sum nested scales want.
pub const PART: u64 = NESTED_GROUP as u64;
/// In a record: minus the sum of the integers.
pub const NEGATIVE_SUM: i32 = 4;
/// In a record: scale times the sum of the integers.
pub const SCALED_SUM: i32 = 8;

/// Parts that have sums of their own.
pub const fn parts(group: u64) -> u64 {
    if group.is_multiple_of(PART) && group > PART { group / PART } else { 0 }
}

/// Bytes of a group's record.
pub const fn record_bytes(group: u64) -> u64 {
    16 + (4 * parts(group)).next_multiple_of(16)
}

/// In a record: minus the sum of a part.
pub fn negative_part(group: u64, part: u64) -> i32 {
    if parts(group) == 0 { NEGATIVE_SUM } else { 16 + 4 * part as i32 }
}

/// In a record: minus 128 times the sum of the integers.
pub const NEGATIVE_SUM_128: i32 = 12;

/// Bytes of a group and its record.
pub const fn group_bytes(group: u64) -> u64 {
    group + record_bytes(group)
}

/// Bytes from one quantised row to the next.
pub fn row_stride(width: u64, group: u64) -> u64 {
    (width / group * group_bytes(group)).next_multiple_of(64)
}

/// Emits `quant_rows` for groups of `group`, a multiple of 16: parameters x, y, groups of a row,
/// rows, x_stride, y_stride, and where the range is fixed its address.
pub fn define(e: &mut Emitter, group: u64, range: RowRange) -> Func {
    let (name, params) = match range {
        RowRange::Group => (String::new(), 6),
        RowRange::Row => ("_row".into(), 6),
        RowRange::Fixed => ("_fixed".to_string(), 7),
    };
    let f = e.declare(&format!("quant_rows_g{group}{name}"), &vec![I64; params], &[]);
    if x64_quant_rows::fits(&e.target.facts, group) {
        let code = x64_quant_rows::quant_rows(e.target.facts.avx512, group, range);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| {
        let [x, y, groups, rows, x_stride, y_stride, given @ ..] = args else {
            unreachable!("six or seven parameters are declared")
        };
        let given = given.first().map(|range| range.load(F32, 0));
        let (x, y) = (k.var(*x), k.var(*y));
        k.each(k.i64(0), *rows, 1, |_| {
            let (from, to) = (k.var(x.get()), k.var(y.get()));
            let whole = match range {
                RowRange::Group => None,
                RowRange::Row => Some(largest(k, &floats(x.get()), *groups * (group as i64 * 4))),
                RowRange::Fixed => given,
            };
            k.each(k.i64(0), *groups, 1, |_| {
                let (value, y) = (floats(from.get()), to.get());
                match (whole, given.map(|end| end.splat(F32X4))) {
                    (None, _) => one_group(k, &value, y, group),
                    (Some(range), None) => group_within(k, &value, y, group, range),
                    (Some(range), Some(end)) => {
                        let within = |i| value(i).pmax(-end).pmin(end);
                        group_within(k, &within, y, group, range);
                    }
                }
                from.set(from.get() + group as i64 * 4);
                to.set(to.get() + group_bytes(group) as i64);
            });
            x.set(x.get() + *x_stride);
            y.set(y.get() + *y_stride);
        });
        k.ret(&[]);
    });
    f
}

/// The four floats at an offset from `x`.
fn floats<'k>(x: Val<'k>) -> impl Fn(Val<'k>) -> Val<'k> {
    move |i| (x + i).load(F32X4, 0)
}

/// The largest magnitude of the floats that `value` gives four of, at offsets up to `bytes`.
fn largest<'k>(k: &'k Kernel<'k>, value: &dyn Fn(Val<'k>) -> Val<'k>, bytes: Val<'k>) -> Val<'k> {
    let magnitude = |v: Val<'k>| (v.cast(I32X4) & k.i32x4(i32::MAX)).cast(F32X4);
    let largest = k.var(k.f32x4(0.0));
    k.each(k.i64(0), bytes, 16, |i| largest.set(largest.get().pmax(magnitude(value(i)))));
    largest.get().max_lanes()
}

/// One group to `y`; `value` gives the four floats at an offset in bytes of floats.
pub(super) fn one_group<'k>(
    k: &'k Kernel<'k>,
    value: &dyn Fn(Val<'k>) -> Val<'k>,
    y: Val<'k>,
    group: u64,
) {
    let range = largest(k, value, k.i64(group as i64 * 4));
    group_within(k, value, y, group, range);
}

/// One group whose values lie within a range.
fn group_within<'k>(
    k: &'k Kernel<'k>,
    value: &dyn Fn(Val<'k>) -> Val<'k>,
    y: Val<'k>,
    group: u64,
    range: Val<'k>,
) {
    let some = k.f32(0.0).flt(range);
    let inverse = some.select(k.f32(127.0) / range, k.f32(0.0)).splat(F32X4);
    let scale = range * (1.0 / 127.0);
    let sixteen = |i: Val<'k>| {
        let from = i << 2;
        let four = |j: i64| round(k, value(from + j * 16) * inverse);
        let all = [four(0), four(1), four(2), four(3)];
        let (low, high) = (all[0].snarrow(all[1]), all[2].snarrow(all[3]));
        (y + i).store(0, low.snarrow(high));
        (all[0] + all[1]) + (all[2] + all[3])
    };
    let sum = k.var(k.i32x4(0));
    if parts(group) == 0 {
        k.each(k.i64(0), k.i64(group as i64), 16, |i| sum.add(sixteen(i)));
    } else {
        k.each(k.i64(0), k.i64(group as i64), PART as i64, |i| {
            let part = sixteen(i) + sixteen(i + 16);
            sum.add(part);
            let at = y + ((i / PART as i64) << 2);
            at.store(group as i32 + negative_part(group, 0), -lanes(part));
        });
        let end = group + record_bytes(group);
        for at in (group + 16 + 4 * parts(group)..end).step_by(4) {
            y.store(at as i32, k.i32(0));
        }
    }
    let sum = lanes(sum.get());
    y.store(group as i32, scale);
    y.store(group as i32 + NEGATIVE_SUM, -sum);
    y.store(group as i32 + SCALED_SUM, scale * sum.to_float(F32));
    y.store(group as i32 + NEGATIVE_SUM_128, -(sum << 7));
}

/// The sum of four integers.
fn lanes(sums: Val<'_>) -> Val<'_> {
    (sums.lane(0) + sums.lane(1)) + (sums.lane(2) + sums.lane(3))
}

/// Four floats within ±2^22 to the nearest integers, ties to even: adding `1.5 · 2^23` leaves them
/// in the low bits.
fn round<'k>(k: &'k Kernel<'k>, x: Val<'k>) -> Val<'k> {
    let magic = k.f32x4(12_582_912.0);
    (x + magic).cast(I32X4) - magic.cast(I32X4)
}
