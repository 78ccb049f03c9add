//! SentencePiece BPE: a list of pieces with scores becomes a definition with merges.
//!
//! The merges are derived as Hugging Face's converter does it: every way to cut a piece into two
//! pieces, best score first. `tokenizer.model` is read with the few fields that matter.

use super::definition::{Definition, invalid, unsupported};
use crate::Error;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Types of tokens, numbered as in SentencePiece and GGUF.
pub mod kind {
    /// Text.
    pub const NORMAL: i64 = 1;
    /// The token for what has no token.
    pub const UNKNOWN: i64 = 2;
    /// A mark.
    pub const CONTROL: i64 = 3;
    /// Text that is never cut.
    pub const USER: i64 = 4;
    /// Never produced.
    pub const UNUSED: i64 = 5;
}

/// The pieces of a model.
#[derive(Debug, Default)]
pub struct Vocab {
    /// Names.
    pub tokens: Vec<String>,
    /// Scores; higher merges first.
    pub scores: Vec<f64>,
    /// Types, see [`kind`].
    pub kinds: Vec<i64>,
}

/// No piece of a real model is longer, and cutting one costs the square of its length.
const LONGEST: usize = 1024;

/// The definition of a model; `prefix` puts a space before the text.
pub fn definition(vocab: &Vocab, prefix: bool) -> Result<Definition, Error> {
    let ids = ids(&vocab.tokens)?;
    let unknown = vocab.kinds.iter().position(|&kind| kind == kind::UNKNOWN);
    let normalizers = match prefix {
        true => vec![json!({"type": "Prepend", "prepend": "▁"}), spaces(" ", "▁")],
        false => vec![spaces(" ", "▁")],
    };
    let mut decoders =
        vec![spaces("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let model = json!({
        "type": "BPE",
        "unk_token": unknown.map(|id| &vocab.tokens[id]),
        "fuse_unk": true,
        "byte_fallback": true,
        "vocab": ids.iter().map(|(&name, &id)| (name.into(), id.into())).collect::<Map<_, Value>>(),
        "merges": merges(vocab, &ids)?,
    });
    let mut object = Map::new();
    object.insert("version".into(), "1.0".into());
    object.insert("added_tokens".into(), added_tokens(&vocab.tokens, &vocab.kinds));
    object.insert("normalizer".into(), json!({"type": "Sequence", "normalizers": normalizers}));
    object.insert("pre_tokenizer".into(), Value::Null);
    object.insert("decoder".into(), json!({"type": "Sequence", "decoders": decoders}));
    object.insert("model".into(), model);
    let mut definition = Definition::new(object)?;
    definition.unused = unused(&vocab.kinds);
    Ok(definition)
}

fn spaces(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

/// Ids by name; a name may occur once.
pub fn ids(tokens: &[String]) -> Result<HashMap<&str, u32>, Error> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, name) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert(name.as_str(), id as u32) {
            return Err(invalid(format!("tokens {first} and {id} are both {name:?}")));
        }
    }
    Ok(ids)
}

