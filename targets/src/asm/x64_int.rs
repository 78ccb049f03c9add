//! x86-64 panel kernels over integers, 256 and 512 bits wide.
//!
//! Same parameters, layout and order of arithmetic as the CLIF kernel in `kernels/int_panel.rs`,
//! System V: `rdi` w, `rsi` x, `rdx` y, `rcx` groups, `r8` x_stride, `r9` y_stride, first stack slot
//! residual.
//!
//! With nested scales the products of 32 `k` fit 16 bits, so that multiplying them by their factor and
//! adding is one instruction more; zero points come in by the sums of activations.
//!
//! Without a dot product instruction (AVX2) `vpmaddubsw` adds two products to 16 bits: eight of those
//! sums fit if they are of nibbles, fewer if they are of more bits. Of bytes the magnitudes are
//! multiplied, of which one product fits, and activations take the signs.
//!
//! One row waits for memory, which is fastest read line by line: where the registers hold sums for all
//! rows of a panel, each of their vectors is taken by itself.

mod ahead;

use super::Code;
use super::wide::{ARGUMENTS, Wide};
use crate::kernels::int_panel::planes::{self, Piece, block_in_16_bits, held, in_nibbles, pieces};
use crate::kernels::int_panel::{SCALES_BYTES, Shape};
use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows::{
    NEGATIVE_SUM, PART, SCALED_SUM, group_bytes, negative_part, record_bytes,
};
use crate::target::Arch;
use ahead::{fetch, fetch_factors, start_fetching_panel, start_fetching_parts};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::ops::Range;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 256 bits, no dot product.
    Avx2,
    /// 256 bits with `vpdpbusd`.
    AvxVnni,
    /// 512 bits with `vpdpbusd`.
    Avx512Vnni,
}

impl Unit {
    /// Whether it multiplies bytes and adds four products in one instruction.
    pub fn has_dot(self) -> bool {
        self != Unit::Avx2
    }
}

/// Vectors of 256 bits that hold a number for each row of a panel.
const PANEL_VECTORS: usize = PANEL_ROWS as usize / 8;
/// `k` of a part, which has a factor of its own.
const PART_K: i32 = PART as i32;

/// The kernel for `m` quantised rows, one of `row_counts`.
pub fn panel(unit: Unit, shape: Shape, m: u64) -> Code {
    let kernel = Kernel { unit, shape, m: m as usize };
    assemble(&kernel).expect("the kernel's operands are encodable")
}

/// Rows that one kernel takes, largest first: what the registers hold.
pub fn row_counts(unit: Unit, shape: Shape) -> &'static [u64] {
    match (unit, registers(unit, shape)) {
        (Unit::Avx512Vnni, 3) => &[4, 2, 1],
        (Unit::AvxVnni, 3) => &[3, 1],
        (Unit::AvxVnni, _) if second(shape).is_some() => &[4, 2, 1],
        (Unit::Avx512Vnni | Unit::AvxVnni, _) => &[6, 4, 2, 1],
        (Unit::Avx2, 2) => &[4, 2, 1],
        (Unit::Avx2, 3) => &[3, 1],
        (Unit::Avx2, _) => &[2, 1],
    }
}

/// Registers of each running sum: itself, the products of a group, and their sums in 16 bits or the
/// products of a part.
fn registers(unit: Unit, shape: Shape) -> usize {
    if shape.nested() {
        return 3;
    }
    match unit {
        Unit::Avx512Vnni | Unit::AvxVnni => 2,
        Unit::Avx2 if in_nibbles(shape.format) => 2,
        Unit::Avx2 if shape.group <= block(shape) as u64 => 2,
        Unit::Avx2 => 3,
    }
}

/// `k` whose sums of products fit 16 bits.
fn block(shape: Shape) -> i32 {
    block_in_16_bits(planes::largest(shape.format, Arch::X64), 2) as i32
}

/// What putting bytes together needs beside the mask of their low bits.
#[derive(Clone, Copy)]
enum Second {
    /// The mask of the second plane.
    Mask(u8),
    /// Elements by place.
    Table([u8; 16]),
}

fn second(shape: Shape) -> Option<Second> {
    let mask = pieces(shape.format, 0).nth(1).map(|piece| Second::Mask(piece.mask()));
    mask.or_else(|| planes::table(shape.format, Arch::X64).map(Second::Table))
}

/// The bit that makes bytes signed: they count from minus it then.
const SIGN: u8 = 0x80;

