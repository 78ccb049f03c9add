//! R1: one rotation of the residual stream.

use super::{Matrices, PASS, fail, rotation};
use crate::PassError;
use crate::bindings::{Bindings, instructions, matrices, readers, value_of, value_params};
use crate::edit::{append, check_float, drop_unread_formals, insert_after, make};
use ir::def_use::renumber;
use ir::{Arg, GraphId, Inst, Module, Op, Side, Source, Step, ValueId, WeightId};
use std::collections::{BTreeMap, BTreeSet};

/// A value of a graph.
type Place = (GraphId, ValueId);

/// Turns the stream.
pub(super) fn run(module: &mut Module, from: &Matrices) -> Result<Vec<String>, PassError> {
    let stream = stream(module);
    let Some(width) = width(module, &stream)? else { return Ok(vec![]) };
    let middles = gains(module, &stream)?;
    let turns = turns(module, &stream)?;
    for &weight in turns.keys() {
        check_float(PASS, module, weight)?;
    }
    let by = rotation(module, from, 0, width, "the residual stream")?;
    let count = turns.values().map(BTreeSet::len).filter(|&sides| sides > 0).count();
    for (weight, sides) in turns {
        for side in sides {
            append(module, weight, Step::Rotate { side: turned(side), by });
        }
    }
    let mut log =
        vec![format!("R1: {} of order {width} over {count} weights", module.weight(by).source)];
    for (graph, norm, gain) in middles {
        insert_middle(module, graph, norm, gain, by, width);
        let graph = &module.graph(graph).name;
        log.push(format!("a matrix of {width} x {width} behind the norm of @{graph}"));
    }
    drop_unread_formals(module);
    Ok(log)
}

/// Sides in an order, so that a weight's sides can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    In,
    Out,
}

fn turned(turn: Turn) -> Side {
    match turn {
        Turn::In => Side::In,
        Turn::Out => Side::Out,
    }
}

/// Values in the basis of the residual stream: what `embed` gives, what is added to it, norms of it.
fn stream(module: &Module) -> BTreeSet<Place> {
    let mut stream = BTreeSet::new();
    for (graph, inst, _) in instructions(module) {
        if inst.op == Op::Embed {
            stream.insert((graph, inst.result));
        }
    }
    for (i, graph) in module.graphs.iter().enumerate() {
        let id = GraphId(i as u32);
        match graph.name.as_str() {
            "model" => stream.insert((id, graph.result)),
            "head" => value_params(graph).next().is_some_and(|x| stream.insert((id, x))),
            _ => continue,
        };
    }
    loop {
        let before = stream.len();
        for (graph, inst, _) in instructions(module) {
            for class in classes(module, graph, inst) {
                if class.iter().any(|place| stream.contains(place)) {
                    stream.extend(class);
                }
            }
        }
        if stream.len() == before {
            return stream;
        }
    }
}

/// Values that an instruction puts into one basis.
fn classes(module: &Module, graph: GraphId, inst: &Inst) -> Vec<Vec<Place>> {
    let result = (graph, inst.result);
    let values = inst.args.iter().filter_map(|arg| match arg {
        Arg::Value(v) => Some((graph, *v)),
        _ => None,
    });
    match inst.op {
        Op::Add | Op::Scale { .. } | Op::RmsNorm { .. } => vec![values.chain([result]).collect()],
        Op::Call(callee) => {
            let inner = module.graph(callee);
            let params = value_params(inner).map(|v| (callee, v));
            let pairs = values.zip(params).map(|(outer, inner)| vec![outer, inner]);
            pairs.chain([vec![result, (callee, inner.result)]]).collect()
        }
        _ => vec![],
    }
}

/// The width of the stream; `None` if no token is embedded.
fn width(module: &Module, stream: &BTreeSet<Place>) -> Result<Option<u64>, PassError> {
    let width = |&(graph, v): &Place| module.graph(graph).value(v).ty.row_width();
    let widths: BTreeSet<Option<u64>> = stream.iter().map(width).collect();
    match widths.iter().collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [&Some(width)] => Ok(Some(width)),
        _ => fail("the residual stream has several widths"),
    }
}

