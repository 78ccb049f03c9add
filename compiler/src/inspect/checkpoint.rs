//! A checkpoint: hyper-parameters, tensors, tokenizer.

use super::Found;
use crate::frontend::config::Local;
use crate::frontend::{self, Checkpoint, Config};
use crate::tokenizer::{Alphabet, Tokenizer};
use crate::{Error, output};
use ir::{Gate, Rope, RopeScaling};
use output::grouped;
use serde_json::{Value, json};
use std::path::Path;

/// What a checkpoint holds.
pub fn inspect(path: &Path) -> Result<Found, Error> {
    let checkpoint = frontend::open(path)?;
    let format = if path.is_dir() { "Hugging Face directory" } else { "GGUF file" };
    let groups = groups(&checkpoint);
    Ok(Found { text: text(&checkpoint, format, &groups), json: json(&checkpoint, format, &groups) })
}

/// Tensors that differ in the number of their layer only.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    /// The name up to the number of the layer, and after it.
    name: (String, Option<String>),
    layers: Vec<u64>,
    dtype: String,
    dims: Vec<u64>,
    bytes: u64,
}

impl Group {
    /// As in `blk.{0..29}.attn_q.weight`.
    fn pattern(&self) -> String {
        let (before, Some(after)) = &self.name else { return self.name.0.clone() };
        let (first, last) = (self.layers[0], self.layers[self.layers.len() - 1]);
        let layers = match self.layers[..] {
            [one] => one.to_string(),
            _ if last - first + 1 == self.layers.len() as u64 => format!("{{{first}..{last}}}"),
            _ => {
                let all: Vec<String> = self.layers.iter().map(u64::to_string).collect();
                format!("{{{}}}", all.join(","))
            }
        };
        format!("{before}{layers}{after}")
    }
}

fn groups(checkpoint: &Checkpoint) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    for (name, stored) in checkpoint.blobs.tensors() {
        let (name, layer) = cut(name);
        let bytes = stored.bytes as u64;
        let same =
            |g: &&mut Group| g.name == name && g.dtype == stored.dtype && g.dims == stored.dims;
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.layers.extend(layer);
                group.bytes += bytes;
            }
            None => groups.push(Group {
                name,
                layers: layer.into_iter().collect(),
                dtype: stored.dtype.clone(),
                dims: stored.dims.clone(),
                bytes,
            }),
        }
    }
    groups.iter_mut().for_each(|group| group.layers.sort_unstable());
    groups
}

/// A name before and after the first of its parts that is a number, and the number.
fn cut(name: &str) -> ((String, Option<String>), Option<u64>) {
    let mut start = 0;
    for part in name.split('.') {
        let end = start + part.len();
        if let Ok(layer) = part.parse() {
            return ((name[..start].into(), Some(name[end..].into())), Some(layer));
        }
        start = end + 1;
    }
    ((name.into(), None), None)
}

fn text(checkpoint: &Checkpoint, format: &str, groups: &[Group]) -> String {
    let config = &checkpoint.config;
    let mut rows = vec![("kind", format.to_string()), ("architecture", config.arch.clone())];
    rows.extend(shape(config));
    rows.push(("parameters", grouped(parameters(checkpoint))));
    rows.push(("bytes", grouped(groups.iter().map(|g| g.bytes).sum())));
    rows.extend(tokenizer(checkpoint));
    let mut table = vec![["tensor", "format", "shape", "bytes"].map(String::from).to_vec()];
    for group in groups {
        let shape = format!("{:?}", group.dims);
        table.push(vec![group.pattern(), group.dtype.clone(), shape, grouped(group.bytes)]);
    }
    format!("{}\n{}", output::pairs(&rows), output::table(&table))
}

fn parameters(checkpoint: &Checkpoint) -> u64 {
    checkpoint.module.weights.iter().map(ir::Weight::elements).sum()
}

fn shape(config: &Config) -> Vec<(&'static str, String)> {
    let Config { hidden, ffn, heads, kv_heads, head, vocab, context, .. } = config;
    let blocks = match config.calls {
        1 => config.blocks.to_string(),
        calls => format!("{}, each called {calls} times in a row", config.blocks),
    };
    let mut rows = vec![
        ("width", format!("{hidden}, {ffn} in the feed-forward part")),
        ("blocks", blocks),
        ("heads", format!("{heads} of {head}, {kv_heads} for keys and values")),
        ("vocabulary", grouped(*vocab)),
        ("context", grouped(*context)),
        ("rope", rope(&config.rope)),
        ("norm", format!("eps {:e}", config.eps)),
    ];
    rows.extend(config.local.as_ref().map(|local| ("windows", windows(local))));
    rows.push(("with", extras(config).join(", ")));
    rows
}

fn windows(local: &Local) -> String {
    let count = local.layers.iter().filter(|is_local| **is_local).count();
    let seen = match local.window {
        Some(window) => format!("{} positions", grouped(window)),
        None => "all positions".into(),
    };
    format!("{count} of {} blocks see {seen}; rope {}", local.layers.len(), rope(&local.rope))
}

