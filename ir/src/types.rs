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
///
/// The name of a table instead of `i4`, `e2m1g32`: the four bits choose one of sixteen integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntFormat {
    /// 2 to 6, or 8.
    pub bits: u8,
    /// What the bits stand for.
    pub codes: Codes,
    /// Elements of a group, a multiple of 16; 0 for the whole row.
    pub group: u32,
    /// Whether each group has a low end beside its scale: integers count from 0.
    pub zero: bool,
    /// Whether scales and low ends of groups are whole multiples of one scale a row.
    pub nested: bool,
}

/// What the bits of an element stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codes {
    /// A whole number.
    Whole,
    /// The element of a table at that place: `q` is one of these, 4 bits say which.
    Table([i8; 16]),
}

/// Tables with names. Any other is named by its bytes, `lut` and 32 hexadecimal digits.
///
/// Floats of four bits (arXiv 2310.16836, section 3) in units of their smallest magnitude: sign, then
/// `e` bits of exponent and `m` of mantissa. NormalFloat (arXiv 2305.14314, appendix E) in 127ths.
pub const TABLES: &[(&str, [i8; 16])] = &[
    ("e2m1", [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]),
    ("e1m2", [0, 1, 2, 3, 4, 5, 6, 7, 0, -1, -2, -3, -4, -5, -6, -7]),
    ("e3m0", [0, 1, 2, 4, 8, 16, 32, 64, 0, -1, -2, -4, -8, -16, -32, -64]),
    ("nf4", [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127]),
];

impl Codes {
    /// The table of that name.
    fn from_name(name: &str) -> Option<Codes> {
        if let Some((_, table)) = TABLES.iter().find(|(n, _)| *n == name) {
            return Some(Codes::Table(*table));
        }
        let digits = name.strip_prefix("lut").filter(|d| d.len() == 32)?.as_bytes();
        let mut table = [0; 16];
        for (value, pair) in table.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16);
            *value = (digit(pair[0])? << 4 | digit(pair[1])?) as u8 as i8;
        }
        (table != [0; 16]).then_some(Codes::Table(table))
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Codes::Table(table) = self else { return f.write_str("i") };
        match TABLES.iter().find(|(_, t)| t == table) {
            Some((name, _)) => f.write_str(name),
            None => {
                f.write_str("lut")?;
                table.iter().try_for_each(|value| write!(f, "{:02x}", *value as u8))
            }
        }
    }
}

/// Elements of a group of a nested format: what one sum of 16 bits holds.
pub const NESTED_GROUP: u32 = 32;

impl IntFormat {
    /// What names are like, for messages.
    pub const NAMES: &str = "i4g32, i8row, e2m1g32, nf4g32 and the like (integers of 2 to 6 or 8 bits, \
                             groups of a multiple of 16, of 32 for 3 and 5 bits; lut has 32 \
                             hexadecimal digits)";

    /// A format without low ends.
    pub const fn symmetric(bits: u8, group: u32) -> IntFormat {
        IntFormat { bits, codes: Codes::Whole, group, zero: false, nested: false }
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

    /// What groups are multiples of: integers of 3 and 5 bits have their last bit beside those of 31
    /// others.
    pub fn multiple(self) -> u32 {
        if matches!(self.bits, 3 | 5) { 32 } else { 16 }
    }

    /// Whether rows of `width` can be cut into groups.
    pub fn fits(self, width: u64) -> bool {
        let group = self.group_of(width);
        group > 0 && width.is_multiple_of(group) && group.is_multiple_of(self.multiple().into())
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<IntFormat> {
        let at = name.find("row").or_else(|| name.rfind('g'))?;
        let (codes, rest) = name.split_at(at);
        let (bits, codes) = match codes.strip_prefix('i') {
            Some(bits) => (bits.parse().ok().filter(|b| matches!(b, 2..=6 | 8))?, Codes::Whole),
            None => (4, Codes::from_name(codes)?),
        };
        let (rest, nested) = rest.strip_suffix('n').map_or((rest, false), |plain| (plain, true));
        let (rest, zero) = rest.strip_suffix('z').map_or((rest, nested), |plain| (plain, true));
        let group = match rest {
            "row" => 0,
            rest => rest.strip_prefix('g')?.parse().ok().filter(|g| *g > 0)?,
        };
        let format = IntFormat { bits, codes, group, zero, nested };
        let whole = codes == Codes::Whole;
        if !group.is_multiple_of(format.multiple())
            || (zero && (group == 0 || !whole))
            || (nested && (bits, group) != (4, NESTED_GROUP))
        {
            return None;
        }
        // One spelling only: no leading zeros, no signs.
        (format.to_string() == name).then_some(format)
    }
}

impl fmt::Display for IntFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.codes)?;
        if self.codes == Codes::Whole {
            write!(f, "{}", self.bits)?;
        }
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

    /// Whether a slot of the KV cache may be stored so: f32, f16, or integers of 4 or 8 bits with one
    /// scale for each head of each position.
    pub fn holds_cache(self) -> bool {
        match self {
            DType::Int(format) => {
                matches!(format.bits, 4 | 8) && format == IntFormat::symmetric(format.bits, 0)
            }
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
