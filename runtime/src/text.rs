//! What a library knows of text: its tokenizer and its chat template.

use crate::chat::{self, Turn};
use crate::encode::{self, Encoder, Sections};
use crate::pieces;
use targets::{Emitter, Func};

/// The text side of a model.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// The bytes of each token, none for a control token.
    pub pieces: Vec<Vec<u8>>,
    /// From text to tokens, if that is known.
    pub encoder: Option<Encoder>,
    /// The turns of the chat template; none without an encoder.
    pub turns: Vec<Turn>,
}

/// A vocabulary that is too large for the tables of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vocabulary has too many bytes: its table would have more than 4194304 cells")]
pub struct TextError;

/// Emits `NAME_encode`, `NAME_piece` and `NAME_chat`.
pub fn emit(e: &mut Emitter, text: Option<&Text>) -> Result<[Func; 3], TextError> {
    let sections = match text.and_then(|text| text.encoder.as_ref()) {
        Some(encoder) => Some(Sections::emit(e, encoder).ok_or(TextError)?),
        None => None,
    };
    let turns = text.map_or(&[][..], |text| &text.turns);
    Ok([
        encode::emit(e, sections.as_ref()),
        pieces::emit(e, text.map(|text| text.pieces.as_slice())),
        chat::emit(e, sections.as_ref(), turns),
    ])
}
