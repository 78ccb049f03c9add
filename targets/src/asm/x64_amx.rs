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
use super::x64::{ZMM, listing};
use crate::kernels::int_panel::planes::{held, pieces};
use crate::kernels::int_panel::{SCALES_BYTES, Scales, Shape};
use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows::{NEGATIVE_SUM_128, PART, SCALED_SUM, group_bytes};
use crate::target::Arch;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ir::Codes;

/// Rows of activations in a tile.
pub const TILE_ROWS: u64 = 16;
/// Registers saved on entry.
const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];
/// Bytes of a tile of products.
const TILE_BYTES: i32 = 1024;
/// Groups whose products are made at once.
const PAIR: i32 = 2;
/// Products in the room: two pairs, one being made, one being scaled.
const PRODUCTS_BYTES: i32 = 2 * PAIR * TILE_BYTES;
/// Stack beside the saved registers: the configuration of tiles, residual and rows left.
const LOCAL_BYTES: i32 = 64 + 16;
const RESIDUAL: i32 = 64;
const LEFT: i32 = 72;
/// Weight rows of a tile.
const COLUMNS: usize = 16;

/// Bytes of the room for a panel of `columns` columns.
pub fn room_bytes(columns: u64) -> u64 {
    PRODUCTS_BYTES as u64 + columns * PANEL_ROWS
}

/// The kernel for whole tiles of rows.
pub fn panel(shape: Shape) -> Code {
    let kernel = Kernel { shape, depth: depth(shape.group) };
    let mut a = assemble(&kernel).expect("the kernel's operands are encodable");
    let bytes = a.assemble(0).expect("branches are in range");
    let text = listing(&bytes);
    let frame_bytes = (8 * SAVED.len() as i32 + LOCAL_BYTES + PUSHED) as u32;
    Code { bytes, frame_bytes, text }
}

/// The largest depth of a tile, at most 64, that divides a group.
pub(super) fn depth(group: u64) -> u64 {
    (4..=64).rev().step_by(4).find(|d| group.is_multiple_of(*d)).expect("groups are in quads")
}

struct Kernel {
    shape: Shape,
    /// `k` of one tile product.
    depth: u64,
}

impl Kernel {
    /// Bytes of a group in the room, for one of the two halves of the panel.
    fn half_bytes(&self) -> i32 {
        (self.shape.group * COLUMNS as u64) as i32
    }

    /// Whether tiles are read from the panel itself, unsigned as bytes are stored: where they stay
    /// unsigned, and where there are too few rows to make signed ones for (values of attention).
    fn direct(&self) -> bool {
        let unsigned = self.shape.format.zero || self.shape.scales == Scales::None;
        self.shape.format.bits == 8 && unsigned
    }

    /// Bytes of a group where tiles are read.
    fn tile_step_bytes(&self) -> i32 {
        if self.direct() { self.shape.step_bytes() as i32 } else { self.half_bytes() }
    }
}

/// Registers that keep their meaning through the kernel: `rbp` room, `r10` `r11` `rbx` three, five and
/// seven strides of x.
fn assemble(s: &Kernel) -> Result<CodeAssembler, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.set_prefer_vex(false);
    SAVED.iter().try_for_each(|r| a.push(*r))?;
    let stack = 8 * SAVED.len() as i32 + 8;
    a.sub(rsp, LOCAL_BYTES)?;
    for (from, to) in [(stack, RESIDUAL), (stack + 8, LEFT)] {
        a.mov(rax, qword_ptr(rsp + (LOCAL_BYTES + from)))?;
        a.mov(qword_ptr(rsp + to), rax)?;
    }
    a.mov(rbp, qword_ptr(rsp + (LOCAL_BYTES + stack + 16)))?;
    configure(&mut a, s)?;
    if !s.direct() {
        unpack(&mut a, s)?;
    }
    a.lea(r10, qword_ptr(r8 + r8 * 2))?;
    a.lea(r11, qword_ptr(r8 + r8 * 4))?;
    a.lea(rbx, qword_ptr(r10 + r8 * 4))?;
    let mut tiles = a.create_label();
    a.set_label(&mut tiles)?;
    for half in 0..2 {
        tile(&mut a, s, half)?;
    }
    a.mov(rax, r8)?;
    a.shl(rax, 4)?;
    a.add(rsi, rax)?;
    a.mov(rax, r9)?;
    a.shl(rax, 4)?;
    a.add(rdx, rax)?;
    let mut alone = a.create_label();
    a.cmp(qword_ptr(rsp + RESIDUAL), 0)?;
    a.jz(alone)?;
    a.add(qword_ptr(rsp + RESIDUAL), rax)?;
    a.set_label(&mut alone)?;
    a.sub(qword_ptr(rsp + LEFT), TILE_ROWS as i32)?;
    a.jnz(tiles)?;
    a.tilerelease()?;
    a.vzeroupper()?;
    a.add(rsp, LOCAL_BYTES)?;
    SAVED.iter().rev().try_for_each(|r| a.pop(*r))?;
    a.ret()?;
    Ok(a)
}

