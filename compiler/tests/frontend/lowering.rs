//! Each architecture's IR against golden text. `BLESS=1` rewrites the golden files.

use super::support::{Files, Gguf, Kv, config, config_with, gemma2, gemma3};
use ingot::frontend::Checkpoint;
use serde_json::{Value, json};
use std::path::Path;

fn check(name: &str, checkpoint: &Checkpoint) {
    if let Err(violations) = ir::verify(&checkpoint.module) {
        panic!("{name}: {violations:?}");
    }
    let text = checkpoint.module.to_string();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/frontend/golden")
        .join(format!("{name}.ir"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "{} differs; BLESS=1 rewrites it", path.display());
}

#[test]
fn llama_tied() {
    check("llama", &Files::model(&config("LlamaForCausalLM")).open().unwrap());
}

#[test]
fn llama_with_every_option() {
    let config = config_with(
        "LlamaForCausalLM",
        json!({
            "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        }),
    );
    let mut files = Files::model(&config);
    files.put("generation_config.json", r#"{"bos_token_id": 3, "eos_token_id": [4, 5]}"#);
    check("llama-options", &files.open().unwrap());
}

#[test]
fn mobilellm_calls_each_block_twice() {
    let changes = json!({
        "layer_sharing": true, "share_embedding": true, "tie_word_embeddings": false,
        "model_type": "mobilellm",
    });
    let config = config_with("MobileLLMForCausalLM", changes);
    check("mobilellm-shared", &Files::model(&config).open().unwrap());
}

#[test]
fn qwen2() {
    check("qwen2", &Files::model(&config("Qwen2ForCausalLM")).open().unwrap());
}

#[test]
fn qwen3() {
    check("qwen3", &Files::model(&config("Qwen3ForCausalLM")).open().unwrap());
}

#[test]
fn gguf_llama() {
    check("gguf-llama", &Gguf::model("llama").open().unwrap());
}

#[test]
fn gemma() {
    let changes = json!({"hidden_act": "gelu", "tie_word_embeddings": null});
    check("gemma", &Files::model(&config_with("GemmaForCausalLM", changes)).open().unwrap());
}

#[test]
fn gemma2_caps_scores_and_logits() {
    check("gemma2", &Files::model(&gemma2()).open().unwrap());
}

#[test]
fn caps_are_read_and_null_is_none() {
    let mut config = gemma2();
    let usual = module(&config).to_string();
    let with = |scores: &str| ir::parse(&usual.replace(", cap = 50.0", scores)).unwrap();
    config["attn_logit_softcapping"] = json!(20.0);
    assert_eq!(module(&config), with(", cap = 20.0"));
    config["attn_logit_softcapping"] = json!(null);
    assert_eq!(module(&config), with(""));
    config["final_logit_softcapping"] = json!(null);
    assert!(!module(&config).to_string().contains("cap"));
    let mut config = gemma3();
    config["final_logit_softcapping"] = json!(30.0);
    assert!(module(&config).to_string().contains("softcap"));
}

#[test]
fn gemma3_has_two_kinds_of_layers() {
    check("gemma3", &Files::model(&gemma3()).open().unwrap());
}

#[test]
fn gguf_gemma3() {
    let mut gguf = Gguf::model("gemma3");
    gguf.set("gemma3.attention.sliding_window_pattern", Kv::U32(2));
    check("gguf-gemma3", &gguf.open().unwrap());
}

fn module(config: &Value) -> ir::Module {
    Files::model(config).open().unwrap().module
}

#[test]
fn every_spelling_of_kinds_of_layers_is_read() {
    let mut old = gemma3();
    let expected = module(&old);
    old["_sliding_window_pattern"] = old["sliding_window_pattern"].take();
    assert_eq!(module(&old), expected);
    let mut new = gemma3();
    for key in ["sliding_window_pattern", "rope_theta", "rope_local_base_freq", "rope_scaling"] {
        new[key] = json!(null);
    }
    new["layer_types"] = json!(["sliding_attention", "full_attention"]);
    new["rope_parameters"] = json!({
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    });
    assert_eq!(module(&new), expected);
    // A window that hides nothing is none; the rotary base stays.
    new["sliding_window"] = json!(64);
    let without = expected.to_string().replace(", window = 24", "");
    assert_eq!(module(&new), ir::parse(&without).unwrap());
}

/// What layers of a model see.
fn windows(config: &Value) -> String {
    let checkpoint = Files::model(config).open().unwrap();
    let local = checkpoint.config.local.expect("some see a window");
    let seen = |local_layer: &bool| match (local_layer, local.window) {
        (true, Some(window)) => window.to_string(),
        _ => "all".into(),
    };
    local.layers.iter().map(seen).collect::<Vec<_>>().join(" ")
}

#[test]
fn windows_of_other_families() {
    let mistral = config_with("MistralForCausalLM", json!({"sliding_window": 32}));
    assert_eq!(windows(&mistral), "32 32");
    check("mistral-window", &Files::model(&mistral).open().unwrap());
    let old = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1});
    assert_eq!(windows(&config_with("Qwen2ForCausalLM", old)), "all 16");
    let new = json!({
        "use_sliding_window": true, "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention"],
    });
    assert_eq!(windows(&config_with("Qwen3ForCausalLM", new)), "all 16");
    // A window as wide as the context is none.
    let wide = json!({"use_sliding_window": true, "max_window_layers": 0, "sliding_window": 64});
    assert_eq!(
        Files::model(&config_with("Qwen2ForCausalLM", wide)).open().unwrap().config.local,
        None
    );
    let mut gguf = Gguf::model("llama");
    gguf.set("llama.attention.sliding_window", Kv::U32(32));
    assert_eq!(gguf.open().unwrap().module.graphs, module(&mistral).graphs);
}

#[test]
fn mistral_without_a_window_is_a_llama() {
    let changes = json!({"sliding_window": null, "architectures": ["MistralForCausalLM"]});
    let mistral = Files::model(&config_with("MistralForCausalLM", changes)).open().unwrap();
    let llama = Files::model(&config("LlamaForCausalLM")).open().unwrap();
    assert_eq!(mistral.module.graphs, llama.module.graphs);
    assert_eq!(mistral.module.weights, llama.module.weights);
}

#[test]
fn gguf_and_hugging_face_give_the_same_graphs() {
    for (arch, class) in [
        ("llama", "LlamaForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("gemma", "GemmaForCausalLM"),
        ("gemma2", "Gemma2ForCausalLM"),
        ("gemma3", "Gemma3ForCausalLM"),
    ] {
        let gguf = Gguf::model(arch).open().unwrap();
        let mut config = config(class);
        if class.starts_with("Gemma") {
            config["hidden_activation"] = json!("gelu_pytorch_tanh");
            config["sliding_window"] = json!(24);
            config["query_pre_attn_scalar"] = json!(8);
        }
        let hf = Files::model(&config).open().unwrap();
        ir::verify(&gguf.module).unwrap();
        assert_eq!(gguf.module.graphs, hf.module.graphs, "{arch}");
        assert_eq!(gguf.module.caches, hf.module.caches, "{arch}");
    }
}

#[test]
fn both_spellings_of_rotary_parameters_are_read() {
    let old = config_with(
        "LlamaForCausalLM",
        json!({"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    );
    let new = config_with(
        "LlamaForCausalLM",
        json!({
            "rope_theta": null,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0},
        }),
    );
    let rope = |config| Files::model(config).open().unwrap().config.rope;
    let expected =
        ir::Rope { head: 8, theta: 500_000.0, scaling: ir::RopeScaling::Linear { factor: 2.0 } };
    assert_eq!(rope(&old), expected);
    assert_eq!(rope(&new), expected);
}

#[test]
fn gguf_scalings_are_recognised() {
    let linear = ir::RopeScaling::Linear { factor: 4.0 };
    let llama3 = ir::RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
    let mut by_key = Gguf::model("llama");
    by_key.set("llama.rope.scaling.type", Kv::Text("linear"));
    by_key.set("llama.rope.scaling.factor", Kv::F32(4.0));
    assert_eq!(by_key.open().unwrap().config.rope.scaling, linear);
    let rope = |scaling| ir::Rope { head: 8, theta: 500_000.0, scaling };
    let plain = rope(ir::RopeScaling::None).frequencies();
    for scaling in [linear, llama3, ir::RopeScaling::None] {
        let divisors: Vec<f32> =
            rope(scaling.clone()).frequencies().iter().zip(&plain).map(|(s, p)| p / s).collect();
        let mut gguf = with_divisors(&divisors);
        gguf.set("llama.rope.freq_base", Kv::F32(500_000.0));
        assert_eq!(gguf.open().unwrap().config.rope.scaling, scaling);
    }
    let error = with_divisors(&[1.0, 2.0, 3.0, 4.0]).open().unwrap_err();
    assert_eq!(error.code, "IG0210");
}

fn with_divisors(divisors: &[f32]) -> Gguf {
    let mut gguf = Gguf::model("llama");
    let mut blob = super::support::Blob::f32("rope_freqs.weight", &[divisors.len() as u64]);
    blob.bytes = divisors.iter().flat_map(|x| x.to_le_bytes()).collect();
    gguf.tensors.push(blob);
    gguf
}
