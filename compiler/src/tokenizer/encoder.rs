//! A tokenizer as the device needs it, or why the device cannot have it.

use super::definition::components;
use super::pieces::{byte_alphabet, fallback_byte};
use super::{Alphabet, Tokenizer};
use super::{automaton, normal};
use crate::frontend::json::brief;
use runtime::encode::{self, Added, Cut, Encoder, Prefix};
use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::Model;

/// Where `ByteLevel` cuts.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Where `Metaspace` cuts: before each space.
const SPACES: &str = r" [^ ]*|[^ ]+";
/// The longest token that tables take.
const LONGEST: usize = 1024;

impl Tokenizer {
    /// What `NAME_encode` is made of; what stands against it otherwise.
    pub fn encoder(&self) -> Result<Encoder, String> {
        let names = self.names();
        let tokens: Vec<Option<Vec<u8>>> = match self.alphabet {
            Alphabet::Bytes => {
                let bytes_of = byte_alphabet();
                names.iter().map(|name| bytes(&bytes_of, name.as_deref()?)).collect()
            }
            Alphabet::Text => names.iter().map(|name| characters(name.as_deref()?)).collect(),
        };
        if let Some(long) = tokens.iter().flatten().find(|bytes| bytes.len() > LONGEST) {
            return Err(format!("a token of {} bytes", long.len()));
        }
        let fallback = match self.alphabet {
            Alphabet::Bytes => self.check_bytes(&tokens).map(|()| None)?,
            Alphabet::Text => Some(self.fallback(&names, &tokens)?),
        };
        let (cuts, prefix) = self.cuts()?;
        let added = self.added()?;
        Ok(Encoder {
            alphabet: match self.alphabet {
                Alphabet::Bytes => encode::Alphabet::Bytes,
                Alphabet::Text => encode::Alphabet::Characters,
            },
            tokens,
            merges: self.merges.clone(),
            fallback,
            whole: self.form["model"]["ignore_merges"] == true,
            normal: self.nfc.then(normal::normal),
            cuts,
            prefix: self.prefix_of_normalizer()?.unwrap_or(prefix),
            around: added.iter().any(Added::looks_around).then(automaton::around),
            added,
        })
    }

    /// Names of the tokens that text can be merged to.
    fn names(&self) -> Vec<Option<String>> {
        let model = self.inner.get_model();
        (0..self.pieces.len() as u32).map(|id| model.id_to_token(id)).collect()
    }

    /// A byte without a token vanishes, unless it becomes the unknown token.
    fn check_bytes(&self, tokens: &[Option<Vec<u8>>]) -> Result<(), String> {
        let singles = tokens.iter().flatten().filter(|bytes| bytes.len() == 1).count();
        match self.form["model"]["unk_token"].is_null() || singles == 256 {
            true => Ok(()),
            false => Err("bytes without a token become the unknown token".into()),
        }
    }

    /// The tokens of bytes, which must all be there.
    fn fallback(
        &self,
        names: &[Option<String>],
        tokens: &[Option<Vec<u8>>],
    ) -> Result<Box<[u32; 256]>, String> {
        if self.form["model"]["byte_fallback"] != true {
            return Err("characters without a token become the unknown token".into());
        }
        if !tokens.iter().flatten().any(|bytes| bytes == b" ") {
            return Err("no token stands for a space".into());
        }
        let mut found = Box::new([u32::MAX; 256]);
        for (id, name) in names.iter().enumerate() {
            // The names that are looked for have digits in upper case.
            let byte = name.as_deref().filter(|n| !n.contains(|c: char| matches!(c, 'a'..='f')));
            if let Some(byte) = byte.and_then(fallback_byte) {
                found[usize::from(byte)] = id as u32;
            }
        }
        match found.iter().position(|&token| token == u32::MAX) {
            Some(byte) => Err(format!("no token stands for the byte {byte}")),
            None => Ok(found),
        }
    }

    /// What the normalizer puts before text, if it has a say in that.
    fn prefix_of_normalizer(&self) -> Result<Option<Prefix>, String> {
        let steps = components(&self.form["normalizer"]);
        let spaces = |step: &&Value| {
            step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == "▁"
        };
        let prepend = |step: &&Value| step["type"] == "Prepend" && step["prepend"] == "▁";
        match (self.alphabet, steps.as_slice()) {
            (_, []) => Ok(None),
            (Alphabet::Bytes, [step]) if step["type"] == "NFC" => Ok(None),
            (Alphabet::Text, [step]) if spaces(step) => Ok(Some(Prefix::None)),
            (Alphabet::Text, [first, second]) if prepend(first) && spaces(second) => {
                Ok(Some(Prefix::Every))
            }
            _ => Err(format!("normalizer {}", brief(&self.form["normalizer"]))),
        }
    }

