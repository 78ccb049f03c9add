//! `y[t][r] = Σ_g s_x[t][g] · s_w[g][r] · Σ_k q_w[k][r] · q_x[t][k] (+ residual)`: quantised rows
//! times one panel of integers.
//!
//! A panel is 32 weight rows. Per group of `k`: the integers in quads, four `k` of each row, cut into
//! planes (see `planes.rs`; int8: bytes; int4: nibbles), then 32 scales as f16, then 32 low ends if the
//! format has them. With one group a row the scales stand once, at the end of the panel. With nested
//! scales (`i4g32n`) the end of the panel is a byte for each row of every 32 `k`, the factor in the
//! low nibble and the zero point in the high one, and then the scales of rows. x86-64
//! holds unsigned integers (`q + 8`, `q + 128`), because its dot product takes unsigned by signed;
//! AArch64 signed ones of 4 and 8 bits; both unsigned ones of other widths and where there are zero
//! points (`planes::held`). The sum of a group is exact; groups are added in order with fused
//! multiply-adds, so every kernel gives the same bits.
//!
//! Rows of activations with one range have the same scale behind each group; over weights with one
//! scale a row their products stay whole numbers to the end of the row: `s_x · Σ_g Σ_k`, then `s_w`.

mod clif;
pub mod planes;
mod smmla;
pub mod unpack;

pub use clif::bytes;

use super::panel::PANEL_ROWS;
use super::quant_rows::PART;
use crate::asm;
use crate::asm::x64_int::Unit;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::target::{Arch, Facts};
use cranelift_codegen::ir::types::*;
use half::f16;
use ir::quant::{Quantised, quant_group};
use ir::{Codes, IntFormat};
use std::ops::Range;

/// What one kernel is specialised for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Format of the weights.
    pub format: IntFormat,
    /// Group of the activations; of the weights too, unless they have one group a row.
    pub group: u64,
    /// Where the scales are.
    pub scales: Scales,
    /// Whether rows of activations have one range: their products are then added as whole numbers over
    /// all groups, and scaled once.
    pub one_range: bool,
}

/// Where the scales of a panel's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scales {
    /// After the integers of each group.
    Group,
    /// At the end of the panel.
    Row,
    /// At the end of the panel, after the factors and zero points of groups.
    Nested,
    /// Nowhere: integers count as they are.
    None,
}

/// Bytes of 32 halves.
pub const SCALES_BYTES: u64 = 2 * PANEL_ROWS;

impl Shape {
    /// The shape of a matrix of this format for activations in groups of `group`.
    pub fn new(format: IntFormat, group: u64) -> Shape {
        let scales = match (format.nested, format.group) {
            (true, _) => Scales::Nested,
            (false, 0) => Scales::Row,
            (false, _) => Scales::Group,
        };
        Shape { format, group, scales, one_range: false }
    }

    /// The same for rows of activations with one range, where the weights have one scale a row.
    pub fn with_one_range(self) -> Shape {
        Shape { one_range: self.scales_per_row() && !self.has_lows(), ..self }
    }

    /// The shape by which a format is packed: with scales of rows the order of the integers is the same
    /// for every group of activations.
    pub fn packed(format: IntFormat) -> Shape {
        Shape::new(format, format.group.max(format.multiple()).into())
    }

    /// Bytes of a group's integers.
    pub fn quads_bytes(self) -> u64 {
        self.group * PANEL_ROWS * u64::from(self.format.bits) / 8
    }

    /// Whether each group has scales of its own.
    pub fn scales_per_group(self) -> bool {
        self.scales == Scales::Group
    }

    /// Whether scales stand at the end of the panel.
    pub fn scales_per_row(self) -> bool {
        matches!(self.scales, Scales::Row | Scales::Nested)
    }

    /// Whether groups have factors and zero points.
    pub fn nested(self) -> bool {
        self.scales == Scales::Nested
    }

    /// Whether groups have low ends.
    pub fn has_lows(self) -> bool {
        self.format.zero && !self.nested()
    }

    /// Bytes of the factors of a group of activations.
    pub fn factors_bytes(self) -> u64 {
        if self.nested() { self.group / PART * PANEL_ROWS } else { 0 }
    }

