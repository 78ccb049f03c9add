//! `silu_mul` and `add`: `y = f(a, b)`, element by element.

use super::quant_rows;
use crate::asm::x64_rows;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::silu;
use cranelift_codegen::ir::types::*;

/// Emits `silu_mul`: `y = a / (1 + exp(-a)) · b`.
pub fn define_silu_mul(e: &mut Emitter) -> Func {
    define(e, "silu_mul", |a, b| silu(a) * b)
}

/// Emits `silu_mul` together with the `quant_rows` in groups of `group` that takes its result:
/// parameters gate, up, y (quantised rows), rows, x_stride, y_stride, first and end group.
pub fn define_silu_mul_quant(e: &mut Emitter, group: u64) -> Func {
    let f = e.declare(&format!("silu_mul_quant_g{group}"), &[I64; 8], &[]);
    if e.target.facts.avx512 && group <= x64_rows::GROUP_MAX {
        let code = x64_rows::silu_mul_quant(group);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| silu_mul_quant(k, args, group));
    f
}

fn silu_mul_quant<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], group: u64) {
    let [gate, up, y, rows, x_stride, y_stride, first, end] = args else {
        unreachable!("eight parameters are declared")
    };
    let (bytes, group_bytes) = (group as i64 * 4, quant_rows::group_bytes(group) as i64);
    let values = k.stack(group as u32 * 4);
    let (gate, up, y) = (k.var(*gate), k.var(*up), k.var(*y));
    k.each(k.i64(0), *rows, 1, |_| {
        k.each(*first, *end, 1, |g| {
            let (gate, up) = (gate.get() + g * bytes, up.get() + g * bytes);
            k.each(k.i64(0), k.i64(bytes), 16, |i| {
                let value = silu((gate + i).load(F32X4, 0)) * (up + i).load(F32X4, 0);
                (values + i).store(0, value);
            });
            let value = |i: Val<'k>| (values + i).load(F32X4, 0);
            quant_rows::one_group(k, &value, y.get() + g * group_bytes, group);
        });
        gate.set(gate.get() + *x_stride);
        up.set(up.get() + *x_stride);
        y.set(y.get() + *y_stride);
    });
    k.ret(&[]);
}

/// Emits `add`: `y = a + b`.
pub fn define_add(e: &mut Emitter) -> Func {
    define(e, "add", |a, b| a + b)
}

/// Parameters: a, b, y, rows, row stride in bytes, first and end byte of the columns in a row,
/// multiples of 16.
fn define(e: &mut Emitter, name: &str, f: impl for<'k> Fn(Val<'k>, Val<'k>) -> Val<'k>) -> Func {
    let function = e.declare(name, &[I64; 7], &[]);
    e.define(&function, Tuning::Optimised, |k, args| {
        let [a, b, y, rows, stride, first, end] = args else {
            unreachable!("seven parameters are declared")
        };
        let (a, b, y) = (k.var(*a), k.var(*b), k.var(*y));
        k.each(k.i64(0), *rows, 1, |_| {
            k.each(*first, *end, 16, |i| {
                let value = f((a.get() + i).load(F32X4, 0), (b.get() + i).load(F32X4, 0));
                (y.get() + i).store(0, value);
            });
            for row in [a, b, y] {
                row.set(row.get() + *stride);
            }
        });
        k.ret(&[]);
    });
    function
}

/// The plain reference of `silu_mul`, in f64.
pub fn silu_mul_reference(gate: f32, up: f32) -> f32 {
    let gate = f64::from(gate);
    (gate / (1.0 + (-gate).exp()) * f64::from(up)) as f32
}
