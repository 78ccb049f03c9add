//! Weights as the network reads them while rotations change: their histories up to the first rotation
//! that is learned, the rotations, the rounding; and the way back to the rotations.

use super::ops::{add, add_product, product, view};
use faer::MatRef;
use ir::quant::Quantised;
use ir::uses::read_by_graphs;
use ir::weights::{cast, materialise};
use ir::{BlobError, Blobs, DType, Module, Rounding, Side, Source, Step, Tensor, WeightId};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A rotation that is learned.
pub(super) struct Rotation {
    /// Its name in the module.
    pub name: String,
    pub order: usize,
    /// `[order][order]`.
    pub matrix: Vec<f32>,
    pub gradient: Vec<f32>,
}

/// A turn of a weight by the rotation of that index.
#[derive(Clone, Copy)]
struct Turn {
    side: Side,
    by: usize,
}

/// One weight.
struct Turned {
    /// Before the first turn.
    base: Tensor,
    turns: Vec<Turn>,
    round: Option<(DType, Option<Rounding>)>,
    /// As the network reads it; empty where that is the base.
    now: Vec<f32>,
}

/// Rows that a rotation turns before they are rounded.
pub(super) struct Site {
    pub by: usize,
    /// Before the rotation.
    pub rows: Vec<f32>,
    /// Neighbours that are rounded alike.
    pub group: usize,
    /// What a unit of squared range costs.
    pub price: f32,
}

/// All weights that graphs read.
pub(super) struct Weights {
    pub rotations: Vec<Rotation>,
    /// What the way back has passed.
    pub sites: Vec<Site>,
    all: BTreeMap<WeightId, Turned>,
}

impl Weights {
    /// Of a module whose rotations, those with random signs, are to be learned if `learned` is set.
    pub fn new(module: &Module, blobs: &dyn Blobs, learned: bool) -> Result<Weights, BlobError> {
        let mut rotations = vec![];
        let mut known = BTreeMap::new();
        for (i, weight) in module.weights.iter().enumerate() {
            if let (true, Source::Hadamard { seed: Some(_) }) = (learned, &weight.source) {
                let id = WeightId(i as u32);
                let matrix = materialise(module, id, blobs)?.data;
                let (name, order) = (weight.name.clone(), weight.dims[0] as usize);
                let gradient = vec![0.0; matrix.len()];
                known.insert(id, rotations.len());
                rotations.push(Rotation { name, order, matrix, gradient });
            }
        }
        let mut all = BTreeMap::new();
        let read = read_by_graphs(module);
        for id in (0..module.weights.len() as u32).map(WeightId).filter(|id| read[id.0 as usize]) {
            all.insert(id, turned(module, blobs, id, &known)?);
        }
        let mut weights = Weights { rotations, sites: vec![], all };
        weights.turn();
        Ok(weights)
    }

    /// The numbers of a weight.
    pub fn get(&self, id: WeightId) -> &[f32] {
        let turned = &self.all[&id];
        if turned.now.is_empty() { &turned.base.data } else { &turned.now }
    }

    /// Rows and columns; a vector is one row.
    pub fn dims(&self, id: WeightId) -> [usize; 2] {
        dims(&self.all[&id].base)
    }

    /// Takes rotations from elsewhere, in the same order.
    pub fn take(&mut self, rotations: &[(String, Tensor)]) {
        for (rotation, (_, tensor)) in self.rotations.iter_mut().zip(rotations) {
            rotation.matrix.clone_from(&tensor.data);
        }
        self.turn();
    }

    /// Turns weights by the rotations as they are now.
    pub fn turn(&mut self) {
        for turned in self.all.values_mut().filter(|t| !t.turns.is_empty()) {
            let columns = dims(&turned.base)[1];
            let mut now = Tensor { dims: turned.base.dims.clone(), data: vec![] };
            now.data = forward(&self.rotations, &turned.turns, &turned.base.data, columns);
            turned.now = rounded(now, turned.round);
        }
    }

