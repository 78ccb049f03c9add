//! `embed`: row `tokens[t]` of a table that is stored in panels, so that a tied head reads it too.

use super::int_panel::planes::{self, Held};
use super::int_panel::{self, SCALES_BYTES, Shape};
use super::panel::PANEL_ROWS;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::f16_to_f32;
use cranelift_codegen::ir::types::*;
use ir::{DType, IntFormat};

/// Emits `embed` over one table format: parameters table, tokens, y, rows, width, y_stride.
pub fn define(e: &mut Emitter, dtype: DType) -> Func {
    let f = e.declare(&format!("embed_{dtype}"), &[I64; 6], &[]);
    e.define(&f, Tuning::Optimised, |k, args| body(k, args, dtype));
    f
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], dtype: DType) {
    let [table, tokens, y, rows, width, y_stride] = args else {
        unreachable!("six parameters are declared")
    };
    let element = dtype.bytes() as i64;
    let step = PANEL_ROWS as i64 * element;
    let to = k.var(*y);
    k.each(k.i64(0), *rows, 1, |t| {
        let token = (*tokens + (t << 2)).load(I32, 0).uext(I64);
        let panel = token / PANEL_ROWS as i64;
        let lane = token & (PANEL_ROWS as i64 - 1);
        let from = k.var(*table + panel * (*width * step) + lane * element);
        k.each(k.i64(0), *width << 2, 4, |i| {
            (to.get() + i).store(0, load(from.get(), dtype));
            from.set(from.get() + step);
        });
        to.set(to.get() + *y_stride);
    });
    k.ret(&[]);
}

/// Emits `embed` over a table of integers: the same parameters.
pub fn define_int(e: &mut Emitter, format: IntFormat) -> Func {
    let f = e.declare(&format!("embed_{format}"), &[I64; 6], &[]);
    e.define(&f, Tuning::Optimised, |k, args| int_body(k, args, format));
    f
}

fn int_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], format: IntFormat) {
    let [table, tokens, y, rows, width, y_stride] = args else {
        unreachable!("six parameters are declared")
    };
    let to = k.var(*y);
    // With one group a row any step does; the scales follow the last.
    let shape = Shape::packed(format);
    let groups = *width / shape.group as i64;
    let panel_bytes =
        groups * (shape.step_bytes() + shape.factors_bytes()) as i64 + shape.panel_bytes(0) as i64;
    k.each(k.i64(0), *rows, 1, |t| {
        let token = (*tokens + (t << 2)).load(I32, 0).uext(I64);
        let lane = token & (PANEL_ROWS as i64 - 1);
        let panel = *table + token / PANEL_ROWS as i64 * panel_bytes;
        let sets = if shape.scales_per_group() { shape.quads_bytes() as i64 } else { 0 };
        let factors = panel + groups * shape.step_bytes() as i64;
        let end = factors + groups * shape.factors_bytes() as i64;
        k.each(k.i64(0), groups, 1, |g| {
            let group = panel + g * shape.step_bytes() as i64;
            let set = if shape.scales_per_group() { group + sets } else { end } + (lane << 1);
            let half = |at: i32| f16_to_f32(set.load(I16, at).sext(I32).splat(I32X4)).lane(0);
            let (scale, low) = match (shape.nested(), shape.has_lows()) {
                (true, _) => {
                    let byte = (factors + g * PANEL_ROWS as i64 + lane).load_byte(0);
                    let float = |x: Val<'k>| x.truncate(I32).to_float(F32);
                    let scale = half(0) * float(byte & 15);
                    (scale, -(scale * float(byte >> 4)))
                }
                (false, true) => (half(0), half(SCALES_BYTES as i32)),
                (false, false) => (half(0), k.f32(0.0)),
            };
            let out = to.get() + g * (shape.group * 4) as i64;
            int_group(k, group + (lane << 2), out, shape, scale, low);
        });
        to.set(to.get() + *y_stride);
    });
    k.ret(&[]);
}

/// One group of a row, a block of lines at a time: a word of each line belongs to the row.
fn int_group<'k>(
    k: &'k Kernel<'k>,
    from: Val<'k>,
    to: Val<'k>,
    shape: Shape,
    scale: Val<'k>,
    low: Val<'k>,
) {
    let block = planes::block(shape.format);
    let (from, to) = (k.var(from), k.var(to));
    let (scale, low) = (scale.splat(F32X4), low.splat(F32X4));
    let Held { signed, more } = planes::held(shape.format, k.facts.arch);
    k.each(k.i64(0), k.i64((shape.group / block) as i64), 1, |_| {
        for quad in (0..block).step_by(4) {
            let load = |at: u64| from.get().load(I32, at as i32).splat(I32X4).cast(I8X16);
            let four = int_panel::bytes(k, shape.format, quad, &load);
            let q = match signed {
                true => four.swiden_low().swiden_low(),
                false => four.uwiden_low().uwiden_low(),
            };
            let q = (q - k.i32x4(more as i32)).to_float(F32X4);
            to.get().store(4 * quad as i32, scale * q + low);
        }
        from.set(from.get() + (block * PANEL_ROWS * u64::from(shape.format.bits) / 8) as i64);
        to.set(to.get() + 4 * block as i64);
    });
}

fn load<'k>(at: Val<'k>, dtype: DType) -> Val<'k> {
    let half = || (at.load(I16, 0)).sext(I32);
    match dtype {
        DType::F32 => at.load(F32, 0),
        DType::BF16 => (half() << 16).cast(F32),
        DType::F16 => f16_to_f32(half().splat(I32X4)).lane(0),
        DType::I32 | DType::Int(_) => unreachable!("tables hold floats"),
    }
}
