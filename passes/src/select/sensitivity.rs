//! What each format of each matrix costs and loses.
//!
//! The error of a matrix's product follows from its second moments; what an error of a product does
//! to the predictions is measured once for each matrix, in one format, and taken to be in proportion.
//! Of what rounding to nearest loses GPTQ leaves a share that follows from the same moments.

use super::budget::Choice;
use crate::PassError;
use crate::round::{left_by_gptq, loss};
use crate::stats::{Lab, Moments, inputs_of};
use ir::quant::Quantised;
use ir::uses::read_by_graphs;
use ir::weights::{cast, materialise};
use ir::{BlobError, DType, IntFormat, Module, Rounding, Source, Tensor, WeightId};
use rayon::prelude::*;

/// What a matrix can be stored as.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The matrix.
    pub weight: WeightId,
    /// Formats that fit it, each with its bytes and its loss in nats.
    pub choices: Vec<(DType, Choice)>,
}

/// Formats that a budget chooses from. Those with a low end are left to recipes.
pub const CANDIDATES: &[&str] = &[
    "i2g64", "i2g32", "i3row", "i3g96", "i3g64", "i3g32", "i4row", "i4g96", "i4g64", "i4g32n",
    "i4g32", "i5row", "i5g64", "i5g32", "i6row", "i6g64", "i6g32", "i8row", "i8g64", "i8g32",
    "f16",
];
/// The format in which the effect of an error is measured.
const PROBE: IntFormat = IntFormat::symmetric(4, 32);

/// Rows of a matrix that losses are measured on, at most; they stand for the others.
const SAMPLE: usize = 192;

/// Bytes of a matrix in a format, as it is packed.
pub fn bytes(dims: &[u64], dtype: DType) -> u64 {
    let elements: u64 = dims.iter().product();
    match (dtype, dims) {
        (DType::Int(format), &[rows, columns]) => rows * format.row_bytes(columns),
        (dtype, _) => elements * dtype.bytes(),
    }
}

/// A row for every matrix of the checkpoint that graphs read, as `round` rounds them.
pub fn table(
    module: &Module,
    lab: &dyn Lab,
    round: Option<Rounding>,
) -> Result<Vec<Row>, PassError> {
    let read = read_by_graphs(module);
    let ids = (0..module.weights.len() as u32).map(WeightId);
    let chosen = |id: &WeightId| {
        let weight = module.weight(*id);
        read[id.0 as usize] && weight.dims.len() == 2 && matches!(weight.source, Source::Blob(_))
    };
    let ids: Vec<WeightId> = ids.filter(chosen).collect();
    let key = format!("{module}{CANDIDATES:?} {SAMPLE}");
    let losses = lab.remember("losses", &key, &mut || {
        let all = measure(module, lab, &ids)?;
        Ok(all.iter().flat_map(|x| x.to_le_bytes()).collect())
    })?;
    let mut losses =
        losses.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap_or_default()));
    let mut next = || losses.next().unwrap_or(f64::INFINITY);
    let row = |&id: &WeightId| {
        let dims = &module.weight(id).dims;
        let left = match (next(), round) {
            (left, Some(Rounding::Gptq)) => left,
            _ => 1.0,
        };
        let choice = |dtype| {
            let left = if matches!(dtype, DType::Int(_)) { left } else { 1.0 };
            (dtype, Choice { cost: bytes(dims, dtype), loss: left * next() })
        };
        Row { weight: id, choices: fitting(dims).into_iter().map(choice).collect() }
    };
    Ok(ids.iter().map(row).collect())
}

fn fitting(dims: &[u64]) -> Vec<DType> {
    let all = CANDIDATES.iter().filter_map(|name| DType::from_name(name));
    let fits = |dtype: &DType| match dtype {
        DType::Int(format) => format.fits(dims[1]),
        _ => true,
    };
    all.filter(fits).collect()
}

/// For all matrices, one after the other, the share of a loss that GPTQ leaves, and the losses of all
/// formats that fit, rounded to nearest.
fn measure(module: &Module, lab: &dyn Lab, ids: &[WeightId]) -> Result<Vec<f64>, PassError> {
    let fail = |e: BlobError| PassError { pass: "select", why: e.to_string() };
    let probe = |id: WeightId| -> Result<Tensor, BlobError> {
        Ok(probed(materialise(module, id, lab.blobs())?))
    };
    let effects = lab.probe(module, ids, &probe)?;
    let sites: Vec<_> = ids.iter().flat_map(|id| inputs_of(module, *id)).collect();
    let stats = lab.observe(module, &sites, true)?;
    let mut losses = vec![];
    for (&id, effect) in ids.iter().zip(effects) {
        let tensor = sample(materialise(module, id, lab.blobs()).map_err(fail)?);
        let moments = stats.merged(&inputs_of(module, id));
        let error = |changed: &Tensor| squared_error(&tensor, changed, moments.as_ref());
        let per_error = effect / error(&probed(tensor.clone())).max(f64::MIN_POSITIVE);
        let second = moments.as_ref().and_then(|m| m.second.as_deref());
        losses.push(second.map_or(1.0, |second| left_by_gptq(second, tensor.dims[1] as usize)));
        let formats = fitting(&tensor.dims);
        losses.par_extend(
            formats.par_iter().map(|&dtype| per_error * error(&stored(&tensor, dtype))),
        );
    }
    Ok(losses)
}

/// A matrix in the format in which effects are measured.
fn probed(tensor: Tensor) -> Tensor {
    match PROBE.fits(tensor.dims[1]) {
        true => Quantised::round(&tensor, PROBE).dequantise(),
        false => coarse(tensor),
    }
}

/// Some rows of a matrix, evenly spaced. Each is rounded by itself, so they lose their share.
pub(crate) fn sample(tensor: Tensor) -> Tensor {
    let columns = tensor.dims[1] as usize;
    let step = tensor.data.chunks(columns).len().div_ceil(SAMPLE);
    let data: Vec<f32> = tensor.data.chunks(columns).step_by(step).flatten().copied().collect();
    Tensor { dims: vec![(data.len() / columns) as u64, columns as u64], data }
}

/// A matrix as it is once it is stored.
pub(super) fn stored(tensor: &Tensor, dtype: DType) -> Tensor {
    match dtype {
        DType::Int(format) => Quantised::round(tensor, format).dequantise(),
        dtype => {
            let mut rounded = tensor.clone();
            cast(dtype, &mut rounded.data);
            rounded
        }
    }
}

/// For rows that no group of the probe fits: sixteenths of the largest element.
fn coarse(mut tensor: Tensor) -> Tensor {
    let most = tensor.data.iter().fold(0f32, |m, x| m.max(x.abs()));
    let step = if most > 0.0 { most / 8.0 } else { 1.0 };
    tensor.data.iter_mut().for_each(|x| *x = (*x / step).round() * step);
    tensor
}

/// Half the mean squared error of the product, or of the elements where nothing is multiplied.
pub(super) fn squared_error(tensor: &Tensor, changed: &Tensor, moments: Option<&Moments>) -> f64 {
    let change: Vec<f32> = tensor.data.iter().zip(&changed.data).map(|(a, b)| a - b).collect();
    match moments.and_then(|m| m.second.as_deref()) {
        Some(second) => loss(&change, second, tensor.dims[1] as usize),
        None => change.iter().map(|&d| f64::from(d) * f64::from(d)).sum::<f64>() / 2.0,
    }
}
