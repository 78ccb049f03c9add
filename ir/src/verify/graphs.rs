//! Rules about each graph by itself (V1, V2 to V10, V14, V15 of embedding tables).

use super::module::unique;
use super::{
    Check, DEPTH_MAX, DIM_MAX, V_CLAIM, V_DEFINED, V_META, V_NAME, V_ORDER, V_RESULT, V_VALUES,
};
use crate::infer::{dims_positive, infer};
use crate::module::{Arg, Graph, GraphId, Inst, Module, Param, ValueId};
use crate::op::Op;
use crate::place::Place;
use crate::types::Type;

/// Checks every graph. Of each: whether all its handles are in range, so that it can be followed.
pub(super) fn graphs(check: &mut Check<'_>) -> Vec<bool> {
    let module = check.module;
    let mut sound = vec![];
    let mut depths: Vec<u32> = vec![];
    for (g, graph) in module.graphs.iter().enumerate() {
        let id = GraphId(g as u32);
        graph_names(check, id, graph);
        let header = params(check, id, graph) & result(check, id, graph);
        let body = insts(check, id, graph, &sound);
        sound.push(header && body);
        depths.push(depth(graph, &depths));
        if depths[g] > DEPTH_MAX {
            let what = format!("calls are {} deep, at most {DEPTH_MAX}", depths[g]);
            check.report(V_ORDER, Place::Graph(id), what);
        }
    }
    sound
}

fn depth(graph: &Graph, earlier: &[u32]) -> u32 {
    let callees = graph.insts.iter().filter_map(|inst| match inst.op {
        Op::Call(callee) => earlier.get(callee.0 as usize),
        _ => None,
    });
    callees.max().copied().unwrap_or(0) + 1
}

/// V1: values, weight parameters and cache parameters, each kind for itself.
fn graph_names(check: &mut Check<'_>, id: GraphId, graph: &Graph) {
    let params = || {
        let params = graph.params.iter().enumerate();
        params.map(|(i, &p)| (Place::Param(id, i as u32), p))
    };
    let values = params().filter_map(|(place, p)| match p {
        Param::Value(v) => Some((place, v)),
        _ => None,
    });
    let insts = graph.insts.iter().enumerate();
    let insts = insts.map(|(i, inst)| (Place::Inst(id, i as u32), inst.result));
    let named =
        |(place, v): (Place, ValueId)| Some((place, &*graph.values.get(v.0 as usize)?.name));
    unique(check, values.chain(insts).filter_map(named));
    let weights = params().filter_map(|(place, p)| match p {
        Param::Weight(i) => Some((place, &*graph.weights.get(i as usize)?.name)),
        _ => None,
    });
    unique(check, weights);
    let caches = params().filter_map(|(place, p)| match p {
        Param::Cache(i) => Some((place, &*graph.caches.get(i as usize)?.name)),
        _ => None,
    });
    unique(check, caches);
}

/// V14 of parameters: each kind numbered in order, nothing left over; values of two types only.
fn params(check: &mut Check<'_>, id: GraphId, graph: &Graph) -> bool {
    let mut next = [0, 0, 0];
    let mut sound = true;
    for (i, param) in graph.params.iter().enumerate() {
        let place = Place::Param(id, i as u32);
        let (kind, index, count) = match *param {
            Param::Value(v) => (0, v.0, graph.values.len()),
            Param::Weight(w) => (1, w, graph.weights.len()),
            Param::Cache(c) => (2, c, graph.caches.len()),
        };
        if index != next[kind] || index as usize >= count {
            let what = format!("a parameter has number {index}, expected {}", next[kind]);
            check.report(V_VALUES, place, what);
            sound = false;
        } else if kind == 0 {
            value_param(check, place, &graph.values[index as usize].ty);
        }
        next[kind] += 1;
    }
    let insts = graph.insts.len();
    for (what, found, expected) in [
        ("values", graph.values.len(), next[0] as usize + insts),
        ("weight parameters", graph.weights.len(), next[1] as usize),
        ("cache parameters", graph.caches.len(), next[2] as usize),
    ] {
        if found != expected {
            let what = format!("{found} {what}, but {expected} are defined");
            check.report(V_VALUES, Place::Graph(id), what);
            sound = false;
        }
    }
    sound
}

fn value_param(check: &mut Check<'_>, place: Place, ty: &Type) {
    if *ty != Type::tokens() && !is_rows(ty) {
        let what = format!("a parameter is f32[T, width] or i32[T], not {ty}");
        check.report(V_VALUES, place, what);
    }
}

fn is_rows(ty: &Type) -> bool {
    ty.row_width().is_some_and(|w| w <= DIM_MAX) && dims_positive(ty)
}