struct Kernel {
    unit: Unit,
    shape: Shape,
    m: usize,
}

impl Kernel {
    /// Vectors of weight rows at a time.
    fn vectors(&self) -> usize {
        match self.unit {
            Unit::Avx512Vnni => 2,
            Unit::Avx2 if self.one_by_one() => PANEL_VECTORS,
            _ if self.m * self.registers() <= 4 => 2,
            _ => 1,
        }
    }

    /// Whether all weight rows of a panel are taken at once, a vector at a time.
    fn one_by_one(&self) -> bool {
        let constants =
            1 + usize::from(!self.shape.nested()) + usize::from(second(self.shape).is_some());
        let registers = PANEL_VECTORS * self.registers() + 3 + constants;
        self.unit == Unit::Avx2 && self.m == 1 && registers <= 16
    }

    /// Vectors that share the work on a row of activations.
    fn at_once(&self) -> usize {
        if self.one_by_one() { 1 } else { self.vectors() }
    }

    /// Vectors by those that are taken together.
    fn turns(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (all, at_once) = (self.vectors(), self.at_once());
        (0..all).step_by(at_once).map(move |from| from..from + at_once)
    }

    fn place(&self, what: usize, t: usize, j: usize) -> usize {
        (what * self.m + t) * self.vectors() + j
    }

    fn sum(&self, t: usize, j: usize) -> usize {
        self.place(0, t, j)
    }

    fn product(&self, t: usize, j: usize) -> usize {
        self.place(1, t, j)
    }

    /// Registers of each running sum.
    fn registers(&self) -> usize {
        registers(self.unit, self.shape)
    }

    /// Whether magnitudes are multiplied: bytes are too large for sums of 16 bits.
    fn by_magnitude(&self) -> bool {
        !self.unit.has_dot() && in_nibbles(self.shape.format)
    }

    /// Sums of 16 bits.
    fn sum16(&self, t: usize, j: usize) -> usize {
        self.place(self.registers() - 1, t, j)
    }

    /// The products of 32 `k`, before factors.
    fn part(&self, t: usize, j: usize) -> usize {
        self.place(2, t, j)
    }

    fn spare(&self, i: usize) -> usize {
        self.place(self.registers(), 0, 0) + i
    }

    fn raw(&self, j: usize) -> usize {
        self.spare(j % self.at_once())
    }

    fn half(&self, j: usize) -> usize {
        self.spare(self.at_once() + j % self.at_once())
    }

    fn x(&self) -> usize {
        self.spare(2 * self.at_once())
    }

    fn mask(&self) -> usize {
        self.spare(2 * self.at_once() + 1)
    }

    fn second(&self) -> usize {
        self.spare(2 * self.at_once() + 2)
    }

    fn ones(&self) -> usize {
        self.spare(2 * self.at_once() + 2 + usize::from(second(self.shape).is_some()))
    }

    /// Places of all sums.
    fn all(&self) -> Vec<(usize, usize)> {
        self.of(0..self.vectors())
    }

    /// Places of the sums of some vectors.
    fn of(&self, vectors: Range<usize>) -> Vec<(usize, usize)> {
        (0..self.m).flat_map(|t| vectors.clone().map(move |j| (t, j))).collect()
    }
}

/// One base register for every three rows of `x`: addresses are base, base + r8, base + 2·r8.
const BASES: [AsmRegister64; 2] = [rax, r11];

/// Address of row `t` of `x`.
fn row(t: usize) -> AsmMemoryOperand {
    let base = BASES[t / 3];
    match t % 3 {
        0 => base + 0,
        1 => base + r8,
        _ => base + r8 * 2,
    }
}

fn assemble(s: &Kernel) -> Result<Code, IcedError> {
    let mut w = Wide::new(s.unit == Unit::Avx512Vnni)?;
    let low = pieces(s.shape.format, 0).next().expect("integers have bits");
    let mask = match low.bits {
        8 => SIGN,
        _ => low.mask(),
    };
    w.constant(s.mask(), u32::from_le_bytes([mask; 4]))?;
    let sign = if s.by_magnitude() { SIGN } else { 0 };
    match second(s.shape) {
        Some(Second::Mask(mask)) => w.constant(s.second(), u32::from_le_bytes([mask; 4]))?,
        Some(Second::Table(table)) => {
            w.constant_bytes(s.second(), table.map(|byte| byte ^ sign))?
        }
        None => {}
    }
    match (s.unit.has_dot(), s.shape.nested()) {
        // What integers count from before zero points do.
        (true, true) => w.constant(s.ones(), 8)?,
        (false, false) => w.constant(s.ones(), 0x0001_0001)?,
        _ => {}
    }
    if s.fetches_panel() {
        start_fetching_panel(&mut w, s)?;
    }
    let all = (PANEL_ROWS / w.lanes()) as usize;
    for first in (0..all).step_by(s.vectors()) {
        slice(&mut w, s, first)?;
    }
    w.finish()
}

