//! `select`: the storage format of every matrix.
//!
//! # What
//! Every weight of two dimensions is stored as the recipe says (of several formats in the one that
//! loses least, `settle`), or else as a budget chose, or else as
//! `Context::weights`; vectors (gains, biases) stay f32:
//! they are a thousandth of the bytes and enter every token. Where others are integers, a matrix that a
//! pass made (`rotate`, before a tied head) has 8 bits in groups, unless a rule has its whole name.
//!
//! # Why it is exact (or how far off)
//! `f32` is exact. `f16` and `bf16` round to nearest, ties to even: a relative error of 2⁻¹¹ and 2⁻⁸
//! per element. Arithmetic stays in f32. Integers round each group by itself: of several scales the
//! one with the least squared error.
//!
//! Under a budget each matrix has the format that loses least for its bytes, or for what reading them
//! costs (`traffic`): losses are those of `sensitivity`, choices those of `budget`. A graph that calls bind different formats to becomes one
//! for each combination.
//!
//! # Requires
//! A group that divides every row; for a budget, or a choice in a recipe, calibration. An element beyond the range of f16 is refused when the weight is
//! written.
//!
//! # Paper
//! IEEE 754-2008 (binary16); bfloat16 as in arXiv 1905.12322; the choice between floats of 4 bits as
//! in LLM-FP4 (arXiv 2310.16836).

mod budget;
mod recipe;
pub mod sensitivity;
mod settle;
mod specialise;
mod traffic;
mod within;

pub use budget::{Choice, choose};
pub use recipe::Recipe;
pub use specialise::specialise;
pub use within::{Budget, Price, Token, uniform_within};

use crate::{Context, PassError};
use ir::uses::read_by_graphs;
use ir::{DType, Graph, IntFormat, Module, Op, Rounding, Source, Step, Weight};
use settle::settle;
use within::within;

const PASS: &str = "select";
/// What refusals of a budget that is too small name instead of the pass.
pub const BUDGET: &str = "budget";

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let quantised =
        |graph: &Graph| graph.insts.iter().any(|i| matches!(i.op, Op::QuantRows { .. }));
    if module.graphs.iter().any(quantised) {
        let why = "rows are quantised already; start from the IR before `activations`".into();
        return Err(PassError { pass: PASS, why });
    }
    if let Some(pattern) = context.recipe.unmatched(module) {
        let why = format!("the recipe's `{pattern}` is the name of no matrix");
        return Err(PassError { pass: PASS, why });
    }
    let (recipe, mut log) = settle(module, context)?;
    let budgeted = match context.budget {
        Some(budget) => {
            let (budgeted, spent) = within(module, context, &recipe, budget)?;
            log.extend(spent);
            budgeted
        }
        None => Recipe::default(),
    };
    let read = read_by_graphs(module);
    for (weight, _) in module.weights.iter_mut().zip(read).filter(|(_, read)| *read) {
        let others = budgeted.format(&weight.name).or(context.weights);
        if let (2, Some(dtype)) = (weight.dims.len(), format_of(weight, &recipe, others)) {
            select_weight(weight, dtype, context.round)?;
        }
    }
    specialise(module);
    Ok(log)
}

/// The format that a matrix will have, where those that no rule of the recipe matches are as `others`.
pub fn format_of(weight: &Weight, recipe: &Recipe, others: Option<DType>) -> Option<DType> {
    match (recipe.format(&weight.name).or(others), kept(weight, recipe)) {
        (Some(DType::Int(_)), Some(kept)) => Some(kept),
        (asked, _) => asked,
    }
}

/// The integers that a matrix has whatever all others have.
fn kept(weight: &Weight, recipe: &Recipe) -> Option<DType> {
    made_by_a_pass(weight).filter(|_| !recipe.names(&weight.name))
}

/// The integers of a matrix that a pass made. It is small, and its rows are a large element on the
/// diagonal and many small ones, which one scale for all would leave little of.
fn made_by_a_pass(weight: &Weight) -> Option<DType> {
    let (false, [_, columns]) = (matches!(weight.source, Source::Blob(_)), &weight.dims[..]) else {
        return None;
    };
    let formats = [64, 48, 32, 16, 0].map(|group| IntFormat::symmetric(8, group));
    formats.into_iter().find(|format| format.fits(*columns)).map(DType::Int)
}

/// A format that was chosen before is replaced, so that numbers are rounded once.
fn select_weight(
    weight: &mut Weight,
    dtype: DType,
    round: Option<Rounding>,
) -> Result<(), PassError> {
    if let (DType::Int(format), [_, columns]) = (dtype, &weight.dims[..])
        && !format.fits(*columns)
    {
        let why = format!(
            "groups of {format} do not divide the {columns} columns of ${} (\"{}\"); a recipe gives \
             it a group that does, as in \"{}\" = \"i4g16\"",
            weight.name,
            ir::weights::label(weight),
            weight.name
        );
        return Err(PassError { pass: PASS, why });
    }
    if let Some(Step::Cast(_) | Step::Round { .. }) = weight.via.last() {
        weight.via.pop();
        weight.dtype = DType::F32;
    }
    if weight.dtype != dtype {
        weight.dtype = dtype;
        weight.via.push(match (dtype, round) {
            (DType::Int(format), Some(how)) => Step::Round { format, how },
            _ => Step::Cast(dtype),
        });
    }
    Ok(())
}
