//! `softmax` of rows of scores, 256 bits wide (AVX2) and 512 (AVX-512 F, BW, DQ, VL): the same
//! arithmetic in the same order as the CLIF kernel in `kernels/softmax.rs`.
//!
//! With 512 bits quantised weights are made four groups at a time, so that a maximum, a division, a sum
//! and a record serve four lanes of a vector instead of one. What is done with 256 is in `narrow`.

mod narrow;

use super::Code;
use super::wide::Wide;
use super::x64::{YMM, ZMM};
use super::x64_math::{
    Constants, Done, LESS, SIGN, XMM, chain_registers, exp, exp_constants, exp2, exp2_constants,
    lane_bytes, max_lanes, sum_chains,
};
use super::x64_quant_rows::{MAGNITUDE_MAX, ONE_HALVES, ONES, ORDER, order, quant_constants};
use crate::kernels::kv_append::PANEL_POSITIONS;
use crate::kernels::quant_rows::{
    NEGATIVE_SUM, NEGATIVE_SUM_128, SCALED_SUM, group_bytes, record_bytes,
};
use crate::kernels::softmax::{SCORE_STRIDE, running, weight_stride};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::f32::consts::LOG2_E;

/// Positions of a group, in two vectors.
const GROUP: i32 = PANEL_POSITIONS as i32;
/// Lanes of 256 bits, as an integer.
const NARROW_LANES: u32 = 8;
/// Groups of weights that are quantised together.
const BATCH: i32 = 4;
/// Bytes of a quantised group.
const GROUP_BYTES: i32 = group_bytes(PANEL_POSITIONS) as i32;
/// In what is kept of a row: 127 over the largest weight of each group of a batch.
const INVERSES: i32 = 16;

/// The register of minus the maximum times the factor on scores; for `exp` of the maximum.
fn start(w: &Wide) -> usize {
    if w.zmm { 16 } else { 15 }
}

/// The first register of the sum of weights.
fn sum(w: &Wide) -> usize {
    if w.zmm { 13 } else { 6 }
}

/// The register whose lane `i` holds `i`; of 256 bits one that neither `exp` nor `quantise` uses.
fn places(zmm: bool, quantised: bool) -> usize {
    match (zmm, quantised) {
        (true, _) => 15,
        (false, true) => 12,
        (false, false) => 14,
    }
}

/// How many positions a window hides from where masks are made on.
const HIDDEN: AsmRegisterZmm = zmm17;

/// Parameters scores, rows, positions seen by row 0, more per row, positions of the block, what is kept
/// of rows; with `quantised` also the scales of values and where the quantised rows go.
pub fn softmax(zmm: bool, scale: f32, quantised: bool, window: Option<u64>) -> Code {
    write(zmm, scale, quantised, window).expect("the kernel's operands are encodable")
}

/// What the parts of the kernel share.
struct Softmax {
    w: Wide,
    c: Constants,
    /// On scores: the exponent's base is 2 where weights are quantised.
    factor: f32,
    quantised: bool,
    window: Option<u64>,
    /// See `places`.
    places: usize,
}

/// `rbx` rows to come, `rbp` positions that the row sees, `r10` counts positions, `r11` walks the
/// quantised row, `r12` scales of values, `r13` quantised rows, `r14` positions that a window hides.
fn write(zmm: bool, scale: f32, quantised: bool, window: Option<u64>) -> Result<Code, IcedError> {
    let mut w = Wide::new(zmm)?;
    if quantised {
        w.a.mov(r12, w.argument(0))?;
        w.a.mov(r13, w.argument(1))?;
    }
    let factor = if quantised { scale * LOG2_E } else { scale };
    // A factor that another constant equals is found there.
    let own = [factor.to_bits(), running::NOTHING.0.to_bits()];
    let more = if zmm { own.to_vec() } else { [&own[..], &[NARROW_LANES]].concat() };
    let c = match quantised {
        true => [&exp2_constants()[..], &more, &quant_constants(&w), &[SIGN]].concat(),
        false => [&exp_constants()[..], &more].concat(),
    };
    let c = Constants::new(&mut w, &c)?;
    let places = places(zmm, quantised);
    lane_bytes(&mut w, places, std::array::from_fn(|i| i as u8))?;
    if quantised {
        order(&mut w)?;
    }
    let mut s = Softmax { w, c, factor, quantised, window, places };
    s.each_row(Softmax::maximum)?;
    s.each_row(Softmax::weights)?;
    s.w.finish()
}

