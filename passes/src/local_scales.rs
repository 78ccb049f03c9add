//! `local_scales`: ranges of channels move through a layer, between two matrices.
//!
//! # What
//! Row `j` of the matrix that makes a channel is divided by `s[j]`, its bias too, and column `j` of
//! the matrix that reads it multiplied: from `up` to the matrix behind the activation (`inner`), and
//! from values to the output matrix of attention (`values`), where the query heads that share a head
//! of values share its factors.
//!
//! # Why it is exact (or how far off)
//! The activation is linear in `up`, attention takes means of values; products are rounded to f32
//! once.
//!
//! # Requires
//! Calibration; weights that are not rounded. Values that are not turned yet (R2) and no `hadamard`
//! behind the activation (R4): a factor does not cross those.
//!
//! # Paper
//! AWQ (arXiv 2306.00978), MobileQuant (2408.13933) for its weight on `up` to `down`.

use crate::attention::paths;
use crate::bindings::{Bindings, instructions, matrices, producer, readers, value_of};
use crate::edit::{append, check_float, make};
use crate::factors::{self, Strength};
use crate::groups::{Group, bound, check_alone, join};
use crate::stats::{Stats, inputs_of};
use crate::{Context, PassError};
use ir::{Arg, Graph, Module, Op, Side, Source, Step, ValueId, WeightId};
use std::collections::BTreeSet;

const PASS: &str = "local_scales";

/// Groups of one kind, and how channels of the reader repeat those of the maker: elements of a head
/// and query heads to a head of values.
struct Kind {
    what: &'static str,
    groups: Vec<Group>,
    repeats: Option<(u64, u64)>,
}

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let smoothing = context.smooth.unwrap_or_default();
    let mut kinds = vec![];
    if smoothing.inner {
        kinds.push(inner(module)?);
    }
    if smoothing.values {
        kinds.extend(values(module)?);
    }
    let lab = factors::lab(PASS, context.lab)?;
    let groups = || kinds.iter().flat_map(|kind| &kind.groups);
    for &weight in groups().flat_map(|g| g.read.iter().chain(&g.made)) {
        check_float(PASS, module, weight)?;
    }
    let mut sites: Vec<_> =
        groups().flat_map(|g| &g.read).flat_map(|&m| inputs_of(module, m)).collect();
    sites.sort();
    sites.dedup();
    let searched = smoothing.strength == Strength::Searched;
    let stats = lab.observe(module, &sites, searched)?;
    let mut log = vec![];
    for kind in &kinds {
        let mut most = 0f64;
        for group in &kind.groups {
            most = most.max(scale(module, context, kind, group, &stats)?);
        }
        if !kind.groups.is_empty() {
            let count = kind.groups.len();
            log.push(format!("{}: {count} sites, factors over {most} octaves at most", kind.what));
        }
    }
    Ok(log)
}

fn fail<T>(why: impl Into<String>) -> Result<T, PassError> {
    Err(PassError { pass: PASS, why: why.into() })
}

/// Scales one group; how many octaves its factors span.
fn scale(
    module: &mut Module,
    context: &Context<'_>,
    kind: &Kind,
    group: &Group,
    stats: &Stats,
) -> Result<f64, PassError> {
    let folded = |x: &[f32]| match kind.repeats {
        None => x.to_vec(),
        Some((head, times)) => fold_heads(x, head as usize, times as usize),
    };
    let repeated = |q: &[i8]| match kind.repeats {
        None => q.to_vec(),
        Some((head, times)) => {
            q.chunks(head as usize).flat_map(|head| head.repeat(times as usize)).collect()
        }
    };
    let quarters = factors::find(module, context, stats, PASS, &group.read, &folded, &repeated)?;
    let (spread, width) = (factors::spread(&quarters), quarters.len() as u64);
    let first = group.read.first().expect("a site has a matrix");
    let name = format!("{}.s", module.weight(*first).name);
    let by = make(module, &name, &[width], Source::Factors(quarters.clone()), vec![]);
    for &weight in &group.made {
        append(module, weight, Step::Scale { side: Side::Out, by, inverse: true });
    }
    let by = match kind.repeats {
        None | Some((_, 1)) => by,
        Some((block, times)) => {
            let via = vec![Step::Repeat { block, times }];
            make(module, &format!("{name}q"), &[width * times], Source::Factors(quarters), via)
        }
    };
    for &matrix in &group.read {
        append(module, matrix, Step::Scale { side: Side::In, by, inverse: false });
    }
    Ok(spread)
}

