//! GPTQ: columns are rounded one after the other, and those to come make good what was lost.

use super::factor::Factor;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ir::quant::{Grid, Grids, Quantised};
use ir::{IntFormat, Tensor};
use rayon::prelude::*;

/// How GPTQ goes about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gptq {
    /// Share of the mean of the diagonal that is added to it.
    pub damp: f64,
    /// Columns of large second moments first; scales are then those of the matrix as it was.
    pub act_order: bool,
    /// Scales of least squared error, weighed by what cannot be made good; otherwise those that
    /// just cover each group.
    pub clip: bool,
}

impl Default for Gptq {
    fn default() -> Gptq {
        Gptq { damp: 0.01, act_order: false, clip: true }
    }
}

/// Rows that are rounded together, so that a row of the factor is read once for all of them.
const TILE: usize = 64;
/// Columns whose errors are passed on together, at least.
const BLOCK: usize = 64;

/// Rounds `weights[N, K]` by the second moments `[K][K]` of the rows it multiplies. The format must
/// fit the columns. Columns that no row ever uses become zero.
pub fn gptq(weights: &Tensor, second: &[f32], format: IntFormat, how: Gptq) -> Quantised {
    let columns = weights.dims[1] as usize;
    let order = order(second, columns, how.act_order);
    let factor = Factor::new(second, &order, how.damp);
    let work = Work { second, order, factor, columns, format, how };
    let tiles: Vec<Rows> = weights.data.par_chunks(TILE * columns).map(|w| work.tile(w)).collect();
    let mut all = Rows::default();
    for tile in tiles {
        all.q.extend(tile.q);
        all.scales.extend(tile.scales);
        all.lows.extend(tile.lows);
        all.units.extend(tile.units);
    }
    if !format.zero {
        all.lows.clear();
    }
    if !format.nested {
        all.units.clear();
    }
    Quantised {
        dims: [weights.dims[0], weights.dims[1]],
        format,
        q: all.q,
        scales: all.scales,
        lows: all.lows,
        units: all.units,
    }
}

fn order(second: &[f32], columns: usize, by_size: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..columns).collect();
    if by_size {
        let size = |i: usize| second[i * columns + i];
        order.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
    }
    order
}

#[derive(Default)]
struct Rows {
    q: Vec<i16>,
    scales: Vec<f32>,
    lows: Vec<f32>,
    units: Vec<f32>,
}

struct Work<'a> {
    second: &'a [f32],
    order: Vec<usize>,
    factor: Factor,
    columns: usize,
    format: IntFormat,
    how: Gptq,
}

