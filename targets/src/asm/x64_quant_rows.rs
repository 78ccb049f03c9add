//! `quant_rows`, 256 bits wide (AVX2) and 512 (AVX-512 F, DQ), and what kernels use that quantise the
//! rows they make.
//!
//! The same arithmetic in the same order as the CLIF kernel.

use super::Code;
use super::wide::Wide;
use super::x64::{YMM, ZMM};
use super::x64_math::{Constants, Done, LESS, SIGN, XMM, lane_bytes, max_lanes};
use crate::kernels::quant_rows::{
    NEGATIVE_SUM, NEGATIVE_SUM_128, PART, SCALED_SUM, group_bytes, parts,
};
use crate::target::Facts;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::RowRange;

/// Whether the registers hold the values of a group.
pub fn fits(facts: &Facts, group: u64) -> bool {
    facts.avx2 && group <= group_max(facts.avx512)
}

/// The largest group whose values the registers hold.
const fn group_max(zmm: bool) -> u64 {
    if zmm { 128 } else { 64 }
}

/// 1 in every byte, in every half.
pub(super) const ONES: u32 = 0x0101_0101;
pub(super) const ONE_HALVES: u32 = 0x0001_0001;

/// All bits but the sign, of a float.
const MAGNITUDE: u32 = !SIGN;

/// What `quantise` uses, beside `ORDER`.
pub(super) fn quant_constants(w: &Wide) -> Vec<u32> {
    let both = [127f32.to_bits(), (1f32 / 127.0).to_bits(), ONES, ONE_HALVES];
    if w.zmm { both.to_vec() } else { [&both[..], &[MAGNITUDE]].concat() }
}

/// Registers of a group.
pub(super) fn vectors(w: &Wide, group: i32) -> usize {
    group as usize / w.lanes() as usize
}

/// `quant_rows` in groups of `group`: parameters x, y, groups of a row, rows, x_stride, y_stride,
/// the address of a fixed range.
pub fn quant_rows(zmm: bool, group: u64, range: RowRange) -> Code {
    write_quant_rows(zmm, group as i32, range).expect("the kernel's operands are encodable")
}

/// The register of the range of all groups of a row, in every lane.
fn whole(w: &Wide) -> usize {
    if w.zmm { 16 } else { 15 }
}

/// With vectors of 256 bits minus a fixed range, in every lane.
const NEGATIVE_END: AsmRegisterYmm = ymm13;