/// The largest of each channel over the `times` heads that share it.
fn fold_heads(x: &[f32], head: usize, times: usize) -> Vec<f32> {
    let largest = |heads: &[f32]| -> Vec<f32> {
        (0..head)
            .map(|i| heads[i..].iter().step_by(head).fold(0.0, |m: f32, x| m.max(*x)))
            .collect()
    };
    x.chunks(head * times).flat_map(largest).collect()
}

/// From `up` to the matrix behind the activation.
fn inner(module: &Module) -> Result<Kind, PassError> {
    let bindings = Bindings::new(module);
    let mut groups = vec![];
    for (id, inst, _) in instructions(module) {
        if !matches!(inst.op, Op::GateMul(_)) {
            continue;
        }
        let graph = module.graph(id);
        let name = format!("{} of @{}", graph.value_name(inst.result), graph.name);
        let Some(up) = value_of(inst, 1).and_then(|v| lone_linear(graph, v)) else {
            return fail(format!("{name}: what it multiplies does not come from one matrix alone"));
        };
        let Some(down) = matrices(graph, inst.result) else {
            let turned = readers(graph, inst.result)
                .iter()
                .any(|(i, _)| matches!(graph.insts[*i].op, Op::Hadamard { .. }));
            return fail(match turned {
                true => format!("{name} is turned already (R4), and a factor does not cross that"),
                false => format!("{name} is not only read by matrices"),
            });
        };
        let made = bound(&bindings, id, &graph.insts[up].args[1..]);
        for (read, made) in bound(&bindings, id, &down).into_iter().zip(made) {
            join(&mut groups, Group { read, made, sites: BTreeSet::new() });
        }
    }
    check_alone(PASS, module, &bindings, &groups)?;
    Ok(Kind { what: "up to down", groups, repeats: None })
}

/// The `linear` that makes a value which nothing but one instruction reads.
fn lone_linear(graph: &Graph, value: ValueId) -> Option<usize> {
    let made = producer(graph, value)?;
    let alone = readers(graph, value).len() == 1 && graph.result != value;
    (alone && graph.insts[made].op == Op::Linear).then_some(made)
}

/// From values to the output matrix of attention; one kind for each shape of heads.
fn values(module: &Module) -> Result<Vec<Kind>, PassError> {
    let bindings = Bindings::new(module);
    let mut kinds: Vec<Kind> = vec![];
    for path in paths(PASS, module)? {
        let graph = module.graph(path.graph);
        let repeats = Some((path.head, path.queries / path.heads));
        let args: &[Arg] = &graph.insts[path.value].args[1..];
        let made = bound(&bindings, path.graph, args);
        let at = kinds.iter().position(|k| k.repeats == repeats).unwrap_or_else(|| {
            kinds.push(Kind { what: "values to output", groups: vec![], repeats });
            kinds.len() - 1
        });
        for (read, made) in bound(&bindings, path.graph, &path.output).into_iter().zip(made) {
            if let Some(weight) = made.iter().find(|w| is_turned(module, **w)) {
                return fail(format!(
                    "the values of ${} are turned already (R2); scale before `rotate`",
                    module.weight(*weight).name
                ));
            }
            join(&mut kinds[at].groups, Group { read, made, sites: BTreeSet::new() });
        }
    }
    for kind in &kinds {
        check_alone(PASS, module, &bindings, &kind.groups)?;
    }
    Ok(kinds)
}

fn is_turned(module: &Module, weight: WeightId) -> bool {
    let turn = |step: &Step| matches!(step, Step::Rotate { side: Side::Out, .. });
    module.weight(weight).via.iter().any(turn)
}
