//! Statistics of activations: what passes may know of the rows that meet a matrix.
//!
//! Statistics belong to a module at one moment, because sites are named by its handles: a pass asks
//! for them when it needs them, and keeps none.

mod moments;
mod sites;

pub use moments::{Accumulator, Moments};
pub use sites::{Activation, activations, float_view, inputs_of, sites};

use crate::PassError;
use ir::{BlobError, Blobs, GraphId, Module, Tensor, ValueId, WeightId};
use std::collections::BTreeMap;

/// A place where rows can be watched: a value of a graph, in one activation of that graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The graph.
    pub graph: GraphId,
    /// Its value.
    pub value: ValueId,
    /// Which call of `@model` activates the graph, from 0; 0 for `@model` and `@head` themselves.
    pub call: u32,
}

/// What was seen at each site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// By site.
    pub sites: BTreeMap<Site, Moments>,
}

impl Stats {
    /// All rows of several sites as if they were one: what a weight meets that several calls read.
    pub fn merged(&self, sites: &[Site]) -> Option<Moments> {
        let mut found = sites.iter().filter_map(|site| self.sites.get(site));
        let first = found.next()?.clone();
        Some(found.fold(first, |all, more| all.merge(more)))
    }
}

/// What a pass may ask of the driver: to run the module as it is now.
pub trait Lab {
    /// Statistics of the module's rows in f32 on the calibration text, as if nothing were rounded
    /// yet; with `E[x xᵀ]` if `second` is set.
    fn observe(&self, module: &Module, sites: &[Site], second: bool) -> Result<Stats, PassError>;

    /// Mean divergence of the model in f32 from itself with one weight replaced, for each of
    /// `weights`; `replaced` gives the numbers to put there.
    fn probe(
        &self,
        module: &Module,
        weights: &[WeightId],
        replaced: &dyn Fn(WeightId) -> Result<Tensor, BlobError>,
    ) -> Result<Vec<f64>, PassError> {
        let _ = (module, replaced);
        Ok(vec![1.0; weights.len()])
    }

    /// What `make` found before for the same `key`, model and text, if it was kept; else what it
    /// finds now.
    fn remember(
        &self,
        kind: &str,
        key: &str,
        make: &mut dyn FnMut() -> Result<Vec<u8>, PassError>,
    ) -> Result<Vec<u8>, PassError> {
        let _ = (kind, key);
        make()
    }

    /// Where the checkpoint's tensors are.
    fn blobs(&self) -> &dyn Blobs;
}
