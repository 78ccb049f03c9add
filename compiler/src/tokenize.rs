//! `ingot tokenize`: text to tokens and back, as the model's own tokenizer does it.

use crate::run::{need_tokenizer, read_text, words};
use crate::tokenizer::{Kind, Tokenizer};
use crate::{Error, frontend, output};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ingot tokenize model.gguf 'Once upon a time'
  ingot tokenize model.gguf --decode '6403 1980 253 655'
  ingot tokenize model.gguf --pieces --file story.txt";

/// Flags of `tokenize`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TokenizeFlags {
    /// Hugging Face directory or GGUF file
    pub model: PathBuf,
    /// Text; with --decode token ids with spaces or commas between
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub text: Option<String>,
    /// File with the text, - for standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// From ids to text
    #[arg(long)]
    pub decode: bool,
    /// Do not put the beginning-of-sequence token before the text
    #[arg(long, conflicts_with = "decode")]
    pub no_bos: bool,
    /// Print a line for each token: its id, its kind, its bytes
    #[arg(long)]
    pub pieces: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `ingot tokenize`.
pub fn tokenize(flags: &TokenizeFlags) -> Result<(), Error> {
    let given = match (&flags.text, &flags.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read_text(path)?,
        (None, None) => String::new(),
    };
    let tokenizer = frontend::open_tokenizer(&flags.model)?;
    let tokenizer = need_tokenizer(&tokenizer, &flags.model)?;
    let tokens = match flags.decode {
        true => ids(&given, tokenizer)?,
        false => tokenizer.encode(&given, tokenizer.settings.add_bos && !flags.no_bos)?,
    };
    if flags.json {
        let pieces: Vec<_> = tokens.iter().map(|&token| piece(tokenizer, token)).collect();
        return output::json(&json!({
            "tokens": tokens,
            "text": tokenizer.decode(&tokens),
            "pieces": pieces.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
        }));
    }
    if flags.pieces {
        let row = |&token: &u32| {
            let (kind, bytes) = piece(tokenizer, token);
            format!("{token:>7}  {kind:<7}  {bytes}\n")
        };
        return output::print(&tokens.iter().map(row).collect::<String>());
    }
    if flags.decode {
        return output::print(&format!("{}\n", tokenizer.decode(&tokens)));
    }
    let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
    output::print(&format!("{}\n", ids.join(" ")))
}

fn ids(text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    let count = tokenizer.pieces().len();
    let id = |word: &str| match word.parse::<u32>() {
        Ok(id) if (id as usize) < count => Ok(id),
        _ => Err(Error::new("IG0401", format!("no token `{word}`"))
            .note(format!("the model's tokens are 0 to {}", count - 1))),
    };
    words(text).map(id).collect()
}

/// Kind and bytes of a token; bytes that are not printable ASCII as in a C string.
fn piece(tokenizer: &Tokenizer, token: u32) -> (&'static str, String) {
    let Some(piece) = tokenizer.pieces().get(token as usize) else {
        return ("unused", String::new());
    };
    let kind = match piece.kind {
        Kind::Normal => "normal",
        Kind::Control => "control",
        Kind::Byte => "byte",
        Kind::Unused => "unused",
    };
    (kind, format!("\"{}\"", piece.bytes.escape_ascii()))
}