/// Vectors `first..first + vectors` of weight rows: `r10` walks their quads, `rbx` their factors.
fn slice(w: &mut Wide, s: &Kernel, first: usize) -> Result<(), IcedError> {
    w.a.lea(r10, qword_ptr(rdi + first as i32 * w.bytes()))?;
    w.a.mov(BASES[0], rsi)?;
    w.a.lea(r12, qword_ptr(r8 + r8 * 2))?;
    w.a.lea(BASES[1], qword_ptr(rsi + r12))?;
    w.a.mov(r13, rcx)?;
    if s.shape.nested() {
        w.a.imul_3(rbx, rcx, s.shape.step_bytes() as i32)?;
        w.a.lea(rbx, qword_ptr(rdi + rbx * 1 + first as i32 * w.lanes() as i32))?;
    }
    if s.fetches_parts() {
        start_fetching_parts(w, s)?;
    }
    s.all().into_iter().try_for_each(|(t, j)| w.zero(s.sum(t, j)))?;
    let mut group = w.a.create_label();
    w.a.set_label(&mut group)?;
    if s.fetches_parts() {
        fetch_factors(w, s)?;
    }
    one_group(w, s, first)?;
    w.a.dec(r13)?;
    w.a.jnz(group)?;
    if s.shape.one_range {
        scale_once(w, s)?;
    }
    if s.shape.scales_per_row() {
        for j in 0..s.vectors() {
            let at = match s.shape.nested() {
                true => rbx + (first + 2 * j) as i32 * w.lanes() as i32,
                false => halves(w, 0, first, j),
            };
            w.load_halves(s.raw(j), at)?;
            (0..s.m).try_for_each(|t| w.mul(s.sum(t, j), s.sum(t, j), s.raw(j)))?;
        }
    }
    write(w, s, first)
}

/// Address of halves of vector `first + j`, those of the panel's first row being `at` bytes from its
/// first quad.
fn halves(w: &Wide, at: i32, first: usize, j: usize) -> AsmMemoryOperand {
    // r10 is ahead by four bytes a row, a half takes two.
    r10 + (at + j as i32 * w.bytes() / 2 - first as i32 * w.bytes() / 2)
}

fn one_group(w: &mut Wide, s: &Kernel, first: usize) -> Result<(), IcedError> {
    match (s.unit, s.shape.nested()) {
        (Unit::Avx2, _) if s.by_magnitude() => magnitudes(w, s)?,
        (Unit::Avx2, _) => sums_of_16_bits(w, s)?,
        (Unit::AvxVnni | Unit::Avx512Vnni, false) => dots(w, s)?,
        (Unit::AvxVnni | Unit::Avx512Vnni, true) => nested_dots(w, s)?,
    }
    if s.shape.nested() {
        w.a.add(rbx, s.shape.factors_bytes() as i32)?;
    }
    match s.shape.one_range {
        true => s
            .all()
            .into_iter()
            .try_for_each(|(t, j)| w.add_i32(s.sum(t, j), s.sum(t, j), s.product(t, j)))?,
        false => scale(w, s, first)?,
    }
    w.a.add(r10, s.shape.step_bytes() as i32)?;
    if s.fetches_panel() {
        w.a.add(r15, s.share_bytes(w) as i32)?;
    }
    for base in &BASES[..s.m.div_ceil(3)] {
        w.a.add(*base, group_bytes(s.shape.group) as i32)?;
    }
    Ok(())
}

/// Minus what unsigned integers add to the sum of row `t`, into `to`; false if they add nothing.
fn start(w: &mut Wide, s: &Kernel, t: usize, to: usize) -> Result<bool, IcedError> {
    let Some((log2, _)) = held(s.shape.format, Arch::X64).more_log2() else { return Ok(false) };
    w.splat(to, row(t) + (s.shape.group as i32 + NEGATIVE_SUM))?;
    w.shl_i32(to, to, log2 as u32)?;
    Ok(true)
}

