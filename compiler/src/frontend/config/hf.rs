//! Hyper-parameters from config.json and generation_config.json.

use super::rope::Spelling;
use super::{
    Config, Family, HeadKeys, count, count_or, gemma, limit, local, refuse, rope, score_scale,
};
use crate::Error;
use crate::frontend::json::{Keys, read_object, read_optional};
use ir::Gate;
use serde_json::{Map, Value};
use std::path::Path;

/// Class name, `model_type`, family.
const CLASSES: &[(&str, &str, Family)] = &[
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("MistralForCausalLM", "mistral", Family::Mistral),
    ("MobileLLMForCausalLM", "mobilellm", Family::MobileLlm),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
    ("GemmaForCausalLM", "gemma", Family::Gemma),
    ("Gemma2ForCausalLM", "gemma2", Family::Gemma2),
    ("Gemma3ForCausalLM", "gemma3_text", Family::Gemma3),
];

/// The rotary base of Gemma 3 where all positions are seen.
const GEMMA3_THETA: f64 = 1_000_000.0;

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
    refuse_features(keys, family)?;
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
    let spelling = match family {
        Family::Gemma3 => Spelling::Global { theta: GEMMA3_THETA },
        _ => Spelling::Plain,
    };
    let rope = rope::hf(keys, head, spelling)?;
    let local = local::hf(keys, &local::Facts { family, blocks, context, rope: &rope })?;
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
        rope,
        tied: tied(keys, family)? || mobile("share_embedding")?,
        attention_bias: attention_bias(keys, family)?,
        mlp_bias: matches!(family, Family::Llama | Family::MobileLlm) && keys.flag("mlp_bias")?,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        sandwich: family.is_gemma_from_2(),
        gate: if family.is_gemma() { Gate::Gelu } else { Gate::Silu },
        embed_scale: gemma::embed_scale(family, hidden),
        score_scale: score_scale(gemma::scored_hf(keys, family, head)?),
        caps: gemma::caps(keys, family)?,
        local,
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
        Some(row) => {
            agree(keys, row)?;
            Ok((named.unwrap_or(row.0), row.2))
        }
        None => Err(refuse::architecture(keys, "architectures", arch, &supported)),
    }
}

/// `model_type`, where it is there, must be that of the class: they differ in what is not written
/// down, such as biases.
fn agree(keys: &Keys, (class, kind, _): &(&str, &str, Family)) -> Result<(), Error> {
    match keys.get("model_type") {
        Some(found) if found != kind => Err(keys
            .wrong("model_type", found, &format!("\"{kind}\", as architectures says {class}"))
            .help("correct the one that is wrong: they are two different models")),
        _ => Ok(()),
    }
}

/// Features that change the output and are not compiled.
fn refuse_features(keys: &Keys, family: Family) -> Result<(), Error> {
    activation(keys, family)?;
    if family.is_gemma() && keys.flag("use_bidirectional_attention")? {
        return Err(keys.unsupported("use_bidirectional_attention", "encoders are not supported"));
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

/// The activation of a family, by any of its names.
fn activation(keys: &Keys, family: Family) -> Result<(), Error> {
    let (key, known): (_, &[&str]) = match family {
        // The first Gemma was published with the name of the exact function, and never meant it.
        Family::Gemma if keys.get("hidden_activation").is_none() => {
            ("hidden_act", &["gelu_pytorch_tanh", "gelu"])
        }
        _ if family.is_gemma() => ("hidden_activation", &["gelu_pytorch_tanh"]),
        _ => ("hidden_act", &["silu", "swish"]),
    };
    match keys.text(key)? {
        Some(other) if !known.contains(&other) => {
            let what = format!("activation {other:?} is not supported");
            Err(keys.unsupported(key, what).note(format!("supported: {}", known[0])))
        }
        _ => Ok(()),
    }
}

/// Whether the output matrix is the embedding table: Gemma's is unless it says otherwise.
fn tied(keys: &Keys, family: Family) -> Result<bool, Error> {
    let key = "tie_word_embeddings";
    Ok(keys.flag(key)? || (family.is_gemma() && keys.get(key).is_none()))
}

fn head(keys: &Keys, family: Family, hidden: u64, heads: u64) -> Result<u64, Error> {
    if keys.get(NAMES.head).is_some() || family == Family::Qwen3 || family.is_gemma() {
        return count(keys, NAMES.head, limit::HEAD);
    }
    if !hidden.is_multiple_of(heads) {
        let expected = format!("a divisor of hidden_size = {hidden}, as head_dim is not given");
        return Err(keys.wrong(NAMES.heads, &Value::from(heads), &expected));
    }
    super::in_range(keys, NAMES.head, hidden / heads, limit::HEAD)
}

fn attention_bias(keys: &Keys, family: Family) -> Result<[bool; 4], Error> {
    match family {
        Family::Qwen2 => Ok([true, true, true, false]),
        Family::Mistral => Ok([false; 4]),
        _ => Ok([keys.flag("attention_bias")?; 4]),
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
