//! Rows to quantised rows, 512 bits wide (AVX-512 F, DQ): `rms_norm`, `silu_mul` and `gelu_mul`, each
//! with the `quant_rows` that takes its result.
//!
//! The same arithmetic in the same order as the CLIF kernels of those names.

use super::Code;
use super::wide::{ARGUMENTS, Wide};
use super::x64::{YMM, ZMM};
use crate::kernels::quant_rows::{
    NEGATIVE_SUM, NEGATIVE_SUM_128, PART, SCALED_SUM, group_bytes, parts,
};
use crate::kernels::rms_norm;
use crate::math::{EXP, EXP2, EXP2_LOW, GELU};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::{Gate, RowRange};

pub(super) type Done = Result<(), IcedError>;

/// The largest group whose values the registers hold.
pub const GROUP_MAX: u64 = 128;

/// Constants, in registers from the last one down.
pub(super) struct Constants(Vec<u32>);

impl Constants {
    pub fn new(w: &mut Wide, values: &[u32]) -> Result<Constants, IcedError> {
        let constants = Constants(values.to_vec());
        for &bits in values {
            let to = constants.at(bits);
            w.constant(to, bits)?;
        }
        Ok(constants)
    }

    /// The register of a constant.
    pub fn at(&self, bits: u32) -> usize {
        let i = self.0.iter().position(|b| *b == bits);
        31 - i.expect("every constant in use is listed")
    }

    pub fn zmm(&self, x: f32) -> AsmRegisterZmm {
        ZMM[self.at(x.to_bits())]
    }
}

const SIGN: u32 = 1 << 31;
/// 1 in every byte, in every half.
pub(super) const ONES: u32 = 0x0101_0101;
pub(super) const ONE_HALVES: u32 = 0x0001_0001;

/// What `quantise` uses, beside `ORDER`.
pub(super) fn quant_constants() -> Vec<u32> {
    vec![127f32.to_bits(), (1f32 / 127.0).to_bits(), ONES, ONE_HALVES]
}

/// What `exp` uses.
pub(super) fn exp_constants() -> Vec<u32> {
    let all = [EXP.low, EXP.high, EXP.log2_e, EXP.round, EXP.ln2_high, EXP.ln2_low, 1.0];
    all.iter().chain(&EXP.polynomial).map(|x| x.to_bits()).collect()
}

/// `rms_norm` and `quant_rows` in groups of `group`: parameters x, y, gain (or 0), rows, x_stride,
/// y_stride.
pub fn rms_norm_quant(shape: rms_norm::Shape, group: u64) -> Code {
    write_rms_norm(shape, group as i32).expect("the kernel's operands are encodable")
}

/// `silu_mul` or `gelu_mul` and `quant_rows` in groups of `group`: parameters gate, up, y, rows,
/// x_stride, y_stride, first and end group.
pub fn gate_mul_quant(gate: Gate, group: u64) -> Code {
    write_gate_mul(gate, group as i32).expect("the kernel's operands are encodable")
}

/// One over the root mean square of the row at hand, in every lane.
const INVERSE: AsmRegisterZmm = zmm16;
/// The same of the row after it.
const NEXT_INVERSE: AsmRegisterZmm = zmm17;

fn write_rms_norm(shape: rms_norm::Shape, group: i32) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    order(&mut w)?;
    let scalars = [shape.width as f32, shape.eps, 1.0].map(f32::to_bits);
    let c = Constants::new(&mut w, &[&quant_constants()[..], &scalars].concat())?;
    let (mut row, mut last, mut groups, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.mov(rbx, rdi)?;
    next_inverse(&mut w, &c, shape)?;
    w.a.set_label(&mut row)?;
    w.a.vmovaps(INVERSE, NEXT_INVERSE)?;
    // The next row's is a long chain: it runs beside the groups of this row.
    w.a.test(rcx, rcx)?;
    w.a.jz(last)?;
    w.a.lea(rbx, qword_ptr(rdi + r8))?;
    next_inverse(&mut w, &c, shape)?;
    w.a.set_label(&mut last)?;
    w.a.xor(r10d, r10d)?;
    w.a.mov(r11, rsi)?;
    w.a.set_label(&mut groups)?;
    for (i, x) in ZMM[..vectors(group)].iter().enumerate() {
        let at = 64 * i as i32;
        w.a.vmulps(*x, INVERSE, zmmword_ptr(rdi + r10 * 1 + at))?;
        if shape.gain {
            w.a.vmulps(*x, *x, zmmword_ptr(rdx + r10 * 1 + at))?;
        }
    }
    quantise(&mut w, &c, group)?;
    w.a.add(r10, group * 4)?;
    w.a.cmp(r10, shape.width as i32 * 4)?;
    w.a.jl(groups)?;
    w.a.add(rdi, r8)?;
    w.a.add(rsi, r9)?;
    w.a.sub(rcx, 1)?;
    w.a.jge(row)?;
    w.a.set_label(&mut done)?;
    w.finish()
}

