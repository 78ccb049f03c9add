//! Rounding with statistics, layer after layer: each is rounded for the rows that the rounded
//! layers before it give.

use super::observe::ObserveError;
use crate::progress;
use crate::watch::{Seen, Watchers};
use ir::quant::Quantised;
use ir::weights;
use ir::{BlobError, Blobs, DType, Module, Rounding, Source, Step, Tensor, Weight, WeightId};
use passes::chain::{self, ROWS};
use passes::round::{Goal, Gptq, round};
use passes::stats::{Site, float_view, inputs_of, outer};
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
    let mut flow = None;
    for segment in segments {
        flow = Some(work.segment(segment, flow)?);
        bar.inc(1);
    }
    work.head(flow)?;
    bar.finish_and_clear();
    Ok(work.rounded)
}

/// What flows from one segment to the next: rows of the model in floats, and of the rounded one.
struct Flow {
    float: Tensor,
    rounded: Tensor,
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
    /// Rounds the weights of a segment and lets the rows through.
    fn segment(&mut self, mut segment: Module, flow: Option<Flow>) -> Result<Flow, ObserveError> {
        let output = output(&segment);
        let stages: Vec<Vec<WeightId>> = chain::stages(&segment)
            .into_iter()
            .map(|stage| stage.into_iter().filter(|id| self.asked(*id)).collect::<Vec<_>>())
            .filter(|stage| !stage.is_empty())
            .collect();
        let mut sites: Vec<Site> =
            stages.iter().flat_map(|stage| inputs_of(&segment, stage[0])).collect();
        sites.push(output);
        let float_rows = flow.as_ref().map(|f| &f.float);
        let rounded_rows = flow.as_ref().map(|f| &f.rounded);
        let source = Numbers { checkpoint: self.blobs, rows: float_rows, rounded: &self.rounded };
        let mut watched =
            Watchers::new(&segment, &source, self.how.target, &sites, self.how.threads)?;
        let float = self.run(&mut watched, flow.is_some())?;
        for stage in stages {
            let source =
                Numbers { checkpoint: self.blobs, rows: rounded_rows, rounded: &self.rounded };
            watched.repack(&segment, &source)?;
            let seen = self.run(&mut watched, flow.is_some())?;
            let width = self.float.weight(stage[0]).dims[1] as usize;
            let goal = goal(&float, &seen, &inputs_of(&segment, stage[0]), width);
            for id in stage {
                self.round(id, &goal)?;
                segment.weights[id.0 as usize] = self.done(id);
            }
        }
        let source = Numbers { checkpoint: self.blobs, rows: rounded_rows, rounded: &self.rounded };
        watched.repack(&segment, &source)?;
        let seen = self.run(&mut watched, flow.is_some())?;
        let width = width_of(&segment, output);
        Ok(Flow { float: rows_of(float, output, width), rounded: rows_of(seen, output, width) })
    }

    /// Rounds the matrix of `@head` for the rows that come out in the end.
    fn head(&mut self, flow: Option<Flow>) -> Result<(), ObserveError> {
        let head = self.float.graph(self.float.graph_named("head").expect("verified"));
        let matrix = head.insts.last().and_then(|inst| inst.args.get(1));
        let (Some(ir::Arg::Weight(id)), Some(flow)) = (matrix, flow) else { return Ok(()) };
        if self.asked(*id) {
            let width = flow.float.dims[1] as usize;
            let goal =
                Sums::goal(vec![Sums::new(width).added(&flow.float.data, &flow.rounded.data)]);
            self.round(*id, &goal)?;
        }
        Ok(())
    }

    fn asked(&self, id: WeightId) -> bool {
        let weight = self.module.weight(id);
        matches!(weight.via.last(), Some(Step::Round { how: Rounding::Gptq, .. }))
            && !self.rounded.contains_key(&weight.name)
    }

    fn round(&mut self, id: WeightId, goal: &Goal) -> Result<(), ObserveError> {
        let weight = self.module.weight(id);
        let DType::Int(format) = weight.dtype else { return Ok(()) };
        let tensor = weights::materialise(self.float, id, self.blobs)?;
        let q = round(&tensor, goal, format, self.how.gptq);
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

/// What a matrix should do with the rows of its sites.
fn goal(float: &[Seen], seen: &[Seen], sites: &[Site], width: usize) -> Goal {
    let pairs: Vec<(&Vec<f32>, &Vec<f32>)> = float
        .iter()
        .zip(seen)
        .flat_map(|(float, seen)| sites.iter().filter_map(|s| Some((float.get(s)?, seen.get(s)?))))
        .collect();
    // Two halves at a time: sums are large, threads are few.
    let halves: Vec<Sums> = pairs
        .par_chunks(pairs.len().div_ceil(2).max(1))
        .map(|pairs| pairs.iter().fold(Sums::new(width), |sums, (f, s)| sums.added(f, s)))
        .collect();
    Sums::goal(halves)
}

/// Sums over rows of a float model `x` and of the rounded one `y`.
struct Sums {
    width: usize,
    rows: usize,
    second: Vec<f32>,
    cross: Vec<f32>,
}

impl Sums {
    fn new(width: usize) -> Sums {
        let zeros = vec![0.0; width * width];
        Sums { width, rows: 0, second: zeros.clone(), cross: zeros }
    }

    fn added(mut self, x: &[f32], y: &[f32]) -> Sums {
        outer(&mut self.second, y, y, self.width);
        outer(&mut self.cross, x, y, self.width);
        self.rows += y.len() / self.width;
        self
    }

    fn goal(parts: Vec<Sums>) -> Goal {
        let rows: usize = parts.iter().map(|p| p.rows).sum();
        let mean = |of: fn(&Sums) -> &Vec<f32>| {
            let all: Vec<&Vec<f32>> = parts.iter().map(of).collect();
            let sum = |i: usize| all.iter().map(|p| p[i]).sum::<f32>() / rows as f32;
            (0..all.first().map_or(0, |p| p.len())).map(sum).collect()
        };
        Goal { second: mean(|p| &p.second), cross: Some(mean(|p| &p.cross)) }
    }
}
