//! Weights as numbers: where blobs come from, and the steps of a weight's history applied to one.

use crate::module::{Step, Weight};
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
}

/// A weight's numbers as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Floats, already rounded to the stored type.
    Floats(Tensor),
    /// Integers with their scales.
    Ints(Quantised),
}

/// The weight's numbers: its blob with every step of the history applied, in f32.
///
/// A blob of another shape than the history needs is an error that names both.
pub fn materialise(weight: &Weight, blobs: &dyn Blobs) -> Result<Tensor, BlobError> {
    Ok(match stored(weight, blobs)? {
        Numbers::Floats(tensor) => tensor,
        Numbers::Ints(quantised) => quantised.dequantise(),
    })
}

/// As `materialise`, but integers stay integers.
pub fn stored(weight: &Weight, blobs: &dyn Blobs) -> Result<Numbers, BlobError> {
    let fail = |why: String| BlobError { blob: weight.blob.clone(), why };
    if let Some(Step::Round(Rounding::Gptq)) = weight.via.last() {
        let why = "rounding by gptq needs a text: give --calib FILE, or --calib self";
        let rounded = blobs.rounded(&weight.name).ok_or_else(|| fail(why.into()))?;
        if rounded.dims[..] != weight.dims[..] || DType::Int(rounded.format) != weight.dtype {
            let found = Type::weight(DType::Int(rounded.format), &rounded.dims);
            return Err(fail(format!("found {found} rounded, expected {}", weight.ty())));
        }
        return Ok(Numbers::Ints(rounded));
    }
    let tensor = blobs.load(&weight.blob)?;
    let elements = tensor.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if elements != Some(tensor.data.len() as u64) {
        let why = format!("shape {:?} holds {} elements", tensor.dims, tensor.data.len());
        return Err(fail(why));
    }
    let mut numbers = Numbers::Floats(tensor);
    for step in &weight.via {
        numbers = apply(step, numbers, weight.dtype).map_err(fail)?;
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

fn apply(step: &Step, numbers: Numbers, stored: DType) -> Result<Numbers, String> {
    let Numbers::Floats(mut tensor) = numbers else {
        return Err("no step follows the one that makes integers".into());
    };
    match *step {
        Step::Unpermute { heads } => unpermute(heads, &mut tensor)?,
        Step::Cast(DType::Int(format)) => {
            if tensor.dims.len() != 2 || !format.fits(tensor.dims[1]) {
                return Err(format!("shape {:?} has no rows in groups of {format}", tensor.dims));
            }
            return Ok(Numbers::Ints(Quantised::round(&tensor, format)));
        }
        Step::Round(how) => {
            let DType::Int(format) = stored else { return Err(format!("{stored} is no integer")) };
            if tensor.dims.len() != 2 || !format.fits(tensor.dims[1]) {
                return Err(format!("shape {:?} has no rows in groups of {format}", tensor.dims));
            }
            if how != Rounding::Nearest {
                return Err(format!("round({how}) needs statistics"));
            }
            return Ok(Numbers::Ints(Quantised::nearest(&tensor, format)));
        }
        Step::Cast(dtype) => cast(dtype, &mut tensor.data),
    }
    Ok(Numbers::Floats(tensor))
}

/// Rows of a head come as 0, h/2, 1, h/2+1, …; they leave as 0, 1, … h-1. Vectors (biases) too.
fn unpermute(heads: u64, tensor: &mut Tensor) -> Result<(), String> {
    let rows = tensor.dims.first().copied().unwrap_or(0);
    if heads == 0 || heads.checked_mul(2).is_none_or(|pairs| rows % pairs != 0) {
        return Err(format!("{rows} rows cannot be cut into {heads} heads of even width"));
    }
    let columns = (tensor.data.len() as u64 / rows.max(1)) as usize;
    let head = (rows / heads) as usize;
    let source = tensor.data.clone();
    for row in 0..rows as usize {
        let (h, i) = (row / head, row % head);
        let from = h * head + if i < head / 2 { 2 * i } else { 2 * (i - head / 2) + 1 };
        tensor.data[row * columns..][..columns]
            .copy_from_slice(&source[from * columns..][..columns]);
    }
    Ok(())
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