/// `NEXT_INVERSE` of the row at `rbx`.
fn next_inverse(w: &mut Wide, c: &Constants, shape: rms_norm::Shape) -> Done {
    let mut squares = w.a.create_label();
    // The lanes of one vector are the four chains of four lanes that CLIF adds up.
    w.zero(0)?;
    w.a.xor(r10d, r10d)?;
    w.a.set_label(&mut squares)?;
    w.load(1, rbx + r10 * 1)?;
    w.fma(0, 1, 1)?;
    w.a.add(r10, 64)?;
    w.a.cmp(r10, shape.width as i32 * 4)?;
    w.a.jl(squares)?;
    sum_chains(w, 0, xmm0)?;
    let [width, eps, one] = [shape.width as f32, shape.eps, 1.0].map(|x| XMM[c.at(x.to_bits())]);
    w.a.vdivss(xmm0, xmm0, width)?;
    w.a.vaddss(xmm0, xmm0, eps)?;
    w.a.vsqrtss(xmm0, xmm0, xmm0)?;
    w.a.vdivss(xmm0, one, xmm0)?;
    w.a.vbroadcastss(NEXT_INVERSE, xmm0)
}

fn write_gate_mul(gate: Gate, group: i32) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    order(&mut w)?;
    let [linear, cubic] = GELU.map(|number| (-number).to_bits());
    let own = if gate == Gate::Gelu { linear } else { SIGN };
    let c = Constants::new(&mut w, &[quant_constants(), vec![own], exp_constants()].concat())?;
    w.constant(CUBIC, cubic)?;
    let (mut row, mut groups, mut next, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    // From the first group on: rbx bytes into rows of floats, rbp bytes of them, r12 into y.
    w.a.mov(rax, qword_ptr(rsp + ARGUMENTS))?;
    w.a.imul_3(rbx, rax, group * 4)?;
    w.a.imul_3(r12, rax, group_bytes(group as u64) as i32)?;
    w.a.imul_3(rbp, qword_ptr(rsp + (ARGUMENTS + 8)), group * 4)?;
    w.a.set_label(&mut row)?;
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.mov(r10, rbx)?;
    w.a.lea(r11, qword_ptr(rdx + r12))?;
    w.a.set_label(&mut groups)?;
    w.a.cmp(r10, rbp)?;
    w.a.jge(next)?;
    for (i, x) in ZMM[..vectors(group)].iter().enumerate() {
        let at = 64 * i as i32;
        w.load(i, rdi + r10 * 1 + at)?;
        activation(&mut w, &c, gate, *x)?;
        w.a.vmulps(*x, *x, zmmword_ptr(rsi + r10 * 1 + at))?;
    }
    quantise(&mut w, &c, group)?;
    w.a.add(r10, group * 4)?;
    w.a.jmp(groups)?;
    w.a.set_label(&mut next)?;
    w.a.add(rdi, r8)?;
    w.a.add(rsi, r8)?;
    w.a.add(rdx, r9)?;
    w.a.jmp(row)?;
    w.a.set_label(&mut done)?;
    w.finish()
}

fn vectors(group: i32) -> usize {
    (group / 16) as usize
}

/// Where minus the factor of `x³` in `gelu` is.
const CUBIC: usize = 13;

/// Register `x` becomes its activation, as `math::silu` and `math::gelu` have it.
fn activation(w: &mut Wide, c: &Constants, gate: Gate, x: AsmRegisterZmm) -> Done {
    let n = zmm9;
    match gate {
        Gate::Silu => w.a.vxorps(n, x, ZMM[c.at(SIGN)])?,
        Gate::Gelu => {
            w.a.vmulps(n, x, x)?;
            w.a.vfmadd213ps(n, ZMM[CUBIC], c.zmm(-GELU[0]))?;
            w.a.vmulps(n, n, x)?;
        }
    }
    exp(w, c, n)?;
    w.a.vaddps(n, n, c.zmm(1.0))?;
    w.a.vdivps(x, x, n)
}

/// What `exp2` uses.
pub(super) fn exp2_constants() -> Vec<u32> {
    [EXP2_LOW, EXP.round, 1.0].iter().chain(&EXP2).map(|x| x.to_bits()).collect()
}

