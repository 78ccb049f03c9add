//! `rope`: rotary position embedding in the half-split order, from a table of angles made once per
//! call of the library.

use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::sin_cos;
use cranelift_codegen::ir::types::*;
use cranelift_module::DataId;

/// Emits the table: `head/2` cosines then `head/2` sines per row, f32, of `position · frequency`
/// rounded to f32. Parameters: table, first row, end row, position of row 0. `frequencies` is
/// `f32[head/2]`.
pub fn define_table(e: &mut Emitter, name: &str, head: u64, frequencies: DataId) -> Func {
    let f = e.declare(name, &[I64; 4], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [table, first, end, position] = args else {
            unreachable!("four parameters are declared")
        };
        let half = (head / 2 * 4) as i64;
        let source = k.data(frequencies);
        k.each(*first, *end, 1, |row| {
            let to = *table + row * (2 * half);
            let at = (*position + row).to_float(F32);
            k.each(k.i64(0), k.i64(half), 4, |i| {
                let (sin, cos) = sin_cos(at * (source + i).load(F32, 0));
                (to + i).store(0, cos);
                (to + i + half).store(0, sin);
            });
        });
        k.ret(&[]);
    });
    f
}

/// Emits `rope` over rows of `width` in heads of `head`: parameters x, y, table, first row, end
/// row, row stride in bytes. `x` and `y` may be the same.
pub fn define(e: &mut Emitter, name: &str, width: u64, head: u64) -> Func {
    let f = e.declare(name, &[I64; 6], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [x, y, table, first, end, stride] = args else {
            unreachable!("six parameters are declared")
        };
        k.each(*first, *end, 1, |row| {
            let (from, to) = (*x + row * *stride, *y + row * *stride);
            let angles = *table + row * (head * 4) as i64;
            k.each(k.i64(0), k.i64(width as i64 * 4), head as i64 * 4, |at| {
                one_head(k, from + at, to + at, angles, head);
            });
        });
        k.ret(&[]);
    });
    f
}

fn one_head<'k>(k: &'k Kernel<'k>, x: Val<'k>, y: Val<'k>, angles: Val<'k>, head: u64) {
    let half = (head / 2 * 4) as i64;
    let (ty, step) = if head.is_multiple_of(8) { (F32X4, 16) } else { (F32, 4) };
    k.each(k.i64(0), k.i64(half), step, |i| {
        let (a, b) = ((x + i).load(ty, 0), (x + i).load(ty, half as i32));
        let (cos, sin) = ((angles + i).load(ty, 0), (angles + i).load(ty, half as i32));
        (y + i).store(0, a * cos - b * sin);
        (y + i).store(half as i32, b * cos + a * sin);
    });
}

/// The plain reference, one head: `angles` are `position · frequency`.
pub fn reference(x: &[f32], angles: &[f32]) -> Vec<f32> {
    let half = x.len() / 2;
    let mut y = vec![0f32; x.len()];
    for i in 0..half {
        let (sin, cos) = f64::from(angles[i]).sin_cos();
        let (sin, cos) = (sin as f32, cos as f32);
        y[i] = x[i] * cos - x[i + half] * sin;
        y[i + half] = x[i + half] * cos + x[i] * sin;
    }
    y
}
