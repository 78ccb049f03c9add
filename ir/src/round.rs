//! Rounding a group of numbers to a grid: which scale, which integers.

use crate::quant::{Grid, Grids, LANES, ends, nested};
use crate::types::Codes;
use std::fmt;

/// How elements of a matrix become integers, where it is not the search of `cast`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rounding {
    /// The scale just covers each group, every element goes to the nearest integer.
    Nearest,
    /// Errors are made good by the elements that come after, as the activations weigh them (GPTQ,
    /// arXiv 2210.17323). Needs statistics of activations: whoever has them supplies the integers.
    Gptq,
}

impl Rounding {
    /// All of them, with their names in text.
    pub const ALL: &[(Rounding, &str)] =
        &[(Rounding::Nearest, "nearest"), (Rounding::Gptq, "gptq")];

    /// The rounding of that name.
    pub fn from_name(name: &str) -> Option<Rounding> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(r, _)| *r)
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = Self::ALL.iter().find(|(r, _)| r == self);
        f.write_str(row.expect("every rounding is in the table").1)
    }
}

impl Grids {
    /// The grid that just covers a group: the largest magnitude is the largest integer, or the ends
    /// of the range are the ends of the group.
    pub fn covering(self, x: &[f32]) -> Grid {
        let (format, (low, high)) = (self.format, ends(x));
        let (least, most) = crate::quant::range(format);
        match (format.nested, format.zero) {
            (true, _) => nested::covering(x, self.unit),
            (false, true) => Grid::stored(format, (high - low) / most, low),
            (false, false) => {
                let end = if format.codes == Codes::Whole { most } else { most.max(-least) };
                Grid::stored(format, low.abs().max(high.abs()) / end, 0.0)
            }
        }
    }

    /// Of several grids the one with the least squared error, each element's weighed by
    /// `importance`.
    pub fn fitting(self, x: &[f32], importance: &[f32]) -> Grid {
        let grids = self.candidates(x).into_iter();
        let errors = grids.map(|grid| (grid.weighed_error(x, importance), grid));
        errors.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are candidates").1
    }
}

impl Grid {
    /// The group is a multiple of 16 elements.
    fn weighed_error(self, x: &[f32], importance: &[f32]) -> f32 {
        let mut sums = [0f32; LANES];
        for (x, weights) in x.chunks_exact(LANES).zip(importance.chunks_exact(LANES)) {
            for ((sum, &x), &weight) in sums.iter_mut().zip(x).zip(weights) {
                let e = x - self.value(self.nearest(x));
                *sum += e * e * weight;
            }
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::IntFormat;

    fn format(name: &str) -> IntFormat {
        IntFormat::from_name(name).expect("a format")
    }

    fn numbers() -> Vec<f32> {
        (0..32).map(|i| ((i * 13) % 32) as f32 / 16.0 - 0.9).collect()
    }

    #[test]
    fn a_covering_grid_reaches_every_element() {
        for name in
            ["i2g32z", "i3g32", "i4g32", "i4g32z", "i4g32n", "i5g32", "i6g32z", "i8g32", "e1m2g32"]
        {
            let grid = Grids::of(&numbers(), format(name)).covering(&numbers());
            for x in numbers() {
                let off = (x - grid.value(grid.nearest(x))).abs();
                assert!(off <= grid.scale * 0.505, "{name}: {x} is {off} off, step {}", grid.scale);
            }
        }
    }

    #[test]
    fn an_important_element_is_kept() {
        let mut x = numbers();
        x[7] = 1.3;
        let mut importance = vec![1e-6; 32];
        importance[7] = 1.0;
        let error = |importance: &[f32]| {
            let grid = Grids::of(&x, format("i4g32")).fitting(&x, importance);
            (x[7] - grid.value(grid.nearest(x[7]))).abs()
        };
        assert!(error(&importance) <= error(&[1.0; 32]));
        assert!(error(&importance) < 0.01);
    }
}
