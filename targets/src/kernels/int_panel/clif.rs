//! The integer panel kernel as CLIF, 128 bits wide: the portable one, and the only one on AArch64.
//!
//! What multiplies depends on the target: a dot product instruction; or `pmaddubsw`, for which large
//! bytes are taken apart into nibbles so that its sums fit 16 bits; or products of 16 bits, which every
//! target has.

use super::planes::{Piece, block_in_16_bits, held, in_nibbles, largest, pieces, table};
use super::{SCALES_BYTES, Shape};
use crate::builder::{Kernel, Val, Var};
use crate::kernels::panel::{PANEL_ROWS, write};
use crate::kernels::quant_rows::{
    NEGATIVE_SUM, PART, SCALED_SUM, group_bytes, negative_part, record_bytes,
};
use crate::math::f16_to_f32;
use crate::target::{Arch, Facts};
use cranelift_codegen::ir::types::*;
use ir::IntFormat;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What multiplies bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Four products a lane, added to 32 bits.
    Dot,
    /// Two products of small bytes or of nibbles a lane, added to 16 bits.
    Small,
    /// Products of 16 bits.
    Halves,
}

fn unit(facts: &Facts) -> Unit {
    match (facts.dot_i8, facts.ssse3) {
        (true, _) => Unit::Dot,
        (false, true) => Unit::Small,
        (false, false) => Unit::Halves,
    }
}

/// Vectors of four weight rows accumulated at once.
const SLICE: usize = 2;
/// `k` of which sums are added to the others where nothing limits them.
const BLOCK: u64 = 32;

/// Whether bytes are taken apart into nibbles.
fn split(facts: &Facts, format: IntFormat) -> bool {
    unit(facts) == Unit::Small && in_nibbles(format)
}

/// `k` of which sums are added to the others at once: as many as fit 16 bits, where those are added.
fn block(facts: &Facts, format: IntFormat) -> u64 {
    let most = if split(facts, format) { 15 } else { largest(format, facts.arch) };
    match (unit(facts), pairs_late(facts, format)) {
        (Unit::Small, _) => block_in_16_bits(most, 2),
        (Unit::Halves, true) => block_in_16_bits(most, 1),
        _ => BLOCK,
    }
}

/// Whether products are added in 16 bits, and their pairs to 32 bits at the end of a block.
fn pairs_late(facts: &Facts, format: IntFormat) -> bool {
    facts.arch != Arch::X64 && 127 * largest(format, facts.arch) <= i16::MAX as u64 / 4
}

/// Rows that one kernel takes, largest first: what the registers hold.
pub(super) fn row_counts(facts: &Facts, shape: Shape) -> &'static [u64] {
    match (facts.arch, unit(facts), split(facts, shape.format)) {
        (Arch::A64, Unit::Dot, _) => &[4, 2, 1],
        (Arch::X64, Unit::Small, true) => &[1],
        _ => &[2, 1],
    }
}

/// The kernel for `m` rows.
pub(super) fn rows<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], shape: Shape, m: u64) {
    let [w, x, y, groups, x_stride, y_stride, residual] = args else {
        unreachable!("seven parameters are declared")
    };
    for first in (0..PANEL_ROWS / 4).step_by(SLICE) {
        // Of whole numbers where a row has one range.
        let zero = if shape.one_range { k.i32x4(0) } else { k.f32x4(0.0) };
        let sums = k.vars(m as usize * SLICE, zero);
        let at = k.var(*w + (first * 16) as i64);
        // Four bytes of a quad for each one of factors.
        let factors = k.var(*w + (*groups * shape.step_bytes() as i64 + (first * 4) as i64));
        let rows = std::iter::successors(Some(*x), |x| Some(*x + *x_stride));
        let xs: Vec<Var> = rows.take(m as usize).map(|x| k.var(x)).collect();
        k.each(k.i64(0), *groups, 1, |_| {
            one_group(k, shape, first, (at.get(), factors.get()), &xs, &sums);
            factors.set(factors.get() + shape.factors_bytes() as i64);
            at.set(at.get() + shape.step_bytes() as i64);
            xs.iter().for_each(|x| x.set(x.get() + group_bytes(shape.group) as i64));
        });
        let sums = match shape.one_range {
            true => scale_once(k, shape, &xs, &sums),
            false => sums,
        };
        if shape.scales_per_row() {
            // Two bytes of scale for four of a quad, or for one of factors.
            let scales = match shape.nested() {
                true => factors.get() + (first * 4) as i64,
                false => at.get() - (first * 8) as i64,
            };
            scale_rows(scales, &sums);
        }
        let place = (first * 16) as i32;
        k.if_else(
            residual.is(0),
            || write(&sums, *y, *y_stride, None, place, SLICE as u64),
            || write(&sums, *y, *y_stride, Some(*residual), place, SLICE as u64),
        );
    }
    k.ret(&[]);
}

