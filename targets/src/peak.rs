//! How many products of bytes a CPU makes at best: the bound on prefill, for `bench`.

use crate::asm::x64_peak;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::kernels::int_panel::unit;
use cranelift_codegen::ir::types::*;

/// Sums side by side.
const SUMS: usize = 8;

/// Emits `peak(rounds)` over the unit that the integer panel kernels use; operations of a round, a
/// product and its sum being two.
pub fn define(e: &mut Emitter) -> (Func, u64) {
    let f = e.declare("peak", &[I64], &[]);
    let amx = e.target.facts.amx;
    let unit = unit(&e.target.facts);
    if amx || unit.is_some() {
        let (code, ops) = x64_peak::peak(if amx { None } else { unit });
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return (f, ops);
    }
    e.define(&f, Tuning::Ordered, body);
    (f, 2 * 16 * SUMS as u64)
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>]) {
    // The sums are stored, and one operand is not known before, so that the loop stays.
    let at = k.stack(16);
    let (w, x) = (k.vector(I8X16, &[3; 16]), args[0].truncate(I32).splat(I32X4).cast(I8X16));
    let sums = k.vars(SUMS, k.i32x4(0));
    k.each(k.i64(0), args[0], 1, |_| {
        for sum in &sums {
            sum.set(sum.get().dot_i8(w, x));
        }
    });
    let all = sums.iter().fold(k.i32x4(0), |all, sum| all + sum.get());
    at.store(0, all);
    k.ret(&[]);
}
