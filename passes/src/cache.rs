//! `cache`: the storage format of the KV cache.
//!
//! # What
//! Every slot holds keys and values as `Context::cache`.
//!
//! # Why it is exact (or how far off)
//! `f32` is exact. `f16` rounds each key and value to nearest, ties to even, and saturates at
//! ±65504.
//!
//! # Requires
//! A format that a cache can hold.
//!
//! # Paper
//! None; llama.cpp's default is the same f16.

use crate::{Context, PassError};
use ir::{DType, Module, Type};

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let Some(dtype) = context.cache else { return Ok(vec![]) };
    if !matches!(dtype, DType::F32 | DType::F16) {
        let why = format!("a KV cache of {dtype}: f32 and f16 are supported");
        return Err(PassError { pass: "cache", why });
    }
    module.caches.iter_mut().for_each(|c| retype(&mut c.ty, dtype));
    for graph in &mut module.graphs {
        graph.caches.iter_mut().for_each(|c| retype(&mut c.ty, dtype));
        graph.values.iter_mut().for_each(|v| retype(&mut v.ty, dtype));
    }
    Ok(vec![])
}

fn retype(ty: &mut Type, to: DType) {
    if let Type::Kv { dtype, .. } = ty {
        *dtype = to;
    }
}
