//! Statistics without a model that runs: made up, the same for the same site.

use ir::random::mix;
use ir::{Blobs, Module};
use passes::PassError;
use passes::stats::{Lab, Moments, Site, Stats};

/// A laboratory whose channels differ in range by up to eight octaves.
pub struct MadeUp<'a> {
    /// The numbers of the model.
    pub blobs: &'a dyn Blobs,
}

impl Lab for MadeUp<'_> {
    fn observe(&self, module: &Module, sites: &[Site], _: bool) -> Result<Stats, PassError> {
        let one = |site: &Site| {
            let width = module.graph(site.graph).value(site.value).ty.row_width().unwrap_or(0);
            let seed = mix(u64::from(site.graph.0) << 32 | u64::from(site.value.0));
            let octaves = |i: u64| (mix(seed ^ i) >> 40) as f32 / (1u64 << 21) as f32 - 4.0;
            let absmax: Vec<f32> = (0..width).map(|i| octaves(i).exp2()).collect();
            (*site, Moments { rows: 1, absmax, ..Moments::default() })
        };
        Ok(Stats { sites: sites.iter().map(one).collect() })
    }

    fn blobs(&self) -> &dyn Blobs {
        self.blobs
    }
}
