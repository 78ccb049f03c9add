//! R2: a rotation of each head of values, one for each set of weights that calls share.

use super::{Matrices, PASS, fail, rotation};
use crate::PassError;
use crate::attention::paths;
use crate::bindings::Bindings;
use crate::edit::{append, check_float};
use crate::groups::{Group, bound, check_alone, join};
use ir::{Module, Side, Step};
use std::collections::BTreeSet;

/// Turns values.
pub(super) fn run(module: &mut Module, from: &Matrices) -> Result<Vec<String>, PassError> {
    let paths = paths(PASS, module)?;
    let bindings = Bindings::new(module);
    let mut groups = vec![];
    for (site, path) in paths.iter().enumerate() {
        let graph = module.graph(path.graph);
        let made = bound(&bindings, path.graph, &graph.insts[path.value].args[1..]);
        let read = bound(&bindings, path.graph, &path.output);
        for (made, read) in made.into_iter().zip(read) {
            join(&mut groups, Group { read, made, sites: [site].into() });
        }
    }
    check_alone(PASS, module, &bindings, &groups)?;
    for (n, group) in groups.iter().enumerate() {
        let heads: BTreeSet<u64> = group.sites.iter().map(|&site| paths[site].head).collect();
        let [head] = heads.iter().copied().collect::<Vec<u64>>()[..] else {
            return fail("calls with heads of several widths share a matrix of values");
        };
        turn(module, from, n, group, head)?;
    }
    let heads: BTreeSet<u64> = paths.iter().map(|path| path.head).collect();
    let orders: Vec<String> = heads.iter().map(u64::to_string).collect();
    Ok(match groups.len() {
        0 => vec![],
        n => {
            vec![format!("R2: {n} of order {} over values and what reads them", orders.join(", "))]
        }
    })
}

fn turn(
    module: &mut Module,
    from: &Matrices,
    n: usize,
    group: &Group,
    head: u64,
) -> Result<(), PassError> {
    for &weight in group.made.iter().chain(&group.read) {
        check_float(PASS, module, weight)?;
    }
    let by = rotation(module, from, n + 1, head, "a head of values")?;
    for &weight in &group.made {
        append(module, weight, Step::Rotate { side: Side::Out, by });
    }
    for &weight in &group.read {
        append(module, weight, Step::Rotate { side: Side::In, by });
    }
    Ok(())
}