fn extras(config: &Config) -> Vec<String> {
    let cap = |what: &str, cap: Option<f64>| cap.map(|cap| format!("{what} below {cap}"));
    let tied = if config.tied { "tied embeddings" } else { "own output matrix" };
    let flags = [
        (true, tied),
        (config.attention_bias.contains(&true), "biases in attention"),
        (config.mlp_bias, "biases in the feed-forward part"),
        (config.qk_norm, "norms of q and k"),
        (config.sandwich, "norms behind sub-layers"),
        (config.gate == Gate::Gelu, "GELU"),
    ];
    let flags = flags.into_iter().filter(|(has, _)| *has).map(|(_, what)| what.to_string());
    let caps = [cap("scores", config.caps.scores), cap("logits", config.caps.logits)];
    flags.chain(caps.into_iter().flatten()).collect()
}

fn rope(rope: &Rope) -> String {
    let scaling = match rope.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear scaling {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!(", Llama 3 scaling {factor}"),
    };
    format!("theta {}{scaling}", rope.theta)
}

fn kind(tokenizer: &Tokenizer) -> &'static str {
    match tokenizer.alphabet {
        Alphabet::Bytes => "byte-level BPE",
        Alphabet::Text => "SentencePiece BPE",
    }
}

fn tokenizer(checkpoint: &Checkpoint) -> Vec<(&'static str, String)> {
    let Some(tokenizer) = &checkpoint.tokenizer else {
        return vec![("tokenizer", "none".into())];
    };
    let token = |id: u32| {
        let piece = tokenizer.pieces().get(id as usize).map(|p| p.bytes.as_slice());
        format!("{id} {:?}", String::from_utf8_lossy(piece.unwrap_or_default()))
    };
    let bos = match (checkpoint.config.bos, tokenizer.settings.add_bos) {
        (None, _) => "none".into(),
        (Some(id), true) => format!("{}, put before a text", token(id)),
        (Some(id), false) => format!("{}, not put before a text", token(id)),
    };
    let eos: Vec<String> = checkpoint.config.eos.iter().map(|&id| token(id)).collect();
    let template = tokenizer.settings.chat_template.as_ref();
    vec![
        (
            "tokenizer",
            format!("{}, {} merges", kind(tokenizer), grouped(tokenizer.merges.len() as u64)),
        ),
        ("bos", bos),
        ("eos", if eos.is_empty() { "none".into() } else { eos.join(", ") }),
        ("chat", if template.is_some() { "has a template" } else { "no template" }.into()),
    ]
}

fn json(checkpoint: &Checkpoint, format: &str, groups: &[Group]) -> Value {
    let config = &checkpoint.config;
    let tokenizer = checkpoint.tokenizer.as_ref().map(|t| {
        json!({
            "kind": kind(t),
            "merges": t.merges.len(),
            "add_bos": t.settings.add_bos,
            "chat_template": t.settings.chat_template,
        })
    });
    let tensor = |group: &Group| {
        json!({
            "name": group.pattern(), "count": group.layers.len().max(1),
            "format": group.dtype, "shape": group.dims, "bytes": group.bytes,
        })
    };
    json!({
        "kind": "checkpoint",
        "format": format,
        "config": {
            "architecture": config.arch, "hidden": config.hidden, "ffn": config.ffn,
            "blocks": config.blocks, "calls": config.calls, "heads": config.heads,
            "kv_heads": config.kv_heads, "head": config.head, "vocab": config.vocab,
            "context": config.context, "eps": config.eps, "rope": rope(&config.rope),
            "tied": config.tied, "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias, "qk_norm": config.qk_norm, "bos": config.bos,
            "eos": config.eos, "score_cap": config.caps.scores, "logit_cap": config.caps.logits,
            "windowed": config.local.as_ref().map(|local| &local.layers),
            "window": config.local.as_ref().and_then(|local| local.window),
            "window_rope": config.local.as_ref().map(|local| rope(&local.rope)),
        },
        "parameters": parameters(checkpoint),
        "bytes": groups.iter().map(|g| g.bytes).sum::<u64>(),
        "tensors": groups.iter().map(tensor).collect::<Vec<_>>(),
        "tokenizer": tokenizer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_become_a_range() {
        let group = |name: &str, layers: &[u64]| {
            let layers = layers.to_vec();
            Group { name: cut(name).0, layers, dtype: "F16".into(), dims: vec![], bytes: 0 }
        };
        assert_eq!(group("blk.0.attn_q.weight", &[0, 1, 2]).pattern(), "blk.{0..2}.attn_q.weight");
        assert_eq!(group("blk.0.q", &[0, 2]).pattern(), "blk.{0,2}.q");
        assert_eq!(group("blk.4.q", &[4]).pattern(), "blk.4.q");
        assert_eq!(group("token_embd.weight", &[]).pattern(), "token_embd.weight");
    }
}
