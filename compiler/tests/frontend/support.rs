//! Tiny checkpoints, written from code: Hugging Face directories and GGUF files.

use ingot::Error;
use ingot::frontend::{self, Checkpoint};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A tensor to write: element type, dimensions (outermost first), bytes.
#[derive(Clone, Debug)]
pub struct Blob {
    pub name: String,
    pub dtype: String,
    pub dims: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl Blob {
    /// An f32 tensor with numbers that depend on its name and the index.
    pub fn f32(name: &str, dims: &[u64]) -> Blob {
        let n = dims.iter().product::<u64>();
        let seed = name.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let number = |i: u64| {
            let mixed = seed.wrapping_add(i as u32).wrapping_mul(2_654_435_761);
            (mixed >> 16) as f32 / 65536.0 - 0.5
        };
        let bytes = (0..n).flat_map(|i| number(i).to_le_bytes()).collect();
        Blob { name: name.into(), dtype: "F32".into(), dims: dims.into(), bytes }
    }

    pub fn numbers(&self) -> Vec<f32> {
        assert_eq!(self.dtype, "F32");
        self.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// config.json of a model with width 16, 2 heads of 8, 1 KV head, 24 wide between, 2 blocks,
/// 32 tokens.
pub fn config(class: &str) -> Value {
    json!({
        "architectures": [class], "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// `config` of Gemma 3: every other layer sees a window of 24.
pub fn gemma3() -> Value {
    let changes = json!({
        "hidden_act": null, "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma3_text",
        "tie_word_embeddings": null, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "query_pre_attn_scalar": 16,
        "sliding_window": 24, "sliding_window_pattern": 2, "attn_logit_softcapping": null,
        "use_bidirectional_attention": false,
    });
    config_with("Gemma3ForCausalLM", changes)
}

/// `config` of Gemma 2: every other layer sees a window of 24.
pub fn gemma2() -> Value {
    let changes = json!({
        "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma2",
        "tie_word_embeddings": null, "query_pre_attn_scalar": 16, "sliding_window": 24,
    });
    config_with("Gemma2ForCausalLM", changes)
}

/// `config` with some keys replaced.
pub fn config_with(class: &str, changes: Value) -> Value {
    let mut config = config(class);
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The Hugging Face tensors that a configuration of `config` needs, straight from the definition
/// of the architectures.
pub fn hf_tensors(config: &Value) -> Vec<Blob> {
    let class = config["architectures"][0].as_str().unwrap();
    let bias = |key: &str| config[key] == true;
    let qwen2 = class == "Qwen2ForCausalLM";
    let vocab = config["vocab_size"].as_u64().unwrap();
    let mut blobs = vec![Blob::f32("model.embed_tokens.weight", &[vocab, 16])];
    for layer in 0..config["num_hidden_layers"].as_u64().unwrap() {
        let mut add = |name: &str, dims: &[u64]| {
            blobs.push(Blob::f32(&format!("model.layers.{layer}.{name}"), dims));
        };
        add("input_layernorm.weight", &[16]);
        add("post_attention_layernorm.weight", &[16]);
        if ["Gemma2ForCausalLM", "Gemma3ForCausalLM"].contains(&class) {
            add("pre_feedforward_layernorm.weight", &[16]);
            add("post_feedforward_layernorm.weight", &[16]);
        }
        for (name, rows, columns) in [("q", 16, 16), ("k", 8, 16), ("v", 8, 16), ("o", 16, 16)] {
            add(&format!("self_attn.{name}_proj.weight"), &[rows, columns]);
            if bias("attention_bias") || qwen2 && name != "o" {
                add(&format!("self_attn.{name}_proj.bias"), &[rows]);
            }
        }
        if ["Qwen3ForCausalLM", "Gemma3ForCausalLM"].contains(&class) {
            add("self_attn.q_norm.weight", &[8]);
            add("self_attn.k_norm.weight", &[8]);
        }
        for (name, rows, columns) in [("gate", 24, 16), ("up", 24, 16), ("down", 16, 24)] {
            add(&format!("mlp.{name}_proj.weight"), &[rows, columns]);
            if bias("mlp_bias") {
                add(&format!("mlp.{name}_proj.bias"), &[rows]);
            }
        }
    }
    blobs.push(Blob::f32("model.norm.weight", &[16]));
    let tied = bias("tie_word_embeddings") || class.starts_with("Gemma");
    if !tied && !bias("share_embedding") {
        blobs.push(Blob::f32("lm_head.weight", &[vocab, 16]));
    }
    blobs
}

/// Case, what is done to something sound, code and words of the error.
pub type Case<T> = (&'static str, fn(&mut T), &'static str, &'static str);

/// A safetensors file.
pub fn safetensors(blobs: &[Blob]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = vec![];
    for blob in blobs {
        let start = data.len();
        data.extend(&blob.bytes);
        let entry =
            json!({"dtype": blob.dtype, "shape": blob.dims, "data_offsets": [start, data.len()]});
        header.insert(blob.name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with any header.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A Hugging Face directory: files by name.
#[derive(Clone, Debug, Default)]
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    /// The model of a configuration.
    pub fn model(config: &Value) -> Files {
        let mut files = Files::default();
        files.put("config.json", config.to_string());
        files.put("model.safetensors", safetensors(&hf_tensors(config)));
        files
    }

    pub fn put(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.into(), bytes.into()));
    }

    pub fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.0 {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    pub fn open(&self) -> Result<Checkpoint, Error> {
        frontend::open(self.write().path())
    }
}

/// A value of GGUF metadata.
#[derive(Clone, Debug)]
pub enum Kv {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

/// A GGUF file under construction.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub version: u32,
    pub alignment: usize,
    pub keys: Vec<(String, Kv)>,
    pub tensors: Vec<Blob>,
}

/// Type numbers, written down apart from the table under test.
const TYPES: &[(&str, u32)] = &[
    ("F32", 0),
    ("F16", 1),
    ("Q4_0", 2),
    ("Q4_1", 3),
    ("Q8_0", 8),
    ("Q2_K", 10),
    ("I8", 24),
    ("BF16", 30),
    ("none", 99),
];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn list(out: &mut Vec<u8>, kind: u32, len: usize) {
    out.extend([9u32, kind].iter().flat_map(|n| n.to_le_bytes()));
    out.extend((len as u64).to_le_bytes());
}

impl Kv {
    fn write(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
        match self {
            Kv::U32(n) => {
                kind(out, 4);
                out.extend(n.to_le_bytes());
            }
            Kv::F32(x) => {
                kind(out, 6);
                out.extend(x.to_le_bytes());
            }
            Kv::Bool(b) => {
                kind(out, 7);
                out.push(u8::from(*b));
            }
            Kv::Text(s) => {
                kind(out, 8);
                text(out, s);
            }
            Kv::Texts(all) => {
                list(out, 8, all.len());
                all.iter().for_each(|s| text(out, s));
            }
            Kv::Ints(all) => {
                list(out, 5, all.len());
                out.extend(all.iter().flat_map(|n| n.to_le_bytes()));
            }
            Kv::Floats(all) => {
                list(out, 6, all.len());
                out.extend(all.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }
}

impl Gguf {
    /// The model of `config`, as llama.cpp writes it for an architecture.
    pub fn model(arch: &'static str) -> Gguf {
        let mut gguf = Gguf { version: 3, alignment: 32, keys: vec![], tensors: vec![] };
        gguf.set("general.architecture", Kv::Text(arch));
        for (key, value) in [
            ("embedding_length", 16),
            ("feed_forward_length", 24),
            ("block_count", 2),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("context_length", 64),
            ("rope.dimension_count", 8),
        ] {
            gguf.set(&format!("{arch}.{key}"), Kv::U32(value));
        }
        gguf.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), Kv::F32(1e-5));
        gguf.set(&format!("{arch}.rope.freq_base"), Kv::F32(10000.0));
        if ["gemma2", "gemma3"].contains(&arch) {
            gguf.set(&format!("{arch}.attention.sliding_window"), Kv::U32(24));
        }
        gguf.set("tokenizer.ggml.bos_token_id", Kv::U32(1));
        gguf.set("tokenizer.ggml.eos_token_id", Kv::U32(2));
        gguf.tensors = gguf_tensors(arch);
        gguf
    }

    pub fn set(&mut self, key: &str, value: Kv) {
        self.keys.retain(|(other, _)| other != key);
        self.keys.push((key.into(), value));
    }

    pub fn unset(&mut self, key: &str) {
        self.keys.retain(|(other, _)| other != key);
    }

    /// Another number of tokens.
    pub fn resize_vocab(&mut self, rows: u64) {
        *self.tensor("token_embd.weight") = Blob::f32("token_embd.weight", &[rows, 16]);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Blob {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().rev().flat_map(|d| d.to_le_bytes()));
            let id = TYPES.iter().find(|row| row.0 == tensor.dtype).unwrap().1;
            out.extend(id.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    pub fn open(&self) -> Result<Checkpoint, Error> {
        open_bytes(&self.bytes())
    }
}

/// Opens the bytes of a GGUF file.
pub fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    frontend::open(&path)
}

/// The tensors of `hf_tensors`, renamed, and for `llama` permuted, as the converter does it.
fn gguf_tensors(arch: &str) -> Vec<Blob> {
    const NAMES: &[(&str, &str)] = &[
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let class = match arch {
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "gemma" => "GemmaForCausalLM",
        "gemma2" => "Gemma2ForCausalLM",
        "gemma3" => "Gemma3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    let mut blobs = hf_tensors(&config(class));
    for blob in &mut blobs {
        let rotated = blob.name.contains("q_proj") || blob.name.contains("k_proj");
        if rotated && arch == "llama" {
            permute(blob);
        }
        let sandwich = ["gemma2", "gemma3"].contains(&arch);
        let after_attention = if sandwich { "post_attention_norm" } else { "ffn_norm" };
        for (from, to) in NAMES.iter().chain([&("post_attention_layernorm", after_attention)]) {
            blob.name = blob.name.replace(from, to);
        }
    }
    blobs
}

/// `w.reshape(heads, 2, 4, columns).swapaxes(1, 2)` of llama.cpp's converter, heads of 8.
fn permute(blob: &mut Blob) {
    let row = blob.bytes.len() / blob.dims[0] as usize;
    let source = blob.bytes.clone();
    for (at, out) in blob.bytes.chunks_mut(row).enumerate() {
        let (head, i) = (at / 8, at % 8);
        let from = head * 8 + i % 2 * 4 + i / 2;
        out.copy_from_slice(&source[from * row..][..row]);
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Data beside the repository; `None`, said aloud, where it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = root().join("../shared").join(path);
    if !found.exists() {
        println!("skipped: {} is not there", found.display());
    }
    found.exists().then_some(found)
}
