//! Hyper-parameters: what a model of the Llama or Gemma family is, apart from its weights.
//!
//! Read from config.json (`hf`) or from GGUF metadata (`gguf`). Anything that would change the
//! model's output and is not understood is refused, never ignored.

mod gemma;
pub mod gguf;
pub mod hf;
mod local;
mod refuse;
mod rope;

use super::json::Keys;
use crate::Error;
use crate::tokenizer::Ids;
use gemma::Caps;
use ir::{Gate, Rope};
pub use local::Local;
use serde_json::Value;

/// The architectures that are compiled; they differ in biases, norms and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 and everything saved as one of them.
    Llama,
    /// Mistral: a Llama whose layers may see a window only (arXiv 2310.06825).
    Mistral,
    /// MobileLLM: a Llama whose blocks may run twice (arXiv 2402.14905).
    MobileLlm,
    /// Qwen2: biases on q, k and v.
    Qwen2,
    /// Qwen3: norms over each head of q and k.
    Qwen3,
    /// Gemma: embeddings are scaled, gates are GELU.
    Gemma,
    /// Gemma 2: that, norms of what sub-layers add, layers that see a window only, caps on scores and
    /// logits (arXiv 2408.00118).
    Gemma2,
    /// Gemma 3: as Gemma 2, with norms of heads instead of caps on scores (arXiv 2503.19786).
    Gemma3,
}

impl Family {
    /// Whether it is one of the Gemmas.
    pub fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    /// Whether what sub-layers add is normed, and logits may have a cap.
    fn is_gemma_from_2(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }
}

/// Hyper-parameters of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Architecture, as the checkpoint names it.
    pub arch: String,
    /// Which of the supported ones it is.
    pub family: Family,
    /// Width of the hidden state.
    pub hidden: u64,
    /// Width between the matrices of the feed-forward part.
    pub ffn: u64,
    /// Blocks stored in the checkpoint.
    pub blocks: u64,
    /// Times each block is called in a row.
    pub calls: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of one head.
    pub head: u64,
    /// Rows of the embedding table.
    pub vocab: u64,
    /// Positions a conversation may hold.
    pub context: u64,
    /// Added to the mean of squares in every norm.
    pub eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
    /// Biases of the q, k, v and o matrices.
    pub attention_bias: [bool; 4],
    /// Biases of the gate, up and down matrices.
    pub mlp_bias: bool,
    /// Norms over each head of q and k.
    pub qk_norm: bool,
    /// Norms of what sub-layers add to the residual stream.
    pub sandwich: bool,
    /// The activation of the feed-forward part.
    pub gate: Gate,
    /// What embeddings are multiplied with, if anything.
    pub embed_scale: Option<f64>,
    /// Factor on the scores of attention.
    pub score_scale: f64,
    /// What scores and logits stay below, if anything.
    pub caps: Caps,
    /// Layers that see a window only, if there are any.
    pub local: Option<Local>,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the usual one first.
    pub eos: Vec<u32>,
}

impl Config {
    /// What it says of tokens.
    pub fn ids(&self) -> Ids {
        Ids { rows: self.vocab, bos: self.bos, eos: self.eos.clone() }
    }
}

/// Largest values that are believed; they keep products of two far from overflow.
mod limit {
    pub const WIDTH: u64 = 1 << 17;
    pub const BLOCKS: u64 = 1 << 10;
    pub const HEADS: u64 = 1 << 10;
    pub const HEAD: u64 = 1 << 10;
    pub const VOCAB: u64 = 1 << 22;
    pub const CONTEXT: u64 = 1 << 24;
}

/// The keys of the head counts, for messages.
struct HeadKeys {
    heads: &'static str,
    kv_heads: &'static str,
    head: &'static str,
}

/// A count from 1 to `most`.
fn count(keys: &Keys, key: &str, most: u64) -> Result<u64, Error> {
    let n = keys.need(key)?;
    in_range(keys, key, n, most)
}

/// As `count`, with a default.
fn count_or(keys: &Keys, key: &str, most: u64, default: u64) -> Result<u64, Error> {
    match keys.int(key)? {
        Some(n) => in_range(keys, key, n, most),
        None => Ok(default),
    }
}

fn in_range(keys: &Keys, key: &str, n: u64, most: u64) -> Result<u64, Error> {
    match (1..=most).contains(&n) {
        true => Ok(n),
        false => Err(keys.wrong(key, &Value::from(n), &format!("1 to {most}"))),
    }
}

/// The epsilon of the norms.
fn eps(keys: &Keys, key: &str, default: Option<f64>) -> Result<f64, Error> {
    let eps = keys.float(key)?.or(default).ok_or_else(|| keys.missing(key))?;
    match eps > 0.0 && eps < 0.1 {
        true => Ok(eps),
        false => Err(keys.wrong(key, &Value::from(eps), "more than 0, less than 0.1")),
    }
}

/// Token ids, each below the size of the vocabulary.
fn token_ids(keys: &Keys, key: &str, vocab: u64) -> Result<Vec<u32>, Error> {
    let ids = keys.ints(key)?;
    match ids.iter().find(|&&id| id >= vocab) {
        Some(&id) => Err(keys.wrong(key, &Value::from(id), &format!("a token below {vocab}"))),
        None => Ok(ids.into_iter().map(|id| id as u32).collect()),
    }
}

/// Whether the three head counts fit each other and the kernels.
fn check_heads(keys: &Keys, names: &HeadKeys, counts: [u64; 3]) -> Result<(), Error> {
    let [heads, kv_heads, head] = counts;
    if kv_heads > heads || heads % kv_heads != 0 {
        let expected = format!("a divisor of {} = {heads}", names.heads);
        return Err(keys.wrong(names.kv_heads, &Value::from(kv_heads), &expected));
    }
    if head % 8 != 0 {
        let why = format!("heads of width {head}: a multiple of 8 is needed");
        return Err(keys
            .unsupported(names.head, why)
            .note("rotary pairs need an even width, and vectors of cached keys hold 8 elements"));
    }
    Ok(())
}

/// The factor on scores that is usual.
fn score_scale(head: u64) -> f64 {
    1.0 / (head as f64).sqrt()
}
