//! Rules that leave several formats open: each matrix has the one that loses least.
//!
//! What is lost is the mean squared error of the matrix's product, as LLM-FP4 (arXiv 2310.16836,
//! section 4.1) chooses between floats of 4 bits with 1, 2 and 3 bits of exponent.

use super::sensitivity::{sample, squared_error, stored};
use super::{PASS, Recipe, kept};
use crate::stats::inputs_of;
use crate::{Context, PassError};
use ir::uses::read_by_graphs;
use ir::weights::materialise;
use ir::{DType, Module, WeightId};
use std::borrow::Cow;

/// The context's recipe with one format in each rule; what was chosen for whom.
pub fn settle<'a>(
    module: &Module,
    context: &'a Context<'_>,
) -> Result<(Cow<'a, Recipe>, Vec<String>), PassError> {
    let open = open(module, &context.recipe);
    if open.is_empty() {
        return Ok((Cow::Borrowed(&context.recipe), vec![]));
    }
    let fail = |why: String| PassError { pass: PASS, why };
    let Some(lab) = context.lab else {
        let why = "which of a rule's formats loses least is what activations say: a calibration text \
                   is needed";
        return Err(fail(why.into()));
    };
    let sites: Vec<_> = open.iter().flat_map(|(id, _)| inputs_of(module, *id)).collect();
    let stats = lab.observe(module, &sites, true)?;
    let (mut recipe, mut log) = (context.recipe.clone(), vec![]);
    for (id, formats) in open {
        let weight = module.weight(id);
        let columns = weight.dims[1];
        let tensor = materialise(module, id, lab.blobs()).map_err(|e| fail(e.to_string()))?;
        let tensor = sample(tensor);
        let moments = stats.merged(&inputs_of(module, id));
        let losses = formats.iter().filter(|dtype| fits(**dtype, columns)).map(|&dtype| {
            (squared_error(&tensor, &stored(&tensor, dtype), moments.as_ref()), dtype)
        });
        let best = losses.min_by(|a, b| a.0.total_cmp(&b.0));
        // One that does not fit is refused like any other.
        let chosen = best.map_or(formats[0], |(_, dtype)| dtype);
        log.push(format!("${:<12} {chosen}", weight.name));
        recipe.rules.push((weight.name.clone(), vec![chosen]));
    }
    Ok((Cow::Owned(recipe), log))
}

/// Matrices with more than one format.
fn open(module: &Module, recipe: &Recipe) -> Vec<(WeightId, Vec<DType>)> {
    let read = read_by_graphs(module);
    let ids = (0..module.weights.len() as u32).map(WeightId);
    let one = |id: WeightId| {
        let weight = module.weight(id);
        let stored = read[id.0 as usize] && weight.dims.len() == 2;
        let free = stored && kept(weight, recipe).is_none();
        let formats = recipe.formats(&weight.name).filter(|f| free && f.len() > 1)?;
        Some((id, formats.to_vec()))
    };
    ids.filter_map(one).collect()
}

fn fits(dtype: DType, columns: u64) -> bool {
    !matches!(dtype, DType::Int(format) if !format.fits(columns))
}
