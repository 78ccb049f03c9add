//! What activations look like: statistics of rows at sites of a module, and who gathers them.

use crate::PassError;
use crate::bindings::{Bindings, instructions};
use ir::{Arg, Blobs, GraphId, Module, Op, ValueId, WeightId};
use std::collections::BTreeMap;

/// A value of a graph, in one activation of that graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The graph.
    pub graph: GraphId,
    /// The value.
    pub value: ValueId,
    /// Which call of `@model`, counted over its `call` instructions from 0; 0 for roots.
    pub call: u32,
}

/// Moments of one site's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Rows seen.
    pub rows: u64,
    /// Per channel, the largest magnitude.
    pub absmax: Vec<f32>,
    /// Per channel, the mean magnitude.
    pub abs_mean: Vec<f32>,
    /// Per channel, the mean.
    pub mean: Vec<f32>,
    /// Per channel, the mean square.
    pub square: Vec<f32>,
    /// Per channel, the smallest.
    pub low: Vec<f32>,
    /// Per channel, the largest.
    pub high: Vec<f32>,
    /// `E[x xᵀ]`, `[width, width]`, if asked for.
    pub second: Option<Vec<f32>>,
}

/// Statistics of a module at one moment: handles are those of the module observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// By site.
    pub sites: BTreeMap<Site, Moments>,
}

/// Who gathers statistics for passes.
pub trait Lab {
    /// Statistics of the module as it is now, in f32, on the calibration text.
    fn observe(&self, module: &Module, sites: &[Site], second: bool) -> Result<Stats, PassError>;
    /// Mean KL, in nats, of the module as it is now from `reference`, on the calibration text.
    fn divergence(&self, module: &Module) -> Result<f64, PassError>;
    /// Where weights come from.
    fn blobs(&self) -> &dyn Blobs;
}

/// Sites whose rows multiply a weight: several where calls share it.
pub fn inputs_of(module: &Module, weight: WeightId) -> Vec<Site> {
    let bindings = Bindings::new(module);
    let mut sites = vec![];
    for (graph, inst, _) in instructions(module) {
        let (Op::Linear, [Arg::Value(value), matrix, ..]) = (&inst.op, &inst.args[..]) else {
            continue;
        };
        let bound = bindings.of(graph, *matrix).into_iter().zip(0..);
        let here = bound.filter(|(id, _)| *id == weight);
        sites.extend(here.map(|(_, way)| Site { graph, value: *value, call: way }));
    }
    sites
}
