//! `embed`: row `tokens[t]` of a table that is stored in panels, so that a tied head reads it too.

use super::panel::PANEL_ROWS;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::f16_to_f32;
use cranelift_codegen::ir::types::*;
use ir::DType;

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

fn load<'k>(at: Val<'k>, dtype: DType) -> Val<'k> {
    let half = || (at.load(I16, 0)).sext(I32);
    match dtype {
        DType::F32 => at.load(F32, 0),
        DType::BF16 => (half() << 16).cast(F32),
        DType::F16 => f16_to_f32(half().splat(I32X4)).lane(0),
        DType::I32 | DType::Int(_) => unreachable!("tables hold floats"),
    }
}
