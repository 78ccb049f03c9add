//! Weights of candidates: `exp((logit - max) / temperature)` as integers, the same on every target.
//!
//! The exponential uses single operations that IEEE 754 defines to the last bit, never a fused one;
//! and since integers add up to the same sum in any order, sums need no agreed order.

use cranelift_codegen::ir::types::{F32X4, I32, I32X4};
use targets::{Kernel, Val};

/// The weight of the best candidate; what is below half of 1 is 0.
pub const ONE: i32 = 1 << 30;

/// Below it every weight is 0.
const LOWEST: f32 = -30.0;
/// 1.5 · 2²³: added, it leaves the nearest integer in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first so short that its products are exact.
const LN2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
/// (exp(r) - 1 - r) / r² for |r| <= ln 2 / 2, highest power first (Cephes' expf).
const POWERS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];

/// A logit that can be compared and subtracted: not-a-number and -∞ become the lowest number, +∞
/// the highest, -0 becomes 0. `x` is a float or a vector of floats.
pub fn clean<'k>(k: &'k Kernel<'k>, x: Val<'k>) -> Val<'k> {
    x.pmax(like(k, x, -f32::MAX)).pmin(like(k, x, f32::MAX)) + 0.0f32
}

/// `ONE · exp((logit - max) · inverse)` as an integer of 32 bits, or a vector of them; logits are
/// clean and none is above `max`.
pub fn weight<'k>(k: &'k Kernel<'k>, logit: Val<'k>, max: Val<'k>, inverse: Val<'k>) -> Val<'k> {
    let int = if logit.ty() == F32X4 { I32X4 } else { I32 };
    let x = ((logit - max) * inverse).pmax(like(k, logit, LOWEST));
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2[0] - n * LN2[1];
    let powers = POWERS[1..].iter().fold(like(k, logit, POWERS[0]), |p, &c| p * r + c);
    let y = powers * (r * r) + r + 1.0f32;
    let exponent = rounded.cast(int) << 23;
    ((y.cast(int) + exponent).cast(logit.ty()) * ONE as f32 + 0.5f32).to_int(int)
}

/// `c` in the type of `x`.
fn like<'k>(k: &'k Kernel<'k>, x: Val<'k>, c: f32) -> Val<'k> {
    if x.ty() == F32X4 { k.f32x4(c) } else { k.f32(c) }
}

/// The same in plain Rust.
pub mod reference {
    use super::{LN2, LOWEST, ONE, POWERS, ROUND};

    /// As [`super::clean`].
    pub fn clean(x: f32) -> f32 {
        let x = if x > -f32::MAX { x } else { -f32::MAX };
        (if x < f32::MAX { x } else { f32::MAX }) + 0.0
    }

    /// As [`super::weight`].
    pub fn weight(logit: f32, max: f32, inverse: f32) -> i64 {
        let x = (logit - max) * inverse;
        let x = if x > LOWEST { x } else { LOWEST };
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        let r = x - n * LN2[0] - n * LN2[1];
        let powers = POWERS[1..].iter().fold(POWERS[0], |p, c| p * r + c);
        let y = powers * (r * r) + r + 1.0;
        let y = f32::from_bits(y.to_bits().wrapping_add(rounded.to_bits() << 23));
        (y * ONE as f32 + 0.5) as i64
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn weights_are_exponentials() {
            assert_eq!(weight(5.0, 5.0, 0.3), i64::from(ONE));
            assert_eq!(weight(-f32::MAX, f32::MAX, 1.0), 0);
            for i in 0..30_000 {
                let x = -(i as f32) / 1000.0;
                let exact = f64::from(x).exp() * f64::from(ONE);
                let error = (weight(x, 0.0, 1.0) as f64 - exact).abs();
                assert!(error <= 0.51 + exact * 2e-7, "exp({x}): {error}");
            }
        }
    }
}
