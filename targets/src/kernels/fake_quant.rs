//! `fake_quant`: groups of rows to a grid of few values and back, as `ir::quant::FakeGrid` defines it.

use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;

/// What a kernel is specialised for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The grid has `2^bits` values.
    pub bits: u8,
    /// Elements of a group, a multiple of 16.
    pub group: u32,
    /// Whether the range is a weight, not the group's own.
    pub fixed: bool,
}

/// Emits `fake_quant`: parameters x, y, range (unless it is the group's own: not read), groups of a
/// row, rows, row stride in bytes. `x` and `y` may be the same.
pub fn define(e: &mut Emitter, shape: Shape) -> Func {
    let Shape { bits, group, fixed } = shape;
    let kind = if fixed { "_fixed" } else { "" };
    let f = e.declare(&format!("fake_quant_{bits}_g{group}{kind}"), &[I64; 6], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [x, y, range, groups, rows, stride] = args else {
            unreachable!("six parameters are declared")
        };
        let (x, y) = (k.var(*x), k.var(*y));
        let given = fixed.then(|| fixed_grid(k, range.load(F32, 0), bits));
        k.each(k.i64(0), *rows, 1, |_| {
            let (from, to) = (k.var(x.get()), k.var(y.get()));
            k.each(k.i64(0), *groups, 1, |_| {
                let grid = given.unwrap_or_else(|| own_grid(k, from.get(), group, bits));
                round(k, from.get(), to.get(), group, bits, grid);
                for place in [from, to] {
                    place.set(place.get() + i64::from(group) * 4);
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

/// The smallest value, the distance of two, and its inverse.
type Grid<'k> = [Val<'k>; 3];

fn levels(bits: u8) -> f32 {
    ((1u32 << bits) - 1) as f32
}

fn fixed_grid<'k>(k: &'k Kernel<'k>, range: Val<'k>, bits: u8) -> Grid<'k> {
    let most = (levels(bits) - 1.0) / 2.0;
    let some = k.f32(0.0).flt(range);
    let step = range * (1.0 / most);
    let inverse = some.select(k.f32(most) / range, k.f32(0.0));
    [step * -(most + 1.0), step, inverse]
}

fn own_grid<'k>(k: &'k Kernel<'k>, x: Val<'k>, group: u32, bits: u8) -> Grid<'k> {
    let first = x.load(F32X4, 0);
    // The smallest is the largest of the negated.
    let (least, most) = (k.var(-first), k.var(first));
    k.each(k.i64(0), k.i64(i64::from(group) * 4), 16, |i| {
        let v = (x + i).load(F32X4, 0);
        least.set(least.get().pmax(-v));
        most.set(most.get().pmax(v));
    });
    let low = -least.get().max_lanes();
    let width = most.get().max_lanes() - low;
    let some = k.f32(0.0).flt(width);
    let inverse = some.select(k.f32(levels(bits)) / width, k.f32(0.0));
    [low, width * (1.0 / levels(bits)), inverse]
}

fn round<'k>(k: &'k Kernel<'k>, x: Val<'k>, y: Val<'k>, group: u32, bits: u8, grid: Grid<'k>) {
    let [low, step, inverse] = grid.map(|v| v.splat(F32X4));
    let (zero, most) = (k.f32x4(0.0), k.f32x4(levels(bits)));
    // Adding and taking away 1.5 · 2^23 rounds to the nearest integer, ties to even.
    let magic = k.f32x4(12_582_912.0);
    k.each(k.i64(0), k.i64(i64::from(group) * 4), 16, |i| {
        let q = ((x + i).load(F32X4, 0) - low) * inverse;
        let q = (q.pmax(zero).pmin(most) + magic) - magic;
        (y + i).store(0, q * step + low);
    });
}