/// Tiles 0 and 1 are activations, 2 and 3 weights, 4 and 5 products.
fn configure(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    let (depth, quads) = (s.depth as i32, (s.depth / 4) as i32);
    tile_widths(a, &[depth, depth, 64, 64, 64, 64])?;
    for (tile, rows) in [16, 16, quads, quads, 16, 16].into_iter().enumerate() {
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

/// The integers of the panel as bytes into the room, `[half][group][quad][16 rows][4]`.
fn unpack(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    a.mov(rax, rdi)?;
    a.lea(r14, qword_ptr(rbp + PRODUCTS_BYTES))?;
    a.mov(r15, rcx)?;
    a.imul_3(r10, rcx, s.half_bytes())?;
    a.add(r10, r14)?;
    if s.shape.nested() {
        broadcast(a, zmm30, 0x0f)?;
        return unpack_nested(a, s);
    }
    let masks = [zmm30, zmm29];
    for (piece, mask) in pieces(s.shape.format, 0).zip(masks) {
        broadcast(a, mask, piece.mask())?;
    }
    let more = held(s.shape.format, Arch::X64).more;
    match s.shape.format.codes {
        Codes::Table(table) => constant_bytes(a, zmm31, table.map(|value| value as u8))?,
        Codes::Whole => broadcast(a, zmm31, more as u8)?,
    }
    let mut group = a.create_label();
    a.set_label(&mut group)?;
    for k in (0..s.shape.group as i32).step_by(4) {
        for (half, to) in [r14, r10].into_iter().enumerate() {
            for (i, (piece, mask)) in pieces(s.shape.format, k as u64).zip(masks).enumerate() {
                let line = zmmword_ptr(rax + (piece.at as i32 + 64 * half as i32));
                match piece.left() {
                    0 => a.vmovdqu64(zmm1, line)?,
                    left if left > 0 => a.vpsllw(zmm1, line, left as u32)?,
                    left => a.vpsrlw(zmm1, line, -left as u32)?,
                }
                match i {
                    0 => a.vpandd(zmm0, zmm1, mask)?,
                    _ => a.vpternlogd(zmm0, zmm1, mask, 0b1111_1000)?,
                }
            }
            match s.shape.format.codes {
                Codes::Table(_) => a.vpshufb(zmm0, zmm31, zmm0)?,
                Codes::Whole if more > 0 => a.vpsubb(zmm0, zmm0, zmm31)?,
                Codes::Whole => {}
            }
            a.vmovdqu64(zmmword_ptr(to + k * 16), zmm0)?;
        }
    }
    a.add(rax, s.shape.step_bytes() as i32)?;
    a.add(r14, s.half_bytes())?;
    a.add(r10, s.half_bytes())?;
    a.dec(r15)?;
    a.jnz(group)
}

/// The same with nested scales: bytes are integers less zero points, times factors. `rbx` walks
/// factors. Two products of a nibble and a factor fit one of 16 bits.
fn unpack_nested(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    broadcast(a, zmm29, 1)?;
    a.imul_3(rbx, rcx, s.shape.step_bytes() as i32)?;
    a.add(rbx, rdi)?;
    let mut group = a.create_label();
    a.set_label(&mut group)?;
    for part in 0..(s.shape.group / PART) as i32 {
        for (half, to) in [r14, r10].into_iter().enumerate() {
            let (factor, start) = (zmm2, zmm3);
            a.vpmovzxbd(zmm0, xmmword_ptr(rbx + (part * PANEL_ROWS as i32 + 16 * half as i32)))?;
            a.vpandd(factor, zmm0, zmm30)?;
            a.vpsrld(zmm0, zmm0, 4)?;
            a.vpmullw(zmm0, zmm0, factor)?;
            a.vpmulld(start, zmm0, zmm29)?;
            a.vpslld(zmm1, factor, 16)?;
            a.vpord(factor, factor, zmm1)?;
            for line in part * 4..(part + 1) * 4 {
                a.vmovdqu64(zmm0, zmmword_ptr(rax + (line * 128 + 64 * half as i32)))?;
                a.vpsrlw(zmm1, zmm0, 4)?;
                for (i, x) in [zmm0, zmm1].into_iter().enumerate() {
                    a.vpandd(x, x, zmm30)?;
                    a.vpmullw(x, x, factor)?;
                    a.vpsubb(x, x, start)?;
                    a.vmovdqu64(zmmword_ptr(to + (line * 128 + 64 * i as i32)), x)?;
                }
            }
        }
    }
    a.add(rax, s.shape.step_bytes() as i32)?;
    a.add(rbx, s.shape.factors_bytes() as i32)?;
    a.add(r14, s.half_bytes())?;
    a.add(r10, s.half_bytes())?;
    a.dec(r15)?;
    a.jnz(group)
}

fn broadcast(a: &mut CodeAssembler, to: AsmRegisterZmm, byte: u8) -> Result<(), IcedError> {
    a.mov(r11d, u32::from_le_bytes([byte; 4]))?;
    a.vpbroadcastd(to, r11d)
}

/// Every 16 bytes the same, by way of where the configuration of tiles was.
fn constant_bytes(
    a: &mut CodeAssembler,
    to: AsmRegisterZmm,
    bytes: [u8; 16],
) -> Result<(), IcedError> {
    for (i, half) in bytes.as_chunks::<8>().0.iter().enumerate() {
        a.mov(r11, u64::from_le_bytes(*half))?;
        a.mov(qword_ptr(rsp + 8 * i as i32), r11)?;
    }
    a.vbroadcasti32x4(to, xmmword_ptr(rsp))
}

/// The running sum of row `t`.
fn sum(t: usize) -> AsmRegisterZmm {
    ZMM[16 + t]
}

/// What `tile` keeps on the stack while its registers serve otherwise, and their bytes.
const KEPT: [AsmRegister64; 5] = [rdi, rcx, rsi, rdx, r9];
const PUSHED: i32 = 8 * KEPT.len() as i32;
/// Where the groups stand in them.
const GROUPS: i32 = 24;

/// 16 rows by 16 weight rows. `r14` walks x for products, `rax` for scales, `r15` the bytes of the
/// room, `rdi` the panel, `r9` the next one; `r12` and `r13` are the two pairs of products, `rsi` 64, `rcx` the groups
/// that are left.
fn tile(a: &mut CodeAssembler, s: &Kernel, half: i32) -> Result<(), IcedError> {
    KEPT.iter().try_for_each(|r| a.push(*r))?;
    a.mov(r14, rsi)?;
    a.mov(rax, rsi)?;
    if s.direct() {
        a.lea(r15, qword_ptr(rdi + 64 * half))?;
    } else {
        a.lea(r15, qword_ptr(rbp + PRODUCTS_BYTES))?;
        if half == 1 {
            a.imul_3(r12, rcx, s.half_bytes())?;
            a.add(r15, r12)?;
        }
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
    KEPT.iter().rev().try_for_each(|r| a.pop(*r))?;
    write(a, half)
}

/// Products of `count` groups, to `r12`.
fn multiply(a: &mut CodeAssembler, s: &Kernel, count: i32) -> Result<(), IcedError> {
    let x_step = group_bytes(s.shape.group) as i32;
    let depth = s.depth as i32;
    let steps = (s.shape.group / s.depth) as i32;
    // Lines of 64 bytes in the room, of 128 in the panel.
    let lines = if s.direct() { 2 } else { 1 };
    for (group, product) in (0..count).zip([tmm4, tmm5]) {
        a.tilezero(product)?;
        for step in 0..steps {
            let (x, w) = [(tmm0, tmm2), (tmm1, tmm3)][((group * steps + step) % 2) as usize];
            a.tileloadd(x, r14 + r8 * 1 + (group * x_step + step * depth))?;
            let at = group * s.tile_step_bytes() + step * depth * 16 * lines;
            a.tileloadd(w, r15 + rsi * lines + at)?;
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
fn write(a: &mut CodeAssembler, half: i32) -> Result<(), IcedError> {
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
