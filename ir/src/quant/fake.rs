//! Grids of few values, for what is rounded in simulation only.

use super::{ROUND, largest};
use crate::op::Levels;

/// The values that `fake_quant` rounds to.
///
/// Plain f32 arithmetic in a fixed order, so that emitted code gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FakeGrid {
    /// Evenly spaced.
    Even {
        /// The smallest.
        low: f32,
        /// From one to the next.
        step: f32,
        /// One by `step`, or 0.
        inverse: f32,
        /// How many there are beside the smallest.
        most: f32,
    },
    /// Floats times a unit.
    Float {
        /// The smallest that is not subnormal.
        unit: f32,
        /// One by `unit`, or 0.
        inverse: f32,
        /// The largest, in units.
        most: f32,
        /// What rounds numbers of the first octave when it is added and taken away.
        round: f32,
    },
}

impl FakeGrid {
    /// From the smallest to the largest of some numbers.
    pub fn of(x: &[f32], levels: Levels) -> FakeGrid {
        let Levels::Even(bits) = levels else { return FakeGrid::fixed(largest(x), levels) };
        let most = ((1u32 << bits) - 1) as f32;
        let low = x.iter().copied().fold(f32::INFINITY, f32::min);
        let width = x.iter().copied().fold(f32::NEG_INFINITY, f32::max) - low;
        let inverse = if width > 0.0 { most / width } else { 0.0 };
        FakeGrid::Even { low, step: width * (1.0 / most), inverse, most }
    }

    /// Within a range that is given.
    pub fn fixed(range: f32, levels: Levels) -> FakeGrid {
        let inverse = |end: f32| if range > 0.0 { end / range } else { 0.0 };
        match levels {
            Levels::Even(bits) => {
                let most = ((1u32 << bits) - 1) as f32;
                let half = (most - 1.0) / 2.0;
                let step = range * (1.0 / half);
                FakeGrid::Even { low: step * -(half + 1.0), step, inverse: inverse(half), most }
            }
            Levels::Float { mantissa, .. } => {
                let most = levels.float_max();
                let round = ROUND * (-f32::from(mantissa)).exp2();
                FakeGrid::Float { unit: range * (1.0 / most), inverse: inverse(most), most, round }
            }
        }
    }

    /// The value nearest to `x`.
    pub fn nearest(self, x: f32) -> f32 {
        match self {
            FakeGrid::Even { low, step, inverse, most } => {
                let q = ((x - low) * inverse).max(0.0).min(most);
                ((q + ROUND) - ROUND) * step + low
            }
            FakeGrid::Float { unit, inverse, most, round } => {
                let q = (x * inverse).max(-most).min(most);
                // Steps double with every octave; below the first they stay.
                let octave = f32::from_bits(q.to_bits() & EXPONENT).max(1.0);
                let round = octave * round;
                ((q + round) - round) * unit
            }
        }
    }
}

/// The exponent of an f32, by itself a power of two.
pub const EXPONENT: u32 = 0x7f80_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_those_of_the_format() {
        let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let e1m2 = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75];
        let e3m0 = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
        for (name, values) in [("e2m1", e2m1), ("e1m2", e1m2), ("e3m0", e3m0)] {
            let levels = Levels::from_name(name).expect("levels");
            // A unit that is no power of two.
            let unit = 0.3f32;
            let grid = FakeGrid::of(&[0.1, -unit * values[7]], levels);
            for x in (-400..=400).map(|i| i as f32 * unit * values[7] / 380.0) {
                let off = |value: f32| (x.abs() - unit * value).abs();
                let least = values.iter().map(|&v| off(v)).fold(f32::INFINITY, f32::min);
                let found = grid.nearest(x);
                assert!((x - found).abs() <= least + 1e-5, "{name}: {x} became {found}");
                assert!(values.iter().any(|v| (found.abs() - unit * v).abs() < 1e-5), "{found}");
            }
            assert_eq!(FakeGrid::of(&[0.0; 4], levels).nearest(0.0), 0.0);
        }
    }

    #[test]
    fn names_have_one_spelling() {
        for name in ["i2", "i8", "e2m1", "e3m0", "e5m2", "e1m6"] {
            assert_eq!(Levels::from_name(name).map(|l| l.to_string()).as_deref(), Some(name));
        }
        for wrong in ["i1", "i9", "i04", "e0m3", "e6m1", "e4m4", "e1m0", "m1", "4", ""] {
            assert_eq!(Levels::from_name(wrong), None, "{wrong}");
        }
    }
}
