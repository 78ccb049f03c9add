//! Rotations learned for a module as it is rounded: R1 and R2 go down the gradient of how far the
//! predictions of the rounded network are from those of the model as it was.
//!
//! # What
//! Weights stay as they are, rotations change. A rounded number is the exact one and an error, which is
//! a share of the grid's step; gradients go through rounding to the rows before, and to the step, which
//! is in proportion to the range of its group. Rotations learn from ranges alone: an error that is
//! held as it is has no direction on average, and what a rotation makes of it is noise. Each step runs
//! the network once, for what a unit of squared range costs at each place where rows are rounded, and
//! then turns the rotations several times down the cost of the rows' ranges. Turns go along the orthogonal
//! matrices, and each ends on one. Rounding is chaotic, so of all rotations on the way, those are kept
//! that lose least on text that gradients have not seen.
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
    /// By how much each of the turns of the first step turns a channel at most, in radians; the last is
    /// next to nothing, along a cosine.
    pub rate: f64,
}

/// Turns of a step. The rows that the network gives hardly change with its rotations, so they serve for
/// several.
const TURNS: usize = 8;

/// Rotations by name.
pub type Learned = Vec<(String, Tensor)>;

/// A text: windows to fit to, one a step, and windows to choose by.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// What gradients are of.
    pub fitted: &'a [Vec<i32>],
    /// What decides which rotations are kept.
    pub held: &'a [Vec<i32>],
}

/// Learning, so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Steps done.
    pub steps: usize,
    /// Rotations after them.
    pub now: Learned,
    /// Rotations that lost least on the text held back, the first ones among them.
    pub best: Learned,
    /// What those lost, in nats.
    pub least: f64,
}

/// What there is to say of a step.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Learning, so far.
    pub run: &'a Run,
    /// What the window of the step lost before it, in nats.
    pub loss: f64,
    /// What the text held back loses after it, where that was looked at.
    pub held: Option<f64>,
}

/// Steps after which rotations are compared on the text held back.
pub const CHECK: usize = 6;

/// Learns the rotations of `module` by the predictions of `original`; those of all that were compared
/// that lose least. `begun` is an earlier run, which goes on; `seen` hears of each step.
pub fn learn(
    module: &Module,
    original: &Module,
    blobs: &dyn Blobs,
    texts: Texts<'_>,
    how: Learning,
    begun: Option<Run>,
    seen: &mut dyn FnMut(Seen<'_>),
) -> Result<Learned, PassError> {
    let fail = |why: String| PassError { pass: PASS, why };
    let original = float_view(original);
    let exact = Weights::new(&original, blobs, false).map_err(|e| fail(e.to_string()))?;
    let aimed = |windows| Aimed::new(module, windows, &original, &exact);
    let (fitted, held) = (aimed(texts.fitted), aimed(texts.held));
    drop(exact);
    let mut weights = Weights::new(module, blobs, true).map_err(|e| fail(e.to_string()))?;
    if weights.rotations.is_empty() {
        return Err(fail("there is no rotation to learn; --rotations r1, r2 or both".into()));
    }
    let mut run = match begun {
        Some(run) => {
            weights.take(&run.now);
            run
        }
        None => {
            let (now, least) = (learned(&weights), held.loss(&weights));
            Run { steps: 0, best: now.clone(), now, least }
        }
    };
    while run.steps < how.steps {
        let loss = fitted.back(run.steps % fitted.aims.len(), &mut weights);
        descend(&mut weights, |turn| {
            let done = (run.steps as f64 + turn) / how.steps as f64;
            how.rate * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
        });
        weights.turn();
        run.steps += 1;
        run.now = learned(&weights);
        let check = run.steps.is_multiple_of(CHECK) || run.steps == how.steps;
        let held = check.then(|| held.loss(&weights));
        if let Some(least) = held.filter(|held| *held < run.least) {
            (run.least, run.best) = (least, run.now.clone());
        }
        seen(Seen { run: &run, loss, held });
    }
    Ok(run.best)
}

/// Windows, and what the model as it was predicts for each.
struct Aimed<'a> {
    module: &'a Module,
    windows: &'a [Vec<i32>],
    aims: Vec<Vec<f32>>,
}

impl<'a> Aimed<'a> {
    fn new(
        module: &'a Module,
        windows: &'a [Vec<i32>],
        original: &Module,
        exact: &Weights,
    ) -> Aimed<'a> {
        let aims = windows.iter().map(|tokens| Tape::new(original, tokens).run(exact).0).collect();
        Aimed { module, windows, aims }
    }

    /// Goes forwards and back over a window; what it loses, in nats.
    fn back(&self, at: usize, weights: &mut Weights) -> f64 {
        let tape = Tape::new(self.module, &self.windows[at]);
        let (logits, frames) = tape.run(weights);
        let (loss, gradient) = ops::divergence(&self.aims[at], &logits, self.vocab());
        tape.back(weights, &frames, gradient);
        loss
    }

    /// What all windows lose on average, in nats.
    fn loss(&self, weights: &Weights) -> f64 {
        let losses = self.windows.iter().zip(&self.aims).map(|(tokens, aim)| {
            let (logits, _) = Tape::new(self.module, tokens).run(weights);
            ops::divergence(aim, &logits, self.vocab()).0
        });
        losses.sum::<f64>() / self.windows.len().max(1) as f64
    }

    fn vocab(&self) -> usize {
        self.module.meta.vocab as usize
    }
}

