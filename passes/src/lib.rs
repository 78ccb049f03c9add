//! The pass pipeline: a table of passes, and the checked reasons for its order.
//!
//! Never sees Cranelift or a file. Reading `PASSES` is reading the pipeline.

pub mod activations;
pub mod cache;
pub mod chain;
pub mod round;
pub mod select;
pub mod stats;

use ir::{DType, Module, Rounding, verify};

/// What the user asked for, as far as passes need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Storage format of matrices; `None` leaves them as they are.
    pub weights: Option<DType>,
    /// How matrices become integers; `None` is the search that `cast` does.
    pub round: Option<Rounding>,
    /// Group in which rows are quantised where they meet integers; `None` leaves them in f32.
    pub activation_group: Option<u32>,
    /// Storage format of the KV cache; `None` leaves it as it is.
    pub cache: Option<DType>,
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
    run: fn(&mut Module, &Context) -> Result<(), PassError>,
}

/// The pipeline.
pub const PASSES: &[Pass] = &[
    Pass { name: "select", what: "choose the storage format of every matrix", run: select::run },
    Pass {
        name: "activations",
        what: "quantise rows where they meet integers",
        run: activations::run,
    },
    Pass { name: "cache", what: "choose the storage format of the KV cache", run: cache::run },
];

/// `(before, after, why)`. A test checks the table against it; nothing is reordered.
pub const ORDER: &[(&str, &str, &str)] = &[
    ("select", "activations", "rows are quantised only where a matrix holds integers"),
    (
        "select",
        "cache",
        "a budget that covers both is spent on weights first: every token reads all of them",
    ),
];

/// What an observer of the pipeline sees.
pub enum Seen<'a> {
    /// The module before a pass.
    Before(&'a Pass, &'a Module),
    /// The module after a pass, and whether anything changed.
    After(&'a Pass, &'a Module, bool),
}

/// Runs the chosen passes in the order given. After each the module is verified; `seen` hears of
/// every step.
///
/// A module that a pass leaves invalid is a bug of that pass and panics with all violations.
pub fn run(
    module: &mut Module,
    chosen: &[&Pass],
    context: &Context,
    seen: &mut dyn FnMut(Seen<'_>),
) -> Result<(), PassError> {
    for pass in chosen {
        seen(Seen::Before(pass, module));
        let before = module.clone();
        (pass.run)(module, context)?;
        if let Err(violations) = verify(module) {
            let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
            panic!("pass {} left an invalid module:\n{}", pass.name, all.join("\n"));
        }
        seen(Seen::After(pass, module, before != *module));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_its_order() {
        let at = |name: &str| {
            PASSES.iter().position(|p| p.name == name).unwrap_or_else(|| panic!("no pass {name}"))
        };
        for (before, after, why) in ORDER {
            assert!(at(before) < at(after), "{before} must come before {after}: {why}");
        }
    }
}
