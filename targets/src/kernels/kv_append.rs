//! `kv_append`: keys and values of new positions into a slot of the cache.
//!
//! Both are kept in panels of 32 positions, so that `attention` multiplies them as `linear` does
//! weights. Keys of a head are panels one after another, lanes are positions. Values of a head are
//! blocks of neighbouring columns, each with all its panels; lanes are columns. In a cache of
//! integers (`ir::quant::cache_row`) both are panels of `int_panel`: a panel of keys ends with the
//! scales of its positions, and behind the blocks of values stand the scales of all positions.

mod ints;

use super::int_panel::{self, SCALES_BYTES, Scales};
use super::panel::PANEL_ROWS;
use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::math::f32_to_f16;
use cranelift_codegen::ir::types::*;
use ir::{DType, IntFormat};

/// Positions in a panel.
pub const PANEL_POSITIONS: u64 = PANEL_ROWS;

/// One slot of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Element type: F32, F16, or integers with one group a row.
    pub dtype: DType,
    /// KV heads.
    pub heads: u64,
    /// Width of one head, a multiple of 8, of 16 for integers.
    pub head: u64,
    /// Positions, rounded up to whole panels.
    pub positions: u64,
}

impl Slot {
    /// Bits of an integer, in a cache of integers.
    pub fn int_bits(&self) -> Option<u8> {
        match self.dtype {
            DType::Int(format) => Some(format.bits),
            _ => None,
        }
    }

    /// The panel kernel's shape for keys in a cache of integers: one group, the head.
    pub fn key_shape(&self) -> Option<int_panel::Shape> {
        let format = IntFormat::symmetric(self.int_bits()?, self.head as u32);
        Some(int_panel::Shape::new(format, self.head))
    }

    /// The panel kernel's shape for values in a cache of integers: groups of positions.
    pub fn value_shape(&self) -> Option<int_panel::Shape> {
        let format = IntFormat::symmetric(self.int_bits()?, 0);
        Some(int_panel::Shape {
            format,
            group: PANEL_POSITIONS,
            scales: Scales::None,
            one_range: false,
        })
    }

    /// Columns of a block of values: a panel of integers has 32 lanes, one of floats the largest
    /// width that divides a head.
    pub fn value_width(&self) -> u64 {
        let fits = |w: &u64| self.int_bits().is_some() || self.head.is_multiple_of(*w);
        [32, 16, 8].into_iter().find(fits).expect("a head is a multiple of 8")
    }

    /// Blocks of a head's values.
    pub fn value_blocks(&self) -> u64 {
        self.head.div_ceil(self.value_width())
    }

    fn panels(&self) -> u64 {
        self.positions / PANEL_POSITIONS
    }

    /// Bytes of a panel of keys.
    pub fn key_panel_bytes(&self) -> u64 {
        match self.key_shape() {
            Some(shape) => shape.panel_bytes(1),
            None => PANEL_POSITIONS * self.head * self.dtype.bytes(),
        }
    }

    /// Bytes of a panel of one block of values.
    pub fn value_panel_bytes(&self) -> u64 {
        match self.value_shape() {
            Some(shape) => shape.panel_bytes(1),
            None => PANEL_POSITIONS * self.value_width() * self.dtype.bytes(),
        }
    }

    /// Bytes of the scales of a panel's values.
    pub fn value_scales_bytes(&self) -> u64 {
        if self.int_bits().is_some() { SCALES_BYTES } else { 0 }
    }

    /// Bytes from one head's keys to the next.
    pub fn key_head_bytes(&self) -> u64 {
        self.panels() * self.key_panel_bytes()
    }

    /// Bytes from one block of values to the next.
    pub fn value_block_bytes(&self) -> u64 {
        self.panels() * self.value_panel_bytes()
    }

    /// Bytes from one head's values to the next.
    pub fn value_head_bytes(&self) -> u64 {
        self.value_blocks() * self.value_block_bytes() + self.panels() * self.value_scales_bytes()
    }

    /// Bytes of all keys.
    pub fn key_bytes(&self) -> u64 {
        self.heads * self.key_head_bytes()
    }

    /// Bytes of all values.
    pub fn value_bytes(&self) -> u64 {
        self.heads * self.value_head_bytes()
    }
}

/// Emits `kv_append`: parameters k, v (rows of `heads · head`), keys, values (addresses in the
/// slot), rows, position of row 0, row stride in bytes, first and end panel of positions.
///
/// Panels are zeroed when their first position arrives, so that a saved cache holds nothing
/// undefined.
pub fn define(e: &mut Emitter, name: &str, slot: Slot) -> Func {
    let f = e.declare(name, &[I64; 9], &[]);
    e.define(&f, Tuning::Optimised, |k, args| body(k, args, slot));
    f
}

