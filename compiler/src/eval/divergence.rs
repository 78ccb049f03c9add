//! How far the predictions of one compiled model are from another's, token by token.

use super::windows::Window;
use crate::Error;
use crate::host::{refused, start_error};
use crate::model::Model;
use crate::predict::{divergence as kl, log_sum_exp, logits_of};
use crate::progress;
use crate::session::Status;
use crate::spread::spread;
use crate::watch::Watched;
use passes::stats::Site;
use serde_json::{Value, json};
use targets::Target;

/// Upper ends of the buckets of confidence.
const BUCKETS: [f64; 5] = [0.01, 0.1, 0.5, 0.9, 1.0];
/// Tokens whose logits are in memory at a time.
const STRIDE: usize = 64;

/// Predictions of a model compared with those of a reference, over many tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// Tokens compared.
    pub count: usize,
    /// Mean of the Kullback-Leibler divergence of the model from the reference, in nats.
    pub mean: f64,
    /// 99 of 100 tokens are below.
    pub percentile_99: f64,
    /// Largest.
    pub max: f64,
    /// Share of tokens for which both find the same token likeliest.
    pub agreement: f64,
    /// By the probability that the reference gives to the token that follows.
    pub buckets: Vec<Bucket>,
}

/// Tokens of which the reference is about as sure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// The reference's probability of the next token is below, or 1.
    pub below: f64,
    /// Tokens.
    pub count: usize,
    /// Mean probability that the reference gives to the next token.
    pub reference: f64,
    /// Mean probability that the model gives to it.
    pub model: f64,
    /// Mean divergence.
    pub kl: f64,
    /// Share of tokens with another likeliest token.
    pub flips: f64,
}

/// One token.
#[derive(Clone, Copy, Debug)]
struct Compared {
    kl: f64,
    same: bool,
    reference: f64,
    model: f64,
}

/// A model that gives the logits of every token.
pub struct Predictor {
    watched: Watched,
    logits: Site,
}

impl Predictor {
    /// Compiles a prepared model.
    pub fn new(model: &Model, target: &Target) -> Result<Predictor, Error> {
        let logits = logits_of(&model.module);
        let watched = Watched::new(&model.module, &model.blobs, target, &[logits], 1);
        Ok(Predictor { watched: watched.map_err(|e| start_error(e, &model.path))?, logits })
    }

    /// A new conversation.
    fn reset(&mut self) -> Result<(), Status> {
        self.watched.reset()
    }

    /// Logits of each of `tokens`, `[tokens][vocab]`.
    fn run(&mut self, tokens: &[i32]) -> Result<Vec<f32>, Status> {
        Ok(self.watched.run(tokens)?.remove(&self.logits).unwrap_or_default())
    }
}

/// A model and what it is compared with, one conversation each.
pub struct Pair {
    /// The model.
    pub model: Predictor,
    /// What it should be like.
    pub reference: Predictor,
}

/// Compares the predictions that count in `windows`, `most` of them; pairs take a window each.
pub fn divergence(
    pairs: &mut [Pair],
    windows: &[Window],
    most: usize,
) -> Result<Divergence, Error> {
    let mut counted = 0;
    let windows: Vec<&Window> = windows
        .iter()
        .take_while(|window| {
            let before = counted;
            counted += window.tokens.len() - 1 - window.first;
            before < most
        })
        .collect();
    let bar = progress::steps("comparing windows", windows.len() as u64);
    let compared = spread(pairs, windows.len(), |pair, at| {
        bar.inc(1);
        compare(pair, windows[at])
    });
    bar.finish_and_clear();
    let mut all = compared.map_err(refused)?.concat();
    all.truncate(most);
    Ok(summary(&all))
}

fn compare(pair: &mut Pair, window: &Window) -> Result<Vec<Compared>, Status> {
    let Pair { model, reference } = pair;
    model.reset()?;
    reference.reset()?;
    let mut all = vec![];
    for (piece, tokens) in window.tokens.chunks(STRIDE).enumerate() {
        let (p, q) = (reference.run(tokens)?, model.run(tokens)?);
        let vocab = p.len() / tokens.len();
        let at = piece * STRIDE;
        // What follows the last token of a window is not known: it is not predicted.
        let next = &window.tokens[at + 1..window.tokens.len().min(at + STRIDE + 1)];
        let rows = p.chunks(vocab).zip(q.chunks(vocab)).zip(next).enumerate();
        let counted = rows.filter(|(i, _)| at + i >= window.first);
        all.extend(counted.map(|(_, ((p, q), &next))| token(p, q, next as usize)));
    }
    Ok(all)
}

