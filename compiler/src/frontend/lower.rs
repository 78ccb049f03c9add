//! From hyper-parameters to IR: a `@block` for each kind of layer, called once per layer, `@model` and
//! `@head`.
//!
//! Weights stay references; types are f32 until a pass chooses others.

use super::check::roles;
use super::config::Config;
use super::names::{BLOCK, Naming, POST};
use ir::{
    Arg, Cache, CacheId, DType, Graph, GraphBuilder, GraphId, Meta, Module, Op, Rope, Source, Type,
    ValueId, Weight, WeightId,
};

/// The module of a model whose checkpoint was checked.
pub fn lower(config: &Config, naming: Naming) -> Module {
    let mut module = Module {
        meta: Meta {
            arch: config.arch.clone(),
            vocab: config.vocab,
            context: config.context,
            bos: config.bos,
            eos: config.eos.clone(),
        },
        ..Module::default()
    };
    for (role, layer) in roles(config) {
        module.add_weight(Weight {
            name: layer.map_or(role.name.to_string(), |l| weight_name(l, role.name)),
            dtype: DType::F32,
            dims: role.dims(config),
            source: Source::Blob(role.blob(naming, layer)),
            via: role.via(naming, config),
        });
    }
    for layer in 0..config.blocks {
        for call in 0..config.calls {
            module.add_cache(Cache { name: cache_name(config, layer, call), ty: cache(config) });
        }
    }
    let kinds = kinds(config);
    let mut blocks = vec![];
    for kind in &kinds {
        let graph = block(config, kind, &module);
        blocks.push(module.add_graph(graph));
    }
    let graph = model(config, &module, &blocks);
    module.add_graph(graph);
    let graph = head(config, &module);
    module.add_graph(graph);
    module
}

fn weight_name(layer: u64, role: &str) -> String {
    format!("l{layer}.{role}")
}

/// One slot per call: a block that runs twice attends to two pasts.
fn cache_name(config: &Config, layer: u64, call: u64) -> String {
    if config.calls == 1 { format!("l{layer}") } else { format!("l{layer}.{call}") }
}

fn cache(config: &Config) -> Type {
    Type::Kv { dtype: DType::F32, heads: config.kv_heads, head: config.head }
}

/// A block: its graph, and what sets it apart from others.
struct Kind<'c> {
    name: &'static str,
    rope: &'c Rope,
    window: Option<u64>,
}

/// The blocks of a model: one, or first that of layers with a window and then that of others.
fn kinds(config: &Config) -> Vec<Kind<'_>> {
    let rope = &config.rope;
    let Some(local) = &config.local else {
        return vec![Kind { name: "block", rope, window: None }];
    };
    let global = Kind { name: "block_global", rope, window: None };
    let mut kinds = vec![Kind { name: "block_local", rope: &local.rope, window: local.window }];
    kinds.extend(local.layers.contains(&false).then_some(global));
    kinds
}

/// A graph under construction, whose shapes cannot be wrong.
struct Lowering<'a> {
    builder: GraphBuilder,
    module: &'a Module,
}

impl Lowering<'_> {
    fn new<'a>(name: &str, module: &'a Module) -> Lowering<'a> {
        Lowering { builder: GraphBuilder::new(name), module }
    }

    fn inst(&mut self, name: &str, op: Op, args: &[Arg]) -> ValueId {
        self.builder
            .inst(self.module, name, op, args)
            .expect("shapes follow from one validated configuration")
    }

    /// A weight of the module.
    fn weight(&self, name: &str) -> Arg {
        self.module.weight_named(name).expect("every role in use is a weight").into()
    }
}

/// The block's weight parameters, by name.
struct Formals(Vec<(&'static str, Arg)>);

impl Formals {
    fn optional(&self, name: &str) -> Option<Arg> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, arg)| *arg)
    }

    fn get(&self, name: &str) -> Arg {
        self.optional(name).expect("every role in use is a parameter")
    }
}

fn block(config: &Config, kind: &Kind, module: &Module) -> Graph {
    let mut l = Lowering::new(kind.name, module);
    let x = l.builder.param("x", Type::rows(config.hidden));
    let pos = l.builder.param("pos", Type::tokens());
    let kv = l.builder.cache_param("kv", cache(config));
    let used = BLOCK.iter().filter(|role| (role.used)(config));
    let w = Formals(
        used.map(|role| {
            (role.name, l.builder.weight_param(role.name, DType::F32, &role.dims(config)))
        })
        .collect(),
    );
    let mut o = attention(config, kind, &mut l, &w, x, pos, kv);
    if let Some(gain) = w.optional(POST[0]) {
        o = l.inst("on", rms_norm(config, None), &[o.into(), gain]);
    }
    let x1 = l.inst("x1", Op::Add, &[x.into(), o.into()]);
    let mut d = feed_forward(config, &mut l, &w, x1);
    if let Some(gain) = w.optional(POST[1]) {
        d = l.inst("dn", rms_norm(config, None), &[d.into(), gain]);
    }
    let x2 = l.inst("x2", Op::Add, &[x1.into(), d.into()]);
    l.builder.finish(x2)
}