fn dots(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    for t in 0..s.m {
        if !start(w, s, t, s.product(t, 0))? {
            w.zero(s.product(t, 0))?;
        }
        (1..s.vectors()).try_for_each(|j| w.copy(s.product(t, j), s.product(t, 0)))?;
    }
    quads(w, s, 0..s.shape.group as i32, Kernel::product)
}

/// Where a kernel keeps a sum: by row, by vector.
type Sum = fn(&Kernel, usize, usize) -> usize;

/// The dot products of so many `k`.
fn quads(w: &mut Wide, s: &Kernel, of: Range<i32>, sum: Sum) -> Result<(), IcedError> {
    for k in of.step_by(4) {
        fetch(w, s, k)?;
        bytes(w, s, k, 0..s.vectors())?;
        dot(w, s, Kernel::half, k, sum)?;
    }
    Ok(())
}

/// Integers `k..k + 4` of some vectors as bytes into their registers `half`; `raw` is lost.
fn bytes(w: &mut Wide, s: &Kernel, k: i32, mut vectors: Range<usize>) -> Result<(), IcedError> {
    for (i, piece) in pieces(s.shape.format, k as u64).enumerate() {
        for j in vectors.clone() {
            let at = r10 + (piece.at as i32 + j as i32 * w.bytes());
            match i {
                0 => low_bits(w, s, piece, j, at)?,
                _ => {
                    w.load_shifted(s.raw(j), at, piece.left())?;
                    w.or_and(s.half(j), s.raw(j), s.second())?;
                }
            }
        }
    }
    if let Some(Second::Table(_)) = second(s.shape) {
        vectors.try_for_each(|j| w.pick(s.half(j), s.second(), s.half(j)))?;
    }
    Ok(())
}

/// The bits of the first plane into register `half`. Vectors of 256 bits keep a line in `raw` until its
/// last bits are taken, if nothing else needs that register: loads are what they can do least of.
fn low_bits(
    w: &mut Wide,
    s: &Kernel,
    piece: Piece,
    j: usize,
    at: AsmMemoryOperand,
) -> Result<(), IcedError> {
    let (half, raw) = (s.half(j), s.raw(j));
    let one_plane = !in_nibbles(s.shape.format) && pieces(s.shape.format, 0).count() == 1;
    let kept = !w.zmm && one_plane && !s.one_by_one();
    match (piece.bits, piece.from) {
        (8, _) if s.by_magnitude() => w.xor_from(half, s.mask(), at),
        (8, _) => w.load(half, at),
        (_, 0) if kept => {
            w.load(raw, at)?;
            w.and(half, raw, s.mask())
        }
        (_, from) if kept => {
            w.shr_i16(half, raw, from as u32)?;
            w.and(half, half, s.mask())
        }
        (_, 0) => w.and_from(half, s.mask(), at),
        _ => {
            w.load_shifted(half, at, piece.left())?;
            w.and(half, half, s.mask())
        }
    }
}

/// Four `k` from `at` on, with the weights in registers `from`.
fn dot(
    w: &mut Wide,
    s: &Kernel,
    from: fn(&Kernel, usize) -> usize,
    at: i32,
    sum: Sum,
) -> Result<(), IcedError> {
    for t in 0..s.m {
        w.splat(s.x(), row(t) + at)?;
        (0..s.vectors()).try_for_each(|j| w.dot_u8(sum(s, t, j), from(s, j), s.x()))?;
    }
    Ok(())
}

/// Address of minus the sum of a part of row `t`.
fn negative_sum(s: &Kernel, t: usize, part: i32) -> AsmMemoryOperand {
    row(t) + (s.shape.group as i32 + negative_part(s.shape.group, part as u64))
}

/// The products of each 32 `k`, less eight times the sum of activations so that they fit 16 bits,
/// times the factor; and what the zero point differs from eight by, times factor and sum.
fn nested_dots(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    s.all().into_iter().try_for_each(|(t, j)| w.zero(s.product(t, j)))?;
    for part in 0..s.shape.group as i32 / PART_K {
        for t in 0..s.m {
            w.splat(s.part(t, 0), negative_sum(s, t, part))?;
            w.shl_i32(s.part(t, 0), s.part(t, 0), 3)?;
            (1..s.vectors()).try_for_each(|j| w.copy(s.part(t, j), s.part(t, 0)))?;
        }
        quads(w, s, part * PART_K..(part + 1) * PART_K, Kernel::part)?;
        for j in 0..s.vectors() {
            factors(w, s, part, j)?;
            // The zero point, less eight, times the factor.
            w.sub_i32(s.half(j), s.half(j), s.ones())?;
            w.mul_i16(s.half(j), s.half(j), s.raw(j))?;
        }
        for t in 0..s.m {
            w.splat(s.x(), negative_sum(s, t, part))?;
            for j in 0..s.vectors() {
                w.dot_i16(s.product(t, j), s.part(t, j), s.raw(j))?;
                w.dot_i16(s.product(t, j), s.x(), s.half(j))?;
            }
        }
    }
    Ok(())
}