fn write_quant_rows(zmm: bool, group: i32, range: RowRange) -> Result<Code, IcedError> {
    let mut w = Wide::new(zmm)?;
    order(&mut w)?;
    let c = quant_constants(&w);
    let c = Constants::new(&mut w, &c)?;
    if range == RowRange::Fixed {
        w.a.mov(rax, w.argument(0))?;
        fixed_range(&mut w)?;
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
        row_range(&mut w, &c, group)?;
    }
    w.a.set_label(&mut next)?;
    for i in 0..vectors(&w, group) {
        w.load(i, r10 + w.bytes() * i as i32)?;
        if range == RowRange::Fixed {
            cut(&mut w, i)?;
        }
    }
    match range {
        RowRange::Group => quantise(&mut w, &c, group)?,
        RowRange::Row | RowRange::Fixed => {
            match w.zmm {
                true => w.a.vmovaps(zmm8, ZMM[whole(&w)])?,
                false => w.a.vmovaps(xmm8, XMM[whole(&w)])?,
            }
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

/// The range at `rax`.
fn fixed_range(w: &mut Wide) -> Done {
    let end = whole(w);
    if w.zmm {
        return w.a.vbroadcastss(ZMM[end], dword_ptr(rax));
    }
    w.a.vbroadcastss(YMM[end], dword_ptr(rax))?;
    w.a.vpxor(NEGATIVE_END, NEGATIVE_END, NEGATIVE_END)?;
    w.a.vsubps(NEGATIVE_END, NEGATIVE_END, YMM[end])
}

/// Register `x` becomes what of it is within a fixed range.
fn cut(w: &mut Wide, x: usize) -> Done {
    let end = whole(w);
    if w.zmm {
        return w.a.vrangeps(ZMM[x], ZMM[x], ZMM[end], MAGNITUDE_MIN);
    }
    w.a.vmaxps(YMM[x], YMM[x], NEGATIVE_END)?;
    w.a.vminps(YMM[x], YMM[x], YMM[end])
}

/// The largest magnitude of the row at `r10`, of `rbx` groups, into the register of the range.
fn row_range(w: &mut Wide, c: &Constants, group: i32) -> Done {
    let mut next = w.a.create_label();
    let largest = whole(w);
    w.zero(largest)?;
    w.a.imul_3(rax, rbx, group * 4)?;
    w.a.set_label(&mut next)?;
    w.a.sub(rax, w.bytes())?;
    if w.zmm {
        let x = ZMM[largest];
        w.a.vrangeps(x, x, zmmword_ptr(r10 + rax * 1), MAGNITUDE_MAX)?;
    } else {
        w.load_constant(9, c.get(MAGNITUDE))?;
        w.and_from(9, 9, r10 + rax * 1)?;
        w.a.vmaxps(YMM[largest], YMM[largest], ymm9)?;
        w.a.test(rax, rax)?;
    }
    w.a.jnz(next)?;
    max_lanes(w, largest, 9)
}

/// The group in the first registers to integers and their record at `r11`, which moves on; the first
/// thirteen registers are lost.
pub(super) fn quantise(w: &mut Wide, c: &Constants, group: i32) -> Done {
    let count = vectors(w, group);
    match w.zmm {
        true => largest_of_512(w, count)?,
        false => largest_of_256(w, c, count)?,
    }
    max_lanes(w, 8, 9)?;
    quantise_within(w, c, group)
}

/// The larger magnitudes of so many first registers, into register 8.
fn largest_of_512(w: &mut Wide, count: usize) -> Done {
    match count {
        1 => w.a.vrangeps(zmm8, zmm0, zmm0, MAGNITUDE_MAX)?,
        _ => w.a.vrangeps(zmm8, zmm0, zmm1, MAGNITUDE_MAX)?,
    }
    ZMM[..count].iter().skip(2).try_for_each(|x| w.a.vrangeps(zmm8, zmm8, *x, MAGNITUDE_MAX))
}

fn largest_of_256(w: &mut Wide, c: &Constants, count: usize) -> Done {
    w.load_constant(10, c.get(MAGNITUDE))?;
    w.and(8, 10, 0)?;
    for x in 1..count {
        w.and(9, 10, x)?;
        w.a.vmaxps(ymm8, ymm8, ymm9)?;
    }
    Ok(())
}

/// The same for values within the range that is in every lane of register 8.
fn quantise_within(w: &mut Wide, c: &Constants, group: i32) -> Done {
    let count = vectors(w, group);
    let inverse = 10;
    w.zero(9)?;
    if w.zmm {
        w.a.vcmpps(k1, zmm9, zmm8, LESS)?;
    } else {
        w.a.vcmpss(xmm11, xmm9, xmm8, LESS)?;
    }
    let most = c.first(w, 127.0, xmm9)?;
    w.a.vdivss(xmm9, most, xmm8)?;
    if w.zmm {
        w.a.vbroadcastss(ZMM[inverse].k1().z(), xmm9)?;
    } else {
        w.a.vandps(xmm9, xmm9, xmm11)?;
        w.spread(inverse, xmm9)?;
    }
    let unit = c.first(w, 1.0 / 127.0, xmm9)?;
    w.a.vmulss(xmm8, xmm8, unit)?;
    for x in 0..count {
        w.mul(x, x, inverse)?;
        w.to_integer(x, x)?;
    }
    match w.zmm {
        true => (0..count.div_ceil(4)).try_for_each(|block| pack(w, c, block, count))?,
        false => pack_256(w, c, count)?,
    }
    record(w, group)
}

/// Vectors of integers to bytes, four at a time; the sums of these go to the lower two lanes of `xmm9`,
/// the rest of it is 0.
fn pack_256(w: &mut Wide, c: &Constants, count: usize) -> Done {
    for first in (0..count).step_by(4) {
        let x = &YMM[first..first + 4];
        let there = (count - first).min(4);
        x[there..].iter().try_for_each(|x| w.a.vpxor(*x, *x, *x))?;
        w.a.vpackssdw(x[0], x[0], x[1])?;
        w.a.vpackssdw(x[2], x[2], x[3])?;
        w.a.vpacksswb(x[0], x[0], x[2])?;
        w.a.vpermd(x[0], YMM[ORDER], x[0])?;
        let to = r11 + 8 * first as i32;
        match there {
            2 => w.a.vmovdqu(xmmword_ptr(to), XMM[first])?,
            _ => w.a.vmovdqu(ymmword_ptr(to), x[0])?,
        }
        w.load_constant(first + 1, c.get(ONES))?;
        w.madd_u8(first, first + 1, first)?;
        w.load_constant(first + 1, c.get(ONE_HALVES))?;
        w.madd_i16(first, first, first + 1)?;
    }
    w.a.vpxor(xmm9, xmm9, xmm9)?;
    let second = if count > 4 { ymm4 } else { ymm9 };
    w.a.vphaddd(ymm0, ymm0, second)?;
    w.a.vphaddd(ymm0, ymm0, ymm9)?;
    w.a.vextracti128(xmm9, ymm0, 1)?;
    w.a.vpaddd(xmm9, xmm9, xmm0)
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
    a.vpermd(x[0], ZMM[ORDER], x[0])?;
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
    if group > 64 {
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
        const { assert!(group_max(true) / PART == 4) };
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
    let lanes = w.lanes() as usize / 4;
    lane_bytes(w, ORDER, std::array::from_fn(|i| (i % lanes * 4 + i / lanes) as u8))
}

/// The register of lanes as two packings of four vectors leave them, in order.
pub(super) const ORDER: usize = 14;
