//! `silu_mul` and `add`: `y = f(a, b)`, element by element.

use crate::builder::{Func, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::silu;
use cranelift_codegen::ir::types::*;

/// Emits `silu_mul`: `y = a / (1 + exp(-a)) · b`.
pub fn define_silu_mul(e: &mut Emitter) -> Func {
    define(e, "silu_mul", |a, b| silu(a) * b)
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
