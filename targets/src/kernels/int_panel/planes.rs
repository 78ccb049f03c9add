//! Where the bits of integers are in a panel.
//!
//! A line is 128 bytes, four of each of the 32 rows. Integers are cut into planes of 8, 4, 2 or 1 bits:
//! a byte of a line holds one, two, four or eight pieces, of `k` that are four apart, the first in the
//! lowest bits. Planes of a block of `k`, as many as the narrowest plane has in a line, stand one
//! after the other, the low bits of integers first.

use crate::target::Arch;
use ir::{Codes, IntFormat};

/// Bytes of a line: four of each row.
pub const LINE: u64 = 128;

/// Bits of integers that stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plane {
    /// 8, 4, 2 or 1.
    bits: u64,
    /// The lowest of them in the integer.
    low: u64,
}

/// The planes of integers of so many bits.
fn planes(bits: u8) -> &'static [Plane] {
    const BYTE: Plane = Plane { bits: 8, low: 0 };
    const NIBBLE: Plane = Plane { bits: 4, low: 0 };
    const CRUMB: Plane = Plane { bits: 2, low: 0 };
    match bits {
        2 => &[CRUMB],
        3 => &[CRUMB, Plane { bits: 1, low: 2 }],
        4 => &[NIBBLE],
        5 => &[NIBBLE, Plane { bits: 1, low: 4 }],
        6 => &[NIBBLE, Plane { bits: 2, low: 4 }],
        _ => &[BYTE],
    }
}

/// A piece of four neighbouring integers of every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes from the group's first line to the line that holds it.
    pub at: u64,
    /// Its lowest bit in the bytes of the line.
    pub from: u64,
    /// Its lowest bit in the integer.
    pub to: u64,
    /// Its bits.
    pub bits: u64,
}

impl Piece {
    /// Its bits in the integer.
    pub fn mask(self) -> u8 {
        (((1u32 << self.bits) - 1) << self.to) as u8
    }

    /// Where its bits stand in the line.
    pub fn put(self, integer: u8) -> u8 {
        (integer & self.mask()) >> self.to << self.from
    }

    /// How far it moves left from the line to the integer.
    pub fn left(self) -> i64 {
        self.to as i64 - self.from as i64
    }
}

/// `k` after which lines start anew.
pub fn block(format: IntFormat) -> u64 {
    let narrowest = planes(format.bits).iter().map(|plane| plane.bits).min();
    32 / narrowest.expect("integers have planes")
}

/// The pieces of integers `k..k + 4` of a group.
pub fn pieces(format: IntFormat, k: u64) -> impl Iterator<Item = Piece> {
    let block = block(format);
    let quad = k % block / 4;
    let mut plane_at = k / block * block * LINE * u64::from(format.bits) / 32;
    planes(format.bits).iter().map(move |plane| {
        let at = plane_at + quad * plane.bits / 8 * LINE;
        plane_at += block * plane.bits / 32 * LINE;
        Piece { at, from: quad * plane.bits % 8, to: plane.low, bits: plane.bits }
    })
}

/// What the bytes that are put together from pieces, or looked up, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whether the highest bit of a byte, or of a nibble that is widened, is a sign.
    pub signed: bool,
    /// What they exceed the integer by, which counts from 0 where groups have low ends.
    pub more: i64,
}

impl Held {
    /// The same bytes' excess as a power of two, and whether it is negative; `None` if nothing.
    pub fn more_log2(self) -> Option<(i64, bool)> {
        (self.more != 0).then(|| (i64::from(self.more.unsigned_abs().ilog2()), self.more < 0))
    }
}

/// How a target holds a format: x86-64 multiplies unsigned by signed bytes, the others signed ones.
/// Integers of fewer bits than four, or of more planes than one, have no sign of their own.
pub fn held(format: IntFormat, arch: Arch) -> Held {
    let half = 1 << (format.bits - 1);
    let unsigned = |more| Held { signed: false, more };
    match (arch, format.codes) {
        (Arch::X64, Codes::Table(table)) => {
            let least = table.iter().copied().min().map_or(0, i64::from);
            unsigned((-least).max(1).unsigned_abs().next_power_of_two() as i64)
        }
        (_, Codes::Table(_)) => Held { signed: true, more: 0 },
        _ if format.zero && (arch == Arch::X64 || format.nested) => unsigned(0),
        (Arch::A64 | Arch::R64, _) if matches!(format.bits, 4 | 8) => {
            Held { signed: true, more: if format.zero { -half } else { 0 } }
        }
        _ => unsigned(if format.zero { 0 } else { half }),
    }
}

/// The bytes that places of a table stand for, as a target holds them.
pub fn table(format: IntFormat, arch: Arch) -> Option<[u8; 16]> {
    let Codes::Table(table) = format.codes else { return None };
    Some(table.map(|value| (i64::from(value) + held(format, arch).more) as u8))
}

/// The largest magnitude of a byte that is multiplied.
pub fn largest(format: IntFormat, arch: Arch) -> u64 {
    let Held { signed, more } = held(format, arch);
    match (format.codes, signed) {
        (Codes::Table(table), _) => {
            let values = table.iter().map(|&v| (i64::from(v) + more).unsigned_abs());
            values.max().expect("a table has elements")
        }
        (Codes::Whole, true) => 1 << (format.bits - 1),
        (Codes::Whole, false) => (1 << format.bits) - 1,
    }
}

/// The largest byte of which two products by activations fit 16 bits twice: larger ones are multiplied
/// in nibbles where products are added to 16 bits.
const SMALL: u64 = 63;

/// Whether x86-64 multiplies bytes in nibbles where it has no dot product.
pub fn in_nibbles(format: IntFormat) -> bool {
    largest(format, Arch::X64) > SMALL
}

/// `k` of which a sum of 16 bits holds the products of bytes up to `largest` by activations, `pairs` of
/// them at a time: a power of two, at most 32.
pub fn block_in_16_bits(largest: u64, pairs: u64) -> u64 {
    let quads = (i16::MAX as u64 / (127 * pairs * largest)).clamp(1, 8);
    4 << quads.ilog2()
}
