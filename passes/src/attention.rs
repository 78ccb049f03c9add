//! The way of values through attention: which matrix makes them, which ones read their means.

use crate::PassError;
use crate::bindings::{instructions, matrices, producer, readers, value_of};
use ir::{Arg, GraphId, Inst, Module, Op, Type};

/// Where one attention takes its values from, and what reads its result.
pub(crate) struct Path {
    pub graph: GraphId,
    /// Index of the `linear` that makes values.
    pub value: usize,
    /// Matrices that read the result.
    pub output: Vec<Arg>,
    /// Heads and width of the slot.
    pub heads: u64,
    pub head: u64,
    /// Query heads.
    pub queries: u64,
}

/// Every attention of the module, as values pass through it.
pub(crate) fn paths(pass: &'static str, module: &Module) -> Result<Vec<Path>, PassError> {
    let attention = |inst: &Inst| matches!(inst.op, Op::Attention { .. });
    let all = instructions(module).filter(|(_, inst, _)| attention(inst));
    all.map(|(id, inst, _)| {
        path(module, id, inst).ok_or_else(|| {
            let graph = module.graph(id);
            let name = graph.value_name(inst.result);
            let why = format!(
                "{name} of @{}: its values do not come from one matrix into its cache alone, or not \
                 only matrices read it",
                graph.name
            );
            PassError { pass, why }
        })
    })
    .collect()
}

fn path(module: &Module, id: GraphId, inst: &Inst) -> Option<Path> {
    let Op::Attention { heads: queries, .. } = inst.op else { return None };
    let graph = module.graph(id);
    let append = &graph.insts[producer(graph, value_of(inst, 1)?)?];
    let value = value_of(append, 2)?;
    let made = producer(graph, value)?;
    let alone = readers(graph, value).len() == 1 && graph.result != value;
    let Type::Kv { heads, head, .. } = graph.arg_type(module, append.args[0]) else { return None };
    let plain = alone && graph.insts[made].op == Op::Linear;
    let output = matrices(graph, inst.result)?;
    plain.then_some(Path { graph: id, value: made, output, heads, head, queries })
}
