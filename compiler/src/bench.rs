//! `ingot bench`: how fast the compiled model is, and how close to what the machine can do.

mod figures;
mod profile;

use crate::Error;
use crate::arithmetic::int8_peak;
use crate::bandwidth::Probe;
use crate::host::{self, Host, HostFlags, refused};
use crate::output;
use crate::progress;
use crate::session::{Sampling, Session, Status};
use clap::Args;
use figures::Figures;
use ir::random::mix;
use profile::Profile;
use serde_json::{Value, json};
use std::time::Instant;

const EXAMPLES: &str = "\
Every row is the median of the measurements, with the fastest and the slowest. Decoding also shows
the bytes it reads per second, and their share of what the machine itself can read.

Examples:
  ingot bench model.gguf --threads 1
  ingot bench SmolLM2-135M --depth 0,512,2048 --context 4096 --json";

/// Flags of `bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BenchFlags {
    /// The model and its code
    #[command(flatten)]
    pub host: HostFlags,
    /// Tokens of the prompt; 0 leaves prefill out
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub prefill: u32,
    /// Tokens generated; 0 leaves decode out
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub decode: u32,
    /// Tokens in the context before each measurement; a table has a row for each of several, a profile
    /// shows the last
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<u32>,
    /// Measurements; the median counts
    #[arg(
        long, value_name = "R", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub repeat: u32,
    /// Show where the time goes, step by step
    #[arg(long)]
    pub profile: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl BenchFlags {
    /// The largest depth.
    fn deepest(&self) -> u32 {
        self.depth.iter().copied().max().unwrap_or(0)
    }
}

/// Tokens of the prompt whose first answer is timed.
const FIRST_PROMPT: u32 = 8;

/// Runs `ingot bench`.
pub fn bench(flags: &BenchFlags) -> Result<(), Error> {
    let mut host = host::start(&flags.host)?;
    check_lengths(flags, &host)?;
    let probe = Probe::new(host.threads)
        .map_err(|e| Error::new("IG0602", "no memory to measure bandwidth").note(e.to_string()))?;
    let tokens = random_tokens(flags, &host);
    let before = probe.measure();
    let times = measure(&mut host.session, &tokens, flags).map_err(refused)?;
    let after = probe.measure();
    let int8_peak = int8_peak(&flags.host.model.host_target()?, host.threads);
    let figures = Figures::new(flags, &host, &times, [before, after], int8_peak);
    let profiles = if flags.profile { profile::profile(flags, &tokens)? } else { vec![] };
    if flags.json {
        let mut json = figures.json(flags, &host);
        json["profile"] = profiles.iter().map(Profile::json).collect();
        return output::json(&json);
    }
    let tables = profiles.iter().map(|p| format!("\n{}", p.text()));
    output::print(&(figures.text(flags, &host) + &tables.collect::<String>()))
}

fn check_lengths(flags: &BenchFlags, host: &Host) -> Result<(), Error> {
    if flags.profile && flags.prefill == 0 && flags.decode == 0 {
        return Err(Error::new("IG0401", "--profile, and nothing to look at")
            .help("leave --prefill or --decode above 0"));
    }
    let context = host.model.module.meta.context;
    let longest = u64::from(flags.prefill.max(flags.decode)) + u64::from(flags.deepest());
    if longest.max(FIRST_PROMPT.into()) <= context {
        return Ok(());
    }
    Err(Error::new("IG0401", "the measurement does not fit the context")
        .note(format!("{longest} tokens, depth included; the context holds {context}"))
        .help("choose smaller --prefill, --decode and --depth, or a larger --context"))
}

/// One after the other from SplitMix64, so that a seed means the same everywhere.
fn random_tokens(flags: &BenchFlags, host: &Host) -> Vec<i32> {
    let count = (flags.prefill.max(flags.decode) + flags.deepest()).max(FIRST_PROMPT);
    let vocab = host.model.module.meta.vocab;
    let mut state = flags.host.model.transforms.seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(state) % vocab) as i32
    };
    (0..count).map(|_| next()).collect()
}

/// Seconds of each measurement, sorted.
struct Times {
    /// Of a prompt and of decoding, at each depth.
    at: Vec<[Vec<f64>; 2]>,
    first: Vec<f64>,
}

fn measure(session: &mut Session, tokens: &[i32], flags: &BenchFlags) -> Result<Times, Status> {
    let steps = (u64::from(flags.repeat) + 1) * flags.depth.len() as u64;
    let bar = progress::steps("measuring", steps);
    let mut times = Times { at: vec![Default::default(); flags.depth.len()], first: vec![] };
    for round in 0..=flags.repeat {
        // The first round warms caches, pages and clocks up.
        let counts = round > 0;
        let first = timed(|| first_token(session, &tokens[..FIRST_PROMPT as usize]))?;
        times.first.extend(counts.then_some(first));
        for (depth, kept) in flags.depth.iter().zip(&mut times.at) {
            let found = at_depth(session, tokens, *depth, flags)?;
            kept.iter_mut().zip(found).for_each(|(kept, time)| kept.extend(counts.then_some(time)));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    for list in times.at.iter_mut().flatten().chain([&mut times.first]) {
        list.sort_by(f64::total_cmp);
    }
    Ok(times)
}

/// Seconds of a prompt and of decoding with so many tokens in the context.
fn at_depth(
    session: &mut Session,
    tokens: &[i32],
    depth: u32,
    flags: &BenchFlags,
) -> Result<[f64; 2], Status> {
    let (before, after) = tokens.split_at(depth as usize);
    let (prompt, generated) = (&after[..flags.prefill as usize], &after[..flags.decode as usize]);
    session.reset()?;
    if depth > 0 {
        session.prefill(before)?;
    }
    let prefill = timed(|| if prompt.is_empty() { Ok(()) } else { session.prefill(prompt) })?;
    session.truncate(depth)?;
    let decode = timed(|| generated.iter().try_for_each(|&token| session.decode(token)))?;
    Ok([prefill, decode])
}

fn timed(mut run: impl FnMut() -> Result<(), Status>) -> Result<f64, Status> {
    let began = Instant::now();
    run().map(|()| began.elapsed().as_secs_f64())
}

fn first_token(session: &mut Session, prompt: &[i32]) -> Result<(), Status> {
    session.reset()?;
    session.prefill(prompt)?;
    session.sample(&Sampling::default()).map(|_| ())
}

/// Median, smallest and largest of the measurements.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `figure` of each time; `times` are sorted.
    fn of(times: &[f64], figure: impl Fn(f64) -> f64) -> Spread {
        let middle = times.len() / 2;
        let median = match times.len() % 2 {
            1 => times[middle],
            _ => (times[middle - 1] + times[middle]) / 2.0,
        };
        let (a, b) = (figure(times[0]), figure(times[times.len() - 1]));
        Spread { median: figure(median), min: a.min(b), max: a.max(b) }
    }

    fn row(self, what: String, unit: &str, more: String) -> Vec<String> {
        let figures = [self.median, self.min, self.max].map(|x| format!("{x:.1}"));
        [what].into_iter().chain(figures).chain([unit.into(), more]).collect()
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}