    /// Bytes of a set of scales, low ends included.
    pub fn set_bytes(self) -> u64 {
        SCALES_BYTES * if self.has_lows() { 2 } else { 1 }
    }

    /// Bytes from one group to the next.
    pub fn step_bytes(self) -> u64 {
        self.quads_bytes() + if self.scales_per_group() { self.set_bytes() } else { 0 }
    }

    /// Bytes of a panel with `groups` groups.
    pub fn panel_bytes(self, groups: u64) -> u64 {
        let end = if self.scales_per_row() { self.set_bytes() } else { 0 };
        groups * (self.step_bytes() + self.factors_bytes()) + end
    }

    /// What tells it apart in symbols: the format, the group of activations.
    pub fn name(self) -> String {
        let plain = if self.scales == Scales::None { "_unscaled" } else { "" };
        let rows = if self.one_range { "row" } else { "" };
        format!("{}_x{}{rows}{plain}", self.format, self.group)
    }
}

/// Bytes of the room that the kernel wants for a matrix of `columns` columns.
pub fn room_bytes(facts: &Facts, columns: u64) -> u64 {
    match unit(facts) {
        _ if facts.amx => asm::x64_amx::room_bytes(columns),
        Some(unit) if unit.has_dot() => columns * PANEL_ROWS + SCALES_BYTES,
        None if facts.i8mm => smmla::room_bytes(columns),
        _ => 0,
    }
}

/// Emits the kernel over any number of rows: parameters w, x, y, groups, x_stride, y_stride,
/// residual or 0, rows, room (see `room_bytes`).
pub fn define(e: &mut Emitter, shape: Shape) -> Func {
    let name = format!("int_panel_{}", shape.name());
    let counts: &[u64] = match unit(&e.target.facts) {
        Some(unit) => asm::x64_int::row_counts(unit, shape),
        None => clif::row_counts(&e.target.facts, shape),
    };
    let by_rows: Vec<(u64, Func)> =
        counts.iter().map(|&m| (m, define_rows(e, &format!("{name}_m{m}"), shape, m))).collect();
    let many = define_many(e, &name, shape);
    let rows = e.declare(&name, &[I64; 9], &[]);
    e.define(&rows, Tuning::Optimised, |k, args| {
        match &many {
            Many::Tiles(tiles) => whole_tiles(k, args, tiles, &by_rows),
            Many::Pairs(parts) => smmla::by_eight(k, args, parts, &by_rows),
            Many::Bytes(expand, kernels) => as_bytes(k, args, expand, kernels, &by_rows),
            Many::Same => super::panel::many_rows(k, &args[..8], &by_rows),
        }
        k.ret(&[]);
    });
    rows
}

/// What multiplies many rows at once.
enum Many {
    /// Tiles, sixteen rows each.
    Tiles(Func),
    /// Pairs of rows by pairs of rows.
    Pairs(smmla::Smmla),
    /// What makes a panel of bytes, and the kernels that multiply it.
    Bytes(Func, Vec<(u64, Func)>),
    /// Kernels of fixed counts.
    Same,
}

fn define_many(e: &mut Emitter, name: &str, shape: Shape) -> Many {
    if e.target.facts.amx {
        return Many::Tiles(define_tiles(e, &format!("{name}_tiles"), shape));
    }
    if e.target.facts.i8mm && smmla::takes(shape) {
        return Many::Pairs(smmla::define(e, name, shape));
    }
    let Some(unit) = unit(&e.target.facts).filter(|unit| unit.has_dot() && shape.nested()) else {
        return Many::Same;
    };
    let expand = e.declare(&format!("{name}_bytes"), &[I64; 3], &[]);
    let code = asm::x64_bytes::bytes(unit, shape);
    e.define_assembled(&expand, &code.bytes, code.frame_bytes, code.text);
    let bytes = Shape { format: IntFormat::symmetric(8, 0), scales: Scales::Row, ..shape };
    let counts = asm::x64_int::row_counts(unit, bytes).iter();
    let define = |&m| (m, define_rows(e, &format!("{name}_bytes_m{m}"), bytes, m));
    Many::Bytes(expand, counts.map(define).collect())
}

