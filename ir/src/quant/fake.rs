//! Grids of few values, for what is rounded in simulation only.

use super::ROUND;

/// The values that `fake_quant` rounds to: `2^bits` of them, evenly spaced.
///
/// Plain f32 arithmetic in a fixed order, so that emitted code gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeGrid {
    low: f32,
    step: f32,
    inverse: f32,
    most: f32,
}

impl FakeGrid {
    /// From the smallest to the largest of some numbers.
    pub fn of(x: &[f32], bits: u8) -> FakeGrid {
        let most = ((1u32 << bits) - 1) as f32;
        let low = x.iter().copied().fold(f32::INFINITY, f32::min);
        let width = x.iter().copied().fold(f32::NEG_INFINITY, f32::max) - low;
        let inverse = if width > 0.0 { most / width } else { 0.0 };
        FakeGrid { low, step: width * (1.0 / most), inverse, most }
    }

    /// The integers of `bits` bits times `range / (2^(bits-1) - 1)`.
    pub fn fixed(range: f32, bits: u8) -> FakeGrid {
        let most = ((1u32 << bits) - 1) as f32;
        let half = (most - 1.0) / 2.0;
        let step = range * (1.0 / half);
        let inverse = if range > 0.0 { half / range } else { 0.0 };
        FakeGrid { low: step * -(half + 1.0), step, inverse, most }
    }

    /// The value nearest to `x`.
    pub fn nearest(self, x: f32) -> f32 {
        let q = ((x - self.low) * self.inverse).max(0.0).min(self.most);
        ((q + ROUND) - ROUND) * self.step + self.low
    }
}
