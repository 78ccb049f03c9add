//! What one decoded token reads, in bytes from memory.
//!
//! A matrix is read once for each call that multiplies by it, a tied table once for the head and one
//! row of it for the lookup. A call that binds the weights of the call right before it (MobileLLM's
//! schedule) finds them in the cache, as far as they fit; a byte from there costs a tenth of one from
//! memory. The model is plain on purpose: decoding one token waits for weights, so time and energy
//! are bytes times what a byte takes.
//!
//! Source of the tenth: Horowitz, Computing's energy problem (ISSCC 2014), 64 bits from DRAM 1.3 to
//! 2.6 nJ, from a cache of 1 MB 0.1 nJ; bandwidths are about as far apart.

use crate::stats::{Activation, activations};
use ir::{Module, Op, Weight};

/// What a byte from the cache costs, of one from memory.
const NEAR: f64 = 0.1;

/// How one decoded token reads a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Calls that read it from memory.
    pub far: u32,
    /// Calls that read it right after another one.
    pub near: u32,
    /// Rows that are looked up.
    pub rows: u32,
    /// Elements of all weights that come between two reads.
    together: u64,
}

/// The reads of every weight of a verified module.
pub fn reads(module: &Module) -> Vec<Reads> {
    let mut reads = vec![Reads::default(); module.weights.len()];
    let mut before: Option<Activation<'_>> = None;
    for a in activations(module) {
        let again = |b: &Activation<'_>| b.id == a.id && b.bound == a.bound && !a.bound.is_empty();
        let again = before.as_ref().is_some_and(again);
        let bound: u64 = a.bound.iter().map(|&id| module.weight(id).elements()).sum();
        for inst in a.graph.insts.iter().filter(|inst| !matches!(inst.op, Op::Call(_))) {
            for id in inst.args.iter().filter_map(|&arg| a.weight(arg)) {
                let read = &mut reads[id.0 as usize];
                match (&inst.op, again) {
                    (Op::Embed, _) => read.rows += 1,
                    (_, true) => read.near += 1,
                    (_, false) => read.far += 1,
                }
                read.together = read.together.max(bound);
            }
        }
        before = Some(a);
    }
    reads
}

impl Reads {
    /// Bytes from memory that cost as much as what a token reads of a weight that is stored in `bytes`.
    /// Whether it stays in a cache is decided as if all that is read with it had as many bits.
    pub fn cost(&self, weight: &Weight, bytes: u64, cache_bytes: u64) -> u64 {
        let bits = bytes as f64 / weight.elements().max(1) as f64;
        let stays = bits * self.together as f64 <= cache_bytes as f64;
        let near = f64::from(self.near) * if stays { NEAR } else { 1.0 };
        let rows = f64::from(self.rows) / weight.dims.first().map_or(1.0, |&n| n as f64);
        (bytes as f64 * (f64::from(self.far) + near + rows)).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::sample::Sample;

    fn named<'m>(module: &'m Module, name: &str) -> (Reads, &'m Weight) {
        let at = module.weights.iter().position(|w| w.name == name);
        let at = at.expect("a weight of that name");
        (reads(module)[at], &module.weights[at])
    }

    #[test]
    fn a_tied_table_is_read_whole_and_one_row_more() {
        let module = Sample::default().module().expect("a sample");
        let (found, embed) = named(&module, "embed");
        assert_eq!((found.far, found.near, found.rows), (1, 0, 1));
        assert_eq!(found.cost(embed, 48 * 32, 0), 48 * 32 + 32);
    }

    #[test]
    fn the_second_call_of_a_shared_layer_costs_a_tenth_where_it_fits() {
        let sample = Sample { layers: 4, shared: 2, ..Sample::default() };
        let module = sample.module().expect("a sample");
        let (found, down) = named(&module, "l0.down");
        assert_eq!((found.far, found.near, found.rows), (1, 1, 0));
        assert_eq!(found.cost(down, 1000, 1 << 20), 1100);
        assert_eq!(found.cost(down, 1000, 1000), 2000);
        let apart = Sample { layers: 4, ..Sample::default() }.module().expect("a sample");
        assert_eq!(named(&apart, "l0.down").0.cost(down, 1000, 1 << 20), 1000);
    }
}