/// Rows from which a panel of bytes is worth making.
const ROWS_MANY: i64 = 8;

/// Many rows by a panel of bytes in the room, few by the panel as it is; the results are the same.
fn as_bytes<'k>(
    k: &'k Kernel<'k>,
    args: &[Val<'k>],
    expand: &Func,
    bytes: &[(u64, Func)],
    by_rows: &[(u64, Func)],
) {
    let [w, x, y, groups, x_stride, y_stride, residual, rows, room] = args else {
        unreachable!("nine parameters are declared")
    };
    k.if_else(
        rows.lt(k.i64(ROWS_MANY)),
        || super::panel::many_rows(k, &args[..8], by_rows),
        || {
            k.call(expand, &[*w, *room, *groups]);
            let args = [*room, *x, *y, *groups, *x_stride, *y_stride, *residual, *rows];
            super::panel::many_rows(k, &args, bytes);
        },
    );
}

/// The kernel over whole tiles of rows: the same parameters.
fn define_tiles(e: &mut Emitter, name: &str, shape: Shape) -> Func {
    let f = e.declare(name, &[I64; 9], &[]);
    let code = match shape.one_range {
        true => asm::x64_amx_rows::panel(shape),
        false => asm::x64_amx::panel(shape),
    };
    e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
    f
}

/// Whole tiles of rows in one call, the rest by kernels of fixed counts.
fn whole_tiles<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], tiles: &Func, by_rows: &[(u64, Func)]) {
    let [w, x, y, groups, x_stride, y_stride, residual, rows, room] = args else {
        unreachable!("nine parameters are declared")
    };
    let whole = *rows & -(asm::x64_amx::TILE_ROWS as i64);
    k.if_(whole.is_not(0), || {
        k.call(tiles, &[*w, *x, *y, *groups, *x_stride, *y_stride, *residual, whole, *room]);
    });
    let after = *residual + whole * *y_stride;
    let residual = residual.is(0).select(*residual, after);
    let (x, y) = (*x + whole * *x_stride, *y + whole * *y_stride);
    let rest = [*w, x, y, *groups, *x_stride, *y_stride, residual, *rows - whole];
    super::panel::many_rows(k, &rest, by_rows);
}

/// The assembled kernels that a target can run, widest first.
pub fn unit(facts: &Facts) -> Option<Unit> {
    let units = [
        (facts.avx512vnni, Unit::Avx512Vnni),
        (facts.avxvnni, Unit::AvxVnni),
        (facts.avx2, Unit::Avx2),
    ];
    units.into_iter().find(|(has, _)| *has).map(|(_, unit)| unit)
}

fn define_rows(e: &mut Emitter, name: &str, shape: Shape, m: u64) -> Func {
    let f = e.declare(name, &[I64; 7], &[]);
    if let Some(unit) = unit(&e.target.facts) {
        let code = asm::x64_int::panel(unit, shape, m);
        e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
    } else {
        e.define(&f, Tuning::Ordered, |k, args| clif::rows(k, args, shape, m));
    }
    f
}

/// Panel `p` of a matrix as the kernels read it; rows beyond the last are zero.
pub fn pack(matrix: &Quantised, shape: Shape, p: usize, arch: Arch) -> Vec<u8> {
    let columns = matrix.dims[1] as usize;
    let group = shape.group as usize;
    let first = p * PANEL_ROWS as usize;
    let rows = first..(first + PANEL_ROWS as usize);
    let exists = |row: &usize| *row < matrix.dims[0] as usize;
    let mut bytes = Vec::with_capacity(shape.panel_bytes((columns / group) as u64) as usize);
    for g in 0..columns / group {
        quads(matrix, shape, rows.clone(), g * group, arch, &mut bytes);
        if shape.scales_per_group() {
            let at = |row: usize| row * (columns / group) + g;
            set(matrix, rows.clone().map(|r| exists(&r).then(|| at(r))), &mut bytes);
        }
    }
    if shape.nested() {
        let per_row = columns / PART as usize;
        for g in 0..per_row {
            bytes.extend(rows.clone().map(|row| {
                let of = |at: usize| matrix.nested(at);
                let (factor, zero) = if exists(&row) { of(row * per_row + g) } else { (0, 0) };
                factor | zero << 4
            }));
        }
    }
    if shape.scales_per_row() {
        set(matrix, rows.map(|r| exists(&r).then_some(r)), &mut bytes);
    }
    bytes
}

