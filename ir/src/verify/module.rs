//! Rules about the module's own lines: facts, names, storage (V1, V13, V15).

use super::{CONTEXT_MAX, Check, DIM_MAX, ELEMENTS_MAX, V_META, V_NAME, V_STORAGE, history};
use crate::lex::is_name_char;
use crate::module::{CacheId, GraphId, Param, WeightId};
use crate::place::Place;
use crate::types::{DType, Type};
use std::collections::HashMap;

/// V15.
pub(super) fn meta(check: &mut Check<'_>) {
    let meta = &check.module.meta;
    if meta.vocab == 0 || meta.vocab > DIM_MAX {
        check.report(V_META, Place::Meta, format!("vocab {} is not in 1..={DIM_MAX}", meta.vocab));
    }
    if meta.context == 0 || meta.context > CONTEXT_MAX {
        let what = format!("context {} is not in 1..={CONTEXT_MAX}", meta.context);
        check.report(V_META, Place::Meta, what);
    }
    let special = meta.bos.iter().map(|&t| ("bos", t)).chain(meta.eos.iter().map(|&t| ("eos", t)));
    for (what, token) in special {
        if u64::from(token) >= meta.vocab {
            let what = format!("{what} {token} is not below vocab {}", meta.vocab);
            check.report(V_META, Place::Meta, what);
        }
    }
}

/// V1, without the values of graphs' instructions.
pub(super) fn names(check: &mut Check<'_>) {
    let module = check.module;
    let weights = module.weights.iter().enumerate();
    unique(check, weights.map(|(i, w)| (Place::Weight(WeightId(i as u32)), w.name.as_str())));
    let caches = module.caches.iter().enumerate();
    unique(check, caches.map(|(i, c)| (Place::Cache(CacheId(i as u32)), c.name.as_str())));
    let graphs = module.graphs.iter().enumerate();
    unique(check, graphs.map(|(i, g)| (Place::Graph(GraphId(i as u32)), g.name.as_str())));
}

/// Reports names that are no names, and each use of a name after its first.
pub(super) fn unique<'a>(check: &mut Check<'_>, names: impl Iterator<Item = (Place, &'a str)>) {
    let mut first: HashMap<&str, Place> = HashMap::new();
    for (place, name) in names {
        if name.is_empty() || !name.chars().all(is_name_char) {
            check.report(V_NAME, place, format!("{name:?} is no name: letters, digits, _ and ."));
        } else if first.insert(name, place).is_some() {
            check.report(V_NAME, place, format!("`{name}` has been defined before"));
        }
    }
}

/// V13: weights, cache slots, and the parameters that stand for them.
pub(super) fn storage(check: &mut Check<'_>) {
    let module = check.module;
    for (i, weight) in module.weights.iter().enumerate() {
        let place = Place::Weight(WeightId(i as u32));
        weight_type(check, place, &weight.ty());
        history::history(check, place, weight);
    }
    for (i, cache) in module.caches.iter().enumerate() {
        cache_type(check, Place::Cache(CacheId(i as u32)), &cache.ty);
    }
    for (g, graph) in module.graphs.iter().enumerate() {
        for (i, param) in graph.params.iter().enumerate() {
            let place = Place::Param(GraphId(g as u32), i as u32);
            match *param {
                Param::Value(_) => {}
                Param::Weight(w) => {
                    if let Some(formal) = graph.weights.get(w as usize) {
                        weight_type(check, place, &formal.ty);
                    }
                }
                Param::Cache(c) => {
                    if let Some(formal) = graph.caches.get(c as usize) {
                        cache_type(check, place, &formal.ty);
                    }
                }
            }
        }
    }
}

fn weight_type(check: &mut Check<'_>, place: Place, ty: &Type) {
    let Some((dtype, dims)) = ty.as_weight() else {
        return check.report(
            V_STORAGE,
            place,
            format!("a weight has constant dimensions, not {ty}"),
        );
    };
    if !dtype.holds_weights() {
        check.report(V_STORAGE, place, format!("a weight holds no {dtype}"));
    }
    if let DType::Int(format) = dtype
        && (dims.len() != 2 || !format.fits(dims[1]))
    {
        check.report(V_STORAGE, place, format!("groups of {format} do not divide rows of {ty}"));
    }
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if dims.is_empty() || dims.iter().any(|d| !(1..=DIM_MAX).contains(d)) {
        check.report(V_STORAGE, place, format!("dimensions of {ty} are not in 1..={DIM_MAX}"));
    } else if elements.is_none_or(|n| n > ELEMENTS_MAX) {
        check.report(V_STORAGE, place, format!("{ty} has more than {ELEMENTS_MAX} elements"));
    }
}

fn cache_type(check: &mut Check<'_>, place: Place, ty: &Type) {
    let Type::Kv { dtype, heads, head } = ty else {
        return check.report(
            V_STORAGE,
            place,
            format!("a cache slot is kv.f32, kv.f16, kv.i8row or kv.i4row, not {ty}"),
        );
    };
    if !dtype.holds_cache() {
        let text = format!("a cache slot holds f32, f16, i8row or i4row, not {dtype}");
        check.report(V_STORAGE, place, text);
    }
    if matches!(dtype, DType::Int(_)) && !head.is_multiple_of(16) {
        let text = format!("heads of {ty} are no multiple of 16, as integers want");
        check.report(V_STORAGE, place, text);
    }
    let width = heads.checked_mul(*head);
    if width.is_none_or(|w| !(1..=DIM_MAX).contains(&w)) {
        check.report(V_STORAGE, place, format!("the width of {ty} is not in 1..={DIM_MAX}"));
    }
}
