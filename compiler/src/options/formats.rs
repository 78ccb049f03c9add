//! Names of formats on the command line: of weights, of the rows they multiply, of the KV cache.

use clap::ValueEnum;
use ir::{DType, IntFormat, RowRange};
use std::str::FromStr;

/// Group in which rows are quantised that meet matrices with one group a row.
pub(super) const ACTIVATION_GROUP: u32 = 64;

/// Presets of formats: of weights, and of the rows that they multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// Weights in floats, as are activations.
    Float(DType),
    /// `wNaM`: weights in N bits; activations in 8 bits, or (`a16`) in f32.
    Ints {
        /// Of a weight: a column of `PRESETS`.
        bits: u8,
        /// Whether activations are in 8 bits too.
        rows: bool,
    },
}

/// The format of weights in so many bits: 8 one scale a row; 4 in groups whose scales and zero points
/// are 4 bits each; fewer with low ends.
const PRESETS: [(u8, IntFormat); 6] = [
    (2, IntFormat { zero: true, ..IntFormat::symmetric(2, 64) }),
    (3, IntFormat { zero: true, ..IntFormat::symmetric(3, 64) }),
    (4, IntFormat { nested: true, zero: true, ..IntFormat::symmetric(4, 32) }),
    (5, IntFormat::symmetric(5, 64)),
    (6, IntFormat::symmetric(6, 64)),
    (8, IntFormat::symmetric(8, 0)),
];

/// Ranges of int8 activations, each of which has one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// Each group of a row, as it comes
    Groups,
    /// Each row, as it comes: one scale a token
    Token,
    /// Fixed, one for each place where rows meet matrices of layers (the head reads groups): needs --calib
    Static,
}

/// Formats of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// Single precision
    F32,
    /// Half precision
    F16,
    /// 8 bits, one scale for each head of each token; queries and weights of attention in 8 bits too
    I8,
    /// 4 bits, the same otherwise
    I4,
}

impl Quant {
    /// Names of all of them.
    pub fn names() -> Vec<String> {
        let floats = ["f32", "f16", "bf16"].map(String::from);
        let ints = |rows| PRESETS.map(|(bits, _)| format!("w{bits}a{rows}"));
        floats.into_iter().chain(ints(8)).chain(ints(16)).collect()
    }

    /// Element type of matrices.
    pub fn dtype(self) -> DType {
        match self {
            Quant::Float(dtype) => dtype,
            Quant::Ints { bits, .. } => {
                let preset = PRESETS.iter().find(|(known, _)| *known == bits);
                DType::Int(preset.expect("only presets are read").1)
            }
        }
    }

    /// Whether activations may be in 8 bits where another flag has matrices of integers.
    pub(super) fn allows_rows(self) -> bool {
        !matches!(self, Quant::Ints { rows: false, .. })
    }

    /// Group in which activations are quantised.
    pub fn activation_group(self) -> Option<u32> {
        matches!(self, Quant::Ints { rows: true, .. }).then_some(ACTIVATION_GROUP)
    }
}

impl FromStr for Quant {
    type Err = String;

    fn from_str(name: &str) -> Result<Quant, String> {
        if let Some(dtype) = DType::from_name(name).filter(|dtype| dtype.is_float()) {
            return Ok(Quant::Float(dtype));
        }
        let (bits, rows) =
            name.strip_prefix('w').and_then(|n| n.split_once('a')).unwrap_or_default();
        let preset = PRESETS.iter().find(|(known, _)| known.to_string() == bits);
        match (preset, rows) {
            (Some((bits, _)), "8") => Ok(Quant::Ints { bits: *bits, rows: true }),
            (Some((bits, _)), "16") => Ok(Quant::Ints { bits: *bits, rows: false }),
            (Some((bits, _)), "4") => Err(format!(
                "no kernel takes activations of 4 bits; --quant w{bits}a8 --simulate a4 measures what \
                 they lose"
            )),
            _ => Err(format!("expected one of {}", Quant::names().join(", "))),
        }
    }
}

impl Activations {
    /// What the range of a group is.
    pub fn range(self) -> RowRange {
        match self {
            Activations::Groups => RowRange::Group,
            Activations::Token => RowRange::Row,
            Activations::Static => RowRange::Fixed,
        }
    }
}

impl Kv {
    /// Element type of the cache.
    pub fn dtype(self) -> DType {
        match self {
            Kv::F32 => DType::F32,
            Kv::F16 => DType::F16,
            Kv::I8 => DType::Int(IntFormat::symmetric(8, 0)),
            Kv::I4 => DType::Int(IntFormat::symmetric(4, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_say_bits_of_weights_and_of_activations() {
        let of = |name: &str| {
            let quant: Quant = name.parse().expect("a preset");
            (quant.dtype().to_string(), quant.activation_group())
        };
        assert_eq!(of("bf16"), ("bf16".into(), None));
        assert_eq!(of("w8a8"), ("i8row".into(), Some(64)));
        assert_eq!(of("w4a16"), ("i4g32n".into(), None));
        assert_eq!(of("w3a8"), ("i3g64z".into(), Some(64)));
        for name in Quant::names() {
            of(&name);
        }
        let refusal = |name: &str| name.parse::<Quant>().expect_err(name);
        assert!(refusal("w4a4").contains("--quant w4a8 --simulate a4"));
        for wrong in ["w7a8", "w4a6", "w4", "w04a8", "i32", "i4g32", ""] {
            assert!(refusal(wrong).starts_with("expected one of f32, f16, bf16, w2a8"), "{wrong}");
        }
    }
}
