//! Keys and values of integers: one position, or four neighbouring ones, whose bytes are then words.

use super::{PANEL_POSITIONS, Place, Slot};
use crate::builder::{Kernel, Val};
use crate::math::{f16_to_f32, f32_to_f16};
use crate::target::Arch;
use cranelift_codegen::ir::types::*;

/// Bytes of a quad of all positions of a panel.
const LINE_BYTES: i32 = 4 * PANEL_POSITIONS as i32;

/// Keys: quads a line of the panel apart, then their scales.
pub fn store_keys<'k>(k: &'k Kernel<'k>, rows: &Rows<'k>, place: &Place<'k>, slot: Slot) {
    let to = k.var(place.keys + place.lane * 4);
    k.each(k.i64(0), k.i64(slot.head as i64), 16, |i| {
        let quads: Vec<Val> = rows.sixteen(k, i).into_iter().map(|x| x.cast(I32X4)).collect();
        let quads = match quads[..] {
            [a, b, c, d] => Val::transpose([a, b, c, d]).to_vec(),
            _ => (0..4).map(|j| quads[0].lane(j)).collect(),
        };
        let words = match rows.bits {
            8 => quads,
            _ => quads.chunks(2).map(|two| two[0] | (two[1] << 4)).collect(),
        };
        for (j, word) in words.iter().enumerate() {
            to.get().store(j as i32 * LINE_BYTES, *word);
        }
        to.set(to.get() + words.len() as i64 * i64::from(LINE_BYTES));
    });
    let quads_bytes = slot.key_shape().expect("a cache of integers").quads_bytes();
    rows.store_scales(place.keys + place.lane * 2 + quads_bytes as i64);
}

/// Values: bytes of each column's quad, or halves of them, then their scales.
pub fn store_values<'k>(k: &'k Kernel<'k>, rows: &Rows<'k>, place: &Place<'k>, slot: Slot) {
    let positions = i64::from(32 / rows.bits);
    let line = (place.lane / positions) * i64::from(LINE_BYTES);
    let to = place.values + line + (place.lane & 3);
    // Of eight positions the last four are the high nibbles.
    let nibbles = (rows.bits == 4).then(|| {
        let shift = place.lane & 4;
        (shift, shift.is(0).select(k.i64(0xf0f0_f0f0), k.i64(0x0f0f_0f0f)))
    });
    let width = slot.value_width() as i64;
    k.each(k.i64(0), k.i64(slot.head as i64), 16, |first| {
        let columns = rows.sixteen(k, first);
        let at =
            to + first / width * slot.value_block_bytes() as i64 + first.urem(k.i64(width)) * 4;
        match columns[..] {
            [a, b, c, d] => {
                for (i, words) in Val::transpose([a, b, c, d]).into_iter().enumerate() {
                    put_words(at, 16 * i as i32, words.cast(I32X4), nibbles);
                }
            }
            _ => (0..16).for_each(|i| {
                put_byte(at, 4 * i32::from(i), columns[0].lane(i), nibbles);
            }),
        }
    });
    rows.store_scales(place.scales + place.lane * 2);
}

/// Of bytes with two positions each: by how much these are shifted, and what stays of the others.
type Nibbles<'k> = Option<(Val<'k>, Val<'k>)>;

fn put_words<'k>(at: Val<'k>, offset: i32, words: Val<'k>, nibbles: Nibbles<'k>) {
    let words = nibbles.map_or(words, |(shift, keep)| {
        (at.load(I32X4, offset) & keep.truncate(I32).splat(I32X4)) | words.shl_by(shift)
    });
    at.store(offset, words);
}

fn put_byte<'k>(at: Val<'k>, offset: i32, byte: Val<'k>, nibbles: Nibbles<'k>) {
    match nibbles {
        None => at.store(offset, byte),
        Some((shift, keep)) => {
            let byte = byte.uext(I64).shl_by(shift);
            at.store_byte(offset, (at.load_byte(offset) & keep) | byte);
        }
    }
}

/// A head of one position, or of four, as integers, see `ir::quant::cache_row`.
pub struct Rows<'k> {
    /// The floats of each.
    from: Vec<Val<'k>>,
    /// One over the scale of each, in every lane.
    inverses: Vec<Val<'k>>,
    /// The scales' bits of f16, one a lane.
    halves: Val<'k>,
    bits: u8,
}

