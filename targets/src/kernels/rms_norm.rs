//! `rms_norm`: `y = x / sqrt(mean(x²) + eps) · gain`, over each group of a row.

use super::quant_rows;
use crate::asm::{x64_quant_rows, x64_rms_norm};
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;

/// What one kernel is specialised for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Elements of a row.
    pub width: u64,
    /// Elements of a group.
    pub group: u64,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Whether a gain multiplies.
    pub gain: bool,
}

/// Emits `rms_norm`: parameters x, y, gain (`[group]` f32, or 0), rows, row stride in bytes.
pub fn define(e: &mut Emitter, name: &str, shape: Shape) -> Func {
    let f = e.declare(name, &[I64; 5], &[]);
    if e.target.facts.avx2 && shape.group.is_multiple_of(16) {
        let code = x64_rms_norm::rms_norm(e.target.facts.avx512, shape);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| body(k, args, shape));
    f
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape) {
    let [x, y, gain, rows, stride] = args else { unreachable!("five parameters are declared") };
    let (x, y) = (k.var(*x), k.var(*y));
    let group_bytes = (shape.group * 4) as i64;
    k.each(k.i64(0), *rows, 1, |_| {
        let groups = k.i64((shape.width / shape.group) as i64 * group_bytes);
        k.each(k.i64(0), groups, group_bytes, |at| {
            one_group(k, x.get() + at, y.get() + at, *gain, shape);
        });
        x.set(x.get() + *stride);
        y.set(y.get() + *stride);
    });
    k.ret(&[]);
}

fn one_group<'k>(k: &'k Kernel<'k>, x: Val<'k>, y: Val<'k>, gain: Val<'k>, shape: Shape) {
    let scale = scale(k, x, shape);
    let lanes = scale.splat(F32X4);
    let vectors = (shape.group / 4 * 4) as i64;
    k.each(k.i64(0), k.i64(vectors * 4), 16, |i| {
        let v = (x + i).load(F32X4, 0) * lanes;
        let v = if shape.gain { v * (gain + i).load(F32X4, 0) } else { v };
        (y + i).store(0, v);
    });
    k.each(k.i64(vectors * 4), k.i64(shape.group as i64 * 4), 4, |i| {
        let v = (x + i).load(F32, 0) * scale;
        let v = if shape.gain { v * (gain + i).load(F32, 0) } else { v };
        (y + i).store(0, v);
    });
}

/// `1 / sqrt(mean(x²) + eps)`: four chains of squares over four lanes each, then a tail of single
/// elements; the order is the same on every target.
fn scale<'k>(k: &'k Kernel<'k>, x: Val<'k>, shape: Shape) -> Val<'k> {
    let whole = (shape.group / 16 * 16) as i64;
    let sums = k.vars(4, k.f32x4(0.0));
    k.each(k.i64(0), k.i64(whole * 4), 64, |i| {
        for (j, sum) in sums.iter().enumerate() {
            let v = (x + i).load(F32X4, j as i32 * 16);
            sum.fma(v, v);
        }
    });
    let pairs = (sums[0].get() + sums[1].get()) + (sums[2].get() + sums[3].get());
    let total = k.var(pairs.sum_lanes());
    k.each(k.i64(whole * 4), k.i64(shape.group as i64 * 4), 4, |i| {
        let v = (x + i).load(F32, 0);
        total.fma(v, v);
    });
    let mean = total.get() / (shape.group as f32) + shape.eps;
    k.f32(1.0) / mean.sqrt()
}

/// Emits `rms_norm` of whole rows together with the `quant_rows` in groups of `group` that takes its
/// result: parameters x, y (quantised rows), gain (or 0), rows, x_stride, y_stride.
pub fn define_quant(e: &mut Emitter, name: &str, shape: Shape, group: u64) -> Func {
    let f = e.declare(name, &[I64; 6], &[]);
    if x64_quant_rows::fits(&e.target.facts, group) {
        let code = x64_rms_norm::rms_norm_quant(e.target.facts.avx512, shape, group);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
        return f;
    }
    e.define(&f, Tuning::Optimised, |k, args| quant_body(k, args, shape, group));
    f
}

fn quant_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape, group: u64) {
    let [x, y, gain, rows, x_stride, y_stride] = args else {
        unreachable!("six parameters are declared")
    };
    let (x, y) = (k.var(*x), k.var(*y));
    k.each(k.i64(0), *rows, 1, |_| {
        let lanes = scale(k, x.get(), shape).splat(F32X4);
        let to = k.var(y.get());
        k.each(k.i64(0), k.i64(shape.width as i64 * 4), group as i64 * 4, |at| {
            let (x, gain) = (x.get() + at, *gain + at);
            let value = |i: Val<'k>| {
                let v = (x + i).load(F32X4, 0) * lanes;
                if shape.gain { v * (gain + i).load(F32X4, 0) } else { v }
            };
            quant_rows::one_group(k, &value, to.get(), group);
            to.set(to.get() + quant_rows::group_bytes(group) as i64);
        });
        x.set(x.get() + *x_stride);
        y.set(y.get() + *y_stride);
    });
    k.ret(&[]);
}

/// The plain reference, in f64, one group.
pub fn reference(x: &[f32], gain: Option<&[f32]>, eps: f32) -> Vec<f32> {
    let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    let gain = |i: usize| gain.map_or(1.0, |g| f64::from(g[i]));
    x.iter().enumerate().map(|(i, &v)| (f64::from(v) * scale * gain(i)) as f32).collect()
}
