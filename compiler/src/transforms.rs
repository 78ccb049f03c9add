//! Flags of the passes that change numbers and not the function: rotations and smoothing.

use crate::Error;
use crate::frontend::BlobSource;
use clap::{Args, ValueEnum};
use passes::Context;
use passes::factors::Smoothing;
use passes::rotate::{Matrices, Rotations};
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

/// A heading of `--help`.
const TRANSFORMS: &str = "Transforms";

/// How weights are transformed before they are rounded.
#[derive(Args, Clone, Debug)]
pub struct TransformFlags {
    /// Rotate: off, hadamard (random signs by --seed), or a safetensors file with R1 and R2
    #[arg(help_heading = TRANSFORMS, long, value_name = "off|hadamard|FILE", default_value = "off")]
    pub rotate: Rotate,
    /// Which rotations: r1 the residual stream, r2 values, r3 keys (online), r4 before the last
    /// matrix of a layer (online)
    #[arg(
        help_heading = TRANSFORMS, long, value_enum, value_name = "LIST", value_delimiter = ',',
        default_values = ["r1", "r2"], requires = "rotate"
    )]
    pub rotations: Vec<Rotation>,
    /// Smooth: off, or the share of a channel's range, 0 to 1, that goes into the weights
    #[arg(help_heading = TRANSFORMS, long, value_name = "off|ALPHA", default_value = "off")]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// There are none.
    Off,
    /// Hadamard matrices with random signs.
    Hadamard,
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
            (_, Some(alpha)) => Ok(Smooth::Alpha(alpha)),
            _ => Err("expected off, or a number from 0 to 1".into()),
        }
    }
}

impl FromStr for Rotate {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Rotate, Infallible> {
        Ok(match text {
            "off" => Rotate::Off,
            "hadamard" => Rotate::Hadamard,
            file => Rotate::File(file.into()),
        })
    }
}

impl TransformFlags {
    /// Puts what the flags say into the context. Tensors of a file join those of the checkpoint.
    pub fn apply(
        &self,
        context: &mut Context<'_>,
        blobs: Option<&mut BlobSource>,
    ) -> Result<(), Error> {
        if let Smooth::Alpha(alpha) = self.smooth {
            let has = |site| self.smooth_sites.contains(&site);
            context.smooth = Some(Smoothing {
                alpha,
                norms: has(SmoothSite::Norms),
                inner: has(SmoothSite::Inner),
                values: has(SmoothSite::Values),
            });
        }
        let matrices = match &self.rotate {
            Rotate::Off => return Ok(()),
            Rotate::Hadamard => Matrices::Hadamard { seed: self.seed },
            Rotate::File(path) => match blobs {
                Some(blobs) => crate::frontend::add_rotations(blobs, path)?,
                None => {
                    return Err(Error::new("IG0401", "a rotation from a file needs a checkpoint")
                        .help("name it with --blobs MODEL"));
                }
            },
        };
        let has = |rotation| self.rotations.contains(&rotation);
        context.rotate = Some(Rotations {
            matrices,
            residual: has(Rotation::R1),
            values: has(Rotation::R2),
            keys: has(Rotation::R3),
            inner: has(Rotation::R4),
        });
        Ok(())
    }
}
