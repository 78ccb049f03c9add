//! The options of one call: `NAME_sampling`, read and checked.

use crate::errors::{E_ARG, fail_if};
use cranelift_codegen::ir::Type;
use cranelift_codegen::ir::types::{F32, I32, I64};
use targets::{Kernel, Val};

/// Offsets of `NAME_sampling`.
mod sampling {
    /// `uint32_t size`.
    pub const SIZE: i32 = 0;
    /// `uint32_t top_k`.
    pub const TOP_K: i32 = 4;
    /// `uint64_t seed`.
    pub const SEED: i32 = 8;
    /// `float temperature`.
    pub const TEMPERATURE: i32 = 16;
    /// `float top_p`.
    pub const TOP_P: i32 = 20;
    /// `float min_p`.
    pub const MIN_P: i32 = 24;
    /// `float repeat_penalty`.
    pub const REPEAT_PENALTY: i32 = 28;
    /// `float frequency_penalty`.
    pub const FREQUENCY_PENALTY: i32 = 32;
    /// `float presence_penalty`.
    pub const PRESENCE_PENALTY: i32 = 36;
    /// `uint32_t penalty_window`.
    pub const PENALTY_WINDOW: i32 = 40;
    /// `sizeof(struct NAME_sampling)`.
    pub const BYTES: i64 = 48;
}

/// The caller's options, valid ones.
#[derive(Clone, Copy)]
pub struct Options<'k> {
    /// `i8`: whether there is a seed.
    pub seeded: Val<'k>,
    /// `i64`.
    pub seed: Val<'k>,
    /// `i64`, 0 for all.
    pub top_k: Val<'k>,
    /// `i64`, 0 for all.
    pub window: Val<'k>,
    /// `f32`, 0 for greedy.
    pub temperature: Val<'k>,
    /// `f32`, 0 or 1 for off.
    pub top_p: Val<'k>,
    /// `f32`, 0 for off.
    pub min_p: Val<'k>,
    /// `f32`, 1 for off.
    pub repeat: Val<'k>,
    /// `f32`, 0 for off.
    pub frequency: Val<'k>,
    /// `f32`, 0 for off.
    pub presence: Val<'k>,
}

impl<'k> Options<'k> {
    /// Reads the options at `from`, all zero if it is null; leaves the function with `E_ARG` if one
    /// is out of its range.
    pub fn read(k: &'k Kernel<'k>, from: Val<'k>) -> Options<'k> {
        let given = from.is_not(0);
        k.if_(given, || {
            let size = from.load(I32, sampling::SIZE).uext(I64);
            fail_if(k, size.ult(k.i64(sampling::BYTES)), E_ARG, I32);
        });
        let or_zero = |ty: Type, offset: i32, zero: Val<'k>| {
            k.choose(given, || from.load(ty, offset), || zero)
        };
        let float = |offset| or_zero(F32, offset, k.f32(0.0));
        let int = |offset| or_zero(I32, offset, k.i32(0)).uext(I64);
        let repeat = float(sampling::REPEAT_PENALTY);
        let options = Options {
            seeded: given,
            seed: or_zero(I64, sampling::SEED, k.i64(0)),
            top_k: int(sampling::TOP_K),
            window: int(sampling::PENALTY_WINDOW),
            temperature: float(sampling::TEMPERATURE),
            top_p: float(sampling::TOP_P),
            min_p: float(sampling::MIN_P),
            repeat: repeat.feq(k.f32(0.0)).select(k.f32(1.0), repeat),
            frequency: float(sampling::FREQUENCY_PENALTY),
            presence: float(sampling::PRESENCE_PENALTY),
        };
        options.check(k);
        options
    }

    fn check(self, k: &'k Kernel<'k>) {
        let (zero, one, highest) = (k.f32(0.0), k.f32(1.0), k.f32(f32::MAX));
        // Not-a-number is between no two numbers.
        let within = |x: Val<'k>, top: Val<'k>| zero.fle(x) & x.fle(top);
        let open = [self.temperature, self.repeat, self.frequency, self.presence];
        let closed = within(self.top_p, one) & within(self.min_p, one);
        let fine = open.into_iter().fold(closed, |all, x| all & within(x, highest));
        fail_if(k, !fine, E_ARG, I32);
    }

    /// Whether any penalty is on.
    pub fn penalises(self, k: &'k Kernel<'k>) -> Val<'k> {
        let (zero, one) = (k.f32(0.0), k.f32(1.0));
        let off = self.repeat.feq(one) & self.frequency.feq(zero) & self.presence.feq(zero);
        !off
    }
}
