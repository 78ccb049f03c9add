//! The closed set of operations: one variant each, its operands and its meaning in the doc comment.
//!
//! Kernels, files and symbols elsewhere carry the same names.

use crate::module::GraphId;
use std::fmt;

/// An operation. Shapes in the comments: `T` tokens, `D` width, `N` outputs, `H` heads of width `h`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `embed tokens: i32[T], $table[V, D] -> f32[T, D]`: row `tokens[t]` of the table.
    Embed,
    /// `rms_norm x: f32[T, D] (, $gain[group])? -> f32[T, D]`: over each group of a row,
    /// `x / sqrt(mean(x²) + eps) * gain`. Without `group` the group is the whole row.
    RmsNorm {
        /// Added to the mean of squares.
        eps: f64,
        /// Width of one group; `None` for the whole row. Heads, in a q/k norm.
        group: Option<u64>,
    },
    /// `linear x[T, K], $w[N, K] (, $bias: f32[N])? -> f32[T, N]`: `x · wᵀ + bias`. Rows are f32, or
    /// `i8` in groups when the matrix is of integers with the same groups or with one group a row.
    Linear,
    /// `quant_rows x: f32[T, D] (, $range: f32[1])? -> i8gG[T, D]`: each group of a row to integers,
    /// symmetric, scale `range / 127`, nearest, ties to even; what is beyond the range becomes its end.
    QuantRows {
        /// Elements of a group, a multiple of 16 that divides `D`.
        group: u32,
        /// What the range of a group is.
        range: RowRange,
    },
    /// `fake_quant x: f32[T, D] (, $range: f32[1])? -> f32[T, D]`: each group of a row to the nearest
    /// of a few values. What a format would lose, without the format.
    FakeQuant {
        /// Which values.
        levels: Levels,
        /// Elements of a group, a multiple of 16 that divides `D`.
        group: u32,
    },
    /// `hadamard x: f32[T, D] -> f32[T, D]`: each block of a row times the orthonormal Hadamard matrix
    /// of its size (QuaRot, arXiv 2404.00456).
    Hadamard {
        /// Elements of a block; divides `D`, and there is a Hadamard matrix of that order.
        size: u64,
    },
    /// `rope x: f32[T, H·h], pos: i32[T] -> f32[T, H·h]`: rotates the pairs `(i, i + h/2)` of each
    /// head by `pos · frequency(i)` (RoFormer, arXiv 2104.09864, in the half-split order).
    Rope(Rope),
    /// `kv_append ^cache, k: f32[T, H·h], v: f32[T, H·h], pos: i32[T] -> kv`: stores keys and values.
    KvAppend,
    /// `attention q: f32[T, H·h], kv, pos: i32[T] -> f32[T, H·h]`: grouped-query attention, each
    /// token over positions `0..=pos`, `softmax(q·kᵀ · scale) · v` (GQA, arXiv 2305.13245); with a cap
    /// the scores go through `softcap` first.
    Attention {
        /// Query heads, a multiple of the cache's heads.
        heads: u64,
        /// Factor on the scores, usually `1/sqrt(h)`.
        scale: f64,
        /// How many positions are seen, the token's own the last; `None` for all (sliding windows:
        /// Longformer, arXiv 2004.05150).
        window: Option<u64>,
        /// What scores stay below; `None` for scores as they are.
        cap: Option<f64>,
    },
    /// `add a: f32[T, D], b: f32[T, D] -> f32[T, D]`.
    Add,
    /// `scale x: f32[T, D] -> f32[T, D]`: `x * by`.
    Scale {
        /// The factor.
        by: f64,
    },
    /// `softcap x: f32[T, D] -> f32[T, D]`: `cap · tanh(x / cap)` (Gemma 2, arXiv 2408.00118 section
    /// 2.2).
    Softcap {
        /// What magnitudes stay below, more than 0.
        cap: f64,
    },
    /// `silu_mul` or `gelu_mul gate: f32[T, D], up: f32[T, D] -> f32[T, D]`: `act(gate) * up`
    /// (SwiGLU, GEGLU, arXiv 2002.05202).
    GateMul(Gate),
    /// `call @graph, args… -> its result`: weights and cache slots are bound per call.
    Call(GraphId),
}

/// Values that numbers are rounded to where a format is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Levels {
    /// `i4`: `2^bits` values evenly from the smallest to the largest element; with a given range the
    /// integers times `range / (2^(bits-1) - 1)`. 2 to 8.
    Even(u8),
    /// `e2m1`: floats with so many bits of exponent and mantissa beside their sign, no infinities, the
    /// largest of which is the largest magnitude, or the range that is given (LLM-FP4, arXiv
    /// 2310.16836, section 3). 3 to 8 bits in all.
    Float {
        /// 1 to 5.
        exponent: u8,
        /// 0 to 6.
        mantissa: u8,
    },
}

