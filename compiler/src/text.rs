//! What a library knows of text: pieces, encoder and chat, as far as a checkpoint has them and the
//! device can.

use crate::tokenizer::{Kind, Piece, Refusal, Tokenizer};
use runtime::Text;
use runtime::chat::{Role, Turn};

/// The text side of a library, and what it lacks.
#[derive(Debug, Default)]
pub struct Known {
    /// What is emitted.
    pub text: Text,
    /// Why there is no `NAME_encode`, if there is none.
    pub no_encode: Option<String>,
    /// Why there is no `NAME_chat`, if there is none.
    pub no_chat: Option<String>,
    /// The token that ends an answer in the chat template.
    pub end_of_turn: Option<u32>,
}

impl Known {
    /// What is known of a model's text.
    pub fn new(tokenizer: &Tokenizer) -> Known {
        let pieces = pieces(tokenizer);
        let encoder = match tokenizer.encoder() {
            Ok(encoder) => encoder,
            Err(why) => {
                let no_encode = Some(format!("{why} is not supported on the device"));
                let no_chat = Some("it needs encode".to_string());
                let text = Text { pieces, ..Text::default() };
                return Known { text, no_encode, no_chat, end_of_turn: None };
            }
        };
        let (turns, no_chat) = match tokenizer.turns() {
            Ok(turns) => (turns, None),
            Err(refusal) => (vec![], Some(said(&refusal))),
        };
        let end_of_turn = end_of_turn(tokenizer, &turns);
        let text = Text { pieces, encoder: Some(encoder), turns };
        Known { text, no_encode: None, no_chat, end_of_turn }
    }

    /// What a build should say: a checkpoint has something that its library lacks.
    pub fn warnings(&self) -> Vec<String> {
        let lacks = |what: &str, why: &Option<String>| {
            why.as_ref().map(|why| format!("the library has no {what}: {why}"))
        };
        match &self.no_encode {
            Some(_) => lacks("encode and no chat", &self.no_encode).into_iter().collect(),
            None => lacks("chat", &self.no_chat).into_iter().collect(),
        }
    }
}

/// The bytes that each token adds to a text; control tokens add none.
pub fn pieces(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let text = |piece: &Piece| match piece.kind {
        Kind::Control | Kind::Unused => vec![],
        Kind::Normal | Kind::Byte => piece.bytes.clone(),
    };
    tokenizer.pieces().iter().map(text).collect()
}

/// A refusal in words.
pub fn said(refusal: &Refusal) -> String {
    match refusal.line {
        Some(line) => format!("line {line} of the chat template: {}", refusal.why),
        None => format!("the chat template: {}", refusal.why),
    }
}

/// The control token that stands behind every answer.
fn end_of_turn(tokenizer: &Tokenizer, turns: &[Turn]) -> Option<u32> {
    let next = |turn: &&Turn| (turn.after, turn.role) == (Role::Assistant, Role::User);
    let first = *turns.iter().find(next)?.tokens.first()?;
    let control = tokenizer.pieces().get(first as usize)?.kind == Kind::Control;
    control.then_some(first)
}
