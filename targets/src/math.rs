//! Elementary functions as polynomials: the targets have none, and libraries are not linked.

use crate::builder::{Kernel, Val};
use cranelift_codegen::ir::types::*;
use ir::Gate;

/// Numbers of `exp`.
pub struct Exp {
    /// Arguments are clamped to `low..=high`.
    pub low: f32,
    /// See `low`.
    pub high: f32,
    /// `log2 e`.
    pub log2_e: f32,
    /// `1.5 · 2^23`: adding it rounds a small float to an integer in the low bits.
    pub round: f32,
    /// Minus `ln 2`, the part whose products are exact.
    pub ln2_high: f32,
    /// Minus `ln 2`, the rest.
    pub ln2_low: f32,
    /// Coefficients of `(exp r - 1 - r) / r²` in `r`, highest first.
    pub polynomial: [f32; 5],
}

/// Range reduction by `ln 2` in two parts, degree-6 Taylor polynomial (Cephes `expf`).
pub const EXP: Exp = Exp {
    low: -87.3,
    high: 86.0,
    log2_e: std::f32::consts::LOG2_E,
    round: 12_582_912.0,
    ln2_high: -0.693_359_4,
    ln2_low: 2.121_944_4e-4,
    polynomial: [1.388_888_9e-3, 8.333_334e-3, 4.166_666_6e-2, 1.666_666_7e-1, 0.5],
};

/// `exp(x)`, four lanes, for `x` clamped to [-87.3, 86]; within 3 ulp. See `EXP`.
pub fn exp<'k>(x: Val<'k>) -> Val<'k> {
    let k = x.k;
    let c = |v: f32| k.f32x4(v);
    let x = x.pmax(c(EXP.low)).pmin(c(EXP.high));
    let shifted = x.fma(c(EXP.log2_e), c(EXP.round));
    let n = shifted - c(EXP.round);
    let r = n.fma(c(EXP.ln2_high), x);
    let r = n.fma(c(EXP.ln2_low), r);
    let mut p = c(EXP.polynomial[0]);
    for q in &EXP.polynomial[1..] {
        p = p.fma(r, c(*q));
    }
    let y = (r * r).fma(p, r) + 1.0;
    let exponent = shifted.cast(I32X4) << 23;
    (y.cast(I32X4) + exponent).cast(F32X4)
}

/// Coefficients of `(tanh x - x) / x³` in `x²`, highest first: its Taylor series.
const TANH: [f32; 5] = [
    -8.863_236e-3,   // -1382/155925
    2.186_949e-2,    // 62/2835
    -5.396_825_3e-2, // -17/315
    1.333_333_3e-1,  // 2/15
    -3.333_333_3e-1,
];
/// Where the series is used.
const TANH_SERIES: f32 = 0.3;

/// `tanh(x)`, four lanes, within 8 ulp: `1 - 2/(exp(2x) + 1)`, which near 0 would be a difference of
/// equals.
pub fn tanh<'k>(x: Val<'k>) -> Val<'k> {
    let c = |v: f32| x.k.f32x4(v);
    let far = c(1.0) - c(2.0) / (exp(x + x) + 1.0);
    let square = x * x;
    let series = TANH[1..].iter().fold(c(TANH[0]), |p, q| p.fma(square, c(*q)));
    let near = (x * square).fma(series, x);
    square.flt(c(TANH_SERIES * TANH_SERIES)).select(near, far)
}

/// `x / (1 + exp(-x))`, four lanes.
pub fn silu<'k>(x: Val<'k>) -> Val<'k> {
    x / (exp(-x) + 1.0)
}

/// Numbers of `gelu`: of `x` and of `x³`.
pub const GELU: [f32; 2] = [Gate::GELU_LINEAR as f32, Gate::GELU_CUBIC as f32];

/// `x / (1 + exp(-2u))` with `u = sqrt(2/π) · (x + 0.044715 x³)`, four lanes.
pub fn gelu<'k>(x: Val<'k>) -> Val<'k> {
    let [linear, cubic] = GELU.map(|c| x.k.f32x4(c));
    x / (exp(-((x * x).fma(cubic, linear) * x)) + 1.0)
}

/// Coefficients of `(2^x - 1) / x` for `x` within a half, highest first: relative error below 3e-6.
pub const EXP2: [f32; 4] = [9.582_85e-3, 5.590_642_6e-2, 2.402_41e-1, 6.931_242e-1];
/// Smallest argument of `exp2`.
pub const EXP2_LOW: f32 = -126.0;

/// `2^x`, four lanes, for `x` from -126 (smaller ones count as that) to 126, within 3e-6 of itself: for
/// what is rounded to a few bits next.
pub fn exp2<'k>(x: Val<'k>) -> Val<'k> {
    let k = x.k;
    let c = |v: f32| k.f32x4(v);
    let x = x.pmax(c(EXP2_LOW));
    let shifted = x + c(EXP.round);
    let r = x - (shifted - c(EXP.round));
    let mut p = c(EXP2[0]);
    for q in &EXP2[1..] {
        p = p.fma(r, c(*q));
    }
    let y = p.fma(r, c(1.0));
    (y.cast(I32X4) + (shifted.cast(I32X4) << 23)).cast(F32X4)
}