fn rms_norm(config: &Config, group: Option<u64>) -> Op {
    Op::RmsNorm { eps: config.eps, group }
}

fn linear(
    l: &mut Lowering,
    w: &Formals,
    name: &str,
    x: ValueId,
    weight: &str,
    bias: &str,
) -> ValueId {
    let mut args = vec![x.into(), w.get(weight)];
    args.extend(w.optional(bias));
    l.inst(name, Op::Linear, &args)
}

fn attention(
    config: &Config,
    kind: &Kind,
    l: &mut Lowering,
    w: &Formals,
    x: ValueId,
    pos: ValueId,
    kv: Arg,
) -> ValueId {
    let h1 = l.inst("h1", rms_norm(config, None), &[x.into(), w.get("norm1")]);
    let mut q = linear(l, w, "q", h1, "wq", "bq");
    let mut k = linear(l, w, "k", h1, "wk", "bk");
    let v = linear(l, w, "v", h1, "wv", "bv");
    if config.qk_norm {
        q = l.inst("qn", rms_norm(config, Some(config.head)), &[q.into(), w.get("q_norm")]);
        k = l.inst("kn", rms_norm(config, Some(config.head)), &[k.into(), w.get("k_norm")]);
    }
    let rope = Op::Rope(kind.rope.clone());
    let qr = l.inst("qr", rope.clone(), &[q.into(), pos.into()]);
    let kr = l.inst("kr", rope, &[k.into(), pos.into()]);
    let c = l.inst("c", Op::KvAppend, &[kv, kr.into(), v.into(), pos.into()]);
    let (heads, scale, window) = (config.heads, config.score_scale, kind.window);
    let attention = Op::Attention { heads, scale, window, cap: config.caps.scores };
    let a = l.inst("a", attention, &[qr.into(), c.into(), pos.into()]);
    linear(l, w, "o", a, "wo", "bo")
}

fn feed_forward(config: &Config, l: &mut Lowering, w: &Formals, x1: ValueId) -> ValueId {
    let h2 = l.inst("h2", rms_norm(config, None), &[x1.into(), w.get("norm2")]);
    let g = linear(l, w, "g", h2, "wgate", "bgate");
    let u = linear(l, w, "u", h2, "wup", "bup");
    let m = l.inst("m", Op::GateMul(config.gate), &[g.into(), u.into()]);
    linear(l, w, "d", m, "wdown", "bdown")
}

fn model(config: &Config, module: &Module, blocks: &[GraphId]) -> Graph {
    let mut l = Lowering::new("model", module);
    let tokens = l.builder.param("tokens", Type::tokens());
    let pos = l.builder.param("pos", Type::tokens());
    let embed = l.weight("embed");
    let mut x = l.inst("x0", Op::Embed, &[tokens.into(), embed]);
    if let Some(by) = config.embed_scale {
        x = l.inst("x0s", Op::Scale { by }, &[x.into()]);
    }
    let per_block = BLOCK.iter().filter(|role| (role.used)(config)).count() as u64;
    for call in 0..config.blocks * config.calls {
        let layer = call / config.calls;
        let global = config.local.as_ref().is_some_and(|local| !local.layers[layer as usize]);
        let block = blocks[usize::from(global)];
        let mut args = vec![x.into(), pos.into(), CacheId(call as u32).into()];
        // The embedding is the first weight, then come the blocks, role by role.
        let first = 1 + layer * per_block;
        args.extend((first..first + per_block).map(|id| Arg::from(WeightId(id as u32))));
        x = l.inst(&format!("x{}", call + 1), Op::Call(block), &args);
    }
    l.builder.finish(x)
}

fn head(config: &Config, module: &Module) -> Graph {
    let mut l = Lowering::new("head", module);
    let x = l.builder.param("x", Type::rows(config.hidden));
    let norm = l.weight("norm");
    let n = l.inst("n", rms_norm(config, None), &[x.into(), norm]);
    let table = l.weight(if config.tied { "embed" } else { "head" });
    let mut logits = l.inst("logits", Op::Linear, &[n.into(), table]);
    if let Some(cap) = config.caps.logits {
        logits = l.inst("capped", Op::Softcap { cap }, &[logits.into()]);
    }
    l.builder.finish(logits)
}
