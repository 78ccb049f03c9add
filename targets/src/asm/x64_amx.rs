//! x86-64 panel kernels over integers in tiles (AMX-INT8, with AVX-512 around it).
//!
//! Same layout and order of arithmetic as the CLIF kernel in `kernels/int_panel.rs`: the products of a
//! group are whole numbers whichever unit sums them. Parameters, System V: `rdi` w, `rsi` x, `rdx` y,
//! `rcx` groups, `r8` x_stride, `r9` y_stride; on the stack residual or 0, rows (a multiple of 16),
//! room: products, then the panel as bytes.
//!
//! Weights are unpacked to signed bytes, once for all rows. Those that stay unsigned are read from the
//! panel as they are: what that adds to each product is taken off with the sums of activations.
//!
//! A tile product takes long and must pass through memory, so the tiles of the next groups are made
//! before vectors scale those of the groups before; and the next panel is fetched meanwhile.

use super::Code;
use super::wide::{ARGUMENTS, Wide};
use super::x64::ZMM;
use super::x64_bytes::{self, Sign};
use crate::kernels::int_panel::{SCALES_BYTES, Scales, Shape};
use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows::{NEGATIVE_SUM_128, SCALED_SUM, group_bytes};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Rows of activations in a tile.
pub const TILE_ROWS: u64 = 16;
/// Bytes of a tile of products.
pub(super) const TILE_BYTES: i32 = 1024;
/// Groups whose products are made at once.
const PAIR: i32 = 2;
/// Products in the room: two pairs, one being made, one being scaled.
pub(super) const PRODUCTS_BYTES: i32 = 2 * PAIR * TILE_BYTES;
/// Stack beside the saved registers: the configuration of tiles, residual and rows left.
const LOCAL_BYTES: i32 = 64 + 16;
pub(super) const RESIDUAL: i32 = 64;
pub(super) const LEFT: i32 = 72;

/// Bytes of the room for a panel of `columns` columns.
pub fn room_bytes(columns: u64) -> u64 {
    PRODUCTS_BYTES as u64 + columns * PANEL_ROWS
}

/// The kernel for whole tiles of rows.
pub fn panel(shape: Shape) -> Code {
    write(&Kernel { shape, depth: depth(shape.group) })
        .expect("the kernel's operands are encodable")
}

/// The largest depth of a tile, at most 64, that divides a group.
pub(super) fn depth(group: u64) -> u64 {
    (4..=64).rev().step_by(4).find(|d| group.is_multiple_of(*d)).expect("groups are in quads")
}

/// Bytes of a group in the room, for one of the two halves of the panel.
pub(super) fn half_bytes(shape: Shape) -> i32 {
    (shape.group * PANEL_ROWS / 2) as i32
}

struct Kernel {
    shape: Shape,
    /// `k` of one tile product.
    depth: u64,
}

impl Kernel {
    /// Whether tiles are read from the panel itself, unsigned as bytes are stored: where they stay
    /// unsigned, and where there are too few rows to make signed ones for (values of attention).
    fn direct(&self) -> bool {
        let unsigned = self.shape.format.zero || self.shape.scales == Scales::None;
        self.shape.format.bits == 8 && unsigned
    }

    /// Bytes of a group where tiles are read.
    fn tile_step_bytes(&self) -> i32 {
        if self.direct() { self.shape.step_bytes() as i32 } else { half_bytes(self.shape) }
    }

    /// From a quad of a half to the next, in 64 bytes: in a panel the other half is between them.
    fn lines(&self) -> i32 {
        if self.direct() { 2 } else { 1 }
    }
}

/// Registers that keep their meaning through the kernel: `rbp` room, `r10` `r11` `rbx` three, five and
/// seven strides of x.
fn write(s: &Kernel) -> Result<Code, IcedError> {
    let mut w = begin()?;
    configure(&mut w.a, s.depth as i32)?;
    if !s.direct() {
        unpack(&mut w, s.shape)?;
    }
    w.a.lea(r10, qword_ptr(r8 + r8 * 2))?;
    w.a.lea(r11, qword_ptr(r8 + r8 * 4))?;
    w.a.lea(rbx, qword_ptr(r10 + r8 * 4))?;
    let mut tiles = w.a.create_label();
    w.a.set_label(&mut tiles)?;
    for half in 0..2 {
        w.keep(&KEPT)?;
        tile(&mut w.a, s, half)?;
        w.restore(&KEPT)?;
        put(&mut w.a, half)?;
    }
    next_rows(&mut w.a, TILE_ROWS)?;
    w.a.jnz(tiles)?;
    w.a.tilerelease()?;
    w.finish()
}

