//! Weights that calls bind together, and that a transform between two of them must change together.

use crate::PassError;
use crate::bindings::{Bindings, Use, producer, readers, value_of};
use ir::{Arg, GraphId, Module, WeightId};
use std::collections::BTreeSet;

/// What reads some channels and what makes them, over all calls that share any of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Matrices whose columns are the channels.
    pub read: BTreeSet<WeightId>,
    /// Matrices and biases whose rows are the channels, or gains.
    pub made: BTreeSet<WeightId>,
    /// Which of the pass's sites are in it.
    pub sites: BTreeSet<usize>,
}

impl Group {
    fn meets(&self, other: &Group) -> bool {
        !self.read.is_disjoint(&other.read) || !self.made.is_disjoint(&other.made)
    }

    fn union(mut self, other: Group) -> Group {
        self.read.extend(other.read);
        self.made.extend(other.made);
        self.sites.extend(other.sites);
        self
    }
}

/// Adds a group; those that it meets become one with it, in the place of the first.
pub fn join(groups: &mut Vec<Group>, new: Group) {
    let first = groups.iter().position(|g| g.meets(&new)).unwrap_or(groups.len());
    let (meeting, mut rest): (Vec<Group>, Vec<Group>) =
        std::mem::take(groups).into_iter().partition(|g| g.meets(&new));
    rest.insert(first, meeting.into_iter().fold(new, Group::union));
    *groups = rest;
}

/// The weights behind operands of a graph, for each way the graph is reached.
pub fn bound(bindings: &Bindings, graph: GraphId, args: &[Arg]) -> Vec<BTreeSet<WeightId>> {
    let columns: Vec<Vec<WeightId>> = args.iter().map(|&a| bindings.of(graph, a)).collect();
    let ways = columns.first().map_or(0, Vec::len);
    (0..ways).map(|way| columns.iter().map(|c| c[way]).collect()).collect()
}

/// An error if a weight of a group is on both of its sides, or is read in several kinds of places.
pub fn check_alone(
    pass: &'static str,
    module: &Module,
    bindings: &Bindings,
    groups: &[Group],
) -> Result<(), PassError> {
    for group in groups {
        for &weight in group.read.union(&group.made) {
            let uses = bindings.uses(module, weight);
            let places: BTreeSet<_> = uses.iter().map(|u| place(module, u)).collect();
            let both = group.read.contains(&weight) && group.made.contains(&weight);
            if places.len() > 1 || both {
                let name = &module.weight(weight).name;
                return Err(PassError { pass, why: format!("${name} is read in several places") });
            }
        }
    }
    Ok(())
}

/// The kind of a place that reads a weight: as which operand, and the operations before and behind.
fn place(module: &Module, u: &Use) -> (usize, &'static str, Vec<&'static str>) {
    let graph = module.graph(u.graph);
    let inst = &graph.insts[u.inst];
    let before = value_of(inst, 0).and_then(|v| producer(graph, v));
    let before = before.map_or("parameter", |i| graph.insts[i].op.name());
    let readers = readers(graph, inst.result);
    let mut behind: Vec<&str> = readers.iter().map(|(i, _)| graph.insts[*i].op.name()).collect();
    behind.sort_unstable();
    (u.operand, before, behind)
}
