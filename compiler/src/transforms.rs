//! Flags of the passes that change numbers and not the function: rotations and smoothing.

use crate::Error;
use crate::calib::learn::LearnFlag;
use crate::calib::search::{Axis, Setting};
use crate::frontend::BlobSource;
use clap::{Args, ValueEnum};
use passes::Context;
use passes::factors::{Smoothing, Strength};
use passes::rotate::{Matrices, Rotations};
use std::path::PathBuf;
use std::str::FromStr;

/// A heading of `--help`.
const TRANSFORMS: &str = "Transforms";

/// How weights are transformed before they are rounded.
#[derive(Args, Clone, Debug)]
pub struct TransformFlags {
    /// Rotate: off, hadamard (random signs by --seed; hadamard,seeds=N for the best of N), auto (off
    /// or the best of some), learned (from the best of some seeds; takes steps=N, tokens=N, rate=X,
    /// seeds=N after commas), or a safetensors file with R1 and R2
    #[arg(
        help_heading = TRANSFORMS, long, value_name = "off|hadamard|auto|learned|FILE",
        default_value = "off"
    )]
    pub rotate: Rotate,
    /// Which rotations: r1 the residual stream, r2 values, r3 keys (online), r4 before the last
    /// matrix of a layer (online); with commas between
    #[arg(
        help_heading = TRANSFORMS, long, value_enum, value_name = "LIST", value_delimiter = ',',
        default_values = ["r1", "r2"], requires = "rotate"
    )]
    pub rotations: Vec<Rotation>,
    /// Smooth: off, the share of a channel's range, 0 to 1, that goes into the weights, search (what
    /// loses least, for each site), or auto (whichever of these diverges least)
    #[arg(
        help_heading = TRANSFORMS, long, value_name = "off|ALPHA|search|auto",
        default_value = "off"
    )]
    pub smooth: Smooth,
    /// What is smoothed: norms, inner (up to down), values (to the output matrix)
    #[arg(
        help_heading = TRANSFORMS, long, value_enum, value_name = "LIST", value_delimiter = ',',
        default_values = ["norms"], requires = "smooth"
    )]
    pub smooth_sites: Vec<SmoothSite>,
    /// Seed of everything that is random
    #[arg(help_heading = TRANSFORMS, long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Where rotations come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Rotate {
    /// There are none.
    Off,
    /// Hadamard matrices with random signs, the best of so many seeds.
    Hadamard {
        /// Seeds to try.
        seeds: u64,
    },
    /// Whatever diverges least.
    Auto,
    /// Hadamard matrices that go down a gradient.
    Learned(LearnFlag),
    /// A safetensors file: R1, and R2 of each layer.
    File(PathBuf),
}

/// A rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rotation {
    /// The residual stream
    R1,
    /// Values
    R2,
    /// Queries and keys
    R3,
    /// Before the last matrix of a layer
    R4,
}

/// How strongly to smooth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smooth {
    /// Not at all.
    Off,
    /// The exponent of SmoothQuant.
    Alpha(f64),
    /// What loses least, for each site by itself.
    Search,
    /// Whatever diverges least.
    Auto,
}

/// Where factors are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SmoothSite {
    /// Between norms and the matrices behind them
    Norms,
    /// From up to down
    Inner,
    /// From values to the output matrix of attention
    Values,
}

impl Default for TransformFlags {
    fn default() -> TransformFlags {
        TransformFlags {
            rotate: Rotate::Off,
            rotations: vec![],
            smooth: Smooth::Off,
            smooth_sites: vec![],
            seed: 1,
        }
    }
}

impl FromStr for Smooth {
    type Err = String;

    fn from_str(text: &str) -> Result<Smooth, String> {
        let alpha = text.parse().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
        match (text, alpha) {
            ("off", _) => Ok(Smooth::Off),
            ("search", _) => Ok(Smooth::Search),
            ("auto", _) => Ok(Smooth::Auto),
            (_, Some(alpha)) => Ok(Smooth::Alpha(alpha)),
            _ => Err("expected off, search, auto, or a number from 0 to 1".into()),
        }
    }
}

