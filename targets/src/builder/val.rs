//! Values with operators.

use super::{Kernel, PLAIN};
use crate::target::Arch;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    AtomicRmwOp, ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value, types::*,
};
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Shl, Shr, Sub};

/// An SSA value together with the function that it belongs to.
#[derive(Clone, Copy)]
pub struct Val<'k> {
    pub(crate) k: &'k Kernel<'k>,
    pub(crate) v: Value,
}

/// One operator for values, and for a value with a constant of its own type.
macro_rules! operator {
    ($trait:ident, $method:ident, $int:ident, $float:ident) => {
        impl<'k> $trait for Val<'k> {
            type Output = Val<'k>;
            fn $method(self, rhs: Val<'k>) -> Val<'k> {
                let float = self.is_float();
                let mut b = self.k.b();
                let ins = b.ins();
                let v = if float { ins.$float(self.v, rhs.v) } else { ins.$int(self.v, rhs.v) };
                drop(b);
                self.k.wrap(v)
            }
        }
        impl<'k> $trait<i64> for Val<'k> {
            type Output = Val<'k>;
            fn $method(self, rhs: i64) -> Val<'k> {
                $trait::$method(self, self.constant(rhs))
            }
        }
        impl<'k> $trait<f32> for Val<'k> {
            type Output = Val<'k>;
            fn $method(self, rhs: f32) -> Val<'k> {
                $trait::$method(self, self.float_constant(rhs))
            }
        }
    };
}
operator!(Add, add, iadd, fadd);
operator!(Sub, sub, isub, fsub);
operator!(Mul, mul, imul, fmul);
operator!(Div, div, udiv, fdiv);

macro_rules! bit_operator {
    ($trait:ident, $method:ident, $int:ident) => {
        impl<'k> $trait for Val<'k> {
            type Output = Val<'k>;
            fn $method(self, rhs: Val<'k>) -> Val<'k> {
                let v = self.k.b().ins().$int(self.v, rhs.v);
                self.k.wrap(v)
            }
        }
        impl<'k> $trait<i64> for Val<'k> {
            type Output = Val<'k>;
            fn $method(self, rhs: i64) -> Val<'k> {
                $trait::$method(self, self.constant(rhs))
            }
        }
    };
}
bit_operator!(BitAnd, bitand, band);
bit_operator!(BitOr, bitor, bor);
bit_operator!(BitXor, bitxor, bxor);

impl<'k> Shl<i64> for Val<'k> {
    type Output = Val<'k>;
    fn shl(self, by: i64) -> Val<'k> {
        let by = self.k.i32(by as i32);
        let v = self.k.b().ins().ishl(self.v, by.v);
        self.k.wrap(v)
    }
}

/// The logical shift: zeros come in at the top.
impl<'k> Shr<i64> for Val<'k> {
    type Output = Val<'k>;
    fn shr(self, by: i64) -> Val<'k> {
        let by = self.k.i32(by as i32);
        let v = self.k.b().ins().ushr(self.v, by.v);
        self.k.wrap(v)
    }
}

impl<'k> Neg for Val<'k> {
    type Output = Val<'k>;
    fn neg(self) -> Val<'k> {
        let float = self.is_float();
        let mut b = self.k.b();
        let v = if float { b.ins().fneg(self.v) } else { b.ins().ineg(self.v) };
        drop(b);
        self.k.wrap(v)
    }
}

/// Logical not of a condition.
impl<'k> Not for Val<'k> {
    type Output = Val<'k>;
    fn not(self) -> Val<'k> {
        self ^ 1
    }
}

