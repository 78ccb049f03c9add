//! The sampler in plain Rust: sorts everything, does one step after the other, and is what the
//! emitted one must agree with to the token.

use super::weight::{
    ONE,
    reference::{clean, weight},
};
use std::cmp::Reverse;

/// `NAME_sampling`, as a caller fills it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Sampling {
    /// Bytes of this structure.
    pub size: u32,
    /// Candidates to keep, 0 for all.
    pub top_k: u32,
    /// Seed of the generator.
    pub seed: u64,
    /// 0 for greedy.
    pub temperature: f32,
    /// Probability to reach, 0 or 1 for off.
    pub top_p: f32,
    /// Share of the best, 0 for off.
    pub min_p: f32,
    /// Divisor, 0 or 1 for off.
    pub repeat_penalty: f32,
    /// Per occurrence, 0 for off.
    pub frequency_penalty: f32,
    /// For any occurrence, 0 for off.
    pub presence_penalty: f32,
    /// Tokens looked back on, 0 for all.
    pub penalty_window: u32,
}

/// SplitMix64 as the state holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generator {
    /// The seed.
    pub seed: u64,
    /// Draws taken.
    pub draws: u64,
}

impl Generator {
    /// A number in [0, 1); `seed`, if it is another one than before, starts anew.
    pub fn draw(&mut self, seed: Option<u64>) -> f64 {
        if let Some(seed) = seed.filter(|s| *s != self.seed) {
            *self = Generator { seed, draws: 0 };
        }
        self.draws = self.draws.wrapping_add(1);
        let z = self.seed.wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = z ^ (z >> 31);
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The token that `how` and a number `u` in [0, 1) choose.
pub fn choose(logits: &[f32], history: &[i32], how: &Sampling, u: f64) -> i32 {
    let logits: Vec<f32> = penalise(logits, history, how).into_iter().map(clean).collect();
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if how.temperature == 0.0 {
        return tokens[0] as i32;
    }
    if how.top_k > 0 {
        tokens.truncate(how.top_k as usize);
    }
    let max = logits[tokens[0]];
    let at = |t: &usize, inverse: f32| weight(logits[*t], max, inverse);
    if how.top_p > 0.0 && how.top_p < 1.0 {
        let all: i64 = tokens.iter().map(|t| at(t, 1.0)).sum();
        let enough = f64::from(how.top_p) * all as f64;
        let reached = tokens.iter().scan(0, |sum, t| {
            *sum += at(t, 1.0);
            Some(*sum as f64)
        });
        let short = reached.take_while(|sum| *sum < enough).count();
        tokens.truncate(short + 1);
    }
    let least = f64::from(how.min_p) * f64::from(ONE);
    tokens.retain(|t| at(t, 1.0) as f64 >= least);

    let inverse = (1.0 / how.temperature).min(f32::MAX);
    let all: i64 = tokens.iter().map(|t| at(t, inverse)).sum();
    let target = ((u * all as f64) as i64).min(all - 1);
    let mut sum = 0;
    let chosen = tokens.iter().find(|t| {
        sum += at(t, inverse);
        sum > target
    });
    *chosen.expect("the sum of all is above the target") as i32
}

fn penalise(logits: &[f32], history: &[i32], how: &Sampling) -> Vec<f32> {
    let mut penalised = logits.to_vec();
    let repeat = if how.repeat_penalty == 0.0 { 1.0 } else { how.repeat_penalty };
    if repeat == 1.0 && how.frequency_penalty == 0.0 && how.presence_penalty == 0.0 {
        return penalised;
    }
    let window = match how.penalty_window as usize {
        0 => history.len(),
        n => n.min(history.len()),
    };
    let mut seen = history[history.len() - window..].to_vec();
    seen.sort_by_key(|t| Reverse(*t));
    for run in seen.chunk_by(|a, b| a == b) {
        let l = &mut penalised[run[0] as usize];
        *l = if *l > 0.0 { *l / repeat } else { *l * repeat };
        *l = *l - how.frequency_penalty * run.len() as f32 - how.presence_penalty;
    }
    penalised
}
