//! `hadamards`: online Hadamard transforms where no weight can take a rotation in.
//!
//! # What
//! R3 (`keys`) turns each head of queries and keys after the rotary embedding, so that a cache of few
//! bits meets no outliers; R4 (`inner`) turns what the matrix after the activation reads, and that
//! matrix takes the inverse in. Both leave a `hadamard` in the code.
//!
//! # Why it is exact (or how far off)
//! `(q · H) · (k · H)ᵀ = q · kᵀ`, and `(x · H) · (W · H)ᵀ = x · Wᵀ`. Values are rounded to f32 once
//! more.
//!
//! # Requires
//! A Hadamard matrix of the width, and rows and weights that are not rounded. Each site is turned
//! once: a transform that is there already is refused.
//!
//! # Paper
//! QuaRot (arXiv 2404.00456) section 4, SpinQuant (2405.16406) section 3.

use crate::bindings::{Bindings, instructions, matrices, producer, value_of};
use crate::edit::{append, check_float, insert_after, make};
use crate::{Context, PassError};
use ir::def_use::renumber;
use ir::hadamard::Hadamard;
use ir::{GraphId, Inst, Module, Op, Side, Source, Step, Type, ValueId, WeightId};
use std::collections::BTreeMap;

const PASS: &str = "hadamards";

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let (keys, inner) = match &context.rotate {
        Some(rotations) => (rotations.keys, rotations.inner),
        None => (true, true),
    };
    let mut log = vec![];
    if keys {
        log.extend(turn_keys(module)?);
    }
    if inner {
        log.extend(turn_inner(module)?);
    }
    Ok(log)
}

fn fail<T>(why: impl Into<String>) -> Result<T, PassError> {
    Err(PassError { pass: PASS, why: why.into() })
}

/// Whether a value comes out of a transform.
fn is_turned(module: &Module, graph: GraphId, value: ValueId) -> bool {
    let graph = module.graph(graph);
    producer(graph, value).is_some_and(|i| matches!(graph.insts[i].op, Op::Hadamard { .. }))
}

fn check(module: &Module, graph: GraphId, value: ValueId, size: u64) -> Result<(), PassError> {
    let name =
        format!("{} of @{}", module.graph(graph).value_name(value), module.graph(graph).name);
    if is_turned(module, graph, value) {
        return fail(format!("{name} is turned already; a second transform would undo the first"));
    }
    if !Hadamard::exists(size) {
        return fail(format!(
            "there is no Hadamard matrix of order {size}, the width of {name}, that Sylvester's and \
             Paley's constructions reach"
        ));
    }
    Ok(())
}

/// R3.
fn turn_keys(module: &mut Module) -> Result<Vec<String>, PassError> {
    let mut log = vec![];
    for site in keys(module) {
        for (value, _, _) in site.turned {
            check(module, site.graph, value, site.head)?;
        }
        let graph = &mut module.graphs[site.graph.0 as usize];
        for (value, reader, operand) in site.turned {
            let name = format!("{}h", graph.value(value).name);
            let op = Op::Hadamard { size: site.head };
            insert_after(graph, value, &name, op, &[], |r, n| (r, n) == (reader, operand));
        }
        log.push(format!("R3: order {} on queries and keys of @{}", site.head, graph.name));
    }
    module.graphs.iter_mut().for_each(renumber);
    Ok(log)
}

/// Queries and keys of one attention.
struct Keys {
    graph: GraphId,
    head: u64,
    /// A value, what reads it, as which operand: of queries, then of keys.
    turned: [(ValueId, ValueId, usize); 2],
}

fn keys(module: &Module) -> Vec<Keys> {
    let site = |(id, inst, _): (GraphId, &Inst, usize)| {
        let Op::Attention { .. } = inst.op else { return None };
        let graph = module.graph(id);
        let (query, slot) = (value_of(inst, 0)?, value_of(inst, 1)?);
        let append = &graph.insts[producer(graph, slot)?];
        let Type::Kv { head, .. } = graph.arg_type(module, append.args[0]) else { return None };
        let turned = [(query, inst.result, 0), (value_of(append, 1)?, append.result, 1)];
        Some(Keys { graph: id, head, turned })
    };
    instructions(module).filter_map(site).collect()
}

/// R4.
fn turn_inner(module: &mut Module) -> Result<Vec<String>, PassError> {
    let bindings = Bindings::new(module);
    let mut turned: BTreeMap<WeightId, u64> = BTreeMap::new();
    let mut places = vec![];
    for (id, inst, _) in instructions(module) {
        if !matches!(inst.op, Op::GateMul(_)) {
            continue;
        }
        let graph = module.graph(id);
        let name = format!("{} of @{}", graph.value_name(inst.result), graph.name);
        let width = graph.value(inst.result).ty.row_width().unwrap_or(0);
        let Some(matrices) = matrices(graph, inst.result) else {
            return fail(format!(
                "not only matrices read {name}; if it is turned already, once is enough"
            ));
        };
        check(module, id, inst.result, width)?;
        let behind = matrices.iter().flat_map(|&arg| bindings.of(id, arg));
        turned.extend(behind.map(|weight| (weight, width)));
        places.push((id, inst.result, width));
    }
    for &weight in turned.keys() {
        check_float(PASS, module, weight)?;
        check_readers(module, &bindings, weight)?;
    }
    let mut made: BTreeMap<u64, WeightId> = BTreeMap::new();
    for (weight, width) in turned {
        let by = *made.entry(width).or_insert_with(|| {
            let source = Source::Hadamard { seed: None };
            make(module, &format!("h{width}"), &[width, width], source, vec![])
        });
        append(module, weight, Step::Rotate { side: Side::In, by });
    }
    let mut log = vec![];
    for (id, value, width) in places {
        let graph = &mut module.graphs[id.0 as usize];
        let name = format!("{}h", graph.value(value).name);
        insert_after(graph, value, &name, Op::Hadamard { size: width }, &[], |_, _| true);
        log.push(format!("R4: order {width} before the last matrix of @{}", graph.name));
    }
    module.graphs.iter_mut().for_each(renumber);
    Ok(log)
}

/// A matrix that takes R4 in must be read behind the activation alone.
fn check_readers(module: &Module, bindings: &Bindings, weight: WeightId) -> Result<(), PassError> {
    let elsewhere = bindings.uses(module, weight).into_iter().find(|u| {
        let graph = module.graph(u.graph);
        let read = value_of(&graph.insts[u.inst], 0).and_then(|v| producer(graph, v));
        read.is_none_or(|i| !matches!(graph.insts[i].op, Op::GateMul(_)))
    });
    match elsewhere {
        None => Ok(()),
        Some(u) => fail(format!(
            "${} is read in @{} too, and not behind an activation",
            module.weight(weight).name,
            module.graph(u.graph).name
        )),
    }
}
