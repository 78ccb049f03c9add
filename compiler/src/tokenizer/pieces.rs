//! The exact bytes of every token.

use super::Alphabet;
use super::definition::Definition;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Normal,
    /// A mark between texts (end of sequence, start of a turn) or the unknown token.
    Control,
    /// One byte of a character that has no token.
    Byte,
    /// A row of the embedding table that no text leads to.
    Unused,
}

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes; the name for a control token, nothing for an unused one.
    pub bytes: Vec<u8>,
    /// What it is.
    pub kind: Kind,
}

/// The pieces of a tokenizer, one per row of the embedding table.
pub fn pieces(definition: &Definition, inner: &tokenizers::Tokenizer, rows: u64) -> Vec<Piece> {
    let added = inner.get_added_tokens_decoder();
    let unknown = definition.json["model"]["unk_token"].as_str();
    let bytes_of = byte_alphabet();
    let piece = |id: u32| {
        let Some(name) = inner.id_to_token(id).filter(|_| !definition.unused.contains(&id)) else {
            return Piece { bytes: vec![], kind: Kind::Unused };
        };
        if let Some(token) = added.get(&id) {
            let kind = if token.special { Kind::Control } else { Kind::Normal };
            return Piece { bytes: name.into_bytes(), kind };
        }
        if unknown == Some(name.as_str()) {
            return Piece { bytes: name.into_bytes(), kind: Kind::Control };
        }
        match fallback_byte(&name).filter(|_| definition.byte_fallback()) {
            Some(byte) => Piece { bytes: vec![byte], kind: Kind::Byte },
            None => {
                Piece { bytes: text(definition.alphabet, &bytes_of, &name), kind: Kind::Normal }
            }
        }
    };
    (0..rows as u32).map(piece).collect()
}

/// `<0x0A>` is the byte 10.
pub fn fallback_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn text(alphabet: Alphabet, bytes_of: &[(char, u8)], name: &str) -> Vec<u8> {
    let byte = |c: char| {
        let at = bytes_of.binary_search_by_key(&c, |row| row.0).ok()?;
        Some(bytes_of[at].1)
    };
    match alphabet {
        Alphabet::Text => name.replace('▁', " ").into_bytes(),
        // A name with a character outside the alphabet was never split from text: it is literal.
        Alphabet::Bytes => name
            .chars()
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .unwrap_or_else(|| name.as_bytes().to_vec()),
    }
}

/// GPT-2's character for each byte, by character: printable Latin-1 stands for itself, the other
/// 68 bytes follow from U+0100.
pub fn byte_alphabet() -> Vec<(char, u8)> {
    let mut next = 256;
    let mut rows: Vec<(char, u8)> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
            _ => {
                next += 1;
                (char::from_u32(next - 1).unwrap_or_default(), byte)
            }
        })
        .collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_gpt2s() {
        let rows = byte_alphabet();
        let byte = |c: char| rows[rows.binary_search_by_key(&c, |row| row.0).unwrap()].1;
        assert_eq!(rows.len(), 256);
        assert_eq!([byte('Ġ'), byte('Ċ'), byte('a'), byte('Ń'), byte('é')], [32, 10, 97, 173, 233]);
    }

    #[test]
    fn fallback_bytes_have_two_digits() {
        let names = ["<0x0A>", "<0xff>", "<0x>", "<0x123>", "<0xZZ>", "0x0A"];
        let found = names.map(fallback_byte);
        assert_eq!(found, [Some(10), Some(255), None, None, None, None]);
    }
}
