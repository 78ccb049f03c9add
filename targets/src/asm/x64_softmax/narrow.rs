//! Passes over the positions that a row sees, 256 bits wide: a group at a time, four vectors of it.

use super::super::x64::YMM;
use super::super::x64_math::{Done, exp, exp2};
use super::super::x64_quant_rows::quantise;
use super::{GROUP, Softmax, start, sum};
use crate::kernels::softmax::running;
use iced_x86::code_asm::*;

/// Vectors of a group.
const VECTORS: usize = GROUP as usize / 8;
/// Which lanes are seen.
const MASK: AsmRegisterYmm = ymm4;
/// How many positions are seen from those at hand on.
const SEEN: AsmRegisterYmm = ymm5;
/// How many positions a window hides from there on.
const HIDDEN: AsmRegisterYmm = ymm13;
/// Lanes that the window hides.
const NOT: AsmRegisterYmm = ymm8;

impl Softmax {
    /// The maximum of what the row sees, among the lanes of `ymm0`.
    pub(super) fn narrow_highest(&mut self) -> Done {
        let lowest = self.c.float(running::NOTHING.0);
        (0..2).try_for_each(|x| self.w.load_constant(x, lowest))?;
        self.w.a.xor(r10d, r10d)?;
        self.each_group(|s, masked| {
            for i in 0..VECTORS {
                s.w.load(2, rdi + r10 * 4 + 32 * i as i32)?;
                if masked {
                    s.next_narrow_mask()?;
                    s.w.load_constant(3, lowest)?;
                    s.w.a.vblendvps(ymm2, ymm3, ymm2, MASK)?;
                }
                s.w.max(i % 2, i % 2, 2)?;
            }
            Ok(())
        })?;
        self.w.max(0, 0, 1)
    }

    /// Weights, as floats or quantised.
    pub(super) fn narrow_groups(&mut self) -> Done {
        self.each_group(|s, masked| match s.quantised {
            true => s.quantised_group(masked),
            false => s.float_group(masked),
        })
    }

    /// Groups from that at `r10` on as long as the row sees some of them: those that it sees whole, and
    /// those of which masks hide some.
    fn each_group(&mut self, group: impl Fn(&mut Softmax, bool) -> Done) -> Done {
        let (mut more, mut masked, mut next, mut done) = (
            self.w.a.create_label(),
            self.w.a.create_label(),
            self.w.a.create_label(),
            self.w.a.create_label(),
        );
        self.w.a.set_label(&mut more)?;
        self.w.a.cmp(r10, rbp)?;
        self.w.a.jge(done)?;
        self.w.a.lea(rax, qword_ptr(r10 + GROUP))?;
        self.w.a.cmp(rax, rbp)?;
        self.w.a.jg(masked)?;
        if self.window.is_some() {
            self.w.a.cmp(r10, r14)?;
            self.w.a.jl(masked)?;
        }
        group(self, false)?;
        self.w.a.jmp(next)?;
        self.w.a.set_label(&mut masked)?;
        self.start_narrow_masks()?;
        group(self, true)?;
        self.w.a.set_label(&mut next)?;
        self.w.a.add(r10, GROUP)?;
        self.w.a.jmp(more)?;
        self.w.a.set_label(&mut done)?;
        self.w.a.zero_bytes()
    }

    fn start_narrow_masks(&mut self) -> Done {
        let window = self.window.map(|_| (HIDDEN, r14d));
        for (to, end) in [(SEEN, ebp)].into_iter().chain(window) {
            self.w.a.mov(eax, end)?;
            self.w.a.sub(eax, r10d)?;
            self.w.a.vmovd(xmm4, eax)?;
            self.w.a.vpbroadcastd(to, xmm4)?;
        }
        Ok(())
    }

    /// `MASK`: the next eight positions that are seen.
    fn next_narrow_mask(&mut self) -> Done {
        let places = YMM[self.places];
        let eight = self.c.get(super::NARROW_LANES);
        let window = self.window.map(|_| HIDDEN);
        self.w.a.vpcmpgtd(MASK, SEEN, places)?;
        if let Some(hidden) = window {
            self.w.a.vpcmpgtd(NOT, hidden, places)?;
            self.w.a.vpandn(MASK, NOT, MASK)?;
        }
        self.w.load_constant(8, eight)?;
        for end in [SEEN].into_iter().chain(window) {
            self.w.a.vpsubd(end, end, ymm8)?;
        }
        Ok(())
    }

    fn float_group(&mut self, masked: bool) -> Done {
        for i in 0..VECTORS {
            let at = rdi + r10 * 4 + 32 * i as i32;
            self.w.load(0, at)?;
            self.w.sub(0, 0, start(&self.w))?;
            self.w.mul_constant(0, 0, self.c.float(self.factor))?;
            exp(&mut self.w, &self.c, 0)?;
            self.hide_unseen(0, masked)?;
            let sum = sum(&self.w) + i % 2;
            self.w.add(sum, sum, 0)?;
            self.w.store(at, 0)?;
        }
        Ok(())
    }

    fn quantised_group(&mut self, masked: bool) -> Done {
        for i in 0..VECTORS {
            self.w.load(i, rdi + r10 * 4 + 32 * i as i32)?;
            self.w.times_constant_plus(i, start(&self.w), self.c.float(self.factor))?;
            exp2(&mut self.w, &self.c, i)?;
            self.hide_unseen(i, masked)?;
            let sum = sum(&self.w) + i % 2;
            self.w.add(sum, sum, i)?;
            self.w.mul_from(i, i, r12 + r10 * 4 + 32 * i as i32)?;
        }
        quantise(&mut self.w, &self.c, GROUP)
    }

    /// What is not seen becomes 0.
    fn hide_unseen(&mut self, x: usize, masked: bool) -> Done {
        if !masked {
            return Ok(());
        }
        self.next_narrow_mask()?;
        self.w.a.vandps(YMM[x], YMM[x], MASK)
    }
}
