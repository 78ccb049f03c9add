//! What is left to `auto`: tried on text that is held back, one thing after the other, and what
//! diverges least from the model as it was is kept.
//!
//! Single transforms may hurt where their combination wins, and the other way round, so nothing is
//! taken from the order that is known of larger models.

use super::{Laboratory, Round};
use crate::pipeline;
use ir::{DType, Module};
use passes::Context;
use passes::factors::Smoothing;
use passes::rotate::{Matrices, Rotations};
use std::fmt;
use std::ops::ControlFlow;

/// One thing that can be set.
#[derive(Clone, Debug)]
pub enum Setting {
    /// Rotations, or none.
    Rotate(Option<Rotations>),
    /// Smoothing, or none.
    Smooth(Option<Smoothing>),
    /// How weights become integers.
    Round(Round),
    /// The one format that a budget is spent on; without, formats of each matrix.
    Uniform(Option<DType>),
}

impl Setting {
    fn apply(&self, context: &mut Context<'_>, round: &mut Round) {
        match self {
            Setting::Rotate(rotations) => context.rotate.clone_from(rotations),
            Setting::Smooth(smoothing) => context.smooth = *smoothing,
            Setting::Round(how) => (*round, context.round) = (*how, how.step()),
            Setting::Uniform(format) => context.uniform = *format,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Rotate(None) | Setting::Smooth(None) => f.write_str("off"),
            Setting::Rotate(Some(rotations)) => {
                let parts = [
                    (rotations.residual, "r1"),
                    (rotations.values, "r2"),
                    (rotations.keys, "r3"),
                    (rotations.inner, "r4"),
                ];
                let parts: Vec<&str> = parts.iter().filter(|p| p.0).map(|p| p.1).collect();
                match rotations.matrices {
                    Matrices::Hadamard { seed } => write!(f, "{} seed {seed}", parts.join(",")),
                    Matrices::Blobs { .. } => write!(f, "{} of a file", parts.join(",")),
                }
            }
            Setting::Smooth(Some(smoothing)) => write!(f, "{smoothing}"),
            Setting::Round(round) => write!(f, "{round}"),
            Setting::Uniform(None) => f.write_str("mixed"),
            Setting::Uniform(Some(format)) => write!(f, "{format} everywhere"),
        }
    }
}

/// Alternatives for one thing: what they are of, and each of them.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The flag.
    pub name: &'static str,
    /// What is tried.
    pub settings: Vec<Setting>,
}

/// Tries every axis, the others as they were found best so far, and leaves the best in `context`; how
/// to round then. `tell` hears what was tried, and what of it is kept. Where nothing can be used the axis
/// stays as it is, and the pipeline says what is wrong.
pub fn settle(
    lab: &Laboratory<'_>,
    module: &Module,
    context: &mut Context<'_>,
    mut round: Round,
    axes: &[Axis],
    tell: &dyn Fn(String),
) -> Round {
    for axis in axes.iter().filter(|axis| !axis.settings.is_empty()) {
        let mut best: Option<(f64, &Setting)> = None;
        for setting in &axis.settings {
            let (mut tried, mut how) = (context.clone(), round);
            setting.apply(&mut tried, &mut how);
            match measure(lab, module, &tried, how) {
                Ok(loss) => {
                    tell(format!("--{} {:<28} {loss:.4} nats", axis.name, setting.to_string()));
                    if best.is_none_or(|(least, _)| loss < least) {
                        best = Some((loss, setting));
                    }
                }
                Err(why) => tell(format!("--{} {:<28} {why}", axis.name, setting.to_string())),
            }
        }
        if let Some((_, setting)) = best {
            tell(format!("--{} {setting} is kept", axis.name));
            setting.apply(context, &mut round);
        }
    }
    round
}

/// Divergence of the module that the passes make.
fn measure(
    lab: &Laboratory<'_>,
    module: &Module,
    context: &Context<'_>,
    round: Round,
) -> Result<f64, passes::PassError> {
    let mut module = module.clone();
    let chosen = pipeline::wanted(context);
    passes::run(&mut module, &chosen, context, &mut |_| ControlFlow::Continue(()))?;
    lab.divergence(&module, round)
}