impl Levels {
    /// The levels of that name.
    pub fn from_name(name: &str) -> Option<Levels> {
        let levels = match name.strip_prefix('i') {
            Some(bits) => Levels::Even(bits.parse().ok()?),
            None => {
                let (exponent, mantissa) = name.strip_prefix('e')?.split_once('m')?;
                let (exponent, mantissa) = (exponent.parse().ok()?, mantissa.parse().ok()?);
                Levels::Float { exponent, mantissa }
            }
        };
        // One spelling only.
        (levels.exist() && levels.to_string() == name).then_some(levels)
    }

    /// Whether there are such.
    pub fn exist(self) -> bool {
        match self {
            Levels::Even(bits) => (2..=8).contains(&bits),
            Levels::Float { exponent, mantissa } => {
                let some = (1..=5).contains(&exponent) && mantissa <= 6;
                some && (3..=8).contains(&(1 + exponent + mantissa))
            }
        }
    }

    /// Of floats the largest, in units of the smallest that is not subnormal; else 0.
    pub fn float_max(self) -> f32 {
        match self {
            Levels::Even(_) => 0.0,
            Levels::Float { exponent, mantissa } => {
                let largest = (1i32 << exponent) - 2;
                (2.0 - (-f32::from(mantissa)).exp2()) * (largest as f32).exp2()
            }
        }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Levels::Even(bits) => write!(f, "i{bits}"),
            Levels::Float { exponent, mantissa } => write!(f, "e{exponent}m{mantissa}"),
        }
    }
}

/// The range of a group of a quantised row: the magnitude that becomes 127.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowRange {
    /// The largest magnitude of the group.
    #[default]
    Group,
    /// The largest magnitude of the row: one scale a token.
    Row,
    /// The weight that is the second operand: one scale for all tokens.
    Fixed,
}

impl RowRange {
    /// All of them.
    pub const ALL: [RowRange; 3] = [RowRange::Group, RowRange::Row, RowRange::Fixed];

    /// Its name in text.
    pub fn name(self) -> &'static str {
        match self {
            RowRange::Group => "group",
            RowRange::Row => "row",
            RowRange::Fixed => "fixed",
        }
    }
}

/// The activation of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / (1 + exp(-2u))` with `u = sqrt(2/π) · (x + 0.044715 x³)`: the approximation of
    /// `x · Φ(x)` by a hyperbolic tangent (arXiv 1606.08415 section 2).
    Gelu,
}

impl Gate {
    /// All of them.
    pub const ALL: [Gate; 2] = [Gate::Silu, Gate::Gelu];
    /// Of `Gelu`: `2 · sqrt(2/π)`, by which `x` is multiplied in `2u`.
    pub const GELU_LINEAR: f64 = 1.595_769_121_605_730_9;
    /// Of `Gelu`: the same times `0.044715`, by which `x³` is.
    pub const GELU_CUBIC: f64 = 0.071_354_816_272_600_25;

    /// The operation's name.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Silu => "silu_mul",
            Gate::Gelu => "gelu_mul",
        }
    }
}

/// Rotary position embedding: which angle turns pair `i` of a head at a position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Width of one head.
    pub head: u64,
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// How a longer context than the original one is reached.
    pub scaling: RopeScaling,
}

/// Changes of the frequencies for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// The plain series.
    None,
    /// Every frequency divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The context the model was first trained for.
        original: u64,
    },
}

impl Rope {
    /// `frequency(i)` for `i` in `0..head/2`, in radians per position, rounded to f32 at the same
    /// places as the reference implementation in Hugging Face transformers.
    pub fn frequencies(&self) -> Vec<f32> {
        (0..self.head / 2).map(|i| self.frequency(i)).collect()
    }

    fn frequency(&self, i: u64) -> f32 {
        let exponent = (2 * i) as f32 / self.head as f32;
        let plain = 1.0 / (self.theta as f32).powf(exponent);
        match self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor as f32,
            RopeScaling::Llama3 { factor, low, high, original } => {
                let wavelength = std::f32::consts::TAU / plain;
                let original = original as f64;
                if wavelength > (original / low) as f32 {
                    plain / factor as f32
                } else if wavelength < (original / high) as f32 {
                    plain
                } else {
                    let ramp = original as f32 / wavelength - low as f32;
                    let ramp = ramp / (high - low) as f32;
                    (1.0 - ramp) * plain / factor as f32 + ramp * plain
                }
            }
        }
    }
}

impl Op {
    /// The name in text, in files and in symbols.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed => "embed",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Linear => "linear",
            Op::QuantRows { .. } => "quant_rows",
            Op::FakeQuant { .. } => "fake_quant",
            Op::Hadamard { .. } => "hadamard",
            Op::Rope(_) => "rope",
            Op::KvAppend => "kv_append",
            Op::Attention { .. } => "attention",
            Op::Add => "add",
            Op::Scale { .. } => "scale",
            Op::Softcap { .. } => "softcap",
            Op::GateMul(gate) => gate.name(),
            Op::Call(_) => "call",
        }
    }
}
