//! Smoothing factors: how much of a channel's range a matrix takes over from the rows it reads.

use crate::scales::{Place, Rows};
use crate::select::{format_of, sensitivity::sample};
use crate::simulate::Simulation;
use crate::stats::{Lab, Site, Stats, inputs_of};
use crate::{Context, PassError};
use ir::history::FACTOR_RANGE;
use ir::weights::materialise;
use ir::{DType, Levels, Module, RowRange, WeightId};
use std::collections::BTreeSet;
use std::fmt;

/// Which sites are smoothed, and how strongly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothing {
    /// How strongly.
    pub strength: Strength,
    /// Between norms and the matrices behind them.
    pub norms: bool,
    /// Between the `up` matrix and the one behind the activation.
    pub inner: bool,
    /// Between values and the output matrix of attention.
    pub values: bool,
}

/// How strongly a site is smoothed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// The share of a channel's range that goes into the weights, 0 to 1.
    Alpha(f64),
    /// What loses least, for each site by itself.
    Searched,
}

impl Default for Smoothing {
    fn default() -> Smoothing {
        Smoothing { strength: Strength::Alpha(0.5), norms: true, inner: true, values: true }
    }
}

impl fmt::Display for Smoothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites = [(self.norms, "norms"), (self.inner, "inner"), (self.values, "values")];
        let sites: Vec<&str> = sites.iter().filter(|s| s.0).map(|s| s.1).collect();
        match self.strength {
            Strength::Alpha(alpha) => write!(f, "{alpha} {}", sites.join(",")),
            Strength::Searched => write!(f, "search {}", sites.join(",")),
        }
    }
}

/// The laboratory of a pass, or a refusal that says what is missing.
pub fn lab<'a>(pass: &'static str, lab: Option<&'a dyn Lab>) -> Result<&'a dyn Lab, PassError> {
    lab.ok_or_else(|| PassError {
        pass,
        why: "it follows from activations: a checkpoint and a calibration text are needed".into(),
    })
}

/// Per channel, the largest magnitude that matrices read, over all calls that share them.
pub fn inputs(
    module: &Module,
    stats: &Stats,
    pass: &'static str,
    matrices: &BTreeSet<WeightId>,
) -> Result<Vec<f32>, PassError> {
    let mut largest: Vec<f32> = vec![];
    for &matrix in matrices {
        for site in inputs_of(module, matrix) {
            let Some(moments) = stats.sites.get(&site) else {
                let name = &module.weight(matrix).name;
                let why = format!("nothing was observed of what ${name} reads");
                return Err(PassError { pass, why });
            };
            largest.resize(moments.absmax.len(), 0.0);
            largest.iter_mut().zip(&moments.absmax).for_each(|(l, x)| *l = l.max(*x));
        }
    }
    Ok(largest)
}

/// Per column, the largest magnitude of any of the matrices.
pub fn columns(
    module: &Module,
    lab: &dyn Lab,
    pass: &'static str,
    matrices: &BTreeSet<WeightId>,
) -> Result<Vec<f32>, PassError> {
    let mut largest: Vec<f32> = vec![];
    for &matrix in matrices {
        let tensor = materialise(module, matrix, lab.blobs())
            .map_err(|e| PassError { pass, why: e.to_string() })?;
        let width = *tensor.dims.last().expect("a matrix has columns") as usize;
        largest.resize(width, 0.0);
        for row in tensor.data.chunks(width) {
            largest.iter_mut().zip(row).for_each(|(l, x)| *l = l.max(x.abs()));
        }
    }
    Ok(largest)
}

/// `s = inputs^α / columns^(1-α)`. A channel without range is left alone.
pub fn smooth(alpha: f64, inputs: &[f32], columns: &[f32]) -> Vec<i8> {
    let exponent = |(&x, &w): (&f32, &f32)| {
        let alive = x > 0.0 && w > 0.0;
        alive.then(|| alpha * f64::from(x).log2() - (1.0 - alpha) * f64::from(w).log2())
    };
    quarters(inputs.iter().zip(columns).map(exponent).collect())
}

/// `s = inputs^power`. A channel without range is left alone.
pub fn power(power: f64, inputs: &[f32]) -> Vec<i8> {
    let exponent = |&x: &f32| (x > 0.0).then(|| power * f64::from(x).log2());
    quarters(inputs.iter().map(exponent).collect())
}

/// `s = inputs / end` where a channel reaches beyond `end`, else 1.
pub fn beyond(end: f32, inputs: &[f32]) -> Vec<i8> {
    quarters(inputs.iter().map(|x| Some(f64::from(x / end).max(1.0).log2())).collect())
}

