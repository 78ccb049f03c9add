//! `ingot bench`: how fast the compiled model is, and how close to what the machine can do.

mod profile;

use crate::Error;
use crate::arithmetic::int8_peak;
use crate::bandwidth::Probe;
use crate::host::{self, Host, HostFlags, refused};
use crate::output;
use crate::progress;
use crate::session::{Sampling, Session, Status};
use crate::work::work;
use clap::Args;
use profile::Profile;
use serde_json::{Value, json};
use std::time::Instant;

const EXAMPLES: &str = "\
Every row is the median of the measurements, with the fastest and the slowest. Decoding also shows
the bytes it reads per second, and their share of what the machine itself can read.

Examples:
  ingot bench model.gguf --threads 1
  ingot bench SmolLM2-135M --depth 1024 --decode 64 --json";

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
    /// Tokens in the context before each measurement
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub depth: u32,
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
    let context = host.model.module.meta.context;
    let longest = u64::from(flags.prefill.max(flags.decode)) + u64::from(flags.depth);
    if longest.max(FIRST_PROMPT.into()) <= context {
        return Ok(());
    }
    Err(Error::new("IG0401", "the measurement does not fit the context")
        .note(format!("{longest} tokens, depth included; the context holds {context}"))
        .help("choose smaller --prefill, --decode and --depth, or a larger --context"))
}

/// One after the other from SplitMix64, so that a seed means the same everywhere.
fn random_tokens(flags: &BenchFlags, host: &Host) -> Vec<i32> {
    let count = (flags.prefill.max(flags.decode) + flags.depth).max(FIRST_PROMPT);
    let vocab = host.model.module.meta.vocab;
    let mut state = flags.host.model.transforms.seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % vocab) as i32
    };
    (0..count).map(|_| next()).collect()
}

/// Seconds of each measurement, sorted.
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
    first: Vec<f64>,
}

