//! `y[t][r] = Σ_k w[k][r] · x[t][k] (+ residual[t][r])`: rows of activations times one panel.
//!
//! A panel is `width` weight rows stored k-major: for each `k`, `width` neighbouring elements.
//! Lanes are weight rows, so there are no horizontal sums. Every element of `y` is one chain of
//! fused multiply-adds over `k` in order, whichever kernel computes it: that is what makes results
//! equal bit for bit between decode, prefill, any chunking, any number of workers, and the
//! assembled kernels.

use crate::asm;
use crate::builder::{Func, Kernel, Val, Var};
use crate::emit::{Emitter, Tuning};
use crate::math::f16_to_f32;
use crate::target::Arch;
use cranelift_codegen::ir::types::*;
use ir::DType;

/// Weight rows in a panel of a matrix.
pub const PANEL_ROWS: u64 = 32;

/// Parameters of a panel kernel, all 64-bit.
///
/// `w`: address of the panel; `x`: first row of activations, f32; `y`: first row of results, f32;
/// `k`: length of the dot products; `x_stride`, `y_stride`: bytes from row to row; `residual`:
/// rows added to the result, `y_stride` apart, or 0. The kernel over many rows takes their number
/// as an eighth parameter.
const PARAMS: [cranelift_codegen::ir::Type; 7] = [I64; 7];

/// The kernels of one weight format and panel width.
#[derive(Clone)]
pub struct Panel {
    /// Any number of rows.
    pub rows: Func,
    /// Element type of the weights.
    pub dtype: DType,
    /// Weight rows in a panel.
    pub width: u64,
}

/// Emits the kernels of one format.
pub fn define(e: &mut Emitter, dtype: DType, width: u64) -> Panel {
    let name = format!("panel_{dtype}_w{width}");
    let counts = row_counts(e);
    let by_rows: Vec<(u64, Func)> = counts
        .iter()
        .map(|&m| (m, define_rows(e, &format!("{name}_m{m}"), dtype, width, m)))
        .collect();
    let rows = e.declare(&name, &[I64; 8], &[]);
    e.define(&rows, Tuning::Optimised, |k, args| {
        many_rows(k, args, &by_rows);
        k.ret(&[]);
    });
    Panel { rows, dtype, width }
}

/// Rows that one call of a kernel covers, largest first; the last is 1.
fn row_counts(e: &Emitter) -> &'static [u64] {
    let facts = &e.target.facts;
    match facts.arch {
        Arch::X64 if facts.avx512 => &[12, 8, 4, 3, 2, 1],
        Arch::X64 if facts.avx2 => &[6, 4, 3, 2, 1],
        Arch::X64 => &[6, 3, 2, 1],
        Arch::A64 | Arch::R64 => &[8, 4, 3, 2, 1],
    }
}

fn define_rows(e: &mut Emitter, name: &str, dtype: DType, width: u64, m: u64) -> Func {
    let f = e.declare(name, &PARAMS, &[]);
    let facts = &e.target.facts;
    if facts.arch == Arch::X64 && (facts.avx512 || facts.avx2) {
        let lanes = if facts.avx512 && width >= 16 { 16 } else { 8 };
        let code = asm::x64::panel(dtype, width, m, lanes);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
    } else {
        let slice = slice_vectors(facts.arch, m).min(width / 4);
        e.define(&f, Tuning::Ordered, |k, args| clif_rows(k, args, dtype, width, m, slice));
    }
    f
}

/// Vectors of four weight rows that are accumulated at once: what the registers hold.
fn slice_vectors(arch: Arch, m: u64) -> u64 {
    match (arch, m) {
        (Arch::X64, 1) => 8,
        (Arch::X64, 2 | 3) => 4,
        (Arch::X64, _) => 2,
        (Arch::A64 | Arch::R64, 1 | 2) => 8,
        (Arch::A64 | Arch::R64, 3 | 4) => 4,
        (Arch::A64 | Arch::R64, _) => 2,
    }
}

/// Covers any number of rows with kernels of fixed counts, largest first.
pub(super) fn many_rows<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], by_rows: &[(u64, Func)]) {
    let [w, x, y, length, x_stride, y_stride, residual, rows] = args else {
        unreachable!("eight parameters are declared")
    };
    let (x, y, residual) = (k.var(*x), k.var(*y), k.var(*residual));
    let left = k.var(*rows);
    let has_residual = residual.get().is_not(0);
    for (m, f) in by_rows {
        let m = *m as i64;
        k.while_(
            || k.i64(m - 1).lt(left.get()),
            || {
                let (px, py, pr) = (x.get(), y.get(), residual.get());
                k.call(f, &[*w, px, py, *length, *x_stride, *y_stride, pr]);
                x.set(px + *x_stride * m);
                y.set(py + *y_stride * m);
                residual.set(has_residual.select(pr + *y_stride * m, pr));
                left.set(left.get() - m);
            },
        );
    }
}

