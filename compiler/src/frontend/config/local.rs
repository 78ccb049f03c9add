//! Layers that see a window of positions only.

use super::rope::{self, Spelling};
use super::{Family, count, count_or, limit};
use crate::Error;
use crate::frontend::json::Keys;
use ir::{Rope, RopeScaling};
use serde_json::Value;

/// Which they are, and what they see.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// For each layer whether it is one.
    pub layers: Vec<bool>,
    /// How many positions they see, the token's own the last; none where that is the context.
    pub window: Option<u64>,
    /// Their rotary embedding.
    pub rope: Rope,
}

/// What else a model's windows depend on.
pub struct Facts<'r> {
    /// Its family.
    pub family: Family,
    /// How many layers it has.
    pub blocks: u64,
    /// Positions of a conversation.
    pub context: u64,
    /// The rotary embedding of layers that see all positions.
    pub rope: &'r Rope,
}

/// The window of Gemma 2, Mistral and Qwen where a file does not tell.
const WINDOW: u64 = 4096;
/// The first layer of Qwen with a window, where a file does not tell.
const QWEN_FIRST: u64 = 28;
/// The rotary base of Gemma 3's layers with a window.
const GEMMA3_THETA: f64 = 10_000.0;

impl Facts<'_> {
    /// Layers from `first` on see a window.
    fn windowed_from(&self, first: u64) -> Vec<bool> {
        (0..self.blocks).map(|n| n >= first).collect()
    }

    /// Layers `pattern`, `2 · pattern`, … see everything, the others a window.
    fn but_every(&self, pattern: u64) -> Vec<bool> {
        (1..=self.blocks).map(|n| !n.is_multiple_of(pattern)).collect()
    }

    /// Every how many layers of a Gemma one sees everything, where a file does not tell.
    fn pattern(&self) -> u64 {
        if self.family == Family::Gemma2 { 2 } else { 6 }
    }

    /// The layers, unless they are like all others.
    fn local(&self, layers: Vec<bool>, window: u64, rope: Rope) -> Option<Local> {
        let window = (window < self.context).then_some(window);
        let differ = window.is_some() || rope != *self.rope;
        (differ && layers.contains(&true)).then_some(Local { layers, window, rope })
    }
}

/// From config.json, as transformers reads it.
pub fn hf(keys: &Keys, facts: &Facts) -> Result<Option<Local>, Error> {
    let layers = match keys.get("layer_types") {
        Some(kinds) => kinds_of(keys, kinds, facts)?,
        None => layers_of_family(keys, facts)?,
    };
    if !layers.contains(&true) {
        return Ok(None);
    }
    let window = count_or(keys, "sliding_window", limit::CONTEXT, WINDOW)?;
    let rope = match facts.family {
        Family::Gemma3 => rope::hf(keys, facts.rope.head, Spelling::Local { theta: GEMMA3_THETA })?,
        _ => facts.rope.clone(),
    };
    Ok(facts.local(layers, window, rope))
}

/// Which layers see a window, if the file does not tell layer by layer.
fn layers_of_family(keys: &Keys, facts: &Facts) -> Result<Vec<bool>, Error> {
    let none = facts.blocks;
    Ok(match facts.family {
        Family::Llama | Family::MobileLlm | Family::Gemma => facts.windowed_from(none),
        Family::Mistral if keys.is_null("sliding_window") => facts.windowed_from(none),
        Family::Mistral => facts.windowed_from(0),
        Family::Qwen2 | Family::Qwen3 => match keys.flag("use_sliding_window")? {
            true => facts.windowed_from(keys.int("max_window_layers")?.unwrap_or(QWEN_FIRST)),
            false => facts.windowed_from(none),
        },
        Family::Gemma2 | Family::Gemma3 => {
            let key = match keys.get("sliding_window_pattern") {
                Some(_) => "sliding_window_pattern",
                None => "_sliding_window_pattern",
            };
            facts.but_every(count_or(keys, key, limit::BLOCKS, facts.pattern())?)
        }
    })
}

fn kinds_of(keys: &Keys, kinds: &Value, facts: &Facts) -> Result<Vec<bool>, Error> {
    let (key, blocks) = ("layer_types", facts.blocks);
    let list = kinds.as_array().filter(|list| list.len() as u64 == blocks);
    let expected = format!("a list of {blocks}, num_hidden_layers");
    let list = list.ok_or_else(|| keys.wrong(key, kinds, &expected))?;
    let kind = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(keys
            .unsupported(key, format!("layers of type {kind} are not supported"))
            .note("supported: full_attention, sliding_attention")),
    };
    let layers: Vec<bool> = list.iter().map(kind).collect::<Result<_, _>>()?;
    let windows = match facts.family {
        Family::Qwen2 | Family::Qwen3 => keys.flag("use_sliding_window")?,
        Family::Gemma2 | Family::Gemma3 => true,
        Family::Llama | Family::MobileLlm | Family::Gemma | Family::Mistral => false,
    };
    match layers.contains(&true) && !windows {
        true => Err(keys.unsupported(key, "this model has no layers of type sliding_attention")),
        false => Ok(layers),
    }
}

/// From GGUF metadata, which leaves the pattern to the architecture.
pub fn gguf(keys: &Keys, facts: &Facts) -> Result<Option<Local>, Error> {
    let key = "attention.sliding_window";
    let window = keys.int(key)?.filter(|&window| window > 0);
    let (layers, rope) = match (facts.family, window) {
        (Family::Gemma2, _) => (gemma_layers(keys, facts)?, facts.rope.clone()),
        (Family::Gemma3, _) => {
            let theta = rope::theta(keys, "rope.freq_base_swa")?.unwrap_or(GEMMA3_THETA);
            let rope = Rope { head: facts.rope.head, theta, scaling: RopeScaling::None };
            (gemma_layers(keys, facts)?, rope)
        }
        (_, None) => return Ok(None),
        // A Mistral: every layer has it.
        (Family::Llama, Some(_)) => (facts.windowed_from(0), facts.rope.clone()),
        (_, Some(window)) if window >= facts.context => return Ok(None),
        (_, Some(window)) => {
            return Err(keys
                .unsupported(key, "which layers see a window is not known")
                .note(format!("found a window of {window} in a context of {}", facts.context))
                .help("use the model's Hugging Face directory, whose config.json says it"));
        }
    };
    let window = match facts.family {
        Family::Gemma2 => count_or(keys, key, limit::CONTEXT, WINDOW)?,
        _ => count(keys, key, limit::CONTEXT)?,
    };
    Ok(facts.local(layers, window, rope))
}

fn gemma_layers(keys: &Keys, facts: &Facts) -> Result<Vec<bool>, Error> {
    let key = "attention.sliding_window_pattern";
    let Some(found @ Value::Array(flags)) = keys.get(key) else {
        return Ok(facts.but_every(count_or(keys, key, limit::BLOCKS, facts.pattern())?));
    };
    let flags: Option<Vec<bool>> = flags.iter().map(Value::as_bool).collect();
    let flags = flags.filter(|flags| flags.len() as u64 == facts.blocks);
    flags.ok_or_else(|| keys.wrong(key, found, &format!("{} truth values", facts.blocks)))
}