    /// Whether rotations change how a weight is rounded.
    pub fn is_rounded(&self, id: WeightId) -> bool {
        let turned = &self.all[&id];
        !turned.turns.is_empty() && matches!(turned.round, Some((DType::Int(_), _)))
    }

    /// Adds to the rotations what a gradient by the rounded numbers of a matrix says of its scales:
    /// those are in proportion to the largest element of each group.
    pub fn back(&mut self, id: WeightId, gradient: Vec<f32>) {
        let turned = &self.all[&id];
        let Some((DType::Int(format), _)) = turned.round else { return };
        let columns = dims(&turned.base)[1];
        let exact = forward(&self.rotations, &turned.turns, &turned.base.data, columns);
        let group = format.group_of(columns as u64) as usize;
        let groups = exact.par_chunks(group).zip(turned.now.par_chunks(group));
        let costs: Vec<(f32, usize, f32)> = groups
            .zip(gradient.par_chunks(group))
            .map(|((exact, now), gradient)| {
                let errors = now.iter().zip(exact).map(|(now, exact)| now - exact);
                let cost: f32 = errors.zip(gradient).map(|(e, g)| e * g).sum();
                let most = (0..group).max_by(|&a, &b| exact[a].abs().total_cmp(&exact[b].abs()));
                let most = most.unwrap_or(0);
                (cost, most, exact[most])
            })
            .collect();
        let price = mean_price(costs.iter().map(|&(cost, _, range)| (cost, range)));
        let mut slope = vec![0f32; exact.len()];
        for (slope, (_, most, range)) in slope.chunks_mut(group).zip(costs) {
            slope[most] = price * range;
        }
        back(&mut self.rotations, &turned.turns, &turned.base.data, columns, slope);
    }

    /// The rotation that turned what a matrix reads, or what it makes.
    pub fn basis(&self, id: WeightId, side: Side) -> Option<usize> {
        self.all[&id].turns.iter().find(|turn| turn.side == side).map(|turn| turn.by)
    }

    /// Notes rows that a rotation turned.
    pub fn see(&mut self, by: usize, turned: &[f32], group: usize, price: f32) {
        let back = matrix(&self.rotations[by]).transpose();
        let rows = product(view(turned, self.rotations[by].order), back);
        self.sites.push(Site { by, rows, group, price });
    }

    /// Adds to the rotations what the ranges cost of all rows noted.
    pub fn back_sites(&mut self) {
        for site in &self.sites {
            let rotation = &self.rotations[site.by];
            let rows = view(&site.rows, rotation.order);
            let slope = range_slope(&product(rows, matrix(rotation)), site.group, site.price);
            let sum = product(rows.transpose(), view(&slope, rotation.order));
            add(&mut self.rotations[site.by].gradient, &sum);
        }
    }
}

/// What the squared range of each group costs, by its two ends.
fn range_slope(x: &[f32], group: usize, price: f32) -> Vec<f32> {
    let mut slope = vec![0f32; x.len()];
    x.par_chunks(group).zip(slope.par_chunks_mut(group)).for_each(|(x, slope)| {
        let (low, high) = ends(x);
        let cost = price * (x[high] - x[low]);
        slope[high] += cost;
        slope[low] -= cost;
    });
    slope
}

/// Where the smallest and the largest element are.
pub(super) fn ends(x: &[f32]) -> (usize, usize) {
    let end = |a: &usize, b: &usize| x[*a].total_cmp(&x[*b]);
    let (low, high) = ((0..x.len()).min_by(end), (0..x.len()).max_by(end));
    (low.unwrap_or(0), high.unwrap_or(0))
}

/// What a unit of squared range costs where many groups are rounded alike: a group by itself says
/// little, because its errors are few.
pub(super) fn mean_price(costs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (mut sum, mut count) = (0f64, 0u32);
    for (cost, range) in costs.filter(|(_, range)| *range != 0.0) {
        sum += f64::from(cost) / f64::from(range * range);
        count += 1;
    }
    (sum / f64::from(count.max(1))).max(0.0) as f32
}

fn dims(tensor: &Tensor) -> [usize; 2] {
    let columns = tensor.dims.last().map_or(1, |&k| k as usize);
    [tensor.data.len() / columns.max(1), columns]
}

