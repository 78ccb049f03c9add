//! `silu_mul`, `gelu_mul`, `add`, `scale` and `softcap`, element by element.

use super::quant_rows;
use crate::asm::{x64_gate_mul, x64_quant_rows};
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::{gelu, silu, tanh};
use cranelift_codegen::ir::types::*;
use ir::Gate;

fn activation(gate: Gate, x: Val<'_>) -> Val<'_> {
    match gate {
        Gate::Silu => silu(x),
        Gate::Gelu => gelu(x),
    }
}

/// Emits `silu_mul` or `gelu_mul`: `y = act(a) · b`.
pub fn define_gate_mul(e: &mut Emitter, gate: Gate) -> Func {
    if e.target.facts.avx512 {
        let f = e.declare(gate.name(), &[I64; 7], &[]);
        let code = x64_gate_mul::gate_mul(gate);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    define(e, gate.name(), |a, b| activation(gate, a) * b)
}

/// Emits `silu_mul` or `gelu_mul` together with the `quant_rows` in groups of `group` that takes its
/// result: parameters gate, up, y (quantised rows), rows, x_stride, y_stride, first and end group.
pub fn define_gate_mul_quant(e: &mut Emitter, gate: Gate, group: u64) -> Func {
    let f = e.declare(&format!("{}_quant_g{group}", gate.name()), &[I64; 8], &[]);
    if x64_quant_rows::fits(&e.target.facts, group) {
        let code = x64_gate_mul::gate_mul_quant(e.target.facts.avx512, gate, group);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| gate_mul_quant(k, args, gate, group));
    f
}

fn gate_mul_quant<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], act: Gate, group: u64) {
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
                let gate = activation(act, (gate + i).load(F32X4, 0));
                let value = gate * (up + i).load(F32X4, 0);
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

/// Emits `scale`: `y = x · by`; the number is `by`.
pub fn define_scale(e: &mut Emitter) -> Func {
    define_unary(e, "scale", |x, [by]| x * by)
}

/// Emits `softcap`: `y = cap · tanh(x · by)`; the numbers are `by` and `cap`.
pub fn define_softcap(e: &mut Emitter) -> Func {
    define_unary(e, "softcap", |x, [by, cap]| cap * tanh(x * by))
}

/// Parameters: x, y, rows, row stride in bytes, first and end byte of the columns in a row,
/// multiples of 16, the bits of `N` numbers.
fn define_unary<const N: usize>(
    e: &mut Emitter,
    name: &str,
    f: impl for<'k> Fn(Val<'k>, [Val<'k>; N]) -> Val<'k>,
) -> Func {
    let function = e.declare(name, &vec![I64; 6 + N], &[]);
    e.define(&function, Tuning::Optimised, |k, args| {
        let [x, y, rows, stride, first, end, numbers @ ..] = args else {
            unreachable!("six parameters and more are declared")
        };
        let (x, y) = (k.var(*x), k.var(*y));
        let number = |n: usize| numbers[n].truncate(I32).cast(F32).splat(F32X4);
        let numbers = std::array::from_fn(number);
        k.each(k.i64(0), *rows, 1, |_| {
            k.each(*first, *end, 16, |i| {
                (y.get() + i).store(0, f((x.get() + i).load(F32X4, 0), numbers));
            });
            x.set(x.get() + *stride);
            y.set(y.get() + *stride);
        });
        k.ret(&[]);
    });
    function
}

/// Two numbers as `softcap` takes them: `by` and `cap`.
pub fn softcap_bits<'k>(k: &'k Kernel<'k>, by: f64, cap: f64) -> [Val<'k>; 2] {
    [by, cap].map(|x| k.i64((x as f32).to_bits().into()))
}

/// The plain reference of `silu_mul` and `gelu_mul`, in f64.
pub fn gate_mul_reference(kind: Gate, gate: f32, up: f32) -> f32 {
    let gate = f64::from(gate);
    let x = match kind {
        Gate::Silu => gate,
        Gate::Gelu => (8.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3)),
    };
    (gate / (1.0 + (-x).exp()) * f64::from(up)) as f32
}
