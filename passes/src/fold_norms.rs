//! `fold_norms`: gains of norms move into the matrices behind them.
//!
//! # What
//! `rms_norm x, gain` whose result only `linear`s read becomes `rms_norm x`, and each column of those
//! matrices is multiplied with its gain. A gain stays where its matrix has other readers (a tied
//! embedding table), or where something else reads the norm (heads of q and k, a norm after a
//! sub-layer); the log says so.
//!
//! # Why it is exact (or how far off)
//! `(n · diag(g)) · Wᵀ = n · (W · diag(g))ᵀ`. Columns are rounded to f32 once.
//!
//! # Requires
//! Matrices that are not rounded yet, and gains without smoothing factors: folding takes those back.
//!
//! # Paper
//! SliceGPT (arXiv 2401.15024) section 3; QuaRot (2404.00456) section 4.

use crate::bindings::{Bindings, instructions, matrices};
use crate::edit::{append, check_float, drop_unread_formals};
use crate::{Context, PassError};
use ir::{Arg, GraphId, Module, Op, Side, Step, WeightId};
use std::collections::{BTreeMap, BTreeSet};

const PASS: &str = "fold_norms";

/// A norm with a gain whose readers are `linear`s.
struct Norm {
    graph: GraphId,
    inst: usize,
    /// Matrix and gain, for each way the graph is reached and each reader.
    pairs: Vec<(WeightId, WeightId)>,
}

/// Runs the pass.
pub fn run(module: &mut Module, _: &Context<'_>) -> Result<Vec<String>, PassError> {
    let bindings = Bindings::new(module);
    let (mut norms, mut log) = norms(module, &bindings);
    while let Some((at, why)) = norms.iter().enumerate().find_map(|(at, norm)| {
        let kept = reason_to_keep(module, &bindings, &norms, norm)?;
        Some((at, kept))
    }) {
        let norm = norms.remove(at);
        log.push(kept(module, norm.graph, norm.inst, &why));
    }
    let gains: BTreeMap<WeightId, WeightId> = norms.iter().flat_map(|n| n.pairs.clone()).collect();
    for (&matrix, &gain) in &gains {
        check_float(PASS, module, matrix)?;
        check_gain(module, gain)?;
    }
    for (&matrix, &by) in &gains {
        append(module, matrix, Step::Scale { side: Side::In, by, inverse: false });
    }
    for norm in &norms {
        module.graphs[norm.graph.0 as usize].insts[norm.inst].args.truncate(1);
    }
    drop_unread_formals(module);
    if !gains.is_empty() {
        let distinct: BTreeSet<WeightId> = gains.values().copied().collect();
        log.insert(0, format!("{} gains folded into {} matrices", distinct.len(), gains.len()));
    }
    Ok(log)
}

/// Norms that may be folded, and a word about those that may not.
fn norms(module: &Module, bindings: &Bindings) -> (Vec<Norm>, Vec<String>) {
    let (mut norms, mut log) = (vec![], vec![]);
    for (id, inst, at) in instructions(module) {
        let (Op::RmsNorm { group, .. }, Some(&gain)) = (&inst.op, inst.args.get(1)) else {
            continue;
        };
        let graph = module.graph(id);
        let width = graph.value(inst.result).ty.row_width();
        let whole = group.is_none() || *group == width;
        match matrices(graph, inst.result).filter(|_| whole) {
            Some(matrices) => {
                norms.push(Norm {
                    graph: id,
                    inst: at,
                    pairs: pairs(bindings, id, gain, &matrices),
                });
            }
            None => log.push(kept(module, id, at, "not only matrices read it")),
        }
    }
    (norms, log)
}

fn pairs(
    bindings: &Bindings,
    graph: GraphId,
    gain: Arg,
    matrices: &[Arg],
) -> Vec<(WeightId, WeightId)> {
    let gains = bindings.of(graph, gain);
    let pair = |matrix: &Arg| {
        bindings.of(graph, *matrix).into_iter().zip(gains.clone()).collect::<Vec<_>>()
    };
    matrices.iter().flat_map(pair).collect()
}

fn kept(module: &Module, graph: GraphId, inst: usize, why: &str) -> String {
    let graph = module.graph(graph);
    let name = graph.value_name(graph.insts[inst].result);
    format!("the gain of {name} in @{} stays: {why}", graph.name)
}

/// Why a norm cannot be folded together with the others, if so.
fn reason_to_keep(
    module: &Module,
    bindings: &Bindings,
    norms: &[Norm],
    norm: &Norm,
) -> Option<String> {
    norm.pairs.iter().find_map(|&(matrix, gain)| {
        let all = norms.iter().flat_map(|n| &n.pairs);
        let name = &module.weight(matrix).name;
        if all.clone().any(|&(m, other)| m == matrix && other != gain) {
            return Some(format!("${name} is read behind several gains"));
        }
        // Every place that reads the matrix must be behind one of the norms.
        let behind = |graph: GraphId, inst: usize| {
            norms.iter().any(|n| {
                let result = module.graph(n.graph).insts[n.inst].result;
                let reader = &module.graph(graph).insts[inst];
                n.graph == graph && reader.op == Op::Linear && reader.args[0] == Arg::Value(result)
            })
        };
        let elsewhere = bindings.uses(module, matrix).into_iter();
        elsewhere.into_iter().find(|u| !behind(u.graph, u.inst)).map(|u| {
            format!("${name} is read by {} too", module.graph(u.graph).insts[u.inst].op.name())
        })
    })
}

fn check_gain(module: &Module, gain: WeightId) -> Result<(), PassError> {
    let weight = module.weight(gain);
    if weight.via.iter().all(|step| !matches!(step, Step::Scale { .. })) {
        return Ok(());
    }
    let why = format!(
        "the gain ${} carries smoothing factors, and folding would take them back; fold norms \
         before `smooth`",
        weight.name
    );
    Err(PassError { pass: PASS, why })
}
