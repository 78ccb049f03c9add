//! Which values of a module meet matrices, and in which calls.

use super::Site;
use ir::def_use::renumber;
use ir::{Arg, DType, Graph, GraphId, Inst, Module, Op, Param, Type, ValueId, WeightId};

/// One activation of a graph by `@model`, or a root itself.
pub struct Activation<'m> {
    /// The graph.
    pub id: GraphId,
    /// The same.
    pub graph: &'m Graph,
    /// Which call of `@model`, from 0; 0 for roots.
    pub call: u32,
    /// What the call binds to weight parameters, in their order.
    pub bound: Vec<WeightId>,
}

impl Activation<'_> {
    /// The module's weight behind an operand.
    pub fn weight(&self, arg: Arg) -> Option<WeightId> {
        match arg {
            Arg::Weight(id) => Some(id),
            Arg::FormalWeight(i) => self.bound.get(i as usize).copied(),
            _ => None,
        }
    }

    /// Products of the graph in order: the value of f32 rows, the matrix.
    pub fn products(&self) -> impl Iterator<Item = (ValueId, WeightId)> + '_ {
        let linears = self.graph.insts.iter().filter(|inst| inst.op == Op::Linear);
        linears.filter_map(|inst| match inst.args[..] {
            [Arg::Value(x), matrix, ..] => Some((unquantised(self.graph, x), self.weight(matrix)?)),
            _ => None,
        })
    }
}

/// Roots and calls of a verified module in the order they run.
pub fn activations(module: &Module) -> Vec<Activation<'_>> {
    let mut all = vec![];
    for name in ["model", "head"] {
        let Some(id) = module.graph_named(name) else { continue };
        let root = module.graph(id);
        let calls = root.insts.iter().filter_map(|inst| match inst.op {
            Op::Call(callee) => Some((callee, inst)),
            _ => None,
        });
        for (call, (callee, inst)) in calls.enumerate() {
            let graph = module.graph(callee);
            all.push(Activation { id: callee, graph, call: call as u32, bound: bind(graph, inst) });
        }
        all.push(Activation { id, graph: root, call: 0, bound: vec![] });
    }
    all
}

/// The weights that a call hands over, in the order of the callee's weight parameters.
fn bind(callee: &Graph, call: &Inst) -> Vec<WeightId> {
    let pairs = callee.params.iter().zip(&call.args);
    let weights = pairs.filter_map(|(param, arg)| match (param, arg) {
        (Param::Weight(_), Arg::Weight(id)) => Some(*id),
        _ => None,
    });
    weights.collect()
}

/// The f32 value behind `quant_rows`.
fn unquantised(graph: &Graph, x: ValueId) -> ValueId {
    let inst = graph.insts.iter().find(|inst| inst.result == x);
    match inst.map(|inst| (&inst.op, &inst.args[..])) {
        Some((Op::QuantRows { .. }, [Arg::Value(source), ..])) => *source,
        _ => x,
    }
}

/// Every place where rows meet a matrix, once each, in the order they run.
pub fn sites(module: &Module) -> Vec<Site> {
    let mut sites = vec![];
    for a in activations(module) {
        for (value, _) in a.products() {
            let site = Site { graph: a.id, value, call: a.call };
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
    }
    sites
}

/// Where the rows are that meet a weight: one site for each call that binds it.
pub fn inputs_of(module: &Module, weight: WeightId) -> Vec<Site> {
    let mut sites = vec![];
    for a in activations(module) {
        let products = a.products().filter(|(_, w)| *w == weight);
        sites.extend(products.map(|(value, _)| Site { graph: a.id, value, call: a.call }));
    }
    sites
}

/// The module as if nothing were rounded: rows are not quantised, matrices of integers and the
/// cache are f32. Values keep their names; their handles move where a `quant_rows` stood before.
pub fn float_view(module: &Module) -> Module {
    let mut float = module.clone();
    for weight in &mut float.weights {
        if let DType::Int(_) = weight.dtype {
            weight.dtype = DType::F32;
            weight.via.pop();
        }
    }
    float.caches.iter_mut().for_each(|cache| widen(&mut cache.ty));
    float.graphs.iter_mut().for_each(float_graph);
    float
}

fn widen(ty: &mut Type) {
    match ty {
        Type::Kv { dtype, .. } | Type::Tensor { dtype: dtype @ DType::Int(_), .. } => {
            *dtype = DType::F32;
        }
        Type::Tensor { .. } => {}
    }
}

fn float_graph(graph: &mut Graph) {
    let handles = (0..graph.values.len()).map(|v| ValueId(v as u32));
    let sources: Vec<ValueId> = handles.map(|v| unquantised(graph, v)).collect();
    graph.insts.retain(|inst| !matches!(inst.op, Op::QuantRows { .. }));
    for arg in graph.insts.iter_mut().flat_map(|inst| &mut inst.args) {
        if let Arg::Value(v) = arg {
            *v = sources[v.0 as usize];
        }
    }
    graph.weights.iter_mut().chain(&mut graph.caches).for_each(|formal| widen(&mut formal.ty));
    graph.values.iter_mut().for_each(|value| widen(&mut value.ty));
    renumber(graph);
}