/// Factors of a part into registers `raw`, zero points into `half`; `x` is lost.
fn factors(w: &mut Wide, s: &Kernel, part: i32, j: usize) -> Result<(), IcedError> {
    let lanes = w.lanes() as i32;
    w.load_bytes(s.half(j), rbx + (part * PANEL_ROWS as i32 + j as i32 * lanes))?;
    // A byte has a low nibble: the mask serves for lanes of which the rest is nothing.
    w.and(s.raw(j), s.half(j), s.mask())?;
    w.shr_i32(s.half(j), s.half(j), 4)
}

/// Sums of 16 bits over a block, then those to 32.
fn sums_of_16_bits(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    let (group, block) = (s.shape.group as i32, block(s.shape));
    for from in (0..group).step_by(block as usize) {
        for k in (from..group.min(from + block)).step_by(4) {
            fetch(w, s, k)?;
            for vectors in s.turns() {
                bytes(w, s, k, vectors.clone())?;
                madd(w, s, k, vectors, k == from)?;
            }
        }
        if s.shape.nested() {
            nested_widen(w, s, from / PART_K)?;
            continue;
        }
        for (t, j) in s.all() {
            widen(w, s, t, j, from == 0)?;
        }
    }
    if s.shape.nested() {
        return Ok(());
    }
    for t in 0..s.m {
        if start(w, s, t, s.x())? {
            (0..s.vectors())
                .try_for_each(|j| w.add_i32(s.product(t, j), s.product(t, j), s.x()))?;
        }
    }
    Ok(())
}

/// Four `k` from `at` on to the sums of 16 bits of some vectors; the `first` ones of a block replace
/// them.
fn madd(
    w: &mut Wide,
    s: &Kernel,
    at: i32,
    vectors: Range<usize>,
    first: bool,
) -> Result<(), IcedError> {
    for (t, j) in s.of(vectors) {
        let sum = s.sum16(t, j);
        w.splat(s.x(), row(t) + at)?;
        if first {
            w.madd_u8(sum, s.half(j), s.x())?;
        } else {
            w.madd_u8(s.x(), s.half(j), s.x())?;
            w.add_i16(sum, sum, s.x())?;
        }
    }
    Ok(())
}

/// The sums of 16 bits of a block to the products.
fn widen(w: &mut Wide, s: &Kernel, t: usize, j: usize, first: bool) -> Result<(), IcedError> {
    let (product, sum) = (s.product(t, j), s.sum16(t, j));
    if first {
        return w.madd_i16(product, sum, s.ones());
    }
    w.madd_i16(s.x(), sum, s.ones())?;
    w.add_i32(product, product, s.x())
}

/// Products of magnitudes of signed bytes, by activations with the signs of those.
fn magnitudes(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    for t in 0..s.m {
        from_sign(w, s, t)?;
        (1..s.vectors()).try_for_each(|j| w.copy(s.product(t, j), s.product(t, 0)))?;
    }
    for k in (0..s.shape.group as i32).step_by(4) {
        fetch(w, s, k)?;
        for vectors in s.turns() {
            bytes(w, s, k, vectors.clone())?;
            vectors.clone().try_for_each(|j| w.magnitude(s.raw(j), s.half(j)))?;
            for (t, j) in s.of(vectors) {
                w.splat(s.x(), row(t) + k)?;
                w.with_sign(s.x(), s.x(), s.half(j))?;
                w.madd_u8(s.x(), s.raw(j), s.x())?;
                w.madd_i16(s.x(), s.x(), s.ones())?;
                w.add_i32(s.product(t, j), s.product(t, j), s.x())?;
            }
        }
    }
    Ok(())
}