fn measure(session: &mut Session, tokens: &[i32], flags: &BenchFlags) -> Result<Times, Status> {
    let depth = flags.depth as usize;
    let prompt = &tokens[depth..][..flags.prefill as usize];
    let generated = &tokens[depth..][..flags.decode as usize];
    let bar = progress::steps("measuring", u64::from(flags.repeat) + 1);
    let mut times = Times { prefill: vec![], decode: vec![], first: vec![] };
    for round in 0..=flags.repeat {
        let first = timed(|| first_token(session, &tokens[..FIRST_PROMPT as usize]))?;
        session.reset()?;
        if depth > 0 {
            session.prefill(&tokens[..depth])?;
        }
        let prefill = timed(|| if prompt.is_empty() { Ok(()) } else { session.prefill(prompt) })?;
        session.truncate(flags.depth)?;
        let decode = timed(|| generated.iter().try_for_each(|&token| session.decode(token)))?;
        // The first round warms caches, pages and clocks up.
        if round > 0 {
            times.first.push(first);
            times.prefill.push(prefill);
            times.decode.push(decode);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for list in [&mut times.first, &mut times.prefill, &mut times.decode] {
        list.sort_by(f64::total_cmp);
    }
    Ok(times)
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

/// What the times mean.
struct Figures {
    /// Tokens per second.
    prefill: Spread,
    /// Tokens per second.
    decode: Spread,
    /// Milliseconds.
    first: Spread,
    /// Billions of operations per second in prefill.
    prefill_gflops: f64,
    /// Billions of products of bytes and their sums per second that the machine makes.
    int8_gops: f64,
    /// Weights, keys and values read per decoded token, on average.
    token_bytes: f64,
    /// Billions of bytes per second in decode.
    decode_gb: f64,
    /// Billions of bytes per second that the machine reads, before and after.
    machine_gb: [f64; 2],
}

impl Figures {
    fn new(
        flags: &BenchFlags,
        host: &Host,
        times: &Times,
        bandwidth: [f64; 2],
        int8_peak: f64,
    ) -> Figures {
        let work = work(&host.model.module, &host.session.library.weights);
        let speed = |count: u32| move |seconds: f64| f64::from(count) / seconds;
        let (prefill, decode) = (
            Spread::of(&times.prefill, speed(flags.prefill)),
            Spread::of(&times.decode, speed(flags.decode)),
        );
        // The token at position p reads p + 1 keys and values.
        let positions = f64::from(flags.depth) + (f64::from(flags.decode) + 1.0) / 2.0;
        let token_bytes = work.weight_bytes as f64 + work.cache_bytes_read(positions);
        Figures {
            prefill,
            decode,
            first: Spread::of(&times.first, |seconds| seconds * 1e3),
            int8_gops: int8_peak / 1e9,
            prefill_gflops: prefill.median * work.prefill_ops as f64 / 1e9,
            token_bytes,
            decode_gb: decode.median * token_bytes / 1e9,
            machine_gb: bandwidth.map(|bytes| bytes / 1e9),
        }
    }

    /// Share of the bandwidth that decoding uses.
    fn share(&self) -> f64 {
        self.decode_gb / ((self.machine_gb[0] + self.machine_gb[1]) / 2.0)
    }

    fn text(&self, flags: &BenchFlags, host: &Host) -> String {
        let header = ["", "median", "min", "max", "", ""].map(String::from).to_vec();
        let mut rows = vec![header];
        if flags.prefill > 0 {
            let more = format!("{:.1} GFLOP/s", self.prefill_gflops);
            rows.push(self.prefill.row(format!("prefill {}", flags.prefill), "tok/s", more));
        }
        if flags.decode > 0 {
            let more = format!("{:.1} GB/s, {:.0} %", self.decode_gb, self.share() * 100.0);
            rows.push(self.decode.row(format!("decode {}", flags.decode), "tok/s", more));
        }
        let what = format!("first token of {FIRST_PROMPT}");
        rows.push(self.first.row(what, "ms", String::new()));
        let [weights, cache] = flags.host.model.formats(&host.model.module);
        let [before, after] = self.machine_gb;
        format!(
            "{}: weights {} ({:.1} MB), KV cache {}, {} threads, depth {}\n{}\
             this machine reads {before:.1} GB/s before, {after:.1} GB/s after, \
             and multiplies {:.0} GOP/s of int8\n\
             started in {:.0} ms\n",
            host.model.path.display(),
            weights,
            host.session.weights_bytes() as f64 / 1e6,
            cache,
            host.threads,
            flags.depth,
            output::table(&rows),
            self.int8_gops,
            host.start.as_secs_f64() * 1e3,
        )
    }

    fn json(&self, flags: &BenchFlags, host: &Host) -> Value {
        let [before, after] = self.machine_gb;
        let prefill = (flags.prefill > 0).then(|| {
            json!({
                "tokens": flags.prefill,
                "tokens_per_second": self.prefill.json(),
                "gflop_per_second": self.prefill_gflops,
            })
        });
        let decode = (flags.decode > 0).then(|| {
            json!({
                "tokens": flags.decode,
                "tokens_per_second": self.decode.json(),
                "bytes_per_token": self.token_bytes.round() as u64,
                "gb_per_second": self.decode_gb,
                "bandwidth_share": self.share(),
            })
        });
        json!({
            "model": host.model.path,
            "quant": flags.host.model.formats(&host.model.module)[0],
            "kv": flags.host.model.formats(&host.model.module)[1],
            "context": host.model.module.meta.context,
            "threads": host.threads,
            "depth": flags.depth,
            "repeat": flags.repeat,
            "seed": flags.host.model.transforms.seed,
            "weights_bytes": host.session.weights_bytes(),
            "start_ms": host.start.as_secs_f64() * 1e3,
            "prefill": prefill,
            "decode": decode,
            "first_token_ms": self.first.json(),
            "int8_gop_per_second": self.int8_gops,
            "bandwidth_gb_per_second": { "before": before, "after": after },
        })
    }
}
