//! Rounding with statistics, layer after layer: each is rounded for the rows that the rounded
//! layers before it give.

use super::observe::{ObserveError, finite};
use crate::progress;
use crate::watch::{Seen, Watchers};
use ir::quant::Quantised;
use ir::weights;
use ir::{BlobError, Blobs, DType, Module, Rounding, Source, Step, Tensor, Weight, WeightId};
use passes::chain::{self, ROWS};
use passes::round::{Gptq, gptq};
use passes::stats::{Accumulator, Moments, Site, float_view, inputs_of};
use rayon::prelude::*;
use std::collections::HashMap;
use targets::Target;

/// Integers by the name of their weight.
pub type Rounded = HashMap<String, Quantised>;

/// How a model is rounded.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// Matrices.
    pub gptq: Gptq,
    /// Machine to run on.
    pub target: &'a Target,
    /// Threads to use.
    pub threads: u32,
    /// Whether rows are looked at again after every few matrices, not once a layer.
    pub fine: bool,
}

/// Prefix of blobs that are rounded already.
const DONE: &str = "chain.rounded/";

/// What segments read: rows that flow in, weights rounded so far, the checkpoint.
struct Numbers<'a> {
    checkpoint: &'a dyn Blobs,
    rows: Option<&'a Tensor>,
    rounded: &'a Rounded,
}

impl Blobs for Numbers<'_> {
    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        if let (ROWS, Some(rows)) = (blob, self.rows) {
            return Ok(rows.clone());
        }
        let done = blob.strip_prefix(DONE).and_then(|name| self.rounded.get(name));
        done.map_or_else(|| self.checkpoint.load(blob), |q| Ok(q.dequantise()))
    }
}

/// Rounds every weight of `module` whose history ends in `round(gptq)`.
pub fn round_all(
    module: &Module,
    blobs: &dyn Blobs,
    windows: &[Vec<i32>],
    how: How,
) -> Result<Rounded, ObserveError> {
    let float = float_view(module);
    let length = windows.iter().map(Vec::len).max().unwrap_or(0);
    let rows = (windows.len() * length) as u64;
    let segments = chain::cut(&float, rows, length as u64).map_err(ObserveError::Shape)?;
    let mut work = Work { module, float: &float, blobs, windows, how, rounded: HashMap::new() };
    let bar = progress::steps("rounding", segments.len() as u64);
    let mut flow: Option<Tensor> = None;
    for segment in segments {
        flow = Some(work.segment(segment, flow.as_ref())?);
        bar.inc(1);
    }
    if let Some(flow) = &flow {
        work.head(flow)?;
    }
    bar.finish_and_clear();
    Ok(work.rounded)
}

struct Work<'a> {
    module: &'a Module,
    float: &'a Module,
    blobs: &'a dyn Blobs,
    windows: &'a [Vec<i32>],
    how: How<'a>,
    rounded: Rounded,
}

