//! Packed weights in a file of their own.

use super::Found;
use crate::{Error, output};
use serde_json::json;
use std::path::Path;
use targets::pack::HASH_AT;

/// What the header of packed weights says.
pub fn inspect(path: &Path, bytes: &[u8]) -> Result<Found, Error> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        word.ok_or_else(|| Error::new("IG0110", "the weights are cut short").file(path))
    };
    let (identity, expected) = (format!("{:016x}", word(8)?), word(16)?);
    let complete = expected == bytes.len() as u64;
    let hash = word(HASH_AT as usize)?;
    let intact = complete && bytes.len().is_multiple_of(16) && targets::pack::hash(bytes) == hash;
    let text = output::pairs(&[
        ("kind", "packed weights".into()),
        ("identity", identity.clone()),
        ("bytes", output::grouped(expected)),
        ("hash", format!("{hash:016x}{}", if intact { "" } else { ": not that of the bytes" })),
        ("complete", if complete { "yes" } else { "no: the file has another size" }.into()),
    ]);
    let json = json!({
        "kind": "weights", "identity": identity, "bytes": expected, "file_bytes": bytes.len(),
        "complete": complete, "hash": format!("{hash:016x}"), "intact": intact,
    });
    Ok(Found { text, json })
}