/// Begins a kernel: parameters on the stack to where they are wanted.
pub(super) fn begin() -> Result<Wide, IcedError> {
    let mut w = Wide::new(true)?;
    w.reserve(LOCAL_BYTES as u32)?;
    for (from, to) in [(0, RESIDUAL), (8, LEFT)] {
        w.a.mov(rax, qword_ptr(rsp + (LOCAL_BYTES + ARGUMENTS + from)))?;
        w.a.mov(qword_ptr(rsp + to), rax)?;
    }
    w.a.mov(rbp, qword_ptr(rsp + (LOCAL_BYTES + ARGUMENTS + 16)))?;
    Ok(w)
}

/// x, y and residual are those behind `rows` rows, a power of two; the flags say how many are left. `rax`
/// and `r14` are lost.
pub(super) fn next_rows(a: &mut CodeAssembler, rows: u64) -> Result<(), IcedError> {
    a.mov(rax, r8)?;
    a.shl(rax, rows.trailing_zeros())?;
    a.add(rsi, rax)?;
    a.mov(rax, r9)?;
    a.shl(rax, rows.trailing_zeros())?;
    a.add(rdx, rax)?;
    a.mov(r14, qword_ptr(rsp + RESIDUAL))?;
    a.test(r14, r14)?;
    a.cmovz(rax, r14)?;
    a.add(qword_ptr(rsp + RESIDUAL), rax)?;
    a.sub(qword_ptr(rsp + LEFT), rows as i32)
}

/// Tiles 0 and 1 are activations, 2 and 3 weights, from 4 on products.
pub(super) fn configure(a: &mut CodeAssembler, depth: i32) -> Result<(), IcedError> {
    tile_widths(a, &[depth, depth, 64, 64, 64, 64, 64, 64])?;
    let quads = depth / 4;
    for (tile, rows) in [16, 16, quads, quads, 16, 16, 16, 16].into_iter().enumerate() {
        a.mov(tile_rows(tile as i32), rows)?;
    }
    a.ldtilecfg(zmmword_ptr(rsp))
}

/// Begins the configuration of tiles at `rsp`: bytes of a row of each. `zmm0` is lost.
pub(super) fn tile_widths(a: &mut CodeAssembler, widths: &[i32]) -> Result<(), IcedError> {
    a.vpxord(zmm0, zmm0, zmm0)?;
    a.vmovdqu64(zmmword_ptr(rsp), zmm0)?;
    a.mov(byte_ptr(rsp), 1)?;
    for (tile, bytes) in widths.iter().enumerate() {
        a.mov(word_ptr(rsp + (16 + 2 * tile as i32)), *bytes)?;
    }
    Ok(())
}

/// Where the configuration at `rsp` has a tile's rows.
pub(super) fn tile_rows(tile: i32) -> AsmMemoryOperand {
    byte_ptr(rsp + (48 + tile))
}

/// The panel as signed bytes into the room, one half after the other: tiles then have all sets of the
/// first cache.
pub(super) fn unpack(w: &mut Wide, shape: Shape) -> Result<(), IcedError> {
    let kept = [rdi, rsi, rdx, rcx];
    w.keep(&kept)?;
    w.a.lea(rsi, qword_ptr(rbp + PRODUCTS_BYTES))?;
    w.a.mov(rdx, rcx)?;
    w.a.imul_3(r10, rcx, half_bytes(shape))?;
    w.a.add(r10, rsi)?;
    x64_bytes::unpack(w, shape, Sign::Signed, 64)?;
    w.restore(&kept)
}

/// The running sum of row `t`.
fn sum(t: usize) -> AsmRegisterZmm {
    ZMM[16 + t]
}

/// What is kept on the stack while its registers serve `tile` otherwise.
const KEPT: [AsmRegister64; 5] = [rdi, rcx, rsi, rdx, r9];
/// Where the groups stand in them.
const GROUPS: i32 = 24;

