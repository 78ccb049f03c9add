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
    /// Small integers in groups along a row, each group with a scale.
    Int(IntFormat),
}

/// Integers of few bits in groups along a row: element = `scale · q`, or `scale · q + low` with a
/// low end. In text `i4g32`: 4 bits, groups of 32; `i8row`: one group a row; a `z` at the end for
/// a low end of f16.
///
/// An `n` at the end, `i4g32n`: scales are nested. A row has one scale of f16, each of its groups a
/// whole factor 0..16 and a whole zero point 0..16: element = `scale · factor · (q - zero)`, of which
/// `factor · (q - zero)` fits 8 bits. So a group costs one byte, and a row is a row of int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntFormat {
    /// 4 or 8.
    pub bits: u8,
    /// Elements of a group, a multiple of 16; 0 for the whole row.
    pub group: u32,
    /// Whether each group has a low end beside its scale: integers count from 0.
    pub zero: bool,
    /// Whether scales and low ends of groups are whole multiples of one scale a row.
    pub nested: bool,
}

/// Elements of a group of a nested format: what one sum of 16 bits holds.
pub const NESTED_GROUP: u32 = 32;

impl IntFormat {
    /// A format without low ends.
    pub const fn symmetric(bits: u8, group: u32) -> IntFormat {
        IntFormat { bits, group, zero: false, nested: false }
    }

    /// Bits of what belongs to a group beside its integers.
    pub fn group_bits(self) -> u64 {
        match (self.nested, self.zero) {
            (true, _) => 8,
            (false, true) => 32,
            (false, false) => 16,
        }
    }

    /// Bytes of a row of `width`, in groups.
    pub fn row_bytes(self, width: u64) -> u64 {
        let groups = width / self.group_of(width).max(1);
        let row = if self.nested { 2 } else { 0 };
        (width * u64::from(self.bits) + groups * self.group_bits()) / 8 + row
    }

    /// Elements of a group of a row of `width`.
    pub fn group_of(self, width: u64) -> u64 {
        if self.group == 0 { width } else { self.group.into() }
    }

    /// Whether rows of `width` can be cut into groups.
    pub fn fits(self, width: u64) -> bool {
        let group = self.group_of(width);
        group > 0 && width.is_multiple_of(group) && group.is_multiple_of(16)
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<IntFormat> {
        let (plain, nested) = name.strip_suffix('n').map_or((name, false), |plain| (plain, true));
        let (plain, zero) = plain.strip_suffix('z').map_or((plain, nested), |plain| (plain, true));
        let (bits, rest) = plain.strip_prefix('i')?.split_at_checked(1)?;
        let bits = bits.parse().ok().filter(|b| matches!(b, 4 | 8))?;
        let group = match rest {
            "row" => 0,
            rest => rest.strip_prefix('g')?.parse().ok().filter(|g| g % 16 == 0 && *g > 0)?,
        };
        let format = IntFormat { bits, group, zero, nested };
        if (zero && group == 0) || (nested && (bits, group) != (4, NESTED_GROUP)) {
            return None;
        }
        // One spelling only: no leading zeros, no signs.
        (format.to_string() == name).then_some(format)
    }
}

impl fmt::Display for IntFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.bits)?;
        match self.group {
            0 => f.write_str("row")?,
            group => write!(f, "g{group}")?,
        }
        f.write_str(match (self.nested, self.zero) {
            (true, _) => "n",
            (false, true) => "z",
            (false, false) => "",
        })
    }
}

impl DType {
    /// The element types without groups, with their names in text.
    pub const PLAIN: &[(DType, &str)] =
        &[(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16"), (DType::I32, "i32")];

    /// The element type of that name.
    pub fn from_name(name: &str) -> Option<DType> {
        let plain = Self::PLAIN.iter().find(|(_, n)| *n == name).map(|(d, _)| *d);
        plain.or_else(|| IntFormat::from_name(name).map(DType::Int))
    }

    /// Bytes of one element of a type without groups; a type with groups has no such size.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Int(format) => panic!("an element of {format} has no size of its own"),
        }
    }

    /// Whether elements are floats.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether a slot of the KV cache may be stored so: f32, f16, or integers with one scale for
    /// each head of each position.
    pub fn holds_cache(self) -> bool {
        match self {
            DType::Int(format) => format.group == 0,
            plain => matches!(plain, DType::F32 | DType::F16),
        }
    }

    /// Whether a matrix may be stored so.
    pub fn holds_weights(self) -> bool {
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

    /// One row per token in another element type.
    pub fn rows_of(dtype: DType, width: u64) -> Type {
        Type::Tensor { dtype, dims: vec![Dim::Tokens, Dim::Const(width)] }
    }

    /// Element type and width of one row per token.
    pub fn as_rows(&self) -> Option<(DType, u64)> {
        match self {
            Type::Tensor { dtype, dims } => match dims[..] {
                [Dim::Tokens, Dim::Const(width)] => Some((*dtype, width)),
                _ => None,
            },
            Type::Kv { .. } => None,
        }
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

/// Bytes of `heads` heads of `head` elements in a cache, scales included.
pub fn cache_bytes(dtype: DType, heads: u64, head: u64) -> u64 {
    match dtype {
        DType::Int(format) => heads * (head * u64::from(format.bits) / 8 + 2),
        plain => heads * head * plain.bytes(),
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::Int(format) => format.fmt(f),
            plain => {
                let row = Self::PLAIN.iter().find(|(d, _)| d == plain);
                f.write_str(row.expect("every plain type is in the table").1)
            }
        }
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
