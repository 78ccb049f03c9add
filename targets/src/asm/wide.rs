//! x86-64 vectors of 256 or 512 bits by register number: one spelling for both widths, so that a
//! kernel is written once.

use super::Code;
use super::x64::{YMM, ZMM, listing};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Registers saved on entry.
pub const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];
/// Bytes from the stack pointer to the first argument on the stack, once those are saved.
pub const ARGUMENTS: i32 = 8 * SAVED.len() as i32 + 8;

/// An assembler of one width.
pub struct Wide {
    /// Scalar instructions and branches.
    pub a: CodeAssembler,
    /// 512 bits, else 256.
    pub zmm: bool,
    /// Bytes on the stack beside saved registers: for good, for a while, the most so far.
    local_bytes: u32,
    pushed_bytes: u32,
    frame_bytes: u32,
}

type Done = Result<(), IcedError>;

/// One method per instruction with the same operands at both widths: name, 512, 256.
macro_rules! same {
    ($($(#[$doc:meta])* $name:ident($($reg:ident),+) $z:ident $y:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, $($reg: usize),+) -> Done {
            match self.zmm {
                true => self.a.$z($(ZMM[$reg]),+),
                false => self.a.$y($(YMM[$reg]),+),
            }
        })*
    };
}

/// One method per instruction whose last operand is a constant.
macro_rules! with_constant {
    ($($(#[$doc:meta])* $name:ident($($reg:ident),+) $i:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self, $($reg: usize,)+ c: Constant) -> Done {
            match c {
                Constant::Register(c) => self.a.$i($(ZMM[$reg],)+ ZMM[c]),
                Constant::Memory(at) => self.a.$i($(YMM[$reg],)+ ymmword_ptr(at)),
            }
        })*
    };
}

/// Where a constant is that every lane has: vectors of 256 bits have half as many registers.
#[derive(Clone, Copy)]
pub enum Constant {
    /// 512 bits.
    Register(usize),
    /// 256 bits.
    Memory(AsmMemoryOperand),
}

