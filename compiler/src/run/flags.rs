//! What `run` can be asked.

use crate::host::HostFlags;
use crate::session::Sampling;
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  ingot run SmolLM2-135M -p 'Once upon a time' -n 64
  ingot run model.gguf --prompt-file story.txt --temp 0.8 --top-p 0.95 --seed 7 -v
  ingot run model.gguf --chat
  ingot run model.gguf --chat -p 'What is the capital of France?'";

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunFlags {
    /// The model and its code
    #[command(flatten)]
    pub host: HostFlags,
    /// What to continue
    #[command(flatten)]
    pub prompt: PromptFlags,
    /// Tokens to generate at most
    #[arg(short = 'n', value_name = "N", default_value_t = 256)]
    pub count: u64,
    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Talk: each prompt, or line of standard input, is a message, as the model's chat template has it
    #[arg(long, conflicts_with_all = ["tokens", "echo", "json", "no_bos", "ignore_eos"])]
    pub chat: bool,
    /// What the assistant is told to be, before the first message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Do not put the beginning-of-sequence token before the prompt
    #[arg(long)]
    pub no_bos: bool,
    /// Go on after an end-of-sequence token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Print the prompt before its continuation
    #[arg(long, conflicts_with = "json")]
    pub echo: bool,
    /// Say how fast it was, on standard error
    #[arg(short, long)]
    pub verbose: bool,
    /// Print text, tokens and figures as JSON once all is done
    #[arg(long)]
    pub json: bool,
}

/// Where the prompt comes from.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct PromptFlags {
    /// Text to continue
    #[arg(
        short, long, value_name = "TEXT", allow_hyphen_values = true,
        required_unless_present_any = ["prompt_file", "tokens", "chat"]
    )]
    pub prompt: Option<String>,
    /// File with the text to continue, - for standard input
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Token ids to continue, with spaces or commas between; prints ids
    #[arg(long, value_name = "IDS", conflicts_with_all = ["echo", "no_bos"])]
    pub tokens: Option<TokenIds>,
}

/// Token ids, as `ingot tokenize` prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds(pub Vec<u32>);

impl FromStr for TokenIds {
    type Err = String;

    fn from_str(text: &str) -> Result<TokenIds, String> {
        let id = |word: &str| word.parse().map_err(|_| format!("`{word}` is no token id"));
        words(text).map(id).collect::<Result<_, _>>().map(TokenIds)
    }
}

/// What spaces or commas stand between.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

/// A heading of `--help`.
const SAMPLING: &str = "Sampling";

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
pub struct SamplingFlags {
    /// Randomness; 0 always takes the likeliest token
    #[arg(
        help_heading = SAMPLING, long, value_name = "T", default_value_t = 0.0,
        allow_negative_numbers = true, value_parser = not_negative
    )]
    pub temp: f32,
    /// Choose among the K likeliest tokens; 0 is off
    #[arg(help_heading = SAMPLING, long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// Choose among the likeliest tokens that together reach probability P; 0 or 1 is off
    #[arg(
        help_heading = SAMPLING, long, value_name = "P", default_value_t = 0.0,
        allow_negative_numbers = true, value_parser = probability
    )]
    pub top_p: f32,
    /// Drop tokens less likely than P times the likeliest; 0 is off
    #[arg(
        help_heading = SAMPLING, long, value_name = "P", default_value_t = 0.0,
        allow_negative_numbers = true, value_parser = probability
    )]
    pub min_p: f32,
    /// Divide the logits of tokens seen before; 1 is off
    #[arg(
        help_heading = SAMPLING, long, value_name = "R", default_value_t = 1.0,
        allow_negative_numbers = true, value_parser = not_negative
    )]
    pub repeat_penalty: f32,
    /// Lower a token's logit by F for each time it was seen; 0 is off
    #[arg(
        help_heading = SAMPLING, long, value_name = "F", default_value_t = 0.0,
        allow_negative_numbers = true, value_parser = not_negative
    )]
    pub frequency_penalty: f32,
    /// Lower the logits of tokens seen before by F; 0 is off
    #[arg(
        help_heading = SAMPLING, long, value_name = "F", default_value_t = 0.0,
        allow_negative_numbers = true, value_parser = not_negative
    )]
    pub presence_penalty: f32,
    /// Tokens that count as seen, the last N; 0 is all
    #[arg(help_heading = SAMPLING, long, value_name = "N", default_value_t = 0)]
    pub penalty_window: u32,
}

fn not_negative(text: &str) -> Result<f32, String> {
    number(text, f32::MAX).ok_or_else(|| "expected a number of 0 or more".into())
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, 1.0).ok_or_else(|| "expected a number from 0 to 1".into())
}

fn number(text: &str, most: f32) -> Option<f32> {
    text.parse().ok().filter(|x| (0.0..=most).contains(x))
}

impl SamplingFlags {
    /// As the C interface takes them. The same seed gives the same text on every machine.
    pub fn options(&self, seed: u64) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalty_window: self.penalty_window,
            seed,
            ..Sampling::default()
        }
    }
}