    /// How text is cut, and what the pre-tokenizer puts before it.
    fn cuts(&self) -> Result<(Vec<Cut>, Prefix), String> {
        let steps = components(&self.form["pre_tokenizer"]);
        let unknown = |step: &Value| format!("pre-tokenizer {}", brief(step));
        match (self.alphabet, steps.as_slice()) {
            (Alphabet::Text, []) if !self.form["normalizer"].is_null() => {
                Ok((vec![], Prefix::None))
            }
            (Alphabet::Text, [step]) if step["type"] == "Metaspace" => metaspace(step),
            (Alphabet::Bytes, [before @ .., last]) if last["type"] == "ByteLevel" => {
                let cuts = before.iter().map(|step| self::cut(step));
                let mut cuts = cuts.collect::<Result<Vec<Cut>, String>>()?;
                if last["use_regex"] != false {
                    cuts.push(automaton::compile(GPT2)?);
                }
                match (last["add_prefix_space"] != false, before) {
                    (false, _) => Ok((cuts, Prefix::None)),
                    (true, []) => Ok((cuts, Prefix::Missing)),
                    (true, _) => Err(unknown(last)),
                }
            }
            _ => Err(unknown(&self.form["pre_tokenizer"])),
        }
    }

    /// The tokens that are found as they are spelled.
    fn added(&self) -> Result<Vec<Added>, String> {
        let mut added = BTreeMap::new();
        let all = self.form["added_tokens"].as_array().into_iter().flatten();
        for token in all.clone() {
            let name = token["content"].as_str().unwrap_or_default();
            let flag = |flag: &str| token[flag] == true;
            let [lstrip, rstrip, single_word] = ["lstrip", "rstrip", "single_word"].map(flag);
            let around = lstrip || rstrip || single_word;
            // Those that are normalised are looked for in what the others leave.
            let after = |other: &Value| {
                let name_of_other = other["content"].as_str().unwrap_or_default();
                other["normalized"] != true && (around || overlap(name, name_of_other))
            };
            let changed = !components(&self.form["normalizer"]).is_empty();
            if token["normalized"] == true && (changed || all.clone().any(after)) {
                return Err(format!("the added token {name:?}, which is looked for after others"));
            }
            let spaced =
                |other: &Value| other["content"].as_str().is_some_and(|name| name != name.trim());
            if (lstrip || rstrip) && all.clone().any(spaced) {
                return Err(format!("the added token {name:?}, which takes a part of others"));
            }
            if self.nfc && normal::can_arise(name) {
                return Err(format!("the added token {name:?}, which NFC may lead to"));
            }
            let Some(id) = self.inner.token_to_id(name).filter(|_| !name.is_empty()) else {
                continue;
            };
            if name.len() > LONGEST {
                return Err(format!("an added token of {} bytes", name.len()));
            }
            let special = token["special"] == true;
            let bytes = name.as_bytes().to_vec();
            let token = Added { bytes, token: id, special, lstrip, rstrip, single_word };
            added.insert(name, token);
        }
        Ok(added.into_values().collect())
    }
}

/// Whether two strings can share a part of a text.
fn overlap(a: &str, b: &str) -> bool {
    let ends = |a: &str, b: &str| (1..=b.len()).any(|n| a.as_bytes().ends_with(&b.as_bytes()[..n]));
    a.contains(b) || b.contains(a) || ends(a, b) || ends(b, a)
}

/// The cut of a step before `ByteLevel`.
fn cut(step: &Value) -> Result<Cut, String> {
    let invalid = |why: String| format!("pre-tokenizer {} ({why})", brief(step));
    match step["type"].as_str() {
        Some("Digits") if step["individual_digits"] == true => {
            automaton::single(char::is_numeric).map_err(invalid)
        }
        Some("Split") if step["behavior"] == "Isolated" && step["invert"] != true => {
            match step["pattern"]["Regex"].as_str() {
                Some(expression) => automaton::compile(expression).map_err(invalid),
                None => Err(format!("pre-tokenizer {}", brief(step))),
            }
        }
        _ => Err(format!("pre-tokenizer {}", brief(step))),
    }
}

fn metaspace(step: &Value) -> Result<(Vec<Cut>, Prefix), String> {
    let prefix = match step["prepend_scheme"].as_str() {
        Some("never") => Prefix::None,
        Some("first") => Prefix::First,
        _ if step["add_prefix_space"] == false => Prefix::None,
        _ => Prefix::Missing,
    };
    let split = step["split"] != false;
    let cut = split.then(|| automaton::compile(SPACES)).transpose()?;
    Ok((cut.into_iter().collect(), prefix))
}

/// The bytes that a name stands for; none if no text leads to it.
fn bytes(bytes_of: &[(char, u8)], name: &str) -> Option<Vec<u8>> {
    let byte = |c: char| {
        let at = bytes_of.binary_search_by_key(&c, |row| row.0).ok()?;
        Some(bytes_of[at].1)
    };
    name.chars().map(byte).collect()
}

/// The characters that a name stands for; none if no text leads to it: there is no space in text,
/// once it is written `▁`.
fn characters(name: &str) -> Option<Vec<u8>> {
    (!name.contains(' ')).then(|| name.replace('▁', " ").into_bytes())
}
