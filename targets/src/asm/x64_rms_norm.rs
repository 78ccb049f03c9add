//! `rms_norm`, alone and with the `quant_rows` that takes its result, 256 bits wide (AVX2) and 512
//! (AVX-512 F, DQ).
//!
//! The same arithmetic in the same order as the CLIF kernels.

use super::Code;
use super::wide::Wide;
use super::x64::{YMM, ZMM};
use super::x64_math::{Constants, Done, chain_registers, sum_chains};
use super::x64_quant_rows::{order, quant_constants, quantise, vectors};
use crate::kernels::rms_norm::Shape;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// `rms_norm` and `quant_rows` in groups of `group`: parameters x, y, gain (or 0), rows, x_stride,
/// y_stride.
pub fn rms_norm_quant(zmm: bool, shape: Shape, group: u64) -> Code {
    write_rms_norm_quant(zmm, shape, group as i32).expect("the kernel's operands are encodable")
}

/// `rms_norm` over groups of a multiple of 16: parameters x, y, gain (or 0), rows, row stride.
pub fn rms_norm(zmm: bool, shape: Shape) -> Code {
    write_rms_norm(zmm, shape).expect("the kernel's operands are encodable")
}

/// Registers of one over the root mean square of the row at hand and of the row after it, in every lane.
fn inverses(w: &Wide) -> [usize; 2] {
    if w.zmm { [16, 17] } else { [12, 13] }
}

fn write_rms_norm_quant(zmm: bool, shape: Shape, group: i32) -> Result<Code, IcedError> {
    let mut w = Wide::new(zmm)?;
    order(&mut w)?;
    let scalars = [shape.width as f32, shape.eps, 1.0].map(f32::to_bits);
    let c = [&quant_constants(&w)[..], &scalars].concat();
    let c = Constants::new(&mut w, &c)?;
    let [of_row, of_next] = inverses(&w);
    let (mut row, mut last, mut groups, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.mov(rbx, rdi)?;
    inverse(&mut w, &c, of_next, (shape.width, shape.eps))?;
    w.a.set_label(&mut row)?;
    match w.zmm {
        true => w.a.vmovaps(ZMM[of_row], ZMM[of_next])?,
        false => w.a.vmovaps(YMM[of_row], YMM[of_next])?,
    }
    // The next row's is a long chain: it runs beside the groups of this row.
    w.a.test(rcx, rcx)?;
    w.a.jz(last)?;
    w.a.lea(rbx, qword_ptr(rdi + r8))?;
    inverse(&mut w, &c, of_next, (shape.width, shape.eps))?;
    w.a.set_label(&mut last)?;
    w.a.xor(r10d, r10d)?;
    w.a.mov(r11, rsi)?;
    w.a.set_label(&mut groups)?;
    for x in 0..vectors(&w, group) {
        let at = w.bytes() * x as i32;
        w.mul_from(x, of_row, rdi + r10 * 1 + at)?;
        if shape.gain {
            w.mul_from(x, x, rdx + r10 * 1 + at)?;
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
fn inverse(w: &mut Wide, c: &Constants, to: usize, (width, eps): (u64, f32)) -> Done {
    let mut squares = w.a.create_label();
    // Lanes are the four chains of four lanes that CLIF adds up.
    let chains = chain_registers(w);
    (0..chains).try_for_each(|chain| w.zero(chain))?;
    w.a.xor(r10d, r10d)?;
    w.a.set_label(&mut squares)?;
    for chain in 0..chains {
        let x = chains + chain;
        w.load(x, rbx + r10 * 1 + w.bytes() * chain as i32)?;
        w.fma(chain, x, x)?;
    }
    w.a.add(r10, 64)?;
    w.a.cmp(r10, width as i32 * 4)?;
    w.a.jl(squares)?;
    sum_chains(w, 0, xmm0)?;
    let width = c.first(w, width as f32, xmm1)?;
    w.a.vdivss(xmm0, xmm0, width)?;
    let eps = c.first(w, eps, xmm1)?;
    w.a.vaddss(xmm0, xmm0, eps)?;
    w.a.vsqrtss(xmm0, xmm0, xmm0)?;
    let one = c.first(w, 1.0, xmm1)?;
    w.a.vdivss(xmm0, one, xmm0)?;
    w.spread(to, xmm0)
}

fn write_rms_norm(zmm: bool, shape: Shape) -> Result<Code, IcedError> {
    let mut w = Wide::new(zmm)?;
    let scalars = [shape.group as f32, shape.eps, 1.0].map(f32::to_bits);
    let c = Constants::new(&mut w, &scalars)?;
    let [of_group, _] = inverses(&w);
    let (mut row, mut group, mut vector, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    w.a.set_label(&mut row)?;
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.xor(r12d, r12d)?;
    w.a.set_label(&mut group)?;
    w.a.lea(rbx, qword_ptr(rdi + r12))?;
    inverse(&mut w, &c, of_group, (shape.group, shape.eps))?;
    w.a.lea(r13, qword_ptr(rsi + r12))?;
    w.a.xor(r10d, r10d)?;
    w.a.set_label(&mut vector)?;
    w.mul_from(0, of_group, rbx + r10 * 1)?;
    if shape.gain {
        w.mul_from(0, 0, rdx + r10 * 1)?;
    }
    w.store(r13 + r10 * 1, 0)?;
    w.a.add(r10, w.bytes())?;
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