/// One group of `k` into the running sums.
fn one_group<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    first: u64,
    (w, factors): (Val<'k>, Val<'k>),
    xs: &[Var<'k>],
    sums: &[Var<'k>],
) {
    let group = shape.group as i32;
    let products = match shape.nested() {
        true => nested_products(k, shape, w, factors, xs),
        false => products(k, shape, w, xs),
    };
    if shape.one_range {
        return sums.iter().zip(products).for_each(|(sum, product)| sum.add(product));
    }
    for (t, x) in xs.iter().enumerate() {
        let scale = x.get().load(F32, group).splat(F32X4);
        for (j, product) in products[t * SLICE..][..SLICE].iter().enumerate() {
            let sum = sums[t * SLICE + j];
            let product = product.to_float(F32X4);
            if !shape.scales_per_group() {
                sum.fma(product, scale);
                continue;
            }
            let at = shape.quads_bytes() as i32 - first as i32 * 8 + j as i32 * 8;
            sum.fma(product, halves(w, at) * scale);
            if shape.has_lows() {
                let low = halves(w, at + SCALES_BYTES as i32);
                sum.fma(low, x.get().load(F32, group + SCALED_SUM).splat(F32X4));
            }
        }
    }
}

/// Sums of whole numbers times the scale of their row, which each group before `xs` has.
fn scale_once<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    xs: &[Var<'k>],
    sums: &[Var<'k>],
) -> Vec<Var<'k>> {
    let at = -(record_bytes(shape.group) as i32);
    let scales: Vec<Val> = xs.iter().map(|x| x.get().load(F32, at).splat(F32X4)).collect();
    let scaled = |(i, sum): (usize, &Var<'k>)| sum.get().to_float(F32X4) * scales[i / SLICE];
    sums.iter().enumerate().map(|sum| k.var(scaled(sum))).collect()
}

/// Where the sum of products starts: minus what bytes exceed integers by. `None` for zero.
fn start<'k>(k: &'k Kernel<'k>, shape: Shape, x: Val<'k>) -> Option<Val<'k>> {
    let (log2, less) = held(shape.format, k.facts.arch).more_log2()?;
    let negative = x.load(I32, shape.group as i32 + NEGATIVE_SUM).splat(I32X4) << log2;
    Some(if less { -negative } else { negative })
}

/// All products of a group with nested scales: those of each part by themselves, times its factors.
fn nested_products<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    w: Val<'k>,
    factors: Val<'k>,
    xs: &[Var<'k>],
) -> Vec<Val<'k>> {
    let mut totals: Vec<Option<Val>> = vec![None; xs.len() * SLICE];
    for part in 0..shape.group / PART {
        let block = part * PART..(part + 1) * PART;
        let both = factors.load_u8x8((part * PANEL_ROWS) as i32);
        let both = [both.uwiden_low(), both.uwiden_high()];
        let products = block_products(k, shape, block, w, xs);
        for (i, product) in products.into_iter().enumerate() {
            let (factor, zero) = (both[i % SLICE] & k.i32x4(15), both[i % SLICE] >> 4);
            let at = shape.group as i32 + negative_part(shape.group, part);
            let negative = xs[i / SLICE].get().load(I32, at).splat(I32X4);
            totals[i] = added(totals[i], (product + zero * negative) * factor);
        }
    }
    totals.into_iter().map(|t| t.expect("a group has parts")).collect()
}

/// The products of a block of at most 32 `k`.
fn block_products<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    block: std::ops::Range<u64>,
    w: Val<'k>,
    xs: &[Var<'k>],
) -> Vec<Val<'k>> {
    match unit(k.facts) {
        Unit::Small => block_of_small(k, shape, block, w, xs),
        Unit::Halves => block_of_halves(k, shape, block, w, xs),
        Unit::Dot => dots(k, shape, block, w, xs, vec![k.i32x4(0); xs.len() * SLICE]),
    }
}

