//! Numbers: every format and layout leads to the same weights, and bad numbers are named.

use super::support::{Blob, Files, Gguf, config, hf_tensors, safetensors};
use half::{bf16, f16};
use ingot::frontend::Checkpoint;
use ir::weights::materialise;
use ir::{Blobs, WeightId};
use serde_json::json;

/// Every weight of a checkpoint by name, after its history.
fn weights(checkpoint: &Checkpoint) -> Vec<(String, Vec<f32>)> {
    let module = &checkpoint.module;
    let weight = |i: usize| {
        let tensor = materialise(module, WeightId(i as u32), &checkpoint.blobs).unwrap();
        (module.weights[i].name.clone(), tensor.data)
    };
    (0..module.weights.len()).map(weight).collect()
}

#[test]
fn the_permutation_of_gguf_is_undone() {
    for (arch, class) in [
        ("llama", "LlamaForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
    ] {
        let gguf = Gguf::model(arch).open().unwrap();
        let hf = Files::model(&config(class)).open().unwrap();
        assert_eq!(weights(&gguf), weights(&hf), "{arch}");
    }
}

fn narrowed(blob: &Blob, dtype: &str) -> Blob {
    let narrow = |x: f32| match dtype {
        "F16" => f16::from_f32(x).to_le_bytes(),
        _ => bf16::from_f32(x).to_le_bytes(),
    };
    let bytes = blob.numbers().into_iter().flat_map(narrow).collect();
    Blob { dtype: dtype.into(), bytes, ..blob.clone() }
}

#[test]
fn half_precision_is_widened_exactly() {
    for dtype in ["F16", "BF16"] {
        let config = config("LlamaForCausalLM");
        let blobs: Vec<Blob> = hf_tensors(&config).iter().map(|b| narrowed(b, dtype)).collect();
        let mut files = Files::model(&config);
        files.put("model.safetensors", safetensors(&blobs));
        let checkpoint = files.open().unwrap();
        let exact = hf_tensors(&config)[0].numbers();
        let expected: Vec<f32> = match dtype {
            "F16" => exact.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
            _ => exact.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        };
        assert_eq!(checkpoint.blobs.load("model.embed_tokens.weight").unwrap().data, expected);
        let mut gguf = Gguf::model("llama");
        *gguf.tensor("token_embd.weight") = narrowed(gguf.tensor("token_embd.weight"), dtype);
        assert_eq!(gguf.open().unwrap().blobs.load("token_embd.weight").unwrap().data, expected);
    }
}

#[test]
fn shards_are_one_model() {
    let config = config("LlamaForCausalLM");
    let blobs = hf_tensors(&config);
    let (first, second) = blobs.split_at(7);
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        map.extend(part.iter().map(|blob| (blob.name.clone(), json!(file))));
    }
    let mut files = Files::default();
    files.put("config.json", config.to_string());
    files.put("a.safetensors", safetensors(first));
    files.put("b.safetensors", safetensors(second));
    files.put("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    let sharded = files.open().unwrap();
    assert_eq!(weights(&sharded), weights(&Files::model(&config).open().unwrap()));
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    for (number, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let config = config("LlamaForCausalLM");
        let mut blobs = hf_tensors(&config);
        let at = 4 * (3 * 16 + 5);
        blobs[0].bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        let mut files = Files::model(&config);
        files.put("model.safetensors", safetensors(&blobs));
        let error = files.open().unwrap().blobs.load("model.embed_tokens.weight").unwrap_err();
        assert_eq!(error.blob, "model.embed_tokens.weight");
        assert_eq!(error.why, format!("element [3, 5] is {name}, weights must be finite"));
    }
}

#[test]
fn a_tensor_larger_than_a_chunk_is_whole() {
    let rows = (20 << 20) / 4 / 16;
    let blob = Blob::f32("model.embed_tokens.weight", &[rows, 16]);
    let mut config = config("LlamaForCausalLM");
    config["vocab_size"] = rows.into();
    let mut blobs = hf_tensors(&config);
    blobs[0] = blob.clone();
    let mut files = Files::model(&config);
    files.put("model.safetensors", safetensors(&blobs));
    let loaded = files.open().unwrap().blobs.load(&blob.name).unwrap();
    assert_eq!(loaded.data, blob.numbers());
    assert_eq!(loaded.dims, [rows, 16]);
}

#[test]
fn a_tied_model_may_repeat_its_table() {
    let config = config("LlamaForCausalLM");
    let mut blobs = hf_tensors(&config);
    blobs.push(Blob { name: "lm_head.weight".into(), ..blobs[0].clone() });
    blobs.push(Blob::f32("model.layers.0.self_attn.rotary_emb.inv_freq", &[4]));
    let mut files = Files::model(&config);
    files.put("model.safetensors", safetensors(&blobs));
    let module = files.open().unwrap().module;
    assert_eq!(module.weight_named("head"), None);
    blobs.iter_mut().find(|b| b.name == "lm_head.weight").unwrap().bytes[0] ^= 1;
    files.put("model.safetensors", safetensors(&blobs));
    assert_eq!(files.open().unwrap_err().code, "IG0209");
}
