//! `smooth`: ranges of channels move from normed rows into the matrices that read them.
//!
//! # What
//! Behind each norm that only matrices read, column `j` of those is multiplied with `s[j]` and the
//! gain divided by it; a norm without a gain gets one. `s = max|x|^α / max|W|^(1-α)` per channel, over
//! all matrices and all calls that share them, in quarter octaves, or what `scales` finds. A norm before a matrix with other
//! readers (a tied embedding table) is left alone.
//!
//! # Why it is exact (or how far off)
//! `(n · diag(g / s)) · (W · diag(s))ᵀ = (n · diag(g)) · Wᵀ`; products are rounded to f32 once.
//!
//! # Requires
//! Calibration; weights that are not rounded. Norms that are still to be folded would take the factors
//! back, and rotations do not cross gains: this pass comes after both.
//!
//! # Paper
//! SmoothQuant (arXiv 2211.10438).

use crate::bindings::{Bindings, instructions, matrices};
use crate::edit::{add_formal, append, check_float, make};
use crate::factors::{self, Strength};
use crate::groups::{Group, bound, join};
use crate::stats::{Lab, Stats, inputs_of};
use crate::{Context, PassError};
use ir::{Arg, GraphId, Module, Op, Side, Source, Step, WeightId};
use std::collections::{BTreeMap, BTreeSet};

const PASS: &str = "smooth";

/// A norm whose result only matrices read.
struct Norm {
    graph: GraphId,
    inst: usize,
    width: u64,
    matrices: Vec<Arg>,
    gain: Option<Arg>,
}

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let smoothing = context.smooth.unwrap_or_default();
    if !smoothing.norms {
        return Ok(vec![]);
    }
    let lab = factors::lab(PASS, context.lab)?;
    let norms = norms(module);
    let (groups, mut log) = groups(module, &norms)?;
    let stats = observe(module, lab, &groups, smoothing.strength == Strength::Searched)?;
    let mut made: BTreeMap<usize, Vec<WeightId>> = BTreeMap::new();
    let mut spreads = vec![];
    for group in &groups {
        let (all, each) = (|x: &[f32]| x.to_vec(), |q: &[i8]| q.to_vec());
        let quarters = factors::find(module, context, &stats, PASS, &group.read, &all, &each)?;
        spreads.push(factors::spread(&quarters));
        let gain = scale(module, group, quarters);
        for &site in &group.sites {
            made.entry(site).or_default().extend(gain);
        }
    }
    give_gains(module, &norms, &groups, &made)?;
    if let Some(most) = spreads.iter().copied().reduce(f64::max) {
        log.insert(0, format!("{} sites, factors over {most} octaves at most", groups.len()));
    }
    Ok(log)
}

fn norms(module: &Module) -> Vec<Norm> {
    let norm = |(id, inst, at): (GraphId, &ir::Inst, usize)| {
        let Op::RmsNorm { group, .. } = inst.op else { return None };
        let graph = module.graph(id);
        let width = graph.value(inst.result).ty.row_width()?;
        if group.is_some_and(|g| g != width) {
            return None;
        }
        let matrices = matrices(graph, inst.result)?;
        Some(Norm { graph: id, inst: at, width, matrices, gain: inst.args.get(1).copied() })
    };
    instructions(module).filter_map(norm).collect()
}

