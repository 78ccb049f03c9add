//! IR text: the model it describes, in figures.

use super::Found;
use crate::model::read_text;
use crate::{Error, output};
use ir::{DType, Graph, Module, Op};
use output::grouped;
use runtime::state::StateLayout;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use targets::pack::WeightLayout;

/// What a verified module says about itself.
pub fn inspect(path: &Path) -> Result<Found, Error> {
    let module = read_text(path)?;
    let arch = targets::Arch::HOST;
    let weights = WeightLayout::new(&module, arch);
    let state = StateLayout::new(&module, arch, weights.identity).map(|layout| layout.bytes).ok();
    let formats = formats(&module);
    Ok(Found {
        text: text(&module, &formats, weights.bytes, state),
        json: json!({
            "kind": "ir",
            "architecture": module.meta.arch,
            "vocab": module.meta.vocab,
            "context": module.meta.context,
            "bos": module.meta.bos,
            "eos": module.meta.eos,
            "weights": formats.iter().map(|(dtype, f)| json!({
                "dtype": dtype.to_string(), "count": f.count, "parameters": f.parameters,
            })).collect::<Vec<_>>(),
            "weights_bytes": weights.bytes,
            "state_bytes": state,
            "caches": module.caches.len(),
            "graphs": module.graphs.iter().map(|graph| json!({
                "name": graph.name, "instructions": graph.insts.len(), "calls": calls(graph),
            })).collect::<Vec<_>>(),
        }),
    })
}

/// Weights of one storage format.
#[derive(Default)]
struct Format {
    count: u64,
    parameters: u64,
}

fn formats(module: &Module) -> BTreeMap<DType, Format> {
    let mut formats: BTreeMap<DType, Format> = BTreeMap::new();
    let read = ir::uses::read_by_graphs(module);
    for (weight, _) in module.weights.iter().zip(read).filter(|(_, read)| *read) {
        let format = formats.entry(weight.dtype).or_default();
        format.count += 1;
        format.parameters += weight.elements();
    }
    formats
}

fn calls(graph: &Graph) -> usize {
    graph.insts.iter().filter(|inst| matches!(inst.op, Op::Call(_))).count()
}

fn text(
    module: &Module,
    formats: &BTreeMap<DType, Format>,
    weights_bytes: u64,
    state_bytes: Option<u64>,
) -> String {
    let meta = &module.meta;
    let bos = meta.bos.map_or("none".into(), |t| t.to_string());
    let mut rows = vec![
        ("kind", "IR".to_string()),
        ("architecture", meta.arch.clone()),
        ("vocabulary", grouped(meta.vocab)),
        ("context", grouped(meta.context)),
        ("special", format!("bos {bos}, eos {:?}", meta.eos)),
    ];
    for (dtype, f) in formats {
        let parameters = grouped(f.parameters);
        rows.push(("weights", format!("{} of {dtype}, {parameters} parameters", f.count)));
    }
    rows.push(("packed", format!("{} bytes", grouped(weights_bytes))));
    let kinds: BTreeMap<String, usize> =
        module.caches.iter().fold(BTreeMap::new(), |mut all, c| {
            *all.entry(c.ty.to_string()).or_default() += 1;
            all
        });
    rows.extend(kinds.iter().map(|(ty, count)| ("caches", format!("{count} of {ty}"))));
    if let Some(bytes) = state_bytes {
        rows.push(("state", format!("{} bytes", grouped(bytes))));
    }
    for graph in &module.graphs {
        let (name, length, calls) = (&graph.name, graph.insts.len(), calls(graph));
        rows.push(("graph", format!("@{name}, {length} instructions, {calls} of them calls")));
    }
    output::pairs(&rows)
}
