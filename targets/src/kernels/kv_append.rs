//! `kv_append`: keys and values of new positions into a slot of the cache.
//!
//! Keys are panels of 32 positions, `[heads][panels][head][32]`, so that `attention` multiplies
//! queries with them as `linear` does with weights; values are `[heads][head/W][positions][W]`.

use super::panel::PANEL_ROWS;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::f32_to_f16;
use cranelift_codegen::ir::types::*;
use ir::DType;

/// Positions in a panel of keys.
pub const PANEL_POSITIONS: u64 = PANEL_ROWS;

/// One slot of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Element type, F32 or F16.
    pub dtype: DType,
    /// KV heads.
    pub heads: u64,
    /// Width of one head, a multiple of 8.
    pub head: u64,
    /// Positions, rounded up to whole panels.
    pub positions: u64,
}

impl Slot {
    /// Values of one position that are neighbours: the largest panel width that divides a head.
    pub fn value_width(&self) -> u64 {
        [32, 16, 8]
            .into_iter()
            .find(|w| self.head.is_multiple_of(*w))
            .expect("a head is a multiple of 8")
    }

    /// Bytes from one head's keys (or values) to the next.
    pub fn head_bytes(&self) -> u64 {
        self.positions * self.head * self.dtype.bytes()
    }

    /// Bytes of all keys; values take as many.
    pub fn half_bytes(&self) -> u64 {
        self.heads * self.head_bytes()
    }
}

/// Emits `kv_append`: parameters k, v (rows of `heads · head`), keys, values (addresses in the
/// slot), rows, position of row 0, row stride in bytes, first and end panel of positions.
///
/// A panel of keys is zeroed when its first position arrives, so that a saved cache holds nothing
/// undefined.
pub fn define(e: &mut Emitter, name: &str, slot: Slot) -> Func {
    let f = e.declare(name, &[I64; 9], &[]);
    e.define(&f, Tuning::Optimised, |k, args| body(k, args, slot));
    f
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], slot: Slot) {
    let [new_k, new_v, keys, values, rows, position, stride, first, end] = args else {
        unreachable!("nine parameters are declared")
    };
    let panel = PANEL_POSITIONS as i64;
    let from = (*first * panel).umax(*position);
    let to = (*end * panel).umin(*position + *rows);
    k.each(from, to, 1, |p| {
        let row = (p - *position) * *stride;
        let (row_k, row_v) = (*new_k + row, *new_v + row);
        let lane = p & (panel - 1);
        let element = slot.dtype.bytes() as i64;
        let key_panel = (p / panel) * (slot.head as i64 * panel * element);
        let width = slot.value_width() as i64;
        k.each(k.i64(0), k.i64(slot.heads as i64), 1, |h| {
            let head = h * slot.head_bytes() as i64;
            let source = h * (slot.head * 4) as i64;
            let key_at = *keys + head + key_panel;
            k.if_(lane.is(0), || zero_panel(k, key_at, slot));
            store_keys(k, row_k + source, key_at + lane * element, slot);
            store_values(k, row_v + source, *values + head + p * (width * element), slot);
        });
    });
    k.ret(&[]);
}

fn zero_panel<'k>(k: &'k Kernel<'k>, at: Val<'k>, slot: Slot) {
    let bytes = slot.head * PANEL_POSITIONS * slot.dtype.bytes();
    k.each(k.i64(0), k.i64(bytes as i64), 16, |i| (at + i).store(0, k.f32x4(0.0)));
}

/// One key: elements a panel's width apart.
fn store_keys<'k>(k: &'k Kernel<'k>, from: Val<'k>, to: Val<'k>, slot: Slot) {
    let to = k.var(to);
    let step = (PANEL_POSITIONS * slot.dtype.bytes()) as i64;
    k.each(k.i64(0), k.i64(slot.head as i64 * 4), 16, |i| {
        let four = (from + i).load(F32X4, 0);
        for lane in 0..4 {
            store_lane(to.get(), four, lane, slot.dtype, i32::from(lane) * step as i32);
        }
        to.set(to.get() + step * 4);
    });
}

/// One value: blocks of `value_width` neighbours, a slot's positions apart.
fn store_values<'k>(k: &'k Kernel<'k>, from: Val<'k>, to: Val<'k>, slot: Slot) {
    let width = slot.value_width();
    let element = slot.dtype.bytes();
    for block in 0..slot.head / width {
        let to = to + (block * slot.positions * width * element) as i64;
        for i in (0..width).step_by(4) {
            let four = from.load(F32X4, ((block * width + i) * 4) as i32);
            let at = (i * element) as i32;
            if slot.dtype == DType::F32 {
                to.store(at, four);
            } else {
                for lane in 0..4 {
                    store_lane(to, four, lane, slot.dtype, at + i32::from(lane) * element as i32);
                }
            }
        }
    }
    let _ = k;
}

fn store_lane<'k>(to: Val<'k>, four: Val<'k>, lane: u8, dtype: DType, offset: i32) {
    match dtype {
        DType::F32 => to.store(offset, four.lane(lane)),
        DType::F16 => to.store_half(offset, f32_to_f16(four).lane(lane)),
        DType::BF16 | DType::I32 | DType::Int(_) => unreachable!("a cache holds f32 or f16"),
    }
}
