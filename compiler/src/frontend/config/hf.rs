//! Hyper-parameters from config.json and generation_config.json.

use super::{Config, Family, HeadKeys, count, count_or, limit, refuse, refuse_window, rope};
use crate::Error;
use crate::frontend::json::{Keys, read_object, read_optional};
use serde_json::{Map, Value};
use std::path::Path;

/// Class name, `model_type`, family.
const CLASSES: &[(&str, &str, Family)] = &[
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("MistralForCausalLM", "mistral", Family::Mistral),
    ("MobileLLMForCausalLM", "mobilellm", Family::MobileLlm),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
];

const NAMES: HeadKeys =
    HeadKeys { heads: "num_attention_heads", kv_heads: "num_key_value_heads", head: "head_dim" };

/// Reads the configuration of a model directory.
pub fn read(dir: &Path) -> Result<Config, Error> {
    let path = dir.join("config.json");
    let object = read_object(&path)?;
    let generation_path = dir.join("generation_config.json");
    let generation = read_optional(&generation_path)?;
    let keys = Keys::new(&path, &object);
    let mut config = from_keys(&keys)?;
    if let Some(object) = &generation {
        override_tokens(&mut config, &generation_path, object)?;
    }
    Ok(config)
}

fn from_keys(keys: &Keys) -> Result<Config, Error> {
    let (arch, family) = class(keys)?;
    refuse_features(keys)?;
    let hidden = count(keys, "hidden_size", limit::WIDTH)?;
    let heads = count(keys, NAMES.heads, limit::HEADS)?;
    let kv_heads = match family {
        Family::Llama | Family::MobileLlm => count_or(keys, NAMES.kv_heads, limit::HEADS, heads)?,
        _ => count(keys, NAMES.kv_heads, limit::HEADS)?,
    };
    let head = head(keys, family, hidden, heads)?;
    super::check_heads(keys, &NAMES, [heads, kv_heads, head])?;
    let blocks = count(keys, "num_hidden_layers", limit::BLOCKS)?;
    let context = count(keys, "max_position_embeddings", limit::CONTEXT)?;
    windows(keys, family, blocks, context)?;
    let vocab = count(keys, "vocab_size", limit::VOCAB)?;
    let mobile = |key: &str| match family {
        Family::MobileLlm => keys.flag(key),
        _ => Ok(false),
    };
    Ok(Config {
        arch: arch.to_string(),
        family,
        hidden,
        ffn: count(keys, "intermediate_size", limit::WIDTH)?,
        blocks,
        calls: if mobile("layer_sharing")? { 2 } else { 1 },
        heads,
        kv_heads,
        head,
        vocab,
        context,
        eps: super::eps(keys, "rms_norm_eps", Some(1e-6))?,
        rope: rope::hf(keys, head)?,
        tied: keys.flag("tie_word_embeddings")? || mobile("share_embedding")?,
        attention_bias: attention_bias(keys, family)?,
        mlp_bias: matches!(family, Family::Llama | Family::MobileLlm) && keys.flag("mlp_bias")?,
        qk_norm: family == Family::Qwen3,
        bos: super::token_ids(keys, "bos_token_id", vocab)?.first().copied(),
        eos: super::token_ids(keys, "eos_token_id", vocab)?,
    })
}

fn class<'a>(keys: &Keys<'a>) -> Result<(&'a str, Family), Error> {
    let model_type = keys.text("model_type")?;
    let named = match keys.get("architectures") {
        None => None,
        Some(list) => match list.as_array().and_then(|list| list.first()).map(Value::as_str) {
            Some(Some(name)) => Some(name),
            _ => return Err(keys.wrong("architectures", list, "a list with a class name")),
        },
    };
    let row = match (named, model_type) {
        (Some(name), _) => CLASSES.iter().find(|row| row.0 == name),
        (None, Some(kind)) => CLASSES.iter().find(|row| row.1 == kind),
        (None, None) => return Err(keys.missing("architectures")),
    };
    let arch = named.or(model_type).unwrap_or_default();
    let supported: Vec<&str> = CLASSES.iter().map(|row| row.0).collect();
    match row {
        Some(row) => Ok((named.unwrap_or(row.0), row.2)),
        None => Err(refuse::architecture(keys, "architectures", arch, &supported)),
    }
}