/// Dot products over a block, added to `sums`.
fn dots<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    block: std::ops::Range<u64>,
    w: Val<'k>,
    xs: &[Var<'k>],
    mut sums: Vec<Val<'k>>,
) -> Vec<Val<'k>> {
    quads(k, shape, block, w, xs, &mut |i, weights, x, _| {
        sums[i] = sums[i].dot_i8(weights, splat_quad(x));
    });
    sums
}

/// All products of a group: per row and vector.
fn products<'k>(k: &'k Kernel<'k>, shape: Shape, w: Val<'k>, xs: &[Var<'k>]) -> Vec<Val<'k>> {
    let starts: Vec<Option<Val>> = xs.iter().map(|x| start(k, shape, x.get())).collect();
    if unit(k.facts) == Unit::Dot {
        let start = |i: usize| starts[i / SLICE].unwrap_or_else(|| k.i32x4(0));
        let sums = (0..xs.len() * SLICE).map(start).collect();
        return dots(k, shape, 0..shape.group, w, xs, sums);
    }
    let mut totals: Vec<Option<Val>> = vec![None; xs.len() * SLICE];
    let step = block(k.facts, shape.format);
    for from in (0..shape.group).step_by(step as usize) {
        let block = from..(from + step).min(shape.group);
        let sums = block_products(k, shape, block, w, xs);
        totals.iter_mut().zip(sums).for_each(|(total, sum)| *total = added(*total, sum));
    }
    let whole = totals.into_iter().map(|t| t.expect("a group has a block"));
    whole.enumerate().map(|(i, sum)| starts[i / SLICE].map_or(sum, |start| sum + start)).collect()
}

fn added<'k>(sum: Option<Val<'k>>, more: Val<'k>) -> Option<Val<'k>> {
    Some(sum.map_or(more, |sum| sum + more))
}

/// Four neighbouring `k` of a row in every lane of 32 bits.
fn splat_quad<'k>((x, at): (Val<'k>, i32)) -> Val<'k> {
    x.load(I32, at).splat(I32X4).cast(I8X16)
}

/// Calls `f(sum, weights, place of x, plane)` for every quad of a block of `k`, four weight rows and
/// row of `x`. The plane is 1 for the high nibbles of bytes that are taken apart.
fn quads<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    block: std::ops::Range<u64>,
    w: Val<'k>,
    xs: &[Var<'k>],
    f: &mut dyn FnMut(usize, Val<'k>, (Val<'k>, i32), usize),
) {
    let format = shape.format;
    let first = pieces(format, 0).next().expect("integers have bits");
    let line = 32 / first.bits;
    for from in block.step_by(line as usize) {
        for j in 0..SLICE {
            let lines = RefCell::new(BTreeMap::new());
            let load = |at: u64| {
                let at = (at + j as u64 * 16) as i32;
                *lines.borrow_mut().entry(at).or_insert_with(|| w.load(I8X16, at))
            };
            for quad in (from..from + line).step_by(4) {
                let whole = bytes(k, format, quad, &load);
                let planes = match split(k.facts, format) {
                    true => nibbles(k, whole).to_vec(),
                    false => vec![whole],
                };
                for (plane, weights) in planes.into_iter().enumerate() {
                    for (t, x) in xs.iter().enumerate() {
                        f(t * SLICE + j, weights, (x.get(), quad as i32), plane);
                    }
                }
            }
        }
    }
}

/// Integers `at..at + 4` of a group, of each row in the sixteen bytes that `load` has of a line, as the
/// target holds them (`planes::held`).
pub fn bytes<'k>(
    k: &'k Kernel<'k>,
    format: IntFormat,
    at: u64,
    load: &dyn Fn(u64) -> Val<'k>,
) -> Val<'k> {
    let table = table(format, k.facts.arch);
    let signed = held(format, k.facts.arch).signed && table.is_none();
    let bytewise = k.facts.arch != Arch::X64;
    let one = |piece: Piece| {
        let line = load(piece.at);
        let halves = || line.cast(I16X8);
        let moved = match piece.left() {
            _ if piece.bits == 8 => return line,
            -4 if signed => return line.sshr(4),
            _ if signed => return (line << 4).sshr(4),
            // Bytes can be shifted by themselves but on x86-64.
            left if left < 0 && piece.to == 0 && piece.from + piece.bits == 8 && bytewise => {
                return line >> -left;
            }
            0 => line,
            left if left > 0 => (halves() << left).cast(I8X16),
            left => (halves() >> -left).cast(I8X16),
        };
        moved & k.vector(I8X16, &[piece.mask(); 16])
    };
    let whole = pieces(format, at).map(one).reduce(|low, high| low | high);
    let whole = whole.expect("integers have bits");
    table.map_or(whole, |table| look_up(k, table, whole))
}

