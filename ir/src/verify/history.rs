//! Rules about where weights come from: V13 that every step can be applied, V17 that steps name
//! weights that fit them and lead to no circle.

use super::{Check, DEPTH_MAX, V_HISTORY, V_STORAGE};
use crate::hadamard::{Hadamard, ORDER_MAX};
use crate::history::{Side, Source, Step};
use crate::module::{Weight, WeightId};
use crate::place::Place;
use crate::types::{DType, Type};

/// The source fits, each step can be applied, and the last cast leaves what the weight stores
/// exactly.
pub(super) fn history(check: &mut Check<'_>, place: Place, weight: &Weight) {
    let Some(dims) = weight.source_dims() else {
        let what = format!("{} cannot come of blocks that are repeated so", weight.ty());
        return check.report(V_STORAGE, place, what);
    };
    source(check, place, &weight.source, &dims);
    let rows = weight.dims.first().copied().unwrap_or(0);
    for step in &weight.via {
        match *step {
            Step::Unpermute { heads } => {
                let pairs = heads.checked_mul(2).filter(|&p| p > 0);
                if pairs.is_none_or(|p| rows % p != 0) {
                    let what =
                        format!("{rows} rows cannot be cut into {heads} heads of even width");
                    check.report(V_STORAGE, place, what);
                }
            }
            Step::Cast(dtype) if !dtype.holds_weights() => {
                check.report(V_STORAGE, place, format!("a weight is not cast to {dtype}"));
            }
            Step::Scale { side, by, .. } => scale(check, place, weight, side, by),
            Step::Rotate { side, by } => rotate(check, place, weight, side, by),
            Step::Plus { .. } | Step::Repeat { .. } | Step::Cast(_) | Step::Round { .. } => {}
        }
    }
    last_cast(check, place, weight);
}

fn source(check: &mut Check<'_>, place: Place, source: &Source, dims: &[u64]) {
    let square = matches!(dims, [n, k] if n == k && *n <= ORDER_MAX);
    let problem = match source {
        Source::Blob(_) | Source::Ones | Source::Full(_) => None,
        Source::Eye if square => None,
        Source::Eye => Some(format!("eye is square, of order {ORDER_MAX} at most")),
        Source::Hadamard { .. } if square && Hadamard::exists(dims[0]) => None,
        Source::Hadamard { .. } => Some(format!("there is no Hadamard matrix of shape {dims:?}")),
        Source::Factors(factors) if dims == [factors.len() as u64] => None,
        Source::Factors(factors) => {
            Some(format!("{} factors do not fill shape {dims:?}", factors.len()))
        }
    };
    if let Some(what) = problem {
        check.report(V_STORAGE, place, what);
    }
}

fn last_cast(check: &mut Check<'_>, place: Place, weight: &Weight) {
    let last = weight.via.iter().rev().find_map(|step| match step {
        Step::Cast(dtype) => Some(*dtype),
        Step::Round { format, .. } => Some(DType::Int(*format)),
        _ => None,
    });
    let rounds = weight.via.iter().position(|step| matches!(step, Step::Round { .. }));
    if rounds
        .is_some_and(|at| at + 1 < weight.via.len() || weight.dtype != last.unwrap_or(DType::F32))
    {
        let what = "`round` is the last step, to what the weight stores".to_string();
        return check.report(V_STORAGE, place, what);
    }
    if let Some(last) = last
        && weight.dtype != DType::F32
        && last != weight.dtype
    {
        let what = format!("the last cast is to {last}, which {} cannot hold", weight.dtype);
        check.report(V_STORAGE, place, what);
    }
}

/// The dimension that a step works along.
fn along(weight: &Weight, side: Side) -> u64 {
    let dim = if side == Side::In { weight.dims.last() } else { weight.dims.first() };
    dim.copied().unwrap_or(0)
}

/// The weight that a step names; says so if there is none.
fn named<'m>(check: &mut Check<'m>, place: Place, by: WeightId) -> Option<&'m Weight> {
    let found = check.module.weights.get(by.0 as usize);
    if found.is_none() {
        check.report(V_HISTORY, place, format!("a step names weight {}, which is none", by.0));
    }
    found
}

fn scale(check: &mut Check<'_>, place: Place, weight: &Weight, side: Side, by: WeightId) {
    let width = along(weight, side);
    if let Some(by) = named(check, place, by)
        && by.ty() != Type::weight(DType::F32, &[width])
    {
        let what = format!("${} is {}, expected f32[{width}]", by.name, by.ty());
        check.report(V_HISTORY, place, what);
    }
}

fn rotate(check: &mut Check<'_>, place: Place, weight: &Weight, side: Side, by: WeightId) {
    let width = along(weight, side);
    let Some(by) = named(check, place, by) else { return };
    let fits = by.dtype == DType::F32
        && matches!(by.dims[..], [n, k] if n == k && n > 0 && width.is_multiple_of(n));
    if !fits {
        let what =
            format!("${} is {}, expected f32[n, n] whose order divides {width}", by.name, by.ty());
        check.report(V_HISTORY, place, what);
    }
}

/// V17: no weight is made from itself, nor through too many others.
pub(super) fn cycles(check: &mut Check<'_>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let weights = &check.module.weights;
    let mut marks = vec![Mark::New; weights.len()];
    let mut depths = vec![0; weights.len()];
    let mut circles = vec![];
    for start in 0..weights.len() {
        // A path of weights, each with the number of its steps that were followed.
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            if *next == 0 && marks[at] == Mark::Done {
                path.pop();
                continue;
            }
            marks[at] = Mark::Open;
            let Some(step) = weights[at].via.get(*next) else {
                let operands = weights[at].via.iter().filter_map(Step::operand);
                let below = operands.filter_map(|by| depths.get(by.0 as usize));
                depths[at] = 1 + below.max().copied().unwrap_or(0);
                marks[at] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            let Some(by) = step.operand().map(|by| by.0 as usize) else { continue };
            match marks.get(by) {
                Some(Mark::New) => path.push((by, 0)),
                Some(Mark::Open) => circles.push(at),
                Some(Mark::Done) | None => {}
            }
        }
    }
    let place = |at: usize| Place::Weight(WeightId(at as u32));
    for at in circles {
        check.report(V_HISTORY, place(at), "the weight is made from itself");
    }
    for at in (0..depths.len()).filter(|&at| depths[at] == DEPTH_MAX + 1) {
        let what = format!("the weight ends a chain of {}, at most {DEPTH_MAX}", DEPTH_MAX + 1);
        check.report(V_HISTORY, place(at), what);
    }
}
