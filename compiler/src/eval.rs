//! `ingot eval`: how well the compiled model predicts a text, and how far it is from another
//! format of the same checkpoint.

mod divergence;
mod windows;

use crate::host::{self, Host, HostFlags, refused};
use crate::model::{Model, prepare};
use crate::options::{Kv, Quant};
use crate::run::{need_tokenizer, read_text};
use crate::work::{Work, work};
use crate::{Error, output, progress};
use clap::{Args, ValueEnum};
use divergence::{Divergence, Pair, Predictor, divergence};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use windows::{Window, windows};

const EXAMPLES: &str = "\
Examples:
  ingot eval model.gguf --text wiki.txt --chunks 20
  ingot eval SmolLM2-135M --quant bf16 --text wiki.txt --against f32 --json";

/// Flags of `eval`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EvalFlags {
    /// The model and its code
    #[command(flatten)]
    pub host: HostFlags,
    /// Text to predict, - for standard input
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of one window [default: 512, or the context if that is smaller]
    #[arg(long, value_name = "N")]
    pub ctx: Option<u64>,
    /// Which tokens of a window count
    #[arg(long, value_enum, default_value_t = Scheme::LlamaCpp)]
    pub scheme: Scheme,
    /// Windows to evaluate at most [default: the whole text]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
    /// Tokens of the text to use at most [default: all]
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Also compare with the same checkpoint in this format and a KV cache of f32
    #[arg(long, value_name = "QUANT")]
    pub against: Option<Quant>,
    /// Tokens that --against compares at most [default: all that count]
    #[arg(
        long, value_name = "N", requires = "against",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub kl_tokens: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which tokens of a window count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    /// The second half of whole windows, as llama.cpp's perplexity tool does
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// All but the first of each window, the last window as long as the text lasts
    Full,
}

/// Conversations that are compared at a time, at most: each has the weights of both models in memory.
const PAIRS: u32 = 4;
/// Tokens of a window unless the user says otherwise.
const DEFAULT_WINDOW: u64 = 512;

/// Runs `ingot eval`.
pub fn eval(flags: &EvalFlags) -> Result<(), Error> {
    let text = read_text(&flags.text)?;
    let mut host = host::start(&flags.host)?;
    let windows = cut(flags, &host, &text)?;
    let score = score(&mut host, &windows)?;
    let distance = flags.against.map(|quant| distance(flags, &host.model, quant, &windows));
    let distance = distance.transpose()?;
    let report = Report { flags, host: &host, windows: windows.len(), score, distance };
    match flags.json {
        true => report.json(),
        false => output::print(&report.text()),
    }
}

/// How far the model is from the same checkpoint in another format.
fn distance(
    flags: &EvalFlags,
    model: &Model,
    quant: Quant,
    windows: &[Window],
) -> Result<Divergence, Error> {
    let other = flags.host.model.plain(quant, Kv::F32);
    let target = flags.host.model.host_target()?;
    let other = prepare(&other)?;
    let pair = |_| -> Result<Pair, Error> {
        let (model, reference) =
            (Predictor::new(model, &target)?, Predictor::new(&other, &target)?);
        Ok(Pair { model, reference })
    };
    let pairs = flags.host.threads().min(PAIRS).min(windows.len() as u32);
    let mut pairs = (0..pairs).map(pair).collect::<Result<Vec<Pair>, Error>>()?;
    let most = flags.kl_tokens.map_or(usize::MAX, |n| n as usize);
    divergence(&mut pairs, windows, most)
}

/// The windows of a text, as the flags say.
fn cut(flags: &EvalFlags, host: &Host, text: &str) -> Result<Vec<Window>, Error> {
    let context = host.model.module.meta.context;
    let length = flags.ctx.unwrap_or(DEFAULT_WINDOW.min(context));
    if length < 2 || length > context {
        return Err(Error::new("IG0401", format!("--ctx {length}"))
            .note(format!("expected a number from 2 to {context}, the context"))
            .help("--context makes the context larger, up to the model's own"));
    }
    let tokenizer = need_tokenizer(&host.model.tokenizer, &host.model.path)?;
    let bos = tokenizer.settings.bos.filter(|_| tokenizer.settings.add_bos);
    let mut tokens = tokenizer.encode(text, bos.is_some())?;
    tokens.truncate(flags.tokens.unwrap_or(tokens.len()));
    let mut windows = windows(&tokens, length as usize, bos, flags.scheme);
    windows.truncate(flags.chunks.unwrap_or(windows.len()));
    if windows.is_empty() {
        return Err(Error::new("IG0401", "no window to evaluate")
            .note(format!("{} tokens of text, windows of {length}", tokens.len()))
            .help("give more text, a smaller --ctx, or --scheme full"));
    }
    Ok(windows)
}

