//! Changes that several passes make to a module: weights and parameters come and go, instructions
//! are inserted.

use crate::PassError;
use crate::bindings::producer;
use ir::{
    Arg, DType, Formal, Graph, GraphId, Inst, Module, Op, Param, Source, Step, Type, Value,
    ValueId, Weight, WeightId,
};

/// A name that no weight of the module has: `base`, or else with a number.
pub fn fresh(module: &Module, base: &str) -> String {
    let numbered = (2u32..).map(|n| format!("{base}.{n}"));
    let mut names = std::iter::once(base.to_string()).chain(numbered);
    let formal =
        |name: &str| module.graphs.iter().any(|g| g.weights.iter().any(|f| f.name == name));
    names
        .find(|name| module.weight_named(name).is_none() && !formal(name))
        .expect("numbers do not end")
}

/// Adds a weight of f32 that is made, not read from the checkpoint.
pub fn make(
    module: &mut Module,
    base: &str,
    dims: &[u64],
    source: Source,
    via: Vec<Step>,
) -> WeightId {
    let name = fresh(module, base);
    module.add_weight(Weight { name, dtype: DType::F32, dims: dims.to_vec(), source, via })
}

/// Appends a step to a weight's history.
pub fn append(module: &mut Module, weight: WeightId, step: Step) {
    module.weights[weight.0 as usize].via.push(step);
}

/// An error unless the weight still holds what transforms work on: floats that were not rounded.
pub fn check_float(pass: &'static str, module: &Module, id: WeightId) -> Result<(), PassError> {
    let weight = module.weight(id);
    if weight.dtype == DType::F32 {
        return Ok(());
    }
    let why = format!(
        "${} is stored as {} already; {pass} changes numbers before they are rounded: run it before \
         `select`",
        weight.name, weight.dtype
    );
    Err(PassError { pass, why })
}

/// Inserts an instruction right after the definition of the value that is its first operand. Where
/// `take` says so of a reader (what it defines, and as which operand it reads), the result is read
/// instead of the value. Values must be numbered anew in the end; until then handles stay.
pub fn insert_after(
    graph: &mut Graph,
    value: ValueId,
    name: &str,
    op: Op,
    weights: &[Arg],
    take: impl Fn(ValueId, usize) -> bool,
) -> ValueId {
    let at = producer(graph, value).map_or(0, |i| i + 1);
    let ty = graph.value(value).ty.clone();
    graph.values.push(Value { name: fresh_value(graph, name), ty });
    let result = ValueId(graph.values.len() as u32 - 1);
    for inst in &mut graph.insts {
        for (n, arg) in inst.args.iter_mut().enumerate() {
            if *arg == Arg::Value(value) && take(inst.result, n) {
                *arg = Arg::Value(result);
            }
        }
    }
    let args = std::iter::once(Arg::Value(value)).chain(weights.iter().copied()).collect();
    graph.insts.insert(at, Inst { result, op, args });
    result
}

fn fresh_value(graph: &Graph, base: &str) -> String {
    let numbered = (2u32..).map(|n| format!("{base}.{n}"));
    let mut names = std::iter::once(base.to_string()).chain(numbered);
    names.find(|name| graph.values.iter().all(|v| v.name != *name)).expect("numbers do not end")
}

/// Takes away weight parameters that no instruction of their graph reads, and what calls bind to
/// them.
pub fn drop_unread_formals(module: &mut Module) {
    // Callers come after the graphs they call.
    for g in (0..module.graphs.len()).rev() {
        while let Some(index) = unread_formal(&module.graphs[g]) {
            remove_formal(module, GraphId(g as u32), index);
        }
    }
}

fn unread_formal(graph: &Graph) -> Option<u32> {
    let reads = |i: u32| graph.insts.iter().any(|inst| inst.args.contains(&Arg::FormalWeight(i)));
    (0..graph.weights.len() as u32).find(|&i| !reads(i))
}

fn remove_formal(module: &mut Module, id: GraphId, index: u32) {
    let graph = &mut module.graphs[id.0 as usize];
    graph.weights.remove(index as usize);
    let at = graph.params.iter().position(|p| *p == Param::Weight(index));
    let at = at.expect("every weight parameter is a parameter");
    graph.params.remove(at);
    for param in &mut graph.params {
        if let Param::Weight(i) = param
            && *i > index
        {
            *i -= 1;
        }
    }
    for arg in graph.insts.iter_mut().flat_map(|inst| &mut inst.args) {
        if let Arg::FormalWeight(i) = arg
            && *i > index
        {
            *i -= 1;
        }
    }
    for inst in module.graphs.iter_mut().flat_map(|g| &mut g.insts) {
        if inst.op == Op::Call(id) {
            inst.args.remove(at);
        }
    }
}

/// A new weight parameter of a graph, bound to one of `bound` for each way the graph is reached, in
/// order. Only roots may call the graph.
pub fn add_formal(
    pass: &'static str,
    module: &mut Module,
    id: GraphId,
    name: &str,
    dims: &[u64],
    bound: &[WeightId],
) -> Result<Arg, PassError> {
    let calls = |graph: &Graph| graph.insts.iter().any(|inst| inst.op == Op::Call(id));
    if let Some(caller) = module.graphs.iter().find(|g| calls(g) && !g.is_root()) {
        let why = format!(
            "@{} is called by @{}, which is no root; only graphs that roots call get a parameter",
            module.graph(id).name,
            caller.name
        );
        return Err(PassError { pass, why });
    }
    let graph = &mut module.graphs[id.0 as usize];
    let index = graph.weights.len() as u32;
    let ty = Type::weight(DType::F32, dims);
    graph.weights.push(Formal { name: name.to_string(), ty });
    graph.params.push(Param::Weight(index));
    // The order of `Bindings`: the last graph first, and in each the calls in order.
    let mut bound = bound.iter();
    for inst in module.graphs.iter_mut().rev().flat_map(|g| &mut g.insts) {
        if inst.op == Op::Call(id) {
            inst.args.push((*bound.next().expect("one weight a call")).into());
        }
    }
    Ok(Arg::FormalWeight(index))
}
