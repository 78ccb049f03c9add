//! Scores of a block of keys in tiles (AMX-INT8, with AVX-512 around it): up to 32 query rows by any
//! number of panels of int8 keys, one call.
//!
//! The same numbers as the panel kernel makes of each panel: whole products, then one factor. A panel
//! of keys is one group, so that the tiles of the next panel are made before vectors scale those of
//! the panel before.

use super::Code;
use super::x64::listing;
use super::x64_amx::{TILE_ROWS, depth, tile_rows, tile_widths};
use crate::kernels::kv_append::{PANEL_POSITIONS, Slot};
use crate::kernels::quant_rows::NEGATIVE_SUM_128;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Registers saved on entry.
const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];
/// Stack beside them: the configuration of tiles.
const LOCAL_BYTES: i32 = 64;
/// Bytes of a tile of products.
const TILE_BYTES: i32 = 1024;
/// From the products of the first 16 positions to those of the others: 32 rows of them.
const HALF_BYTES: i32 = 2 * TILE_BYTES;
/// Products of a panel.
const PRODUCTS_BYTES: i32 = 2 * HALF_BYTES;
/// Bytes of the room: products being made, products being scaled.
pub const ROOM_BYTES: u64 = 2 * PRODUCTS_BYTES as u64;

struct Kernel {
    /// Width of a head.
    head: i32,
    /// `k` of one tile product.
    depth: i32,
    panel_bytes: i32,
    score_stride: i32,
}

/// Parameters, System V: `rdi` panels of keys, `rsi` q (quantised rows, a head is one group), `rdx`
/// scores, `rcx` panels, `r8` q_stride, `r9` rows; on the stack the room. Rows of scores are
/// `score_stride` bytes apart.
pub fn scores(slot: Slot, score_stride: i32) -> Code {
    let s = Kernel {
        head: slot.head as i32,
        depth: depth(slot.head) as i32,
        panel_bytes: slot.key_panel_bytes() as i32,
        score_stride,
    };
    let mut a = assemble(&s).expect("the kernel's operands are encodable");
    let bytes = a.assemble(0).expect("branches are in range");
    let text = listing(&bytes);
    Code { bytes, frame_bytes: (8 * SAVED.len() as i32 + LOCAL_BYTES) as u32, text }
}

/// `rbp` 64, `rbx` the rows of q behind the first 16, `r12` products being made, `r13` products being
/// scaled, `r14` 128.
fn assemble(s: &Kernel) -> Result<CodeAssembler, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    a.set_prefer_vex(false);
    SAVED.iter().try_for_each(|r| a.push(*r))?;
    a.sub(rsp, LOCAL_BYTES)?;
    a.mov(r12, qword_ptr(rsp + (LOCAL_BYTES + 8 * SAVED.len() as i32 + 8)))?;
    a.lea(r13, qword_ptr(r12 + PRODUCTS_BYTES))?;
    a.mov(ebp, 64)?;
    a.mov(r14d, 4 * PANEL_POSITIONS as i32)?;
    configure(&mut a, s)?;
    if s.depth == s.head {
        load_rows(&mut a, 0)?;
    }
    let (mut more, mut last, mut done) = (a.create_label(), a.create_label(), a.create_label());
    multiply(&mut a, s, 0)?;
    a.set_label(&mut more)?;
    a.xchg(r12, r13)?;
    a.dec(rcx)?;
    a.jz(last)?;
    multiply(&mut a, s, s.panel_bytes)?;
    scale(&mut a, s)?;
    a.jmp(more)?;
    a.set_label(&mut last)?;
    scale(&mut a, s)?;
    a.set_label(&mut done)?;
    a.tilerelease()?;
    a.vzeroupper()?;
    a.add(rsp, LOCAL_BYTES)?;
    SAVED.iter().rev().try_for_each(|r| a.pop(*r))?;
    a.ret()?;
    Ok(a)
}

