//! Predictions of models for every token of a text, and how far two are from each other.

use crate::session::{StartError, Status};
use crate::watch::Watchers;
use ir::{BlobError, Blobs, Module};
use passes::stats::Site;
use rayon::prelude::*;
use targets::Target;

/// Logits of each window, `[tokens][vocab]`.
pub type Kept = Vec<Vec<f32>>;

/// A model that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// It does not compile, or its weights cannot be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It refused a window.
    #[error(transparent)]
    Refused(#[from] Status),
    /// A weight cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Where a module's logits are.
pub fn logits_of(module: &Module) -> Site {
    let graph = module.graph_named("head").expect("the verifier wants a head");
    Site { graph, value: module.graph(graph).result, call: 0 }
}

/// The logits of every token of each window.
pub fn predictions(
    module: &Module,
    blobs: &dyn Blobs,
    target: &Target,
    windows: &[Vec<i32>],
    threads: u32,
) -> Result<Kept, PredictError> {
    let site = logits_of(module);
    let mut watchers = Watchers::new(module, blobs, target, &[site], threads)?;
    Ok(watchers.run(windows, |_, mut seen| seen.remove(&site).unwrap_or_default())?)
}

/// Mean divergence in nats of `model` from `reference` over all tokens.
pub fn mean_divergence(reference: &Kept, model: &Kept, vocab: usize) -> f64 {
    let rows = |kept: &Kept| kept.iter().map(|w| w.len() / vocab).sum::<usize>();
    let window = |(p, q): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let rows = p.par_chunks(vocab).zip(q.par_chunks(vocab));
        // Collected, so that the sum has one order.
        let each: Vec<f64> = rows.map(|(p, q)| divergence(p, q)).collect();
        each.iter().sum()
    };
    let total: f64 = reference.iter().zip(model).map(window).sum();
    total / rows(reference).max(1) as f64
}

/// Perplexity of the tokens of each window but the first.
pub fn perplexity(kept: &Kept, windows: &[Vec<i32>], vocab: usize) -> f64 {
    let window = |(logits, tokens): (&Vec<f32>, &Vec<i32>)| -> Vec<f64> {
        let rows = logits.par_chunks(vocab).zip(&tokens[1..]);
        rows.map(|(row, &next)| log_sum_exp(row) - f64::from(row[next as usize])).collect()
    };
    let losses: Vec<f64> = kept.iter().zip(windows).flat_map(window).collect();
    (losses.iter().sum::<f64>() / losses.len().max(1) as f64).exp()
}

/// `Σ p · ln(p / q)` of the distributions that two rows of logits stand for.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        log_p.exp() * (log_p - log_q)
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// `ln Σ exp` of a row of logits.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    most + logits.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
}