/// Norms of the stream that still have a gain, which must be one that the embedding table keeps
/// from being folded: graph, norm, gain.
fn gains(
    module: &Module,
    stream: &BTreeSet<Place>,
) -> Result<Vec<(GraphId, ValueId, WeightId)>, PassError> {
    let bindings = Bindings::new(module);
    let mut middles = vec![];
    for (id, inst, _) in instructions(module) {
        let Op::RmsNorm { group, .. } = inst.op else { continue };
        if !stream.contains(&(id, inst.result)) {
            continue;
        }
        let graph = module.graph(id);
        let name = format!("{} of @{}", graph.value_name(inst.result), graph.name);
        if group.is_some() && group != graph.value(inst.result).ty.row_width() {
            return fail(format!("{name} norms parts of the residual stream, which turning mixes"));
        }
        let Some(&gain) = inst.args.get(1) else { continue };
        if readers(graph, inst.result).iter().any(|(i, _)| graph.insts[*i].op == Op::Add) {
            return fail(format!(
                "{name} has a gain and is added to the residual stream (a norm after a sub-layer, \
                 as in Gemma 2 and 3): no matrix can take the gain in; leave R1 out (--rotations r2,r3,r4)"
            ));
        }
        let embeds = |arg: Arg| {
            bindings.of(id, arg).iter().any(|&w| {
                let uses = bindings.uses(module, w);
                uses.iter().any(|u| module.graph(u.graph).insts[u.inst].op == Op::Embed)
            })
        };
        let tied = matrices(graph, inst.result).is_some_and(|m| m.into_iter().any(embeds));
        match gain {
            Arg::Weight(gain) if tied => middles.push((id, inst.result, gain)),
            _ => {
                return fail(format!(
                    "{name} still has a gain, and a diagonal does not commute with a rotation; run \
                     `fold_norms` first"
                ));
            }
        }
    }
    Ok(middles)
}

/// The sides on which each weight is turned; every place that reads a weight must agree.
fn turns(
    module: &Module,
    stream: &BTreeSet<Place>,
) -> Result<BTreeMap<WeightId, BTreeSet<Turn>>, PassError> {
    let bindings = Bindings::new(module);
    let mut turns: BTreeMap<WeightId, BTreeSet<Turn>> = BTreeMap::new();
    for (graph, inst, _) in instructions(module) {
        let within = |v: Option<ValueId>| v.is_some_and(|v| stream.contains(&(graph, v)));
        let (reads, writes) = (within(value_of(inst, 0)), within(Some(inst.result)));
        let sides: Vec<(Arg, Vec<Turn>)> = match inst.op {
            Op::Embed => vec![(inst.args[1], vec![Turn::In])],
            Op::Linear => {
                let out = writes.then_some(Turn::Out);
                let matrix = reads.then_some(Turn::In).into_iter().chain(out).collect();
                let bias = inst.args.get(2).map(|&bias| (bias, out.into_iter().collect()));
                [(inst.args[1], matrix)].into_iter().chain(bias).collect()
            }
            Op::Add | Op::Scale { .. } | Op::RmsNorm { .. } | Op::Call(_) => vec![],
            _ => {
                let any = (0..inst.args.len()).any(|n| within(value_of(inst, n)));
                if any || writes {
                    return fail(stranger(module, graph, inst));
                }
                vec![]
            }
        };
        for (arg, sides) in sides {
            let sides: BTreeSet<Turn> = sides.into_iter().collect();
            for weight in bindings.of(graph, arg) {
                if *turns.entry(weight).or_insert_with(|| sides.clone()) != sides {
                    return fail(format!(
                        "${} is read both within the residual stream and outside of it",
                        module.weight(weight).name
                    ));
                }
            }
        }
    }
    turns.retain(|_, sides| !sides.is_empty());
    Ok(turns)
}

fn stranger(module: &Module, graph: GraphId, inst: &Inst) -> String {
    let graph = module.graph(graph);
    format!(
        "{} of @{} is {} on the residual stream, which cannot be turned through it",
        graph.value_name(inst.result),
        graph.name,
        inst.op.name()
    )
}

/// The norm loses its gain, and what read it reads its product with `R1ᵀ · diag(gain) · R1`.
fn insert_middle(
    module: &mut Module,
    graph: GraphId,
    norm: ValueId,
    gain: WeightId,
    by: WeightId,
    width: u64,
) {
    let via = vec![
        Step::Scale { side: Side::In, by: gain, inverse: false },
        Step::Rotate { side: Side::In, by },
        Step::Rotate { side: Side::Out, by },
    ];
    let middle = make(module, "middle", &[width, width], Source::Eye, via);
    let graph = &mut module.graphs[graph.0 as usize];
    for inst in &mut graph.insts {
        if inst.result == norm {
            inst.args.truncate(1);
        }
    }
    insert_after(graph, norm, "turned", Op::Linear, &[middle.into()], |_, _| true);
    renumber(graph);
}
