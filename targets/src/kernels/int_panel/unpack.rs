//! A panel of integers times rows of f32: formats that hold weights only (`w4a16`, `w8a16`).
//!
//! The panel becomes one of f32 in the room of the worker, once for all rows of a chunk, and is then
//! multiplied as such: each element is what `Quantised::dequantise` says.

use super::planes::{self, Held};
use super::{SCALES_BYTES, Shape, bytes};
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows::PART;
use crate::math::f16_to_f32;
use cranelift_codegen::ir::types::*;

/// Bytes of the room for a panel of `columns` columns.
pub fn room_bytes(columns: u64) -> u64 {
    columns * PANEL_ROWS * 4
}

/// Emits the kernel over any number of rows of f32: the parameters of the integer panel kernel, groups
/// being those that the format is packed in; `floats` multiplies panels of f32.
pub fn define(e: &mut Emitter, shape: Shape, floats: &Func) -> Func {
    let name = format!("unpacked_panel_{}", shape.format);
    let unpack = e.declare(&format!("{name}_unpack"), &[I64; 3], &[]);
    e.define(&unpack, Tuning::Optimised, |k, args| body(k, args, shape));
    let rows = e.declare(&name, &[I64; 9], &[]);
    e.define(&rows, Tuning::Optimised, |k, args| {
        let [w, x, y, groups, x_stride, y_stride, residual, rows, room] = args else {
            unreachable!("nine parameters are declared")
        };
        k.call(&unpack, &[*w, *room, *groups]);
        let columns = *groups * shape.group as i64;
        k.call(floats, &[*room, *x, *y, columns, *x_stride, *y_stride, *residual, *rows]);
        k.ret(&[]);
    });
    rows
}

/// Parameters panel, floats `[k][32]`, groups.
fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape) {
    let [w, to, groups] = args else { unreachable!("three parameters are declared") };
    let factors = *w + *groups * shape.step_bytes() as i64;
    let end = factors + *groups * shape.factors_bytes() as i64;
    for first in (0..PANEL_ROWS).step_by(4) {
        k.each(k.i64(0), *groups, 1, |g| {
            let group = *w + g * shape.step_bytes() as i64;
            let set = match shape.scales_per_group() {
                true => group + shape.quads_bytes() as i64,
                false => end,
            };
            let halves = |at: u64| f16_to_f32((set + (first * 2) as i64).load_s16x4(at as i32));
            let (scale, low) = match (shape.nested(), shape.has_lows()) {
                (true, _) => {
                    let bytes = factors + (g * (shape.group / PART * PANEL_ROWS) as i64);
                    let both = (bytes + first as i64).load_u8x8(0).uwiden_low();
                    let scale = halves(0) * (both & k.i32x4(15)).to_float(F32X4);
                    (scale, Some(-(scale * (both >> 4).to_float(F32X4))))
                }
                (false, true) => (halves(0), Some(halves(SCALES_BYTES))),
                (false, false) => (halves(0), None),
            };
            let from = group + (first * 4) as i64;
            let to = *to + (g * (shape.group * PANEL_ROWS * 4) as i64 + (first * 4) as i64);
            quads(k, from, to, shape, scale, low);
        });
    }
    k.ret(&[]);
}

/// One group of four rows, a block of lines at a time.
fn quads<'k>(
    k: &'k Kernel<'k>,
    from: Val<'k>,
    to: Val<'k>,
    shape: Shape,
    scale: Val<'k>,
    low: Option<Val<'k>>,
) {
    let block = planes::block(shape.format);
    let step = 4 * PANEL_ROWS;
    let (from, to) = (k.var(from), k.var(to));
    let Held { signed, more } = planes::held(shape.format, k.facts.arch);
    k.each(k.i64(0), k.i64((shape.group / block) as i64), 1, |_| {
        for quad in (0..block).step_by(4) {
            let load = |at: u64| from.get().load(I8X16, at as i32);
            let words = bytes(k, shape.format, quad, &load).cast(I32X4);
            for i in 0..4 {
                let up = words << (24 - 8 * i);
                let q = if signed { up.sshr(24) } else { up >> 24 };
                let x = (q - k.i32x4(more as i32)).to_float(F32X4) * scale;
                let x = low.map_or(x, |low| x + low);
                to.get().store(((quad + i as u64) * step) as i32, x);
            }
        }
        from.set(from.get() + (block * PANEL_ROWS * u64::from(shape.format.bits) / 8) as i64);
        to.set(to.get() + (block * step) as i64);
    });
}