/// Matrices and gains that are scaled together, and a word about norms that are left alone.
fn groups(module: &Module, norms: &[Norm]) -> Result<(Vec<Group>, Vec<String>), PassError> {
    let bindings = Bindings::new(module);
    let (mut groups, mut log) = (vec![], vec![]);
    for (site, norm) in norms.iter().enumerate() {
        let gains = norm.gain.map(|gain| bound(&bindings, norm.graph, &[gain]));
        let rows = bound(&bindings, norm.graph, &norm.matrices);
        let elsewhere =
            rows.iter().flatten().find(|&&m| !behind_norms(module, &bindings, norms, m));
        if let Some(&matrix) = elsewhere {
            let graph = module.graph(norm.graph);
            log.push(format!(
                "{} of @{} is left alone: ${} is read elsewhere too",
                graph.value_name(graph.insts[norm.inst].result),
                graph.name,
                module.weight(matrix).name
            ));
            continue;
        }
        for (way, read) in rows.into_iter().enumerate() {
            let made = gains.as_ref().map_or_else(BTreeSet::new, |gains| gains[way].clone());
            join(&mut groups, Group { read, made, sites: [site].into() });
        }
    }
    for &weight in groups.iter().flat_map(|g: &Group| g.read.iter().chain(&g.made)) {
        check_float(PASS, module, weight)?;
    }
    Ok((groups, log))
}

/// Whether every place that reads a matrix is behind one of the norms.
fn behind_norms(module: &Module, bindings: &Bindings, norms: &[Norm], matrix: WeightId) -> bool {
    bindings.uses(module, matrix).iter().all(|u| {
        let reader = &module.graph(u.graph).insts[u.inst];
        norms.iter().any(|n| {
            let result = module.graph(n.graph).insts[n.inst].result;
            n.graph == u.graph && reader.op == Op::Linear && reader.args[0] == Arg::Value(result)
        })
    })
}

fn observe(
    module: &Module,
    lab: &dyn Lab,
    groups: &[Group],
    second: bool,
) -> Result<Stats, PassError> {
    let matrices = groups.iter().flat_map(|g| &g.read);
    let mut sites: Vec<_> = matrices.flat_map(|&m| inputs_of(module, m)).collect();
    sites.sort();
    sites.dedup();
    lab.observe(module, &sites, second)
}

/// Scales a group; the gain for norms that have none.
fn scale(module: &mut Module, group: &Group, quarters: Vec<i8>) -> Option<WeightId> {
    let width = quarters.len() as u64;
    let first = group.read.first().expect("a site has a matrix");
    let name = module.weight(*first).name.clone();
    let by = make(module, &format!("{name}.s"), &[width], Source::Factors(quarters), vec![]);
    for &matrix in &group.read {
        append(module, matrix, Step::Scale { side: Side::In, by, inverse: false });
    }
    let divided = Step::Scale { side: Side::Out, by, inverse: true };
    for &gain in &group.made {
        append(module, gain, divided);
    }
    let without = group.made.is_empty();
    without.then(|| make(module, &format!("{name}.gain"), &[width], Source::Ones, vec![divided]))
}

/// Norms without a gain get theirs, one for each way their graph is reached.
fn give_gains(
    module: &mut Module,
    norms: &[Norm],
    groups: &[Group],
    made: &BTreeMap<usize, Vec<WeightId>>,
) -> Result<(), PassError> {
    let bindings = Bindings::new(module);
    for (site, norm) in norms.iter().enumerate() {
        if norm.gain.is_some() || !made.contains_key(&site) {
            continue;
        }
        // The gain of the group that the matrices of each way are in.
        let own: Vec<&Group> = groups.iter().filter(|g| g.sites.contains(&site)).collect();
        let of = |way: &BTreeSet<WeightId>| {
            let at = own.iter().position(|g| !g.read.is_disjoint(way));
            made[&site][at.expect("every way is in a group")]
        };
        let gains: Vec<WeightId> =
            bound(&bindings, norm.graph, &norm.matrices).iter().map(of).collect();
        let graph = module.graph(norm.graph);
        let arg = match graph.is_root() {
            true => gains[0].into(),
            false => {
                let base = format!("{}.gain", graph.value(graph.insts[norm.inst].result).name);
                add_formal(PASS, module, norm.graph, &base, &[norm.width], &gains)?
            }
        };
        module.graphs[norm.graph.0 as usize].insts[norm.inst].args.push(arg);
    }
    Ok(())
}
