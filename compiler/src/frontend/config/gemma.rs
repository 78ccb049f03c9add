//! What is Gemma's own: scaled embeddings, and layers that see a window of positions only.

use super::rope::Spelling;
use super::{Family, count, count_or, limit, rope};
use crate::Error;
use crate::frontend::json::Keys;
use ir::{Rope, RopeScaling};
use serde_json::Value;

/// Layers that see the last positions only.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Which layers they are.
    pub layers: Vec<bool>,
    /// How many positions they see, the token's own the last; none where that is the context.
    pub window: Option<u64>,
    /// Their rotary embedding.
    pub rope: Rope,
}

/// Every n-th layer of Gemma 3 sees all positions.
const PATTERN: u64 = 6;
/// The rotary base of layers with a window.
const LOCAL_THETA: f64 = 10_000.0;

/// What embeddings are multiplied with.
pub fn embed_scale(family: Family, hidden: u64) -> Option<f64> {
    family.is_gemma().then(|| (hidden as f64).sqrt())
}

/// Layers `pattern`, `2 · pattern`, … see everything, the others a window.
fn layers(blocks: u64, pattern: u64) -> Vec<bool> {
    (1..=blocks).map(|n| !n.is_multiple_of(pattern)).collect()
}

/// The layers with a window, if there are any.
fn local(layers: Vec<bool>, window: u64, context: u64, rope: Rope) -> Option<Local> {
    let window = (window < context).then_some(window);
    layers.contains(&true).then_some(Local { layers, window, rope })
}

/// From config.json.
pub fn hf(keys: &Keys, [blocks, context, head]: [u64; 3]) -> Result<Option<Local>, Error> {
    let key = match keys.get("sliding_window_pattern") {
        Some(_) => "sliding_window_pattern",
        None => "_sliding_window_pattern",
    };
    let layers = match keys.get("layer_types") {
        Some(kinds) => kinds_of(keys, kinds, blocks)?,
        None => layers(blocks, count_or(keys, key, limit::BLOCKS, PATTERN)?),
    };
    if !layers.contains(&true) {
        return Ok(None);
    }
    let window = count(keys, "sliding_window", limit::CONTEXT)?;
    let rope = rope::hf(keys, head, Spelling::Local { theta: LOCAL_THETA })?;
    Ok(local(layers, window, context, rope))
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
pub fn gguf(keys: &Keys, [blocks, context, head]: [u64; 3]) -> Result<Option<Local>, Error> {
    let key = "attention.sliding_window_pattern";
    let layers = match keys.get(key) {
        Some(Value::Array(flags)) => {
            let flags: Option<Vec<bool>> = flags.iter().map(Value::as_bool).collect();
            let flags = flags.filter(|flags| flags.len() as u64 == blocks);
            flags.ok_or_else(|| keys.missing(key))?
        }
        _ => layers(blocks, count_or(keys, key, limit::BLOCKS, PATTERN)?),
    };
    let window = count(keys, "attention.sliding_window", limit::CONTEXT)?;
    let theta = rope::theta(keys, "rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    let rope = Rope { head, theta, scaling: RopeScaling::None };
    Ok(local(layers, window, context, rope))
}