/// The integers of one group, `start..start + group` of each row.
fn quads(
    matrix: &Quantised,
    shape: Shape,
    rows: Range<usize>,
    start: usize,
    arch: Arch,
    bytes: &mut Vec<u8>,
) {
    let columns = matrix.dims[1] as usize;
    let first = bytes.len();
    bytes.resize(first + shape.quads_bytes() as usize, 0);
    let lines = &mut bytes[first..];
    for (place, row) in rows.enumerate() {
        for k in 0..shape.group as usize {
            let q = matrix.q.get(row * columns + start + k).copied();
            let stored = stored(q.unwrap_or(0), shape.format, arch);
            for piece in planes::pieces(shape.format, k as u64 / 4 * 4) {
                lines[piece.at as usize + 4 * place + k % 4] |= piece.put(stored);
            }
        }
    }
}

/// What stands for an integer: itself as the target holds it, or its place in the table.
fn stored(q: i16, format: IntFormat, arch: Arch) -> u8 {
    match format.codes {
        // Rows that are not there may have no place: their scale is 0.
        Codes::Table(table) => {
            table.iter().position(|&value| i16::from(value) == q).unwrap_or(0) as u8
        }
        Codes::Whole => (i64::from(q) + planes::held(format, arch).more) as u8,
    }
}

/// Scales of 32 rows as f16, then their low ends if there are any.
fn set(matrix: &Quantised, places: impl Iterator<Item = Option<usize>>, bytes: &mut Vec<u8>) {
    let places: Vec<Option<usize>> = places.collect();
    let mut add = |from: &[f32]| {
        let values = places.iter().map(|at| at.map_or(0.0, |at| from[at]));
        bytes.extend(values.flat_map(|x| f16::from_f32(x).to_le_bytes()));
    };
    if matrix.format.nested {
        return add(&matrix.units);
    }
    add(&matrix.scales);
    if matrix.format.zero {
        add(&matrix.lows);
    }
}

/// The plain reference: one row of `matrix` times one row of f32 quantised in groups, or in one.
pub fn reference(matrix: &Quantised, shape: Shape, row: usize, x: &[f32], fused: bool) -> f32 {
    if shape.one_range {
        return reference(
            matrix,
            Shape { one_range: false, group: x.len() as u64, ..shape },
            row,
            x,
            fused,
        );
    }
    let columns = matrix.dims[1] as usize;
    let fma = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
    let groups = columns / shape.group as usize;
    let mut total = 0f32;
    for (g, x) in x.chunks(shape.group as usize).enumerate() {
        let (q, x_scale, sum) = quant_group(x);
        let weights = &matrix.q[row * columns + g * shape.group as usize..][..q.len()];
        let product: i32 = match shape.nested() {
            true => nested_product(matrix, row * columns + g * shape.group as usize, &q),
            false => weights.iter().zip(&q).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum(),
        };
        if !shape.scales_per_group() {
            total = fma(product as f32, x_scale, total);
            continue;
        }
        let at = row * groups + g;
        total = fma(product as f32, matrix.scales[at] * x_scale, total);
        if matrix.format.zero {
            total = fma(matrix.lows[at], x_scale * sum as f32, total);
        }
    }
    match shape.scales {
        Scales::Row => total * matrix.scales[row],
        Scales::Nested => total * matrix.units[row],
        Scales::Group | Scales::None => total,
    }
}

/// The product of integers `at..` of a matrix with nested scales, counted in units of its row.
fn nested_product(matrix: &Quantised, at: usize, x: &[i8]) -> i32 {
    let part = PART as usize;
    let parts = matrix.q[at..].chunks(part).zip(x.chunks(part)).enumerate();
    parts
        .map(|(i, (q, x))| {
            let (factor, zero) = matrix.nested(at / part + i);
            let one = |(&q, &x): (&i16, &i8)| i32::from(q - i16::from(zero)) * i32::from(x);
            i32::from(factor) * q.iter().zip(x).map(one).sum::<i32>()
        })
        .sum()
}
