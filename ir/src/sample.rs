//! Small modules of Llama's shape with seeded weights: what tests of every crate run on.
//!
//! No file is needed, and every choice a checkpoint makes is a field here. Not for users.

use crate::build::GraphBuilder;
use crate::history::Step;
use crate::infer::Mismatch;
use crate::module::{Arg, Cache, CacheId, Graph, GraphId, Meta, Module, ValueId, Weight};
use crate::op::{Gate, Op, Rope, RopeScaling};
use crate::random::mix;
use crate::types::{DType, Type};
use crate::weights::{BlobError, Blobs, Tensor};
use std::collections::HashMap;

/// What a sample looks like. `Sample::default()` is the smallest one with every usual part.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Rows of the embedding.
    pub vocab: u64,
    /// Positions of a conversation.
    pub context: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Width inside the feed-forward network.
    pub inner: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of one head.
    pub head: u64,
    /// Calls of the block.
    pub layers: u64,
    /// Calls in a row that share one layer's weights.
    pub shared: u64,
    /// Whether shared weights are declared again for each call, from the same blobs.
    pub repeated: bool,
    /// Whether q, k and v have biases.
    pub bias: bool,
    /// Whether heads of q and k are normed.
    pub qk_norm: bool,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Element type of the matrices.
    pub dtype: DType,
    /// Element type of the cache.
    pub cache: DType,
    /// Scaling of the rotary frequencies.
    pub scaling: RopeScaling,
    /// The activation of the feed-forward network.
    pub gate: Gate,
    /// Whether what is added to the residual stream is normed.
    pub sandwich: bool,
    /// What embeddings are multiplied with.
    pub embed_scale: Option<f64>,
    /// Positions that every other layer sees, from the first on, with a rotary base of its own.
    pub window: Option<u64>,
    /// What scores of attention stay below.
    pub score_cap: Option<f64>,
    /// What logits stay below.
    pub logit_cap: Option<f64>,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample {
            vocab: 48,
            context: 64,
            width: 16,
            inner: 24,
            heads: 4,
            kv_heads: 2,
            head: 4,
            layers: 2,
            shared: 1,
            repeated: false,
            bias: false,
            qk_norm: false,
            tied: true,
            dtype: DType::F16,
            cache: DType::F16,
            scaling: RopeScaling::None,
            gate: Gate::Silu,
            sandwich: false,
            embed_scale: None,
            window: None,
            score_cap: None,
            logit_cap: None,
        }
    }
}

