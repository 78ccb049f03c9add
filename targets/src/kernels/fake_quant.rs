//! `fake_quant`: groups of rows to a grid of few values and back, as `ir::quant::FakeGrid` defines it.

use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use cranelift_codegen::ir::types::*;
use ir::Levels;
use ir::quant::{EXPONENT, ROUND};

/// What a kernel is specialised for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The values of the grid.
    pub levels: Levels,
    /// Elements of a group, a multiple of 16.
    pub group: u32,
    /// Whether the range is a weight, not the group's own.
    pub fixed: bool,
}

/// Emits `fake_quant`: parameters x, y, range (unless it is the group's own: not read), groups of a
/// row, rows, row stride in bytes. `x` and `y` may be the same.
pub fn define(e: &mut Emitter, shape: Shape) -> Func {
    let Shape { levels, group, fixed } = shape;
    let kind = if fixed { "_fixed" } else { "" };
    let f = e.declare(&format!("fake_quant_{levels}_g{group}{kind}"), &[I64; 6], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [x, y, range, groups, rows, stride] = args else {
            unreachable!("six parameters are declared")
        };
        let (x, y) = (k.var(*x), k.var(*y));
        let given = fixed.then(|| Grid::fixed(k, range.load(F32, 0), levels));
        k.each(k.i64(0), *rows, 1, |_| {
            let (from, to) = (k.var(x.get()), k.var(y.get()));
            k.each(k.i64(0), *groups, 1, |_| {
                let grid = given.unwrap_or_else(|| Grid::own(k, from.get(), group, levels));
                k.each(k.i64(0), k.i64(i64::from(group) * 4), 16, |i| {
                    (to.get() + i).store(0, grid.nearest(k, (from.get() + i).load(F32X4, 0)));
                });
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

/// `FakeGrid`, with vectors of equal numbers.
#[derive(Clone, Copy)]
enum Grid<'k> {
    Even { low: Val<'k>, step: Val<'k>, inverse: Val<'k>, most: f32 },
    Float { unit: Val<'k>, inverse: Val<'k>, most: f32, round: f32 },
}

impl<'k> Grid<'k> {
    fn fixed(k: &'k Kernel<'k>, range: Val<'k>, levels: Levels) -> Grid<'k> {
        let some = k.f32(0.0).flt(range);
        let inverse = |end: f32| some.select(k.f32(end) / range, k.f32(0.0)).splat(F32X4);
        match levels {
            Levels::Even(bits) => {
                let most = ((1u32 << bits) - 1) as f32;
                let half = (most - 1.0) / 2.0;
                let step = range * (1.0 / half);
                let low = (step * -(half + 1.0)).splat(F32X4);
                Grid::Even { low, step: step.splat(F32X4), inverse: inverse(half), most }
            }
            Levels::Float { mantissa, .. } => {
                let most = levels.float_max();
                let round = ROUND * (-f32::from(mantissa)).exp2();
                let unit = (range * (1.0 / most)).splat(F32X4);
                Grid::Float { unit, inverse: inverse(most), most, round }
            }
        }
    }

    fn own(k: &'k Kernel<'k>, x: Val<'k>, group: u32, levels: Levels) -> Grid<'k> {
        let first = x.load(F32X4, 0);
        // The smallest is the largest of the negated.
        let (least, most) = (k.var(-first), k.var(first));
        k.each(k.i64(0), k.i64(i64::from(group) * 4), 16, |i| {
            let v = (x + i).load(F32X4, 0);
            least.set(least.get().pmax(-v));
            most.set(most.get().pmax(v));
        });
        let Levels::Even(bits) = levels else {
            return Grid::fixed(k, most.get().pmax(least.get()).max_lanes(), levels);
        };
        let low = -least.get().max_lanes();
        let width = most.get().max_lanes() - low;
        let most = ((1u32 << bits) - 1) as f32;
        let some = k.f32(0.0).flt(width);
        let inverse = some.select(k.f32(most) / width, k.f32(0.0));
        let [low, step, inverse] = [low, width * (1.0 / most), inverse].map(|v| v.splat(F32X4));
        Grid::Even { low, step, inverse, most }
    }

    /// The values nearest to four numbers.
    fn nearest(self, k: &'k Kernel<'k>, x: Val<'k>) -> Val<'k> {
        match self {
            Grid::Even { low, step, inverse, most } => {
                let q = ((x - low) * inverse).pmax(k.f32x4(0.0)).pmin(k.f32x4(most));
                ((q + k.f32x4(ROUND)) - k.f32x4(ROUND)) * step + low
            }
            Grid::Float { unit, inverse, most, round } => {
                let q = (x * inverse).pmax(k.f32x4(-most)).pmin(k.f32x4(most));
                let octave = q.cast(I32X4) & k.i32x4(EXPONENT as i32);
                let round = octave.cast(F32X4).pmax(k.f32x4(1.0)) * k.f32x4(round);
                ((q + round) - round) * unit
            }
        }
    }
}