/// Splits a history. Steps that come after a turn must not care about it: those of the other side.
fn turned(
    module: &Module,
    blobs: &dyn Blobs,
    id: WeightId,
    known: &BTreeMap<WeightId, usize>,
) -> Result<Turned, BlobError> {
    let mut module = module.clone();
    let weight = &mut module.weights[id.0 as usize];
    let (mut turns, mut before, mut round): (Vec<Turn>, Vec<Step>, _) = (vec![], vec![], None);
    let vector = weight.dims.len() == 1;
    for step in std::mem::take(&mut weight.via) {
        match step {
            Step::Rotate { side, by } if known.contains_key(&by) => {
                let side = if vector { Side::In } else { side };
                turns.push(Turn { side, by: known[&by] });
            }
            Step::Cast(dtype) => round = Some((dtype, None)),
            Step::Round { format, how } => round = Some((DType::Int(format), Some(how))),
            Step::Scale { side, .. } | Step::Rotate { side, .. }
                if turns.iter().any(|turn| vector || turn.side == side) =>
            {
                let why = "factors after a rotation are found once it is learned".to_string();
                return Err(BlobError { blob: format!("${}", weight.name), why });
            }
            step => before.push(step),
        }
    }
    (weight.via, weight.dtype) = (before, DType::F32);
    let base = materialise(&module, id, blobs)?;
    let now = match turns.is_empty() {
        true => rounded(base.clone(), round),
        false => vec![],
    };
    Ok(Turned { base, turns, round, now })
}

fn rounded(mut tensor: Tensor, round: Option<(DType, Option<Rounding>)>) -> Vec<f32> {
    match round {
        None => {}
        Some((DType::Int(format), Some(Rounding::Nearest))) => {
            return Quantised::nearest(&tensor, format).dequantise().data;
        }
        Some((DType::Int(format), _)) => {
            return Quantised::round(&tensor, format).dequantise().data;
        }
        Some((dtype, _)) => cast(dtype, &mut tensor.data),
    }
    tensor.data
}

fn matrix(rotation: &Rotation) -> MatRef<'_, f32> {
    view(&rotation.matrix, rotation.order)
}

/// `x` turned on one side.
fn turn(x: &[f32], columns: usize, side: Side, r: MatRef<'_, f32>) -> Vec<f32> {
    let n = r.nrows();
    match side {
        // Blocks of a row are rows of their own.
        Side::In => product(view(x, n), r),
        Side::Out => {
            let blocks = x.chunks(n * columns);
            blocks.flat_map(|block| product(r.transpose(), view(block, columns))).collect()
        }
    }
}

fn forward(rotations: &[Rotation], turns: &[Turn], base: &[f32], columns: usize) -> Vec<f32> {
    let Some((last, before)) = turns.split_last() else { return base.to_vec() };
    let r = matrix(&rotations[last.by]);
    match before.is_empty() {
        true => turn(base, columns, last.side, r),
        false => turn(&forward(rotations, before, base, columns), columns, last.side, r),
    }
}

fn back(
    rotations: &mut [Rotation],
    turns: &[Turn],
    base: &[f32],
    columns: usize,
    gradient: Vec<f32>,
) {
    let Some((last, before)) = turns.split_last() else { return };
    let x = match before.is_empty() {
        true => base.to_vec(),
        false => forward(rotations, before, base, columns),
    };
    let n = rotations[last.by].order;
    let mut sum = vec![0f32; n * n];
    match last.side {
        Side::In => add_product(&mut sum, n, view(&x, n).transpose(), view(&gradient, n)),
        Side::Out => {
            for (x, gradient) in x.chunks(n * columns).zip(gradient.chunks(n * columns)) {
                add_product(&mut sum, n, view(x, columns), view(gradient, columns).transpose());
            }
        }
    }
    if !before.is_empty() {
        let inverse = matrix(&rotations[last.by]).transpose();
        let passed = turn(&gradient, columns, last.side, inverse);
        back(rotations, before, base, columns, passed);
    }
    add(&mut rotations[last.by].gradient, &sum);
}