impl<'k> Rows<'k> {
    /// Of `count` rows of `head` floats, `stride` bytes apart.
    pub fn of(
        k: &'k Kernel<'k>,
        first: Val<'k>,
        stride: Val<'k>,
        count: usize,
        head: u64,
        bits: u8,
    ) -> Rows<'k> {
        let from: Vec<Val> = (0..count as i64).map(|i| first + stride * i).collect();
        let (high, low): (Vec<_>, Vec<_>) = from.iter().map(|row| extremes(k, *row, head)).unzip();
        let (high, low) = (largest(&high), largest(&low));
        let extreme = high.flt(low).select(-low, high);
        let scale = extreme * (-1.0 / f32::from(1u16 << (bits - 1)));
        let halves = f32_to_f16(scale);
        let scale = f16_to_f32((halves << 16).sshr(16));
        let (zero, one) = (k.f32x4(0.0), k.f32x4(1.0));
        let inverse = scale.feq(zero).select(zero, one / scale);
        let inverses = (0..count as u8).map(|i| inverse.lane(i).splat(F32X4)).collect();
        Rows { from, inverses, halves, bits }
    }

    /// Sixteen integers of each row from element `i` on as they are stored: unsigned on x86-64,
    /// nibbles alone in their bytes.
    fn sixteen(&self, k: &'k Kernel<'k>, i: Val<'k>) -> Vec<Val<'k>> {
        let rows = self.from.iter().zip(&self.inverses);
        rows.map(|(from, inverse)| integers(k, *from + (i << 2), *inverse, self.bits)).collect()
    }

    fn store_scales(&self, to: Val<'k>) {
        for i in 0..self.from.len() as u8 {
            to.store_half(2 * i32::from(i), self.halves.lane(i));
        }
    }
}

/// The largest of a row and of what it is with the other sign, in four lanes each.
fn extremes<'k>(k: &'k Kernel<'k>, row: Val<'k>, head: u64) -> (Val<'k>, Val<'k>) {
    let lowest = k.f32x4(f32::NEG_INFINITY);
    let (high, low) = (k.var(lowest), k.var(lowest));
    k.each(k.i64(0), k.i64(head as i64 * 4), 64, |i| {
        let x = [0, 16, 32, 48].map(|at| (row + i).load(F32X4, at));
        let most = |x: [Val<'k>; 4]| x[0].pmax(x[1]).pmax(x[2].pmax(x[3]));
        high.set(high.get().pmax(most(x)));
        low.set(low.get().pmax(most(x.map(|x| -x))));
    });
    (high.get(), low.get())
}

/// The largest lane of each row, one a lane; of one row in every lane.
fn largest<'k>(rows: &[Val<'k>]) -> Val<'k> {
    match *rows {
        [a, b, c, d] => {
            let [a, b, c, d] = Val::transpose([a, b, c, d]);
            a.pmax(b).pmax(c.pmax(d))
        }
        _ => rows[0].max_lanes().splat(F32X4),
    }
}

fn integers<'k>(k: &'k Kernel<'k>, from: Val<'k>, inverse: Val<'k>, bits: u8) -> Val<'k> {
    let half = f32::from(1u16 << (bits - 1));
    let magic = k.f32x4(12_582_912.0);
    let four = |j: i32| {
        let x = from.load(F32X4, 16 * j) * inverse;
        let x = x.pmax(k.f32x4(-half)).pmin(k.f32x4(half - 1.0));
        (x + magic).cast(I32X4) - magic.cast(I32X4)
    };
    let signed = four(0).snarrow(four(1)).snarrow(four(2).snarrow(four(3)));
    match (k.facts.arch, bits) {
        (Arch::X64, 8) => signed ^ k.vector(I8X16, &[0x80; 16]),
        (Arch::X64, _) => signed + k.vector(I8X16, &[8; 16]),
        (Arch::A64 | Arch::R64, 8) => signed,
        (Arch::A64 | Arch::R64, _) => signed & k.vector(I8X16, &[15; 16]),
    }
}
