//! Text to tokens and back, on the host: byte-level BPE and SentencePiece BPE.
//!
//! Whatever a checkpoint holds (tokenizer.json, tokenizer.model, GGUF metadata) becomes one
//! definition in the form of tokenizer.json, which the `tokenizers` crate runs. What device code
//! needs of it (pieces, merges, how text is split) is plain data here. No Unigram, no WordPiece.

mod automaton;
mod definition;
mod encoder;
mod gguf;
mod hf;
mod normal;
mod pieces;
mod sentencepiece;
mod split;
mod template;

pub use pieces::{Kind, Piece};
pub use runtime::encode::Merge;
pub use split::Prefix;
pub use template::Refusal;

use crate::Error;
use definition::Definition;
use runtime::chat::Turn;
use std::ops::Range;
use std::path::{Path, PathBuf};
use template::Template;
use tokenizers::AddedToken;

/// What the characters of a token's name stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// One printable character per byte, as GPT-2 introduced it.
    Bytes,
    /// The text itself, with `▁` for a space.
    Text,
}

/// Facts about a tokenizer that its definition does not carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence token.
    pub eos: Option<u32>,
    /// Whether a text usually begins with `bos`.
    pub add_bos: bool,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
}

/// What a model says of its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Rows of the embedding table.
    pub rows: u64,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the usual one first.
    pub eos: Vec<u32>,
}

/// The tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    pieces: Vec<Piece>,
    /// The definition without its vocabulary and merges.
    form: serde_json::Value,
    /// What the characters of token names stand for.
    pub alphabet: Alphabet,
    /// Whether a space is put before the text.
    pub prefix: Prefix,
    /// Whether text is brought to Unicode's NFC first.
    pub nfc: bool,
    /// Merges, the ones that happen first first.
    pub merges: Vec<Merge>,
    /// Beginning and end of sequence, chat template.
    pub settings: Settings,
}

impl Tokenizer {
    /// Builds a tokenizer for a model of `rows` embeddings from a definition read from `path`.
    fn build(
        path: &Path,
        definition: Definition,
        settings: Settings,
        rows: u64,
    ) -> Result<Tokenizer, Error> {
        let invalid = |why: String| definition::invalid(why).file(path);
        let merges = definition.check(rows).map_err(|e| e.file(path))?;
        let prefix = split::prefix(&definition.json);
        let mut inner = tokenizers::Tokenizer::from_bytes(definition.json.to_string())
            .map_err(|e| invalid(e.to_string()))?;
        // A special token in the text is that token, as in Hugging Face transformers.
        inner.set_encode_special_tokens(false);
        definition.check_added(&inner, rows).map_err(|e| e.file(path))?;
        Ok(Tokenizer {
            pieces: pieces::pieces(&definition, &inner, rows),
            form: definition.form(),
            inner,
            path: path.to_path_buf(),
            alphabet: definition.alphabet,
            prefix,
            nfc: definition.has_component("normalizer", "NFC"),
            merges,
            settings,
        })
    }

    /// Tokens of a text; special tokens in it are recognised.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>, Error> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| definition::invalid(e.to_string()).file(&self.path))?;
        let bos = self.settings.bos.filter(|_| add_bos);
        Ok(bos.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// The text of tokens, special ones included. Bytes that are not UTF-8 become `U+FFFD`;
    /// a token the model does not have is left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let pieces = tokens.iter().filter_map(|&token| self.pieces.get(token as usize));
        let bytes: Vec<u8> = pieces.flat_map(|piece| piece.bytes.iter().copied()).collect();
        let text = String::from_utf8_lossy(&bytes);
        match self.prefix {
            Prefix::None => text.into_owned(),
            _ => text.strip_prefix(' ').unwrap_or(&text).to_string(),
        }
    }

    /// What each token stands for: one piece per row of the embedding table.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The turns of the chat template; none if there is no template.
    pub fn turns(&self) -> Result<Vec<Turn>, Refusal> {
        let Some(source) = &self.settings.chat_template else { return Ok(vec![]) };
        let name = |token: Option<u32>| token.and_then(|token| self.inner.id_to_token(token));
        let (bos, eos) = (name(self.settings.bos), name(self.settings.eos));
        let (bos, eos) = (bos.unwrap_or_default(), eos.unwrap_or_default());
        let pieces = Template { source, bos: &bos, eos: &eos }.pieces()?;
        pieces.into_iter().map(|piece| self.turn(piece)).collect()
    }

    /// A piece of the template as tokens up to its last special one, and text.
    fn turn(&self, piece: template::Piece) -> Result<Turn, Refusal> {
        let refuse = |why: String| Refusal { why, line: None };
        let (mut end, mut head) = (0, piece.text.as_str());
        for (range, token) in self.special_tokens(&piece.text) {
            let behind = &piece.text[range.end..];
            head = if token.rstrip { behind.trim_start() } else { behind };
            end = range.end;
            // A text is tokens by itself, and what is beside it takes nothing of it.
            let before = token.lstrip && piece.text[..range.start].trim().is_empty();
            let after = token.rstrip && head.is_empty() && !piece.trim;
            if before || after {
                let name = &token.content;
                return Err(refuse(format!("{name:?} takes white space of the messages along")));
            }
        }
        let tokens = self.encode(&piece.text[..end], false).map_err(|e| refuse(e.to_string()))?;
        let (after, role, trim) = (piece.after, piece.role, piece.trim);
        Ok(Turn { after, role, tokens, head: head.as_bytes().to_vec(), trim })
    }

    /// The special tokens that a text spells, and where.
    fn special_tokens(&self, text: &str) -> Vec<(Range<usize>, AddedToken)> {
        let added = self.inner.get_added_tokens_decoder();
        let (mut at, mut found) = (0, vec![]);
        while let Some(c) = text[at..].chars().next() {
            let here = added.values().filter(|token| text[at..].starts_with(&token.content));
            let longest = here.max_by_key(|t| t.content.len()).filter(|t| !t.content.is_empty());
            let end = at + longest.map_or(c.len_utf8(), |token| token.content.len());
            found.extend(longest.filter(|t| t.special).map(|token| (at..end, token.clone())));
            at = end;
        }
        found
    }

    /// The token of that name, as the definition spells it.
    pub fn token(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }
}