/// V9.
fn result(check: &mut Check<'_>, id: GraphId, graph: &Graph) -> bool {
    let Some(value) = graph.values.get(graph.result.0 as usize) else {
        check.report(V_RESULT, Place::Result(id), "what is returned does not exist");
        return false;
    };
    if !is_rows(&value.ty) {
        let what = format!("a graph returns f32[T, width], not {}", value.ty);
        check.report(V_RESULT, Place::Result(id), what);
    }
    true
}

/// Every instruction; whether all handles are in range.
fn insts(check: &mut Check<'_>, id: GraphId, graph: &Graph, callees: &[bool]) -> bool {
    let mut defined = vec![false; graph.values.len()];
    let mut values = 0;
    for param in &graph.params {
        if let Param::Value(v) = param {
            values += 1;
            if let Some(d) = defined.get_mut(v.0 as usize) {
                *d = true;
            }
        }
    }
    let mut sound = true;
    for (i, inst) in graph.insts.iter().enumerate() {
        let place = Place::Inst(id, i as u32);
        let operands = inst.args.iter().fold(true, |ok, &arg| {
            hidden(check, place, graph, arg);
            operand(check, place, graph, arg, &defined) && ok
        });
        let callee = callee(check, place, inst, callees);
        if operands && callee {
            types(check, place, graph, inst);
        }
        let expected = values + i as u32;
        if inst.result.0 != expected || defined.get(expected as usize) != Some(&false) {
            let what = format!("defines value {}, expected {expected}", inst.result.0);
            check.report(V_VALUES, place, what);
            sound = false;
        }
        if let Some(d) = defined.get_mut(inst.result.0 as usize) {
            *d = true;
        }
        sound &= operands && callee;
    }
    sound
}

/// V2.
fn operand(check: &mut Check<'_>, place: Place, graph: &Graph, arg: Arg, defined: &[bool]) -> bool {
    let module = check.module;
    let exists = match arg {
        Arg::Value(v) => match defined.get(v.0 as usize) {
            Some(true) => true,
            Some(false) => {
                let what = format!("{} is used before it is defined", graph.value_name(v));
                check.report(V_DEFINED, place, what);
                return false;
            }
            None => false,
        },
        Arg::Weight(w) => (w.0 as usize) < module.weights.len(),
        Arg::FormalWeight(i) => (i as usize) < graph.weights.len(),
        Arg::Cache(c) => (c.0 as usize) < module.caches.len(),
        Arg::FormalCache(i) => (i as usize) < graph.caches.len(),
    };
    if !exists {
        check.report(V_DEFINED, place, format!("operand {arg:?} does not exist"));
    }
    exists
}

/// V1: in text, a name means the parameter of the graph first.
fn hidden(check: &mut Check<'_>, place: Place, graph: &Graph, arg: Arg) {
    if is_hidden(check.module, graph, arg) {
        let name = graph.arg_name(check.module, arg);
        let what = format!("`{name}` of the module is hidden by a parameter of @{}", graph.name);
        check.report(V_NAME, place, what);
    }
}

fn is_hidden(module: &Module, graph: &Graph, arg: Arg) -> bool {
    match arg {
        Arg::Weight(w) => module
            .weights
            .get(w.0 as usize)
            .is_some_and(|weight| graph.weights.iter().any(|f| f.name == weight.name)),
        Arg::Cache(c) => module
            .caches
            .get(c.0 as usize)
            .is_some_and(|cache| graph.caches.iter().any(|f| f.name == cache.name)),
        _ => false,
    }
}

/// V10: the callee comes earlier. Whether its parameters can be looked at.
fn callee(check: &mut Check<'_>, place: Place, inst: &Inst, earlier: &[bool]) -> bool {
    let Op::Call(callee) = inst.op else { return true };
    match earlier.get(callee.0 as usize) {
        Some(&sound) => sound,
        None => {
            let name = Place::Graph(callee).name(check.module);
            check.report(V_ORDER, place, format!("{name} is not defined before this graph"));
            false
        }
    }
}

/// V3 to V8, and V15 of embedding tables.
fn types(check: &mut Check<'_>, place: Place, graph: &Graph, inst: &Inst) {
    let inferred = match infer(check.module, graph, &inst.op, &inst.args) {
        Ok(inferred) => inferred,
        Err(mismatch) => return check.report(mismatch.rule, place, mismatch.what),
    };
    if let Some(value) = graph.values.get(inst.result.0 as usize)
        && value.ty != inferred
    {
        let what = format!("claims {}, but {} gives {inferred}", value.ty, inst.op.name());
        check.report(V_CLAIM, place, what);
    }
    let vocab = check.module.meta.vocab;
    if inst.op == Op::Embed
        && let Some((_, dims)) = graph.arg_type(check.module, inst.args[1]).as_weight()
        && dims[0] != vocab
    {
        check.report(V_META, place, format!("the table has {} rows, vocab is {vocab}", dims[0]));
    }
}
