//! A panel of nested scales as a panel of bytes with one scale a row, which `vpdpbusd` multiplies
//! without factors: once for all rows of a chunk, where there are enough of them.

use super::Code;
use super::wide::Wide;
use super::x64_int::Unit;
use crate::kernels::int_panel::{SCALES_BYTES, Shape};
use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows::PART;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Bytes of a line of quads: four bytes of each row.
const LINE: i32 = 4 * PANEL_ROWS as i32;
/// Lines of nibbles of a part.
const LINES: i32 = PART as i32 / 8;
/// Registers: nibbles alone, 128 in every lane; what belongs to rows.
const NIBBLES: usize = 15;
const MIDDLE: usize = 14;
const FACTOR: usize = 13;
const START: usize = 12;

/// Parameters `rdi` panel, `rsi` where bytes go, `rdx` groups.
pub fn bytes(unit: Unit, shape: Shape) -> Code {
    write(unit, shape).expect("the kernel's operands are encodable")
}

/// `rax` walks factors, `rdi` nibbles, `rsi` bytes, `rcx` counts parts.
fn write(unit: Unit, shape: Shape) -> Result<Code, IcedError> {
    let mut w = Wide::new(unit == Unit::Avx512Vnni)?;
    w.a.mov(r8, rdx)?;
    w.constant(NIBBLES, 0x0f0f_0f0f)?;
    w.constant(MIDDLE, 128)?;
    w.a.imul_3(rax, r8, shape.step_bytes() as i32)?;
    w.a.add(rax, rdi)?;
    w.a.imul_3(rcx, r8, (shape.group / PART) as i32)?;
    let mut part = w.a.create_label();
    w.a.set_label(&mut part)?;
    for first in (0..PANEL_ROWS).step_by(w.lanes() as usize) {
        row_constants(&mut w, rax + first as i32)?;
        for line in 0..LINES {
            let at = 4 * first as i32;
            w.load(0, rdi + (line * LINE + at))?;
            w.shr_i16(1, 0, 4)?;
            for x in [0, 1] {
                w.and(x, x, NIBBLES)?;
                // Two products of a nibble and a factor fit one of 16 bits.
                w.mul_i16(x, x, FACTOR)?;
                w.add_i8(x, x, START)?;
                w.store(rsi + ((2 * line + x as i32) * LINE + at), x)?;
            }
        }
    }
    w.a.add(rdi, LINES * LINE)?;
    w.a.add(rsi, 2 * LINES * LINE)?;
    w.a.add(rax, PANEL_ROWS as i32)?;
    w.a.dec(rcx)?;
    w.a.jnz(part)?;
    // Behind the factors, and behind the bytes: the scales of rows.
    for at in (0..SCALES_BYTES as i32).step_by(w.bytes() as usize) {
        w.load(0, rax + at)?;
        w.store(rsi + at, 0)?;
    }
    w.finish()
}

/// Factors, two to a lane, and what is added to their products: 128 less zero points times factors, in
/// every byte.
fn row_constants(w: &mut Wide, factors: AsmMemoryOperand) -> Result<(), IcedError> {
    w.load_bytes(START, factors)?;
    w.and(FACTOR, START, NIBBLES)?;
    w.shr_i32(START, START, 4)?;
    w.mul_i16(START, START, FACTOR)?;
    w.sub_i32(START, MIDDLE, START)?;
    w.shl_i32(START, START, 24)?;
    for by in [8, 16] {
        w.shr_i32(0, START, by)?;
        w.or(START, START, 0)?;
    }
    w.shl_i32(0, FACTOR, 16)?;
    w.or(FACTOR, FACTOR, 0)
}
