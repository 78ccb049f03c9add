//! Weights as numbers: where blobs come from, and a weight's history applied to one.

mod steps;

use self::steps::Operand;
use crate::hadamard::Signed;
use crate::history::{Source, Step, factor};
use crate::module::{Module, Weight, WeightId};
use crate::quant::Quantised;
use crate::round::Rounding;
use crate::types::{DType, Type};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// A dense tensor in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub dims: Vec<u64>,
    /// Elements, `dims` multiplied many.
    pub data: Vec<f32>,
}

/// A tensor that could not be read: which one, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{blob}: {why}")]
pub struct BlobError {
    /// Name of the tensor in its checkpoint.
    pub blob: String,
    /// What was found, expected, and what to do.
    pub why: String,
}

/// Where the tensors of a checkpoint come from. The only trait of this crate: files live elsewhere.
pub trait Blobs: Sync {
    /// The tensor of that name as f32, exactly as its format defines it.
    fn load(&self, blob: &str) -> Result<Tensor, BlobError>;

    /// The integers of the weight of that name, where they were found with statistics that the
    /// weight's history does not hold.
    fn rounded(&self, weight: &str) -> Option<Quantised> {
        let _ = weight;
        None
    }

    /// A hash of the tensor of that name: equal tensors in equal formats have equal ones, and others
    /// hardly ever.
    fn digest(&self, blob: &str) -> Result<u128, BlobError> {
        let words = self.load(blob)?.data.into_iter().map(|x| u64::from(x.to_bits()));
        Ok(crate::random::digest(words))
    }
}

/// A weight's numbers as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Floats, already rounded to the stored type.
    Floats(Tensor),
    /// Integers with their scales.
    Ints(Quantised),
}

/// The weight's numbers: its source with every step of the history applied, in f32.
///
/// A blob of another shape than the history needs is an error that names both. The module must be
/// verified: histories do not lead back to themselves.
pub fn materialise(module: &Module, id: WeightId, blobs: &dyn Blobs) -> Result<Tensor, BlobError> {
    Ok(match stored(module, id, blobs)? {
        Numbers::Floats(tensor) => tensor,
        Numbers::Ints(quantised) => quantised.dequantise(),
    })
}

/// As `materialise`, but integers stay integers.
pub fn stored(module: &Module, id: WeightId, blobs: &dyn Blobs) -> Result<Numbers, BlobError> {
    let weight = module.weight(id);
    let fail = |why: String| BlobError { blob: label(weight), why };
    if let Some(&Step::Round { format, how: Rounding::Gptq }) = weight.via.last()
        && let Some(rounded) = blobs.rounded(&weight.name)
    {
        if rounded.dims[..] != weight.dims[..] || rounded.format != format {
            let found = Type::weight(DType::Int(rounded.format), &rounded.dims);
            return Err(fail(format!("found {found} rounded, expected {}", weight.ty())));
        }
        return Ok(Numbers::Ints(rounded));
    }
    let mut numbers = Numbers::Floats(origin(weight, blobs)?);
    for step in &weight.via {
        let operand = step.operand().map(|by| Operand::new(module, by, blobs)).transpose()?;
        numbers = steps::apply(step, operand.as_ref(), numbers).map_err(fail)?;
    }
    let dims = match &numbers {
        Numbers::Floats(tensor) => &tensor.dims[..],
        Numbers::Ints(quantised) => &quantised.dims[..],
    };
    if dims != weight.dims {
        return Err(fail(format!("found shape {dims:?}, expected {:?}", weight.dims)));
    }
    Ok(numbers)
}

/// What messages call a weight's numbers: the tensor's name, or else the weight's.
pub fn label(weight: &Weight) -> String {
    weight.source.blob().map_or_else(|| format!("${}", weight.name), str::to_string)
}

/// The numbers before the first step.
fn origin(weight: &Weight, blobs: &dyn Blobs) -> Result<Tensor, BlobError> {
    let fail = |why: String| BlobError { blob: label(weight), why };
    if let Source::Blob(name) = &weight.source {
        let tensor = blobs.load(name)?;
        let elements = tensor.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if elements != Some(tensor.data.len() as u64) {
            let why = format!("shape {:?} holds {} elements", tensor.dims, tensor.data.len());
            return Err(fail(why));
        }
        return Ok(tensor);
    }
    let dims = weight.source_dims().ok_or_else(|| fail("its steps do not fit it".into()))?;
    let data = match &weight.source {
        Source::Blob(_) => unreachable!("handled above"),
        Source::Ones => vec![1.0; dims.iter().product::<u64>() as usize],
        Source::Full(number) => vec![*number; dims.iter().product::<u64>() as usize],
        Source::Factors(quarters) => quarters.iter().map(|&q| factor(q) as f32).collect(),
        Source::Eye => diagonal(dims[0] as usize, |_| {}),
        Source::Hadamard { seed } => match Signed::new(dims[0], *seed) {
            Some(rotation) => diagonal(dims[0] as usize, |row| rotation.apply(row)),
            None => return Err(fail(format!("there is no Hadamard matrix of order {}", dims[0]))),
        },
    };
    Ok(Tensor { dims, data })
}

/// The rows of the identity, each changed by `row`.
fn diagonal(order: usize, row: impl Fn(&mut [f64]) + Sync) -> Vec<f32> {
    let mut data = vec![0f32; order * order];
    data.par_chunks_mut(order.max(1)).enumerate().for_each(|(i, out)| {
        let mut unit = vec![0f64; order];
        unit[i] = 1.0;
        row(&mut unit);
        out.iter_mut().zip(unit).for_each(|(out, x)| *out = x as f32);
    });
    data
}

/// Elements that are rounded as one task.
const TASK: usize = 1 << 16;

/// Every element to the nearest value of `dtype`, ties to even.
pub fn cast(dtype: DType, data: &mut [f32]) {
    data.par_chunks_mut(TASK).for_each(|data| match dtype {
        DType::F32 => {}
        DType::F16 => through(&mut vec![f16::ZERO; data.len()], data),
        DType::BF16 => through(&mut vec![bf16::ZERO; data.len()], data),
        DType::Int(_) => unreachable!("integer formats round whole rows"),
        DType::I32 => data.iter_mut().for_each(|x| *x = x.round_ties_even()),
    });
}

/// `data` converted to halves and back, many at a time.
fn through<H>(halves: &mut [H], data: &mut [f32])
where
    [H]: HalfFloatSliceExt,
{
    halves.convert_from_f32_slice(data);
    halves.convert_to_f32_slice(data);
}
