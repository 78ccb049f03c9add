//! Rotations learned for a module as it is rounded: R1 and R2 go down the gradient of how far the
//! predictions of the rounded network are from those of the model as it was.
//!
//! # What
//! Weights stay as they are, rotations change. A rounded number is the exact one and an error, which is
//! a share of the grid's step; gradients go through rounding to the rows before, and to the step, which
//! is in proportion to the range of its group. Rotations learn from ranges alone: an error that is
//! held as it is has no direction on average, and what a rotation makes of it is noise. Steps go
//! along the orthogonal matrices, and each ends on one.
//!
//! # Why it is exact (or how far off)
//! Any rotation is exact; these are orthogonal to f32.
//!
//! # Requires
//! A module whose rotations are Hadamard matrices with random signs (`rotate`), which is where learning
//! starts, and no factors after them.
//!
//! # Paper
//! SpinQuant (arXiv 2405.16406) with its Cayley SGD, but for gradients by ranges, as in LSQ
//! (1902.08153); the loss is that of LLM-QAT (2305.17888), which says more about a token than the text
//! does.

mod cayley;
mod ops;
mod tape;
mod weights;

use crate::PassError;
use crate::stats::float_view;
use ir::{Blobs, Module, Tensor};
use tape::Tape;
use weights::Weights;

const PASS: &str = "learn";

/// How rotations are learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learning {
    /// Steps.
    pub steps: usize,
    /// By how much the first step turns a channel at most, in radians; the last is next to nothing,
    /// along a cosine.
    pub rate: f64,
}

/// Rotations by name.
pub type Learned = Vec<(String, Tensor)>;

/// Learns the rotations of `module` on `windows`, one a step, by the predictions of `original`.
/// `begun` are rotations of an earlier run and its steps; `seen` hears of each step: its number, its
/// loss in nats, and the rotations after it.
pub fn learn(
    module: &Module,
    original: &Module,
    blobs: &dyn Blobs,
    windows: &[Vec<i32>],
    how: Learning,
    begun: Option<(usize, Learned)>,
    seen: &mut dyn FnMut(usize, f64, &Learned),
) -> Result<Learned, PassError> {
    let fail = |why: String| PassError { pass: PASS, why };
    let original = float_view(original);
    let aims: Vec<Vec<f32>> = {
        let weights = Weights::new(&original, blobs, false).map_err(|e| fail(e.to_string()))?;
        windows.iter().map(|tokens| Tape::new(&original, tokens).run(&weights).0).collect()
    };
    let mut weights = Weights::new(module, blobs, true).map_err(|e| fail(e.to_string()))?;
    if weights.rotations.is_empty() {
        return Err(fail("there is no rotation to learn; --rotations r1, r2 or both".into()));
    }
    let mut first = 0;
    if let Some((steps, rotations)) = begun {
        first = steps;
        for (rotation, (_, tensor)) in weights.rotations.iter_mut().zip(rotations) {
            rotation.matrix = tensor.data;
        }
        weights.turn();
    }
    let vocab = module.meta.vocab as usize;
    for step in first..how.steps {
        let at = step % windows.len();
        let tape = Tape::new(module, &windows[at]);
        let (logits, frames) = tape.run(&weights);
        let (loss, gradient) = ops::divergence(&aims[at], &logits, vocab);
        tape.back(&mut weights, &frames, gradient);
        let done = step as f64 / how.steps as f64;
        let rate = how.rate * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0;
        for rotation in &mut weights.rotations {
            cayley::step(&mut rotation.matrix, &rotation.gradient, rotation.order, rate);
            rotation.gradient.fill(0.0);
        }
        weights.turn();
        seen(step, loss, &learned(&weights));
    }
    Ok(learned(&weights))
}

fn learned(weights: &Weights) -> Learned {
    let tensor =
        |r: &weights::Rotation| Tensor { dims: vec![r.order as u64; 2], data: r.matrix.clone() };
    weights.rotations.iter().map(|r| (r.name.clone(), tensor(r))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, fold_norms, rotate, simulate};
    use ir::DType;
    use ir::sample::{Sample, Seeded};

    fn turned(rows: Option<u8>) -> (Module, Module, Seeded) {
        let sample =
            Sample { bias: true, inner: 32, head: 16, dtype: DType::F32, ..Sample::default() };
        let original = sample.module().expect("a valid sample");
        let blobs = Seeded::new(&original, 3);
        let mut module = original.clone();
        let simulate = Some(simulate::Simulation { rows, ..Default::default() });
        let context = Context { simulate, blobs: Some(&blobs), ..Context::default() };
        fold_norms::run(&mut module, &context).expect("norms fold");
        rotate::run(&mut module, &context).expect("it turns");
        if rows.is_some() {
            simulate::run(&mut module, &context).expect("rows are f32");
        }
        (module, original, blobs)
    }

    fn tokens() -> Vec<i32> {
        (0..24).map(|i| (i * 7) % 48).collect()
    }

    #[test]
    fn gradients_by_turned_rows_are_differences() {
        let (module, _, blobs) = turned(None);
        let mut weights = Weights::new(&module, &blobs, true).expect("weights");
        let n = weights.rotations[0].order;
        let x: Vec<f32> = (0..3 * n).map(|i| ((i * 29) % 31) as f32 * 0.1 - 1.5).collect();
        let slope: Vec<f32> = (0..3 * n).map(|i| ((i * 13) % 7) as f32 - 3.0).collect();
        let turned = |weights: &Weights| {
            ops::product(ops::view(&x, n), ops::view(&weights.rotations[0].matrix, n))
        };
        let value = |weights: &Weights| -> f32 {
            turned(weights).iter().zip(&slope).map(|(y, s)| y * s).sum()
        };
        let rows = turned(&weights);
        weights.back_rows(0, &rows, &slope);
        for at in [0, 5, n + 3, n * n - 1] {
            let before = value(&weights);
            weights.rotations[0].matrix[at] += 0.5;
            let found = (value(&weights) - before) / 0.5;
            weights.rotations[0].matrix[at] -= 0.5;
            let expected = weights.rotations[0].gradient[at];
            assert!((found - expected).abs() < 1e-2, "{at}: {found}, not {expected}");
        }
    }

    #[test]
    fn an_exact_model_has_nothing_to_lose() {
        let (module, original, blobs) = turned(None);
        let how = Learning { steps: 3, rate: 0.1 };
        let mut seen = |_, loss: f64, _: &Learned| assert!(loss.abs() < 1e-6, "{loss}");
        learn(&module, &original, &blobs, &[tokens()], how, None, &mut seen).expect("it learns");
    }

    #[test]
    fn a_run_that_was_cut_short_goes_on_to_the_same_end() {
        let (module, original, blobs) = turned(Some(4));
        let windows = [tokens(), tokens()[3..].to_vec()];
        let how = Learning { steps: 6, rate: 0.1 };
        let mut half = None;
        let mut keep = |step, _, learned: &Learned| {
            if step == 2 {
                half = Some((3, learned.clone()));
            }
        };
        let whole = learn(&module, &original, &blobs, &windows, how, None, &mut keep);
        let rest = learn(&module, &original, &blobs, &windows, how, half, &mut |_, _, _| {});
        assert_eq!(whole.expect("it learns"), rest.expect("it goes on"));
    }
}