/// Methods that are one instruction of the same name.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*);)*) => {
        impl<'k> Val<'k> {
            $($(#[$doc])*
            pub fn $name(self $(, $arg: Val<'k>)*) -> Val<'k> {
                let v = self.k.b().ins().$name(self.v $(, $arg.v)*);
                self.k.wrap(v)
            })*
        }
    };
}
plain! {
    /// Square root.
    sqrt();
    /// Absolute value of a float.
    fabs();
    /// Lower half of the lanes, sign-extended to twice the width.
    swiden_low();
    /// Upper half of the lanes, sign-extended to twice the width.
    swiden_high();
    /// Lower half of the lanes, zero-extended to twice the width.
    uwiden_low();
    /// Upper half of the lanes, zero-extended to twice the width.
    uwiden_high();
    /// Lanes of both to half the width, signed, saturated.
    snarrow(other);
    /// Sums of neighbouring lanes, of `self` then of `other`.
    iadd_pairwise(other);
    /// Unsigned remainder.
    urem(other);
    /// Unsigned maximum.
    umax(other);
    /// Unsigned minimum.
    umin(other);
}

impl<'k> Val<'k> {
    /// The type.
    pub fn ty(self) -> Type {
        self.k.b().func.dfg.value_type(self.v)
    }

    fn is_float(self) -> bool {
        self.ty().lane_type().is_float()
    }

    fn constant(self, x: i64) -> Val<'k> {
        let ty = self.ty();
        if ty.is_vector() {
            let lane = ty.lane_type().bytes() as usize;
            let bytes = x.to_le_bytes()[..lane].repeat(ty.lane_count() as usize);
            return self.k.vector(ty, &bytes);
        }
        let mask = if ty.bits() < 64 { (1i64 << ty.bits()) - 1 } else { -1 };
        let v = self.k.b().ins().iconst(ty, x & mask);
        self.k.wrap(v)
    }

    fn float_constant(self, x: f32) -> Val<'k> {
        match self.ty() {
            F32X4 => self.k.f32x4(x),
            F64 => self.k.f64(f64::from(x)),
            _ => self.k.f32(x),
        }
    }

    /// `self · b + c`: fused where the target can, rounded twice where it cannot, never a call.
    pub fn fma(self, b: Val<'k>, c: Val<'k>) -> Val<'k> {
        if !self.k.facts.fma {
            return self * b + c;
        }
        let v = self.k.b().ins().fma(self.v, b.v, c.v);
        self.k.wrap(v)
    }

    /// The smaller one; `other` where either is not a number.
    pub fn pmin(self, other: Val<'k>) -> Val<'k> {
        self.flt(other).select(self, other)
    }

    /// The larger one; `other` where either is not a number.
    pub fn pmax(self, other: Val<'k>) -> Val<'k> {
        other.flt(self).select(self, other)
    }

    /// Loads from `self + offset`.
    pub fn load(self, ty: Type, offset: i32) -> Val<'k> {
        let v = self.k.b().ins().load(ty, PLAIN, self.v, offset);
        self.k.wrap(v)
    }

    /// Loads from memory that nothing writes while the function runs.
    pub fn load_constant(self, ty: Type, offset: i32) -> Val<'k> {
        let flags = self.k.constant_memory();
        let v = self.k.b().ins().load(ty, flags, self.v, offset);
        self.k.wrap(v)
    }

    /// Loads one byte, zero-extended.
    pub fn load_byte(self, offset: i32) -> Val<'k> {
        let v = self.k.b().ins().uload8(I64, PLAIN, self.v, offset);
        self.k.wrap(v)
    }

    /// Loads four 16-bit lanes, zero-extended.
    pub fn load_u16x4(self, offset: i32) -> Val<'k> {
        let v = self.k.b().ins().uload16x4(PLAIN, self.v, offset);
        self.k.wrap(v)
    }

    /// Loads eight bytes, zero-extended to 16-bit lanes.
    pub fn load_u8x8(self, offset: i32) -> Val<'k> {
        let v = self.k.b().ins().uload8x8(PLAIN, self.v, offset);
        self.k.wrap(v)
    }

    /// Loads four 16-bit lanes, sign-extended.
    pub fn load_s16x4(self, offset: i32) -> Val<'k> {
        let v = self.k.b().ins().sload16x4(PLAIN, self.v, offset);
        self.k.wrap(v)
    }

    /// Stores to `self + offset`.
    pub fn store(self, offset: i32, x: Val<'k>) {
        self.k.b().ins().store(PLAIN, x.v, self.v, offset);
    }

    /// Stores the low byte.
    pub fn store_byte(self, offset: i32, x: Val<'k>) {
        self.k.b().ins().istore8(PLAIN, x.v, self.v, offset);
    }

    /// Stores the low 16 bits.
    pub fn store_half(self, offset: i32, x: Val<'k>) {
        self.k.b().ins().istore16(PLAIN, x.v, self.v, offset);
    }

    /// Adds atomically to the integer at `self`; returns what was there.
    pub fn atomic_add(self, x: Val<'k>) -> Val<'k> {
        let ty = x.ty();
        let v =
            self.k.b().ins().atomic_rmw(ty, MemFlagsData::trusted(), AtomicRmwOp::Add, self.v, x.v);
        self.k.wrap(v)
    }

    /// Loads the integer at `self` atomically, sequentially consistent.
    pub fn atomic_load(self, ty: Type) -> Val<'k> {
        let v = self.k.b().ins().atomic_load(ty, MemFlagsData::trusted(), self.v);
        self.k.wrap(v)
    }

    /// Every lane the same.
    pub fn splat(self, ty: Type) -> Val<'k> {
        let v = self.k.b().ins().splat(ty, self.v);
        self.k.wrap(v)
    }

    /// One lane.
    pub fn lane(self, i: u8) -> Val<'k> {
        let v = self.k.b().ins().extractlane(self.v, i);
        self.k.wrap(v)
    }

    /// The same bits as another type of the same width.
    pub fn cast(self, ty: Type) -> Val<'k> {
        if self.ty() == ty {
            return self;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        let v = self.k.b().ins().bitcast(ty, flags, self.v);
        self.k.wrap(v)
    }

    /// Signed integers to floats of `ty`.
    pub fn to_float(self, ty: Type) -> Val<'k> {
        let v = self.k.b().ins().fcvt_from_sint(ty, self.v);
        self.k.wrap(v)
    }

    /// f32 to f64.
    pub fn promote(self) -> Val<'k> {
        let v = self.k.b().ins().fpromote(F64, self.v);
        self.k.wrap(v)
    }

    /// f64 to f32, nearest.
    pub fn demote(self) -> Val<'k> {
        let v = self.k.b().ins().fdemote(F32, self.v);
        self.k.wrap(v)
    }

    /// Float to signed integer, truncated and saturated.
    pub fn to_int(self, ty: Type) -> Val<'k> {
        let v = self.k.b().ins().fcvt_to_sint_sat(ty, self.v);
        self.k.wrap(v)
    }

    /// Arithmetic shift right.
    pub fn sshr(self, by: i64) -> Val<'k> {
        let by = self.k.i32(by as i32);
        let v = self.k.b().ins().sshr(self.v, by.v);
        self.k.wrap(v)
    }

    /// Left shift by a value.
    pub fn shl_by(self, by: Val<'k>) -> Val<'k> {
        let v = self.k.b().ins().ishl(self.v, by.v);
        self.k.wrap(v)
    }

    /// Zero-extends.
    pub fn uext(self, ty: Type) -> Val<'k> {
        if self.ty() == ty {
            return self;
        }
        let v = self.k.b().ins().uextend(ty, self.v);
        self.k.wrap(v)
    }

    /// Sign-extends.
    pub fn sext(self, ty: Type) -> Val<'k> {
        let v = self.k.b().ins().sextend(ty, self.v);
        self.k.wrap(v)
    }

    /// The low bits.
    pub fn truncate(self, ty: Type) -> Val<'k> {
        if self.ty() == ty {
            return self;
        }
        let v = self.k.b().ins().ireduce(ty, self.v);
        self.k.wrap(v)
    }

    fn icmp(self, condition: IntCC, other: Val<'k>) -> Val<'k> {
        let v = self.k.b().ins().icmp(condition, self.v, other.v);
        self.k.wrap(v)
    }

    fn fcmp(self, condition: FloatCC, other: Val<'k>) -> Val<'k> {
        let v = self.k.b().ins().fcmp(condition, self.v, other.v);
        self.k.wrap(v)
    }

    /// `self < other`, signed.
    pub fn lt(self, other: Val<'k>) -> Val<'k> {
        self.icmp(IntCC::SignedLessThan, other)
    }

    /// `self < other`, unsigned.
    pub fn ult(self, other: Val<'k>) -> Val<'k> {
        self.icmp(IntCC::UnsignedLessThan, other)
    }

    /// `self == other`.
    pub fn eq(self, other: Val<'k>) -> Val<'k> {
        self.icmp(IntCC::Equal, other)
    }

    /// `self == x`.
    pub fn is(self, x: i64) -> Val<'k> {
        self.eq(self.constant(x))
    }

    /// `self != x`.
    pub fn is_not(self, x: i64) -> Val<'k> {
        self.icmp(IntCC::NotEqual, self.constant(x))
    }

    /// `self != other`.
    pub fn ne(self, other: Val<'k>) -> Val<'k> {
        self.icmp(IntCC::NotEqual, other)
    }

    /// `self < other`, false for not-a-number.
    pub fn flt(self, other: Val<'k>) -> Val<'k> {
        self.fcmp(FloatCC::LessThan, other)
    }

    /// `self <= other`, false for not-a-number.
    pub fn fle(self, other: Val<'k>) -> Val<'k> {
        self.fcmp(FloatCC::LessThanOrEqual, other)
    }

    /// `self > other`, false for not-a-number.
    pub fn fgt(self, other: Val<'k>) -> Val<'k> {
        self.fcmp(FloatCC::GreaterThan, other)
    }

    /// `self == other`, false for not-a-number.
    pub fn feq(self, other: Val<'k>) -> Val<'k> {
        self.fcmp(FloatCC::Equal, other)
    }

    /// Bytes of `self` at sixteen places, each below 16. x86-64 needs SSSE3.
    pub fn pick(self, places: Val<'k>) -> Val<'k> {
        let v = match self.k.facts.arch {
            Arch::X64 => self.k.b().ins().x86_pshufb(self.v, places.v),
            Arch::A64 | Arch::R64 => self.k.b().ins().swizzle(self.v, places.v),
        };
        self.k.wrap(v)
    }

    /// Whether any lane of a mask is set.
    pub fn any(self) -> Val<'k> {
        let v = self.k.b().ins().vany_true(self.v);
        self.k.wrap(v)
    }

    /// `a` where `self` holds, else `b`; `self` is a condition or a mask of lanes.
    pub fn select(self, a: Val<'k>, b: Val<'k>) -> Val<'k> {
        let ty = a.ty();
        let v = if self.ty().is_vector() {
            let mask = self.cast(ty);
            self.k.b().ins().bitselect(mask.v, a.v, b.v)
        } else {
            self.k.b().ins().select(self.v, a.v, b.v)
        };
        self.k.wrap(v)
    }

    /// Lanes of 32 bits chosen from `self` (0..4) and `other` (4..8).
    pub fn shuffle32(self, other: Val<'k>, lanes: [u8; 4]) -> Val<'k> {
        self.shuffle(other, lanes.into_iter().flat_map(|lane| 4 * lane..4 * lane + 4))
    }

    /// Lanes of both in turn, of 8 or 32 bits: of their lower halves, of their upper halves.
    pub fn zip(self, other: Val<'k>) -> [Val<'k>; 2] {
        let (size, half) = (self.ty().lane_bits() as u8 / 8, self.ty().lane_count() as u8 / 2);
        [0, half].map(|first| {
            let lanes = (first..first + half).flat_map(|lane| [lane * size, 16 + lane * size]);
            self.shuffle(other, lanes.flat_map(|lane| lane..lane + size))
        })
    }

    /// Bytes chosen from `self` (0..16) and `other` (16..32).
    fn shuffle(self, other: Val<'k>, bytes: impl Iterator<Item = u8>) -> Val<'k> {
        let (a, b) = (self.cast(I8X16), other.cast(I8X16));
        let mut builder = self.k.b();
        let mask = builder.func.dfg.immediates.push(ConstantData::from(bytes.collect::<Vec<_>>()));
        let v = builder.ins().shuffle(a.v, b.v, mask);
        drop(builder);
        self.k.wrap(v).cast(self.ty())
    }

    /// Four rows of lanes to columns: first lanes of all rows, second lanes of all rows, …; with more
    /// than four lanes a vector, several columns one after the other.
    pub fn transpose([a, b, c, d]: [Val<'k>; 4]) -> [Val<'k>; 4] {
        let ([ac_low, ac_high], [bd_low, bd_high]) = (a.zip(c), b.zip(d));
        let ([first, second], [third, fourth]) = (ac_low.zip(bd_low), ac_high.zip(bd_high));
        [first, second, third, fourth]
    }

    /// `(l0 + l2) + (l1 + l3)`, in this order on every target.
    pub fn sum_lanes(self) -> Val<'k> {
        let pairs = self + self.shuffle32(self, [2, 3, 0, 1]);
        (pairs + pairs.shuffle32(pairs, [1, 0, 3, 2])).lane(0)
    }

    /// `self[l] += Σ_j w[4l + j] · x[4l + j]`, four lanes of 32 bits from sixteen bytes; `x` is signed,
    /// `w` unsigned on x86-64 and signed elsewhere.
    ///
    /// This exact tree, operand order included, is what Cranelift folds into `vpdpbusd` and `sdot`;
    /// without such an instruction it is computed as written.
    pub fn dot_i8(self, w: Val<'k>, x: Val<'k>) -> Val<'k> {
        let (low, high) = match self.k.facts.arch {
            Arch::X64 => (x.swiden_low() * w.uwiden_low(), x.swiden_high() * w.uwiden_high()),
            Arch::A64 | Arch::R64 => {
                (w.swiden_low() * x.swiden_low(), w.swiden_high() * x.swiden_high())
            }
        };
        let low = low.swiden_low().iadd_pairwise(low.swiden_high());
        let high = high.swiden_low().iadd_pairwise(high.swiden_high());
        low.iadd_pairwise(high) + self
    }

    /// Neighbouring products of unsigned bytes and signed ones `x`, added in pairs to 16 bits; x86-64
    /// with SSSE3.
    pub fn madd_u8(self, x: Val<'k>) -> Val<'k> {
        let v = self.k.b().ins().x86_pmaddubsw(x.v, self.v);
        self.k.wrap(v)
    }

    /// Neighbouring products of 16-bit lanes, added in pairs to 32 bits.
    pub fn madd_i16(self, x: Val<'k>) -> Val<'k> {
        let low = self.swiden_low() * x.swiden_low();
        low.iadd_pairwise(self.swiden_high() * x.swiden_high())
    }

    /// Sums of neighbouring 16-bit lanes, of 32 bits.
    pub fn sum_pairs(self) -> Val<'k> {
        self.swiden_low().iadd_pairwise(self.swiden_high())
    }

    /// The largest lane.
    pub fn max_lanes(self) -> Val<'k> {
        let pairs = self.pmax(self.shuffle32(self, [2, 3, 0, 1]));
        pairs.pmax(pairs.shuffle32(pairs, [1, 0, 3, 2])).lane(0)
    }
}
