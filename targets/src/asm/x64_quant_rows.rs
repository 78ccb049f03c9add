//! `quant_rows`, 512 bits wide (AVX-512 F, DQ), and what kernels use that quantise the rows they make.
//!
//! The same arithmetic in the same order as the CLIF kernel.

use super::Code;
use super::wide::{ARGUMENTS, Wide};
use super::x64::{YMM, ZMM};
use super::x64_math::{Constants, Done, LESS, XMM, lane_bytes, lanes};
use crate::kernels::quant_rows::{
    NEGATIVE_SUM, NEGATIVE_SUM_128, PART, SCALED_SUM, group_bytes, parts,
};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::RowRange;

/// The largest group whose values the registers hold.
pub const GROUP_MAX: u64 = 128;

/// 1 in every byte, in every half.
pub(super) const ONES: u32 = 0x0101_0101;
pub(super) const ONE_HALVES: u32 = 0x0001_0001;

/// What `quantise` uses, beside `ORDER`.
pub(super) fn quant_constants() -> Vec<u32> {
    vec![127f32.to_bits(), (1f32 / 127.0).to_bits(), ONES, ONE_HALVES]
}

pub(super) fn vectors(group: i32) -> usize {
    (group / 16) as usize
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

/// `ORDER`, which `quantise` uses.
pub(super) fn order(w: &mut Wide) -> Done {
    lane_bytes(w, ORDER, std::array::from_fn(|i| (i % 4 * 4 + i / 4) as u8))
}

/// Lanes as two packings of four vectors leave them, in order.
pub(super) const ORDER: AsmRegisterZmm = zmm14;