/// Registers of `next_mask`.
struct Masks {
    /// Sixteen positions, from that at `r10` on.
    places: AsmRegisterZmm,
    /// How many are seen.
    seen: AsmRegisterZmm,
    sixteen: AsmRegisterZmm,
}

/// `vcmpps`: equal.
const EQUAL: i32 = 0;
/// `vpcmpd`: first not below second.
const NOT_LESS: i32 = 5;

impl Softmax {
    /// A pass over all rows. Maxima have a pass of their own: they are long chains, and those of
    /// several rows run side by side.
    fn each_row(&mut self, pass: fn(&mut Softmax) -> Done) -> Done {
        let (mut row, mut done) = (self.w.a.create_label(), self.w.a.create_label());
        let kept = [rdi, rdx, r9, r13];
        self.w.keep(&kept)?;
        self.w.a.mov(rbx, rsi)?;
        self.w.a.set_label(&mut row)?;
        self.w.a.sub(rbx, 1)?;
        self.w.a.jl(done)?;
        self.seen()?;
        pass(self)?;
        self.w.a.add(rdx, rcx)?;
        self.w.a.add(rdi, SCORE_STRIDE as i32)?;
        self.w.a.add(r9, running::BYTES as i32)?;
        if self.quantised {
            self.w.a.add(r13, weight_stride() as i32)?;
        }
        self.w.a.jmp(row)?;
        self.w.a.set_label(&mut done)?;
        self.w.restore(&kept)
    }

    /// How many positions the row sees: 0 to all positions of the block.
    fn seen(&mut self) -> Done {
        self.w.a.xor(eax, eax)?;
        self.w.a.test(rdx, rdx)?;
        self.w.a.cmovns(rax, rdx)?;
        self.w.a.cmp(rax, r8)?;
        self.w.a.cmovg(rax, r8)?;
        self.w.a.mov(rbp, rax)?;
        self.window.map_or(Ok(()), |window| self.hide(window))
    }

    /// The first pass.
    fn maximum(&mut self) -> Done {
        match self.w.zmm {
            true => self.highest()?,
            false => self.narrow_highest()?,
        }
        max_lanes(&mut self.w, 0, 1)?;
        self.rise()
    }

    /// The second pass.
    fn weights(&mut self) -> Done {
        self.start()?;
        let (sum, chains) = (sum(&self.w), chain_registers(&self.w));
        (sum..sum + chains).try_for_each(|chain| self.w.zero(chain))?;
        self.w.a.mov(r11, r13)?;
        self.w.a.xor(r10d, r10d)?;
        match (self.w.zmm, self.quantised) {
            (true, true) => self.batches()?,
            (true, false) => self.groups()?,
            (false, _) => self.narrow_groups()?,
        }
        self.nothing_seen()?;
        sum_chains(&mut self.w, sum, xmm1)?;
        self.w.a.vmovss(xmm2, dword_ptr(r9 + running::SUM))?;
        self.w.a.vmulss(xmm2, xmm2, dword_ptr(r9 + running::FACTOR))?;
        self.w.a.vaddss(xmm2, xmm2, xmm1)?;
        self.w.a.vmovss(dword_ptr(r9 + running::SUM), xmm2)
    }