/// One weight that a layer binds: name and dimensions.
type Part = (&'static str, Vec<u64>);

const EPS: f64 = 1e-5;

/// A layer that sees some positions only.
#[derive(Clone, Copy)]
struct Layer {
    name: &'static str,
    window: Option<u64>,
    theta: f64,
}

const GLOBAL: Layer = Layer { name: "block", window: None, theta: 10000.0 };

impl Sample {
    /// A sample of Gemma 3's shape.
    pub fn gemma() -> Sample {
        Sample {
            qk_norm: true,
            gate: Gate::Gelu,
            sandwich: true,
            embed_scale: Some(4.0),
            window: Some(7),
            kv_heads: 1,
            ..Sample::default()
        }
    }

    /// A sample of Gemma 2's shape; caps are low, so that they matter.
    pub fn gemma2() -> Sample {
        let (score_cap, logit_cap) = (Some(0.75), Some(1.5));
        Sample { qk_norm: false, kv_heads: 2, score_cap, logit_cap, ..Sample::gemma() }
    }

    /// The layers, each with a graph, which calls take in turn.
    fn kinds(&self) -> Vec<Layer> {
        match self.window {
            None => vec![GLOBAL],
            Some(_) => vec![
                Layer { name: "block_local", window: self.window, theta: 100.0 },
                Layer { name: "block_global", ..GLOBAL },
            ],
        }
    }

    /// The module; an unsound shape is the error that `infer` gives.
    pub fn module(&self) -> Result<Module, Mismatch> {
        let (vocab, context) = (self.vocab, self.context);
        let mut module = Module {
            meta: Meta { arch: "llama".into(), vocab, context, bos: Some(1), eos: vec![2] },
            ..Module::default()
        };
        let embed = self.add_weight(&mut module, "embed", "embed", &[self.vocab, self.width]);
        let mut blocks = vec![];
        for kind in self.kinds() {
            let block = self.block(&module, kind)?;
            blocks.push(module.add_graph(block));
        }
        self.model(&mut module, &blocks, embed)?;
        self.head(&mut module, embed)?;
        Ok(module)
    }

    /// What one layer binds, in the order of the block's parameters.
    fn parts(&self) -> Vec<Part> {
        let (d, q, kv) = (self.width, self.heads * self.head, self.kv_heads * self.head);
        let mut parts = vec![("norm1", vec![d])];
        parts.extend([("wq", vec![q, d]), ("wk", vec![kv, d]), ("wv", vec![kv, d])]);
        if self.bias {
            parts.extend([("bq", vec![q]), ("bk", vec![kv]), ("bv", vec![kv])]);
        }
        if self.qk_norm {
            parts.extend([("nq", vec![self.head]), ("nk", vec![self.head])]);
        }
        parts.push(("wo", vec![d, q]));
        if self.sandwich {
            parts.push(("post1", vec![d]));
        }
        let f = self.inner;
        parts.push(("norm2", vec![d]));
        parts.extend([("gate", vec![f, d]), ("up", vec![f, d]), ("down", vec![d, f])]);
        if self.sandwich {
            parts.push(("post2", vec![d]));
        }
        parts
    }

    fn dtype_of(&self, dims: &[u64]) -> DType {
        if dims.len() == 1 { DType::F32 } else { self.dtype }
    }

    fn add_weight(&self, module: &mut Module, name: &str, blob: &str, dims: &[u64]) -> Arg {
        let dtype = self.dtype_of(dims);
        let via = if dtype == DType::F32 { vec![] } else { vec![Step::Cast(dtype)] };
        let (name, source) = (name.to_string(), blob.into());
        module.add_weight(Weight { name, dtype, dims: dims.to_vec(), source, via }).into()
    }

    fn block(&self, module: &Module, kind: Layer) -> Result<Graph, Mismatch> {
        let mut g = GraphBuilder::new(kind.name);
        let x = g.param("x", Type::rows(self.width)).into();
        let pos = g.param("pos", Type::tokens()).into();
        let kv = Type::Kv { dtype: self.cache, heads: self.kv_heads, head: self.head };
        let kv = g.cache_param("kv", kv);
        let parts = self.parts();
        let bound = |(name, dims): &Part| (*name, g.weight_param(name, self.dtype_of(dims), dims));
        let bound: HashMap<&str, Arg> = parts.iter().map(bound).collect();
        let x1 = self.attention(module, &mut g, &bound, kind, [x, pos, kv])?;
        let norm = Op::RmsNorm { eps: EPS, group: None };
        let h2 = g.inst(module, "h2", norm, &[x1, bound["norm2"]])?.into();
        let gate = g.inst(module, "g", Op::Linear, &[h2, bound["gate"]])?.into();
        let up = g.inst(module, "u", Op::Linear, &[h2, bound["up"]])?.into();
        let act = g.inst(module, "act", Op::GateMul(self.gate), &[gate, up])?.into();
        let down = g.inst(module, "d", Op::Linear, &[act, bound["down"]])?.into();
        let x2 = add(module, &mut g, &bound, [x1, down], ["dn", "post2", "x2"])?;
        Ok(g.finish(x2))
    }

    fn attention(
        &self,
        module: &Module,
        g: &mut GraphBuilder,
        bound: &HashMap<&str, Arg>,
        kind: Layer,
        [x, pos, kv]: [Arg; 3],
    ) -> Result<Arg, Mismatch> {
        let theta = kind.theta;
        let norm = Op::RmsNorm { eps: EPS, group: None };
        let h1 = g.inst(module, "h1", norm, &[x, bound["norm1"]])?.into();
        let q = ["q", "wq", "bq", "nq", "qn", "qr"];
        let q = self.rotated(module, g, bound, theta, [h1, pos], q)?;
        let k = ["k", "wk", "bk", "nk", "kn", "kr"];
        let k = self.rotated(module, g, bound, theta, [h1, pos], k)?;
        let v: Vec<Arg> = [h1, bound["wv"]].into_iter().chain(bound.get("bv").copied()).collect();
        let v = g.inst(module, "v", Op::Linear, &v)?.into();
        let c = g.inst(module, "c", Op::KvAppend, &[kv, k, v, pos])?.into();
        let scale = 1.0 / (self.head as f64).sqrt();
        let (heads, window, cap) = (self.heads, kind.window, self.score_cap);
        let attention = Op::Attention { heads, scale, window, cap };
        let a = g.inst(module, "a", attention, &[q, c, pos])?.into();
        let o = g.inst(module, "o", Op::Linear, &[a, bound["wo"]])?.into();
        Ok(add(module, g, bound, [x, o], ["on", "post1", "x1"])?.into())
    }

    /// Queries or keys: linear, norm of heads if there is one, rope.
    fn rotated(
        &self,
        module: &Module,
        g: &mut GraphBuilder,
        bound: &HashMap<&str, Arg>,
        theta: f64,
        [h, pos]: [Arg; 2],
        [name, w, b, n, normed, rotated]: [&str; 6],
    ) -> Result<Arg, Mismatch> {
        let args: Vec<Arg> = [h, bound[w]].into_iter().chain(bound.get(b).copied()).collect();
        let mut y: Arg = g.inst(module, name, Op::Linear, &args)?.into();
        if let Some(&gain) = bound.get(n) {
            let norm = Op::RmsNorm { eps: EPS, group: Some(self.head) };
            y = g.inst(module, normed, norm, &[y, gain])?.into();
        }
        let rope = Rope { head: self.head, theta, scaling: self.scaling.clone() };
        Ok(g.inst(module, rotated, Op::Rope(rope), &[y, pos])?.into())
    }

    fn model(&self, module: &mut Module, blocks: &[GraphId], embed: Arg) -> Result<(), Mismatch> {
        let mut g = GraphBuilder::new("model");
        let tokens = g.param("tokens", Type::tokens());
        let pos = g.param("pos", Type::tokens());
        let mut x: ValueId = g.inst(module, "x0", Op::Embed, &[tokens.into(), embed])?;
        if let Some(by) = self.embed_scale {
            x = g.inst(module, "x0s", Op::Scale { by }, &[x.into()])?;
        }
        for layer in 0..self.layers {
            let block = blocks[layer as usize % blocks.len()];
            let mut args = vec![x.into(), pos.into(), self.slot(module, layer).into()];
            args.extend(self.layer_weights(module, layer));
            x = g.inst(module, &format!("x{}", layer + 1), Op::Call(block), &args)?;
        }
        module.add_graph(g.finish(x));
        Ok(())
    }

    fn slot(&self, module: &mut Module, layer: u64) -> CacheId {
        let ty = Type::Kv { dtype: self.cache, heads: self.kv_heads, head: self.head };
        module.add_cache(Cache { name: format!("l{layer}"), ty })
    }

    /// The weights of a layer, declared now or by the layer that shares them.
    fn layer_weights(&self, module: &mut Module, layer: u64) -> Vec<Arg> {
        let source = layer - layer % self.shared.max(1);
        let named = if self.repeated { layer } else { source };
        let one = |(part, dims): Part| {
            let name = format!("l{named}.{part}");
            match module.weight_named(&name) {
                Some(weight) => weight.into(),
                None => self.add_weight(module, &name, &format!("l{source}.{part}"), &dims),
            }
        };
        self.parts().into_iter().map(one).collect()
    }

    fn head(&self, module: &mut Module, embed: Arg) -> Result<(), Mismatch> {
        let norm = self.add_weight(module, "norm", "norm", &[self.width]);
        let table = match self.tied {
            true => embed,
            false => self.add_weight(module, "head", "head", &[self.vocab, self.width]),
        };
        let mut g = GraphBuilder::new("head");
        let x = g.param("x", Type::rows(self.width)).into();
        let h = Op::RmsNorm { eps: EPS, group: None };
        let h = g.inst(module, "h", h, &[x, norm])?.into();
        let mut logits = g.inst(module, "logits", Op::Linear, &[h, table])?;
        if let Some(cap) = self.logit_cap {
            logits = g.inst(module, "capped", Op::Softcap { cap }, &[logits.into()])?;
        }
        module.add_graph(g.finish(logits));
        Ok(())
    }
}

/// What the residual stream becomes, `more` normed first if there is a gain for that.
fn add(
    module: &Module,
    g: &mut GraphBuilder,
    bound: &HashMap<&str, Arg>,
    [x, more]: [Arg; 2],
    [normed, gain, sum]: [&str; 3],
) -> Result<ValueId, Mismatch> {
    let more = match bound.get(gain) {
        Some(&gain) => {
            let norm = Op::RmsNorm { eps: EPS, group: None };
            g.inst(module, normed, norm, &[more, gain])?.into()
        }
        None => more,
    };
    g.inst(module, sum, Op::Add, &[x, more])
}

/// Random tensors for every blob of a module, the same for the same seed and name.
pub struct Seeded {
    dims: HashMap<String, Vec<u64>>,
    seed: u64,
}

impl Seeded {
    /// Blobs of the shapes that the module's weights have.
    pub fn new(module: &Module, seed: u64) -> Seeded {
        let blob = |w: &Weight| Some((w.source.blob()?.to_string(), w.dims.clone()));
        Seeded { dims: module.weights.iter().filter_map(blob).collect(), seed }
    }
}

impl Blobs for Seeded {
    /// Matrices have rows of variance 1 in all; vectors are near 1, as gains are.
    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        let Some(dims) = self.dims.get(blob) else {
            return Err(BlobError { blob: blob.to_string(), why: "there is no such blob".into() });
        };
        let mut state = blob.bytes().fold(self.seed, |h, b| mix(h ^ u64::from(b)));
        let mut uniform = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (mix(state) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let (offset, scale) = match dims[..] {
            [_, columns] => (0.0, (3.0 / columns as f32).sqrt()),
            _ => (1.0, 0.2),
        };
        let elements: u64 = dims.iter().product();
        let data = (0..elements).map(|_| offset + scale * uniform()).collect();
        Ok(Tensor { dims: dims.clone(), data })
    }
}