/// Exponents of two in quarter octaves around their mean: a common factor changes nothing.
fn quarters(exponents: Vec<Option<f64>>) -> Vec<i8> {
    let alive: Vec<f64> = exponents.iter().flatten().copied().collect();
    let mean = alive.iter().sum::<f64>() / alive.len().max(1) as f64;
    let (least, most) = (f64::from(FACTOR_RANGE.0), f64::from(FACTOR_RANGE.1));
    let quarters = |e: &Option<f64>| e.map_or(0.0, |e| (4.0 * (e - mean)).round());
    exponents.iter().map(|e| quarters(e).clamp(least, most) as i8).collect()
}

/// Factors of the channels that `matrices` read, as `smoothing` finds them. `fold` makes one number
/// for each factor out of one for each column, `spread` the other way round.
pub fn find(
    module: &Module,
    context: &Context<'_>,
    stats: &Stats,
    pass: &'static str,
    matrices: &BTreeSet<WeightId>,
    fold: &(dyn Fn(&[f32]) -> Vec<f32> + Sync),
    spread: &(dyn Fn(&[i8]) -> Vec<i8> + Sync),
) -> Result<Vec<i8>, PassError> {
    let lab = lab(pass, context.lab)?;
    if let Strength::Alpha(alpha) = context.smooth.unwrap_or_default().strength {
        let inputs = inputs(module, stats, pass, matrices)?;
        let columns = columns(module, lab, pass, matrices)?;
        return Ok(smooth(alpha, &fold(&inputs), &fold(&columns)));
    }
    let fail = |why: String| PassError { pass, why };
    let one = |&id: &WeightId| {
        let tensor = materialise(module, id, lab.blobs()).map_err(|e| fail(e.to_string()))?;
        let tensor = sample(tensor);
        let format = match format_of(module.weight(id), &context.recipe, context.weights) {
            Some(DType::Int(format)) => Some(format),
            _ => None,
        };
        Ok((tensor, format))
    };
    let sites: Vec<Site> = matrices.iter().flat_map(|&m| inputs_of(module, m)).collect();
    let moments = stats.merged(&sites).ok_or_else(|| fail("nothing was observed".into()))?;
    let matrices = matrices.iter().map(one).collect::<Result<_, PassError>>()?;
    Ok(Place { matrices, moments, rows: rows(context), fold, spread }.search())
}

/// What kernels of integers take.
const INT8: Levels = Levels::Even(8);

/// How the rows will be rounded that matrices of layers read.
fn rows(context: &Context<'_>) -> Option<Rows> {
    match context.simulate {
        Some(Simulation { rows: Some(levels), fixed, .. }) => {
            Some(Rows { levels, group: 0, fixed })
        }
        _ => context.activation_group.map(|group| match context.activation_range {
            RowRange::Group => Rows { levels: INT8, group, fixed: false },
            range => Rows { levels: INT8, group: 0, fixed: range == RowRange::Fixed },
        }),
    }
}

/// The factor strings of a log: how many octaves lie between the smallest and the largest.
pub fn spread(quarters: &[i8]) -> f64 {
    let (least, most) = (quarters.iter().min(), quarters.iter().max());
    f64::from(most.copied().unwrap_or(0) - least.copied().unwrap_or(0)) / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_shares_the_range() {
        // Four octaves between the inputs, none between the columns.
        let (inputs, columns) = ([1.0, 16.0], [2.0, 2.0]);
        assert_eq!(smooth(0.5, &inputs, &columns), [-4, 4]);
        assert_eq!(smooth(1.0, &inputs, &columns), [-8, 8]);
        assert_eq!(smooth(0.0, &inputs, &columns), [0, 0]);
        assert_eq!(smooth(0.0, &[1.0, 1.0], &[1.0, 16.0]), [8, -8]);
    }

    #[test]
    fn what_reaches_beyond_an_end_is_brought_back_to_it() {
        // Four octaves beyond, shared out so that the mean stays.
        assert_eq!(beyond(2.0, &[0.0, 1.0, 2.0, 32.0]), [-4, -4, -4, 12]);
    }

    #[test]
    fn channels_without_range_are_left_alone_and_far_ones_bounded() {
        assert_eq!(smooth(0.5, &[0.0, 1.0, 1.0], &[1.0, 1.0, 1.0]), [0, 0, 0]);
        let far = smooth(1.0, &[1e-30, 1e30], &[1.0, 1.0]);
        assert_eq!(far, [FACTOR_RANGE.0, FACTOR_RANGE.1]);
        assert_eq!(spread(&far), 23.25);
    }
}