    /// Positions of the block before the window; where those are all that the row would see, it sees
    /// nothing.
    fn hide(&mut self, window: u64) -> Done {
        let a = &mut self.w.a;
        a.xor(eax, eax)?;
        a.mov(r14, rdx)?;
        a.sub(r14, window as i32)?;
        a.cmovs(r14, rax)?;
        a.cmp(r14, rbp)?;
        a.cmovge(rbp, rax)
    }

    /// The maximum of what the row sees, among the lanes of `zmm0`.
    fn highest(&mut self) -> Done {
        let lowest = self.c.zmm(running::NOTHING.0);
        let (mut more, mut rest, mut done) =
            (self.w.a.create_label(), self.w.a.create_label(), self.w.a.create_label());
        self.w.a.vmovaps(zmm0, lowest)?;
        self.w.a.vmovaps(zmm1, lowest)?;
        self.w.a.xor(r10d, r10d)?;
        self.w.a.set_label(&mut more)?;
        self.w.a.lea(rax, qword_ptr(r10 + GROUP))?;
        self.w.a.cmp(rax, rbp)?;
        self.w.a.jg(rest)?;
        if self.window.is_some() {
            self.w.a.cmp(r10, r14)?;
            self.w.a.jl(rest)?;
        }
        for (i, x) in [zmm0, zmm1].into_iter().enumerate() {
            self.w.a.vmaxps(x, x, zmmword_ptr(rdi + r10 * 4 + 64 * i as i32))?;
        }
        self.w.a.mov(r10, rax)?;
        self.w.a.jmp(more)?;
        self.w.a.set_label(&mut rest)?;
        self.w.a.cmp(r10, rbp)?;
        self.w.a.jge(done)?;
        let masks = self.masks([zmm2, zmm3, zmm4])?;
        for (i, x) in [zmm0, zmm1].into_iter().enumerate() {
            self.next_mask(&masks)?;
            self.w.a.vmaxps(x.k1(), x, zmmword_ptr(rdi + r10 * 4 + 64 * i as i32))?;
        }
        if self.window.is_some() {
            self.w.a.add(r10, GROUP)?;
            self.w.a.jmp(more)?;
        }
        self.w.a.set_label(&mut done)?;
        self.w.a.vmaxps(zmm0, zmm0, zmm1)
    }

    /// Masks of the positions from `r10` on, sixteen after sixteen, in registers that the caller spares.
    fn masks(&mut self, [places, seen, sixteen]: [AsmRegisterZmm; 3]) -> Result<Masks, IcedError> {
        self.w.a.mov(eax, ebp)?;
        self.w.a.sub(eax, r10d)?;
        self.w.a.vpbroadcastd(seen, eax)?;
        if self.window.is_some() {
            self.w.a.mov(eax, r14d)?;
            self.w.a.sub(eax, r10d)?;
            self.w.a.vpbroadcastd(HIDDEN, eax)?;
        }
        self.w.a.mov(eax, 16)?;
        self.w.a.vpbroadcastd(sixteen, eax)?;
        self.w.a.vmovdqa32(places, ZMM[self.places])?;
        Ok(Masks { places, seen, sixteen })
    }

    /// `k1`: the next sixteen positions that are seen.
    fn next_mask(&mut self, masks: &Masks) -> Done {
        self.w.a.vpcmpd(k1, masks.places, masks.seen, LESS)?;
        if self.window.is_some() {
            self.w.a.vpcmpd(k1.k1(), masks.places, HIDDEN, NOT_LESS)?;
        }
        self.w.a.vpaddd(masks.places, masks.places, masks.sixteen)
    }

