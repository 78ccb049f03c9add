//! Flags of calibration and of rounding.

use clap::Args;
use ir::Rounding;
use passes::round::Gptq;
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

/// A heading of `--help`.
const CALIBRATION: &str = "Calibration and rounding";

/// Flags of everything that looks at activations.
#[derive(Args, Clone, Debug)]
pub struct CalibFlags {
    /// Text to calibrate with: a file, or self for text that the model writes (seeded by --seed)
    #[arg(help_heading = CALIBRATION, long, value_name = "FILE|self")]
    pub calib: Option<Calib>,
    /// Tokens of it to use
    #[arg(
        help_heading = CALIBRATION, long, value_name = "N", default_value_t = 16384,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub calib_tokens: u64,
    /// How weights of integers are rounded: auto, nearest, mse, or gptq, which needs --calib and
    /// takes act-order, cover, fine, damp=X after commas
    #[arg(help_heading = CALIBRATION, long, value_name = "HOW", default_value = "auto")]
    pub round: Round,
}

/// What to calibrate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calib {
    /// Text that the model writes.
    Own,
    /// A file.
    Text(PathBuf),
}

impl FromStr for Calib {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Calib, Infallible> {
        Ok(if text == "self" { Calib::Own } else { Calib::Text(text.into()) })
    }
}

/// How weights of integers are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Round {
    /// `Gptq` with a text, else `Mse`.
    Auto,
    /// The scale just covers each group.
    Nearest,
    /// The scale of least squared error.
    Mse,
    /// By the activations.
    Gptq {
        /// How each matrix is rounded.
        gptq: Gptq,
        /// Whether rows are looked at again within a layer.
        fine: bool,
    },
}

impl FromStr for Round {
    type Err = String;

    fn from_str(text: &str) -> Result<Round, String> {
        let mut parts = text.split(',');
        let mut gptq = match parts.next() {
            Some("auto") => return only(Round::Auto, parts),
            Some("nearest") => return only(Round::Nearest, parts),
            Some("mse") => return only(Round::Mse, parts),
            Some("gptq") => Gptq::default(),
            _ => return Err("expected auto, nearest, mse or gptq".into()),
        };
        let mut fine = false;
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = || value.parse().map_err(|_| format!("`{part}`: expected {key}=NUMBER"));
            match key {
                "act-order" => gptq.act_order = true,
                "cover" => gptq.clip = false,
                "fine" => fine = true,
                "damp" => gptq.damp = number()?,
                _ => return Err(format!("gptq has no `{key}`")),
            }
        }
        Ok(Round::Gptq { gptq, fine })
    }
}

fn only<'t>(round: Round, mut rest: impl Iterator<Item = &'t str>) -> Result<Round, String> {
    rest.next().map_or(Ok(round), |part| Err(format!("`{part}` is for gptq")))
}

impl Default for CalibFlags {
    fn default() -> CalibFlags {
        CalibFlags { calib: None, calib_tokens: 1, round: Round::Auto }
    }
}

impl CalibFlags {
    /// How to round, `auto` decided.
    pub fn round(&self) -> Round {
        match self.round {
            Round::Auto if self.calib.is_some() => {
                Round::Gptq { gptq: Gptq::default(), fine: false }
            }
            Round::Auto => Round::Mse,
            asked => asked,
        }
    }

    /// The step of a weight's history; none for the search that `cast` does.
    pub fn rounding(&self) -> Option<Rounding> {
        match self.round() {
            Round::Nearest => Some(Rounding::Nearest),
            Round::Gptq { .. } => Some(Rounding::Gptq),
            Round::Auto | Round::Mse => None,
        }
    }
}
