//! Architectures that are not compiled, and why: so that a refusal says more than "unknown".

use crate::Error;
use crate::frontend::json::Keys;

/// Part of the name, in lower case, and what the model does differently. The first match counts.
const OTHERS: &[(&str, &str)] = &[
    ("moe", "it routes each token to a few of many experts"),
    ("mixtral", "it routes each token to a few of many experts"),
    ("deepseek", "it has latent attention or experts"),
    ("gemma3n", "it has embeddings of its own for each layer, and more than one residual stream"),
    ("gemma3forconditional", "it reads images"),
    ("gemma4", "its layers have heads of several widths"),
    ("phi", "it has fused matrices, partial rotation or LayerNorm"),
    ("gpt", "it has learned positions or LayerNorm"),
    ("opt", "it has learned positions and LayerNorm"),
    ("bloom", "it has ALiBi positions and LayerNorm"),
    ("falcon", "it has LayerNorm and parallel blocks"),
    ("mpt", "it has ALiBi positions and LayerNorm"),
    ("starcoder", "it has LayerNorm and GELU"),
    ("stablelm", "it has LayerNorm and partial rotation"),
    ("olmo", "its norms are in other places"),
    ("granite", "it multiplies residuals, embeddings and logits by factors of its own"),
    ("cohere", "it has LayerNorm and parallel blocks"),
    ("minicpm", "it multiplies residuals, embeddings and logits by factors of its own"),
    ("smollm3", "some of its layers have no rotation"),
    ("llama4", "some of its layers have no rotation, and experts"),
    ("qwen3next", "it has linear attention"),
    ("mamba", "it has state spaces instead of attention"),
    ("rwkv", "it has a recurrence instead of attention"),
    ("lfm", "it has convolutions beside attention"),
    ("t5", "it has an encoder"),
    ("bart", "it has an encoder"),
    ("bert", "it is an encoder"),
    ("vl", "it reads images"),
    ("clip", "it reads images"),
    ("whisper", "it reads sound"),
];

/// The refusal of an architecture, with the supported ones.
pub fn architecture(keys: &Keys, key: &str, arch: &str, supported: &[&str]) -> Error {
    let lower = arch.to_lowercase();
    let error = Error::new("IG0201", format!("architecture {arch} is not supported"));
    let mut error = keys.place(error, key);
    if let Some((_, why)) = OTHERS.iter().find(|(part, _)| lower.contains(part)) {
        error = error.note(*why);
    }
    error.note(format!("supported: {}", supported.join(", ")))
}