    /// The maximum becomes that of all blocks; what weights before are worth by it.
    fn rise(&mut self) -> Done {
        let (w, c) = (&mut self.w, &self.c);
        w.splat_float(1, dword_ptr(r9 + running::MAX))?;
        w.max(0, 0, 1)?;
        w.a.vmovss(dword_ptr(r9 + running::MAX), xmm0)?;
        w.sub(2, 1, 0)?;
        w.mul_constant(2, 2, c.float(self.factor))?;
        match self.quantised {
            true => exp2(w, c, 2)?,
            false => exp(w, c, 2)?,
        }
        if w.zmm {
            w.a.vcmpps(k1, zmm1, zmm0, EQUAL)?;
            w.a.vmovaps(zmm2.k1(), c.zmm(1.0))?;
        } else {
            w.a.vcmpss(xmm1, xmm1, xmm0, EQUAL)?;
            let one = c.first(w, 1.0, xmm0)?;
            w.a.vblendvps(xmm2, xmm2, one, xmm1)?;
        }
        w.a.vmovss(dword_ptr(r9 + running::FACTOR), xmm2)
    }

    /// What weights start from.
    fn start(&mut self) -> Done {
        let (w, c) = (&mut self.w, &self.c);
        let start = start(w);
        w.splat_float(start, dword_ptr(r9 + running::MAX))?;
        if self.quantised {
            w.mul_constant(start, start, c.float(self.factor))?;
            w.xor_constant(start, start, c.get(SIGN))?;
        }
        Ok(())
    }

    /// Weights as floats, a group at a time.
    fn groups(&mut self) -> Done {
        let (mut more, mut done) = (self.w.a.create_label(), self.w.a.create_label());
        self.w.a.set_label(&mut more)?;
        self.w.a.cmp(r10, rbp)?;
        self.w.a.jge(done)?;
        let masks = self.masks([zmm2, zmm3, zmm4])?;
        for i in 0..2 {
            let at = zmmword_ptr(rdi + r10 * 4 + 64 * i);
            self.w.a.vmovups(zmm0, at)?;
            self.w.sub(0, 0, start(&self.w))?;
            self.w.mul_constant(0, 0, self.c.float(self.factor))?;
            exp(&mut self.w, &self.c, 0)?;
            self.next_mask(&masks)?;
            self.w.a.vmovaps(zmm0.k1().z(), zmm0)?;
            self.w.add(sum(&self.w), sum(&self.w), 0)?;
            self.w.a.vmovups(at, zmm0)?;
        }
        self.w.a.add(r10, GROUP)?;
        self.w.a.jmp(more)?;
        self.w.a.set_label(&mut done)?;
        self.w.a.zero_bytes()
    }

    /// Quantised weights: whole batches, then what is left.
    fn batches(&mut self) -> Done {
        let (mut more, mut rest, mut done) =
            (self.w.a.create_label(), self.w.a.create_label(), self.w.a.create_label());
        self.w.a.set_label(&mut more)?;
        self.w.a.lea(rax, qword_ptr(r10 + BATCH * GROUP))?;
        self.w.a.cmp(rax, rbp)?;
        self.w.a.jg(rest)?;
        self.batch(BATCH, self.window.is_some())?;
        self.w.a.jmp(more)?;
        self.w.a.set_label(&mut rest)?;
        self.w.a.cmp(r10, rbp)?;
        self.w.a.jge(done)?;
        for groups in 1..=BATCH {
            let mut next = self.w.a.create_label();
            if groups < BATCH {
                self.w.a.lea(rax, qword_ptr(r10 + groups * GROUP))?;
                self.w.a.cmp(rax, rbp)?;
                self.w.a.jl(next)?;
            }
            self.batch(groups, true)?;
            self.w.a.jmp(done)?;
            self.w.a.set_label(&mut next)?;
            self.w.a.zero_bytes()?;
        }
        self.w.a.set_label(&mut done)?;
        self.w.a.zero_bytes()
    }