impl FromStr for Rotate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rotate, String> {
        Ok(match text {
            "off" => Rotate::Off,
            "hadamard" => Rotate::Hadamard { seeds: 1 },
            "auto" => Rotate::Auto,
            "learned" => Rotate::Learned(LearnFlag::default()),
            text if text.starts_with("learned,") => {
                Rotate::Learned(text["learned,".len()..].parse()?)
            }
            text => match text.strip_prefix("hadamard,") {
                None if !text.contains('.') => {
                    return Err(
                        "expected off, hadamard, auto, learned or a safetensors file".into()
                    );
                }
                None => Rotate::File(text.into()),
                Some(rest) => {
                    let seeds = rest.strip_prefix("seeds=").and_then(|n| n.parse().ok());
                    let seeds = seeds.filter(|n| (1..=SEEDS_MAX).contains(n));
                    let seeds = seeds.ok_or_else(|| {
                        format!("expected hadamard,seeds=N with N from 1 to {SEEDS_MAX}")
                    })?;
                    Rotate::Hadamard { seeds }
                }
            },
        })
    }
}

/// Seeds that are tried at most.
pub const SEEDS_MAX: u64 = 64;
/// Seeds that `--rotate auto` tries.
const SEEDS_AUTO: u64 = 3;
/// Between two seeds that are tried: matrices of R2 follow the seed of R1, one by one.
const SEED_STRIDE: u64 = 1000;
/// What `--smooth auto` tries.
const STRENGTHS: [Option<Strength>; 5] = [
    None,
    Some(Strength::Alpha(0.3)),
    Some(Strength::Alpha(0.5)),
    Some(Strength::Alpha(0.7)),
    Some(Strength::Searched),
];

impl TransformFlags {
    /// Puts what the flags say into the context. Tensors of a file join those of the checkpoint.
    pub fn apply(
        &self,
        context: &mut Context<'_>,
        blobs: Option<&mut BlobSource>,
    ) -> Result<(), Error> {
        context.smooth = match self.smooth {
            Smooth::Off | Smooth::Auto => None,
            Smooth::Alpha(alpha) => Some(self.smoothing(Strength::Alpha(alpha))),
            Smooth::Search => Some(self.smoothing(Strength::Searched)),
        };
        let matrices = match &self.rotate {
            Rotate::Off | Rotate::Auto | Rotate::Learned(_) => return Ok(()),
            Rotate::Hadamard { .. } => Matrices::Hadamard { seed: self.seed },
            Rotate::File(path) => match blobs {
                Some(blobs) => crate::frontend::add_rotations(blobs, path)?,
                None => {
                    return Err(Error::new("IG0401", "a rotation from a file needs a checkpoint")
                        .help("name it with --blobs MODEL"));
                }
            },
        };
        context.rotate = Some(self.rotations(matrices));
        Ok(())
    }

    /// What is left to be tried: rotations, then smoothing.
    pub fn axes(&self) -> [Axis; 2] {
        let seeds = match self.rotate {
            Rotate::Hadamard { seeds } if seeds > 1 => seeds,
            Rotate::Auto => SEEDS_AUTO,
            _ => 0,
        };
        let seed = |n| Matrices::Hadamard { seed: self.seed + n * SEED_STRIDE };
        let off = (self.rotate == Rotate::Auto).then_some(Setting::Rotate(None));
        let seeds = (0..seeds).map(|n| Setting::Rotate(Some(self.rotations(seed(n)))));
        let rotate = off.into_iter().chain(seeds).collect();
        let strengths = STRENGTHS.iter().filter(|_| self.smooth == Smooth::Auto);
        let smooth = strengths.map(|s| Setting::Smooth(s.map(|s| self.smoothing(s)))).collect();
        [Axis { name: "rotate", settings: rotate }, Axis { name: "smooth", settings: smooth }]
    }

    /// The flag that leaves something to be tried.
    pub fn tried(&self) -> Option<&'static str> {
        match (&self.rotate, self.smooth) {
            (Rotate::Auto, _) => Some("--rotate auto"),
            (Rotate::Learned(_), _) => Some("--rotate learned"),
            (Rotate::Hadamard { seeds: 2.. }, _) => Some("--rotate hadamard,seeds=N"),
            (_, Smooth::Auto) => Some("--smooth auto"),
            _ => None,
        }
    }

    /// The flag that asks for factors.
    pub fn smoothed(&self) -> Option<&'static str> {
        (self.smooth != Smooth::Off).then_some("--smooth")
    }

    fn smoothing(&self, strength: Strength) -> Smoothing {
        let has = |site| self.smooth_sites.contains(&site);
        Smoothing {
            strength,
            norms: has(SmoothSite::Norms),
            inner: has(SmoothSite::Inner),
            values: has(SmoothSite::Values),
        }
    }

    fn rotations(&self, matrices: Matrices) -> Rotations {
        let has = |rotation| self.rotations.contains(&rotation);
        Rotations {
            matrices,
            residual: has(Rotation::R1),
            values: has(Rotation::R2),
            keys: has(Rotation::R3),
            inner: has(Rotation::R4),
        }
    }
}
