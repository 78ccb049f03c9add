//! Which weights are read: by graphs, and by the histories of other weights.

use crate::module::{Arg, Module, WeightId};

/// Of each weight: whether a graph reads it.
pub fn read_by_graphs(module: &Module) -> Vec<bool> {
    let mut read = vec![false; module.weights.len()];
    let args = module.graphs.iter().flat_map(|g| &g.insts).flat_map(|i| &i.args);
    for arg in args {
        if let Arg::Weight(id) = arg
            && let Some(read) = read.get_mut(id.0 as usize)
        {
            *read = true;
        }
    }
    read
}

/// Drops the weights that nothing reads and numbers the others anew.
pub fn sweep(module: &mut Module) {
    let mut read = read_by_graphs(module);
    let mut open: Vec<usize> = (0..read.len()).filter(|&i| read[i]).collect();
    while let Some(at) = open.pop() {
        for by in module.weights[at].via.iter().filter_map(|step| step.operand()) {
            let by = by.0 as usize;
            if !std::mem::replace(&mut read[by], true) {
                open.push(by);
            }
        }
    }
    let mut number = vec![WeightId(u32::MAX); read.len()];
    for (new, old) in (0..read.len()).filter(|&i| read[i]).enumerate() {
        number[old] = WeightId(new as u32);
    }
    let mut keep = read.iter();
    module.weights.retain(|_| *keep.next().expect("one mark a weight"));
    rename(module, |id| number[id.0 as usize]);
}

/// Puts another weight wherever one is named, in graphs and in histories.
pub fn rename(module: &mut Module, new: impl Fn(WeightId) -> WeightId) {
    let steps = module.weights.iter_mut().flat_map(|w| &mut w.via);
    steps.filter_map(|step| step.operand_mut()).for_each(|by| *by = new(*by));
    for arg in module.graphs.iter_mut().flat_map(|g| &mut g.insts).flat_map(|i| &mut i.args) {
        if let Arg::Weight(id) = arg {
            *id = new(*id);
        }
    }
}
