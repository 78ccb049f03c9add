//! The pass pipeline: a table of passes, and the checked reasons for its order.
//!
//! Never sees Cranelift or a file. Reading `PASSES` is reading the pipeline.

pub mod activations;
mod attention;
pub mod bindings;
pub mod cache;
pub mod chain;
mod edit;
pub mod factors;
pub mod fold_norms;
mod groups;
pub mod hadamards;
pub mod learn;
pub mod local_scales;
mod ranges;
pub mod rotate;
pub mod round;
pub mod scales;
pub mod select;
pub mod share;
pub mod simulate;
pub mod smooth;
pub mod stats;

use factors::Smoothing;
use ir::{Blobs, DType, Module, Rounding, RowRange, verify};
use rotate::Rotations;
use select::{Budget, Recipe};
use simulate::Simulation;
use stats::Lab;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What the user asked for, as far as passes need it.
#[derive(Clone, Default)]
pub struct Context<'a> {
    /// Storage format of matrices; `None` leaves them as they are.
    pub weights: Option<DType>,
    /// How matrices become integers; `None` is the search that `cast` does.
    pub round: Option<Rounding>,
    /// Formats by name, before those above.
    pub recipe: Recipe,
    /// What all weights may take together.
    pub budget: Option<Budget>,
    /// The one format that a budget chooses, wherever it fits; `None` for the best of all.
    pub uniform: Option<DType>,
    /// Group in which rows are quantised where they meet integers; `None` leaves them in f32.
    pub activation_group: Option<u32>,
    /// What the ranges of those rows are.
    pub activation_range: RowRange,
    /// Storage format of the KV cache; `None` leaves it as it is.
    pub cache: Option<DType>,
    /// What is rounded as if it were stored in fewer bits; `None` for nothing.
    pub simulate: Option<Simulation>,
    /// Rotations; `None` for none.
    pub rotate: Option<Rotations>,
    /// Smoothing; `None` for none.
    pub smooth: Option<Smoothing>,
    /// The numbers of the checkpoint, where there is one.
    pub blobs: Option<&'a dyn Blobs>,
    /// Who runs the model on calibration text, where there is a checkpoint.
    pub lab: Option<&'a dyn Lab>,
}

/// A pass that cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pass {pass}: {why}")]
pub struct PassError {
    /// Name of the pass.
    pub pass: &'static str,
    /// What was found, and what would do.
    pub why: String,
}

/// One row of the pipeline.
pub struct Pass {
    /// Name, as `--dump-after` takes it.
    pub name: &'static str,
    /// What it does, in half a line.
    pub what: &'static str,
    /// Whether it claims to leave the function of the model as it is.
    pub exact: bool,
    wanted: fn(&Context<'_>) -> bool,
    run: fn(&mut Module, &Context<'_>) -> Result<Vec<String>, PassError>,
}

impl Pass {
    /// Whether what the user asked for needs the pass.
    pub fn is_wanted(&self, context: &Context<'_>) -> bool {
        (self.wanted)(context)
    }
}

/// The pipeline.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "share",
        what: "make equal weights one",
        exact: true,
        wanted: |context| context.blobs.is_some(),
        run: share::run,
    },
    Pass {
        name: "fold_norms",
        what: "move gains of norms into the matrices behind them",
        exact: true,
        wanted: |context| context.rotate.as_ref().is_some_and(|r| r.residual),
        run: fold_norms::run,
    },
    Pass {
        name: "local_scales",
        what: "move ranges of channels from up to down and from values to output",
        exact: true,
        wanted: |context| context.smooth.is_some_and(|s| s.inner || s.values),
        run: local_scales::run,
    },
    Pass {
        name: "rotate",
        what: "turn the residual stream (R1) and values (R2), folded into weights",
        exact: true,
        wanted: |context| context.rotate.as_ref().is_some_and(|r| r.residual || r.values),
        run: rotate::run,
    },
    Pass {
        name: "hadamards",
        what: "turn keys (R3) and what the last matrix reads (R4), online",
        exact: true,
        wanted: |context| context.rotate.as_ref().is_some_and(|r| r.keys || r.inner),
        run: hadamards::run,
    },
    Pass {
        name: "smooth",
        what: "move ranges of channels from normed rows into matrices",
        exact: true,
        wanted: |context| context.smooth.is_some_and(|s| s.norms),
        run: smooth::run,
    },
    Pass {
        name: "select",
        what: "choose the storage format of every matrix",
        exact: false,
        wanted: |context| {
            let asked = context.budget.is_some() || !context.recipe.rules.is_empty();
            asked || context.weights.is_some()
        },
        run: select::run,
    },
    Pass {
        name: "simulate",
        what: "round rows, keys and values as formats would that no kernel stores yet",
        exact: false,
        wanted: |context| context.simulate.is_some(),
        run: simulate::run,
    },
    Pass {
        name: "activations",
        what: "quantise rows where they meet integers",
        exact: false,
        wanted: |context| context.activation_group.is_some(),
        run: activations::run,
    },
    Pass {
        name: "cache",
        what: "choose the storage format of the KV cache",
        exact: false,
        wanted: |context| context.cache.is_some(),
        run: cache::run,
    },
];

