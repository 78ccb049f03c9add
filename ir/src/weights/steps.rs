//! One step of a history applied to numbers. Sums are f64; what leaves a step is f32.

use super::{Blobs, Numbers, Tensor, cast, materialise};
use crate::BlobError;
use crate::hadamard::Signed;
use crate::history::{Side, Source, Step};
use crate::module::{Module, WeightId};
use crate::quant::Quantised;
use crate::round::Rounding;
use crate::types::DType;
use rayon::prelude::*;

/// The numbers of the weight that a step names.
pub(super) enum Operand {
    /// A Hadamard rotation, which has a fast transform.
    Hadamard { order: usize, rotation: Signed },
    /// Any other.
    Dense(Tensor),
}

impl Operand {
    pub(super) fn new(
        module: &Module,
        by: WeightId,
        blobs: &dyn Blobs,
    ) -> Result<Operand, BlobError> {
        let weight = module.weight(by);
        if let (Source::Hadamard { seed }, [], &[order, _]) =
            (&weight.source, &weight.via[..], &weight.dims[..])
            && let Some(rotation) = Signed::new(order, *seed)
        {
            return Ok(Operand::Hadamard { order: order as usize, rotation });
        }
        materialise(module, by, blobs).map(Operand::Dense)
    }

    /// Rows and columns of a rotation.
    fn order(&self) -> usize {
        match self {
            Operand::Hadamard { order, .. } => *order,
            Operand::Dense(tensor) => tensor.dims[0] as usize,
        }
    }

    /// `block ← block · R`.
    fn rotate(&self, block: &mut [f64]) {
        let tensor = match self {
            Operand::Hadamard { rotation, .. } => return rotation.apply(block),
            Operand::Dense(tensor) => tensor,
        };
        let mut turned = vec![0f64; block.len()];
        for (x, row) in block.iter().zip(tensor.data.chunks(block.len())) {
            turned.iter_mut().zip(row).for_each(|(y, &r)| *y += x * f64::from(r));
        }
        block.copy_from_slice(&turned);
    }
}

/// Statistics are not in a history.
const NEEDS_TEXT: &str =
    "rounding by gptq needs a text: give --calib FILE, and --round as it was given then";

/// Applies a step; `operand` is what it names.
pub(super) fn apply(
    step: &Step,
    operand: Option<&Operand>,
    numbers: Numbers,
) -> Result<Numbers, String> {
    let Numbers::Floats(mut tensor) = numbers else {
        return Err("no step follows the one that makes integers".into());
    };
    match (*step, operand) {
        (Step::Unpermute { heads }, _) => unpermute(heads, &mut tensor)?,
        (Step::Plus { by }, _) => tensor.data.iter_mut().for_each(|x| *x += by as f32),
        (Step::Scale { side, inverse, .. }, Some(Operand::Dense(by))) => {
            scale(side, inverse, by, &mut tensor)?;
        }
        (Step::Rotate { side: Side::In, .. }, Some(by)) => rotate_rows(by, &mut tensor)?,
        (Step::Rotate { side: Side::Out, .. }, Some(by)) if tensor.dims.len() == 1 => {
            rotate_rows(by, &mut tensor)?;
        }
        (Step::Rotate { side: Side::Out, .. }, Some(by)) => {
            tensor = transposed(&tensor);
            rotate_rows(by, &mut tensor)?;
            tensor = transposed(&tensor);
        }
        (Step::Repeat { block, times }, _) => repeat(block, times, &mut tensor)?,
        (Step::Cast(DType::Int(format)), _) => {
            if tensor.dims.len() != 2 || !format.fits(tensor.dims[1]) {
                return Err(format!("shape {:?} has no rows in groups of {format}", tensor.dims));
            }
            return Ok(Numbers::Ints(Quantised::round(&tensor, format)));
        }
        (Step::Round { format, how }, _) => {
            if tensor.dims.len() != 2 || !format.fits(tensor.dims[1]) {
                return Err(format!("shape {:?} has no rows in groups of {format}", tensor.dims));
            }
            return match how {
                Rounding::Nearest => Ok(Numbers::Ints(Quantised::nearest(&tensor, format))),
                Rounding::Gptq => Err(NEEDS_TEXT.into()),
            };
        }
        (Step::Cast(dtype), _) => cast(dtype, &mut tensor.data),
        (Step::Scale { .. } | Step::Rotate { .. }, _) => {
            return Err(format!("{} has no factors to read", step.name()));
        }
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

/// Elements of one row: the last dimension.
fn columns(tensor: &Tensor) -> usize {
    tensor.dims.last().map_or(1, |&k| k as usize).max(1)
}

/// Each row or column times its factor, or divided by it.
fn scale(side: Side, inverse: bool, by: &Tensor, tensor: &mut Tensor) -> Result<(), String> {
    let dim = if side == Side::In { tensor.dims.last() } else { tensor.dims.first() };
    if dim.copied() != Some(by.data.len() as u64) {
        return Err(format!("{} factors do not fit shape {:?}", by.data.len(), tensor.dims));
    }
    if inverse && let Some(i) = by.data.iter().position(|&s| s == 0.0) {
        return Err(format!("factor {i} is zero and divides"));
    }
    let one = |x: &mut f32, s: f32| {
        let (value, s) = (f64::from(*x), f64::from(s));
        *x = if inverse { value / s } else { value * s } as f32;
    };
    let columns = columns(tensor);
    let by_rows = side == Side::Out && tensor.dims.len() == 2;
    tensor.data.par_chunks_mut(columns).enumerate().for_each(|(row, data)| match by_rows {
        true => data.iter_mut().for_each(|x| one(x, by.data[row])),
        false => data.iter_mut().zip(&by.data).for_each(|(x, &s)| one(x, s)),
    });
    Ok(())
}

/// Each row times the rotation, block by block.
fn rotate_rows(by: &Operand, tensor: &mut Tensor) -> Result<(), String> {
    let (columns, order) = (columns(tensor), by.order());
    if order == 0 || !columns.is_multiple_of(order) {
        return Err(format!("a rotation of order {order} does not fit shape {:?}", tensor.dims));
    }
    tensor.data.par_chunks_mut(columns).for_each(|row| {
        let mut block = vec![0f64; order];
        for part in row.chunks_mut(order) {
            block.iter_mut().zip(&*part).for_each(|(to, &from)| *to = f64::from(from));
            by.rotate(&mut block);
            part.iter_mut().zip(&block).for_each(|(to, &from)| *to = from as f32);
        }
    });
    Ok(())
}

fn transposed(tensor: &Tensor) -> Tensor {
    let (n, k) = (tensor.dims[0] as usize, tensor.dims[1] as usize);
    let mut data = vec![0f32; n * k];
    data.par_chunks_mut(n.max(1)).enumerate().for_each(|(j, column)| {
        column.iter_mut().enumerate().for_each(|(i, x)| *x = tensor.data[i * k + j]);
    });
    Tensor { dims: vec![k as u64, n as u64], data }
}

/// Each block of a vector, `times` times in a row.
fn repeat(block: u64, times: u64, tensor: &mut Tensor) -> Result<(), String> {
    let fits = block > 0 && (tensor.data.len() as u64).is_multiple_of(block);
    if tensor.dims.len() != 1 || !fits {
        return Err(format!("blocks of {block} do not fit shape {:?}", tensor.dims));
    }
    let blocks = tensor.data.chunks(block as usize);
    tensor.data = blocks.flat_map(|b| b.repeat(times as usize)).collect();
    tensor.dims = vec![tensor.data.len() as u64];
    Ok(())
}
