//! The data of a program: one module of weights, cache slots and graphs, held by handles.
//!
//! Nothing here checks anything; `verify` does.

use crate::history::{Source, Step};
use crate::op::Op;
use crate::types::{DType, Type};

/// A module-level weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);
/// A module-level slot of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheId(pub u32);
/// A graph of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphId(pub u32);
/// A value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A whole model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Facts about the model that no tensor carries.
    pub meta: Meta,
    /// Weights by reference.
    pub weights: Vec<Weight>,
    /// Slots of the KV cache, one per attention call.
    pub caches: Vec<Cache>,
    /// Graphs; a graph calls only graphs before it. The roots are `@model` (tokens to hidden
    /// states) and `@head` (hidden states to logits).
    pub graphs: Vec<Graph>,
}

/// Facts about the model that no tensor carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Architecture, as the checkpoint names it.
    pub arch: String,
    /// Rows of the embedding and of the logits.
    pub vocab: u64,
    /// Positions a conversation may hold.
    pub context: u64,
    /// Beginning-of-sequence token, if the model has one.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the usual one first.
    pub eos: Vec<u32>,
}

/// A weight: where it comes from and what was done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Name without the sigil, dots allowed.
    pub name: String,
    /// Stored element type, after `via`.
    pub dtype: DType,
    /// Dimensions, after `via`.
    pub dims: Vec<u64>,
    /// Where its numbers come from.
    pub source: Source,
    /// The steps from there to what is stored, in order, applied lazily.
    pub via: Vec<Step>,
}

/// A slot of the KV cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Name without the sigil.
    pub name: String,
    /// `Type::Kv`.
    pub ty: Type,
}

/// A graph: parameters, instructions in order, one result.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Name without the sigil.
    pub name: String,
    /// Parameters in the order of a call's arguments.
    pub params: Vec<Param>,
    /// Weights that each call binds.
    pub weights: Vec<Formal>,
    /// Cache slots that each call binds.
    pub caches: Vec<Formal>,
    /// Values: those of parameters first, then one per instruction.
    pub values: Vec<Value>,
    /// Instructions, each using only earlier values.
    pub insts: Vec<Inst>,
    /// What the graph returns.
    pub result: ValueId,
}

/// One parameter of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// A value.
    Value(ValueId),
    /// Index into `Graph::weights`.
    Weight(u32),
    /// Index into `Graph::caches`.
    Cache(u32),
}

/// A weight or cache slot that a call binds.
#[derive(Clone, Debug, PartialEq)]
pub struct Formal {
    /// Name without the sigil.
    pub name: String,
    /// What is bound must have exactly this type.
    pub ty: Type,
}

/// A value and its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name without the sigil.
    pub name: String,
    /// Claimed type; the verifier compares it with the inferred one.
    pub ty: Type,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// What it defines.
    pub result: ValueId,
    /// What it does.
    pub op: Op,
    /// To what.
    pub args: Vec<Arg>,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arg {
    /// A value of the graph.
    Value(ValueId),
    /// A weight of the module.
    Weight(WeightId),
    /// A weight parameter of the graph.
    FormalWeight(u32),
    /// A cache slot of the module.
    Cache(CacheId),
    /// A cache parameter of the graph.
    FormalCache(u32),
}

impl From<ValueId> for Arg {
    fn from(v: ValueId) -> Arg {
        Arg::Value(v)
    }
}

impl From<WeightId> for Arg {
    fn from(w: WeightId) -> Arg {
        Arg::Weight(w)
    }
}

impl From<CacheId> for Arg {
    fn from(c: CacheId) -> Arg {
        Arg::Cache(c)
    }
}

impl Weight {
    /// The weight's type.
    pub fn ty(&self) -> Type {
        Type::weight(self.dtype, &self.dims)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl Graph {
    /// Whether it is `@model` or `@head`, which nothing calls.
    pub fn is_root(&self) -> bool {
        self.name == "model" || self.name == "head"
    }

    /// Of `@head`: index of the `linear` that makes the logits, the last instruction or that before a
    /// `softcap`.
    pub fn logits(&self) -> Option<usize> {
        let made = |v: ValueId| self.insts.iter().position(|inst| inst.result == v);
        let last = made(self.result)?;
        let linear = match (&self.insts[last].op, self.insts[last].args.first()) {
            (Op::Softcap { .. }, Some(&Arg::Value(x))) => made(x)?,
            _ => last,
        };
        (self.insts[linear].op == Op::Linear).then_some(linear)
    }
}

impl Module {
    /// The weight behind a handle.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }

    /// The cache slot behind a handle.
    pub fn cache(&self, id: CacheId) -> &Cache {
        &self.caches[id.0 as usize]
    }

    /// The graph behind a handle.
    pub fn graph(&self, id: GraphId) -> &Graph {
        &self.graphs[id.0 as usize]
    }

    /// The graph of that name.
    pub fn graph_named(&self, name: &str) -> Option<GraphId> {
        self.graphs.iter().position(|g| g.name == name).map(|i| GraphId(i as u32))
    }

    /// The weight of that name.
    pub fn weight_named(&self, name: &str) -> Option<WeightId> {
        self.weights.iter().position(|w| w.name == name).map(|i| WeightId(i as u32))
    }

    /// Adds a weight.
    pub fn add_weight(&mut self, weight: Weight) -> WeightId {
        self.weights.push(weight);
        WeightId(self.weights.len() as u32 - 1)
    }

    /// Adds a cache slot.
    pub fn add_cache(&mut self, cache: Cache) -> CacheId {
        self.caches.push(cache);
        CacheId(self.caches.len() as u32 - 1)
    }

    /// Adds a graph; the graphs it calls must be there already.
    pub fn add_graph(&mut self, graph: Graph) -> GraphId {
        self.graphs.push(graph);
        GraphId(self.graphs.len() as u32 - 1)
    }
}

impl Graph {
    /// The value behind a handle.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The type of an operand.
    pub fn arg_type(&self, module: &Module, arg: Arg) -> Type {
        match arg {
            Arg::Value(v) => self.value(v).ty.clone(),
            Arg::Weight(w) => module.weight(w).ty(),
            Arg::FormalWeight(i) => self.weights[i as usize].ty.clone(),
            Arg::Cache(c) => module.cache(c).ty.clone(),
            Arg::FormalCache(i) => self.caches[i as usize].ty.clone(),
        }
    }
}
