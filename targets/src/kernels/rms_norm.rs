//! `rms_norm`: `y = x / sqrt(mean(x²) + eps) · gain`, over each group of a row.

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

/// Four chains of squares over four lanes each, then a tail of single elements; the order is the
/// same on every target.
fn one_group<'k>(k: &'k Kernel<'k>, x: Val<'k>, y: Val<'k>, gain: Val<'k>, shape: Shape) {
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
    let scale = k.f32(1.0) / mean.sqrt();
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

/// The plain reference, in f64, one group.
pub fn reference(x: &[f32], gain: Option<&[f32]>, eps: f32) -> Vec<f32> {
    let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
    let gain = |i: usize| gain.map_or(1.0, |g| f64::from(g[i]));
    x.iter().enumerate().map(|(i, &v)| (f64::from(v) * scale * gain(i)) as f32).collect()
}