    /// The weights of a batch in the first registers, then as integers and their records; `masked`
    /// where not all of its positions are seen.
    fn batch(&mut self, groups: i32, masked: bool) -> Done {
        let masks = masked.then(|| self.masks([zmm9, zmm11, zmm12])).transpose()?;
        for i in 0..2 * groups {
            let x = i as usize;
            self.w.a.vmovups(ZMM[x], zmmword_ptr(rdi + r10 * 4 + 64 * i))?;
            self.w.times_constant_plus(x, start(&self.w), self.c.float(self.factor))?;
            exp2(&mut self.w, &self.c, x)?;
            if let Some(masks) = &masks {
                self.next_mask(masks)?;
                self.w.a.vmovaps(ZMM[x].k1().z(), ZMM[x])?;
            }
            self.w.add(sum(&self.w), sum(&self.w), x)?;
            self.w.mul_from(x, x, r12 + r10 * 4 + 64 * i)?;
        }
        for x in &ZMM[2 * groups as usize..2 * BATCH as usize] {
            self.w.a.vpxord(*x, *x, *x)?;
        }
        self.largest()?;
        self.integers(groups)?;
        self.sums()?;
        self.records(groups)?;
        self.w.a.add(r10, groups * GROUP)?;
        self.w.a.add(r11, groups * GROUP_BYTES)
    }

    /// The largest magnitude of each group, in the lanes of `xmm8`.
    fn largest(&mut self) -> Done {
        let a = &mut self.w.a;
        for (i, to) in [zmm8, zmm9, zmm10, zmm11].into_iter().enumerate() {
            a.vrangeps(to, ZMM[2 * i], ZMM[2 * i + 1], MAGNITUDE_MAX)?;
        }
        for (x, y) in [(zmm8, zmm9), (zmm10, zmm11)] {
            a.vunpcklps(zmm12, x, y)?;
            a.vunpckhps(x, x, y)?;
            a.vmaxps(x, x, zmm12)?;
        }
        a.vunpcklpd(zmm12, zmm8, zmm10)?;
        a.vunpckhpd(zmm8, zmm8, zmm10)?;
        a.vmaxps(zmm8, zmm8, zmm12)?;
        a.vextractf64x4(ymm9, zmm8, 1)?;
        a.vmaxps(ymm8, ymm8, ymm9)?;
        a.vextractf128(xmm9, ymm8, 1)?;
        a.vmaxps(xmm8, xmm8, xmm9)
    }

    /// Weights to integers, two groups to a register: those of the first two in `zmm0`, of the others
    /// in `zmm4`, and both to memory. `xmm8` becomes the scales.
    fn integers(&mut self, groups: i32) -> Done {
        let (a, c) = (&mut self.w.a, &self.c);
        a.vpxor(xmm9, xmm9, xmm9)?;
        a.vcmpps(k1, xmm9, xmm8, LESS)?;
        a.vdivps(xmm10.k1().z(), XMM[c.at(127f32.to_bits())], xmm8)?;
        a.vmovups(xmmword_ptr(r9 + INVERSES), xmm10)?;
        a.vmulps(xmm8, xmm8, XMM[c.at((1f32 / 127.0).to_bits())])?;
        for i in 0..2 * groups {
            let x = ZMM[i as usize];
            a.vmulps(x, x, dword_bcst(r9 + (INVERSES + 4 * (i / 2))))?;
            a.vcvtps2dq(x, x)?;
        }
        for pair in 0..BATCH / 2 {
            let x = &ZMM[4 * pair as usize..];
            a.vpackssdw(x[0], x[0], x[1])?;
            a.vpackssdw(x[2], x[2], x[3])?;
            a.vpacksswb(x[0], x[0], x[2])?;
            a.vpermd(x[0], ZMM[ORDER], x[0])?;
            let to = r11 + 2 * pair * GROUP_BYTES;
            if 2 * pair < groups {
                a.vmovdqu(ymmword_ptr(to), YMM[4 * pair as usize])?;
            }
            if 2 * pair + 1 < groups {
                a.vextracti64x4(ymmword_ptr(to + GROUP_BYTES), x[0], 1)?;
            }
        }
        Ok(())
    }

