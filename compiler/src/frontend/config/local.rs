//! Layers that see a window of positions only.

use super::rope::{self, Spelling};
use super::{Family, count, count_or, limit, refuse_window};
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

/// What a model is otherwise, as far as its windows depend on it.
pub struct Model<'r> {
    /// Its family.
    pub family: Family,
    /// How many layers it has.
    pub blocks: u64,
    /// Positions of a conversation.
    pub context: u64,
    /// The rotary embedding of layers that see all positions.
    pub rope: &'r Rope,
}

/// The window of Gemma 2 where a file does not tell.
const GEMMA2_WINDOW: u64 = 4096;
/// The rotary base of Gemma 3's layers with a window.
const GEMMA3_THETA: f64 = 10_000.0;

impl Model<'_> {
    /// Layers from `first` on see a window.
    fn from(&self, first: u64) -> Vec<bool> {
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

    fn local(&self, layers: Vec<bool>, window: u64, rope: Rope) -> Local {
        Local { layers, window: (window < self.context).then_some(window), rope }
    }
}

/// From config.json.
pub fn hf(keys: &Keys, model: &Model) -> Result<Option<Local>, Error> {
    let layers = match keys.get("layer_types") {
        Some(kinds) => kinds_of(keys, kinds, model.blocks)?,
        None => layers_of_family(keys, model)?,
    };
    if !layers.contains(&true) {
        return Ok(None);
    }
    let key = "sliding_window";
    let window = match model.family {
        Family::Gemma2 => count_or(keys, key, limit::CONTEXT, GEMMA2_WINDOW)?,
        _ => count(keys, key, limit::CONTEXT)?,
    };
    let rope = match model.family {
        Family::Gemma3 => rope::hf(keys, model.rope.head, Spelling::Local { theta: GEMMA3_THETA })?,
        _ => model.rope.clone(),
    };
    Ok(Some(model.local(layers, window, rope)))
}

/// Which layers see a window, if the file does not tell layer by layer.
fn layers_of_family(keys: &Keys, model: &Model) -> Result<Vec<bool>, Error> {
    let none = model.blocks;
    Ok(match model.family {
        Family::Llama | Family::MobileLlm | Family::Gemma => model.from(none),
        Family::Mistral => model.from(keys.get("sliding_window").map_or(none, |_| 0)),
        Family::Qwen2 | Family::Qwen3 => match keys.flag("use_sliding_window")? {
            true => model.from(keys.int("max_window_layers")?.unwrap_or(0)),
            false => model.from(none),
        },
        Family::Gemma2 | Family::Gemma3 => {
            let key = match keys.get("sliding_window_pattern") {
                Some(_) => "sliding_window_pattern",
                None => "_sliding_window_pattern",
            };
            model.but_every(count_or(keys, key, limit::BLOCKS, model.pattern())?)
        }
    })
}

fn kinds_of(keys: &Keys, kinds: &Value, blocks: u64) -> Result<Vec<bool>, Error> {
    let key = "layer_types";
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
    list.iter().map(kind).collect()
}

/// From GGUF metadata, which leaves the pattern to the architecture.
pub fn gguf(keys: &Keys, model: &Model) -> Result<Option<Local>, Error> {
    let key = "attention.sliding_window";
    let (layers, window) = match model.family {
        Family::Gemma2 => {
            (gemma_layers(keys, model)?, count_or(keys, key, limit::CONTEXT, GEMMA2_WINDOW)?)
        }
        Family::Gemma3 => (gemma_layers(keys, model)?, count(keys, key, limit::CONTEXT)?),
        // A Mistral: every layer has it.
        Family::Llama if keys.int(key)?.unwrap_or(0) > 0 => {
            (model.from(0), count(keys, key, limit::CONTEXT)?)
        }
        _ => {
            refuse_window(keys, key, model.context)?;
            return Ok(None);
        }
    };
    let rope = match model.family {
        Family::Gemma3 => {
            let theta = rope::theta(keys, "rope.freq_base_swa")?.unwrap_or(GEMMA3_THETA);
            Rope { head: model.rope.head, theta, scaling: RopeScaling::None }
        }
        _ => model.rope.clone(),
    };
    let some = layers.contains(&true);
    Ok(some.then(|| model.local(layers, window, rope)))
}

fn gemma_layers(keys: &Keys, model: &Model) -> Result<Vec<bool>, Error> {
    let key = "attention.sliding_window_pattern";
    match keys.get(key) {
        Some(Value::Array(flags)) => {
            let flags: Option<Vec<bool>> = flags.iter().map(Value::as_bool).collect();
            let flags = flags.filter(|flags| flags.len() as u64 == model.blocks);
            flags.ok_or_else(|| keys.missing(key))
        }
        _ => Ok(model.but_every(count_or(keys, key, limit::BLOCKS, model.pattern())?)),
    }
}
