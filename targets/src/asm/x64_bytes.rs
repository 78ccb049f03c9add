//! A panel of integers as a panel of bytes, which units multiply without taking anything apart: once
//! for all rows of a chunk, where there are enough of them.
//!
//! Bytes of nested scales are integers less zero points, times factors: no factor is left.

use super::Code;
use super::wide::Wide;
use super::x64_int::Unit;
use crate::kernels::int_panel::planes::{LINE, held, pieces};
use crate::kernels::int_panel::{SCALES_BYTES, Shape};
use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows::PART;
use crate::target::Arch;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::Codes;

type Done = Result<(), IcedError>;

/// What a byte stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The integer.
    Signed,
    /// 128 more.
    Unsigned,
}

const LINE_BYTES: i32 = LINE as i32;
/// Bytes of half the rows.
const HALF_LINE: i32 = LINE_BYTES / 2;
/// Lines of nibbles of a part.
const PART_LINES: i32 = PART as i32 / 8;
/// Registers: nibbles alone, the middle of bytes in every lane; what belongs to rows.
const NIBBLES: usize = 15;
const MIDDLE: usize = 14;
const FACTOR: usize = 13;
const START: usize = 12;
/// Registers: bits of the first and second piece; what is taken off, or the table.
const MASKS: [usize; 2] = [15, 14];
const MORE: usize = 13;

/// The kernel for nested scales, which go behind the bytes: parameters `rdi` panel, `rsi` where bytes
/// go, `rdx` groups.
pub fn bytes(unit: Unit, shape: Shape) -> Code {
    write(unit, shape).expect("the kernel's operands are encodable")
}

fn write(unit: Unit, shape: Shape) -> Result<Code, IcedError> {
    let mut w = Wide::new(unit == Unit::Avx512Vnni)?;
    w.a.lea(r10, qword_ptr(rsi + HALF_LINE))?;
    unpack(&mut w, shape, Sign::Unsigned, LINE_BYTES)?;
    for at in (0..SCALES_BYTES as i32).step_by(w.bytes() as usize) {
        w.load(0, rax + at)?;
        w.store(rsi + at, 0)?;
    }
    w.finish()
}

/// The bytes of the panel at `rdi`, `rdx` groups of it: those of the first 16 rows to `rsi`, of the
/// others to `r10`, a quad every `step` bytes. These and, with nested scales, `rax` end behind what
/// they walk: integers, bytes, factors. `rax`, `rcx` are lost.
pub fn unpack(w: &mut Wide, shape: Shape, sign: Sign, step: i32) -> Done {
    match shape.nested() {
        true => nested(w, shape, sign, step),
        false => plain(w, shape, sign, step),
    }
}

/// Where line `line` has what is `at` bytes into lines of whole panels.
fn place(line: i32, at: i32, step: i32) -> AsmMemoryOperand {
    let half = if at < HALF_LINE { rsi } else { r10 };
    half + (line * step + at % HALF_LINE)
}

/// The next lines.
fn advance(w: &mut Wide, bytes: i32) -> Done {
    w.a.add(rsi, bytes)?;
    w.a.add(r10, bytes)
}

/// Registers: `rcx` counts groups.
fn plain(w: &mut Wide, shape: Shape, sign: Sign, step: i32) -> Done {
    for (piece, mask) in pieces(shape.format, 0).zip(MASKS) {
        w.constant(mask, u32::from_le_bytes([piece.mask(); 4]))?;
    }
    let middle = if sign == Sign::Unsigned { 128 } else { 0 };
    let more = held(shape.format, Arch::X64).more - middle;
    match shape.format.codes {
        Codes::Table(table) => {
            w.constant_bytes(MORE, table.map(|x| (i64::from(x) + middle) as u8))?
        }
        Codes::Whole => w.constant(MORE, u32::from_le_bytes([more as u8; 4]))?,
    }
    w.a.mov(rcx, rdx)?;
    let mut group = w.a.create_label();
    w.a.set_label(&mut group)?;
    for (line, k) in (0..shape.group).step_by(4).enumerate() {
        for lanes in (0..LINE_BYTES).step_by(w.bytes() as usize) {
            for (i, (piece, mask)) in pieces(shape.format, k).zip(MASKS).enumerate() {
                w.load_shifted(1, rdi + (piece.at as i32 + lanes), piece.left())?;
                match i {
                    0 => w.and(0, 1, mask)?,
                    _ => w.or_and(0, 1, mask)?,
                }
            }
            match shape.format.codes {
                Codes::Table(_) => w.pick(0, MORE, 0)?,
                Codes::Whole if more != 0 => w.sub_i8(0, 0, MORE)?,
                Codes::Whole => {}
            }
            w.store(place(line as i32, lanes, step), 0)?;
        }
    }
    w.a.add(rdi, shape.step_bytes() as i32)?;
    advance(w, shape.group as i32 / 4 * step)?;
    w.a.dec(rcx)?;
    w.a.jnz(group)
}

/// Registers: `rax` walks factors, `rcx` counts parts.
fn nested(w: &mut Wide, shape: Shape, sign: Sign, step: i32) -> Done {
    w.constant(NIBBLES, 0x0f0f_0f0f)?;
    w.constant(MIDDLE, if sign == Sign::Unsigned { 128 } else { 0 })?;
    w.a.imul_3(rax, rdx, shape.step_bytes() as i32)?;
    w.a.add(rax, rdi)?;
    w.a.imul_3(rcx, rdx, (shape.group / PART) as i32)?;
    let mut part = w.a.create_label();
    w.a.set_label(&mut part)?;
    for first in (0..PANEL_ROWS).step_by(w.lanes() as usize) {
        row_constants(w, rax + first as i32)?;
        let at = 4 * first as i32;
        for line in 0..PART_LINES {
            w.load(0, rdi + (line * LINE_BYTES + at))?;
            w.shr_i16(1, 0, 4)?;
            for x in [0, 1] {
                w.and(x, x, NIBBLES)?;
                // Two products of a nibble and a factor fit one of 16 bits.
                w.mul_i16(x, x, FACTOR)?;
                w.add_i8(x, x, START)?;
                w.store(place(2 * line + x as i32, at, step), x)?;
            }
        }
    }
    w.a.add(rdi, PART_LINES * LINE_BYTES)?;
    advance(w, 2 * PART_LINES * step)?;
    w.a.add(rax, PANEL_ROWS as i32)?;
    w.a.dec(rcx)?;
    w.a.jnz(part)
}

/// Factors, two to a lane, and what is added to their products: the middle less zero points times
/// factors, in every byte.
fn row_constants(w: &mut Wide, factors: AsmMemoryOperand) -> Done {
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