impl Work<'_> {
    /// Rounds the weights of a segment; the rows that leave it then.
    fn segment(
        &mut self,
        mut segment: Module,
        flow: Option<&Tensor>,
    ) -> Result<Tensor, ObserveError> {
        let output = output(&segment);
        let stages: Vec<Vec<WeightId>> = chain::stages(&segment)
            .into_iter()
            .map(|stage| stage.into_iter().filter(|id| self.asked(*id)).collect::<Vec<_>>())
            .filter(|stage| !stage.is_empty())
            .collect();
        let mut sites: Vec<Site> =
            stages.iter().flat_map(|stage| inputs_of(&segment, stage[0])).collect();
        sites.push(output);
        let How { target, threads, fine, .. } = self.how;
        let mut watched = Watchers::new(&segment, &self.numbers(flow), target, &sites, threads)?;
        let mut seen = self.run(&mut watched, flow.is_some())?;
        for (n, stage) in stages.into_iter().enumerate() {
            if n > 0 && fine {
                watched.repack(&segment, &self.numbers(flow))?;
                seen = self.run(&mut watched, flow.is_some())?;
            }
            let width = self.float.weight(stage[0]).dims[1] as usize;
            let second = second(&seen, &inputs_of(&segment, stage[0]), width);
            for id in stage {
                self.round(id, &second)?;
                segment.weights[id.0 as usize] = self.done(id);
            }
        }
        watched.repack(&segment, &self.numbers(flow))?;
        let seen = self.run(&mut watched, flow.is_some())?;
        Ok(rows_of(seen, output, width_of(&segment, output)))
    }

    /// What segments read.
    fn numbers<'n>(&'n self, flow: Option<&'n Tensor>) -> Numbers<'n> {
        Numbers { checkpoint: self.blobs, rows: flow, rounded: &self.rounded }
    }

    /// Rounds the matrix of `@head` for the rows that come out in the end.
    fn head(&mut self, flow: &Tensor) -> Result<(), ObserveError> {
        let head = self.float.graph(self.float.graph_named("head").expect("verified"));
        let matrix = head.logits().map(|linear| head.insts[linear].args[1]);
        let Some(ir::Arg::Weight(id)) = matrix else { return Ok(()) };
        if self.asked(id) {
            let mut sums = Accumulator::new(flow.dims[1] as usize, true);
            sums.add(&flow.data);
            self.round(id, &sums.finish().second.unwrap_or_default())?;
        }
        Ok(())
    }

    fn asked(&self, id: WeightId) -> bool {
        let weight = self.module.weight(id);
        matches!(weight.via.last(), Some(Step::Round { how: Rounding::Gptq, .. }))
            && !self.rounded.contains_key(&weight.name)
    }

    fn round(&mut self, id: WeightId, second: &[f32]) -> Result<(), ObserveError> {
        let weight = self.module.weight(id);
        let DType::Int(format) = weight.dtype else { return Ok(()) };
        finite(second, || format!("${}", weight.name))?;
        let tensor = weights::materialise(self.float, id, self.blobs)?;
        let q = gptq(&tensor, second, format, self.how.gptq);
        self.rounded.insert(weight.name.clone(), q);
        Ok(())
    }

    /// A rounded weight as its segment reads it.
    fn done(&self, id: WeightId) -> Weight {
        let weight = self.float.weight(id);
        let source = Source::Blob(format!("{DONE}{}", weight.name));
        Weight { source, via: vec![], ..weight.clone() }
    }

    /// Rows of all windows. Tokens are the model's own in the first segment, rows after it.
    fn run(&self, watched: &mut Watchers, rows: bool) -> Result<Vec<Seen>, ObserveError> {
        let mut from = 0;
        let ids = |window: &Vec<i32>| {
            from += window.len() as i32;
            (from - window.len() as i32..from).collect()
        };
        let ids: Vec<Vec<i32>> = self.windows.iter().map(ids).collect();
        let conversations = if rows { &ids } else { self.windows };
        Ok(watched.run(conversations, |_, seen| seen)?)
    }
}

/// The rows that leave a segment.
fn output(segment: &Module) -> Site {
    let graph = segment.graph_named("model").expect("verified");
    Site { graph, value: segment.graph(graph).result, call: 0 }
}

fn width_of(module: &Module, site: Site) -> u64 {
    module.graph(site.graph).value(site.value).ty.row_width().unwrap_or(0)
}

fn rows_of(seen: Vec<Seen>, site: Site, width: u64) -> Tensor {
    let data: Vec<f32> = seen.into_iter().filter_map(|mut w| w.remove(&site)).flatten().collect();
    Tensor { dims: vec![data.len() as u64 / width, width], data }
}

/// `E[x xᵀ]` of the rows of a matrix, `[width][width]`.
fn second(seen: &[Seen], sites: &[Site], width: usize) -> Vec<f32> {
    let rows: Vec<&Vec<f32>> =
        seen.iter().flat_map(|seen| sites.iter().filter_map(|site| seen.get(site))).collect();
    // In two halves always, so that the number of threads changes nothing.
    let halves: Vec<Moments> = rows
        .par_chunks(rows.len().div_ceil(2).max(1))
        .map(|rows| {
            let mut sums = Accumulator::new(width, true);
            rows.iter().for_each(|rows| sums.add(rows));
            sums.finish()
        })
        .collect();
    let merged = halves.into_iter().reduce(|all, more| all.merge(&more));
    merged.and_then(|moments| moments.second).unwrap_or_else(|| vec![0.0; width * width])
}
