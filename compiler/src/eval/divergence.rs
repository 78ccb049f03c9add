//! How far the predictions of one compiled model are from another's, token by token.

use super::windows::Window;
use crate::host::Host;
use crate::progress;
use crate::session::Status;

/// Kullback-Leibler divergence of the reference from the model, in nats, over many tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// Tokens compared.
    pub count: usize,
    /// Mean.
    pub mean: f64,
    /// 99 of 100 tokens are below.
    pub percentile_99: f64,
    /// Largest.
    pub max: f64,
    /// Share of tokens for which both find the same token likeliest.
    pub agreement: f64,
}

/// Compares the predictions that count in `windows`, `most` of them.
pub fn divergence(
    model: &mut Host,
    reference: &mut Host,
    windows: &[Window],
    most: u64,
) -> Result<Divergence, Status> {
    let bar = progress::steps("comparing tokens", most);
    let (mut all, mut same) = (vec![], 0u64);
    'windows: for window in windows {
        let (start, rest) = window.tokens.split_at(window.first + 1);
        for host in [&mut *model, &mut *reference] {
            host.session.reset()?;
            host.session.prefill(start)?;
        }
        // What follows the last token of a window is not known: it is not predicted.
        for &token in rest {
            let (p, q) = (reference.session.logits(), model.session.logits());
            let (p, q) = (p.unwrap_or_default(), q.unwrap_or_default());
            all.push(kl(p, q));
            same += u64::from(best(p) == best(q));
            bar.inc(1);
            if all.len() as u64 == most {
                break 'windows;
            }
            model.session.decode(token)?;
            reference.session.decode(token)?;
        }
    }
    bar.finish_and_clear();
    all.sort_by(f64::total_cmp);
    let count = all.len();
    Ok(Divergence {
        count,
        mean: all.iter().sum::<f64>() / count as f64,
        percentile_99: all[(count - 1) * 99 / 100],
        max: all[count - 1],
        agreement: same as f64 / count as f64,
    })
}

/// `Σ p · ln(p / q)` of the distributions that two rows of logits stand for.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        log_p.exp() * (log_p - log_q)
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    most + logits.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
}

/// The likeliest token, the lowest of equals.
fn best(logits: &[f32]) -> usize {
    let better = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
    (0..logits.len()).reduce(better).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_nowhere_from_itself() {
        let logits = [0.5, -3.0, 2.0];
        assert_eq!(kl(&logits, &logits), 0.0);
        // Adding a constant to all logits changes nothing.
        assert!(kl(&logits, &logits.map(|x| x + 7.0)) < 1e-12);
    }

    #[test]
    fn divergence_is_the_sum_it_says() {
        let ln = |x: f64| x.ln() as f32;
        let (p, q) = ([ln(0.5), ln(0.5)], [ln(0.25), ln(0.75)]);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-7);
        assert_eq!([best(&p), best(&q)], [0, 1]);
    }
}
