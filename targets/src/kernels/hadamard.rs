//! `hadamard`: each block of a row times `H / √size`, the orthonormal Hadamard matrix of
//! `ir::hadamard`.
//!
//! `H = A ⊗ S`. The block is first turned by Sylvester's `S` in runs of `inner` elements: up to 16 of
//! them in registers, then two stages at a time in memory. Then `A`, of order `outer`, mixes elements
//! that are `inner` apart; its signs are floats in constant data, so that a fused multiply-add is an
//! addition, and results are the same bits with and without fusion.

use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::Type;
use cranelift_codegen::ir::types::*;
use cranelift_module::DataId;
use ir::hadamard::Hadamard;

/// Largest order of `A`: its signs are in the code's data, a column of it on the stack.
pub const OUTER_MAX: u64 = 1024;

/// Elements that are turned in registers.
const REGISTERS: u64 = 16;
/// Columns of `A` that are summed at the same time; divides every order but 1.
const COLUMNS: usize = 4;

/// Emits `hadamard` for blocks of `size`: parameters x, y, blocks of a row, rows, row stride in
/// bytes. `x` and `y` may be the same.
pub fn define(e: &mut Emitter, size: u64) -> Func {
    let matrix = Hadamard::new(size).expect("the verifier asks for an order that can be built");
    let signs = (matrix.outer > 1).then(|| {
        let bytes = matrix.signs.iter().flat_map(|&s| f32::from(s).to_le_bytes()).collect();
        e.constant(&format!("signs_{size}"), bytes, 64)
    });
    let f = e.declare(&format!("hadamard_{size}"), &[I64; 5], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [x, y, blocks, rows, stride] = args else {
            unreachable!("five parameters are declared")
        };
        let mixing = signs.map(|signs| Mixing::new(k, &matrix, signs));
        let (x, y) = (k.var(*x), k.var(*y));
        k.each(k.i64(0), *rows, 1, |_| {
            let (from, to) = (k.var(x.get()), k.var(y.get()));
            k.each(k.i64(0), *blocks, 1, |_| {
                let runs = k.i64((matrix.outer * matrix.inner * 4) as i64);
                let inner = matrix.inner as u64;
                k.each(k.i64(0), runs, inner as i64 * 4, |at| {
                    sylvester(k, from.get() + at, to.get() + at, inner, size);
                });
                if let Some(mixing) = &mixing {
                    mixing.block(k, to.get());
                }
                for place in [from, to] {
                    place.set(place.get() + size as i64 * 4);
                }
            });
            for row in [x, y] {
                row.set(row.get() + *stride);
            }
        });
        k.ret(&[]);
    });
    f
}

/// One run, turned by `S` and scaled by `1 / √size`.
fn sylvester<'k>(k: &'k Kernel<'k>, x: Val<'k>, y: Val<'k>, inner: u64, size: u64) {
    let scale = 1.0 / (size as f64).sqrt() as f32;
    match inner {
        1 => y.store(0, x.load(F32, 0) * scale),
        2 => {
            let (a, b) = (x.load(F32, 0) * scale, x.load(F32, 4) * scale);
            y.store(0, a + b);
            y.store(4, a - b);
        }
        _ => {
            let chunk = inner.min(REGISTERS);
            k.each(k.i64(0), k.i64(inner as i64 * 4), chunk as i64 * 4, |at| {
                in_registers(k, x + at, y + at, chunk, scale);
            });
            let mut half = chunk;
            while half < inner {
                half = in_memory(k, y, inner, half);
            }
        }
    }
}

/// The first stages, of 4, 8 or 16 neighbours.
fn in_registers<'k>(k: &'k Kernel<'k>, x: Val<'k>, y: Val<'k>, chunk: u64, scale: f32) {
    let signed = |v: Val<'k>, signs: [i32; 4]| {
        let bytes: Vec<u8> = signs.iter().flat_map(|s| s.to_le_bytes()).collect();
        (v.cast(I32X4) ^ k.vector(I32X4, &bytes)).cast(F32X4)
    };
    let mut vectors: Vec<Val<'k>> = (0..chunk as i32 / 4)
        .map(|i| {
            let v = x.load(F32X4, i * 16) * scale;
            let v = v.shuffle32(v, [1, 0, 3, 2]) + signed(v, [0, i32::MIN, 0, i32::MIN]);
            v.shuffle32(v, [2, 3, 0, 1]) + signed(v, [0, 0, i32::MIN, i32::MIN])
        })
        .collect();
    let mut half = 1;
    while half < vectors.len() {
        for i in (0..vectors.len()).filter(|i| i & half == 0) {
            let (a, b) = (vectors[i], vectors[i + half]);
            (vectors[i], vectors[i + half]) = (a + b, a - b);
        }
        half *= 2;
    }
    for (i, v) in vectors.into_iter().enumerate() {
        y.store(i as i32 * 16, v);
    }
}

