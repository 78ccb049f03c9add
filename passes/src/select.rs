//! `select`: the storage format of every matrix.
//!
//! # What
//! Every weight of two dimensions is stored as the recipe says, or else as a budget chose, or else as
//! `Context::weights`; vectors (gains, biases) stay f32:
//! they are a thousandth of the bytes and enter every token. A matrix that a pass made (`rotate`, before a
//! tied head) keeps 8 bits at least.
//!
//! # Why it is exact (or how far off)
//! `f32` is exact. `f16` and `bf16` round to nearest, ties to even: a relative error of 2⁻¹¹ and 2⁻⁸
//! per element. Arithmetic stays in f32. Integers round each group by itself: of several scales the
//! one with the least squared error.
//!
//! Under a budget each matrix has the format that loses least for its bytes: losses are those of
//! `sensitivity`, choices those of `budget`. A graph that calls bind different formats to becomes one
//! for each combination.
//!
//! # Requires
//! A group that divides every row; for a budget, calibration. An element beyond the range of f16 is refused when the weight is
//! written.
//!
//! # Paper
//! IEEE 754-2008 (binary16); bfloat16 as in arXiv 1905.12322.

mod budget;
mod recipe;
pub mod sensitivity;
mod specialise;

pub use budget::{Choice, choose};
pub use recipe::Recipe;
pub use specialise::specialise;

use crate::{Context, PassError};
use ir::uses::read_by_graphs;
use ir::{DType, Graph, IntFormat, Module, Op, Rounding, Source, Step, Weight};

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
    let (budgeted, log) = match context.budget {
        Some(budget) => within(module, context, budget)?,
        None => (Recipe::default(), vec![]),
    };
    let read = read_by_graphs(module);
    for (weight, _) in module.weights.iter_mut().zip(read).filter(|(_, read)| *read) {
        let pinned = context.recipe.format(&weight.name);
        let floor = context.weights.map(|dtype| at_least_8_bits(&weight.source, dtype));
        let dtype = pinned.or_else(|| budgeted.format(&weight.name)).or(floor);
        if let (2, Some(dtype)) = (weight.dims.len(), dtype) {
            select_weight(weight, dtype, context.round)?;
        }
    }
    specialise(module);
    Ok(log)
}

/// Bytes that all matrices of a module may have together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bytes of everything that is stored.
    Bytes(u64),
    /// Bits by parameter.
    Bits(f64),
}

/// Formats within a budget; a table of what was chosen.
fn within(
    module: &Module,
    context: &Context<'_>,
    budget: Budget,
) -> Result<(Recipe, Vec<String>), PassError> {
    let Some(lab) = context.lab else {
        let why = "a budget is spent by what activations say: a calibration text is needed".into();
        return Err(PassError { pass: PASS, why });
    };
    let mut rows = sensitivity::table(module, lab)?;
    for row in &mut rows {
        if let Some(pinned) = context.recipe.format(&module.weight(row.weight).name) {
            let cost = sensitivity::bytes(&module.weight(row.weight).dims, pinned);
            row.choices = vec![(pinned, Choice { cost, loss: 0.0 })];
        }
    }
    let read = read_by_graphs(module);
    let stored = || module.weights.iter().zip(&read).filter(|(_, read)| **read).map(|(w, _)| w);
    let limit = match budget {
        Budget::Bytes(bytes) => bytes,
        Budget::Bits(bits) => {
            (bits / 8.0 * stored().map(Weight::elements).sum::<u64>() as f64) as u64
        }
    };
    // What is not in the table is stored all the same: vectors, matrices that passes made.
    let listed: Vec<&str> = rows.iter().map(|r| module.weight(r.weight).name.as_str()).collect();
    let rest: u64 = stored()
        .filter(|w| !listed.contains(&w.name.as_str()))
        .map(|w| sensitivity::bytes(&w.dims, DType::F32))
        .sum();
    let choices: Vec<Vec<Choice>> =
        rows.iter().map(|row| row.choices.iter().map(|(_, choice)| *choice).collect()).collect();
    let Some(chosen) = choose(&choices, limit.saturating_sub(rest)) else {
        let least: u64 =
            choices.iter().filter_map(|row| row.iter().map(|c| c.cost).min()).sum::<u64>() + rest;
        let why = format!("a budget of {limit} bytes, but no formats need less than {least}");
        return Err(PassError { pass: BUDGET, why });
    };
    let mut recipe = Recipe::default();
    let mut log = vec![];
    for (row, &at) in rows.iter().zip(&chosen) {
        let (dtype, choice) = row.choices[at];
        let name = &module.weight(row.weight).name;
        log.push(format!(
            "${name:<12} {dtype:<6} {:>10} bytes  loss {:.6}",
            choice.cost, choice.loss
        ));
        recipe.rules.push((name.clone(), dtype));
    }
    let (bytes, loss) = chosen
        .iter()
        .zip(&choices)
        .fold((rest, 0.0), |(b, l), (&i, c)| (b + c[i].cost, l + c[i].loss));
    log.push(format!("{bytes} of {limit} bytes, predicted loss {loss:.6} nats"));
    Ok((recipe, log))
}

/// A matrix that a pass made is small and stands between two that are quantised: it keeps 8 bits.
fn at_least_8_bits(source: &Source, dtype: DType) -> DType {
    match (source, dtype) {
        (Source::Blob(_), _) => dtype,
        (_, DType::Int(format)) if format.bits < 8 => DType::Int(IntFormat::symmetric(8, 0)),
        _ => dtype,
    }
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
            "groups of {format} do not divide the {columns} columns of ${} (\"{}\"); choose a group \
             that divides every width of the model",
            weight.name,
            ir::weights::label(weight)
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
