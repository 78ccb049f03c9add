//! `rms_norm`, alone and with the `quant_rows` that takes its result, 512 bits wide (AVX-512 F, DQ).
//!
//! The same arithmetic in the same order as the CLIF kernels.

use super::Code;
use super::wide::Wide;
use super::x64::ZMM;
use super::x64_math::{Constants, Done, XMM, sum_chains};
use super::x64_quant_rows::{order, quant_constants, quantise, vectors};
use crate::kernels::rms_norm::Shape;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// `rms_norm` and `quant_rows` in groups of `group`: parameters x, y, gain (or 0), rows, x_stride,
/// y_stride.
pub fn rms_norm_quant(shape: Shape, group: u64) -> Code {
    write_rms_norm_quant(shape, group as i32).expect("the kernel's operands are encodable")
}

/// `rms_norm` over groups of a multiple of 16: parameters x, y, gain (or 0), rows, row stride.
pub fn rms_norm(shape: Shape) -> Code {
    write_rms_norm(shape).expect("the kernel's operands are encodable")
}

/// One over the root mean square of the row at hand, in every lane.
const INVERSE: AsmRegisterZmm = zmm16;
/// The same of the row after it.
const NEXT_INVERSE: AsmRegisterZmm = zmm17;

fn write_rms_norm_quant(shape: Shape, group: i32) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    order(&mut w)?;
    let scalars = [shape.width as f32, shape.eps, 1.0].map(f32::to_bits);
    let c = Constants::new(&mut w, &[&quant_constants()[..], &scalars].concat())?;
    let (mut row, mut last, mut groups, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.mov(rbx, rdi)?;
    inverse(&mut w, &c, NEXT_INVERSE, (shape.width, shape.eps))?;
    w.a.set_label(&mut row)?;
    w.a.vmovaps(INVERSE, NEXT_INVERSE)?;
    // The next row's is a long chain: it runs beside the groups of this row.
    w.a.test(rcx, rcx)?;
    w.a.jz(last)?;
    w.a.lea(rbx, qword_ptr(rdi + r8))?;
    inverse(&mut w, &c, NEXT_INVERSE, (shape.width, shape.eps))?;
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

/// One over the root mean square of the row at `rbx`, of so many elements and with so much added to the
/// mean, in every lane of `to`.
fn inverse(w: &mut Wide, c: &Constants, to: AsmRegisterZmm, (width, eps): (u64, f32)) -> Done {
    let mut squares = w.a.create_label();
    // The lanes of one vector are the four chains of four lanes that CLIF adds up.
    w.zero(0)?;
    w.a.xor(r10d, r10d)?;
    w.a.set_label(&mut squares)?;
    w.load(1, rbx + r10 * 1)?;
    w.fma(0, 1, 1)?;
    w.a.add(r10, 64)?;
    w.a.cmp(r10, width as i32 * 4)?;
    w.a.jl(squares)?;
    sum_chains(w, 0, xmm0)?;
    let [width, eps, one] = [width as f32, eps, 1.0].map(|x| XMM[c.at(x.to_bits())]);
    w.a.vdivss(xmm0, xmm0, width)?;
    w.a.vaddss(xmm0, xmm0, eps)?;
    w.a.vsqrtss(xmm0, xmm0, xmm0)?;
    w.a.vdivss(xmm0, one, xmm0)?;
    w.a.vbroadcastss(to, xmm0)
}

fn write_rms_norm(shape: Shape) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    let scalars = [shape.group as f32, shape.eps, 1.0].map(f32::to_bits);
    let c = Constants::new(&mut w, &scalars)?;
    let (mut row, mut group, mut vector, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    w.a.set_label(&mut row)?;
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.xor(r12d, r12d)?;
    w.a.set_label(&mut group)?;
    w.a.lea(rbx, qword_ptr(rdi + r12))?;
    inverse(&mut w, &c, INVERSE, (shape.group, shape.eps))?;
    w.a.lea(r13, qword_ptr(rsi + r12))?;
    w.a.xor(r10d, r10d)?;
    w.a.set_label(&mut vector)?;
    w.a.vmulps(zmm0, INVERSE, zmmword_ptr(rbx + r10 * 1))?;
    if shape.gain {
        w.a.vmulps(zmm0, zmm0, zmmword_ptr(rdx + r10 * 1))?;
    }
    w.a.vmovups(zmmword_ptr(r13 + r10 * 1), zmm0)?;
    w.a.add(r10, 64)?;
    w.a.cmp(r10, shape.group as i32 * 4)?;
    w.a.jl(vector)?;
    w.a.add(r12, shape.group as i32 * 4)?;
    w.a.cmp(r12, (shape.width / shape.group * shape.group) as i32 * 4)?;
    w.a.jl(group)?;
    w.a.add(rdi, r8)?;
    w.a.add(rsi, r8)?;
    w.a.jmp(row)?;
    w.a.set_label(&mut done)?;
    w.finish()
}
