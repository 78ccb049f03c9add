//! `share`: equal weights become one.
//!
//! # What
//! Matrices of equal numbers, shape and history are one weight with several readers: a head that
//! repeats the embedding table, the layers of a checkpoint that was written with a shared layer
//! unrolled. Vectors are shared where the matrices beside them are, so that layers become equal as a
//! whole and later passes find one norm before one matrix. Equal graphs become one.
//!
//! # Why it is exact (or how far off)
//! Bit for bit: numbers are compared, not similar ones merged.
//!
//! # Requires
//! Nothing. Without the checkpoint's numbers (IR text alone) blobs are equal by name.
//!
//! # Paper
//! MobileLLM (arXiv 2402.14905) for layers that are called twice.

use crate::bindings::instructions;
use crate::{Context, PassError};
use ir::uses::{read_by_graphs, rename, sweep};
use ir::weights::materialise;
use ir::{Arg, BlobError, Blobs, DType, GraphId, Module, Op, Source, Step, WeightId};
use std::collections::HashMap;

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let fail = |e: BlobError| PassError { pass: "share", why: e.to_string() };
    let before = bytes(module);
    let mut log = share_graphs(module);
    let equal = equal_weights(module, context.blobs).map_err(fail)?;
    let matrices = |id: WeightId| match module.weight(id).dims.len() {
        2 => equal[id.0 as usize],
        _ => id,
    };
    let mut shared: Vec<WeightId> = ids(module).map(matrices).collect();
    share_vectors(module, &equal, &mut shared);
    for id in ids(module) {
        let to = shared[id.0 as usize];
        if to != id && module.weight(id).dims.len() == 2 {
            log.push(format!("${} is ${}", module.weight(id).name, module.weight(to).name));
        }
    }
    if shared.iter().enumerate().any(|(i, to)| to.0 as usize != i) {
        rename(module, |id| shared[id.0 as usize]);
        sweep(module);
    }
    if !log.is_empty() {
        log.push(format!("{} of {before} bytes of weights are shared", before - bytes(module)));
    }
    Ok(log)
}

fn ids(module: &Module) -> impl Iterator<Item = WeightId> + use<> {
    (0..module.weights.len() as u32).map(WeightId)
}

/// Bytes of the weights that graphs read, as they stand.
fn bytes(module: &Module) -> u64 {
    let read = read_by_graphs(module);
    let weights = module.weights.iter().zip(read).filter(|(_, read)| *read);
    weights
        .map(|(w, _)| match w.dtype {
            DType::Int(format) => w.elements() * u64::from(format.bits) / 8,
            dtype => w.elements() * dtype.bytes(),
        })
        .sum()
}

/// Of each weight, the first one that is equal.
fn equal_weights(module: &Module, blobs: Option<&dyn Blobs>) -> Result<Vec<WeightId>, BlobError> {
    type Key = (Vec<u64>, DType, Vec<Step>, Result<u128, String>);
    let mut first: HashMap<Key, WeightId> = HashMap::new();
    let mut equal = vec![];
    for id in ids(module) {
        let weight = module.weight(id);
        let numbers = match (&weight.source, blobs) {
            (Source::Blob(name), Some(blobs)) => Ok(blobs.digest(name)?),
            (source, _) => Err(source.to_string()),
        };
        let key = (weight.dims.clone(), weight.dtype, weight.via.clone(), numbers);
        let other = *first.entry(key).or_insert(id);
        equal.push(if same(module, other, id, blobs)? { other } else { id });
    }
    Ok(equal)
}

/// Whether two weights of equal hashes are equal indeed.
fn same(
    module: &Module,
    a: WeightId,
    b: WeightId,
    blobs: Option<&dyn Blobs>,
) -> Result<bool, BlobError> {
    let Some(blobs) = blobs else { return Ok(true) };
    if module.weight(a).source == module.weight(b).source {
        return Ok(true);
    }
    let (a, b) = (materialise(module, a, blobs)?, materialise(module, b, blobs)?);
    Ok(a.data.iter().zip(&b.data).all(|(a, b)| a.to_bits() == b.to_bits()))
}

/// Vectors that two calls of a graph bind to the same parameter are shared if they are equal and so
/// are all the matrices of the calls.
fn share_vectors(module: &Module, equal: &[WeightId], shared: &mut [WeightId]) {
    let mut calls: HashMap<(GraphId, Vec<WeightId>), Vec<WeightId>> = HashMap::new();
    for (_, inst, _) in instructions(module) {
        let Op::Call(callee) = inst.op else { continue };
        let bound = inst.args.iter().filter_map(|arg| match arg {
            Arg::Weight(id) => Some(*id),
            _ => None,
        });
        let (matrices, vectors): (Vec<WeightId>, Vec<WeightId>) =
            bound.partition(|id| module.weight(*id).dims.len() == 2);
        if matrices.is_empty() {
            continue;
        }
        let matrices = matrices.iter().map(|id| shared[id.0 as usize]).collect();
        let first = calls.entry((callee, matrices)).or_insert_with(|| vectors.clone());
        for (to, id) in first.iter().zip(vectors) {
            if equal[to.0 as usize] == equal[id.0 as usize] {
                shared[id.0 as usize] = shared[to.0 as usize];
            }
        }
    }
}

/// Calls of a graph that is equal to an earlier one go to that one.
fn share_graphs(module: &mut Module) -> Vec<String> {
    let mut log = vec![];
    for g in (0..module.graphs.len()).rev() {
        let (id, name) = (GraphId(g as u32), module.graphs[g].name.clone());
        let equal = |other: &ir::Graph| ir::Graph { name: name.clone(), ..other.clone() };
        let first = module.graphs[..g].iter().position(|o| equal(o) == module.graphs[g]);
        let Some(first) = first.filter(|_| !module.graphs[g].is_root()) else { continue };
        log.push(format!("@{name} is @{}", module.graphs[first].name));
        module.graphs.remove(g);
        for inst in module.graphs.iter_mut().flat_map(|graph| &mut graph.insts) {
            if let Op::Call(callee) = &mut inst.op {
                match (*callee).cmp(&id) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => *callee = GraphId(first as u32),
                    std::cmp::Ordering::Greater => callee.0 -= 1,
                }
            }
        }
    }
    log
}
