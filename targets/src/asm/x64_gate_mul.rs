//! `silu_mul` and `gelu_mul`, with the `quant_rows` that takes their result 256 bits wide (AVX2) and 512
//! (AVX-512 F, DQ), alone 512 bits wide.
//!
//! The same arithmetic in the same order as the CLIF kernels.

use super::Code;
use super::wide::Wide;
use super::x64_math::{Constants, Done, SIGN, exp, exp_constants};
use super::x64_quant_rows::{order, quant_constants, quantise, vectors};
use crate::kernels::quant_rows::group_bytes;
use crate::math::GELU;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::Gate;

/// `silu_mul` or `gelu_mul`: parameters gate, up, y, rows, row stride, first and end byte of the columns
/// in a row, multiples of 16.
pub fn gate_mul(gate: Gate) -> Code {
    write_gate_mul(gate).expect("the kernel's operands are encodable")
}

/// `silu_mul` or `gelu_mul` and `quant_rows` in groups of `group`: parameters gate, up, y, rows,
/// x_stride, y_stride, first and end group.
pub fn gate_mul_quant(zmm: bool, gate: Gate, group: u64) -> Code {
    write_gate_mul_quant(zmm, gate, group as i32).expect("the kernel's operands are encodable")
}

fn write_gate_mul(gate: Gate) -> Result<Code, IcedError> {
    let mut w = Wide::new(true)?;
    let c = gate_constants(&mut w, gate, &[])?;
    let (mut row, mut vector, mut rest, mut next, mut done) = (
        w.a.create_label(),
        w.a.create_label(),
        w.a.create_label(),
        w.a.create_label(),
        w.a.create_label(),
    );
    w.a.mov(rbp, w.argument(0))?;
    // What whole vectors leave over, the same in each row.
    w.a.mov(rbx, rcx)?;
    w.a.mov(rcx, rbp)?;
    w.a.sub(rcx, r9)?;
    w.a.and(ecx, 63)?;
    w.a.shr(ecx, 2)?;
    w.a.mov(eax, 1)?;
    w.a.shl(eax, cl)?;
    w.a.sub(eax, 1)?;
    w.a.kmovw(k2, eax)?;
    w.a.set_label(&mut row)?;
    w.a.sub(rbx, 1)?;
    w.a.jl(done)?;
    w.a.mov(r10, r9)?;
    w.a.set_label(&mut vector)?;
    w.a.lea(rax, qword_ptr(r10 + 64))?;
    w.a.cmp(rax, rbp)?;
    w.a.jg(rest)?;
    w.load(0, rdi + r10 * 1)?;
    activation(&mut w, &c, gate, 0)?;
    w.a.vmulps(zmm0, zmm0, zmmword_ptr(rsi + r10 * 1))?;
    w.store(rdx + r10 * 1, 0)?;
    w.a.mov(r10, rax)?;
    w.a.jmp(vector)?;
    w.a.set_label(&mut rest)?;
    w.a.cmp(r10, rbp)?;
    w.a.jge(next)?;
    w.a.vmovups(zmm0.k2().z(), zmmword_ptr(rdi + r10 * 1))?;
    activation(&mut w, &c, gate, 0)?;
    w.a.vmulps(zmm0.k2().z(), zmm0, zmmword_ptr(rsi + r10 * 1))?;
    w.a.vmovups(zmmword_ptr(rdx + r10 * 1).k2(), zmm0)?;
    w.a.set_label(&mut next)?;
    for at in [rdi, rsi, rdx] {
        w.a.add(at, r8)?;
    }
    w.a.jmp(row)?;
    w.a.set_label(&mut done)?;
    w.finish()
}

/// What `activation` uses, and `more`.
fn gate_constants(w: &mut Wide, gate: Gate, more: &[u32]) -> Result<Constants, IcedError> {
    let [linear, cubic] = GELU.map(|number| (-number).to_bits());
    let own = if gate == Gate::Gelu { linear } else { SIGN };
    let c = Constants::new(w, &[more, &[own], &exp_constants()].concat())?;
    w.constant(CUBIC, cubic)?;
    Ok(c)
}

fn write_gate_mul_quant(zmm: bool, gate: Gate, group: i32) -> Result<Code, IcedError> {
    let mut w = Wide::new(zmm)?;
    order(&mut w)?;
    let c = quant_constants(&w);
    let c = gate_constants(&mut w, gate, &c)?;
    let (mut row, mut groups, mut next, mut done) =
        (w.a.create_label(), w.a.create_label(), w.a.create_label(), w.a.create_label());
    // From the first group on: rbx bytes into rows of floats, rbp bytes of them, r12 into y.
    w.a.mov(rax, w.argument(0))?;
    w.a.imul_3(rbx, rax, group * 4)?;
    w.a.imul_3(r12, rax, group_bytes(group as u64) as i32)?;
    w.a.imul_3(rbp, w.argument(1), group * 4)?;
    w.a.set_label(&mut row)?;
    w.a.sub(rcx, 1)?;
    w.a.jl(done)?;
    w.a.mov(r10, rbx)?;
    w.a.lea(r11, qword_ptr(rdx + r12))?;
    w.a.set_label(&mut groups)?;
    w.a.cmp(r10, rbp)?;
    w.a.jge(next)?;
    for x in 0..vectors(&w, group) {
        let at = w.bytes() * x as i32;
        w.load(x, rdi + r10 * 1 + at)?;
        activation(&mut w, &c, gate, x)?;
        w.mul_from(x, x, rsi + r10 * 1 + at)?;
    }
    quantise(&mut w, &c, group)?;
    w.a.add(r10, group * 4)?;
    w.a.jmp(groups)?;
    w.a.set_label(&mut next)?;
    w.a.add(rdi, r8)?;
    w.a.add(rsi, r8)?;
    w.a.add(rdx, r9)?;
    w.a.jmp(row)?;
    w.a.set_label(&mut done)?;
    w.finish()
}

/// Where minus the factor of `x³` in `gelu` is.
const CUBIC: usize = 13;

/// Register `x` becomes its activation, as `math::silu` and `math::gelu` have it.
fn activation(w: &mut Wide, c: &Constants, gate: Gate, x: usize) -> Done {
    let n = 9;
    match gate {
        Gate::Silu => w.xor_constant(n, x, c.get(SIGN))?,
        Gate::Gelu => {
            w.mul(n, x, x)?;
            w.times_plus_constant(n, CUBIC, c.float(-GELU[0]))?;
            w.mul(n, n, x)?;
        }
    }
    exp(w, c, n)?;
    w.add_constant(n, n, c.float(1.0))?;
    w.div(x, x, n)
}