    /// The sum of each group's integers, in the lanes of `xmm9`.
    fn sums(&mut self) -> Done {
        let (a, c) = (&mut self.w.a, &self.c);
        for (x, to) in [(zmm0, zmm9), (zmm4, zmm10)] {
            a.vpmaddubsw(to, ZMM[c.at(ONES)], x)?;
            a.vpmaddwd(to, to, ZMM[c.at(ONE_HALVES)])?;
        }
        // Each register has its first group in its lower half.
        a.vshufi64x2(zmm11, zmm9, zmm10, 0x44)?;
        a.vshufi64x2(zmm9, zmm9, zmm10, 0xee)?;
        a.vpunpckldq(zmm10, zmm11, zmm9)?;
        a.vpunpckhdq(zmm9, zmm11, zmm9)?;
        a.vpaddd(zmm9, zmm9, zmm10)?;
        // Lanes of two groups in turn; two of these 128 bits of groups 0 and 1, two of 2 and 3.
        a.vextracti64x4(ymm10, zmm9, 1)?;
        a.vextracti128(xmm11, ymm9, 1)?;
        a.vpaddd(xmm9, xmm9, xmm11)?;
        a.vextracti128(xmm11, ymm10, 1)?;
        a.vpaddd(xmm10, xmm10, xmm11)?;
        a.vpunpcklqdq(xmm11, xmm9, xmm10)?;
        a.vpunpckhqdq(xmm9, xmm9, xmm10)?;
        a.vpaddd(xmm9, xmm9, xmm11)
    }

    /// Records from the scales in `xmm8` and the sums in `xmm9`.
    fn records(&mut self, groups: i32) -> Done {
        let a = &mut self.w.a;
        a.vcvtdq2ps(xmm10, xmm9)?;
        a.vmulps(xmm10, xmm10, xmm8)?;
        a.vpxor(xmm11, xmm11, xmm11)?;
        a.vpsubd(xmm9, xmm11, xmm9)?;
        a.vpslld(xmm11, xmm9, 7)?;
        // Rows of a square are turned to columns.
        const { assert!(NEGATIVE_SUM == 4 && SCALED_SUM == 8 && NEGATIVE_SUM_128 == 12) };
        const { assert!(record_bytes(PANEL_POSITIONS) == 16) };
        a.vunpcklps(xmm0, xmm8, xmm9)?;
        a.vunpckhps(xmm1, xmm8, xmm9)?;
        a.vunpcklps(xmm2, xmm10, xmm11)?;
        a.vunpckhps(xmm3, xmm10, xmm11)?;
        for group in 0..groups {
            let (x, y) = if group < 2 { (xmm0, xmm2) } else { (xmm1, xmm3) };
            match group % 2 {
                0 => a.vunpcklpd(xmm4, x, y)?,
                _ => a.vunpckhpd(xmm4, x, y)?,
            }
            a.vmovups(xmmword_ptr(r11 + (group * GROUP_BYTES + GROUP)), xmm4)?;
        }
        Ok(())
    }

    /// Groups of the block that nothing is seen of; `r10` stands behind the others.
    fn nothing_seen(&mut self) -> Done {
        let (mut more, mut done) = (self.w.a.create_label(), self.w.a.create_label());
        self.w.zero(0)?;
        self.w.a.set_label(&mut more)?;
        self.w.a.cmp(r10, r8)?;
        self.w.a.jge(done)?;
        if self.quantised {
            self.w.a.vmovups(ymmword_ptr(r11), ymm0)?;
            self.w.a.vmovups(xmmword_ptr(r11 + GROUP), xmm0)?;
            self.w.a.add(r11, GROUP_BYTES)?;
        } else {
            for at in (0..4 * GROUP).step_by(self.w.bytes() as usize) {
                self.w.store(rdi + r10 * 4 + at, 0)?;
            }
        }
        self.w.a.add(r10, GROUP)?;
        self.w.a.jmp(more)?;
        self.w.a.set_label(&mut done)?;
        self.w.a.zero_bytes()
    }
}