/// Tiles 0 and 1 are rows of q, 2 and 3 keys of 16 positions each, 4 to 7 products: of tile 0 with
/// both, of tile 1 with both. Without a second tile of rows the first row stands in for it.
fn configure(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    tile_widths(a, &[s.depth, s.depth, 64, 64, 64, 64, 64, 64])?;
    [2, 3].into_iter().try_for_each(|tile| a.mov(tile_rows(tile), s.depth / 4))?;
    let whole = TILE_ROWS as i32;
    // The first tile: `min(rows, 16)`, the second `max(rows - 16, 1)`.
    a.mov(eax, whole)?;
    a.cmp(r9, rax)?;
    a.cmovl(rax, r9)?;
    [0, 4, 5].into_iter().try_for_each(|tile| a.mov(tile_rows(tile), al))?;
    a.mov(rbx, r8)?;
    a.shl(rbx, 4)?;
    a.add(rbx, rsi)?;
    a.mov(r10d, 1)?;
    a.mov(rax, r9)?;
    a.sub(rax, whole)?;
    a.cmovle(rbx, rsi)?;
    a.cmovle(rax, r10)?;
    [1, 6, 7].into_iter().try_for_each(|tile| a.mov(tile_rows(tile), al))?;
    a.ldtilecfg(zmmword_ptr(rsp))
}

/// Both tiles of q, from `at` bytes of the head on.
fn load_rows(a: &mut CodeAssembler, at: i32) -> Result<(), IcedError> {
    a.tileloadd(tmm0, rsi + r8 * 1 + at)?;
    a.tileloadd(tmm1, rbx + r8 * 1 + at)
}

/// Products of the panel at `rdi + at`, to `r12`.
fn multiply(a: &mut CodeAssembler, s: &Kernel, at: i32) -> Result<(), IcedError> {
    let products =
        [(tmm4, 0), (tmm5, HALF_BYTES), (tmm6, TILE_BYTES), (tmm7, HALF_BYTES + TILE_BYTES)];
    products.iter().try_for_each(|(tile, _)| a.tilezero(*tile))?;
    for from in (0..s.head).step_by(s.depth as usize) {
        if s.depth < s.head {
            load_rows(a, from)?;
        }
        // A line of the panel is a quad of each position.
        let line = at + from / 4 * 4 * PANEL_POSITIONS as i32;
        a.tileloadd(tmm2, rdi + r14 * 1 + line)?;
        a.tdpbsud(tmm4, tmm0, tmm2)?;
        a.tdpbsud(tmm6, tmm1, tmm2)?;
        a.tileloadd(tmm3, rdi + r14 * 1 + (line + 64))?;
        a.tdpbsud(tmm5, tmm0, tmm3)?;
        a.tdpbsud(tmm7, tmm1, tmm3)?;
    }
    products.iter().try_for_each(|(tile, to)| a.tilestored(r12 + rbp * 1 + *to, *tile))
}

/// Products at `r13` of the panel at `rdi` to scores: keys are stored unsigned, which is taken off with
/// the sum of q. Then the next panel, the next scores.
fn scale(a: &mut CodeAssembler, s: &Kernel) -> Result<(), IcedError> {
    let quads_bytes = s.head * PANEL_POSITIONS as i32;
    a.vcvtph2ps(zmm0, ymmword_ptr(rdi + quads_bytes))?;
    a.vcvtph2ps(zmm1, ymmword_ptr(rdi + (quads_bytes + 32)))?;
    a.mov(r10, r9)?;
    a.mov(r11, rsi)?;
    a.mov(r15, r13)?;
    a.mov(rax, rdx)?;
    let mut row = a.create_label();
    a.set_label(&mut row)?;
    a.vpbroadcastd(zmm2, dword_ptr(r11 + (s.head + NEGATIVE_SUM_128)))?;
    for (half, (scales, x)) in [(zmm0, zmm3), (zmm1, zmm4)].into_iter().enumerate() {
        let half = half as i32;
        a.vpaddd(x, zmm2, zmmword_ptr(r15 + half * HALF_BYTES))?;
        a.vcvtdq2ps(x, x)?;
        a.vmulps(zmm5, scales, dword_bcst(r11 + s.head))?;
        a.vmulps(x, x, zmm5)?;
        a.vmovups(zmmword_ptr(rax + 64 * half), x)?;
    }
    a.add(r11, r8)?;
    a.add(rax, s.score_stride)?;
    a.add(r15, 64)?;
    a.dec(r10)?;
    a.jnz(row)?;
    a.add(rdi, s.panel_bytes)?;
    a.add(rdx, 4 * PANEL_POSITIONS as i32)
}