/// 16 rows by 16 weight rows. `r14` walks x for products, `rax` for scales, `r15` the bytes of the
/// room, `rdi` the panel, `r9` the next one; `r12` and `r13` are the two pairs of products, `rsi` 64, `rcx` the groups
/// that are left.
fn tile(a: &mut CodeAssembler, s: &Kernel, half: i32) -> Result<(), IcedError> {
    a.mov(r14, rsi)?;
    a.mov(rax, rsi)?;
    if s.direct() {
        a.lea(r15, qword_ptr(rdi + 64 * half))?;
    } else {
        a.imul_3(r15, rcx, half * half_bytes(s.shape))?;
        a.lea(r15, qword_ptr(r15 + rbp * 1 + PRODUCTS_BYTES))?;
    }
    a.imul_3(r9, rcx, (s.shape.step_bytes() + s.shape.factors_bytes()) as i32)?;
    a.lea(r9, qword_ptr(r9 + rdi * 1 + s.shape.panel_bytes(0) as i32))?;
    a.mov(r12, rbp)?;
    a.lea(r13, qword_ptr(rbp + PAIR * TILE_BYTES))?;
    a.mov(esi, 64)?;
    for t in 0..16 {
        a.vpxord(sum(t), sum(t), sum(t))?;
    }
    let (mut more, mut last, mut odd, mut done) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    // The first pair is under way before the loop; in it the next pair comes before the scaling.
    a.sub(rcx, PAIR)?;
    a.jl(odd)?;
    multiply(a, s, PAIR)?;
    a.set_label(&mut more)?;
    a.xchg(r12, r13)?;
    a.sub(rcx, PAIR)?;
    a.jl(last)?;
    scale_groups(a, s, half, PAIR, PAIR)?;
    a.jmp(more)?;
    a.set_label(&mut last)?;
    scale_groups(a, s, half, PAIR, 0)?;
    a.set_label(&mut odd)?;
    a.add(rcx, PAIR)?;
    a.jz(done)?;
    multiply(a, s, 1)?;
    a.xchg(r12, r13)?;
    scale_groups(a, s, half, 1, 0)?;
    a.set_label(&mut done)?;
    if s.shape.nested() {
        // Behind the factors of all groups.
        a.imul_3(rax, qword_ptr(rsp + GROUPS), s.shape.factors_bytes() as i32)?;
        a.add(rdi, rax)?;
    }
    if s.shape.scales_per_row() {
        a.vcvtph2ps(zmm0, ymmword_ptr(rdi + 32 * half))?;
        for t in 0..16 {
            a.vmulps(sum(t), sum(t), zmm0)?;
        }
    }
    Ok(())
}

/// Products of `count` groups, to `r12`.
fn multiply(a: &mut CodeAssembler, s: &Kernel, count: i32) -> Result<(), IcedError> {
    let x_step = group_bytes(s.shape.group) as i32;
    let depth = s.depth as i32;
    let steps = (s.shape.group / s.depth) as i32;
    for (group, product) in (0..count).zip([tmm4, tmm5]) {
        a.tilezero(product)?;
        for step in 0..steps {
            let (x, w) = [(tmm0, tmm2), (tmm1, tmm3)][((group * steps + step) % 2) as usize];
            a.tileloadd(x, r14 + r8 * 1 + (group * x_step + step * depth))?;
            let at = group * s.tile_step_bytes() + step * depth * 16 * s.lines();
            a.tileloadd(w, r15 + rsi * s.lines() + at)?;
            match s.direct() {
                true => a.tdpbsud(product, x, w)?,
                false => a.tdpbssd(product, x, w)?,
            }
        }
    }
    for (group, product) in (0..count).zip([tmm4, tmm5]) {
        a.tilestored(r12 + rsi * 1 + group * TILE_BYTES, product)?;
    }
    a.add(r14, x_step * count)?;
    a.add(r15, s.tile_step_bytes() * count)
}

