//! A tokenizer in the form of tokenizer.json, checked before the `tokenizers` crate sees it.
//!
//! The crate trusts its input in places (merges longer than every token, affixes longer than a
//! merge), and Unigram or WordPiece would give device code nothing to work with: both are refused.

use super::{Alphabet, Merge};
use crate::Error;
use crate::frontend::json::brief;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// A definition and what its form does not say.
#[derive(Debug)]
pub struct Definition {
    /// In the form of tokenizer.json.
    pub json: Value,
    /// What the characters of token names stand for.
    pub alphabet: Alphabet,
    /// Tokens that are marked as unused.
    pub unused: HashSet<u32>,
}

/// Steps whose meaning is known; anything else is refused by name.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("normalizer", &["Sequence", "NFC", "Prepend", "Replace"]),
    ("pre_tokenizer", &["Sequence", "ByteLevel", "Digits", "Split", "Metaspace"]),
    (
        "decoder",
        &["Sequence", "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"],
    ),
];

/// An error about a damaged definition.
pub fn invalid(note: impl Into<String>) -> Error {
    Error::new("IG0301", "invalid tokenizer").note(note)
}

/// An error about a definition of another kind.
pub fn unsupported(what: impl Into<String>) -> Error {
    Error::new("IG0302", what)
        .note("supported: byte-level BPE and SentencePiece BPE")
        .help("without tokenizer.json a model directory is compiled too, to a library without text")
}

fn beyond(token: &str, id: u64, rows: u64) -> Error {
    Error::new("IG0303", "the tokenizer has more tokens than the model")
        .note(format!("token {token:?} is {id}, the embedding table has {rows} rows"))
        .help("remove the token from the tokenizer, or add a row for it to the model")
}

impl Definition {
    /// A definition read from tokenizer.json; what ingot does itself is taken out.
    pub fn new(mut json: Map<String, Value>) -> Result<Definition, Error> {
        for key in ["truncation", "padding", "post_processor"] {
            json.remove(key);
        }
        let json = Value::Object(json);
        check_components(&json)?;
        let alphabet = alphabet(&json)?;
        Ok(Definition { json, alphabet, unused: HashSet::new() })
    }

    /// The definition without what is large.
    pub fn form(&self) -> Value {
        let Some(object) = self.json.as_object() else { return Value::Null };
        let parts = object.iter().filter(|(key, _)| *key != "model");
        let mut form: Map<String, Value> = parts.map(|(k, v)| (k.clone(), v.clone())).collect();
        let model = self.json["model"].as_object().into_iter().flatten();
        let small = model.filter(|(key, _)| !matches!(key.as_str(), "vocab" | "merges"));
        let small: Map<String, Value> = small.map(|(k, v)| (k.clone(), v.clone())).collect();
        form.insert("model".into(), small.into());
        form.into()
    }

    /// Whether characters without a token become bytes.
    pub fn byte_fallback(&self) -> bool {
        self.json["model"]["byte_fallback"] == true
    }

    /// Whether a part has a step of that type.
    pub fn has_component(&self, part: &str, kind: &str) -> bool {
        components(&self.json[part]).iter().any(|step| step["type"] == kind)
    }

    /// Checks the vocabulary against the model's rows; returns the merges as tokens.
    pub fn check(&self, rows: u64) -> Result<Vec<Merge>, Error> {
        let model = &self.json["model"];
        check_model(model)?;
        let vocab = vocab(model, rows)?;
        if let Some(unknown) = model["unk_token"].as_str()
            && !vocab.contains_key(unknown)
        {
            return Err(invalid(format!("the unknown token {unknown:?} is no token")));
        }
        let Some(merges) = model["merges"].as_array() else {
            return Err(invalid("model.merges is not a list"));
        };
        merges.iter().enumerate().map(|(rank, merge)| self::merge(&vocab, rank, merge)).collect()
    }