/// Register `x` becomes its `exp2`, as `math::exp2` has it; `zmm8` and `zmm10` are lost.
pub(super) fn exp2(w: &mut Wide, c: &Constants, x: AsmRegisterZmm) -> Done {
    let (shifted, r) = (zmm8, zmm10);
    w.a.vmaxps(x, x, c.zmm(EXP2_LOW))?;
    w.a.vaddps(shifted, x, c.zmm(EXP.round))?;
    // `x` less its nearest integer.
    w.a.vreduceps(r, x, 0)?;
    w.a.vmovaps(x, c.zmm(EXP2[0]))?;
    for q in &EXP2[1..] {
        w.a.vfmadd213ps(x, r, c.zmm(*q))?;
    }
    w.a.vfmadd213ps(x, r, c.zmm(1.0))?;
    w.a.vpslld(shifted, shifted, 23)?;
    w.a.vpaddd(x, x, shifted)
}

/// `quant_rows` in groups of `group`: parameters x, y, groups of a row, rows, x_stride, y_stride,
/// the address of a fixed range.
pub fn quant_rows(group: u64, range: RowRange) -> Code {
    write_quant_rows(group as i32, range).expect("the kernel's operands are encodable")
}

/// The range of all groups of a row, in every lane.
const WHOLE: AsmRegisterZmm = zmm16;

fn write_quant_rows(group: i32, range: RowRange) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    order(&mut w)?;
    let c = Constants::new(&mut w, &quant_constants())?;
    if range == RowRange::Fixed {
        w.a.mov(rax, qword_ptr(rsp + ARGUMENTS))?;
        w.a.vbroadcastss(WHOLE, dword_ptr(rax))?;
    }
    let (mut row, mut next, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label());
    w.a.set_label(&mut row)?;
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.mov(r10, rdi)?;
    w.a.mov(r11, rsi)?;
    w.a.mov(rbx, rdx)?;
    if range == RowRange::Row {
        row_range(&mut w, group)?;
    }
    w.a.set_label(&mut next)?;
    for (i, x) in ZMM[..vectors(group)].iter().enumerate() {
        w.load(i, r10 + 64 * i as i32)?;
        if range == RowRange::Fixed {
            w.a.vrangeps(*x, *x, WHOLE, MAGNITUDE_MIN)?;
        }
    }
    match range {
        RowRange::Group => quantise(&mut w, &c, group)?,
        RowRange::Row | RowRange::Fixed => {
            w.a.vmovaps(zmm8, WHOLE)?;
            quantise_within(&mut w, &c, group)?;
        }
    }
    w.a.add(r10, group * 4)?;
    w.a.dec(rbx)?;
    w.a.jnz(next)?;
    w.a.add(rdi, r8)?;
    w.a.add(rsi, r9)?;
    w.a.jmp(row)?;
    w.a.set_label(&mut done)?;
    w.finish()
}

/// The largest magnitude of the row at `r10`, of `rbx` groups, into `WHOLE`.
fn row_range(w: &mut Wide, group: i32) -> Done {
    let mut next = w.a.create_label();
    w.a.vpxord(WHOLE, WHOLE, WHOLE)?;
    w.a.imul_3(rax, rbx, group * 4)?;
    w.a.set_label(&mut next)?;
    w.a.sub(rax, 64)?;
    w.a.vrangeps(WHOLE, WHOLE, zmmword_ptr(r10 + rax * 1), MAGNITUDE_MAX)?;
    w.a.jnz(next)?;
    lanes(w, WHOLE, zmm9, CodeAssembler::vmaxps)
}

/// Register `x` becomes its `exp`, as `math::exp` has it; `zmm8`, `zmm10` to `zmm12` are lost.
pub(super) fn exp(w: &mut Wide, c: &Constants, x: AsmRegisterZmm) -> Done {
    let (shifted, n, r, p) = (zmm8, zmm12, zmm10, zmm11);
    w.a.vmaxps(p, x, c.zmm(EXP.low))?;
    w.a.vminps(r, p, c.zmm(EXP.high))?;
    w.a.vmovaps(shifted, c.zmm(EXP.round))?;
    w.a.vfmadd231ps(shifted, r, c.zmm(EXP.log2_e))?;
    w.a.vsubps(n, shifted, c.zmm(EXP.round))?;
    w.a.vfmadd231ps(r, n, c.zmm(EXP.ln2_high))?;
    w.a.vfmadd231ps(r, n, c.zmm(EXP.ln2_low))?;
    w.a.vmovaps(p, c.zmm(EXP.polynomial[0]))?;
    for q in &EXP.polynomial[1..] {
        w.a.vfmadd213ps(p, r, c.zmm(*q))?;
    }
    w.a.vmulps(n, r, r)?;
    w.a.vfmadd213ps(n, p, r)?;
    w.a.vaddps(n, n, c.zmm(1.0))?;
    w.a.vpslld(shifted, shifted, 23)?;
    w.a.vpaddd(x, n, shifted)
}

