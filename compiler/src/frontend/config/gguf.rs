//! Hyper-parameters from GGUF metadata.

use super::{
    Config, Family, HeadKeys, count, count_or, gemma, limit, local, refuse, rope, score_scale,
};
use crate::Error;
use crate::frontend::gguf::Metadata;
use crate::frontend::json::Keys;
use crate::frontend::names::{BLOCK, EMBED, HEAD, Naming};
use crate::frontend::store::BlobSource;
use crate::tokenizer::Ids;
use ir::{Blobs, Gate, Rope, RopeScaling};

/// Architecture and family. Mistral files say `llama`.
const ARCHES: &[(&str, Family)] = &[
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma", Family::Gemma),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
];

const NAMES: HeadKeys = HeadKeys {
    heads: "attention.head_count",
    kv_heads: "attention.head_count_kv",
    head: "attention.key_length",
};

/// Divisors of the rotary frequencies.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// Reads the configuration of a GGUF file; what the metadata leaves open, the tensors tell.
pub fn read(metadata: &Metadata, store: &BlobSource) -> Result<Config, Error> {
    let general = metadata.keys();
    let (arch, family) = arch(&general)?;
    let keys = &general.with_prefix(&format!("{arch}."));
    refuse_features(keys)?;
    let hidden = count(keys, "embedding_length", limit::WIDTH)?;
    let heads = count(keys, NAMES.heads, limit::HEADS)?;
    let kv_heads = count_or(keys, NAMES.kv_heads, limit::HEADS, heads)?;
    let head = head(keys, hidden, heads)?;
    super::check_heads(keys, &NAMES, [heads, kv_heads, head])?;
    let context = count(keys, "context_length", limit::CONTEXT)?;
    let blocks = count(keys, "block_count", limit::BLOCKS)?;
    let mut rope = rope::gguf(keys, head)?;
    rope_freqs(&mut rope, store)?;
    let local = local::gguf(keys, &local::Facts { family, blocks, context, rope: &rope })?;
    let vocab = vocab(metadata, keys, store)?;
    let tokens = general.with_prefix("tokenizer.ggml.");
    Ok(Config {
        arch: arch.to_string(),
        family,
        hidden,
        ffn: count(keys, "feed_forward_length", limit::WIDTH)?,
        blocks,
        calls: 1,
        heads,
        kv_heads,
        head,
        vocab,
        context,
        eps: super::eps(keys, "attention.layer_norm_rms_epsilon", None)?,
        rope,
        tied: store.get(&HEAD.blob(Naming::Gguf, None)).is_none(),
        attention_bias: attention_bias(family, store),
        mlp_bias: has(store, "bgate"),
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        sandwich: family.is_gemma_from_2(),
        gate: if family.is_gemma() { Gate::Gelu } else { Gate::Silu },
        embed_scale: gemma::embed_scale(family, hidden),
        score_scale: score_scale(gemma::scored_gguf(family, [blocks, hidden, heads, head])),
        caps: gemma::caps(keys, family)?,
        local,
        bos: super::token_ids(&tokens, "bos_token_id", vocab)?.first().copied(),
        eos: eos(&tokens, vocab)?,
    })
}

fn arch<'a>(keys: &Keys<'a>) -> Result<(&'a str, Family), Error> {
    let key = "general.architecture";
    let arch = keys.text(key)?.ok_or_else(|| keys.missing(key))?;
    let supported: Vec<&str> = ARCHES.iter().map(|row| row.0).collect();
    match ARCHES.iter().find(|row| row.0 == arch) {
        Some(row) => Ok(*row),
        None => Err(refuse::architecture(keys, key, arch, &supported)),
    }
}

fn refuse_features(keys: &Keys) -> Result<(), Error> {
    if keys.int("expert_count")?.unwrap_or(0) > 0 {
        return Err(keys.unsupported("expert_count", "mixtures of experts are not supported"));
    }
    if keys.get("attention.causal").is_some() && !keys.flag("attention.causal")? {
        return Err(keys.unsupported("attention.causal", "encoders are not supported"));
    }
    Ok(())
}

