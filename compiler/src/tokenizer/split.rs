//! How text is cut before merging: the known ways, by the names of GGUF and the form of
//! tokenizer.json.

use super::definition::components;
use serde_json::{Value, json};

/// A known way to cut text, so that code which is not this crate can do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Not at all: SentencePiece.
    Whole,
    /// GPT-2's contractions, words, numbers, other signs, spaces.
    Gpt2,
    /// Each digit alone, the rest as GPT-2.
    DigitsGpt2,
    /// Llama 3: contractions in any case, up to three digits.
    Llama3,
    /// Qwen 2: as Llama 3, each digit alone.
    Qwen2,
    /// Another one, which only the `tokenizers` crate can follow.
    Other,
}

/// Where a space is put before text that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Nowhere.
    None,
    /// Before the text.
    First,
    /// Before the text, and again after each special token in it.
    Always,
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// `tokenizer.ggml.pre` of GGUF files.
const GGUF_NAMES: &[(&str, Split)] = &[
    ("gpt-2", Split::Gpt2),
    ("default", Split::Gpt2),
    ("smollm", Split::DigitsGpt2),
    ("llama-bpe", Split::Llama3),
    ("llama3", Split::Llama3),
    ("llama-v3", Split::Llama3),
    ("qwen2", Split::Qwen2),
    ("deepseek-r1-qwen", Split::Qwen2),
];

/// The way of a GGUF name.
pub fn of_gguf(name: &str) -> Option<Split> {
    GGUF_NAMES.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// The names GGUF files may use, for messages.
pub fn gguf_names() -> String {
    let names: Vec<&str> = GGUF_NAMES.iter().map(|row| row.0).collect();
    names.join(", ")
}

/// The `pre_tokenizer` of a byte-level definition.
pub fn pre_tokenizer(split: Split) -> Value {
    let first = match split {
        Split::DigitsGpt2 => json!({"type": "Digits", "individual_digits": true}),
        Split::Llama3 => regex(LLAMA3),
        Split::Qwen2 => regex(QWEN2),
        Split::Gpt2 | Split::Whole | Split::Other => return bytes(true),
    };
    let last = bytes(split == Split::DigitsGpt2);
    json!({"type": "Sequence", "pretokenizers": [first, last]})
}

/// The step that turns text into characters of bytes, cutting it as GPT-2 if `regex`.
pub fn bytes(regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex,
    })
}

fn regex(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// Which known way a definition describes.
pub fn recognise(json: &Value) -> (Split, Prefix) {
    let steps = components(&json["pre_tokenizer"]);
    let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
    let last = steps.last().copied().unwrap_or(&Value::Null);
    let gpt2 = last["use_regex"] != false;
    let split = match kinds.as_slice() {
        _ if !plain_normalizer(json) => Split::Other,
        [] => Split::Whole,
        ["Metaspace"] if last["split"] == false => Split::Whole,
        ["ByteLevel"] if gpt2 => Split::Gpt2,
        ["Digits", "ByteLevel"] if gpt2 && steps[0]["individual_digits"] == true => {
            Split::DigitsGpt2
        }
        ["Split", "ByteLevel"] if !gpt2 && *steps[0] == regex(LLAMA3) => Split::Llama3,
        ["Split", "ByteLevel"] if !gpt2 && *steps[0] == regex(QWEN2) => Split::Qwen2,
        _ => Split::Other,
    };
    (split, prefix(json, last))
}

/// Whether text before the cut changes in known ways only: NFC, and `▁` for spaces.
fn plain_normalizer(json: &Value) -> bool {
    components(&json["normalizer"]).iter().all(|step| match step["type"].as_str() {
        Some("NFC") => true,
        Some("Prepend") => step["prepend"] == "▁",
        Some("Replace") => step["pattern"]["String"] == " " && step["content"] == "▁",
        _ => false,
    })
}

fn prefix(json: &Value, last: &Value) -> Prefix {
    let prepends = components(&json["normalizer"]).iter().any(|step| step["type"] == "Prepend");
    match (last["type"].as_str(), last["prepend_scheme"].as_str()) {
        _ if prepends => Prefix::Always,
        (Some("Metaspace"), Some("first")) => Prefix::First,
        (Some("Metaspace"), Some("never")) => Prefix::None,
        (Some("Metaspace"), _) => Prefix::Always,
        (Some("ByteLevel"), _) if last["add_prefix_space"] == true => Prefix::Always,
        _ => Prefix::None,
    }
}
