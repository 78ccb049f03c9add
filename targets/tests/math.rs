//! Elementary functions against f64, over all their arguments where that is cheap.

mod support;

use half::f16;
use support::Arg::{At, Int};
use support::{Case, everywhere, floats, noise, ulps};
use targets::builder::Val;
use targets::{Emitter, Func, Tuning, math};

use cranelift_codegen::ir::types::*;

/// A kernel that applies `f` to four floats at a time: parameters from, to, bytes.
fn four_by_four(e: &mut Emitter, name: &str, f: impl for<'k> Fn(Val<'k>) -> Val<'k>) -> Func {
    let function = e.declare(name, &[I64; 3], &[]);
    e.define(&function, Tuning::Optimised, |k, args| {
        let (from, to, bytes) = (args[0], args[1], args[2]);
        k.each(k.i64(0), bytes, 16, |i| (to + i).store(0, f((from + i).load(F32X4, 0))));
        k.ret(&[]);
    });
    function
}

/// Arguments in four-byte elements, and results.
fn map_case(from: &[f32]) -> (Case, usize) {
    let mut case = Case::default();
    let (x, y) = (case.floats(from), case.room(from.len()));
    case.call(0, &[At(x), At(y), Int(from.len() as i64 * 4)]);
    (case, y)
}

#[test]
fn exp_is_within_3_ulp() {
    let mut from: Vec<f32> =
        (0..1 << 18).map(|i| i as f32 / (1 << 18) as f32 * 173.3 - 87.3).collect();
    from.extend(noise(3, 1 << 16));
    from.extend([0.0, -0.0, 1e-30, -1e-30, f32::MIN_POSITIVE, 86.0, -87.3, 0.5]);
    let (case, y) = map_case(&from);
    let define = |e: &mut Emitter| vec![four_by_four(e, "exp", math::exp)];
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(floats(&found[0], y, from.len())) {
            let off = ulps(found, f64::from(*x).exp() as f32);
            assert!(off <= 3.0, "{}: exp({x}) is {off} ulp off", target.cpu);
        }
    });
}

#[test]
fn tanh_is_within_8_ulp() {
    let mut from: Vec<f32> =
        (0..1 << 18).map(|i| i as f32 / (1 << 18) as f32 * 40.0 - 20.0).collect();
    from.extend(noise(3, 1 << 16));
    from.extend([0.0, -0.0, 1e-30, -1e-30, 1e-6, 0.3, -0.3, 88.0, -1e30, 1e30]);
    let (case, y) = map_case(&from);
    let define = |e: &mut Emitter| vec![four_by_four(e, "tanh", math::tanh)];
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(floats(&found[0], y, from.len())) {
            let off = ulps(found, f64::from(*x).tanh() as f32);
            assert!(off <= 8.0, "{}: tanh({x}) is {off} ulp off", target.cpu);
        }
    });
}

#[test]
fn exp2_is_within_3e_6() {
    let from: Vec<f32> =
        (0..1 << 18).map(|i| i as f32 / (1 << 18) as f32 * 252.0 - 126.0).collect();
    let from = [&from[..], &[0.0, -0.0, -200.0, -1e30]].concat();
    let (case, y) = map_case(&from);
    let define = |e: &mut Emitter| vec![four_by_four(e, "exp2", math::exp2)];
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(floats(&found[0], y, from.len())) {
            let expected = f64::from(x.max(math::EXP2_LOW)).exp2();
            let off = (f64::from(found) / expected - 1.0).abs();
            assert!(off < 3.2e-6, "{}: 2^{x} is {off} off", target.cpu);
        }
    });
}

#[test]
fn exp_is_clamped_beyond_its_range() {
    let from = [-1e30, -200.0, -87.4, -f32::MAX, 86.1, 100.0, 1e30, f32::MAX];
    let (case, y) = map_case(&from);
    let define = |e: &mut Emitter| vec![four_by_four(e, "exp", math::exp)];
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(floats(&found[0], y, from.len())) {
            let expected = f64::from(x.clamp(-87.3, 86.0)).exp() as f32;
            assert!(ulps(found, expected) <= 3.0, "{}: exp({x}) = {found}", target.cpu);
        }
    });
}

