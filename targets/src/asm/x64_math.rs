//! What kernels of floats on AVX-512 share: constants in registers, `exp`, lanes.
//!
//! The same arithmetic in the same order as `math.rs` and CLIF.

use super::wide::Wide;
use super::x64::ZMM;
use crate::math::{EXP, EXP2, EXP2_LOW};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(super) type Done = Result<(), IcedError>;

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

/// The sign of a float.
pub(super) const SIGN: u32 = 1 << 31;

/// What `exp` uses.
pub(super) fn exp_constants() -> Vec<u32> {
    let all = [EXP.low, EXP.high, EXP.log2_e, EXP.round, EXP.ln2_high, EXP.ln2_low, 1.0];
    all.iter().chain(&EXP.polynomial).map(|x| x.to_bits()).collect()
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
