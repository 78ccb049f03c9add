//! x86-64 panel kernels over integers in tiles (AMX-INT8) for rows of activations with one range:
//! tiles of products hold whole numbers from the first group to the last, and are scaled once.
//!
//! Parameters and results are those of `x64_amx.rs`. Two tiles of rows are multiplied by both halves
//! of the panel, four products for four tiles that are loaded.

use super::Code;
use super::x64_amx::{
    LEFT, PRODUCTS_BYTES, RESIDUAL, TILE_BYTES, TILE_ROWS, begin, configure, depth, half_bytes,
    next_rows, unpack,
};
use crate::kernels::int_panel::Shape;
use crate::kernels::quant_rows::group_bytes;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

type Done = Result<(), IcedError>;

/// Rows that are multiplied at once.
const ROWS: i32 = 2 * TILE_ROWS as i32;
/// The scales of the panel's halves.
const SCALES: [AsmRegisterZmm; 2] = [zmm30, zmm31];
/// Tiles of products: of the first rows with both halves, of the others with both.
const PRODUCTS: [AsmRegisterTmm; 4] = [tmm4, tmm5, tmm6, tmm7];

/// The kernel for whole tiles of rows.
pub fn panel(shape: Shape) -> Code {
    write(shape).expect("the kernel's operands are encodable")
}

/// Registers that keep their meaning: `rbp` room, `rdi` panel, `rsi` x, `rdx` y, `rcx` groups, `r8`
/// and `r9` strides, `rbx` 64.
fn write(shape: Shape) -> Result<Code, IcedError> {
    let mut w = begin()?;
    configure(&mut w.a, depth(shape.group) as i32)?;
    unpack(&mut w, shape)?;
    w.a.mov(ebx, 64)?;
    w.a.imul_3(rax, rcx, (shape.step_bytes() + shape.factors_bytes()) as i32)?;
    for (half, scales) in SCALES.into_iter().enumerate() {
        w.a.vcvtph2ps(scales, ymmword_ptr(rdi + rax * 1 + 32 * half as i32))?;
    }
    let mut rows = w.a.create_label();
    w.a.set_label(&mut rows)?;
    multiply(&mut w.a, shape)?;
    put(&mut w.a, shape)?;
    next_rows(&mut w.a, ROWS as u64)?;
    w.a.jg(rows)?;
    w.a.tilerelease()?;
    w.finish()
}

/// The products of all groups, to the room: `r14` and `rax` walk both tiles of rows, `r15` and `r12`
/// both halves of the panel, `r13` the panel behind this one, which is fetched meanwhile.
fn multiply(a: &mut CodeAssembler, shape: Shape) -> Done {
    let depth = depth(shape.group) as i32;
    let steps = shape.group as i32 / depth;
    a.mov(r14, rsi)?;
    a.mov(rax, r8)?;
    a.shl(rax, TILE_ROWS.trailing_zeros())?;
    a.add(rax, rsi)?;
    // Where there are no more rows the first ones are multiplied twice.
    a.cmp(qword_ptr(rsp + LEFT), TILE_ROWS as i32)?;
    a.cmovle(rax, rsi)?;
    a.lea(r15, qword_ptr(rbp + PRODUCTS_BYTES))?;
    a.imul_3(r12, rcx, half_bytes(shape))?;
    a.add(r12, r15)?;
    a.imul_3(r13, rcx, (shape.step_bytes() + shape.factors_bytes()) as i32)?;
    a.lea(r13, qword_ptr(r13 + rdi * 1 + shape.panel_bytes(0) as i32))?;
    a.mov(r10, rcx)?;
    PRODUCTS.into_iter().try_for_each(|product| a.tilezero(product))?;
    let mut group = a.create_label();
    a.set_label(&mut group)?;
    for step in 0..steps {
        let (x, w) = (step * depth, step * depth * 16);
        a.tileloadd(tmm0, r14 + r8 * 1 + x)?;
        a.tileloadd(tmm2, r15 + rbx * 1 + w)?;
        a.tdpbssd(PRODUCTS[0], tmm0, tmm2)?;
        a.tileloadd(tmm3, r12 + rbx * 1 + w)?;
        a.tdpbssd(PRODUCTS[1], tmm0, tmm3)?;
        a.tileloadd(tmm1, rax + r8 * 1 + x)?;
        a.tdpbssd(PRODUCTS[2], tmm1, tmm2)?;
        a.tdpbssd(PRODUCTS[3], tmm1, tmm3)?;
    }
    for line in (0..shape.step_bytes() as i32).step_by(64) {
        a.prefetcht1(byte_ptr(r13 + line))?;
    }
    a.add(r13, shape.step_bytes() as i32)?;
    let x_step = group_bytes(shape.group) as i32;
    a.add(r14, x_step)?;
    a.add(rax, x_step)?;
    let w_step = half_bytes(shape);
    a.add(r15, w_step)?;
    a.add(r12, w_step)?;
    a.dec(r10)?;
    a.jnz(group)?;
    let places = PRODUCTS.into_iter().zip((0..).step_by(TILE_BYTES as usize));
    places.into_iter().try_for_each(|(product, at)| a.tilestored(rbp + rbx * 1 + at, product))
}

/// Products times the scales of their rows and of the panel's, to `y`, with the residual added where
/// there is one: `r14` walks the scales of rows, `rax` y, `r12` residual, `r15` products, `r10` counts
/// rows.
fn put(a: &mut CodeAssembler, shape: Shape) -> Done {
    a.lea(r14, qword_ptr(rsi + shape.group as i32))?;
    a.mov(rax, rdx)?;
    a.mov(r12, qword_ptr(rsp + RESIDUAL))?;
    a.mov(r15, rbp)?;
    a.mov(r13d, ROWS)?;
    a.cmp(qword_ptr(rsp + LEFT), ROWS)?;
    a.cmovl(r13, qword_ptr(rsp + LEFT))?;
    let (mut tile, mut row, mut plain) = (a.create_label(), a.create_label(), a.create_label());
    a.set_label(&mut tile)?;
    a.mov(r10d, TILE_ROWS as i32)?;
    a.set_label(&mut row)?;
    a.vbroadcastss(zmm2, dword_ptr(r14))?;
    for (half, (x, scales)) in [zmm0, zmm1].into_iter().zip(SCALES).enumerate() {
        a.vcvtdq2ps(x, zmmword_ptr(r15 + half as i32 * TILE_BYTES))?;
        a.vmulps(x, x, zmm2)?;
        a.vmulps(x, x, scales)?;
    }
    a.test(r12, r12)?;
    a.jz(plain)?;
    a.vaddps(zmm0, zmm0, zmmword_ptr(r12))?;
    a.vaddps(zmm1, zmm1, zmmword_ptr(r12 + 64))?;
    a.add(r12, r9)?;
    a.set_label(&mut plain)?;
    a.vmovups(zmmword_ptr(rax), zmm0)?;
    a.vmovups(zmmword_ptr(rax + 64), zmm1)?;
    a.add(r14, r8)?;
    a.add(rax, r9)?;
    a.add(r15, 64)?;
    a.dec(r10)?;
    a.jnz(row)?;
    // The second half of these rows is behind them.
    a.add(r15, TILE_BYTES)?;
    a.sub(r13, TILE_ROWS as i32)?;
    a.jg(tile)
}
