//! Flags of calibration and of rounding.

use super::search::{Axis, Setting};
use crate::options::{Activations, fixed_ranges};
use crate::simulate::SimulateFlags;
use clap::Args;
use ir::{DType, Rounding};
use passes::Context;
use passes::round::Gptq;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A heading of `--help`.
const CALIBRATION: &str = "Calibration and rounding";

/// Flags of everything that looks at activations.
#[derive(Args, Clone, Debug)]
pub struct CalibFlags {
    /// Text to calibrate with: a file, or self for text that the model writes (seeded by --seed); what
    /// is measured on it is kept in .ingot beside the model, which may be removed at any time
    #[arg(help_heading = CALIBRATION, long, value_name = "FILE|self")]
    pub calib: Option<Calib>,
    /// Tokens of it to use [default: 16384, for fixed ranges of rows 32768]
    #[arg(
        help_heading = CALIBRATION, long, value_name = "N",
        requires = "calib", value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub calib_tokens: Option<u64>,
    /// How weights of integers are rounded: nearest, mse, gptq, or auto, which tries them where
    /// there is a --calib and takes mse otherwise; gptq needs --calib and
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
    /// Whatever diverges least with a text, else `Mse`.
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
            let damp = || {
                let number = value.parse().ok().filter(|x: &f64| *x > 0.0 && *x <= 1.0);
                number.ok_or_else(|| format!("`{part}`: expected damp=X, more than 0, at most 1"))
            };
            match key {
                "act-order" => gptq.act_order = true,
                "cover" => gptq.clip = false,
                "fine" => fine = true,
                "damp" => gptq.damp = damp()?,
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
        CalibFlags { calib: None, calib_tokens: None, round: Round::Auto }
    }
}

impl Round {
    /// The step of a weight's history; none for the search that `cast` does.
    pub fn step(self) -> Option<Rounding> {
        match self {
            Round::Nearest => Some(Rounding::Nearest),
            Round::Gptq { .. } => Some(Rounding::Gptq),
            Round::Auto | Round::Mse => None,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round::Gptq { gptq, fine } = self else {
            return f.write_str(match self {
                Round::Nearest => "nearest",
                Round::Mse => "mse",
                _ => "auto",
            });
        };
        f.write_str("gptq")?;
        let parts = [(gptq.act_order, ",act-order"), (!gptq.clip, ",cover"), (*fine, ",fine")];
        parts.iter().filter(|part| part.0).try_for_each(|part| f.write_str(part.1))?;
        match gptq.damp == Gptq::default().damp {
            true => Ok(()),
            false => write!(f, ",damp={}", gptq.damp),
        }
    }
}

/// What `--round auto` tries.
const ROUNDS: [&str; 4] = ["nearest", "mse", "gptq", "gptq,cover"];

/// Tokens to calibrate with, unless the user says otherwise.
const TOKENS: u64 = 16384;
/// The same where ranges are fixed: what one of few tokens does decides about all that are to come.
const TOKENS_FIXED: u64 = 32768;

impl CalibFlags {
    /// Tokens to use: more where other flags fix ranges of rows.
    pub fn tokens(&self, simulate: &SimulateFlags, activations: Option<Activations>) -> u64 {
        let default = match fixed_ranges(simulate, activations) {
            Some(_) => TOKENS_FIXED,
            None => TOKENS,
        };
        self.calib_tokens.unwrap_or(default)
    }

    /// How to round before anything is tried.
    pub fn round(&self) -> Round {
        match self.round {
            Round::Auto => Round::Mse,
            asked => asked,
        }
    }

    /// What `auto` tries; nothing without a text, or where there is nothing to round.
    pub fn axis(&self, context: &Context<'_>) -> Axis {
        let mixed = context.budget.is_some() || !context.recipe.rules.is_empty();
        let rounds = mixed || matches!(context.weights, Some(DType::Int(_)));
        let auto = self.round == Round::Auto && self.calib.is_some() && rounds;
        let rounds = ROUNDS.iter().filter(|_| auto).flat_map(|text| text.parse());
        let settings = rounds.map(Setting::Round).collect();
        Axis { name: "round", settings }
    }
}
