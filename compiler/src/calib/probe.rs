//! What the change of one weight does to the predictions.

use crate::predict::{PredictError, logits_of, mean_divergence};
use crate::progress;
use crate::watch::{Seen, Watchers};
use ir::{BlobError, Blobs, Module, Source, Tensor, WeightId};
use passes::stats::float_view;
use targets::Target;

/// Tokens of a window that are looked at: matrices are many.
const TOKENS: usize = 32;
/// Blob of the numbers that are tried.
const TRIED: &str = "probe.tried";

struct Tried<'a> {
    checkpoint: &'a dyn Blobs,
    tensor: Tensor,
}

impl Blobs for Tried<'_> {
    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        if blob == TRIED { Ok(self.tensor.clone()) } else { self.checkpoint.load(blob) }
    }
}

/// Mean divergence of the module in f32 from itself with one weight replaced, for each weight.
pub fn probe(
    module: &Module,
    blobs: &dyn Blobs,
    target: &Target,
    windows: &[Vec<i32>],
    threads: u32,
    weights: &[WeightId],
    replaced: &dyn Fn(WeightId) -> Result<Tensor, BlobError>,
) -> Result<Vec<f64>, PredictError> {
    let float = float_view(module);
    let windows: Vec<Vec<i32>> =
        windows.iter().map(|w| w[..w.len().min(TOKENS)].to_vec()).collect();
    let site = logits_of(&float);
    let mut watchers = Watchers::new(&float, blobs, target, &[site], threads)?;
    let logits = |_: usize, mut seen: Seen| seen.remove(&site).unwrap_or_default();
    let reference = watchers.run(&windows, logits)?;
    let bar = progress::steps("probing", weights.len() as u64);
    let mut found = vec![];
    for &id in weights {
        let mut changed = float.clone();
        let weight = &mut changed.weights[id.0 as usize];
        (weight.source, weight.via) = (Source::Blob(TRIED.into()), vec![]);
        let tried = Tried { checkpoint: blobs, tensor: replaced(id)? };
        watchers.repack_one(&changed, id, &tried)?;
        let logits = watchers.run(&windows, logits)?;
        found.push(mean_divergence(&reference, &logits, module.meta.vocab as usize));
        watchers.repack_one(&float, id, blobs)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(found)
}
