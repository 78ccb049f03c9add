//! `softmax` of a row of scores, 512 bits wide (AVX-512 F, DQ): the same arithmetic in the same order
//! as the CLIF kernel in `kernels/softmax.rs`.

use super::Code;
use super::wide::Wide;
use super::x64::ZMM;
use super::x64_rows::{
    Constants, Done, exp, exp_constants, exp2, exp2_constants, lanes, quant_constants, quantise,
    sum_chains,
};
use crate::kernels::kv_append::PANEL_POSITIONS;
use crate::kernels::quant_rows::group_bytes;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::f32::consts::LOG2_E;

/// Positions of a group.
const GROUP: i32 = PANEL_POSITIONS as i32;
/// Places of lanes, positions that are seen, the maximum, the sum, sixteen.
const LANES: usize = 13;
const SEEN: usize = 14;
const HIGHEST: AsmRegisterZmm = zmm5;
const SUM: usize = 6;
const SIXTEEN: usize = 7;
/// Positions that a window hides.
const HIDDEN: usize = 3;
/// Minus the maximum times the factor on scores.
const START: AsmRegisterZmm = zmm4;
const SIGN: u32 = 1 << 31;

/// Parameters row, positions seen, positions of the block; with `quantised` also the scales of values
/// and where the quantised row goes; with `windowed` also positions that are hidden. Results in `xmm0`
/// and `xmm1`: maximum, sum.
pub fn softmax(scale: f32, quantised: bool, windowed: bool) -> Code {
    write(scale, quantised, windowed).expect("the kernel's operands are encodable")
}

/// `r10` counts positions, `r11` walks the quantised row.
fn write(scale: f32, quantised: bool, windowed: bool) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    let lowest = f32::NEG_INFINITY.to_bits();
    let factor = if quantised { scale * LOG2_E } else { scale };
    let exps = if quantised { exp2_constants() } else { exp_constants() };
    // A factor that another constant equals is found there.
    let more = vec![factor.to_bits(), lowest, SIGN];
    let c = Constants::new(&mut w, &[quant_constants(), exps, more].concat())?;
    w.constant(SIXTEEN, 16)?;
    w.a.vpbroadcastd(ZMM[SEEN], esi)?;
    if windowed {
        w.a.vpbroadcastd(ZMM[HIDDEN], if quantised { r9d } else { ecx })?;
    }
    w.a.mov(r11, r8)?;
    w.a.vmovaps(HIGHEST, c.zmm(f32::NEG_INFINITY))?;
    w.a.vmovaps(zmm1, HIGHEST)?;
    each(&mut w, rsi, GROUP, |w| {
        for (j, highest) in [HIGHEST, zmm1].into_iter().enumerate() {
            visible(w, windowed)?;
            w.a.vmaxps(highest.k1(), highest, zmmword_ptr(rdi + r10 * 4 + 64 * j as i32))?;
            w.add_i32(LANES, LANES, SIXTEEN)?;
        }
        Ok(())
    })?;
    w.a.vmaxps(HIGHEST, HIGHEST, zmm1)?;
    lanes(&mut w, HIGHEST, zmm0, CodeAssembler::vmaxps)?;
    if quantised {
        w.a.vmulps(START, HIGHEST, c.zmm(factor))?;
        w.a.vxorps(START, START, ZMM[c.at(SIGN)])?;
    }
    w.zero(SUM)?;
    each(&mut w, rsi, GROUP, |w| weights(w, &c, factor, quantised, windowed))?;
    // Groups that nothing is seen of; `r10` stands behind the others.
    let (mut zeros, mut done) = (w.a.create_label(), w.a.create_label());
    w.zero(0)?;
    w.a.set_label(&mut zeros)?;
    w.a.cmp(r10, rdx)?;
    w.a.jge(done)?;
    if quantised {
        w.a.vmovups(ymmword_ptr(r11), ymm0)?;
        w.a.vmovups(xmmword_ptr(r11 + 32), xmm0)?;
        w.a.add(r11, group_bytes(PANEL_POSITIONS) as i32)?;
    } else {
        w.store(rdi + r10 * 4, 0)?;
        w.store(rdi + r10 * 4 + 64, 0)?;
    }
    w.a.add(r10, GROUP)?;
    w.a.jmp(zeros)?;
    w.a.set_label(&mut done)?;
    sum_chains(&mut w, SUM, xmm1)?;
    w.a.vmovaps(xmm0, xmm5)?;
    w.finish()
}

/// `vpcmpd`: first below second, or not.
const LESS: i32 = 1;
const NOT_LESS: i32 = 5;

/// `k1`: lanes of positions that are seen.
fn visible(w: &mut Wide, windowed: bool) -> Done {
    w.a.vpcmpd(k1, ZMM[LANES], ZMM[SEEN], LESS)?;
    if windowed {
        w.a.vpcmpd(k1.k1(), ZMM[LANES], ZMM[HIDDEN], NOT_LESS)?;
    }
    Ok(())
}

/// `r10` from 0 to `end` in steps; lanes count along from 0.
fn each(
    w: &mut Wide,
    end: AsmRegister64,
    step: i32,
    mut body: impl FnMut(&mut Wide) -> Done,
) -> Done {
    let (mut again, mut done) = (w.a.create_label(), w.a.create_label());
    places(w)?;
    w.a.xor(r10d, r10d)?;
    w.a.set_label(&mut again)?;
    w.a.cmp(r10, end)?;
    w.a.jge(done)?;
    body(w)?;
    w.a.add(r10, step)?;
    w.a.jmp(again)?;
    w.a.set_label(&mut done)?;
    w.a.zero_bytes()
}

/// Lane `i` holds `i`.
fn places(w: &mut Wide) -> Done {
    w.a.mov(rax, 0x0706_0504_0302_0100u64)?;
    w.a.vmovq(xmm0, rax)?;
    w.a.mov(rax, 0x0f0e_0d0c_0b0a_0908u64)?;
    w.a.vpinsrq(xmm0, xmm0, rax, 1)?;
    w.a.vpmovzxbd(ZMM[LANES], xmm0)
}

/// The weights of one group of positions.
fn weights(w: &mut Wide, c: &Constants, factor: f32, quantised: bool, windowed: bool) -> Done {
    for (j, x) in [zmm0, zmm1].into_iter().enumerate() {
        w.a.vmovups(x, zmmword_ptr(rdi + r10 * 4 + 64 * j as i32))?;
        if quantised {
            w.a.vfmadd132ps(x, START, c.zmm(factor))?;
            exp2(w, c, x)?;
        } else {
            w.a.vsubps(x, x, HIGHEST)?;
            w.a.vmulps(x, x, c.zmm(factor))?;
            exp(w, c, x)?;
        }
        visible(w, windowed)?;
        w.a.vmovaps(x.k1().z(), x)?;
        w.a.vaddps(ZMM[SUM], ZMM[SUM], x)?;
        w.add_i32(LANES, LANES, SIXTEEN)?;
        if quantised {
            w.a.vcvtph2ps(zmm8, ymmword_ptr(rcx + r10 * 2 + 32 * j as i32))?;
            w.a.vmulps(x, x, zmm8)?;
        } else {
            w.a.vmovups(zmmword_ptr(rdi + r10 * 4 + 64 * j as i32), x)?;
        }
    }
    if quantised { quantise(w, c, GROUP) } else { Ok(()) }
}