/// Where one position of one head goes.
struct Place<'k> {
    /// The panel of keys.
    keys: Val<'k>,
    /// The panel of the first block of values.
    values: Val<'k>,
    /// The scales of the panel's values.
    scales: Val<'k>,
    /// The position in its panel.
    lane: Val<'k>,
}

fn body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], slot: Slot) {
    let [.., rows, position, _, first, end] = args else {
        unreachable!("nine parameters are declared")
    };
    let panel = PANEL_POSITIONS as i64;
    let next = k.var((*first * panel).umax(*position));
    let to = (*end * panel).umin(*position + *rows);
    let store = |count: usize| {
        heads(k, args, slot, next.get(), count);
        next.set(next.get() + count as i64);
    };
    k.while_(
        || next.get().lt(to),
        || match slot.int_bits() {
            None => store(1),
            // Four positions are a word of each column.
            Some(_) => {
                let four = (next.get() & 3).is(0) & !to.lt(next.get() + 4);
                k.if_else(four, || store(4), || store(1));
            }
        },
    );
    k.ret(&[]);
}

/// `count` positions from `p` on, of all heads.
fn heads<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], slot: Slot, p: Val<'k>, count: usize) {
    let [new_k, new_v, keys, values, _, position, stride, ..] = args else {
        unreachable!("nine parameters are declared")
    };
    let row = (p - *position) * *stride;
    let (row_k, row_v) = (*new_k + row, *new_v + row);
    let (panel, lane) = (p / PANEL_POSITIONS as i64, p & (PANEL_POSITIONS as i64 - 1));
    let blocks_bytes = (slot.value_blocks() * slot.value_block_bytes()) as i64;
    k.each(k.i64(0), k.i64(slot.heads as i64), 1, |h| {
        let source = h * (slot.head * 4) as i64;
        let head = *values + h * slot.value_head_bytes() as i64;
        let place = Place {
            keys: *keys
                + (h * slot.key_head_bytes() as i64 + panel * slot.key_panel_bytes() as i64),
            values: head + panel * slot.value_panel_bytes() as i64,
            scales: head + (panel * slot.value_scales_bytes() as i64 + blocks_bytes),
            lane,
        };
        k.if_(lane.is(0), || zero_panels(k, &place, slot));
        let (new_k, new_v) = (row_k + source, row_v + source);
        match slot.int_bits() {
            None => {
                store_keys(k, new_k, &place, slot);
                store_values(new_v, &place, slot);
            }
            Some(bits) => {
                let rows = |first| ints::Rows::of(k, first, *stride, count, slot.head, bits);
                ints::store_keys(k, &rows(new_k), &place, slot);
                ints::store_values(k, &rows(new_v), &place, slot);
            }
        }
    });
}

fn zero_panels<'k>(k: &'k Kernel<'k>, place: &Place<'k>, slot: Slot) {
    let zero = |at: Val<'k>, bytes: u64| {
        k.each(k.i64(0), k.i64(bytes as i64), 16, |i| (at + i).store(0, k.f32x4(0.0)));
    };
    zero(place.keys, slot.key_panel_bytes());
    for block in 0..slot.value_blocks() {
        let at = place.values + (block * slot.value_block_bytes()) as i64;
        zero(at, slot.value_panel_bytes());
    }
    zero(place.scales, slot.value_scales_bytes());
}

/// One key of floats: elements a panel's width apart.
fn store_keys<'k>(k: &'k Kernel<'k>, from: Val<'k>, place: &Place<'k>, slot: Slot) {
    let to = k.var(place.keys + place.lane * slot.dtype.bytes() as i64);
    let step = (PANEL_POSITIONS * slot.dtype.bytes()) as i64;
    k.each(k.i64(0), k.i64(slot.head as i64 * 4), 16, |i| {
        let four = (from + i).load(F32X4, 0);
        for lane in 0..4 {
            store_lane(to.get(), four, lane, slot.dtype, i32::from(lane) * step as i32);
        }
        to.set(to.get() + step * 4);
    });
}

/// One value of floats: neighbours in each block.
fn store_values<'k>(from: Val<'k>, place: &Place<'k>, slot: Slot) {
    let width = slot.value_width();
    let element = slot.dtype.bytes();
    for block in 0..slot.value_blocks() {
        let to = place.values
            + (place.lane * (width * element) as i64)
            + (block * slot.value_block_bytes()) as i64;
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
}

fn store_lane<'k>(to: Val<'k>, four: Val<'k>, lane: u8, dtype: DType, offset: i32) {
    match dtype {
        DType::F32 => to.store(offset, four.lane(lane)),
        DType::F16 => to.store_half(offset, f32_to_f16(four).lane(lane)),
        DType::BF16 | DType::I32 | DType::Int(_) => unreachable!("floats of a cache"),
    }
}