impl Wide {
    /// Starts a function: saves registers.
    pub fn new(zmm: bool) -> Result<Wide, IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.set_prefer_vex(!zmm);
        SAVED.iter().try_for_each(|r| a.push(*r))?;
        Ok(Wide { a, zmm, local_bytes: 0, pushed_bytes: 0, frame_bytes: 0 })
    }

    /// Where argument `i` of those on the stack is.
    pub fn argument(&self, i: i32) -> AsmMemoryOperand {
        qword_ptr(rsp + (ARGUMENTS + 8 * i + (self.local_bytes + self.pushed_bytes) as i32))
    }

    /// Takes bytes of the stack, until the end.
    pub fn reserve(&mut self, bytes: u32) -> Done {
        self.local_bytes += bytes;
        self.pushed(0);
        self.a.sub(rsp, bytes as i32)
    }

    /// Several registers on the stack; `restore` takes them back.
    pub fn keep(&mut self, registers: &[AsmRegister64]) -> Done {
        self.pushed(8 * registers.len() as u32);
        registers.iter().try_for_each(|r| self.a.push(*r))
    }

    fn pushed(&mut self, bytes: u32) {
        self.pushed_bytes += bytes;
        self.frame_bytes = self.frame_bytes.max(self.local_bytes + self.pushed_bytes);
    }

    /// What `keep` put on the stack.
    pub fn restore(&mut self, registers: &[AsmRegister64]) -> Done {
        self.pushed_bytes -= 8 * registers.len() as u32;
        registers.iter().rev().try_for_each(|r| self.a.pop(*r))
    }

    /// Ends the function.
    pub fn finish(mut self) -> Result<Code, IcedError> {
        self.a.vzeroupper()?;
        if self.local_bytes > 0 {
            self.a.add(rsp, self.local_bytes as i32)?;
        }
        SAVED.iter().rev().try_for_each(|r| self.a.pop(*r))?;
        self.a.ret()?;
        let bytes = self.a.assemble(0)?;
        let text = listing(&bytes);
        let frame_bytes = 8 * SAVED.len() as u32 + self.frame_bytes;
        Ok(Code { bytes, frame_bytes, text })
    }

    /// Bytes of a vector.
    pub fn bytes(&self) -> i32 {
        if self.zmm { 64 } else { 32 }
    }

    /// Lanes of 32 bits.
    pub fn lanes(&self) -> u64 {
        if self.zmm { 16 } else { 8 }
    }

    same! {
        /// `to = 0`, given `to` twice more.
        xor(to, a, b) vpxord vpxor;
        /// `to = a & b`.
        and(to, a, b) vpandd vpand;
        /// 32-bit lanes.
        add_i32(to, a, b) vpaddd vpaddd;
        /// 8-bit lanes.
        add_i8(to, a, b) vpaddb vpaddb;
        /// 16-bit lanes.
        add_i16(to, a, b) vpaddw vpaddw;
        /// Neighbouring products of unsigned `a` and signed `b`, added in pairs to 16 bits.
        madd_u8(to, a, b) vpmaddubsw vpmaddubsw;
        /// Neighbouring products of 16 bits, added in pairs to 32 bits.
        madd_i16(to, a, b) vpmaddwd vpmaddwd;
        /// `to += a · b` over four bytes a lane, `a` unsigned, `b` signed.
        dot_u8(to, a, b) vpdpbusd vpdpbusd;
        /// 8-bit lanes.
        sub_i8(to, a, b) vpsubb vpsubb;
        /// 32-bit lanes.
        sub_i32(to, a, b) vpsubd vpsubd;
        /// Low halves of products of 16 bits.
        mul_i16(to, a, b) vpmullw vpmullw;
        /// `to += a · b` over two halves a lane, both signed.
        dot_i16(to, a, b) vpdpwssd vpdpwssd;
        /// In each 16 bytes, those of `table` at places `at`, each below 16.
        pick(to, table, at) vpshufb vpshufb;
        /// `a | b`.
        or(to, a, b) vpord vpor;
        /// Integers to floats.
        to_float(to, from) vcvtdq2ps vcvtdq2ps;
        /// Floats to integers.
        to_integer(to, from) vcvtps2dq vcvtps2dq;
        /// Floats.
        mul(to, a, b) vmulps vmulps;
        /// `to += a · b`, rounded once.
        fma(to, a, b) vfmadd231ps vfmadd231ps;
        /// `to = to · a + b`, rounded once.
        times_plus(to, a, b) vfmadd213ps vfmadd213ps;
        /// Floats.
        add(to, a, b) vaddps vaddps;
        /// Floats.
        sub(to, a, b) vsubps vsubps;
        /// Floats: the larger.
        max(to, a, b) vmaxps vmaxps;
        /// Floats.
        div(to, a, b) vdivps vdivps;
    }

    with_constant! {
        /// Floats: `a + c`.
        add_constant(to, a) vaddps;
        /// Floats: `a - c`.
        sub_constant(to, a) vsubps;
        /// Floats: `a · c`.
        mul_constant(to, a) vmulps;
        /// Floats: the larger.
        max_constant(to, a) vmaxps;
        /// Floats: the smaller.
        min_constant(to, a) vminps;
        /// The bits of floats: `a ^ c`.
        xor_constant(to, a) vxorps;
        /// Floats: `to = to · a + c`, rounded once.
        times_plus_constant(to, a) vfmadd213ps;
        /// Floats: `to = to · c + a`, rounded once.
        times_constant_plus(to, a) vfmadd132ps;
        /// Floats: `to += a · c`, rounded once.
        fma_constant(to, a) vfmadd231ps;
        /// A whole constant.
        load_constant(to) vmovaps;
    }

    /// `to = 0`.
    pub fn zero(&mut self, to: usize) -> Done {
        self.xor(to, to, to)
    }

    /// `to = from`.
    pub fn copy(&mut self, to: usize, from: usize) -> Done {
        match self.zmm {
            true => self.a.vmovdqa32(ZMM[to], ZMM[from]),
            false => self.a.vmovdqa(YMM[to], YMM[from]),
        }
    }

    /// 16-bit lanes shifted right, zeros in.
    pub fn shr_i16(&mut self, to: usize, from: usize, by: u32) -> Done {
        match self.zmm {
            true => self.a.vpsrlw(ZMM[to], ZMM[from], by),
            false => self.a.vpsrlw(YMM[to], YMM[from], by),
        }
    }

    /// 16-bit lanes in memory shifted left, or right by a negative number, zeros in.
    pub fn load_shifted(&mut self, to: usize, at: AsmMemoryOperand, left: i64) -> Done {
        let by = left.unsigned_abs() as u32;
        if !self.zmm && left != 0 {
            self.load(to, at)?;
        }
        match (self.zmm, left > 0) {
            _ if left == 0 => self.load(to, at),
            (true, true) => self.a.vpsllw(ZMM[to], zmmword_ptr(at), by),
            (true, false) => self.a.vpsrlw(ZMM[to], zmmword_ptr(at), by),
            (false, true) => self.a.vpsllw(YMM[to], YMM[to], by),
            (false, false) => self.a.vpsrlw(YMM[to], YMM[to], by),
        }
    }

    /// `to = a & [at]`.
    pub fn and_from(&mut self, to: usize, a: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vpandd(ZMM[to], ZMM[a], zmmword_ptr(at)),
            false => self.a.vpand(YMM[to], YMM[a], ymmword_ptr(at)),
        }
    }

    /// `to = a ^ [at]`.
    pub fn xor_from(&mut self, to: usize, a: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vpxord(ZMM[to], ZMM[a], zmmword_ptr(at)),
            false => self.a.vpxor(YMM[to], YMM[a], ymmword_ptr(at)),
        }
    }

    /// Magnitudes of signed bytes, 256 bits only.
    pub fn magnitude(&mut self, to: usize, of: usize) -> Done {
        self.a.vpabsb(YMM[to], YMM[of])
    }

    /// Bytes `a` with the sign that they and those of `by` have together, 256 bits only.
    pub fn with_sign(&mut self, to: usize, a: usize, by: usize) -> Done {
        self.a.vpsignb(YMM[to], YMM[a], YMM[by])
    }

    /// `to |= a & b`; `a` is lost.
    pub fn or_and(&mut self, to: usize, a: usize, b: usize) -> Done {
        match self.zmm {
            true => self.a.vpternlogd(ZMM[to], ZMM[a], ZMM[b], 0b1111_1000),
            false => {
                self.a.vpand(YMM[a], YMM[a], YMM[b])?;
                self.a.vpor(YMM[to], YMM[to], YMM[a])
            }
        }
    }

    /// Every 16 bytes the same; `rax` is lost.
    pub fn constant_bytes(&mut self, to: usize, bytes: [u8; 16]) -> Done {
        let [low, high] =
            [0, 8].map(|i| u64::from_le_bytes(bytes[i..][..8].try_into().expect("eight")));
        for half in [high, low] {
            self.a.mov(rax, half)?;
            self.keep(&[rax])?;
        }
        match self.zmm {
            true => self.a.vbroadcasti32x4(ZMM[to], xmmword_ptr(rsp))?,
            false => self.a.vbroadcasti128(YMM[to], xmmword_ptr(rsp))?,
        }
        self.restore(&[rax, rax])
    }

    /// 32-bit lanes shifted right, zeros in.
    pub fn shr_i32(&mut self, to: usize, from: usize, by: u32) -> Done {
        match self.zmm {
            true => self.a.vpsrld(ZMM[to], ZMM[from], by),
            false => self.a.vpsrld(YMM[to], YMM[from], by),
        }
    }

    /// Bytes in memory to 32-bit lanes, zero-extended.
    pub fn load_bytes(&mut self, to: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vpmovzxbd(ZMM[to], xmmword_ptr(at)),
            false => self.a.vpmovzxbd(YMM[to], qword_ptr(at)),
        }
    }

    /// 32-bit lanes shifted left.
    pub fn shl_i32(&mut self, to: usize, from: usize, by: u32) -> Done {
        match self.zmm {
            true => self.a.vpslld(ZMM[to], ZMM[from], by),
            false => self.a.vpslld(YMM[to], YMM[from], by),
        }
    }

    /// A whole vector.
    pub fn load(&mut self, to: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vmovdqu64(ZMM[to], zmmword_ptr(at)),
            false => self.a.vmovdqu(YMM[to], ymmword_ptr(at)),
        }
    }

    /// A whole vector.
    pub fn store(&mut self, at: AsmMemoryOperand, from: usize) -> Done {
        match self.zmm {
            true => self.a.vmovups(zmmword_ptr(at), ZMM[from]),
            false => self.a.vmovups(ymmword_ptr(at), YMM[from]),
        }
    }

    /// Every lane of 32 bits from one in memory.
    pub fn splat(&mut self, to: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vpbroadcastd(ZMM[to], dword_ptr(at)),
            false => self.a.vpbroadcastd(YMM[to], dword_ptr(at)),
        }
    }

    /// Every lane of 32 bits the same; `eax` is lost.
    pub fn constant(&mut self, to: usize, bits: u32) -> Done {
        self.a.mov(eax, bits)?;
        match self.zmm {
            true => self.a.vpbroadcastd(ZMM[to], eax),
            false => {
                self.a.vmovd(XMM[to], eax)?;
                self.a.vpbroadcastd(YMM[to], XMM[to])
            }
        }
    }

    /// Halves in memory to floats.
    pub fn load_halves(&mut self, to: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vcvtph2ps(ZMM[to], ymmword_ptr(at)),
            false => self.a.vcvtph2ps(YMM[to], xmmword_ptr(at)),
        }
    }

    /// `to = a · [at]`, floats.
    pub fn mul_from(&mut self, to: usize, a: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vmulps(ZMM[to], ZMM[a], zmmword_ptr(at)),
            false => self.a.vmulps(YMM[to], YMM[a], ymmword_ptr(at)),
        }
    }

    /// Every lane from a float in memory.
    pub fn splat_float(&mut self, to: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vbroadcastss(ZMM[to], dword_ptr(at)),
            false => self.a.vbroadcastss(YMM[to], dword_ptr(at)),
        }
    }

    /// Every lane the first float of `from`.
    pub fn spread(&mut self, to: usize, from: AsmRegisterXmm) -> Done {
        match self.zmm {
            true => self.a.vbroadcastss(ZMM[to], from),
            false => self.a.vbroadcastss(YMM[to], from),
        }
    }

    /// `to = a + [at]`, floats.
    pub fn add_from(&mut self, to: usize, a: usize, at: AsmMemoryOperand) -> Done {
        match self.zmm {
            true => self.a.vaddps(ZMM[to], ZMM[a], zmmword_ptr(at)),
            false => self.a.vaddps(YMM[to], YMM[a], ymmword_ptr(at)),
        }
    }
}

const XMM: [AsmRegisterXmm; 16] = [
    xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14,
    xmm15,
];