/// Log-probabilities, summed up.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    /// Tokens that count.
    count: u64,
    /// Sum of their negative log-probabilities.
    sum: f64,
    /// Sum of the squares of these.
    squares: f64,
    /// Tokens that went through the model.
    fed: u64,
    /// Seconds it took.
    seconds: f64,
}

impl Score {
    fn perplexity(self) -> f64 {
        (self.sum / self.count as f64).exp()
    }

    /// Standard error of the perplexity, by the first-order rule for a function of a mean.
    fn error(self) -> f64 {
        let (n, mean) = (self.count as f64, self.sum / self.count as f64);
        let variance = (self.squares / n - mean * mean).max(0.0);
        (variance / (n - 1.0).max(1.0)).sqrt() * self.perplexity()
    }

    fn speed(self) -> f64 {
        self.fed as f64 / self.seconds
    }
}

fn score(host: &mut Host, windows: &[Window]) -> Result<Score, Error> {
    let bar = progress::steps("scoring windows", windows.len() as u64);
    let (mut score, began) = (Score::default(), Instant::now());
    for window in windows {
        host.session.reset().map_err(refused)?;
        let logprobs = host.session.score(&window.tokens).map_err(refused)?;
        for &logprob in &logprobs[window.first..] {
            let nll = -f64::from(logprob);
            score.count += 1;
            score.sum += nll;
            score.squares += nll * nll;
        }
        score.fed += window.tokens.len() as u64;
        bar.inc(1);
    }
    bar.finish_and_clear();
    score.seconds = began.elapsed().as_secs_f64();
    Ok(score)
}

/// Everything that is printed.
struct Report<'r> {
    flags: &'r EvalFlags,
    host: &'r Host,
    windows: usize,
    score: Score,
    distance: Option<Divergence>,
}

impl Report<'_> {
    /// Bits of the weights in all, by parameter.
    fn bits_per_weight(&self) -> f64 {
        let (module, layout) = (&self.host.model.module, &self.host.session.library.weights);
        let parameters: u64 = layout.order.iter().map(|&id| module.weight(id).elements()).sum();
        (layout.bytes * 8) as f64 / parameters as f64
    }

    fn work(&self) -> Work {
        work(&self.host.model.module, &self.host.session.library.weights)
    }

    fn text(&self) -> String {
        let (score, work) = (self.score, self.work());
        let mut text = format!(
            "perplexity       {:.4} +- {:.4}\n\
             tokens scored    {} in {}\n\
             bits per weight  {:.2}\n\
             bytes per token  {} of weights, {} per position of the cache\n\
             speed            {:.1} tok/s, {}\n",
            score.perplexity(),
            score.error(),
            score.count,
            output::counted(self.windows as u64, "window"),
            self.bits_per_weight(),
            output::grouped(work.weight_bytes),
            work.cache_bytes,
            score.speed(),
            output::counted(self.host.threads.into(), "thread"),
        );
        if let (Some(d), Some(against)) = (&self.distance, self.flags.against) {
            text += &format!("against {}, over {} tokens\n", against.dtype(), d.count);
            text += &d.text();
        }
        text
    }

    fn json(&self) -> Result<(), Error> {
        let against = self.distance.as_ref().zip(self.flags.against).map(|(d, against)| {
            let mut found = d.json();
            found["quant"] = against.dtype().to_string().into();
            found
        });
        let [weights, cache] = self.flags.host.model.formats(&self.host.model.module);
        let scheme = self.flags.scheme.to_possible_value();
        output::json(&json!({
            "model": self.host.model.path,
            "text": self.flags.text,
            "quant": weights,
            "kv": cache,
            "scheme": scheme.as_ref().map(|s| s.get_name()),
            "windows": self.windows,
            "tokens": self.score.count,
            "nll": self.score.sum / self.score.count as f64,
            "perplexity": self.score.perplexity(),
            "perplexity_error": self.score.error(),
            "bits_per_weight": self.bits_per_weight(),
            "weight_bytes_per_token": self.work().weight_bytes,
            "cache_bytes_per_position": self.work().cache_bytes,
            "threads": self.host.threads,
            "tokens_per_second": self.score.speed(),
            "against": against,
        }))
    }
}
