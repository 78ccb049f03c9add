//! `linear`: panels `first..end` of `x · wᵀ + bias + residual`, for every row.

use super::panel::{PANEL_ROWS, Panel};
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;

/// Bytes of a panel's results in one row.
const PANEL_BYTES: i64 = 4 * PANEL_ROWS as i64;

/// Emits `linear` over one weight format: parameters w, x, y, bias or 0, residual or 0, k, x_stride,
/// y_stride, rows, first panel, end panel. A call gives at most one of bias and residual.
pub fn define(e: &mut Emitter, panel: &Panel) -> Func {
    let f = e.declare(&format!("linear_{}", panel.dtype), &[I64; 11], &[]);
    let panel = panel.clone();
    e.define(&f, Tuning::Optimised, |k, args| body(k, args, &panel));
    f
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], panel: &Panel) {
    let [w, x, y, bias, residual, length, x_stride, y_stride, rows, first, end] = args else {
        unreachable!("eleven parameters are declared")
    };
    let panel_bytes = *length * (panel.width * panel.dtype.bytes()) as i64;
    k.each(*first, *end, 1, |p| {
        let at = p * PANEL_BYTES;
        let to = *y + at;
        let add = k.choose(
            bias.is(0),
            || residual.is(0).select(*residual, *residual + at),
            || {
                broadcast(k, *bias + at, to, *y_stride, *rows);
                to
            },
        );
        let weights = *w + p * panel_bytes;
        k.call(&panel.rows, &[weights, *x, to, *length, *x_stride, *y_stride, add, *rows]);
    });
    k.ret(&[]);
}

/// Copies one panel of the bias into every row.
fn broadcast<'k>(k: &'k Kernel<'k>, bias: Val<'k>, y: Val<'k>, y_stride: Val<'k>, rows: Val<'k>) {
    let to = k.var(y);
    k.each(k.i64(0), rows, 1, |_| {
        for lane in (0..PANEL_BYTES as i32).step_by(16) {
            to.get().store(lane, bias.load(F32X4, lane));
        }
        to.set(to.get() + y_stride);
    });
}