/// The group in the first registers to integers and their record at `r11`, which moves on; the first
/// thirteen registers are lost.
pub(super) fn quantise(w: &mut Wide, c: &Constants, group: i32) -> Done {
    let count = vectors(group);
    let scale = zmm8;
    match count {
        1 => w.a.vrangeps(scale, zmm0, zmm0, MAGNITUDE_MAX)?,
        _ => w.a.vrangeps(scale, zmm0, zmm1, MAGNITUDE_MAX)?,
    }
    for x in ZMM[..count].iter().skip(2) {
        w.a.vrangeps(scale, scale, *x, MAGNITUDE_MAX)?;
    }
    lanes(w, scale, zmm9, CodeAssembler::vmaxps)?;
    quantise_within(w, c, group)
}

/// The same for values within the range that is in every lane of `zmm8`.
fn quantise_within(w: &mut Wide, c: &Constants, group: i32) -> Done {
    let count = vectors(group);
    let (scale, inverse) = (zmm8, zmm10);
    w.a.vpxord(zmm9, zmm9, zmm9)?;
    w.a.vcmpps(k1, zmm9, scale, LESS)?;
    w.a.vdivss(xmm9, XMM[c.at(127f32.to_bits())], xmm8)?;
    w.a.vbroadcastss(inverse.k1().z(), xmm9)?;
    w.a.vmulss(xmm8, xmm8, XMM[c.at((1f32 / 127.0).to_bits())])?;
    for x in &ZMM[..count] {
        w.a.vmulps(*x, *x, inverse)?;
        w.a.vcvtps2dq(*x, *x)?;
    }
    for block in 0..count.div_ceil(4) {
        pack(w, c, block, count)?;
    }
    record(w, group)
}

/// Four vectors of integers of a block of 64, or fewer, to bytes; the sums of its halves go to the
/// lower two lanes of register `9 + block`, the rest of it is 0.
fn pack(w: &mut Wide, c: &Constants, block: usize, count: usize) -> Done {
    let a = &mut w.a;
    let x = &ZMM[4 * block..4 * block + 4];
    let there = (count - 4 * block).min(4);
    x[there..].iter().try_for_each(|x| a.vpxord(*x, *x, *x))?;
    a.vpackssdw(x[0], x[0], x[1])?;
    a.vpackssdw(x[2], x[2], x[3])?;
    a.vpacksswb(x[0], x[0], x[2])?;
    a.vpermd(x[0], ORDER, x[0])?;
    let to = r11 + 64 * block as i32;
    match there {
        1 => a.vmovdqu(xmmword_ptr(to), XMM[4 * block])?,
        2 | 3 => a.vmovdqu(ymmword_ptr(to), YMM[4 * block])?,
        _ => a.vmovdqu64(zmmword_ptr(to), x[0])?,
    }
    if there == 3 {
        a.vextracti32x4(xmmword_ptr(to + 32), x[0], 2)?;
    }
    a.vpmaddubsw(x[1], ZMM[c.at(ONES)], x[0])?;
    a.vpmaddwd(x[1], x[1], ZMM[c.at(ONE_HALVES)])?;
    a.vextracti64x4(YMM[4 * block + 2], x[1], 1)?;
    a.vpunpckldq(YMM[4 * block + 3], YMM[4 * block + 1], YMM[4 * block + 2])?;
    a.vpunpckhdq(YMM[4 * block + 1], YMM[4 * block + 1], YMM[4 * block + 2])?;
    a.vpaddd(YMM[4 * block + 1], YMM[4 * block + 1], YMM[4 * block + 3])?;
    let sums = XMM[9 + block];
    a.vextracti128(sums, YMM[4 * block + 1], 1)?;
    a.vpaddd(sums, sums, XMM[4 * block + 1])?;
    a.vpshufd(XMM[4 * block + 1], sums, 0x4e)?;
    a.vpaddd(sums, sums, XMM[4 * block + 1])?;
    a.vmovq(sums, sums)
}

