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

/// Caps that are believed.
const CAP_MAX: f64 = 1e6;
/// The width that Gemma 2's scores are scaled by where a file does not tell.
const GEMMA2_SCORED: u64 = 256;

/// What embeddings are multiplied with.
pub fn embed_scale(family: Family, hidden: u64) -> Option<f64> {
    family.is_gemma().then(|| (hidden as f64).sqrt())
}

/// The caps, whose keys are the same in both kinds of checkpoints.
pub fn caps(keys: &Keys, family: Family) -> Result<Caps, Error> {
    let second = family == Family::Gemma2;
    let own = |cap: f64| second.then_some(cap);
    Ok(Caps {
        scores: cap(keys, "attn_logit_softcapping", own(50.0), second)?,
        logits: cap(keys, "final_logit_softcapping", own(30.0), family.is_gemma_from_2())?,
    })
}

/// One cap: what is written down, or the family's own; null and 0 are none.
fn cap(keys: &Keys, key: &str, own: Option<f64>, known: bool) -> Result<Option<f64>, Error> {
    match keys.float(key)?.or(own.filter(|_| !keys.is_null(key))) {
        None | Some(0.0) => Ok(None),
        Some(_) if !known => Err(keys.unsupported(key, "this model is not known to have a cap")),
        Some(cap) if (1.0 / CAP_MAX..=CAP_MAX).contains(&cap) => Ok(Some(cap)),
        Some(cap) => Err(keys.wrong(key, &Value::from(cap), "1e-6 to 1e6")),
    }
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
        (Family::Gemma2, 46) | (Family::Gemma3, 62) => (hidden / heads).max(1),
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_width_is_nothing() {
        let scored = |family, blocks| scored_gguf(family, [blocks, 8, 16, 24]);
        assert_eq!(scored(Family::Gemma2, 46), 1);
        assert_eq!(scored(Family::Gemma3, 62), 1);
        assert_eq!(scored(Family::Gemma2, 26), 24);
    }
}
