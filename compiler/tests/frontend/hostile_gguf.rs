//! Damaged, foreign and contradictory GGUF files: each is one clear error.

use super::hostile::expect;
use super::support::{Blob, Case, Gguf, Kv, open_bytes};

/// A Qwen with a window: which of its layers have it, no key says.
fn windowed(arch: &'static str) -> Gguf {
    let mut gguf = Gguf::model(arch);
    gguf.set(&format!("{arch}.attention.sliding_window"), Kv::U32(8));
    gguf
}

const GGUF: &[Case<Gguf>] = &[
    ("version 1", |g| g.version = 1, "IG0107", "version 1"),
    ("big-endian", |g| g.version = 3u32.swap_bytes(), "IG0107", "big-endian"),
    ("alignment", |g| g.set("general.alignment", Kv::U32(24)), "IG0106", "alignment 24"),
    ("no alignment", |g| g.set("general.alignment", Kv::U32(0)), "IG0106", "alignment 0"),
    ("split", |g| g.set("split.count", Kv::U32(2)), "IG0107", "llama-gguf-split --merge"),
    ("key twice", |g| g.keys.push(g.keys[0].clone()), "IG0106", "occurs twice"),
    ("no architecture", |g| drop(g.keys.remove(0)), "IG0203", "general.architecture"),
    (
        "window of which layers",
        |g| *g = windowed("qwen2"),
        "IG0202",
        "a window of 8 in a context of 64",
    ),
    ("phi", |g| g.set("general.architecture", Kv::Text("phi3")), "IG0201", "supported: llama"),
    ("number as text", |g| g.set("llama.block_count", Kv::Text("2")), "IG0204", "found \"2\""),
    ("no blocks", |g| g.set("llama.block_count", Kv::U32(0)), "IG0204", "llama.block_count"),
    (
        "per layer",
        |g| g.set("llama.attention.head_count_kv", Kv::Ints(vec![1, 1])),
        "IG0204",
        "found [1,1]",
    ),
    (
        "NaN",
        |g| g.set("llama.attention.layer_norm_rms_epsilon", Kv::F32(f32::NAN)),
        "IG0204",
        "found \"NaN\"",
    ),
    ("experts", |g| g.set("llama.expert_count", Kv::U32(8)), "IG0202", "experts"),
    ("encoder", |g| g.set("llama.attention.causal", Kv::Bool(false)), "IG0202", "encoders"),
    ("half rotation", |g| g.set("llama.rope.dimension_count", Kv::U32(4)), "IG0202", "found 4"),
    ("yarn", |g| g.set("llama.rope.scaling.type", Kv::Text("yarn")), "IG0202", "\"yarn\""),
    ("values", |g| g.set("llama.attention.value_length", Kv::U32(16)), "IG0204", "value_length"),
    ("vocabulary", |g| g.set("llama.vocab_size", Kv::U32(33)), "IG0208", "found 32 rows"),
    (
        "tokens",
        |g| g.set("tokenizer.ggml.tokens", Kv::Texts(vec!["a".into(); 31])),
        "IG0208",
        "expected tokenizer.ggml.tokens = 31",
    ),
    (
        "missing tensor",
        |g| g.tensors.retain(|t| !t.name.contains("ffn_up")),
        "IG0205",
        "blk.0.ffn_up.weight",
    ),
    ("unknown tensor", |g| g.tensors.push(Blob::f32("blk.0.x", &[4])), "IG0206", "blk.0.x"),
    ("tensor twice", |g| g.tensors.push(g.tensors[0].clone()), "IG0106", "listed twice"),
    ("dimension 0", |g| g.tensors[1].dims = vec![0], "IG0106", "a dimension of 0"),
    ("5 dimensions", |g| g.tensors[1].dims = vec![1; 5], "IG0106", "found 5 dimensions"),
    ("overflow", |g| g.tensors[1].dims = vec![u64::MAX, 8], "IG0106", "ends after the file"),
    ("unknown format", |g| g.tensors[1].dtype = "none".into(), "IG0108", "format 99"),
    (
        "known format",
        |g| g.tensor("blk.0.ffn_up.weight").dtype = "I8".into(),
        "IG0108",
        "I8 is not supported\n  --> ",
    ),
    ("blocks", |g| g.tensor("blk.0.ffn_up.weight").dtype = "Q8_0".into(), "IG0106", "whole Q8_0"),
];

#[test]
fn gguf_that_is_refused() {
    for (case, mutate, code, words) in GGUF {
        let mut gguf = Gguf::model("llama");
        mutate(&mut gguf);
        expect(case, gguf.open(), code, words);
    }
}

/// Bytes of a sound file changed at an offset counted from a text in it.
fn patched(gguf: &Gguf, after: &str, skip: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = gguf.bytes();
    let found = file.windows(after.len()).position(|w| w == after.as_bytes()).unwrap();
    let at = found + after.len() + skip;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn damaged_gguf() {
    let gguf = Gguf::model("llama");
    let sound = gguf.bytes();
    let count = |at: usize| {
        let mut file = sound.clone();
        file[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        file
    };
    let mut listed = gguf.clone();
    listed.set("a.list", Kv::Ints(vec![1, 2, 3]));
    // Behind a tensor's name: rank, one dimension, format, offset.
    let offset = |n: u64| patched(&gguf, "blk.0.attn_norm.weight", 16, &n.to_le_bytes());
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("magic only", b"GGUF".to_vec(), "cut short"),
        ("tensor count", count(8), "found a count of 18446744073709551615"),
        ("key count", count(16), "found a count of 18446744073709551615"),
        ("string length", count(24), "found a count"),
        ("cut in the header", sound[..100].to_vec(), "GGUF"),
        ("cut in the data", sound[..sound.len() - 1].to_vec(), "ends after the file"),
        ("no UTF-8", patched(&gguf, "general.", 0, &[0xff, 0xfe]), "not UTF-8"),
        ("value type", patched(&gguf, "general.architecture", 0, &[13]), "found value type 13"),
        ("list length", patched(&listed, "a.list", 8, &[0xff; 8]), "found a count"),
        ("list of lists", patched(&listed, "a.list", 4, &[9]), "arrays of arrays"),
        ("not aligned", offset(4), "not aligned to 32"),
        ("past the end", offset(u64::MAX - 31), "ends after the file"),
        ("overlap", offset(0), "overlaps"),
    ];
    for (case, bytes, words) in cases {
        expect(case, open_bytes(bytes), "IG0106", words);
    }
}
