//! The tokens that calibration looks at.

use crate::Error;
use crate::run::read_text;
use crate::tokenizer::Tokenizer;
use std::path::Path;

/// Tokens of a window at most.
pub const WINDOW: u64 = 512;

/// Windows of `count` tokens of a text in all, or as many as it has, each a conversation of its own,
/// evenly over the text.
pub fn windows(
    count: u64,
    text: &Path,
    tokenizer: &Tokenizer,
    context: u64,
) -> Result<Vec<Vec<i32>>, Error> {
    let length = WINDOW.min(context) as usize;
    let tokens = tokenizer.encode(&read_text(text)?, false)?;
    let bos = tokenizer.settings.bos.filter(|_| tokenizer.settings.add_bos);
    let available = tokens.len() / length;
    let wanted = (count as usize).div_ceil(length).min(available);
    if wanted == 0 {
        return Err(Error::new("IG0401", "too little text to calibrate with")
            .file(text)
            .note(format!("{} tokens, a window has {length}", tokens.len())));
    }
    let window = |i: usize| {
        let from = &tokens[i * available / wanted * length..][..length];
        let mut window: Vec<i32> = from.iter().map(|&t| t as i32).collect();
        if let Some(bos) = bos {
            window[0] = bos as i32;
        }
        window
    };
    Ok((0..wanted).map(window).collect())
}