/// The record of a group: its scale is in `xmm8`, sums in `xmm9` and `xmm10`.
fn record(w: &mut Wide, group: i32) -> Done {
    const { assert!(NEGATIVE_SUM == 4 && SCALED_SUM == 8 && NEGATIVE_SUM_128 == 12) };
    let a = &mut w.a;
    if vectors(group) > 4 {
        a.vpunpcklqdq(xmm9, xmm9, xmm10)?;
    }
    a.vpshufd(xmm0, xmm9, 0x4e)?;
    a.vpaddd(xmm0, xmm0, xmm9)?;
    a.vpshufd(xmm1, xmm0, 0xb1)?;
    a.vpaddd(xmm0, xmm0, xmm1)?;
    a.vcvtdq2ps(xmm1, xmm0)?;
    a.vmulss(xmm1, xmm1, xmm8)?;
    a.vpxor(xmm2, xmm2, xmm2)?;
    a.vpsubd(xmm0, xmm2, xmm0)?;
    a.vpslld(xmm3, xmm0, 7)?;
    a.vunpcklps(xmm0, xmm8, xmm0)?;
    a.vunpcklps(xmm1, xmm1, xmm3)?;
    a.vunpcklpd(xmm0, xmm0, xmm1)?;
    a.vmovups(xmmword_ptr(r11 + group), xmm0)?;
    if parts(group as u64) > 0 {
        const { assert!(GROUP_MAX / PART == 4) };
        a.vpsubd(xmm9, xmm2, xmm9)?;
        a.vmovdqu(xmmword_ptr(r11 + (group + 16)), xmm9)?;
    }
    a.add(r11, group_bytes(group as u64) as i32)
}

/// `vrangeps`: the larger magnitude, without a sign.
pub(super) const MAGNITUDE_MAX: i32 = 0b1011;
/// `vrangeps`: the smaller magnitude, with the sign of the first.
const MAGNITUDE_MIN: i32 = 0b0010;
/// `vpcmpd`, `vcmpps`: first below second.
pub(super) const LESS: i32 = 1;

/// Lane `i` of `to` becomes `bytes[i]`; `rax` and `xmm0` are lost.
pub(super) fn lane_bytes(w: &mut Wide, to: AsmRegisterZmm, bytes: [u8; 16]) -> Done {
    let half = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| bytes[8 * i + j]));
    w.a.mov(rax, half(0))?;
    w.a.vmovq(xmm0, rax)?;
    w.a.mov(rax, half(1))?;
    w.a.vpinsrq(xmm0, xmm0, rax, 1)?;
    w.a.vpmovzxbd(to, xmm0)
}

/// `ORDER`, which `quantise` uses.
pub(super) fn order(w: &mut Wide) -> Done {
    lane_bytes(w, ORDER, std::array::from_fn(|i| (i % 4 * 4 + i / 4) as u8))
}

/// Lanes as two packings of four vectors leave them, in order.
pub(super) const ORDER: AsmRegisterZmm = zmm14;

/// The lanes of register `from` as CLIF adds four chains of four lanes, into every lane of `to`; `xmm2`
/// and `xmm3` are lost.
pub(super) fn sum_chains(w: &mut Wide, from: usize, to: AsmRegisterXmm) -> Done {
    w.a.vextractf32x4(xmm2, ZMM[from], 2)?;
    w.a.vextractf32x4(xmm3, ZMM[from], 3)?;
    w.a.vaddps(xmm2, xmm2, xmm3)?;
    w.a.vextractf32x4(xmm3, ZMM[from], 1)?;
    w.a.vaddps(to, XMM[from], xmm3)?;
    w.a.vaddps(to, to, xmm2)?;
    for order in [0x4e, 0xb1] {
        w.a.vpermilps(xmm2, to, order)?;
        w.a.vaddps(to, to, xmm2)?;
    }
    Ok(())
}

/// `op` over all lanes, the result in every one; `other` is lost.
pub(super) fn lanes(
    w: &mut Wide,
    x: AsmRegisterZmm,
    other: AsmRegisterZmm,
    op: fn(&mut CodeAssembler, AsmRegisterZmm, AsmRegisterZmm, AsmRegisterZmm) -> Done,
) -> Done {
    for order in [0x4e, 0xb1] {
        w.a.vshuff64x2(other, x, x, order)?;
        op(&mut w.a, x, x, other)?;
    }
    for order in [0x4e, 0xb1] {
        w.a.vpermilps(other, x, order)?;
        op(&mut w.a, x, x, other)?;
    }
    Ok(())
}

pub(super) const XMM: [AsmRegisterXmm; 32] = [
    xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14,
    xmm15, xmm16, xmm17, xmm18, xmm19, xmm20, xmm21, xmm22, xmm23, xmm24, xmm25, xmm26, xmm27,
    xmm28, xmm29, xmm30, xmm31,
];