/// `(before, after, why)`. A test checks the table against it; nothing is reordered.
pub const ORDER: &[(&str, &str, &str)] = &[
    ("share", "fold_norms", "a matrix that two layers share must be found behind one gain"),
    ("fold_norms", "rotate", "a rotation crosses a norm only if the norm has no gain"),
    ("local_scales", "rotate", "a factor of a channel of values does not cross R2"),
    ("local_scales", "hadamards", "a factor of a channel does not cross R4"),
    (
        "fold_norms",
        "smooth",
        "factors in a gain fold back into the matrices: smoothing before folding does nothing",
    ),
    (
        "rotate",
        "smooth",
        "smoothing puts a gain into the norm, and channels are others once turned",
    ),
    ("rotate", "select", "transforms change numbers that are not rounded yet"),
    ("hadamards", "select", "transforms change numbers that are not rounded yet"),
    ("smooth", "select", "grids are chosen on final numbers"),
    ("select", "activations", "rows are quantised only where a matrix holds integers"),
    ("smooth", "simulate", "ranges are those of the rows as they are in the end"),
    ("simulate", "activations", "kernels of 8 bits take rows that were rounded to fewer"),
    (
        "select",
        "cache",
        "a budget that covers both is spent on weights first: every token reads all of them",
    ),
];

/// What a pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the module is another one.
    pub changed: bool,
    /// What was folded, merged or inserted, a line each.
    pub log: Vec<String>,
    /// How long it took.
    pub time: Duration,
}

/// What an observer of the pipeline sees.
pub enum Seen<'a> {
    /// The module before a pass.
    Before(&'a Pass, &'a Module),
    /// The module after a pass, and what was done.
    After(&'a Pass, &'a Module, &'a Outcome),
}

/// An error if passes are not in an order that `ORDER` allows.
pub fn check_order(chosen: &[&Pass]) -> Result<(), PassError> {
    let at = |name: &str| chosen.iter().position(|pass| pass.name == name);
    for (before, after, why) in ORDER {
        if let (Some(b), Some(a)) = (at(before), at(after))
            && a < b
        {
            let why = format!("`{before}` comes before `{after}`: {why}");
            return Err(PassError { pass: chosen[a].name, why });
        }
    }
    Ok(())
}

/// Runs the chosen passes in the order given. After each the module is verified; `seen` hears of
/// every step and may end the run.
///
/// A module that a pass leaves invalid is a bug of that pass and panics with all violations.
pub fn run(
    module: &mut Module,
    chosen: &[&Pass],
    context: &Context<'_>,
    seen: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<(), PassError> {
    check_order(chosen)?;
    for pass in chosen {
        if seen(Seen::Before(pass, module)).is_break() {
            return Ok(());
        }
        let (before, start) = (module.clone(), Instant::now());
        let log = (pass.run)(module, context)?;
        let time = start.elapsed();
        if let Err(violations) = verify(module) {
            let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
            panic!("pass {} left an invalid module:\n{}", pass.name, all.join("\n"));
        }
        let outcome = Outcome { changed: before != *module, log, time };
        if seen(Seen::After(pass, module, &outcome)).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_its_order() {
        let all: Vec<&Pass> = PASSES.iter().collect();
        check_order(&all).unwrap();
        for (before, after, _) in ORDER {
            for name in [before, after] {
                assert!(PASSES.iter().any(|p| p.name == *name), "no pass {name}");
            }
        }
        let swapped: Vec<&Pass> = all.into_iter().rev().collect();
        let error = check_order(&swapped).unwrap_err().to_string();
        assert!(error.contains("`share` comes before `fold_norms`"), "{error}");
    }
}
