//! Types of values: element type and dimensions, or a slot of the KV cache.

use std::fmt;

/// Element type of a tensor as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision: every activation, and weights that stay exact.
    F32,
    /// IEEE half precision, weights and KV cache only.
    F16,
    /// The upper half of an F32, weights only.
    BF16,
    /// Token ids and positions.
    I32,
}

impl DType {
    /// Every element type, with its name in text.
    pub const ALL: &[(DType, &str)] =
        &[(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16"), (DType::I32, "i32")];

    /// The name in text.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(d, _)| *d == self).expect("every dtype is in ALL").1
    }

    /// The element type of that name.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(d, _)| *d)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Whether weights may be stored so.
    pub fn is_float(self) -> bool {
        self != DType::I32
    }
}

/// One dimension: a constant, or the number of tokens of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// Known when the model is compiled.
    Const(u64),
    /// `T`: tokens in this call, from 1 to the prefill chunk.
    Tokens,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// Row-major tensor, the last dimension contiguous.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Dimensions, outermost first.
        dims: Vec<Dim>,
    },
    /// One slot of the KV cache: keys and values of every position, `[heads, head]` each.
    Kv {
        /// Element type of the cache.
        dtype: DType,
        /// KV heads.
        heads: u64,
        /// Width of one head.
        head: u64,
    },
}

impl Type {
    /// A weight's type: constant dimensions.
    pub fn weight(dtype: DType, dims: &[u64]) -> Type {
        Type::Tensor { dtype, dims: dims.iter().map(|&d| Dim::Const(d)).collect() }
    }

    /// `f32[T, width]`: one row per token.
    pub fn rows(width: u64) -> Type {
        Type::Tensor { dtype: DType::F32, dims: vec![Dim::Tokens, Dim::Const(width)] }
    }

    /// `i32[T]`: one integer per token.
    pub fn tokens() -> Type {
        Type::Tensor { dtype: DType::I32, dims: vec![Dim::Tokens] }
    }

    /// The width `w` of an `f32[T, w]`.
    pub fn row_width(&self) -> Option<u64> {
        match self {
            Type::Tensor { dtype: DType::F32, dims } => match dims[..] {
                [Dim::Tokens, Dim::Const(width)] => Some(width),
                _ => None,
            },
            _ => None,
        }
    }

    /// Element type and constant dimensions of a weight.
    pub fn as_weight(&self) -> Option<(DType, Vec<u64>)> {
        let Type::Tensor { dtype, dims } = self else { return None };
        let consts = dims.iter().map(|d| match d {
            Dim::Const(n) => Some(*n),
            Dim::Tokens => None,
        });
        Some((*dtype, consts.collect::<Option<Vec<u64>>>()?))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Tokens => f.write_str("T"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor { dtype, dims } => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                write!(f, "{dtype}[{}]", dims.join(", "))
            }
            Type::Kv { dtype, heads, head } => write!(f, "kv.{dtype}[{heads}, {head}]"),
        }
    }
}