/// Tokens that are found in text before anything else.
pub fn added_tokens(tokens: &[String], kinds: &[i64]) -> Value {
    let added = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(**kind, kind::UNKNOWN | kind::CONTROL | kind::USER));
    let token = |(id, (content, kind)): (usize, (&String, &i64))| {
        json!({
            "id": id, "content": content, "special": *kind != kind::USER,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    added.map(token).collect()
}

/// Tokens marked as unused.
pub fn unused(kinds: &[i64]) -> std::collections::HashSet<u32> {
    let unused = kinds.iter().enumerate().filter(|(_, kind)| **kind == kind::UNUSED);
    unused.map(|(id, _)| id as u32).collect()
}

/// A merge with what orders it.
struct Candidate<'a> {
    left: &'a str,
    right: &'a str,
    score: f64,
}

fn merges(vocab: &Vocab, ids: &HashMap<&str, u32>) -> Result<Vec<Value>, Error> {
    let mergeable =
        |id: u32| matches!(vocab.kinds[id as usize], kind::NORMAL | kind::USER | kind::UNUSED);
    let part = |name: &str| ids.get(name).copied().filter(|&id| mergeable(id));
    let mut all: Vec<Candidate> = vec![];
    for (id, (name, &score)) in vocab.tokens.iter().zip(&vocab.scores).enumerate() {
        if !mergeable(id as u32) {
            continue;
        }
        if name.len() > LONGEST {
            return Err(invalid(format!("token {id} has {} bytes, at most {LONGEST}", name.len())));
        }
        let cuts = name.char_indices().skip(1).map(|(at, _)| name.split_at(at));
        let mut local: Vec<(u32, u32, Candidate)> = cuts
            .filter_map(|(l, r)| Some((part(l)?, part(r)?, Candidate { left: l, right: r, score })))
            .collect();
        local.sort_by_key(|(left, right, _)| (*left, *right));
        all.extend(local.into_iter().map(|(_, _, candidate)| candidate));
    }
    let length = |text: &str| text.chars().count();
    all.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| length(b.left).cmp(&length(a.left)))
            .then_with(|| length(b.right).cmp(&length(a.right)))
    });
    Ok(all.into_iter().map(|c| json!([c.left, c.right])).collect())
}

/// A field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The pieces of a tokenizer.model, and whether it puts a space before the text.
pub fn parse(bytes: &[u8]) -> Result<(Vocab, bool), Error> {
    let damaged = || invalid("tokenizer.model is no SentencePiece model, or cut short");
    let mut vocab = Vocab::default();
    // SentencePiece's defaults: unigram, with a space before the text.
    let (mut model, mut prefix) = (1, true);
    for (number, field) in fields(bytes).ok_or_else(damaged)? {
        match (number, field) {
            (1, Field::Bytes(piece)) => add_piece(&mut vocab, piece).ok_or_else(damaged)?,
            (2, Field::Bytes(trainer)) => {
                model = number_of(trainer, 3).ok_or_else(damaged)?.unwrap_or(model);
            }
            (3, Field::Bytes(normalizer)) => {
                let dummy = number_of(normalizer, 3).ok_or_else(damaged)?;
                prefix = dummy.map_or(prefix, |n| n != 0);
            }
            _ => {}
        }
    }
    if vocab.tokens.is_empty() {
        return Err(damaged());
    }
    if model != 2 {
        return Err(unsupported("a SentencePiece model other than BPE is not supported"));
    }
    Ok((vocab, prefix))
}

fn add_piece(vocab: &mut Vocab, piece: &[u8]) -> Option<()> {
    let (mut name, mut score, mut kind) = ("", 0.0, kind::NORMAL);
    for (number, field) in fields(piece)? {
        match (number, field) {
            (1, Field::Bytes(text)) => name = std::str::from_utf8(text).ok()?,
            (2, Field::Bytes(x)) => score = f32::from_le_bytes(x.try_into().ok()?).into(),
            (3, Field::Number(n)) => kind = i64::try_from(n).ok()?,
            _ => {}
        }
    }
    vocab.tokens.push(name.to_string());
    vocab.scores.push(score);
    vocab.kinds.push(kind);
    Some(())
}

fn number_of(message: &[u8], wanted: u64) -> Option<Option<u64>> {
    let found = fields(message)?.into_iter().find_map(|(number, field)| match field {
        Field::Number(n) if number == wanted => Some(n),
        _ => None,
    });
    Some(found)
}

/// The fields of a message; numbers of fixed width come as bytes. `None` if it is malformed.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = vec![];
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let length = match tag & 7 {
            0 => {
                fields.push((tag >> 3, Field::Number(varint(&mut bytes)?)));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = bytes.split_at_checked(length)?;
        fields.push((tag >> 3, Field::Bytes(field)));
        bytes = rest;
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}