/// Turns the rotations down the cost of ranges, of the rows that the way back has passed; what it says
/// of matrices stays as it is meanwhile. `rate` is asked with the share of the step that is done.
fn descend(weights: &mut Weights, rate: impl Fn(f64) -> f64) {
    let of_matrices: Vec<Vec<f32>> =
        weights.rotations.iter_mut().map(|r| std::mem::take(&mut r.gradient)).collect();
    for turn in 0..TURNS {
        for (rotation, start) in weights.rotations.iter_mut().zip(&of_matrices) {
            rotation.gradient.clone_from(start);
        }
        weights.back_sites();
        let rate = rate(turn as f64 / TURNS as f64);
        for rotation in &mut weights.rotations {
            cayley::step(&mut rotation.matrix, &rotation.gradient, rotation.order, rate);
        }
    }
    weights.rotations.iter_mut().for_each(|rotation| rotation.gradient.fill(0.0));
    weights.sites.clear();
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
    use ir::sample::{Sample, Seeded};
    use ir::{DType, Levels};

    fn turned(rows: Option<Levels>) -> (Module, Module, Seeded) {
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
    fn gradients_by_ranges_are_differences() {
        let (module, _, blobs) = turned(None);
        let mut weights = Weights::new(&module, &blobs, true).expect("weights");
        let n = weights.rotations[0].order;
        let x: Vec<f32> = (0..3 * n).map(|i| ((i * 29) % 31) as f32 * 0.1 - 1.5).collect();
        weights.see(0, &x, n, 0.25);
        // Half the price times the squared range of each row.
        let cost = |weights: &Weights| -> f32 {
            let (site, matrix) = (&weights.sites[0], &weights.rotations[0].matrix);
            let rows = ops::product(ops::view(&site.rows, n), ops::view(matrix, n));
            let range = |row: &[f32]| {
                let (low, high) = weights::ends(row);
                row[high] - row[low]
            };
            rows.chunks(n).map(|row| 0.125 * range(row).powi(2)).sum()
        };
        weights.back_sites();
        for at in [0, 5, n + 3, n * n - 1] {
            let mut ends = [0.01, -0.01].map(|by| {
                weights.rotations[0].matrix[at] += by;
                let cost = cost(&weights);
                weights.rotations[0].matrix[at] -= by;
                cost
            });
            ends[0] -= ends[1];
            let (found, expected) = (ends[0] / 0.02, weights.rotations[0].gradient[at]);
            assert!((found - expected).abs() < 2e-2, "{at}: {found}, not {expected}");
        }
    }

    #[test]
    fn an_exact_model_has_nothing_to_lose() {
        let (module, original, blobs) = turned(None);
        let how = Learning { steps: 3, rate: 0.1 };
        let windows = [tokens()];
        let texts = Texts { fitted: &windows, held: &windows };
        let mut seen = |seen: Seen<'_>| assert!(seen.loss.abs() < 1e-6, "{}", seen.loss);
        learn(&module, &original, &blobs, texts, how, None, &mut seen).expect("it learns");
    }

    #[test]
    fn a_run_that_was_cut_short_goes_on_to_the_same_end() {
        let (module, original, blobs) = turned(Some(Levels::Even(4)));
        let windows = [tokens(), tokens()[3..].to_vec()];
        let texts = Texts { fitted: &windows, held: &windows[..1] };
        let how = Learning { steps: 8, rate: 0.1 };
        let mut half = None;
        let mut keep = |seen: Seen<'_>| {
            if seen.run.steps == 3 {
                half = Some(seen.run.clone());
            }
        };
        let whole = learn(&module, &original, &blobs, texts, how, None, &mut keep);
        let rest = learn(&module, &original, &blobs, texts, how, half, &mut |_| {});
        assert_eq!(whole.expect("it learns"), rest.expect("it goes on"));
    }

    #[test]
    fn nothing_that_loses_more_than_the_start_is_kept() {
        let (module, original, blobs) = turned(Some(Levels::Even(4)));
        let windows = [tokens(), tokens()[3..].to_vec()];
        let texts = Texts { fitted: &windows[1..], held: &windows[..1] };
        for rate in [0.02, 0.3] {
            let how = Learning { steps: 2 * CHECK, rate };
            let (mut losses, mut least) = (vec![], f64::INFINITY);
            let mut note = |seen: Seen<'_>| {
                losses.extend(seen.held);
                least = seen.run.least;
            };
            learn(&module, &original, &blobs, texts, how, None, &mut note).expect("it learns");
            assert_eq!(losses.len(), 2, "two checks");
            assert!(losses.iter().all(|loss| least <= *loss), "{least} of {losses:?}");
        }
    }
}
