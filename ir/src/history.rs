//! The history of a weight: where its numbers come from, and the steps from there to what is stored.
//!
//! A step that needs other numbers (gains, rotations, factors) names another weight of the module,
//! which no graph need read. So the text of a module says all there is to know about its weights.

use crate::module::{Module, Weight, WeightId};
use crate::round::Rounding;
use crate::types::{DType, IntFormat};
use std::fmt;

/// Where a weight's numbers come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `blob "name"`: a tensor of the checkpoint.
    Blob(String),
    /// `hadamard` or `hadamard(seed)`: the orthonormal Hadamard matrix of the weight's order, its rows
    /// multiplied with random signs if there is a seed.
    Hadamard {
        /// Of the signs.
        seed: Option<u64>,
    },
    /// `eye`: ones on the diagonal, else zero.
    Eye,
    /// `ones`.
    Ones,
    /// `full(12.375)`: one finite number, everywhere.
    Full(f32),
    /// `factors "…"`: one character an element, `2^((c - 'P') / 4)`. Held as `c - 'P'`.
    Factors(Vec<i8>),
}

/// Smallest and largest quarter octave of `Source::Factors`.
pub const FACTOR_RANGE: (i8, i8) = ('!' as i8 - FACTOR_ONE, '~' as i8 - FACTOR_ONE);
/// The character of the factor 1.
const FACTOR_ONE: i8 = 'P' as i8;

/// The factor of a quarter octave.
pub fn factor(quarters: i8) -> f64 {
    (f64::from(quarters) / 4.0).exp2()
}

/// The side of a matrix `[outputs, inputs]` that a step works on; a vector has one side only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Columns: what the matrix reads.
    In,
    /// Rows: what the matrix writes.
    Out,
}

/// One step of a weight's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `unpermute(heads)`: rows of each head from GGUF's interleaved rotary order (0, h/2, 1, …)
    /// back to the half-split one.
    Unpermute {
        /// Heads the rows are cut into.
        heads: u64,
    },
    /// `plus(by)`: a whole number added to every element; gains that are stored less one.
    Plus {
        /// The number.
        by: u64,
    },
    /// `scale_in($by)`, `scale_out($by)`: each column or row times its element of `by`;
    /// `unscale_in`, `unscale_out` divide.
    Scale {
        /// Columns or rows.
        side: Side,
        /// `f32[columns]` or `f32[rows]`.
        by: WeightId,
        /// Whether to divide.
        inverse: bool,
    },
    /// `rotate_in($by)`: rows `w ← w · R`; `rotate_out($by)`: columns `c ← Rᵀ · c`. Both in blocks
    /// of the order of `R`.
    Rotate {
        /// Rows are turned along the columns (`In`), or columns along the rows (`Out`).
        side: Side,
        /// `f32[order, order]`, orthogonal.
        by: WeightId,
    },
    /// `repeat(block, times)`: each block of a vector that many times in a row.
    Repeat {
        /// Elements of a block.
        block: u64,
        /// How often each comes.
        times: u64,
    },
    /// `cast(dtype)`: every element to the nearest value of `dtype`, ties to even.
    Cast(DType),
    /// `round(format, how)`: to integers, otherwise than `cast` does; the last step.
    Round {
        /// What the weight stores.
        format: IntFormat,
        /// How elements become integers.
        how: Rounding,
    },
}

impl Source {
    /// The tensor of the checkpoint, if it is one.
    pub fn blob(&self) -> Option<&str> {
        match self {
            Source::Blob(name) => Some(name),
            _ => None,
        }
    }

    /// Factors from their text.
    pub(crate) fn factors(text: &str) -> Option<Source> {
        let quarters = |c: char| match u8::try_from(c).ok()? {
            c @ b'!'..=b'~' => Some(c as i8 - FACTOR_ONE),
            _ => None,
        };
        text.chars().map(quarters).collect::<Option<Vec<i8>>>().map(Source::Factors)
    }
}

