//! What is Gemma's own: scaled embeddings, a width that scores are scaled by, and caps.

use super::{Family, count_or, limit};
use crate::Error;
use crate::frontend::json::Keys;
use serde_json::Value;

/// What scores of attention and logits stay below; `None` for no such cap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Caps {
    /// Of scores.
    pub scores: Option<f64>,
    /// Of logits.
    pub logits: Option<f64>,
}

/// Keys of the caps, the same in both kinds of checkpoints, and Gemma 2's own.
const CAPS: [(&str, f64); 2] =
    [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)];
/// Caps that are believed: 1/cap must be a number too.
const CAP_MAX: f64 = 1e30;
/// The width that Gemma 2's scores are scaled by where a file does not tell.
const GEMMA2_SCORED: u64 = 256;

/// What embeddings are multiplied with.
pub fn embed_scale(family: Family, hidden: u64) -> Option<f64> {
    family.is_gemma().then(|| (hidden as f64).sqrt())
}

/// The caps: those that are written down, or Gemma 2's own; null is none, and so is 0 in GGUF.
pub fn caps(keys: &Keys, family: Family) -> Result<Caps, Error> {
    let one = |(key, usual): (&str, f64)| {
        let known = family == Family::Gemma2 && !keys.is_null(key);
        match keys.float(key)?.or(known.then_some(usual)) {
            None | Some(0.0) => Ok(None),
            Some(_) if !family.has_caps() => {
                Err(keys.unsupported(key, "capped logits are supported in Gemma 2 and 3 only"))
            }
            Some(cap) if (1.0 / CAP_MAX..CAP_MAX).contains(&cap) => Ok(Some(cap)),
            Some(cap) => Err(keys.wrong(key, &Value::from(cap), "more than 0")),
        }
    };
    let [scores, logits] = CAPS;
    Ok(Caps { scores: one(scores)?, logits: one(logits)? })
}

/// The width under the root of the factor on scores, of config.json.
pub fn scored_hf(keys: &Keys, family: Family, head: u64) -> Result<u64, Error> {
    let key = "query_pre_attn_scalar";
    match family {
        Family::Gemma2 => count_or(keys, key, limit::WIDTH, GEMMA2_SCORED),
        Family::Gemma3 => count_or(keys, key, limit::WIDTH, head),
        _ => Ok(head),
    }
}

/// The same of a GGUF file, which does not tell: of the 27B models, of 46 and 62 blocks, that of a
/// share of the hidden state.
pub fn scored_gguf(family: Family, [blocks, hidden, heads, head]: [u64; 4]) -> u64 {
    match (family, blocks) {
        (Family::Gemma2, 46) | (Family::Gemma3, 62) => hidden / heads,
        _ => head,
    }
}
