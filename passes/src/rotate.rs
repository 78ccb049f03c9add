//! `rotate`: the residual stream and the heads of values are turned by orthogonal matrices, folded
//! into the weights around them.
//!
//! # What
//! R1 (`residual`) turns everything that is added to the residual stream and everything that reads
//! it; R2 (`values`) turns each head of values and what the output matrix reads. Nothing is left
//! behind in the graphs, except behind a norm whose gain cannot be folded because its matrix is the
//! embedding table: there one small matrix `R1ᵀ · diag(gain) · R1` is put.
//!
//! # Why it is exact (or how far off)
//! `R · Rᵀ = I`, norms without gains do not change under rotation (their eps included), attention
//! takes means of values. Rotations are applied in f64 and rounded to f32 once.
//!
//! # Requires
//! Norms of the residual stream without gains (`fold_norms`), weights that are not rounded, rows that
//! are not quantised, and a Hadamard matrix of the width, or one from a file.
//!
//! # Paper
//! QuaRot (arXiv 2404.00456), SpinQuant (2405.16406).

mod residual;
mod values;

use crate::bindings::instructions;
use crate::edit::make;
use crate::{Context, PassError};
use ir::hadamard::Hadamard;
use ir::{Module, Op, Source, WeightId};

const PASS: &str = "rotate";

/// Where the matrices of R1 and R2 come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matrices {
    /// Hadamard matrices with random signs.
    Hadamard {
        /// Of R1; those of R2 follow it.
        seed: u64,
    },
    /// Tensors beside the checkpoint, orthogonal.
    Blobs {
        /// R1: its name and order.
        residual: Option<(String, u64)>,
        /// R2, in the order of layers.
        values: Vec<(String, u64)>,
    },
}

/// Which rotations, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotations {
    /// Where R1 and R2 come from.
    pub matrices: Matrices,
    /// R1: the residual stream.
    pub residual: bool,
    /// R2: heads of values.
    pub values: bool,
    /// R3: heads of queries and keys, online.
    pub keys: bool,
    /// R4: what the matrix after the activation reads, online.
    pub inner: bool,
}

impl Default for Rotations {
    fn default() -> Rotations {
        let matrices = Matrices::Hadamard { seed: 0 };
        Rotations { matrices, residual: true, values: true, keys: false, inner: false }
    }
}

/// Runs the pass.
pub fn run(module: &mut Module, context: &Context<'_>) -> Result<Vec<String>, PassError> {
    let rotations = context.rotate.clone().unwrap_or_default();
    if instructions(module).any(|(_, inst, _)| matches!(inst.op, Op::QuantRows { .. })) {
        return fail("rows are quantised already; rotate before `activations`");
    }
    let mut log = vec![];
    if rotations.residual {
        log.extend(residual::run(module, &rotations.matrices)?);
    }
    if rotations.values {
        log.extend(values::run(module, &rotations.matrices)?);
    }
    Ok(log)
}

fn fail<T>(why: impl Into<String>) -> Result<T, PassError> {
    Err(PassError { pass: PASS, why: why.into() })
}

/// The weight of the `n`-th rotation (0 for R1) of an order; `what` has that width.
fn rotation(
    module: &mut Module,
    matrices: &Matrices,
    n: usize,
    order: u64,
    what: &str,
) -> Result<WeightId, PassError> {
    let source = match matrices {
        Matrices::Hadamard { .. } if !Hadamard::exists(order) => {
            return fail(format!(
                "there is no Hadamard matrix of order {order}, the width of {what}, that \
                 Sylvester's and Paley's constructions reach; give a rotation in a file"
            ));
        }
        Matrices::Hadamard { seed } => Source::Hadamard { seed: Some(seed + n as u64) },
        Matrices::Blobs { residual, values } => {
            let found = if n == 0 { residual.as_ref() } else { values.get(n - 1) };
            match found {
                Some((name, n)) if *n == order => Source::Blob(name.clone()),
                Some((name, n)) => {
                    return fail(format!("{name} is of order {n}, {what} is {order} wide"));
                }
                None => return fail(format!("the file of rotations has none for {what}")),
            }
        }
    };
    let name = if n == 0 { "r1".to_string() } else { format!("r2.{}", n - 1) };
    Ok(make(module, &name, &[order, order], source, vec![]))
}
