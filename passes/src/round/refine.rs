//! Integers gone over again, one at a time: each goes to the value that is best for all the others
//! as they are (coordinate descent, as in CDQuant, arXiv 2406.17542).

use super::gptq::{Rows, Work};
use ir::quant::Grid;

impl Work<'_> {
    /// `sweeps` rounds over a few rows of `weights`; scales stay.
    pub(super) fn refine(&self, weights: &[f32], rows: &mut Rows, sweeps: u32) {
        if sweeps == 0 {
            return;
        }
        let n = self.columns;
        let group = self.format.group_of(n as u64) as usize;
        for (r, weights) in weights.chunks(n).enumerate() {
            let grids: Vec<Grid> = (0..n / group)
                .map(|g| {
                    let at = r * (n / group) + g;
                    Grid::of(self.format, rows.scales[at], rows.lows[at])
                })
                .collect();
            let q = &mut rows.q[r * n..][..n];
            let change = |i: usize, q: i16| weights[i] - grids[i / group].value(f32::from(q));
            // Slope of the loss: H · (w − q).
            let mut slope = vec![0f32; n];
            for (i, &q) in q.iter().enumerate() {
                add(&mut slope, change(i, q), &self.second[i * n..][..n]);
            }
            for _ in 0..sweeps {
                for (i, q) in q.iter_mut().enumerate() {
                    let own = self.second[i * n + i];
                    if own <= 0.0 {
                        continue;
                    }
                    let grid = grids[i / group];
                    let now = grid.value(f32::from(*q));
                    let best = grid.nearest(now + slope[i] / own);
                    if best != f32::from(*q) {
                        add(&mut slope, now - grid.value(best), &self.second[i * n..][..n]);
                        *q = best as i16;
                    }
                }
            }
        }
    }
}

fn add(sum: &mut [f32], factor: f32, row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += factor * x);
}
