//! What kernels of floats on AVX2 and AVX-512 share: constants, `exp`, lanes.
//!
//! The same arithmetic in the same order as `math.rs` and CLIF.

use super::wide::{Constant, Wide};
use super::x64::{YMM, ZMM};
use crate::math::{EXP, EXP2, EXP2_LOW};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(super) type Done = Result<(), IcedError>;

/// Constants: registers of 512 bits from the last one down, or memory at `r15`.
pub(super) struct Constants {
    bits: Vec<u32>,
    zmm: bool,
}

/// Bytes of a constant in memory.
const SLOT_BYTES: usize = 32;

impl Constants {
    /// Registers 0 and `rax` are lost.
    pub fn new(w: &mut Wide, values: &[u32]) -> Result<Constants, IcedError> {
        let constants = Constants { bits: values.to_vec(), zmm: w.zmm };
        if !w.zmm {
            let room = SLOT_BYTES * (values.len() + 1);
            w.reserve(room as u32)?;
            w.a.lea(r15, qword_ptr(rsp + (SLOT_BYTES as i32 - 1)))?;
            w.a.and(r15, -(SLOT_BYTES as i32))?;
        }
        for &bits in values {
            match constants.get(bits) {
                Constant::Register(to) => w.constant(to, bits)?,
                Constant::Memory(at) => {
                    w.constant(0, bits)?;
                    w.store(at, 0)?;
                }
            }
        }
        Ok(constants)
    }

    fn index(&self, bits: u32) -> usize {
        self.bits.iter().position(|b| *b == bits).expect("every constant in use is listed")
    }

    /// A constant, by its bits.
    pub fn get(&self, bits: u32) -> Constant {
        match self.zmm {
            true => Constant::Register(self.at(bits)),
            false => Constant::Memory(r15 + (SLOT_BYTES * self.index(bits)) as i32),
        }
    }

    /// A constant that is a float.
    pub fn float(&self, x: f32) -> Constant {
        self.get(x.to_bits())
    }

    /// The register of a constant, 512 bits.
    pub fn at(&self, bits: u32) -> usize {
        31 - self.index(bits)
    }

    /// The register of a float, 512 bits.
    pub fn zmm(&self, x: f32) -> AsmRegisterZmm {
        ZMM[self.at(x.to_bits())]
    }

    /// One lane of a constant in `to`, or where it is.
    pub fn first(
        &self,
        w: &mut Wide,
        x: f32,
        to: AsmRegisterXmm,
    ) -> Result<AsmRegisterXmm, IcedError> {
        match self.float(x) {
            Constant::Register(at) => Ok(XMM[at]),
            Constant::Memory(at) => {
                w.a.vmovss(to, dword_ptr(at))?;
                Ok(to)
            }
        }
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

/// Register `x` becomes its `exp2`, as `math::exp2` has it; registers 8 and 10 are lost.
pub(super) fn exp2(w: &mut Wide, c: &Constants, x: usize) -> Done {
    let (shifted, r) = (8, 10);
    w.max_constant(x, x, c.float(EXP2_LOW))?;
    w.add_constant(shifted, x, c.float(EXP.round))?;
    // `x` less its nearest integer.
    if w.zmm {
        w.a.vreduceps(ZMM[r], ZMM[x], 0)?;
    } else {
        w.sub_constant(r, shifted, c.float(EXP.round))?;
        w.sub(r, x, r)?;
    }
    w.load_constant(x, c.float(EXP2[0]))?;
    for q in &EXP2[1..] {
        w.times_plus_constant(x, r, c.float(*q))?;
    }
    w.times_plus_constant(x, r, c.float(1.0))?;
    w.shl_i32(shifted, shifted, 23)?;
    w.add_i32(x, x, shifted)
}

/// Register `x` becomes its `exp`, as `math::exp` has it; registers 8 and 10 to 12 are lost.
pub(super) fn exp(w: &mut Wide, c: &Constants, x: usize) -> Done {
    let (shifted, n, r, p) = (8, 12, 10, 11);
    w.max_constant(p, x, c.float(EXP.low))?;
    w.min_constant(r, p, c.float(EXP.high))?;
    w.load_constant(shifted, c.float(EXP.round))?;
    w.fma_constant(shifted, r, c.float(EXP.log2_e))?;
    w.sub_constant(n, shifted, c.float(EXP.round))?;
    w.fma_constant(r, n, c.float(EXP.ln2_high))?;
    w.fma_constant(r, n, c.float(EXP.ln2_low))?;
    w.load_constant(p, c.float(EXP.polynomial[0]))?;
    for q in &EXP.polynomial[1..] {
        w.times_plus_constant(p, r, c.float(*q))?;
    }
    w.mul(n, r, r)?;
    w.times_plus(n, p, r)?;
    w.add_constant(n, n, c.float(1.0))?;
    w.shl_i32(shifted, shifted, 23)?;
    w.add_i32(x, n, shifted)
}

/// `vpcmpd`, `vcmpps`: first below second.
pub(super) const LESS: i32 = 1;

/// Lane `i` of `to` becomes `bytes[i]`; `rax` and `xmm0` are lost.
pub(super) fn lane_bytes(w: &mut Wide, to: usize, bytes: [u8; 16]) -> Done {
    let half = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| bytes[8 * i + j]));
    w.a.mov(rax, half(0))?;
    w.a.vmovq(xmm0, rax)?;
    w.a.mov(rax, half(1))?;
    w.a.vpinsrq(xmm0, xmm0, rax, 1)?;
    match w.zmm {
        true => w.a.vpmovzxbd(ZMM[to], xmm0),
        false => w.a.vpmovzxbd(YMM[to], xmm0),
    }
}