/// The kernel for `m` rows, 128 bits wide: `slice` vectors of weight rows at a time.
fn clif_rows<'k>(
    k: &'k Kernel<'k>,
    args: &[Val<'k>],
    dtype: DType,
    width: u64,
    m: u64,
    slice: u64,
) {
    let [w, x, y, length, x_stride, y_stride, residual] = args else {
        unreachable!("seven parameters are declared")
    };
    let step = (width * dtype.bytes()) as i64;
    for first in (0..width / 4).step_by(slice as usize) {
        let vectors = slice.min(width / 4 - first);
        let sums = k.vars((m * vectors) as usize, k.f32x4(0.0));
        let slice_at = *w + (first * 4 * dtype.bytes()) as i64;
        accumulate(k, &sums, slice_at, step, *x, *x_stride, *length, dtype, m, vectors);
        let at = (first * 16) as i32;
        k.if_else(
            residual.is(0),
            || write(&sums, *y, *y_stride, None, at, vectors),
            || write(&sums, *y, *y_stride, Some(*residual), at, vectors),
        );
    }
    k.ret(&[]);
}

#[allow(clippy::too_many_arguments, reason = "the operands of one loop nest")]
fn accumulate<'k>(
    k: &'k Kernel<'k>,
    sums: &[Var<'k>],
    w: Val<'k>,
    step: i64,
    x: Val<'k>,
    x_stride: Val<'k>,
    length: Val<'k>,
    dtype: DType,
    m: u64,
    vectors: u64,
) {
    let w = k.var(w);
    let rows = std::iter::successors(Some(x), |x| Some(*x + x_stride));
    let xs: Vec<Var> = rows.take(m as usize).map(|x| k.var(x)).collect();
    let one = |unroll: i64| {
        for u in 0..unroll {
            let row: Vec<Val> = (0..vectors)
                .map(|j| {
                    load_weights(w.get(), (u * step) as i32 + (j * 4 * dtype.bytes()) as i32, dtype)
                })
                .collect();
            for t in 0..m as usize {
                let value = xs[t].get().load(F32, u as i32 * 4).splat(F32X4);
                for (j, weights) in row.iter().enumerate() {
                    sums[t * vectors as usize + j].fma(*weights, value);
                }
            }
        }
        w.set(w.get() + step * unroll);
        xs.iter().for_each(|x| x.set(x.get() + 4 * unroll));
    };
    let whole = length & !3;
    k.each(k.i64(0), whole, 4, |_| one(4));
    k.each(whole, length, 1, |_| one(1));
}

/// Sums to `y`, a row of `vectors` after another, with the residual added where there is one.
pub(super) fn write<'k>(
    sums: &[Var<'k>],
    y: Val<'k>,
    y_stride: Val<'k>,
    residual: Option<Val<'k>>,
    at: i32,
    vectors: u64,
) {
    let (mut y, mut residual) = (y, residual);
    for row in sums.chunks(vectors as usize) {
        for (j, sum) in row.iter().enumerate() {
            let place = at + j as i32 * 16;
            let value = match residual {
                Some(r) => r.load(F32X4, place) + sum.get(),
                None => sum.get(),
            };
            y.store(place, value);
        }
        y = y + y_stride;
        residual = residual.map(|r| r + y_stride);
    }
}

/// Four neighbouring weights as f32.
fn load_weights<'k>(at: Val<'k>, offset: i32, dtype: DType) -> Val<'k> {
    match dtype {
        DType::F32 => at.load(F32X4, offset),
        DType::BF16 => (at.load_u16x4(offset) << 16).cast(F32X4),
        DType::F16 => f16_to_f32(at.load_s16x4(offset)),
        DType::I32 | DType::Int(_) => unreachable!("these kernels take floats"),
    }
}

/// The plain reference: weights as f32 in panel order, fused multiply-adds in order of `k`.
pub fn reference(w: &[f32], width: usize, x: &[f32], fused: bool) -> Vec<f32> {
    let mut y = vec![0f32; width];
    for (weights, &value) in w.chunks(width).zip(x) {
        for (sum, &weight) in y.iter_mut().zip(weights) {
            *sum = if fused { weight.mul_add(value, *sum) } else { weight * value + *sum };
        }
    }
    y
}
