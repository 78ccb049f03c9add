//! Damaged, foreign and contradictory Hugging Face directories: each is one clear error.

use super::support::{
    Blob, Case, Files, config, config_with, hf_tensors, safetensors, with_header,
};
use ingot::Error;
use ingot::error::CODES;
use ingot::frontend;
use serde_json::{Value, json};
use std::path::Path;

/// The error has the code and says the words, in one message of a few lines.
pub fn expect(case: &str, result: Result<frontend::Checkpoint, Error>, code: &str, words: &str) {
    let error = match result {
        Ok(_) => panic!("{case}: accepted"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert_eq!(error.code, code, "{case}: {text}");
    assert!(text.contains(words), "{case}: {words:?} is not in\n{text}");
    assert!(text.lines().count() <= 9, "{case}: too long\n{text}");
    assert!(error.place.is_some(), "{case}: no place\n{text}");
    assert_eq!(error.exit_code(), 1);
    assert!(CODES.iter().any(|row| row.code == error.code));
}

fn opened(config: &Value, blobs: &[Blob]) -> Result<frontend::Checkpoint, Error> {
    let mut files = Files::default();
    files.put("config.json", config.to_string());
    files.put("model.safetensors", safetensors(blobs));
    files.open()
}

/// Class, changes of a sound configuration, code, words of the error.
const CONFIGURATIONS: &[(&str, &str, &str, &str)] = &[
    (
        "LlamaForCausalLM",
        r#"{"model_type": "qwen2"}"#,
        "IG0204",
        "found \"qwen2\", expected \"llama\", as architectures says LlamaForCausalLM",
    ),
    ("Gemma3ForCausalLM", r#"{"model_type": "gemma3"}"#, "IG0204", "expected \"gemma3_text\""),
    ("LlamaForCausalLM", r#"{"hidden_size": 0}"#, "IG0204", "found 0, expected 1 to"),
    ("LlamaForCausalLM", r#"{"hidden_size": -5}"#, "IG0204", "config.json: hidden_size"),
    ("LlamaForCausalLM", r#"{"hidden_size": 1e300}"#, "IG0204", "found 1e+300"),
    ("LlamaForCausalLM", r#"{"hidden_size": "16"}"#, "IG0204", "found \"16\""),
    ("LlamaForCausalLM", r#"{"hidden_size": null}"#, "IG0203", "hidden_size"),
    ("LlamaForCausalLM", r#"{"hidden_size": 16.5}"#, "IG0204", "whole number"),
    ("LlamaForCausalLM", r#"{"vocab_size": 4000000000}"#, "IG0204", "vocab_size"),
    ("LlamaForCausalLM", r#"{"num_hidden_layers": 1000000}"#, "IG0204", "num_hidden_layers"),
    (
        "LlamaForCausalLM",
        r#"{"num_key_value_heads": 3}"#,
        "IG0204",
        "divisor of num_attention_heads = 2",
    ),
    ("LlamaForCausalLM", r#"{"num_key_value_heads": 0}"#, "IG0204", "num_key_value_heads"),
    ("LlamaForCausalLM", r#"{"head_dim": 7}"#, "IG0202", "multiple of 8"),
    (
        "LlamaForCausalLM",
        r#"{"head_dim": null, "num_attention_heads": 3}"#,
        "IG0204",
        "hidden_size = 16",
    ),
    (
        "LlamaForCausalLM",
        r#"{"head_dim": null, "num_attention_heads": 4}"#,
        "IG0202",
        "heads of width 4",
    ),
    ("LlamaForCausalLM", r#"{"rms_norm_eps": 0}"#, "IG0204", "rms_norm_eps"),
    ("LlamaForCausalLM", r#"{"rms_norm_eps": "NaN"}"#, "IG0204", "finite number"),
    ("LlamaForCausalLM", r#"{"rope_theta": 0.0}"#, "IG0204", "rope_theta"),
    ("LlamaForCausalLM", r#"{"hidden_act": "gelu"}"#, "IG0202", "supported: silu"),
    ("LlamaForCausalLM", r#"{"pretraining_tp": 2}"#, "IG0202", "set it to 1"),
    ("LlamaForCausalLM", r#"{"partial_rotary_factor": 0.5}"#, "IG0202", "found 0.5"),
    (
        "LlamaForCausalLM",
        r#"{"rope_scaling": {"type": "yarn", "factor": 4}}"#,
        "IG0202",
        "\"yarn\"",
    ),
    (
        "LlamaForCausalLM",
        r#"{"rope_scaling": {"rope_type": "dynamic"}}"#,
        "IG0202",
        "none, linear, llama3",
    ),
    (
        "LlamaForCausalLM",
        r#"{"rope_scaling": {"type": "linear"}}"#,
        "IG0203",
        "rope_scaling.factor",
    ),
    (
        "LlamaForCausalLM",
        r#"{"rope_scaling": {"type": "linear", "factor": 0}}"#,
        "IG0204",
        "1 to 1e6",
    ),
    ("LlamaForCausalLM", r#"{"rope_scaling": "linear"}"#, "IG0204", "an object"),
    (
        "LlamaForCausalLM",
        r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
            "high_freq_factor": 4, "original_max_position_embeddings": 8192}}"#,
        "IG0204",
        "more than low_freq_factor",
    ),
    ("LlamaForCausalLM", r#"{"quantization_config": {"quant_method": "gptq"}}"#, "IG0202", "gptq"),
    ("LlamaForCausalLM", r#"{"eos_token_id": 32}"#, "IG0204", "a token below 32"),
    ("LlamaForCausalLM", r#"{"eos_token_id": -1}"#, "IG0204", "eos_token_id"),
    ("LlamaForCausalLM", r#"{"architectures": []}"#, "IG0204", "architectures"),
    ("LlamaForCausalLM", r#"{"architectures": null}"#, "IG0203", "architectures"),
    ("MixtralForCausalLM", r#"{}"#, "IG0201", "many experts"),
    ("GPT2LMHeadModel", r#"{}"#, "IG0201", "supported: LlamaForCausalLM"),
    ("Gemma2ForCausalLM", r#"{"attn_logit_softcapping": -1}"#, "IG0204", "1e-6 to 1e6"),
    ("Gemma3ForCausalLM", r#"{"attn_logit_softcapping": 50.0}"#, "IG0202", "a cap"),
    ("LlamaForCausalLM", r#"{"final_logit_softcapping": 30.0}"#, "IG0202", "a cap"),
    ("Gemma3ForConditionalGeneration", r#"{}"#, "IG0201", "images"),
    ("Gemma3ForCausalLM", r#"{"hidden_activation": "relu"}"#, "IG0202", "gelu_pytorch_tanh"),
    ("Gemma3ForCausalLM", r#"{"use_bidirectional_attention": true}"#, "IG0202", "encoders"),
    (
        "Gemma3ForCausalLM",
        r#"{"sliding_window": 8, "layer_types": ["full_attention"]}"#,
        "IG0204",
        "a list of 2",
    ),
    (
        "Gemma3ForCausalLM",
        r#"{"sliding_window": 8, "layer_types": ["full_attention", "linear_attention"]}"#,
        "IG0202",
        "linear_attention",
    ),
    (
        "Gemma3ForCausalLM",
        r#"{"sliding_window": 8, "rope_parameters": {"rope_theta": 10000.0}}"#,
        "IG0203",
        "full_attention",
    ),
    ("NeverHeardOf", r#"{}"#, "IG0201", "NeverHeardOf"),
    ("MistralForCausalLM", r#"{"sliding_window": -32}"#, "IG0204", "sliding_window"),
    ("MistralForCausalLM", r#"{"num_key_value_heads": null}"#, "IG0203", "num_key_value"),
    (
        "Qwen2ForCausalLM",
        r#"{"layer_types": ["full_attention", "sliding_attention"]}"#,
        "IG0202",
        "sliding_attention",
    ),
    ("Qwen3ForCausalLM", r#"{"head_dim": null}"#, "IG0203", "head_dim"),
    (
        "Qwen3ForCausalLM",
        r#"{"layer_types": ["full_attention", "chunked_attention"]}"#,
        "IG0202",
        "chunked_attention",
    ),
];

#[test]
fn configurations_that_are_refused() {
    for (class, changes, code, words) in CONFIGURATIONS {
        let case = format!("{class} {changes}");
        let tensors = hf_tensors(&config("LlamaForCausalLM"));
        let changed = config_with(class, serde_json::from_str(changes).unwrap());
        expect(&case, opened(&changed, &tensors), code, words);
    }
}

fn named<'a>(blobs: &'a mut [Blob], name: &str) -> &'a mut Blob {
    blobs.iter_mut().find(|b| b.name.ends_with(name)).unwrap()
}

const TENSORS: &[Case<Vec<Blob>>] = &[
    ("missing", |b| b.retain(|b| b.name != "model.norm.weight"), "IG0205", "model.norm.weight"),
    (
        "missing in every layer",
        |b| b.retain(|b| !b.name.contains("up_proj")),
        "IG0205",
        "same mismatch in 1 other layer",
    ),
    (
        "two kinds missing",
        |b| b.retain(|b| !b.name.contains("mlp")),
        "IG0205",
        "also missing: model.layers.0.mlp.up_proj.weight and the same in 1 other layer",
    ),
    (
        "shape",
        |b| {
            *named(b, "1.self_attn.k_proj.weight") =
                Blob::f32("model.layers.1.self_attn.k_proj.weight", &[16, 16])
        },
        "IG0207",
        "found F32[16, 16], expected F32[8, 16] for num_key_value_heads = 1, head_dim = 8",
    ),
    (
        "transposed",
        |b| named(b, "0.mlp.up_proj.weight").dims.reverse(),
        "IG0207",
        "the matrix is transposed",
    ),
    ("rank", |b| named(b, "model.norm.weight").dims = vec![1, 16], "IG0207", "F32[1, 16]"),
    (
        "vocabulary",
        |b| b[0] = Blob::f32("model.embed_tokens.weight", &[31, 16]),
        "IG0208",
        "found 31 rows, expected vocab_size = 32",
    ),
    (
        "unknown tensor",
        |b| b.push(Blob::f32("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 16])),
        "IG0206",
        "lora_A",
    ),
    (
        "unknown bias",
        |b| b.push(Blob::f32("model.layers.0.self_attn.q_proj.bias", &[16])),
        "IG0206",
        "set attention_bias",
    ),
    (
        "more layers than configured",
        |b| b.push(Blob::f32("model.layers.2.input_layernorm.weight", &[16])),
        "IG0206",
        "2 blocks",
    ),
    (
        "integers",
        |b| named(b, "model.norm.weight").dtype = "I32".into(),
        "IG0108",
        "tensor format I32 is not supported",
    ),
];

#[test]
fn tensors_that_do_not_fit() {
    for (case, mutate, code, words) in TENSORS {
        let config = config("LlamaForCausalLM");
        let mut blobs = hf_tensors(&config);
        mutate(&mut blobs);
        expect(case, opened(&config, &blobs), code, words);
    }
}

#[test]
fn an_untied_model_needs_its_output_matrix() {
    let untied = config_with("LlamaForCausalLM", json!({"tie_word_embeddings": false}));
    let tensors = hf_tensors(&config("LlamaForCausalLM"));
    expect("untied", opened(&untied, &tensors), "IG0205", "set tie_word_embeddings to true");
}

#[test]
fn damaged_safetensors() {
    let sound = safetensors(&hf_tensors(&config("LlamaForCausalLM")));
    let one =
        |from: u64, to: u64| json!({"dtype": "F32", "shape": [4], "data_offsets": [from, to]});
    let header = |value: Value, bytes: usize| with_header(&value.to_string(), &vec![0; bytes]);
    let huge = json!({"a": {"dtype": "F32", "shape": [u64::MAX, 8], "data_offsets": [0, 16]}});
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "shorter than the 8 bytes"),
        ("seven bytes", vec![0; 7], "the file has 7 bytes"),
        ("huge header", [0xff; 32].to_vec(), "announces a header of 18446744073709551615 bytes"),
        ("header past the end", 1000u64.to_le_bytes().to_vec(), "a header of 1000 bytes"),
        ("no JSON", with_header("{{{{", &[]), "invalid JSON"),
        ("no UTF-8", with_header("\u{fffd}", &[0xff; 4])[..10].to_vec(), "header"),
        ("cut short", sound[..sound.len() - 1].to_vec(), "cut short"),
        ("bytes behind", [&sound[..], &[0]].concat(), "bytes follow the last tensor"),
        ("overlap", header(json!({"a": one(0, 16), "b": one(8, 24)}), 24), "overlaps"),
        ("gap", header(json!({"a": one(0, 16), "b": one(20, 36)}), 36), "leaves a gap"),
        ("backwards", header(json!({"a": one(16, 0)}), 16), "overlaps"),
        (
            "size",
            header(json!({"a": one(0, 12)}), 12),
            ": a\n   = a tensor's offsets do not fit its shape",
        ),
        ("overflow", header(huge, 16), "overflow"),
    ];
    for (case, bytes, words) in cases {
        let mut files = Files::model(&config("LlamaForCausalLM"));
        files.put("model.safetensors", bytes.clone());
        expect(case, files.open(), "IG0104", words);
    }
}

#[test]
fn contradictory_shards() {
    let config = config("LlamaForCausalLM");
    let blobs = hf_tensors(&config);
    let shard = safetensors(&blobs[..5]);
    let cases: &[(&str, Value, &str)] = &[
        ("missing shard", json!({"weight_map": {"a": "b.safetensors"}}), "b.safetensors"),
        ("path", json!({"weight_map": {"a": "../a.safetensors"}}), "plain file name"),
        ("absolute path", json!({"weight_map": {"a": "/etc/passwd"}}), "plain file name"),
        ("no string", json!({"weight_map": {"a": 5}}), "not a string"),
        ("no map", json!({"metadata": {}}), "no weight_map"),
        ("missing tensor", json!({"weight_map": {"zz": "a.safetensors"}}), "lacks a tensor"),
        (
            "twice",
            json!({"weight_map": {"model.norm.weight": "a.safetensors", "x": "c.safetensors"}}),
            "two files hold the same tensor",
        ),
    ];
    for (case, index, words) in cases {
        let mut files = Files::default();
        files.put("config.json", config.to_string());
        files.put("a.safetensors", shard.clone());
        files.put("c.safetensors", shard.clone());
        files.put("model.safetensors.index.json", index.to_string());
        expect(case, files.open(), "IG0105", words);
    }
}

#[test]
fn paths_that_are_no_model() {
    let text = json!({"x": 1}).to_string();
    let mut files = Files::default();
    files.put("x.json", text);
    let dir = files.write();
    let open = |path: &Path| frontend::open(path);
    expect("absent", open(&dir.path().join("absent")), "IG0101", "No such file");
    expect("empty directory", open(dir.path()), "IG0102", "no config.json");
    expect("a JSON file", open(&dir.path().join("x.json")), "IG0102", "name the directory");
    let mut files = Files::default();
    files.put("config.json", config("LlamaForCausalLM").to_string());
    expect("no weights", files.open(), "IG0102", "neither model.safetensors nor");
    files.put("pytorch_model.bin", "x");
    expect("pickle", files.open(), "IG0102", "save_pretrained");
    files.put("config.json", "{\"a\": ");
    expect("cut JSON", files.open(), "IG0103", "EOF");
    files.put("config.json", "[1]");
    expect("a list", files.open(), "IG0103", "expected an object");
    files.put("config.json", "[".repeat(100_000));
    expect("deep JSON", files.open(), "IG0103", "recursion limit");
}

#[test]
#[cfg(unix)]
fn devices_are_refused_before_they_are_read() {
    expect("device", frontend::open(Path::new("/dev/zero")), "IG0101", "not a regular file");
}