    /// Checks that added tokens got the ids they ask for.
    pub fn check_added(&self, inner: &tokenizers::Tokenizer, rows: u64) -> Result<(), Error> {
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let (id, name) = (token["id"].as_u64(), token["content"].as_str().unwrap_or_default());
            let found = inner.token_to_id(name).map(u64::from);
            match (id, found) {
                (Some(id), Some(found)) if id == found && id < rows => {}
                (Some(id), _) if id >= rows => return Err(beyond(name, id, rows)),
                _ => {
                    return Err(invalid(format!(
                        "the added token {name:?} asks for another id than the vocabulary gives it"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The steps of a part: a sequence is its steps, null has none.
pub fn components(part: &Value) -> Vec<&Value> {
    if part.is_null() {
        return vec![];
    }
    let inner = ["normalizers", "pretokenizers", "decoders"].iter().find_map(|key| part.get(key));
    match inner.and_then(Value::as_array) {
        Some(steps) => steps.iter().flat_map(components).collect(),
        None => vec![part],
    }
}

/// What token names are made of, as the decoder tells.
fn alphabet(json: &Value) -> Result<Alphabet, Error> {
    let steps = components(&json["decoder"]);
    let bytes = |step: &&Value| step["type"] == "ByteLevel";
    let spaces = |step: &&Value| match step["type"].as_str() {
        Some("Replace") => step["pattern"]["String"] == "▁" && step["content"] == " ",
        Some("Metaspace") => step["replacement"] == "▁",
        _ => false,
    };
    let other = |step: &&Value| match step["type"].as_str() {
        Some("Strip") => step["content"] != " " || step["stop"] != 0,
        Some("Replace" | "Metaspace") => !spaces(step),
        _ => false,
    };
    match steps.as_slice() {
        [step] if bytes(step) => Ok(Alphabet::Bytes),
        all if all.iter().filter(|s| spaces(s)).count() == 1
            && !all.iter().any(|s| other(s) || bytes(s)) =>
        {
            Ok(Alphabet::Text)
        }
        _ => Err(unsupported("a tokenizer with this decoder is not supported")
            .note(format!("found {}", brief(&json["decoder"])))),
    }
}

fn check_components(json: &Value) -> Result<(), Error> {
    for (part, known) in COMPONENTS {
        for step in components(&json[*part]) {
            let kind = step["type"].as_str().unwrap_or("without a type");
            if !known.contains(&kind) {
                return Err(unsupported(format!(
                    "a tokenizer with {part} {kind} is not supported"
                )));
            }
        }
    }
    Ok(())
}

fn check_model(model: &Value) -> Result<(), Error> {
    let kind = model["type"].as_str().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(unsupported(format!("a {kind} tokenizer is not supported")));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        let value = &model[key];
        if !value.is_null() && value.as_str() != Some("") && value.as_f64() != Some(0.0) {
            return Err(unsupported(format!("a tokenizer with {key} is not supported")));
        }
    }
    Ok(())
}

/// Tokens by name; each id below the number of rows, and no id twice.
fn vocab(model: &Value, rows: u64) -> Result<HashMap<&str, u32>, Error> {
    let Some(object) = model["vocab"].as_object() else {
        return Err(invalid("model.vocab is not an object"));
    };
    let mut vocab = HashMap::with_capacity(object.len());
    let mut seen = HashSet::with_capacity(object.len());
    for (name, id) in object {
        let Some(id) = id.as_u64() else {
            return Err(invalid(format!("the id of token {name:?} is {id}")));
        };
        if id >= rows {
            return Err(beyond(name, id, rows));
        }
        if !seen.insert(id) {
            return Err(invalid(format!("two tokens have the id {id}, one is {name:?}")));
        }
        vocab.insert(name.as_str(), id as u32);
    }
    Ok(vocab)
}

/// A merge is two names in a list, or in one string with a space between.
fn merge(vocab: &HashMap<&str, u32>, rank: usize, merge: &Value) -> Result<Merge, Error> {
    let pair = match merge {
        Value::String(text) => text.split_once(' '),
        other => match other.as_array().map(Vec::as_slice) {
            Some([left, right]) => left.as_str().zip(right.as_str()),
            _ => None,
        },
    };
    let Some((left, right)) = pair else {
        return Err(invalid(format!("merge {rank} is no pair: {}", brief(merge))));
    };
    let token = |name: &str| {
        let found = vocab.get(name).copied();
        found.ok_or_else(|| invalid(format!("merge {rank} needs a token {name:?}")))
    };
    let whole = format!("{left}{right}");
    Ok(Merge { left: token(left)?, right: token(right)?, result: token(&whole)? })
}
