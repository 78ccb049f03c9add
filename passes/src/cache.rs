//! `cache`: the storage format of the KV cache.
//!
//! # What
//! Every slot holds keys and values as `Context::cache`. Before attention over a cache of integers
//! stands a `quant_rows` of the queries, in heads.
//!
//! # Why it is exact (or how far off)
//! `f32` is exact. `f16` rounds each key and value to nearest, ties to even, and saturates at
//! ±65504. Integers round each head of a key or value to 8 or 4 bits of its largest element, queries
//! and the shares that multiply values to 8.
//!
//! # Requires
//! A format that a cache can hold; heads of a multiple of 16 elements for integers.
//!
//! # Paper
//! None; llama.cpp's default is the same f16, OpenVINO's the same int8 per token and head.

use crate::activations::quantised;
use crate::{Context, PassError};
use ir::def_use::renumber;
use ir::{Arg, DType, Graph, Inst, Module, Op, RowRange, Type};

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let Some(dtype) = context.cache else { return Ok(vec![]) };
    if !dtype.holds_cache() {
        return refuse(format!("a KV cache of {dtype}: f32, f16, i8row and i4row are supported"));
    }
    let mut heads = module.caches.iter().filter_map(|cache| head(&cache.ty));
    if let DType::Int(_) = dtype
        && let Some(head) = heads.clone().find(|head| !head.is_multiple_of(16))
    {
        return refuse(format!(
            "a KV cache of {dtype} wants heads of a multiple of 16, found {head}"
        ));
    }
    let queries = heads.next_back();
    module.caches.iter_mut().for_each(|c| retype(&mut c.ty, dtype));
    for graph in &mut module.graphs {
        graph.caches.iter_mut().for_each(|c| retype(&mut c.ty, dtype));
        graph.values.iter_mut().for_each(|v| retype(&mut v.ty, dtype));
        if let (DType::Int(_), Some(head)) = (dtype, queries) {
            quantise_queries(graph, head as u32)?;
        }
    }
    Ok(vec![])
}

fn refuse(why: String) -> Result<Vec<String>, PassError> {
    Err(PassError { pass: "cache", why })
}

fn head(ty: &Type) -> Option<u64> {
    match ty {
        Type::Kv { head, .. } => Some(*head),
        Type::Tensor { .. } => None,
    }
}

fn retype(ty: &mut Type, to: DType) {
    if let Type::Kv { dtype, .. } = ty {
        *dtype = to;
    }
}

/// Queries of floats are quantised before attention reads them.
fn quantise_queries(graph: &mut Graph, head: u32) -> Result<(), PassError> {
    for mut inst in std::mem::take(&mut graph.insts) {
        if let (Op::Attention { .. }, Arg::Value(q)) = (&inst.op, inst.args[0])
            && graph.value(q).ty.row_width().is_some()
        {
            let result = quantised(graph, q, head, "cache")?;
            let op = Op::QuantRows { group: head, range: RowRange::Group };
            graph.insts.push(Inst { result, op, args: vec![q.into()] });
            inst.args[0] = result.into();
        }
        graph.insts.push(inst);
    }
    renumber(graph);
    Ok(())
}