/// The elements of a table at sixteen places.
fn look_up<'k>(k: &'k Kernel<'k>, table: [u8; 16], places: Val<'k>) -> Val<'k> {
    if k.facts.arch != Arch::X64 || k.facts.ssse3 {
        return k.vector(I8X16, &table).pick(places);
    }
    // Nothing shuffles: from one place to the next the element changes by so much.
    let first = k.vector(I8X16, &[table[0]; 16]);
    (1..16).fold(first, |sum, i| {
        let more = k.vector(I8X16, &[table[i].wrapping_sub(table[i - 1]); 16]);
        let there = k.vector(I8X16, &[i as u8 - 1; 16]).lt(places);
        sum + (there & more)
    })
}

/// `pmaddubsw` over a block: sums of 16 bits per plane, then those to 32.
fn block_of_small<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    block: std::ops::Range<u64>,
    w: Val<'k>,
    xs: &[Var<'k>],
) -> Vec<Val<'k>> {
    let mut sums: Vec<[Option<Val>; 2]> = vec![[None; 2]; xs.len() * SLICE];
    quads(k, shape, block, w, xs, &mut |i, weights, x, plane| {
        let sum = &mut sums[i][plane];
        *sum = added(*sum, weights.madd_u8(splat_quad(x)));
    });
    let ones = k.vector(I16X8, &[1, 0].repeat(8));
    let wide = |sum: Val<'k>| sum.madd_i16(ones);
    let both = |[low, high]: [Option<Val<'k>>; 2]| {
        let low = wide(low.expect("every block has low nibbles"));
        high.map_or(low, |high| (wide(high) << 4) + low)
    };
    sums.into_iter().map(both).collect()
}

/// Products of 16 bits over a block: sums of rows 0 and 1, of 2 and 3, then the four rows.
fn block_of_halves<'k>(
    k: &'k Kernel<'k>,
    shape: Shape,
    block: std::ops::Range<u64>,
    w: Val<'k>,
    xs: &[Var<'k>],
) -> Vec<Val<'k>> {
    let mut sums: Vec<[Option<Val>; 2]> = vec![[None; 2]; xs.len() * SLICE];
    let late = pairs_late(k.facts, shape.format);
    quads(k, shape, block, w, xs, &mut |i, weights, x, _| {
        let x = splat_quad(x);
        let [low, high] = match k.facts.arch {
            Arch::X64 => {
                let x = x.swiden_low();
                [weights.uwiden_low().madd_i16(x), weights.uwiden_high().madd_i16(x)]
            }
            Arch::A64 | Arch::R64 => {
                let (low, high) = (
                    weights.swiden_low() * x.swiden_low(),
                    weights.swiden_high() * x.swiden_high(),
                );
                // Products of few bits are added in 16 bits, those of int8 fill them.
                if late { [low, high] } else { [low.sum_pairs(), high.sum_pairs()] }
            }
        };
        let [a, b] = sums[i];
        sums[i] = [added(a, low), added(b, high)];
    });
    let both = |[low, high]: [Option<Val<'k>>; 2]| {
        let (low, high) = (low.expect("blocks have quads"), high.expect("blocks have quads"));
        match late {
            true => low.sum_pairs().iadd_pairwise(high.sum_pairs()),
            false => low.iadd_pairwise(high),
        }
    };
    sums.into_iter().map(both).collect()
}

/// Low and high nibbles of sixteen bytes.
fn nibbles<'k>(k: &'k Kernel<'k>, both: Val<'k>) -> [Val<'k>; 2] {
    let mask = k.vector(I8X16, &[0x0f; 16]);
    [both & mask, (both.cast(I16X8) >> 4).cast(I8X16) & mask]
}

/// Four scales or low ends.
fn halves<'k>(w: Val<'k>, at: i32) -> Val<'k> {
    f16_to_f32(w.load_s16x4(at))
}

/// The scales of a whole row.
fn scale_rows<'k>(scales: Val<'k>, sums: &[Var<'k>]) {
    for row in sums.chunks(SLICE) {
        for (j, sum) in row.iter().enumerate() {
            sum.set(sum.get() * halves(scales, j as i32 * 8));
        }
    }
}