#[test]
fn every_half_is_read_exactly() {
    // Infinities and NaN, exponent 31, are never stored.
    let halves: Vec<i16> =
        (0..=u16::MAX).filter(|h| h >> 10 & 31 != 31).map(|h| h as i16).collect();
    let from: Vec<f32> = halves.iter().map(|h| f32::from_bits(i32::from(*h) as u32)).collect();
    let (case, y) = map_case(&from);
    let define =
        |e: &mut Emitter| vec![four_by_four(e, "read", |x| math::f16_to_f32(x.cast(I32X4)))];
    everywhere(&define, &[case], &|target, found| {
        for (half, found) in halves.iter().zip(floats(&found[0], y, from.len())) {
            let expected = f16::from_bits(*half as u16).to_f32();
            assert_eq!(found.to_bits(), expected.to_bits(), "{}: {half:04x}", target.cpu);
        }
    });
}

/// Every half, every midpoint between neighbours, and the floats beside each midpoint.
fn near_halves() -> Vec<f32> {
    let mut from = vec![];
    for bits in 0..0x7c00u16 {
        let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        let middle = if bits == 0x7bff { 65520.0 } else { (low + high) / 2.0 };
        let (below, above) = (middle.to_bits() - 1, middle.to_bits() + 1);
        for x in [low, middle, f32::from_bits(below), f32::from_bits(above)] {
            from.extend([x, -x]);
        }
    }
    from.extend([1e-30, -1e-30, 65536.0, -1e10, f32::MAX, -f32::MAX, 0.0, -0.0]);
    from
}

#[test]
fn floats_become_the_nearest_half_and_never_infinite() {
    let from = near_halves();
    let (case, y) = map_case(&from);
    let define =
        |e: &mut Emitter| vec![four_by_four(e, "write", |x| math::f32_to_f16(x).cast(F32X4))];
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(floats(&found[0], y, from.len())) {
            let expected = f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits();
            let found = found.to_bits() as u16;
            assert_eq!(found, expected, "{}: {x:e} is {found:04x}", target.cpu);
        }
    });
}

#[test]
fn sine_and_cosine_are_within_an_ulp_of_one() {
    let mut from: Vec<f32> = (0..1 << 16).map(|i| i as f32 * 0.37).collect();
    from.extend((0..1 << 14).map(|i| 6_500_000.0 + i as f32 * 0.5));
    from.extend(noise(1, 1 << 12).iter().map(|x| x * 4.0));
    let mut case = Case::default();
    let (x, y) = (case.floats(&from), case.room(2 * from.len()));
    case.call(0, &[At(x), At(y), Int(from.len() as i64 * 4)]);
    let define = |e: &mut Emitter| {
        let f = e.declare("sin_cos", &[I64; 3], &[]);
        e.define(&f, Tuning::Optimised, |k, args| {
            k.each(k.i64(0), args[2], 4, |i| {
                let (sin, cos) = math::sin_cos((args[0] + i).load(F32, 0));
                (args[1] + i + i).store(0, sin);
                (args[1] + i + i).store(4, cos);
            });
            k.ret(&[]);
        });
        vec![f]
    };
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(floats(&found[0], y, 2 * from.len()).chunks(2)) {
            let (sin, cos) = f64::from(*x).sin_cos();
            let off = (f64::from(found[0]) - sin).abs().max((f64::from(found[1]) - cos).abs());
            assert!(off < 6.1e-8, "{}: {x}: {off}", target.cpu);
        }
    });
}

#[test]
fn ln_is_exact_to_a_few_units_of_f64() {
    let mut from: Vec<f64> = noise(9, 1 << 16)
        .iter()
        .enumerate()
        .map(|(i, x)| (f64::from(*x) * 20.0).exp() * f64::from(i as u32 % 7 + 1))
        .collect();
    let border = std::f64::consts::FRAC_1_SQRT_2; // where the exponent changes
    from.extend([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 0.5, 2.0, border, border * (1.0 - 1e-15)]);
    from.extend([1e300, 1e-300]);
    let bytes: Vec<u8> = from.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut case = Case::default();
    let (x, y) = (case.bytes(&bytes), case.room(2 * from.len()));
    case.call(0, &[At(x), At(y), Int(bytes.len() as i64)]);
    let define = |e: &mut Emitter| {
        let f = e.declare("ln", &[I64; 3], &[]);
        e.define(&f, Tuning::Optimised, |k, args| {
            k.each(k.i64(0), args[2], 8, |i| {
                (args[1] + i).store(0, math::ln((args[0] + i).load(F64, 0)));
            });
            k.ret(&[]);
        });
        vec![f]
    };
    everywhere(&define, &[case], &|target, found| {
        for (x, found) in from.iter().zip(found[0][y..].chunks_exact(8)) {
            let found = f64::from_le_bytes(found.try_into().expect("eight bytes"));
            let off = (found - x.ln()).abs();
            assert!(off <= 1e-15 * x.ln().abs() + 1e-16, "{}: ln({x}): {off:e}", target.cpu);
        }
    });
}