impl Work<'_> {
    /// Rounds a few rows.
    fn tile(&self, weights: &[f32]) -> Rows {
        let n = self.columns;
        let group = self.format.group_of(n as u64) as usize;
        let groups = n / group;
        let count = weights.len() / n;
        // Columns in order of rounding: `now` changes as errors are passed on.
        let mut now = vec![0f32; weights.len()];
        for (to, from) in now.chunks_mut(n).zip(weights.chunks(n)) {
            to.iter_mut().zip(&self.order).for_each(|(to, &at)| *to = from[at] * self.alive(at));
        }
        // Nested scales are multiples of what the row wanted before errors were passed on.
        let rows: Vec<Grids> = weights.chunks(n).map(|row| Grids::of(row, self.format)).collect();
        let mut grids: Vec<Option<Grid>> = vec![None; count * groups];
        if self.how.act_order {
            for (r, row) in weights.chunks(n).enumerate() {
                for (g, x) in row.chunks(group).enumerate() {
                    let ones = vec![1.0; group];
                    grids[r * groups + g] = Some(self.grid(rows[r], x, &ones));
                }
            }
        }
        let mut q = vec![0i16; weights.len()];
        let mut errors = vec![0f32; count * self.block()];
        for start in (0..n).step_by(self.block()) {
            let end = (start + self.block()).min(n);
            for i in start..end {
                let (at, factor) = (self.order[i], &self.factor.upper[i * n..][..n]);
                for (r, row) in now.chunks_mut(n).enumerate() {
                    let grid = *grids[r * groups + at / group].get_or_insert_with(|| {
                        // Not reordered: the group starts here, as it is by now.
                        self.grid(rows[r], &row[i..i + group], &self.importance(i, group))
                    });
                    let code = grid.nearest(row[i]);
                    q[r * n + at] = code as i16;
                    let error = (row[i] - grid.value(code)) / factor[i];
                    errors[r * self.block() + i - start] = error;
                    let rest = row[i + 1..end].iter_mut().zip(&factor[i + 1..end]);
                    rest.for_each(|(x, &u)| *x -= error * u);
                }
            }
            self.pass_on(&mut now, &errors, start, end);
        }
        let grids: Vec<Grid> = grids.into_iter().flatten().collect();
        Rows {
            q,
            scales: grids.iter().map(|g| g.scale).collect(),
            lows: grids.iter().map(|g| g.low).collect(),
            units: rows.iter().map(|r| r.unit).collect(),
        }
    }

    /// Columns whose errors are passed on together: whole groups, so that each is up to date when its
    /// scale is chosen. A group of a whole row starts up to date.
    fn block(&self) -> usize {
        match self.format.group as usize {
            0 => BLOCK,
            group => BLOCK.next_multiple_of(group),
        }
    }

    /// Takes the errors of columns `start..end` from those after.
    fn pass_on(&self, now: &mut [f32], errors: &[f32], start: usize, end: usize) {
        let n = self.columns;
        let (rows, width) = (now.len() / n, end - start);
        let now = MatMut::from_row_major_slice_mut(now, rows, n);
        let errors = MatRef::from_row_major_slice(errors, rows, self.block());
        let upper = MatRef::from_row_major_slice(&self.factor.upper, n, n);
        matmul(
            now.subcols_mut(end, n - end),
            Accum::Add,
            errors.subcols(0, width),
            upper.submatrix(start, end, width, n - end),
            -1.0f32,
            Par::Seq,
        );
    }

    /// 0 for a column that no row uses.
    fn alive(&self, column: usize) -> f32 {
        f32::from(u8::from(self.second[column * self.columns + column] != 0.0))
    }

    fn grid(&self, grids: Grids, x: &[f32], importance: &[f32]) -> Grid {
        match self.how.clip {
            true => grids.fitting(x, importance),
            false => grids.covering(x),
        }
    }

    /// What an error of each column costs once the columns after it have done their best.
    fn importance(&self, first: usize, group: usize) -> Vec<f32> {
        let n = self.columns;
        (first..first + group).map(|i| self.factor.upper[i * n + i].powi(-2)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss;
    use super::*;
    use crate::stats::Accumulator;

    const COLUMNS: usize = 64;

    /// Numbers of about the same size, the same every time.
    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next() + next() + next()).collect()
    }

    /// Rows whose channels go together, some loud.
    fn second() -> Vec<f32> {
        let mix = noise(5, COLUMNS * COLUMNS);
        let mut sums = Accumulator::new(COLUMNS, true);
        for t in 0..256 {
            let z = noise(t + 100, 12);
            let x = (0..COLUMNS).map(|c| {
                let shared: f32 = z.iter().enumerate().map(|(k, z)| z * mix[k * COLUMNS + c]).sum();
                shared * if c % 9 == 0 { 4.0 } else { 1.0 } + 0.1 * z[c % 12]
            });
            sums.add(&x.collect::<Vec<f32>>());
        }
        sums.finish().second.expect("it was asked for")
    }

    fn weights() -> Tensor {
        Tensor { dims: vec![24, COLUMNS as u64], data: noise(9, 24 * COLUMNS) }
    }

    fn loss_of(q: &Quantised, second: &[f32]) -> f64 {
        let change: Vec<f32> =
            weights().data.iter().zip(q.dequantise().data).map(|(w, q)| w - q).collect();
        loss(&change, second, COLUMNS)
    }

    #[test]
    fn errors_that_are_made_good_lose_less() {
        let second = second();
        for name in
            ["i3g32", "i4g32", "i4g32z", "i4g32n", "i4row", "i5row", "i6g32", "i8row", "e2m1g32"]
        {
            let format = IntFormat::from_name(name).expect("a format");
            let plain = loss_of(&Quantised::nearest(&weights(), format), &second);
            let how = Gptq { clip: false, ..Gptq::default() };
            let made_good = loss_of(&gptq(&weights(), &second, format, how), &second);
            assert!(made_good < plain * 0.7, "{name}: {made_good} against {plain}");
            let ordered = Gptq { act_order: true, ..how };
            let ordered = loss_of(&gptq(&weights(), &second, format, ordered), &second);
            assert!(ordered < plain * 0.7, "{name}: {ordered} against {plain}");
        }
    }

    #[test]
    fn without_correlation_it_is_rounding_to_nearest() {
        let format = IntFormat::from_name("i4g32").expect("a format");
        let mut second = vec![0f32; COLUMNS * COLUMNS];
        (0..COLUMNS).for_each(|i| second[i * COLUMNS + i] = 1.0 + i as f32);
        let how = Gptq { clip: false, ..Gptq::default() };
        assert_eq!(gptq(&weights(), &second, format, how), Quantised::nearest(&weights(), format));
    }

    #[test]
    fn columns_that_nothing_uses_become_zero() {
        let format = IntFormat::from_name("i4g32").expect("a format");
        let mut second = second();
        for i in 0..COLUMNS {
            second[i * COLUMNS + 3] = 0.0;
            second[3 * COLUMNS + i] = 0.0;
        }
        let q = gptq(&weights(), &second, format, Gptq::default());
        assert!(q.q.iter().skip(3).step_by(COLUMNS).all(|&q| q == 0));
    }
}