/// `(sin x, cos x)` of an f32 angle, as f32; exact to half an ulp or so up to 2^20 turns.
/// The reduction by `π/2` is in f64 with a first part short enough for exact products.
pub fn sin_cos<'k>(x: Val<'k>) -> (Val<'k>, Val<'k>) {
    let k = x.k;
    let round = 6_755_399_441_055_744.0; // 1.5 · 2^52
    let x = x.promote();
    let shifted = x * k.f64(std::f64::consts::FRAC_2_PI) + k.f64(round);
    let n = shifted - k.f64(round);
    let quadrant = shifted.cast(I64) & 3;
    let r = x - n * k.f64(1.570_796_325_802_803);
    let r = r - n * k.f64(9.920_935_796_805_404e-10);
    let z = r * r;
    let sin = r + r * z * polynomial(k, z, &SIN);
    let cos = k.f64(1.0) - z * k.f64(0.5) + z * z * polynomial(k, z, &COS);
    let (sin, cos) = (sin.demote(), cos.demote());
    let odd = (quadrant & 1).is(1);
    let (s, c) = (odd.select(cos, sin), odd.select(sin, cos));
    let s = (quadrant & 2).is(2).select(-s, s);
    let c = ((quadrant + 1) & 2).is(2).select(-c, c);
    (s, c)
}

/// Taylor coefficients of `(sin r - r) / r³` in `r²`, lowest first.
const SIN: [f64; 6] = [
    -1.0 / 6.0,
    1.0 / 120.0,
    -1.0 / 5_040.0,
    1.0 / 362_880.0,
    -1.0 / 39_916_800.0,
    1.0 / 6_227_020_800.0,
];

/// Taylor coefficients of `(cos r - 1 + r²/2) / r⁴` in `r²`, lowest first.
const COS: [f64; 6] = [
    1.0 / 24.0,
    -1.0 / 720.0,
    1.0 / 40_320.0,
    -1.0 / 3_628_800.0,
    1.0 / 479_001_600.0,
    -1.0 / 87_178_291_200.0,
];

fn polynomial<'k>(k: &'k Kernel<'k>, z: Val<'k>, coefficients: &[f64]) -> Val<'k> {
    let mut p = k.f64(*coefficients.last().expect("a polynomial has coefficients"));
    for &c in coefficients.iter().rev().skip(1) {
        p = p * z + k.f64(c);
    }
    p
}

/// `ln x` of a positive, normal f64; within 1e-15 relative of the logarithm or 1e-16 absolute.
/// `x = 2^e · m` with `m` in [√½, √2), then `2 atanh((m-1)/(m+1))` by its series.
pub fn ln<'k>(x: Val<'k>) -> Val<'k> {
    let k = x.k;
    let bits = x.cast(I64);
    let half = k.i64(0x3fe6_a09e_667f_3bcd); // bits of √½
    let e = (bits - half).sshr(52);
    let m = (bits - e.shl_by(k.i32(52))).cast(F64);
    let t = (m - k.f64(1.0)) / (m + k.f64(1.0));
    let z = t * t;
    let series: Vec<f64> = (0..12).map(|i| 2.0 / f64::from(2 * i + 1)).collect();
    t * polynomial(k, z, &series) + e.to_float(F64) * k.f64(std::f64::consts::LN_2)
}

/// Four f16 bit patterns, sign-extended to 32 bits, to f32: exact, subnormals included; infinities
/// and NaN become large numbers, which packing and the cache never store.
pub fn f16_to_f32<'k>(half: Val<'k>) -> Val<'k> {
    let k = half.k;
    let bits = (half << 13) & k.i32x4(0x8fff_e000_u32 as i32);
    bits.cast(F32X4) * k.f32x4(f32::from_bits((127 + 112) << 23))
}

/// Four f32 to f16 bit patterns in the low half of each lane, nearest even, saturated to ±65504.
/// Subnormal results are made by adding a constant whose last place is the subnormal step.
pub fn f32_to_f16<'k>(x: Val<'k>) -> Val<'k> {
    let k = x.k;
    let sign = x.cast(I32X4) & k.i32x4(i32::MIN);
    let limit = k.f32x4(65504.0);
    let magnitude = (x.cast(I32X4) ^ sign).cast(F32X4).pmin(limit);
    let bits = magnitude.cast(I32X4);
    let odd = (bits >> 13) & k.i32x4(1);
    let normal = (bits + odd + k.i32x4(0xfff - ((127 - 15) << 23))) >> 13;
    let step = k.f32x4(0.5);
    let subnormal = (magnitude + step).cast(I32X4) - step.cast(I32X4);
    let small = magnitude.flt(k.f32x4(f32::from_bits((127 - 14) << 23)));
    let half = small.select(subnormal, normal);
    half | (sign >> 16)
}