fn head(keys: &Keys, hidden: u64, heads: u64) -> Result<u64, Error> {
    if !hidden.is_multiple_of(heads) && keys.get(NAMES.head).is_none() {
        let expected = format!("a divisor of embedding_length = {hidden}");
        return Err(keys.wrong(NAMES.heads, &heads.into(), &expected));
    }
    let head = count_or(keys, NAMES.head, limit::HEAD, hidden / heads)?;
    let value = count_or(keys, "attention.value_length", limit::HEAD, head)?;
    match value == head {
        true => super::in_range(keys, NAMES.head, head, limit::HEAD),
        false => Err(keys.wrong(
            "attention.value_length",
            &value.into(),
            &format!("{head}, the width of the keys"),
        )),
    }
}

/// The tokens of the tokenizer; without one, the rows of the embedding table.
fn vocab(metadata: &Metadata, keys: &Keys, store: &BlobSource) -> Result<u64, Error> {
    if let Some(tokens) = metadata.strings("tokenizer.ggml.tokens") {
        let general = metadata.keys();
        return super::in_range(
            &general,
            "tokenizer.ggml.tokens",
            tokens.len() as u64,
            limit::VOCAB,
        );
    }
    let rows = store.get(&EMBED.blob(Naming::Gguf, None)).and_then(|e| e.dims.first().copied());
    match rows {
        Some(rows) => count_or(keys, "vocab_size", limit::VOCAB, rows.min(limit::VOCAB)),
        None => count(keys, "vocab_size", limit::VOCAB),
    }
}

fn has(store: &BlobSource, role: &str) -> bool {
    let role = BLOCK.iter().find(|r| r.name == role);
    role.is_some_and(|role| store.get(&role.blob(Naming::Gguf, Some(0))).is_some())
}

fn attention_bias(family: Family, store: &BlobSource) -> [bool; 4] {
    match family {
        Family::Qwen2 => [true, true, true, false],
        _ => ["bq", "bk", "bv", "bo"].map(|role| has(store, role)),
    }
}

/// What a file says of its tokens, whatever its architecture.
pub fn ids(metadata: &Metadata) -> Result<Ids, Error> {
    let general = metadata.keys();
    let keys = general.with_prefix("tokenizer.ggml.");
    let rows = metadata.strings("tokenizer.ggml.tokens").map_or(0, <[String]>::len) as u64;
    let bos = super::token_ids(&keys, "bos_token_id", rows)?.first().copied();
    Ok(Ids { rows, bos, eos: eos(&keys, rows)? })
}

/// End of text, end of turn, end of message.
fn eos(tokens: &Keys, vocab: u64) -> Result<Vec<u32>, Error> {
    let mut eos = vec![];
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        for id in super::token_ids(tokens, key, vocab)? {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
    }
    Ok(eos)
}

/// Llama 3's scaling is stored as divisors of the frequencies, not as parameters.
fn rope_freqs(rope: &mut Rope, store: &BlobSource) -> Result<(), Error> {
    if store.get(ROPE_FREQS).is_none() {
        return Ok(());
    }
    let divisors = store.load(ROPE_FREQS)?;
    let unscaled = rope.scaling == RopeScaling::None;
    match rope::recognise(rope, &divisors.data).filter(|_| unscaled) {
        Some(scaling) => rope.scaling = scaling,
        None => {
            let error = Error::new("IG0210", "unknown scaling of the rotary frequencies");
            return Err(store
                .locate(error, ROPE_FREQS)
                .note(format!("found {} divisors", divisors.data.len()))
                .help(
                    "use the model's Hugging Face directory, whose config.json has the parameters",
                ));
        }
    }
    Ok(())
}
