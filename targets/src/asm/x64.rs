//! x86-64 panel kernels, 256 and 512 bits wide (AVX2 with FMA and F16C; AVX-512 F, VL, DQ).
//!
//! Same parameters and same order of arithmetic as the CLIF kernel in `kernels/panel.rs`, System V:
//! `rdi` w, `rsi` x, `rdx` y, `rcx` k, `r8` x_stride, `r9` y_stride, first stack slot residual.

use super::Code;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, IcedError, NasmFormatter};
use ir::DType;

/// Registers saved on entry.
pub(super) const SAVED: [AsmRegister64; 5] = [rbx, rbp, r12, r13, r14];
/// Stack they take.
pub(super) const FRAME_BYTES: u32 = 8 * SAVED.len() as u32;
/// One base register for every three rows of `x`: addresses are base, base + r8, base + 2·r8.
pub(super) const BASES: [AsmRegister64; 4] = [rax, r11, rbx, rbp];

pub(super) const ZMM: [AsmRegisterZmm; 32] = [
    zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14,
    zmm15, zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23, zmm24, zmm25, zmm26, zmm27,
    zmm28, zmm29, zmm30, zmm31,
];
pub(super) const YMM: [AsmRegisterYmm; 16] = [
    ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14,
    ymm15,
];

/// Bytes that memory gives at once.
pub(super) const LINE: usize = 64;
/// How far ahead weights are fetched that one row is multiplied with: into the first cache, into the
/// second. One row takes less time for them than memory does, and what the machine fetches by itself
/// ends with each page.
pub(super) const AHEAD_BYTES: i32 = 2048;
const FAR_AHEAD_BYTES: i32 = 16384;

/// Fetches what is ahead of the line at `at`. Into the second cache only where vectors are wide or
/// there is a dot product: CPUs with no more than AVX2 have memory busy with one request for a line, and
/// a second one keeps another waiting.
pub(super) fn fetch_ahead(
    a: &mut CodeAssembler,
    at: AsmMemoryOperand,
    second: bool,
) -> Result<(), IcedError> {
    if second {
        a.prefetcht1(at + FAR_AHEAD_BYTES)?;
    }
    a.prefetcht0(at + AHEAD_BYTES)
}

/// The kernel for `m` rows of `x` and a panel of `width` rows, `lanes` (8 or 16) floats a vector.
pub fn panel(dtype: DType, width: u64, m: u64, lanes: u64) -> Code {
    let shape = Shape { dtype, width, m: m as usize, lanes };
    finish(assemble(&shape).expect("the kernel's operands are encodable"))
}

/// The code of a kernel that saves `SAVED`.
pub(super) fn finish(mut a: CodeAssembler) -> Code {
    let bytes = a.assemble(0).expect("branches are in range");
    let text = listing(&bytes);
    Code { bytes, frame_bytes: FRAME_BYTES, text }
}

struct Shape {
    dtype: DType,
    width: u64,
    m: usize,
    lanes: u64,
}

impl Shape {
    /// Vectors of weight rows accumulated at once: what the registers hold beside the weights.
    fn slice(&self) -> usize {
        let all = (self.width / self.lanes) as usize;
        let registers = if self.lanes == 16 { ZMM.len() } else { YMM.len() - 1 };
        all.min(registers / (self.m + 1))
    }

    /// Whether several rows fetch the next panel, as in `x64_int`.
    fn fetches_panel(&self) -> bool {
        self.lanes == 8 && self.m > 1
    }

    /// Bytes from one `k` to the next.
    fn step(&self) -> i32 {
        (self.width * self.dtype.bytes()) as i32
    }

    /// Bytes of one vector of weights.
    fn vector(&self) -> i32 {
        (self.lanes * self.dtype.bytes()) as i32
    }
}

fn assemble(shape: &Shape) -> Result<CodeAssembler, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.set_prefer_vex(shape.lanes == 8);
    for r in SAVED {
        a.push(r)?;
    }
    let all = (shape.width / shape.lanes) as usize;
    let mut first = 0;
    while first < all {
        let vectors = shape.slice().min(all - first);
        slice(&mut a, shape, first, vectors)?;
        first += vectors;
    }
    a.vzeroupper()?;
    for r in SAVED.iter().rev() {
        a.pop(*r)?;
    }
    a.ret()?;
    Ok(a)
}

/// Weight rows `first..first + vectors`, in vectors: the whole sum over `k`, then the stores.
fn slice(a: &mut CodeAssembler, s: &Shape, first: usize, vectors: usize) -> Result<(), IcedError> {
    let offset = first as i32 * s.vector();
    a.lea(r10, qword_ptr(rdi + offset))?;
    a.mov(BASES[0], rsi)?;
    a.lea(r12, qword_ptr(r8 + r8 * 2))?;
    for g in 1..s.m.div_ceil(3) {
        a.lea(BASES[g], qword_ptr(BASES[g - 1] + r12))?;
    }
    for i in 0..s.m * vectors {
        zero(a, s, i)?;
    }
    let (mut four, mut tail, mut one, mut done) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    if s.fetches_panel() {
        a.imul_3(r14, rcx, s.step())?;
    }
    a.mov(r13, rcx)?;
    a.sub(r13, 4)?;
    a.jl(tail)?;
    a.set_label(&mut four)?;
    fetch(a, s, first, offset)?;
    step(a, s, vectors, 4)?;
    a.sub(r13, 4)?;
    a.jge(four)?;
    a.set_label(&mut tail)?;
    a.add(r13, 4)?;
    a.jz(done)?;
    a.set_label(&mut one)?;
    step(a, s, vectors, 1)?;
    a.dec(r13)?;
    a.jnz(one)?;
    a.set_label(&mut done)?;
    write(a, s, first, vectors)
}