/// Registers that hold four chains of four lanes, as CLIF adds them.
pub(super) fn chain_registers(w: &Wide) -> usize {
    16 / w.lanes() as usize
}

/// The lanes of the chains in registers from `from` on, into every lane of `to`; `xmm2` and `xmm3` are
/// lost.
pub(super) fn sum_chains(w: &mut Wide, from: usize, to: AsmRegisterXmm) -> Done {
    if w.zmm {
        w.a.vextractf32x4(xmm2, ZMM[from], 2)?;
        w.a.vextractf32x4(xmm3, ZMM[from], 3)?;
        w.a.vaddps(xmm2, xmm2, xmm3)?;
        w.a.vextractf32x4(xmm3, ZMM[from], 1)?;
    } else {
        w.a.vextractf128(xmm3, YMM[from + 1], 1)?;
        w.a.vaddps(xmm2, XMM[from + 1], xmm3)?;
        w.a.vextractf128(xmm3, YMM[from], 1)?;
    }
    w.a.vaddps(to, XMM[from], xmm3)?;
    w.a.vaddps(to, to, xmm2)?;
    for order in [0x4e, 0xb1] {
        w.a.vpermilps(xmm2, to, order)?;
        w.a.vaddps(to, to, xmm2)?;
    }
    Ok(())
}

/// The largest lane of `x` in every one, of `xmm` alone where vectors have 256 bits; `other` is lost.
pub(super) fn max_lanes(w: &mut Wide, x: usize, other: usize) -> Done {
    if !w.zmm {
        w.a.vextractf128(XMM[other], YMM[x], 1)?;
        w.a.vmaxps(XMM[x], XMM[x], XMM[other])?;
        for order in [0x4e, 0xb1] {
            w.a.vpermilps(XMM[other], XMM[x], order)?;
            w.a.vmaxps(XMM[x], XMM[x], XMM[other])?;
        }
        return Ok(());
    }
    let (x, other) = (ZMM[x], ZMM[other]);
    for order in [0x4e, 0xb1] {
        w.a.vshuff64x2(other, x, x, order)?;
        w.a.vmaxps(x, x, other)?;
    }
    for order in [0x4e, 0xb1] {
        w.a.vpermilps(other, x, order)?;
        w.a.vmaxps(x, x, other)?;
    }
    Ok(())
}

pub(super) const XMM: [AsmRegisterXmm; 32] = [
    xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14,
    xmm15, xmm16, xmm17, xmm18, xmm19, xmm20, xmm21, xmm22, xmm23, xmm24, xmm25, xmm26, xmm27,
    xmm28, xmm29, xmm30, xmm31,
];