/// Features that change the output and are not compiled.
fn refuse_features(keys: &Keys) -> Result<(), Error> {
    let act = keys.text("hidden_act")?.unwrap_or("silu");
    if !matches!(act, "silu" | "swish") {
        let what = format!("activation {act:?} is not supported");
        return Err(keys.unsupported("hidden_act", what).note("supported: silu"));
    }
    if keys.int("pretraining_tp")?.unwrap_or(1) > 1 {
        let what = "sliced matrices are not supported";
        let error = keys.unsupported("pretraining_tp", what);
        return Err(error.help("set it to 1: the slices only change the order of sums"));
    }
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        if keys.int(key)?.unwrap_or(0) > 0 {
            return Err(keys.unsupported(key, "mixtures of experts are not supported"));
        }
    }
    if let Some(quant) = keys.object("quantization_config")? {
        let method = quant.text("quant_method")?.unwrap_or("unnamed");
        let what = format!("a checkpoint quantised with {method} is not supported");
        let error = keys.unsupported("quantization_config", what);
        return Err(error.help("compile the original model and quantise it with --quant"));
    }
    Ok(())
}

fn head(keys: &Keys, family: Family, hidden: u64, heads: u64) -> Result<u64, Error> {
    if keys.get(NAMES.head).is_some() || family == Family::Qwen3 {
        return count(keys, NAMES.head, limit::HEAD);
    }
    if !hidden.is_multiple_of(heads) {
        let expected = format!("a divisor of hidden_size = {hidden}, as head_dim is not given");
        return Err(keys.wrong(NAMES.heads, &Value::from(heads), &expected));
    }
    super::in_range(keys, NAMES.head, hidden / heads, limit::HEAD)
}

fn windows(keys: &Keys, family: Family, blocks: u64, context: u64) -> Result<(), Error> {
    if let Some(Value::Array(kinds)) = keys.get("layer_types") {
        if let Some(other) = kinds.iter().find(|kind| *kind != "full_attention") {
            let what = format!("layers of type {other} are not supported");
            return Err(keys.unsupported("layer_types", what).note("supported: full_attention"));
        }
        return Ok(());
    }
    match family {
        Family::Llama | Family::MobileLlm => Ok(()),
        Family::Mistral => refuse_window(keys, "sliding_window", context),
        Family::Qwen2 | Family::Qwen3 => {
            let first = keys.int("max_window_layers")?.unwrap_or(0);
            match keys.flag("use_sliding_window")? && first < blocks {
                true => refuse_window(keys, "sliding_window", context),
                false => Ok(()),
            }
        }
    }
}

fn attention_bias(keys: &Keys, family: Family) -> Result<[bool; 4], Error> {
    match family {
        Family::Qwen2 => Ok([true, true, true, false]),
        Family::Mistral => Ok([false; 4]),
        Family::Llama | Family::MobileLlm | Family::Qwen3 => Ok([keys.flag("attention_bias")?; 4]),
    }
}

/// generation_config.json names every token that ends a turn; config.json often only one.
fn override_tokens(
    config: &mut Config,
    path: &Path,
    object: &Map<String, Value>,
) -> Result<(), Error> {
    let keys = Keys::new(path, object);
    let eos = super::token_ids(&keys, "eos_token_id", config.vocab)?;
    if !eos.is_empty() {
        config.eos = eos;
    }
    if let Some(&bos) = super::token_ids(&keys, "bos_token_id", config.vocab)?.first() {
        config.bos = Some(bos);
    }
    Ok(())
}