/// What signed bytes leave out of the sum of row `t`, less what unsigned ones add to it.
fn from_sign(w: &mut Wide, s: &Kernel, t: usize) -> Result<(), IcedError> {
    let (product, sign) = (s.product(t, 0), i64::from(SIGN));
    if held(s.shape.format, Arch::X64).more == sign {
        return w.zero(product);
    }
    w.splat(s.x(), row(t) + (s.shape.group as i32 + NEGATIVE_SUM))?;
    w.shl_i32(s.x(), s.x(), sign.ilog2())?;
    if !start(w, s, t, product)? {
        w.zero(product)?;
    }
    w.sub_i32(product, product, s.x())
}

/// The sums of 16 bits of a part times its factors to the products, and zero points times sums of
/// activations.
fn nested_widen(w: &mut Wide, s: &Kernel, part: i32) -> Result<(), IcedError> {
    for vectors in s.turns() {
        for j in vectors.clone() {
            factors(w, s, part, j)?;
            w.mul_i16(s.half(j), s.half(j), s.raw(j))?;
            w.shl_i32(s.x(), s.raw(j), 16)?;
            w.or(s.raw(j), s.raw(j), s.x())?;
        }
        for (t, j) in s.of(vectors) {
            let (product, sum) = (s.product(t, j), s.sum16(t, j));
            w.madd_i16(sum, sum, s.raw(j))?;
            w.splat(s.x(), negative_sum(s, t, part))?;
            w.madd_i16(s.x(), s.x(), s.half(j))?;
            w.add_i32(s.x(), s.x(), sum)?;
            match part {
                0 => w.copy(product, s.x())?,
                _ => w.add_i32(product, product, s.x())?,
            }
        }
    }
    Ok(())
}

/// Sums of whole numbers times the scale of their row, which each group before has.
fn scale_once(w: &mut Wide, s: &Kernel) -> Result<(), IcedError> {
    for t in 0..s.m {
        w.splat(s.x(), row(t) - record_bytes(s.shape.group) as i32)?;
        for j in 0..s.vectors() {
            w.to_float(s.sum(t, j), s.sum(t, j))?;
            w.mul(s.sum(t, j), s.sum(t, j), s.x())?;
        }
    }
    Ok(())
}

/// `sum += float(product) · (s_w · s_x)`, and the low ends.
fn scale(w: &mut Wide, s: &Kernel, first: usize) -> Result<(), IcedError> {
    let at = s.shape.quads_bytes() as i32;
    let group = s.shape.group as i32;
    for vectors in s.turns() {
        if s.shape.scales_per_group() {
            for j in vectors.clone() {
                w.load_halves(s.raw(j), halves(w, at, first, j))?;
            }
        }
        for t in 0..s.m {
            w.splat(s.x(), row(t) + group)?;
            for j in vectors.clone() {
                let product = s.product(t, j);
                w.to_float(product, product)?;
                if s.shape.scales_per_group() {
                    w.mul(s.half(j), s.raw(j), s.x())?;
                    w.fma(s.sum(t, j), product, s.half(j))?;
                } else {
                    w.fma(s.sum(t, j), product, s.x())?;
                }
            }
        }
        if s.shape.has_lows() {
            for j in vectors.clone() {
                w.load_halves(s.raw(j), halves(w, at + SCALES_BYTES as i32, first, j))?;
            }
            for t in 0..s.m {
                w.splat(s.x(), row(t) + (group + SCALED_SUM))?;
                vectors.clone().try_for_each(|j| w.fma(s.sum(t, j), s.raw(j), s.x()))?;
            }
        }
    }
    Ok(())
}

/// Sums to `y`, with the residual added where there is one.
fn write(w: &mut Wide, s: &Kernel, first: usize) -> Result<(), IcedError> {
    let (mut plain, mut done) = (w.a.create_label(), w.a.create_label());
    w.a.mov(r12, rdx)?;
    w.a.mov(r14, qword_ptr(rsp + ARGUMENTS))?;
    w.a.test(r14, r14)?;
    w.a.jz(plain)?;
    for t in 0..s.m {
        for j in 0..s.vectors() {
            let place = (first + j) as i32 * w.bytes();
            w.add_from(s.sum(t, j), s.sum(t, j), r14 + place)?;
            w.store(r12 + place, s.sum(t, j))?;
        }
        w.a.add(r12, r9)?;
        w.a.add(r14, r9)?;
    }
    w.a.jmp(done)?;
    w.a.set_label(&mut plain)?;
    for t in 0..s.m {
        for j in 0..s.vectors() {
            w.store(r12 + (first + j) as i32 * w.bytes(), s.sum(t, j))?;
        }
        w.a.add(r12, r9)?;
    }
    w.a.set_label(&mut done)?;
    w.a.zero_bytes()
}
