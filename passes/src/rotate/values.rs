//! R2: a rotation of each head of values, for each set of weights that calls share.

use super::{Matrices, PASS, fail, rotation};
use crate::PassError;
use crate::attention::{Path, paths};
use crate::bindings::Bindings;
use crate::edit::{append, check_float};
use ir::{Arg, GraphId, Module, Side, Step, WeightId};
use std::collections::BTreeSet;

/// Turns values.
pub(super) fn run(module: &mut Module, from: &Matrices) -> Result<Vec<String>, PassError> {
    let paths = paths(PASS, module)?;
    let groups = groups(module, &paths);
    let mut log = vec![];
    for (n, group) in groups.into_iter().enumerate() {
        for &weight in group.written.iter().chain(&group.read) {
            check_float(PASS, module, weight)?;
        }
        let head = match group.heads.iter().collect::<Vec<_>>()[..] {
            [&head] => head,
            _ => return fail("calls with heads of several widths share a matrix of values"),
        };
        if !group.written.is_disjoint(&group.read) {
            return fail("a matrix both makes values and reads what attention gives");
        }
        let by = rotation(module, from, n + 1, head, "a head of values")?;
        for &weight in &group.written {
            append(module, weight, Step::Rotate { side: Side::Out, by });
        }
        for &weight in &group.read {
            append(module, weight, Step::Rotate { side: Side::In, by });
        }
        let count = group.written.len() + group.read.len();
        let source = &module.weight(by).source;
        log.push(format!("R2: {source} of order {head} over {count} weights"));
    }
    Ok(log)
}

/// Weights that are turned together, because calls share them.
#[derive(Default)]
struct Group {
    heads: BTreeSet<u64>,
    written: BTreeSet<WeightId>,
    read: BTreeSet<WeightId>,
}

impl Group {
    fn meets(&self, other: &Group) -> bool {
        !self.written.is_disjoint(&other.written) || !self.read.is_disjoint(&other.read)
    }

    fn union(mut self, other: Group) -> Group {
        self.heads.extend(other.heads);
        self.written.extend(other.written);
        self.read.extend(other.read);
        self
    }
}

/// Weights that some call binds together are in one group. In the order of their first call.
fn groups(module: &Module, paths: &[Path]) -> Vec<Group> {
    let bindings = Bindings::new(module);
    let mut groups: Vec<Group> = vec![];
    for path in paths {
        let graph = module.graph(path.graph);
        let written = bound(&bindings, path.graph, &graph.insts[path.value].args[1..]);
        let read = bound(&bindings, path.graph, &path.output);
        for (written, read) in written.into_iter().zip(read) {
            join(&mut groups, Group { heads: [path.head].into(), written, read });
        }
    }
    groups
}

/// Adds a group; those that it meets become one with it, in the place of the first.
fn join(groups: &mut Vec<Group>, new: Group) {
    let first = groups.iter().position(|g| g.meets(&new)).unwrap_or(groups.len());
    let (meeting, mut rest): (Vec<Group>, Vec<Group>) =
        std::mem::take(groups).into_iter().partition(|g| g.meets(&new));
    rest.insert(first, meeting.into_iter().fold(new, Group::union));
    *groups = rest;
}

/// The weights behind operands, for each way the graph is reached.
fn bound(bindings: &Bindings, graph: GraphId, args: &[Arg]) -> Vec<BTreeSet<WeightId>> {
    let columns: Vec<Vec<WeightId>> = args.iter().map(|&a| bindings.of(graph, a)).collect();
    let ways = columns.first().map_or(0, Vec::len);
    (0..ways).map(|way| columns.iter().map(|c| c[way]).collect()).collect()
}
