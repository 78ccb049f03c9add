//! Rules that follow calls from the roots (V11, V12, V16). V12 and V16 need handles in range.

use super::{Check, V_ROLES, V_ROOTS, V_SLOTS};
use crate::module::{Arg, CacheId, Graph, GraphId, Param, ValueId};
use crate::op::Op;
use crate::place::Place;
use crate::types::Type;
use std::collections::HashMap;

/// V11: `@model(i32[T], i32[T]) -> f32[T, D]` and `@head(f32[T, D]) -> f32[T, vocab]`.
pub(super) fn roots(check: &mut Check<'_>, sound: &[bool]) {
    let vocab = check.module.meta.vocab;
    let hidden = root(check, sound, "model", &[Type::tokens(), Type::tokens()], None);
    let width = hidden.and_then(|ty| ty.row_width());
    // Without a width of @model there is nothing to compare @head with.
    let Some(width) = width else {
        if check.module.graph_named("head").is_none() {
            check.report(V_ROOTS, Place::Meta, "there is no graph @head");
        }
        return;
    };
    root(check, sound, "head", &[Type::rows(width)], Some(Type::rows(vocab)));
}

/// The result type of a root whose parameters fit.
fn root(
    check: &mut Check<'_>,
    sound: &[bool],
    name: &str,
    params: &[Type],
    result: Option<Type>,
) -> Option<Type> {
    let module = check.module;
    let Some(id) = module.graph_named(name) else {
        check.report(V_ROOTS, Place::Meta, format!("there is no graph @{name}"));
        return None;
    };
    let graph = module.graph(id);
    if !sound[id.0 as usize] {
        return None;
    }
    let values = graph.params.iter().filter(|p| matches!(p, Param::Value(_))).count();
    let found: Vec<&Type> = graph.values.iter().take(values).map(|v| &v.ty).collect();
    if values != graph.params.len() || !found.iter().copied().eq(params) {
        let types: Vec<String> = params.iter().map(Type::to_string).collect();
        let what = format!("@{name} takes exactly {}", types.join(", "));
        check.report(V_ROOTS, Place::Graph(id), what);
    }
    let ty = &graph.value(graph.result).ty;
    if let Some(expected) = result
        && *ty != expected
    {
        check.report(V_ROOTS, Place::Graph(id), format!("@{name} returns {expected}, not {ty}"));
    }
    Some(ty.clone())
}

/// How often a graph appends to each of its cache operands.
type Appends = HashMap<Arg, u64>;

/// V12, counting through calls: two calls that share a slot would overwrite each other's keys.
pub(super) fn slots(check: &mut Check<'_>) {
    let module = check.module;
    let mut appends: Vec<Appends> = vec![];
    for graph in &module.graphs {
        appends.push(graph_appends(graph, &module.graphs, &appends));
    }
    let of_root = |name| module.graph_named(name).map(|g| &appends[g.0 as usize]);
    let (Some(model), Some(head)) = (of_root("model"), of_root("head")) else { return };
    for i in 0..module.caches.len() {
        let id = CacheId(i as u32);
        let count = model.get(&Arg::Cache(id)).copied().unwrap_or(0);
        if count != 1 {
            let what = format!("@model appends to this slot {count} times, expected once");
            check.report(V_SLOTS, Place::Cache(id), what);
        }
        if head.contains_key(&Arg::Cache(id)) {
            check.report(V_SLOTS, Place::Cache(id), "@head appends to this slot, expected never");
        }
    }
}

fn graph_appends(graph: &Graph, graphs: &[Graph], earlier: &[Appends]) -> Appends {
    let mut sum = Appends::new();
    let mut add = |slot: Arg, count: u64| {
        let total = sum.entry(slot).or_insert(0);
        *total = total.saturating_add(count);
    };
    for inst in &graph.insts {
        match inst.op {
            Op::KvAppend => inst.args.first().into_iter().for_each(|&slot| add(slot, 1)),
            Op::Call(callee) => {
                let params = &graphs[callee.0 as usize].params;
                for (&slot, &count) in &earlier[callee.0 as usize] {
                    if let Some(slot) = bound(slot, params, &inst.args) {
                        add(slot, count);
                    }
                }
            }
            _ => {}
        }
    }
    sum
}

/// What a callee's slot is to its caller.
fn bound(slot: Arg, params: &[Param], args: &[Arg]) -> Option<Arg> {
    let Arg::FormalCache(formal) = slot else { return Some(slot) };
    let index = params.iter().position(|&p| p == Param::Cache(formal))?;
    args.get(index).copied()
}

/// What the integers of a value are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Tokens,
    Positions,
}

/// Roles of a graph's values; those of floats stay open.
type Roles = HashMap<ValueId, Role>;

/// V16: `@model` takes tokens, then positions; `embed` reads tokens, the others positions.
pub(super) fn roles(check: &mut Check<'_>) {
    let module = check.module;
    let root = module.graph_named("model");
    let mut roles: Vec<Roles> = vec![];
    for (g, graph) in module.graphs.iter().enumerate() {
        let id = GraphId(g as u32);
        let mut known = Roles::new();
        if root == Some(id) {
            known.insert(ValueId(0), Role::Tokens);
            known.insert(ValueId(1), Role::Positions);
        }
        for (i, inst) in graph.insts.iter().enumerate() {
            for (arg, role) in uses(&inst.op, &inst.args, &module.graphs, &roles) {
                if *known.entry(arg).or_insert(role) != role {
                    let what = format!("{} is both tokens and positions", graph.value_name(arg));
                    check.report(V_ROLES, Place::Inst(id, i as u32), what);
                }
            }
        }
        roles.push(known);
    }
}

/// The integer operands of an instruction, and what each is used as.
fn uses(op: &Op, args: &[Arg], graphs: &[Graph], earlier: &[Roles]) -> Vec<(ValueId, Role)> {
    let one = |index: usize, role: Role| match args.get(index) {
        Some(&Arg::Value(v)) => Some((v, role)),
        _ => None,
    };
    match op {
        Op::Embed => one(0, Role::Tokens).into_iter().collect(),
        Op::Rope(_) => one(1, Role::Positions).into_iter().collect(),
        Op::KvAppend => one(3, Role::Positions).into_iter().collect(),
        Op::Attention { .. } => one(2, Role::Positions).into_iter().collect(),
        Op::Call(callee) => {
            let known = &earlier[callee.0 as usize];
            let params = graphs[callee.0 as usize].params.iter().enumerate();
            let role = |(i, param): (usize, &Param)| match param {
                Param::Value(v) => one(i, *known.get(v)?),
                _ => None,
            };
            params.filter_map(role).collect()
        }
        Op::RmsNorm { .. }
        | Op::Linear
        | Op::QuantRows { .. }
        | Op::FakeQuant { .. }
        | Op::Hadamard { .. }
        | Op::Add
        | Op::Scale { .. }
        | Op::Softcap { .. }
        | Op::GateMul(_) => vec![],
    }
}
