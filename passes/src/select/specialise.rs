//! A graph for every combination of formats that its calls bind.

use ir::{Arg, Graph, GraphId, Module, Op, Param, Type};

/// Gives each call a graph whose weight parameters have the types of what it binds: the callee, or a
/// copy of it. Calls that bind equal types share one.
pub fn specialise(module: &mut Module) {
    let Some(root) = module.graph_named("model") else { return };
    // Of each graph its variants: types of weight parameters, in the order of first use.
    let mut variants: Vec<Vec<Vec<Type>>> = vec![vec![]; module.graphs.len()];
    let mut calls = vec![];
    for (at, inst) in module.graph(root).insts.iter().enumerate() {
        let Op::Call(callee) = inst.op else { continue };
        let types = bound(module, module.graph(callee), &inst.args);
        let known = &mut variants[callee.0 as usize];
        let which = known.iter().position(|v| *v == types).unwrap_or_else(|| {
            known.push(types);
            known.len() - 1
        });
        calls.push((at, callee, which));
    }
    let mut graphs: Vec<Graph> = vec![];
    let mut moved: Vec<Vec<u32>> = vec![];
    for (graph, variants) in std::mem::take(&mut module.graphs).into_iter().zip(variants) {
        let mut places = vec![graphs.len() as u32];
        for (n, types) in variants.into_iter().enumerate() {
            let mut copy = graph.clone();
            for (formal, ty) in copy.weights.iter_mut().zip(types) {
                formal.ty = ty;
            }
            if n == 0 {
                graphs.push(copy);
            } else {
                places.push(graphs.len() as u32);
                copy.name = format!("{}.{}", graph.name, n + 1);
                graphs.push(copy);
            }
        }
        if graphs.len() as u32 == places[0] {
            graphs.push(graph);
        }
        moved.push(places);
    }
    module.graphs = graphs;
    let root = moved[root.0 as usize][0] as usize;
    for (at, callee, which) in calls {
        module.graphs[root].insts[at].op = Op::Call(GraphId(moved[callee.0 as usize][which]));
    }
}

/// Types that a call binds to the weight parameters, in their order.
fn bound(module: &Module, callee: &Graph, args: &[Arg]) -> Vec<Type> {
    let pairs = callee.params.iter().zip(args);
    let weights = pairs.filter(|(param, _)| matches!(param, Param::Weight(_)));
    weights
        .filter_map(|(_, arg)| match arg {
            Arg::Weight(id) => Some(module.weight(*id).ty()),
            _ => None,
        })
        .collect()
}
