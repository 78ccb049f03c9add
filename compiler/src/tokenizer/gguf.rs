//! The tokenizer in the metadata of a GGUF file.

use super::definition::{Definition, invalid, unsupported};
use super::sentencepiece::{self, Vocab, added_tokens, kind};
use super::split::{self, Split};
use super::{Ids, Settings, Tokenizer};
use crate::Error;
use crate::frontend::gguf::{Array, Metadata};
use crate::frontend::json::Keys;
use serde_json::{Map, Value, json};

const PREFIX: &str = "tokenizer.ggml.";

impl Tokenizer {
    /// The tokenizer of a GGUF file, if it has one.
    pub fn from_gguf(metadata: &Metadata, ids: &Ids) -> Result<Option<Tokenizer>, Error> {
        let general = metadata.keys();
        let keys = general.with_prefix(PREFIX);
        let Some(model) = keys.text("model")? else { return Ok(None) };
        let place = |e: Error| e.file(metadata.path());
        let (definition, add_bos) = match model {
            "none" | "no_vocab" => return Ok(None),
            "gpt2" => byte_level(metadata, &keys)?,
            "llama" => {
                let prefix = flag(&keys, "add_space_prefix")?.unwrap_or(true);
                let vocab = vocab(metadata, true).map_err(place)?;
                (sentencepiece::definition(&vocab, prefix).map_err(place)?, true)
            }
            other => {
                let what = format!("a tokenizer of model {other:?} is not supported");
                return Err(keys.place(unsupported(what), "model"));
            }
        };
        let settings = Settings {
            bos: ids.bos,
            eos: ids.eos.first().copied(),
            add_bos: flag(&keys, "add_bos_token")?.unwrap_or(add_bos),
            chat_template: general.text("tokenizer.chat_template")?.map(str::to_string),
        };
        Tokenizer::build(metadata.path(), definition, settings, ids.rows).map(Some)
    }
}

fn flag(keys: &Keys, key: &str) -> Result<Option<bool>, Error> {
    match keys.get(key) {
        Some(_) => keys.flag(key).map(Some),
        None => Ok(None),
    }
}

/// The arrays of tokens, scores (if `scored`) and types; without types every token is text.
fn vocab(metadata: &Metadata, scored: bool) -> Result<Vocab, Error> {
    let Some(tokens) = metadata.strings(&format!("{PREFIX}tokens")) else {
        return Err(invalid(format!("{PREFIX}tokens is missing or no list of strings")));
    };
    let kinds = match metadata.array(&format!("{PREFIX}token_type")) {
        Some(Array::Ints(kinds)) => kinds.clone(),
        _ => vec![kind::NORMAL; tokens.len()],
    };
    let scores = match metadata.array(&format!("{PREFIX}scores")) {
        Some(Array::Floats(scores)) => scores.clone(),
        _ => vec![],
    };
    if kinds.len() != tokens.len() || scored && scores.len() != tokens.len() {
        return Err(invalid(format!(
            "found {} tokens, {} types, {} scores: one of each per token is expected",
            tokens.len(),
            kinds.len(),
            scores.len()
        )));
    }
    Ok(Vocab { tokens: tokens.to_vec(), scores, kinds })
}

/// Byte-level BPE, and whether it begins with `bos` where the file does not say.
fn byte_level(metadata: &Metadata, keys: &Keys) -> Result<(Definition, bool), Error> {
    let place = |e: Error| e.file(metadata.path());
    let pre = keys.text("pre")?.unwrap_or("default");
    let Some(split) = split::of_gguf(pre) else {
        let error = unsupported(format!("the pre-tokenizer {pre:?} is not supported"));
        return Err(keys.place(error.note(format!("supported: {}", split::gguf_names())), "pre"));
    };
    let Some(merges) = metadata.strings(&format!("{PREFIX}merges")) else {
        return Err(place(invalid(format!("{PREFIX}merges is missing or no list of strings"))));
    };
    let vocab = vocab(metadata, false).map_err(place)?;
    let ids = sentencepiece::ids(&vocab.tokens).map_err(place)?;
    let ids: Map<String, Value> = ids.iter().map(|(&name, &id)| (name.into(), id.into())).collect();
    let mut object = Map::new();
    object.insert("version".into(), "1.0".into());
    object.insert("added_tokens".into(), added_tokens(&vocab.tokens, &vocab.kinds));
    if split == Split::Qwen2 {
        object.insert("normalizer".into(), json!({"type": "NFC"}));
    }
    object.insert("pre_tokenizer".into(), split::pre_tokenizer(split));
    object.insert("decoder".into(), split::bytes(true));
    let model = json!({
        "type": "BPE",
        "vocab": ids,
        "merges": merges.iter().map(|merge| pair(merge)).collect::<Vec<Value>>(),
        "ignore_merges": split == Split::Llama3,
    });
    object.insert("model".into(), model);
    let mut definition = Definition::new(object).map_err(place)?;
    definition.unused = sentencepiece::unused(&vocab.kinds);
    Ok((definition, split == Split::Llama3))
}

/// `left right`, where the left part may begin with a space.
fn pair(merge: &str) -> Value {
    match merge.char_indices().skip(1).find(|(_, c)| *c == ' ') {
        Some((at, _)) => json!([merge[..at], merge[at + 1..]]),
        None => json!(merge),
    }
}