/// One stage or two of a run in memory, from neighbours `half` apart; the distance of the next stage.
fn in_memory<'k>(k: &'k Kernel<'k>, y: Val<'k>, inner: u64, half: u64) -> u64 {
    let legs = if 4 * half <= inner { 4 } else { 2 };
    let bytes = half as i64 * 4;
    k.each(k.i64(0), k.i64(inner as i64 * 4), legs * bytes, |group| {
        k.each(k.i64(0), k.i64(bytes), 16, |at| {
            let place = |leg: i64| y + group + at + leg * bytes;
            let mut v: Vec<Val<'k>> = (0..legs).map(|leg| place(leg).load(F32X4, 0)).collect();
            for (a, b) in [(0, 1), (2, 3), (0, 2), (1, 3)] {
                if b < v.len() {
                    (v[a], v[b]) = (v[a] + v[b], v[a] - v[b]);
                }
            }
            for (leg, v) in (0..legs).zip(v) {
                place(leg).store(0, v);
            }
        });
    });
    half * legs as u64
}

/// The product with `A`.
struct Mixing<'k> {
    outer: usize,
    inner: usize,
    signs: Val<'k>,
    /// A column of the block: `outer` steps of `vectors` each.
    column: Val<'k>,
    /// What is loaded at a time, and how many of them in a step.
    ty: Type,
    vectors: i32,
}

impl<'k> Mixing<'k> {
    fn new(k: &'k Kernel<'k>, matrix: &Hadamard, signs: DataId) -> Mixing<'k> {
        let (ty, vectors) = match matrix.inner {
            1 | 2 => (F32, 1),
            4 => (F32X4, 1),
            _ => (F32X4, 2),
        };
        let bytes = matrix.outer as u32 * ty.bytes() * vectors as u32;
        let (outer, inner) = (matrix.outer, matrix.inner);
        Mixing { outer, inner, signs: k.data(signs), column: k.stack(bytes), ty, vectors }
    }

    /// Bytes of a step.
    fn step(&self) -> i64 {
        i64::from(self.ty.bytes()) * i64::from(self.vectors)
    }

    fn block(&self, k: &'k Kernel<'k>, y: Val<'k>) {
        let run = self.inner as i64 * 4;
        let width = self.ty.bytes() as i32;
        k.each(k.i64(0), k.i64(run), self.step(), |at| {
            let (from, to) = (k.var(y + at), k.var(self.column));
            k.each(k.i64(0), k.i64(self.outer as i64), 1, |_| {
                for v in 0..self.vectors {
                    to.get().store(v * width, from.get().load(self.ty, v * width));
                }
                from.set(from.get() + run);
                to.set(to.get() + self.step());
            });
            let out = k.var(y + at);
            k.each(k.i64(0), k.i64(self.outer as i64 * 4), COLUMNS as i64 * 4, |columns| {
                self.columns(k, out.get(), self.signs + columns);
                out.set(out.get() + COLUMNS as i64 * run);
            });
        });
    }

    /// A few elements of the result: sums over the column, in order.
    fn columns(&self, k: &'k Kernel<'k>, out: Val<'k>, signs: Val<'k>) {
        let width = self.ty.bytes() as i32;
        let zero = if self.ty == F32 { k.f32(0.0) } else { k.f32x4(0.0) };
        let sums = k.vars(COLUMNS * self.vectors as usize, zero);
        let (signs, from) = (k.var(signs), k.var(self.column));
        k.each(k.i64(0), k.i64(self.outer as i64), 1, |_| {
            let x: Vec<Val<'k>> =
                (0..self.vectors).map(|v| from.get().load(self.ty, v * width)).collect();
            for (c, sums) in sums.chunks(self.vectors as usize).enumerate() {
                let sign = signs.get().load_constant(F32, c as i32 * 4);
                let sign = if self.ty == F32 { sign } else { sign.splat(self.ty) };
                sums.iter().zip(&x).for_each(|(sum, x)| sum.fma(*x, sign));
            }
            signs.set(signs.get() + self.outer as i64 * 4);
            from.set(from.get() + self.step());
        });
        for (c, sums) in sums.chunks(self.vectors as usize).enumerate() {
            let to = out + c as i64 * self.inner as i64 * 4;
            for (v, sum) in (0..self.vectors).zip(sums) {
                to.store(v * width, sum.get());
            }
        }
    }
}

/// The plain reference, one block: `y[j] = Σ_i x[i] · H[i][j] / √n`, in f64.
pub fn reference(x: &[f32]) -> Vec<f32> {
    let matrix = Hadamard::new(x.len() as u64).expect("an order that can be built");
    let (outer, inner) = (matrix.outer, matrix.inner);
    let scale = 1.0 / (x.len() as f64).sqrt();
    let entry = |i: usize, j: usize| {
        let sign = f64::from(matrix.signs[i / inner * outer + j / inner]);
        let common = (i % inner) & (j % inner);
        if common.count_ones().is_multiple_of(2) { sign } else { -sign }
    };
    (0..x.len())
        .map(|j| {
            let sum: f64 = x.iter().enumerate().map(|(i, &x)| f64::from(x) * entry(i, j)).sum();
            (sum * scale) as f32
        })
        .collect()
}
