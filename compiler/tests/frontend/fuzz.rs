//! Random bytes and damaged files: an error or a model, never a panic.

use super::support::{Files, Gguf, Kv, config, hf_tensors, open_bytes, safetensors, with_header};
use ingot::frontend::Checkpoint;
use ir::Blobs;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Whatever was accepted must be a sound module whose weights are the sizes they claim.
fn use_it(result: Result<Checkpoint, ingot::Error>) {
    let checkpoint = match result {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    ir::verify(&checkpoint.module).expect("an accepted model is sound");
    for weight in &checkpoint.module.weights {
        let blob = weight.source.blob().expect("a checkpoint is blobs");
        if let Ok(tensor) = checkpoint.blobs.load(blob) {
            assert_eq!(tensor.data.len() as u64, weight.elements());
        }
    }
    if let Some(tokenizer) = &checkpoint.tokenizer {
        let tokens = tokenizer.encode("Hello, 123 wörld <s>", true).unwrap_or_default();
        assert!(tokens.iter().all(|&token| u64::from(token) < checkpoint.config.vocab));
        tokenizer.decode(&tokens);
    }
}

/// A GGUF file with a tokenizer in it.
fn gguf() -> Vec<u8> {
    let mut gguf = Gguf::model("llama");
    let name = |id: usize| match id {
        0 => "<unk>".to_string(),
        1 | 2 => format!("<s{id}>"),
        _ => char::from(b'a' + id as u8 - 3).to_string(),
    };
    gguf.set("tokenizer.ggml.model", Kv::Text("llama"));
    gguf.set("tokenizer.ggml.tokens", Kv::Texts((0..32).map(name).collect()));
    gguf.set("tokenizer.ggml.scores", Kv::Floats((0..32).map(|i| -(i as f32)).collect()));
    let kinds = (0..32).map(|id| [2, 3, 3].get(id).copied().unwrap_or(1)).collect();
    gguf.set("tokenizer.ggml.token_type", Kv::Ints(kinds));
    gguf.bytes()
}

/// Changes of a file: bytes replaced, the rest cut off.
fn damage() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)>
{
    let byte = prop_oneof![Just(0u8), Just(0xff), Just(0x80), any::<u8>()];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), byte), 1..6);
    (changes, prop::option::weighted(0.2, any::<prop::sample::Index>()))
}

/// The file with the changes made among its first `reach` bytes.
fn damaged(
    mut file: Vec<u8>,
    reach: usize,
    (changes, cut): (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>),
) -> Vec<u8> {
    let reach = reach.min(file.len());
    for (at, byte) in changes {
        file[at.index(reach)] = byte;
    }
    if let Some(cut) = cut {
        file.truncate(cut.index(file.len()));
    }
    file
}

/// JSON values that configurations might hold.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..40).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!([])),
        Just(json!([1, "x"])),
        Just(json!({})),
        Just(json!({"type": "linear", "factor": 2})),
    ]
}

const KEYS: &[&str] = &[
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "sliding_window",
    "layer_types",
    "layer_sharing",
    "quantization_config",
    "pretraining_tp",
];

const CLASSES: &[&str] = &[
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MobileLLMForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "MixtralForCausalLM",
];

const JSON_FILES: &[&str] =
    &["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

const PARTS: &[&str] =
    &["normalizer", "pre_tokenizer", "decoder", "model", "added_tokens", "post_processor"];

const PART_KEYS: &[&str] = &[
    "type",
    "vocab",
    "merges",
    "pattern",
    "add_prefix_space",
    "unk_token",
    "byte_fallback",
    "use_regex",
];

fn tokenizer() -> Value {
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "<s>", "special": true, "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {
            "type": "BPE", "vocab": {"<s>": 0, "l": 1, "o": 2, "lo": 3, "Ġ": 4}, "merges": ["l o"],
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_gguf(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        use_it(open_bytes(&bytes));
        use_it(open_bytes(&[b"GGUF\x03\0\0\0", &bytes[..]].concat()));
    }

    #[test]
    fn damaged_gguf(damage in damage()) {
        use_it(open_bytes(&damaged(gguf(), 3000, damage)));
    }

    #[test]
    fn damaged_safetensors(damage in damage()) {
        let mut files = Files::model(&config("LlamaForCausalLM"));
        let sound = safetensors(&hf_tensors(&config("LlamaForCausalLM")));
        files.put("model.safetensors", damaged(sound, 2400, damage));
        use_it(files.open());
    }

    #[test]
    fn random_headers(header in "\\PC{0,64}", data in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut files = Files::model(&config("LlamaForCausalLM"));
        files.put("model.safetensors", with_header(&header, &data));
        use_it(files.open());
        files.put("model.safetensors", data);
        use_it(files.open());
    }

    #[test]
    fn strange_configurations(
        class in prop::sample::select(CLASSES),
        changes in prop::collection::vec((prop::sample::select(KEYS), value()), 1..4),
    ) {
        let mut config = config(class);
        let blobs = hf_tensors(&config);
        for (key, value) in changes {
            config[key] = value;
        }
        let mut files = Files::default();
        files.put("config.json", config.to_string());
        files.put("model.safetensors", safetensors(&blobs));
        use_it(files.open());
    }

    #[test]
    fn damaged_json(name in prop::sample::select(JSON_FILES), damage in damage()) {
        let mut files = Files::model(&config("LlamaForCausalLM"));
        files.put("generation_config.json", r#"{"eos_token_id": [2, 3]}"#);
        files.put("tokenizer.json", tokenizer().to_string());
        files.put("tokenizer_config.json", r#"{"bos_token": "<s>", "add_bos_token": true}"#);
        let sound = files.0.iter().find(|(other, _)| other == name).unwrap().1.clone();
        files.put(name, damaged(sound, usize::MAX, damage));
        use_it(files.open());
    }

    #[test]
    fn strange_tokenizers(
        part in prop::sample::select(PARTS),
        key in prop::sample::select(PART_KEYS),
        value in value(),
        whole in any::<bool>(),
    ) {
        let mut json = tokenizer();
        match json[part].as_object_mut().filter(|_| !whole) {
            Some(object) => drop(object.insert(key.to_string(), value)),
            None => json[part] = value,
        }
        let mut files = Files::model(&config("LlamaForCausalLM"));
        files.put("tokenizer.json", json.to_string());
        use_it(files.open());
    }

    #[test]
    fn random_sentencepiece(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let mut files = Files::model(&config("LlamaForCausalLM"));
        files.put("tokenizer.model", bytes);
        use_it(files.open());
    }
}
