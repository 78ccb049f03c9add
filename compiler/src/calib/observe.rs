//! Statistics of activations, collected by running emitted code.

use crate::progress;
use crate::session::{StartError, Status};
use crate::watch::Watchers;
use ir::{Blobs, Module};
use passes::stats::{Accumulator, Site, Stats, float_view};
use rayon::prelude::*;
use std::collections::BTreeMap;
use targets::Target;

/// A model that could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// It does not compile, or its weights cannot be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It refused a window.
    #[error(transparent)]
    Refused(#[from] Status),
    /// A weight cannot be read.
    #[error(transparent)]
    Blob(#[from] ir::BlobError),
    /// It cannot be cut into layers.
    #[error("{0}")]
    Shape(String),
    /// Activations overflow: of the rows that this reads.
    #[error("the calibration text makes rows at {0} that are no finite numbers")]
    NotFinite(String),
}

/// Sums of squares of the rows that `place` reads, if all are numbers.
pub(super) fn finite(squares: &[f32], place: impl FnOnce() -> String) -> Result<(), ObserveError> {
    match squares.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(ObserveError::NotFinite(place())),
    }
}

/// Runs the module in f32, as if nothing were rounded, over `windows` and sums up the rows of
/// `sites`. Each window is a conversation of its own.
pub fn observe(
    module: &Module,
    blobs: &dyn Blobs,
    target: &Target,
    windows: &[Vec<i32>],
    sites: &[Site],
    second: bool,
    threads: u32,
) -> Result<Stats, ObserveError> {
    let float = float_view(module);
    let moved: Vec<Site> = sites.iter().map(|site| in_view(module, &float, *site)).collect();
    let mut watched = Watchers::new(&float, blobs, target, &moved, threads)?;
    let width = |site: &Site| float.graph(site.graph).value(site.value).ty.row_width();
    let mut sums: BTreeMap<Site, Accumulator> = moved
        .iter()
        .map(|site| (*site, Accumulator::new(width(site).unwrap_or(0) as usize, second)))
        .collect();
    let bar = progress::steps("calibrating", windows.len() as u64);
    // Summed up in the order of the windows, so that the number of threads changes nothing.
    for batch in windows.chunks(threads.max(1) as usize) {
        let seen = watched.run(batch, |_, seen| seen)?;
        sums.par_iter_mut().for_each(|(site, sums)| {
            seen.iter().filter_map(|seen| seen.get(site)).for_each(|rows| sums.add(rows));
        });
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let mut found: BTreeMap<Site, _> =
        sums.into_iter().map(|(site, sums)| (site, sums.finish())).collect();
    for (site, moments) in &found {
        let graph = float.graph(site.graph);
        finite(&moments.square, || format!("{} of @{}", graph.value_name(site.value), graph.name))?;
    }
    let named = sites.iter().zip(&moved);
    let named = named.filter_map(|(site, moved)| Some((*site, found.remove(moved)?)));
    Ok(Stats { sites: named.collect() })
}

/// The same value in the float view of its module.
fn in_view(module: &Module, float: &Module, site: Site) -> Site {
    let name = &module.graph(site.graph).value(site.value).name;
    let values = &float.graph(site.graph).values;
    let at = values.iter().position(|value| value.name == *name);
    Site { value: ir::ValueId(at.map_or(site.value.0, |at| at as u32)), ..site }
}
