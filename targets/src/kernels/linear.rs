//! `linear`: panels `first..end` of `x · wᵀ + bias + residual`, for every row.

use super::int_panel::Shape;
use super::panel::{PANEL_ROWS, Panel};
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;

/// Bytes of a panel's results in one row.
const PANEL_BYTES: i64 = 4 * PANEL_ROWS as i64;

/// What `linear` runs over: the kernel of a panel and how far panels are apart.
#[derive(Clone)]
pub struct Panels {
    /// Its name in symbols.
    pub name: String,
    /// The kernel over any number of rows.
    pub rows: Func,
    /// Bytes of a panel for each of its steps: a `k` of floats, a group of integers.
    pub step_bytes: u64,
    /// Bytes of a panel beside its steps.
    pub end_bytes: u64,
}

impl Panels {
    /// Panels of floats.
    pub fn floats(panel: &Panel) -> Panels {
        Panels {
            name: panel.dtype.to_string(),
            rows: panel.rows.clone(),
            step_bytes: panel.width * panel.dtype.bytes(),
            end_bytes: 0,
        }
    }

    /// Panels of integers that multiply rows of floats.
    pub fn weights_only(shape: Shape, rows: Func) -> Panels {
        Panels { name: format!("{}_only", shape.format), ..Panels::ints(shape, rows) }
    }

    /// Panels of integers.
    pub fn ints(shape: Shape, rows: Func) -> Panels {
        Panels {
            name: shape.name(),
            rows,
            step_bytes: shape.panel_bytes(1) - shape.panel_bytes(0),
            end_bytes: shape.panel_bytes(0),
        }
    }
}

/// Emits `linear` over one kind of panels: parameters w, x, y, bias or 0, residual or 0, steps,
/// x_stride, y_stride, rows, first panel, end panel, room of this worker (see
/// `int_panel::room_bytes`). A call gives at most one of bias and residual.
pub fn define(e: &mut Emitter, panels: &Panels) -> Func {
    let f = e.declare(&format!("linear_{}", panels.name), &[I64; 12], &[]);
    e.define(&f, Tuning::Optimised, |k, args| body(k, args, panels));
    f
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], panels: &Panels) {
    let [w, x, y, bias, residual, length, x_stride, y_stride, rows, first, end, room] = args else {
        unreachable!("twelve parameters are declared")
    };
    let panel_bytes = *length * panels.step_bytes as i64 + panels.end_bytes as i64;
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
        let args = [weights, *x, to, *length, *x_stride, *y_stride, add, *rows, *room];
        // Kernels of floats want no room.
        k.call(&panels.rows, &args[..panels.rows.signature.params.len()]);
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