/// Fetches with four `k` the lines that are then due: of one row those ahead, of several rows those of
/// the next panel, `r14` bytes on, of which each slice takes some.
fn fetch(a: &mut CodeAssembler, s: &Shape, first: usize, offset: i32) -> Result<(), IcedError> {
    let mut lines = (0..4 * s.step()).step_by(LINE);
    if s.m == 1 && first == 0 {
        return lines.try_for_each(|line| fetch_ahead(a, r10 + line, s.lanes == 16));
    }
    if !s.fetches_panel() {
        return Ok(());
    }
    let (own, slices) = (first / s.slice(), ((s.width / s.lanes) as usize).div_ceil(s.slice()));
    let mut lines = lines.skip(own).step_by(slices);
    lines.try_for_each(|line| a.prefetcht0(r10 + r14 + (line - offset)))
}

/// `unroll` values of `k`.
fn step(a: &mut CodeAssembler, s: &Shape, vectors: usize, unroll: i32) -> Result<(), IcedError> {
    let weights = s.m * vectors;
    for u in 0..unroll {
        for j in 0..vectors {
            load(a, s, weights + j, u * s.step() + j as i32 * s.vector())?;
        }
        for t in 0..s.m {
            let value = row(t) + u * 4;
            if s.lanes == 16 {
                for j in 0..vectors {
                    let sum = ZMM[t * vectors + j];
                    a.vfmadd231ps(sum, ZMM[weights + j], dword_bcst(value))?;
                }
            } else {
                a.vbroadcastss(ymm15, dword_ptr(value))?;
                for j in 0..vectors {
                    a.vfmadd231ps(YMM[t * vectors + j], YMM[weights + j], ymm15)?;
                }
            }
        }
    }
    a.add(r10, s.step() * unroll)?;
    for base in &BASES[..s.m.div_ceil(3)] {
        a.add(*base, 4 * unroll)?;
    }
    Ok(())
}

/// Address of row `t` of `x`.
pub(super) fn row(t: usize) -> AsmMemoryOperand {
    let base = BASES[t / 3];
    match t % 3 {
        0 => base + 0,
        1 => base + r8,
        _ => base + r8 * 2,
    }
}

fn zero(a: &mut CodeAssembler, s: &Shape, i: usize) -> Result<(), IcedError> {
    if s.lanes == 16 { a.vpxord(ZMM[i], ZMM[i], ZMM[i]) } else { a.vxorps(YMM[i], YMM[i], YMM[i]) }
}

/// Register `i` becomes the vector of weights at `r10 + offset`, as f32.
fn load(a: &mut CodeAssembler, s: &Shape, i: usize, offset: i32) -> Result<(), IcedError> {
    let at = r10 + offset;
    match (s.dtype, s.lanes) {
        (DType::F32, 16) => a.vmovups(ZMM[i], zmmword_ptr(at)),
        (DType::F32, _) => a.vmovups(YMM[i], ymmword_ptr(at)),
        (DType::F16, 16) => a.vcvtph2ps(ZMM[i], ymmword_ptr(at)),
        (DType::F16, _) => a.vcvtph2ps(YMM[i], xmmword_ptr(at)),
        (DType::BF16, 16) => {
            a.vpmovzxwd(ZMM[i], ymmword_ptr(at))?;
            a.vpslld(ZMM[i], ZMM[i], 16)
        }
        (DType::BF16, _) => {
            a.vpmovzxwd(YMM[i], xmmword_ptr(at))?;
            a.vpslld(YMM[i], YMM[i], 16)
        }
        (DType::I32 | DType::Int(_), _) => unreachable!("this kernel takes floats"),
    }
}

/// Sums to `y`, with the residual added where there is one.
fn write(a: &mut CodeAssembler, s: &Shape, first: usize, vectors: usize) -> Result<(), IcedError> {
    let (mut plain, mut done) = (a.create_label(), a.create_label());
    let at = first as i32 * s.lanes as i32 * 4;
    a.mov(r12, rdx)?;
    a.mov(r14, qword_ptr(rsp + (FRAME_BYTES as i32 + 8)))?;
    a.test(r14, r14)?;
    a.jz(plain)?;
    for t in 0..s.m {
        for j in 0..vectors {
            let place = at + j as i32 * s.lanes as i32 * 4;
            let i = t * vectors + j;
            if s.lanes == 16 {
                a.vaddps(ZMM[i], ZMM[i], zmmword_ptr(r14 + place))?;
                a.vmovups(zmmword_ptr(r12 + place), ZMM[i])?;
            } else {
                a.vaddps(YMM[i], YMM[i], ymmword_ptr(r14 + place))?;
                a.vmovups(ymmword_ptr(r12 + place), YMM[i])?;
            }
        }
        a.add(r12, r9)?;
        a.add(r14, r9)?;
    }
    a.jmp(done)?;
    a.set_label(&mut plain)?;
    for t in 0..s.m {
        for j in 0..vectors {
            let place = at + j as i32 * s.lanes as i32 * 4;
            let i = t * vectors + j;
            if s.lanes == 16 {
                a.vmovups(zmmword_ptr(r12 + place), ZMM[i])?;
            } else {
                a.vmovups(ymmword_ptr(r12 + place), YMM[i])?;
            }
        }
        a.add(r12, r9)?;
    }
    a.set_label(&mut done)?;
    a.zero_bytes()
}

/// The instructions as NASM text.
pub(super) fn listing(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut formatter = NasmFormatter::new();
    for instruction in &mut Decoder::new(64, bytes, DecoderOptions::NONE) {
        text.push_str("  ");
        formatter.format(&instruction, &mut text);
        text.push('\n');
    }
    text
}
