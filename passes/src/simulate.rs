//! `simulate`: what formats would lose that no kernel stores yet, measured on rows of f32.
//!
//! # What
//! A `fake_quant` of the rows that matrices of layers read (`rows`: one range a row, its own, and a head
//! where attention made it; or one range a site, which calibration gives), and of keys and values on
//! their way into the cache (`cache`: one range a head). The code gets slower, not smaller.
//!
//! # Why it is exact (or how far off)
//! It is not: numbers become one of a few values. Before matrices of integers these are rounded once
//! more, to the 8 bits that kernels take (`activations`), which adds a thousandth of the squared
//! error of 4 bits.
//!
//! # Requires
//! Widths that are multiples of 16; rows that are not quantised; for fixed ranges, calibration.
//!
//! # Paper
//! Per-token asymmetric, heads by themselves, as in SpinQuant (arXiv 2405.16406); fixed ranges as in
//! SmoothQuant (2211.10438) and MobileQuant (2408.13933); floats of few bits as in LLM-FP4
//! (2310.16836).

use crate::bindings::{instructions, producer, value_of};
use crate::edit::insert_after;
use crate::{Context, PassError, ranges};
use ir::def_use::renumber;
use ir::{Arg, Graph, GraphId, Inst, Levels, Module, Op, ValueId};

const PASS: &str = "simulate";

/// What is rounded as if it were stored in fewer bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// What rows that matrices of layers read are rounded to.
    pub rows: Option<Levels>,
    /// Whether their ranges are fixed, one for each place.
    pub fixed: bool,
    /// What keys and values are rounded to.
    pub cache: Option<Levels>,
}

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let simulation = context.simulate.unwrap_or_default();
    let quantised = |op: &Op| matches!(op, Op::QuantRows { .. } | Op::FakeQuant { .. });
    if instructions(module).any(|(_, inst, _)| quantised(&inst.op)) {
        let why = "rows are quantised already; simulate on a module whose rows are f32".into();
        return Err(PassError { pass: PASS, why });
    }
    let cached = cached(module);
    let rows = rows(module);
    let asked = [(simulation.cache.is_some(), &cached), (simulation.rows.is_some(), &rows)];
    for &(graph, value, group) in asked.iter().filter(|a| a.0).flat_map(|a| a.1) {
        if group % 16 != 0 {
            let graph = module.graph(graph);
            let (name, of) = (graph.value_name(value), &graph.name);
            let why =
                format!("{name} of @{of} has groups of {group}, which must be multiples of 16");
            return Err(PassError { pass: PASS, why });
        }
    }
    let mut log = vec![];
    if let Some(levels) = simulation.cache {
        for (graph, value, head) in cached {
            let op = Op::FakeQuant { levels, group: head };
            let append = |v: ValueId, graph: &ir::Graph| {
                producer(graph, v).is_some_and(|i| graph.insts[i].op == Op::KvAppend)
            };
            let known = module.graph(graph).clone();
            let graph = &mut module.graphs[graph.0 as usize];
            insert_after(graph, value, "cached", op, &[], |reader, _| append(reader, &known));
        }
        log.push(format!("keys and values as {levels}, one range a head"));
    }
    if let Some(levels) = simulation.rows {
        let ranges = match simulation.fixed {
            true => fixed_ranges(module, context, &rows)?,
            false => vec![None; rows.len()],
        };
        for (&(graph, value, group), range) in rows.iter().zip(ranges) {
            let op = Op::FakeQuant { levels, group };
            let args: Vec<Arg> = range.into_iter().collect();
            let known = module.graph(graph).clone();
            let linear = |reader: ValueId, operand: usize| {
                operand == 0
                    && producer(&known, reader).is_some_and(|i| known.insts[i].op == Op::Linear)
            };
            let name = format!("{}r", known.value(value).name);
            insert_after(&mut module.graphs[graph.0 as usize], value, &name, op, &args, linear);
        }
        let ranges = if simulation.fixed { "one range a place" } else { "one range a row" };
        log.push(format!("rows at {} places as {levels}, {ranges}", rows.len()));
    }
    module.graphs.iter_mut().for_each(renumber);
    Ok(log)
}

/// Keys and values with the width of a head.
fn cached(module: &Module) -> Vec<(GraphId, ValueId, u32)> {
    let mut found = vec![];
    for (id, inst, _) in instructions(module).filter(|(_, inst, _)| inst.op == Op::KvAppend) {
        let graph = module.graph(id);
        let ir::Type::Kv { head, .. } = graph.arg_type(module, inst.args[0]) else { continue };
        found
            .extend([1, 2].into_iter().filter_map(|n| Some((id, value_of(inst, n)?, head as u32))));
    }
    found
}

/// Values that matrices of layers read, with what shares a range: a head of what attention made, else
/// the row.
fn rows(module: &Module) -> Vec<(GraphId, ValueId, u32)> {
    let mut found = vec![];
    for (id, inst, _) in instructions(module) {
        let value =
            value_of(inst, 0).filter(|_| inst.op == Op::Linear && !module.graph(id).is_root());
        let Some(value) = value else { continue };
        let graph = module.graph(id);
        let head = producer(graph, value).and_then(|made| head(module, graph, &graph.insts[made]));
        let width = graph.value(value).ty.row_width().unwrap_or(0);
        let group = head.unwrap_or(width) as u32;
        if !found.contains(&(id, value, group)) {
            found.push((id, value, group));
        }
    }
    found
}

/// The range of each place, as calibration has it.
fn fixed_ranges(
    module: &mut Module,
    context: &Context<'_>,
    rows: &[(GraphId, ValueId, u32)],
) -> Result<Vec<Option<Arg>>, PassError> {
    let places: Vec<_> = rows.iter().map(|&(graph, value, _)| (graph, value)).collect();
    Ok(ranges::fixed(PASS, module, context, &places)?.into_iter().map(Some).collect())
}

/// The width of a head, where attention made the value.
fn head(module: &Module, graph: &Graph, inst: &Inst) -> Option<u64> {
    if !matches!(inst.op, Op::Attention { .. }) {
        return None;
    }
    inst.args.iter().find_map(|arg| match graph.arg_type(module, *arg) {
        ir::Type::Kv { head, .. } => Some(head),
        ir::Type::Tensor { .. } => None,
    })
}
