//! Products of bytes as fast as the CPU makes them, out of registers: what kernels are measured by.

use super::Code;
use super::wide::Wide;
use super::x64_amx::{tile_rows, tile_widths};
use super::x64_int::Unit;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Sums side by side: more than the latency of any unit covers.
const SUMS: usize = 12;
/// Registers of the operands, and of what is between.
const W: usize = 12;
const X: usize = 13;
const BETWEEN: usize = 14;
const ONES: usize = 15;

/// A loop of `unit`, or of tiles with `None`: the parameter counts its rounds. Operations of a round.
pub fn peak(unit: Option<Unit>) -> (Code, u64) {
    let write = || match unit {
        Some(unit) => vectors(unit),
        None => tiles(),
    };
    write().expect("the loop's operands are encodable")
}

fn vectors(unit: Unit) -> Result<(Code, u64), IcedError> {
    let mut w = Wide::new(unit == Unit::Avx512Vnni)?;
    w.constant(W, 0x0302_0104)?;
    w.constant(X, 0xfd02_ff01)?;
    w.constant(ONES, 0x0001_0001)?;
    (0..SUMS).try_for_each(|sum| w.zero(sum))?;
    let mut again = w.a.create_label();
    w.a.set_label(&mut again)?;
    for sum in 0..SUMS {
        if unit == Unit::Avx2 {
            w.madd_u8(BETWEEN, W, X)?;
            w.madd_i16(BETWEEN, BETWEEN, ONES)?;
            w.add_i32(sum, sum, BETWEEN)?;
        } else {
            w.dot_u8(sum, W, X)?;
        }
    }
    w.a.dec(rdi)?;
    w.a.jnz(again)?;
    let ops = 2 * SUMS as u64 * w.bytes() as u64;
    Ok((w.finish()?, ops))
}

/// Four tiles of products, 16 by 16 of depth 64.
fn tiles() -> Result<(Code, u64), IcedError> {
    const PRODUCTS: [AsmRegisterTmm; 4] = [tmm4, tmm5, tmm6, tmm7];
    let mut w = Wide::new(true)?;
    w.a.sub(rsp, 64)?;
    tile_widths(&mut w.a, &[64; 8])?;
    (0..8).try_for_each(|tile| w.a.mov(tile_rows(tile), 16))?;
    w.a.ldtilecfg(zmmword_ptr(rsp))?;
    [tmm0, tmm1].iter().chain(&PRODUCTS).try_for_each(|tile| w.a.tilezero(*tile))?;
    let mut again = w.a.create_label();
    w.a.set_label(&mut again)?;
    PRODUCTS.iter().try_for_each(|product| w.a.tdpbssd(*product, tmm0, tmm1))?;
    w.a.dec(rdi)?;
    w.a.jnz(again)?;
    w.a.tilerelease()?;
    w.a.add(rsp, 64)?;
    let code = w.finish()?;
    Ok((
        Code { frame_bytes: code.frame_bytes + 64, ..code },
        PRODUCTS.len() as u64 * 2 * 16 * 16 * 64,
    ))
}
