//! References: what an independent implementation says of a model.

use std::collections::HashMap;
use std::path::Path;

/// What is expected of one prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its tokens.
    pub ids: Vec<i32>,
    /// Tokens that follow it, always the likeliest.
    pub greedy: Vec<i32>,
    /// Sum of the negative log-likelihoods of its tokens from the second on.
    pub nll: f64,
    /// The prompt and what follows it.
    pub text: String,
    /// Logits after its last token.
    pub logits: Vec<f32>,
}

/// Prompts of a JSON file; logits are there, or in an `.npz` of the same name as `logits0` and so on.
pub fn read(path: &Path) -> Vec<Prompt> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let json: serde_json::Value = serde_json::from_str(&text).expect("references are JSON");
    let arrays = path.with_extension("npz");
    let mut arrays = if arrays.exists() { npz(&arrays) } else { HashMap::new() };
    let entries = json.as_array().expect("references are lists").iter().enumerate();
    let prompt = |(i, entry): (usize, &serde_json::Value)| Prompt {
        ids: integers(&entry["ids"]),
        greedy: integers(&entry["greedy"]),
        nll: entry["nll"].as_f64().expect("nll is a number"),
        text: entry["text"].as_str().expect("text is text").into(),
        logits: match entry["logits"].as_array() {
            Some(logits) => logits.iter().map(|x| x.as_f64().expect("a number") as f32).collect(),
            None => arrays.remove(&format!("logits{i}.npy")).expect("logits of every prompt"),
        },
    };
    entries.map(prompt).collect()
}

fn integers(list: &serde_json::Value) -> Vec<i32> {
    let list = list.as_array().expect("a list of tokens").iter();
    list.map(|x| x.as_i64().expect("tokens are integers") as i32).collect()
}

/// The members of NumPy's `.npz`, a ZIP archive, by name.
fn npz(path: &Path) -> HashMap<String, Vec<f32>> {
    let file = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    // The end record is 22 bytes: NumPy writes no comment.
    let end = file.len() - 22;
    assert_eq!(&file[end..end + 4], b"PK\x05\x06", "{}", path.display());
    let mut arrays = HashMap::new();
    let mut entry = u32_at(end + 16);
    for _ in 0..u16_at(end + 10) {
        let (method, bytes) = (u16_at(entry + 10), u32_at(entry + 20));
        let (name, extra, comment) = (u16_at(entry + 28), u16_at(entry + 30), u16_at(entry + 32));
        let local = u32_at(entry + 42);
        let start = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        let data = &file[start..start + bytes];
        let data = match method {
            0 => data.to_vec(),
            8 => miniz_oxide::inflate::decompress_to_vec(data).expect("the archive is whole"),
            other => panic!("compression {other}"),
        };
        let key = String::from_utf8_lossy(&file[entry + 46..][..name]).into_owned();
        arrays.insert(key, npy(&data));
        entry += 46 + name + extra + comment;
    }
    arrays
}

/// The numbers of NumPy's `.npy`, version 1, of little-endian f32.
fn npy(file: &[u8]) -> Vec<f32> {
    assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let header = String::from_utf8_lossy(&file[10..start]);
    assert!(header.contains("'<f4'"), "{header}");
    file[start..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
