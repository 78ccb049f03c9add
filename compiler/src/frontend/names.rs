//! The tensors of a block: one row each, with their names in both layouts and their shapes.
//!
//! The order of the rows is the order of the block graph's parameters.

use super::config::{Config, Family};
use ir::Step;

/// How a checkpoint names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// `blk.0.attn_q.weight`.
    Gguf,
}

/// One dimension of a tensor, as a hyper-parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Width of the hidden state.
    Hidden,
    /// Query heads times their width.
    Queries,
    /// KV heads times their width.
    Keys,
    /// Width of one head.
    Head,
    /// Width of the feed-forward part.
    Ffn,
    /// Tokens.
    Vocab,
}

/// A tensor that a model needs.
#[derive(Debug)]
pub struct Role {
    /// Name in the IR.
    pub name: &'static str,
    /// Names in the two layouts, without the prefix of the layer.
    hf: &'static str,
    gguf: &'static str,
    /// Dimensions, outermost first.
    pub axes: &'static [Axis],
    /// Whether a model has it.
    pub used: fn(&Config) -> bool,
}

const fn role(
    name: &'static str,
    hf: &'static str,
    gguf: &'static str,
    axes: &'static [Axis],
    used: fn(&Config) -> bool,
) -> Role {
    Role { name, hf, gguf, axes, used }
}

use Axis::{Ffn, Head, Hidden, Keys, Queries, Vocab};

/// The tensors of one block.
pub const BLOCK: &[Role] = &[
    role("norm1", "input_layernorm.weight", "attn_norm.weight", &[Hidden], |_| true),
    role("wq", "self_attn.q_proj.weight", "attn_q.weight", &[Queries, Hidden], |_| true),
    role("bq", "self_attn.q_proj.bias", "attn_q.bias", &[Queries], |c| c.attention_bias[0]),
    role("wk", "self_attn.k_proj.weight", "attn_k.weight", &[Keys, Hidden], |_| true),
    role("bk", "self_attn.k_proj.bias", "attn_k.bias", &[Keys], |c| c.attention_bias[1]),
    role("wv", "self_attn.v_proj.weight", "attn_v.weight", &[Keys, Hidden], |_| true),
    role("bv", "self_attn.v_proj.bias", "attn_v.bias", &[Keys], |c| c.attention_bias[2]),
    role("q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", &[Head], |c| c.qk_norm),
    role("k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", &[Head], |c| c.qk_norm),
    role("wo", "self_attn.o_proj.weight", "attn_output.weight", &[Hidden, Queries], |_| true),
    role("bo", "self_attn.o_proj.bias", "attn_output.bias", &[Hidden], |c| c.attention_bias[3]),
    role(
        POST[0],
        "post_attention_layernorm.weight",
        "post_attention_norm.weight",
        &[Hidden],
        |c| c.sandwich,
    ),
    role("norm2", "post_attention_layernorm.weight", "ffn_norm.weight", &[Hidden], |c| !c.sandwich),
    role("norm2", "pre_feedforward_layernorm.weight", "ffn_norm.weight", &[Hidden], |c| c.sandwich),
    role("wgate", "mlp.gate_proj.weight", "ffn_gate.weight", &[Ffn, Hidden], |_| true),
    role("bgate", "mlp.gate_proj.bias", "ffn_gate.bias", &[Ffn], |c| c.mlp_bias),
    role("wup", "mlp.up_proj.weight", "ffn_up.weight", &[Ffn, Hidden], |_| true),
    role("bup", "mlp.up_proj.bias", "ffn_up.bias", &[Ffn], |c| c.mlp_bias),
    role("wdown", "mlp.down_proj.weight", "ffn_down.weight", &[Hidden, Ffn], |_| true),
    role("bdown", "mlp.down_proj.bias", "ffn_down.bias", &[Hidden], |c| c.mlp_bias),
    role(POST[1], "post_feedforward_layernorm.weight", "post_ffw_norm.weight", &[Hidden], |c| {
        c.sandwich
    }),
];

/// Gains of the norms of what a block's two halves add to the residual stream.
pub const POST: [&str; 2] = ["post1", "post2"];

/// The table of token embeddings.
pub const EMBED: Role =
    role("embed", "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], |_| true);
/// The norm before the output matrix.
pub const NORM: Role = role("norm", "model.norm.weight", "output_norm.weight", &[Hidden], |_| true);
/// The output matrix.
pub const HEAD: Role =
    role("head", "lm_head.weight", "output.weight", &[Vocab, Hidden], |c| !c.tied);

impl Role {
    /// The tensor's name in the checkpoint; `layer` for tensors of a block.
    pub fn blob(&self, naming: Naming, layer: Option<u64>) -> String {
        match (naming, layer) {
            (Naming::HuggingFace, Some(layer)) => format!("model.layers.{layer}.{}", self.hf),
            (Naming::Gguf, Some(layer)) => format!("blk.{layer}.{}", self.gguf),
            (Naming::HuggingFace, None) => self.hf.to_string(),
            (Naming::Gguf, None) => self.gguf.to_string(),
        }
    }

    /// Dimensions, outermost first.
    pub fn dims(&self, config: &Config) -> Vec<u64> {
        self.axes.iter().map(|axis| axis.size(config)).collect()
    }

    /// The steps from the checkpoint's numbers to ours. llama.cpp interleaves the rotary pairs of q
    /// and k in files of architecture `llama`, and in no others; Gemma's gains are stored less one,
    /// which llama.cpp's converter adds.
    pub fn via(&self, naming: Naming, config: &Config) -> Vec<Step> {
        if naming == Naming::HuggingFace {
            let gain = self.name.contains("norm") || POST.contains(&self.name);
            return match gain && config.family.is_gemma() {
                true => vec![Step::Plus { by: 1 }],
                false => vec![],
            };
        }
        if config.family != Family::Llama {
            return vec![];
        }
        match self.name {
            "wq" | "bq" => vec![Step::Unpermute { heads: config.heads }],
            "wk" | "bk" => vec![Step::Unpermute { heads: config.kv_heads }],
            _ => vec![],
        }
    }
}

impl Axis {
    /// The dimension.
    pub fn size(self, config: &Config) -> u64 {
        match self {
            Axis::Hidden => config.hidden,
            Axis::Queries => config.heads * config.head,
            Axis::Keys => config.kv_heads * config.head,
            Axis::Head => config.head,
            Axis::Ffn => config.ffn,
            Axis::Vocab => config.vocab,
        }
    }

    /// The hyper-parameters behind the dimension, for messages.
    pub fn reason(self, naming: Naming, c: &Config) -> String {
        let hf = naming == Naming::HuggingFace;
        let pick = |a: &'static str, b: &'static str| if hf { a } else { b };
        let head = pick("head_dim", "attention.key_length");
        match self {
            Axis::Hidden => format!("{} = {}", pick("hidden_size", "embedding_length"), c.hidden),
            Axis::Queries => {
                let heads = pick("num_attention_heads", "attention.head_count");
                format!("{heads} = {}, {head} = {}", c.heads, c.head)
            }
            Axis::Keys => {
                let heads = pick("num_key_value_heads", "attention.head_count_kv");
                format!("{heads} = {}, {head} = {}", c.kv_heads, c.head)
            }
            Axis::Head => format!("{head} = {}", c.head),
            Axis::Ffn => {
                format!("{} = {}", pick("intermediate_size", "feed_forward_length"), c.ffn)
            }
            Axis::Vocab => format!("{} = {}", pick("vocab_size", "tokenizer.ggml.tokens"), c.vocab),
        }
    }
}