/// The tiles of the `next` groups to `r12`, then `count` groups of products at `r13` into the sums:
/// `rax` walks x, `rdx` is eight rows further. Vectors wait for the ports that products of tiles take
/// anyway, so mixing the two gains nothing.
fn scale_groups(
    a: &mut CodeAssembler,
    s: &Kernel,
    half: i32,
    count: i32,
    next: i32,
) -> Result<(), IcedError> {
    if next > 0 {
        multiply(a, s, next)?;
    }
    let x_step = group_bytes(s.shape.group) as i32;
    let w_step = s.shape.step_bytes() as i32;
    a.lea(rdx, qword_ptr(rax + r8 * 8))?;
    (0..count).try_for_each(|g| scale(a, s, half, g))?;
    a.add(rax, x_step * count)?;
    a.add(r9, w_step * count)?;
    a.add(rdi, w_step * count)
}

/// `sum += float(product) · (s_w · s_x)`, and the low ends, of group `g`.
fn scale(a: &mut CodeAssembler, s: &Kernel, half: i32, g: i32) -> Result<(), IcedError> {
    let (group, x) = (s.shape.group as i32, g * group_bytes(s.shape.group) as i32);
    let scales = g * s.shape.step_bytes() as i32 + s.shape.quads_bytes() as i32 + 32 * half;
    if s.shape.scales_per_group() {
        a.vcvtph2ps(zmm0, ymmword_ptr(rdi + scales))?;
    }
    // The panel after this one, in time for its unpacking: each half of the work fetches half of it.
    let lines = s.shape.step_bytes().div_ceil(64) as i32;
    let mut lines = (lines * half / 2..lines * (half + 1) / 2)
        .map(|line| r9 + (g * s.shape.step_bytes() as i32 + 64 * line));
    let every = if lines.len() > 8 { 1 } else { 2 };
    for t in 0..16usize {
        if t % every == every - 1
            && let Some(line) = lines.next()
        {
            a.prefetcht1(byte_ptr(line))?;
        }
        let (product, factor) = (ZMM[2 + t % 4], ZMM[6 + t % 4]);
        let at = zmmword_ptr(r13 + (g * TILE_BYTES + 64 * t as i32));
        if s.direct() && !s.shape.format.zero {
            a.vmovdqu64(product, at)?;
            a.vpaddd(product, product, dword_bcst(row(t) + (x + group + NEGATIVE_SUM_128)))?;
            a.vcvtdq2ps(product, product)?;
        } else {
            a.vcvtdq2ps(product, at)?;
        }
        let x_scale = dword_bcst(row(t) + (x + group));
        if s.shape.scales_per_group() {
            a.vmulps(factor, zmm0, x_scale)?;
            a.vfmadd231ps(sum(t), product, factor)?;
        } else {
            a.vfmadd231ps(sum(t), product, x_scale)?;
        }
    }
    if s.shape.has_lows() {
        a.vcvtph2ps(zmm1, ymmword_ptr(rdi + (scales + SCALES_BYTES as i32)))?;
        for t in 0..16 {
            a.vfmadd231ps(sum(t), zmm1, dword_bcst(row(t) + (x + group + SCALED_SUM)))?;
        }
    }
    Ok(())
}

/// Address of row `t` of `x` at the groups that are scaled.
fn row(t: usize) -> AsmMemoryOperand {
    let base = if t < 8 { rax } else { rdx };
    match t % 8 {
        0 => base + 0,
        1 => base + r8 * 1,
        2 => base + r8 * 2,
        3 => base + r10 * 1,
        4 => base + r8 * 4,
        5 => base + r11 * 1,
        6 => base + r10 * 2,
        _ => base + rbx * 1,
    }
}

/// Sums to `y`, with the residual added where there is one.
fn put(a: &mut CodeAssembler, half: i32) -> Result<(), IcedError> {
    let (mut plain, mut done) = (a.create_label(), a.create_label());
    a.mov(rax, rdx)?;
    a.mov(r14, qword_ptr(rsp + RESIDUAL))?;
    a.test(r14, r14)?;
    a.jz(plain)?;
    for t in 0..16 {
        a.vaddps(sum(t), sum(t), zmmword_ptr(r14 + 64 * half))?;
        a.vmovups(zmmword_ptr(rax + 64 * half), sum(t))?;
        a.add(rax, r9)?;
        a.add(r14, r9)?;
    }
    a.jmp(done)?;
    a.set_label(&mut plain)?;
    for t in 0..16 {
        a.vmovups(zmmword_ptr(rax + 64 * half), sum(t))?;
        a.add(rax, r9)?;
    }
    a.set_label(&mut done)?;
    a.zero_bytes()
}
