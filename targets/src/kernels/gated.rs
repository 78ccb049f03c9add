//! `gated`: two products of the same rows, `silu_mul` or `gelu_mul` of them and `quant_rows`, a group at a time, so that
//! what stands between them stays in the cache.

use super::panel::PANEL_ROWS;
use super::quant_rows::group_bytes;
use crate::builder::Func;
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;

/// Whether results in groups of `group` can be made so: they are whole panels.
pub fn fits(group: u64) -> bool {
    group.is_multiple_of(PANEL_ROWS)
}

/// Bytes of the two products of a group, for up to `rows` rows.
pub fn products_bytes(rows: u64, group: u64) -> u64 {
    2 * rows * group * 4
}

/// Emits `gated` for results in groups of `group`, called `name`: parameters gate, up (matrices), x, y (quantised
/// rows), steps, x_stride, y_stride, rows, first group, end group, room of `linear`, products.
/// `linear` and `gate_mul_quant` are those of the panels and the group.
pub fn define(
    e: &mut Emitter,
    name: &str,
    group: u64,
    linear: &Func,
    gate_mul_quant: &Func,
) -> Func {
    let f = e.declare(name, &[I64; 12], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [gate, up, x, y, steps, x_stride, y_stride, rows, first, end, room, products] = args
        else {
            unreachable!("twelve parameters are declared")
        };
        let stride = k.i64(group as i64 * 4);
        let ups = *products + *rows * stride;
        let none = k.i64(0);
        k.each(*first, *end, 1, |g| {
            let (first, end) =
                (g * (group / PANEL_ROWS) as i64, (g + 1) * (group / PANEL_ROWS) as i64);
            for (matrix, to) in [(*gate, *products), (*up, ups)] {
                // `linear` counts panels from the first one of the matrix.
                let to = to - g * stride;
                let operands = [matrix, *x, to, none, none, *steps, *x_stride, stride];
                k.call(linear, &[&operands[..], &[*rows, first, end, *room]].concat());
            }
            let to = *y + g * group_bytes(group) as i64;
            let operands = [*products, ups, to, *rows, stride, *y_stride];
            k.call(gate_mul_quant, &[&operands[..], &[none, k.i64(1)]].concat());
        });
        k.ret(&[]);
    });
    f
}
