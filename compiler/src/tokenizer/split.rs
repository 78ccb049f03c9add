//! How text is cut before merging: GGUF has a name where tokenizer.json has the steps themselves.

use super::definition::components;
use serde_json::{Value, json};

/// A way to cut text that GGUF has names for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// GPT-2's contractions, words, numbers, other signs, spaces.
    Gpt2,
    /// Each digit alone, the rest as GPT-2.
    DigitsGpt2,
    /// Llama 3: contractions in any case, up to three digits.
    Llama3,
    /// Qwen 2: as Llama 3, each digit alone.
    Qwen2,
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
        Split::Gpt2 => return bytes(true),
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

/// Where a definition puts a space.
pub fn prefix(json: &Value) -> Prefix {
    let steps = components(&json["pre_tokenizer"]);
    let last = steps.last().copied().unwrap_or(&Value::Null);
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
