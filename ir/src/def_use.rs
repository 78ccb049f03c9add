//! The def-use graph of one graph: who reads what, what is alive, and a drawing of it.
//!
//! Operands that do not exist are left out: the verifier is the one to complain.

use crate::module::{Arg, Graph, Module, Param, ValueId};
use crate::op::Op;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, Reversed, VisitMap};
use std::fmt::Write;

/// One node per value, its index that of the value; one edge per use, from the operand to the value
/// that is computed from it, with the operand's number.
pub type DefUse = DiGraph<ValueId, u32>;

/// The def-use graph.
pub fn def_use(graph: &Graph) -> DefUse {
    let mut uses = DefUse::with_capacity(graph.values.len(), graph.insts.len() * 2);
    for i in 0..graph.values.len() {
        uses.add_node(ValueId(i as u32));
    }
    for inst in &graph.insts {
        for (number, &arg) in inst.args.iter().enumerate() {
            let Arg::Value(v) = arg else { continue };
            let (from, to) = (node(v), node(inst.result));
            if from.index() < uses.node_count() && to.index() < uses.node_count() {
                uses.add_edge(from, to, number as u32);
            }
        }
    }
    uses
}

fn node(value: ValueId) -> NodeIndex {
    NodeIndex::new(value.0 as usize)
}

/// Of each instruction: whether the result needs it, or it writes a cache (a call may).
pub fn live(graph: &Graph) -> Vec<bool> {
    let uses = def_use(graph);
    let mut reach = Dfs::empty(Reversed(&uses));
    let writes = graph.insts.iter().filter(|i| matches!(i.op, Op::KvAppend | Op::Call(_)));
    for root in writes.map(|i| i.result).chain([graph.result]) {
        if (root.0 as usize) < uses.node_count() {
            reach.move_to(node(root));
            while reach.next(Reversed(&uses)).is_some() {}
        }
    }
    graph.insts.iter().map(|inst| reach.discovered.is_visited(&node(inst.result))).collect()
}

/// Instructions that nothing needs, by index.
pub fn dead(graph: &Graph) -> Vec<usize> {
    let live = live(graph);
    (0..live.len()).filter(|&i| !live[i]).collect()
}

/// Whether every instruction comes after those it reads.
pub fn is_ordered(graph: &Graph) -> bool {
    let mut at = vec![None; graph.values.len()];
    for (i, inst) in graph.insts.iter().enumerate() {
        if let Some(at) = at.get_mut(inst.result.0 as usize) {
            *at = Some(i);
        }
    }
    let uses = def_use(graph);
    uses.edge_indices().filter_map(|e| uses.edge_endpoints(e)).all(|(from, to)| {
        // A parameter has no position: it is before everything.
        at[from.index()].is_none_or(|from| at[to.index()].is_some_and(|to| from < to))
    })
}

/// Numbers values as the verifier wants them, parameters first, then one per instruction, after
/// instructions were inserted or removed. Values that nothing defines are dropped.
pub fn renumber(graph: &mut Graph) {
    let mut number = vec![None; graph.values.len()];
    let mut values = vec![];
    {
        let params = graph.params.iter().filter_map(|p| match p {
            Param::Value(v) => Some(*v),
            _ => None,
        });
        for old in params.chain(graph.insts.iter().map(|i| i.result)) {
            if let Some(slot @ None) = number.get_mut(old.0 as usize) {
                *slot = Some(ValueId(values.len() as u32));
                values.push(graph.values[old.0 as usize].clone());
            }
        }
    }
    let renamed = |v: &mut ValueId| {
        if let Some(Some(new)) = number.get(v.0 as usize) {
            *v = *new;
        }
    };
    for param in &mut graph.params {
        if let Param::Value(v) = param {
            renamed(v);
        }
    }
    for inst in &mut graph.insts {
        renamed(&mut inst.result);
        for arg in &mut inst.args {
            if let Arg::Value(v) = arg {
                renamed(v);
            }
        }
    }
    renamed(&mut graph.result);
    graph.values = values;
}

/// The module as a drawing for Graphviz: one cluster per graph, one node per value.
pub fn dot(module: &Module) -> String {
    let mut text = String::from("digraph ingot {\n  node [shape=box, fontname=monospace];\n");
    for (g, graph) in module.graphs.iter().enumerate() {
        cluster(&mut text, module, g, graph).expect("a String takes every write");
    }
    text.push_str("}\n");
    text
}

fn cluster(text: &mut String, module: &Module, g: usize, graph: &Graph) -> std::fmt::Result {
    writeln!(text, "  subgraph cluster_{g} {{\n    label={:?};", format!("@{}", graph.name))?;
    let mut labels: Vec<String> =
        (0..graph.values.len()).map(|i| graph.value_name(ValueId(i as u32))).collect();
    for inst in &graph.insts {
        let bound = inst.args.iter().filter(|a| !matches!(a, Arg::Value(_)));
        let mut operation = vec![inst.op.name().to_string()];
        operation.extend(bound.map(|&a| graph.arg_name(module, a)));
        if let Some(label) = labels.get_mut(inst.result.0 as usize) {
            *label = format!("{label} = {}", operation.join(" "));
        }
    }
    for (i, label) in labels.iter().enumerate() {
        let mark = if graph.result.0 as usize == i { ", style=bold" } else { "" };
        writeln!(text, "    v{g}_{i} [label={label:?}{mark}];")?;
    }
    let uses = def_use(graph);
    for (from, to) in uses.edge_indices().filter_map(|e| uses.edge_endpoints(e)) {
        writeln!(text, "    v{g}_{} -> v{g}_{};", from.index(), to.index())?;
    }
    writeln!(text, "  }}")
}