impl From<&str> for Source {
    fn from(blob: &str) -> Source {
        Source::Blob(blob.to_string())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Blob(name) => write!(f, "blob {}", quoted(name)),
            Source::Hadamard { seed: Some(seed) } => write!(f, "hadamard({seed})"),
            Source::Hadamard { seed: None } => f.write_str("hadamard"),
            Source::Eye => f.write_str("eye"),
            Source::Ones => f.write_str("ones"),
            Source::Full(number) => write!(f, "full({number:?})"),
            Source::Factors(quarters) => {
                let text = quarters.iter().map(|q| char::from((q + FACTOR_ONE) as u8));
                write!(f, "factors {}", quoted(&text.collect::<String>()))
            }
        }
    }
}

impl Step {
    /// The weight that the step reads.
    pub fn operand(&self) -> Option<WeightId> {
        match *self {
            Step::Scale { by, .. } | Step::Rotate { by, .. } => Some(by),
            Step::Unpermute { .. }
            | Step::Plus { .. }
            | Step::Repeat { .. }
            | Step::Cast(_)
            | Step::Round { .. } => None,
        }
    }

    /// The same, to be changed.
    pub fn operand_mut(&mut self) -> Option<&mut WeightId> {
        match self {
            Step::Scale { by, .. } | Step::Rotate { by, .. } => Some(by),
            Step::Unpermute { .. }
            | Step::Plus { .. }
            | Step::Repeat { .. }
            | Step::Cast(_)
            | Step::Round { .. } => None,
        }
    }

    /// The name in text.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Unpermute { .. } => "unpermute",
            Step::Plus { .. } => "plus",
            Step::Scale { side: Side::In, inverse: false, .. } => "scale_in",
            Step::Scale { side: Side::In, inverse: true, .. } => "unscale_in",
            Step::Scale { side: Side::Out, inverse: false, .. } => "scale_out",
            Step::Scale { side: Side::Out, inverse: true, .. } => "unscale_out",
            Step::Rotate { side: Side::In, .. } => "rotate_in",
            Step::Rotate { side: Side::Out, .. } => "rotate_out",
            Step::Repeat { .. } => "repeat",
            Step::Cast(_) => "cast",
            Step::Round { .. } => "round",
        }
    }
}

impl Weight {
    /// Dimensions before the first step; `None` if the steps cannot lead to the weight's own.
    pub fn source_dims(&self) -> Option<Vec<u64>> {
        let mut dims = self.dims.clone();
        for step in self.via.iter().rev() {
            if let Step::Repeat { block, times } = *step {
                let [len] = &mut dims[..] else { return None };
                let whole = block.checked_mul(times).filter(|&n| n > 0)?;
                if *len % whole != 0 {
                    return None;
                }
                *len /= times;
            }
        }
        Some(dims)
    }
}

impl Module {
    /// What a weight is made of, as text has it right of the `=`.
    pub fn history(&self, id: WeightId) -> String {
        let Some(weight) = self.weights.get(id.0 as usize) else { return "?".into() };
        if weight.via.is_empty() {
            return weight.source.to_string();
        }
        let steps: Vec<String> = weight.via.iter().map(|step| self.step_text(step)).collect();
        format!("{} via {}", weight.source, steps.join(", "))
    }

    fn step_text(&self, step: &Step) -> String {
        let argument = match step {
            Step::Unpermute { heads } => heads.to_string(),
            Step::Plus { by } => by.to_string(),
            Step::Scale { by, .. } | Step::Rotate { by, .. } => {
                crate::place::Place::Weight(*by).name(self)
            }
            Step::Repeat { block, times } => format!("{block}, {times}"),
            Step::Cast(dtype) => dtype.to_string(),
            Step::Round { format, how } => format!("{format}, {how}"),
        };
        format!("{}({argument})", step.name())
    }
}

/// A string as in JSON, every control character escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