fn token(p: &[f32], q: &[f32], next: usize) -> Compared {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let probability = |logits: &[f32], norm: f64| (f64::from(logits[next]) - norm).exp();
    Compared {
        kl: kl(p, q),
        same: best(p) == best(q),
        reference: probability(p, p_norm),
        model: probability(q, q_norm),
    }
}

/// The likeliest token, the lowest of equals.
fn best(logits: &[f32]) -> usize {
    let better = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
    (0..logits.len()).reduce(better).unwrap_or(0)
}

fn summary(all: &[Compared]) -> Divergence {
    let mut sorted: Vec<f64> = all.iter().map(|c| c.kl).collect();
    sorted.sort_by(f64::total_cmp);
    let count = all.len();
    let mut from = 0.0;
    let buckets = BUCKETS.map(|below| {
        let inside = |c: &&Compared| c.reference >= from && (c.reference < below || below == 1.0);
        let bucket = bucket(below, &all.iter().filter(inside).copied().collect::<Vec<_>>());
        from = below;
        bucket
    });
    Divergence {
        count,
        mean: sorted.iter().sum::<f64>() / count as f64,
        percentile_99: sorted[(count - 1) * 99 / 100],
        max: sorted[count - 1],
        agreement: all.iter().filter(|c| c.same).count() as f64 / count as f64,
        buckets: buckets.into_iter().filter(|b| b.count > 0).collect(),
    }
}

fn bucket(below: f64, inside: &[Compared]) -> Bucket {
    let mean =
        |of: fn(&Compared) -> f64| inside.iter().map(of).sum::<f64>() / inside.len().max(1) as f64;
    Bucket {
        below,
        count: inside.len(),
        reference: mean(|c| c.reference),
        model: mean(|c| c.model),
        kl: mean(|c| c.kl),
        flips: mean(|c| f64::from(u8::from(!c.same))),
    }
}

impl Divergence {
    /// Lines for a person.
    pub fn text(&self) -> String {
        let mut text = format!(
            "KL divergence    mean {:.6}, 99 % below {:.6}, at most {:.6}\n\
             same best token  {:.2} %\n\
             confidence on the token that follows:\n\
             \x20 reference    tokens  reference   model       KL   flips\n",
            self.mean,
            self.percentile_99,
            self.max,
            self.agreement * 100.0,
        );
        for b in &self.buckets {
            text += &format!(
                "  below {:<5}  {:>6}     {:.4}  {:.4}  {:.5}  {:>4.1} %\n",
                b.below,
                b.count,
                b.reference,
                b.model,
                b.kl,
                b.flips * 100.0,
            );
        }
        text
    }

    /// The same for a machine.
    pub fn json(&self) -> Value {
        let bucket = |b: &Bucket| {
            json!({
                "below": b.below, "tokens": b.count, "reference": b.reference, "model": b.model,
                "kl_mean": b.kl, "flips": b.flips,
            })
        };
        json!({
            "tokens": self.count,
            "kl_mean": self.mean,
            "kl_p99": self.percentile_99,
            "kl_max": self.max,
            "top1_agreement": self.agreement,
            "confidence": self.buckets.iter().map(bucket).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_nowhere_from_itself() {
        let logits = [0.5, -3.0, 2.0];
        assert_eq!(token(&logits, &logits, 1).kl, 0.0);
        // Adding a constant to all logits changes nothing.
        assert!(token(&logits, &logits.map(|x| x + 7.0), 1).kl < 1e-12);
    }

    #[test]
    fn divergence_is_the_sum_it_says() {
        let ln = |x: f64| x.ln() as f32;
        let (p, q) = ([ln(0.5), ln(0.5)], [ln(0.25), ln(0.75)]);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        let found = token(&p, &q, 1);
        assert!((found.kl - expected).abs() < 1e-7);
        assert!((found.reference - 0.5).abs() < 1e-7 && (found.model - 0.75).abs() < 1e-7);
        assert!(!found.same);
    }

    #[test]
    fn every_token_is_in_one_bucket() {
        let one = |reference| Compared { kl: 0.5, same: reference > 0.5, reference, model: 0.25 };
        let all = [0.0, 0.005, 0.01, 0.3, 0.95, 1.0].map(one);
        let found = summary(&all);
        let counts: Vec<(f64, usize)> = found.buckets.iter().map(|b| (b.below, b.count)).collect();
        assert_eq!(counts, [(0.01, 2), (0.1, 1), (0.5, 1), (1.0, 2)]);
        assert_eq!((found.buckets[0].flips, found.buckets[3].flips), (1.0, 0.0));
        assert_eq!(found.mean, 0.5);
    }
}
