//! What one token costs: bytes that must be read, operations that must be done.
//!
//! Counted from the graphs, so that a matrix that two layers share counts twice: it is read twice.

use ir::types::cache_bytes;
use ir::{Arg, Graph, Module, Op, Param, Type, WeightId};
use targets::pack::WeightLayout;

/// The cost of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Weights read to decode one token.
    pub weight_bytes: u64,
    /// Keys and values of one position.
    pub cache_bytes: u64,
    /// Of these what layers with a window read.
    pub local_bytes: u64,
    /// Positions that those layers see.
    pub window: u64,
    /// Operations of the matrices for one token of a prompt. The output matrix is not among them:
    /// a prompt needs it once.
    pub prefill_ops: u64,
    /// Operations of all matrices for one decoded token.
    pub decode_ops: u64,
}

impl Work {
    /// Keys and values that a token reads which sees `positions`.
    pub fn cache_bytes_read(&self, positions: f64) -> f64 {
        let everywhere = (self.cache_bytes - self.local_bytes) as f64 * positions;
        everywhere + self.local_bytes as f64 * positions.min(self.window as f64)
    }
}

/// Counts a verified module with its layout.
pub fn work(module: &Module, layout: &WeightLayout) -> Work {
    let mut counter = Counter { module, sizes: sizes(module, layout), work: Work::default() };
    for root in ["model", "head"] {
        if let Some(id) = module.graph_named(root) {
            counter.graph(module.graph(id), &[]);
        }
        if root == "model" {
            counter.work.prefill_ops = counter.work.decode_ops;
        }
    }
    counter.work
}

/// Bytes of each weight in the blob.
pub(crate) fn sizes(module: &Module, layout: &WeightLayout) -> Vec<u64> {
    let mut sizes = vec![0; module.weights.len()];
    let mut end = layout.bytes;
    for &id in layout.order.iter().rev() {
        let start = layout.offset(id);
        sizes[id.0 as usize] = end - start;
        end = start;
    }
    sizes
}

struct Counter<'m> {
    module: &'m Module,
    sizes: Vec<u64>,
    work: Work,
}

impl Counter<'_> {
    /// One activation of a graph; `weights` are what its call binds.
    fn graph(&mut self, graph: &Graph, weights: &[WeightId]) {
        for inst in &graph.insts {
            let used = inst.args.iter().filter_map(|&arg| weight(arg, weights));
            match &inst.op {
                Op::Call(id) => {
                    let callee = self.module.graph(*id);
                    self.graph(callee, &bind(callee, &inst.args, weights));
                }
                Op::Embed => used.for_each(|id| self.row(id)),
                Op::Attention { window, .. } => {
                    let types = inst.args.iter().map(|&arg| graph.arg_type(self.module, arg));
                    let bytes = types.map(|ty| position_bytes(&ty)).sum::<u64>();
                    self.work.cache_bytes += bytes;
                    if let Some(window) = *window {
                        self.work.local_bytes += bytes;
                        self.work.window = self.work.window.max(window);
                    }
                }
                _ => used.for_each(|id| self.whole(id)),
            }
        }
    }

    fn row(&mut self, id: WeightId) {
        let rows = self.module.weight(id).dims.first().copied().unwrap_or(1).max(1);
        self.work.weight_bytes += self.sizes[id.0 as usize] / rows;
    }

    fn whole(&mut self, id: WeightId) {
        let weight = self.module.weight(id);
        self.work.weight_bytes += self.sizes[id.0 as usize];
        if weight.dims.len() == 2 {
            self.work.decode_ops += 2 * weight.elements();
        }
    }
}

/// The weights that a call hands to `callee`, in the order of its formals.
pub(crate) fn bind(callee: &Graph, args: &[Arg], weights: &[WeightId]) -> Vec<WeightId> {
    let params = callee.params.iter().zip(args);
    let formals = params.filter(|(param, _)| matches!(param, Param::Weight(_)));
    formals.filter_map(|(_, &arg)| weight(arg, weights)).collect()
}

/// The weight of the module behind an argument, given what a call binds.
pub(crate) fn weight(arg: Arg, bound: &[WeightId]) -> Option<WeightId> {
    match arg {
        Arg::Weight(id) => Some(id),
        Arg::FormalWeight(i) => bound.get(i as usize).copied(),
        _ => None,
    }
}

/// Keys and values of one position; nothing for a type that is no cache.
fn position_bytes(ty: &Type) -> u64 {
    match ty {
        Type::Kv { dtype, heads, head } => 2 * cache_bytes(*dtype, *heads, *head),
        Type::Tensor { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::DType;
    use ir::sample::Sample;

    #[test]
    fn a_shared_layer_counts_as_often_as_it_is_called() {
        let count = |sample: Sample| {
            let module = sample.module().expect("a valid sample");
            work(&module, &WeightLayout::new(&module, targets::Arch::HOST))
        };
        let base = Sample { head: 8, width: 32, inner: 64, vocab: 96, ..Sample::default() };
        let (once, twice) = (count(base.clone()), count(Sample { shared: 2, ..base.clone() }));
        assert_eq!(once.decode_ops, twice.decode_ops);
        assert_eq!(once.weight_bytes, twice.weight_bytes);
        assert_eq!(once.decode_ops - once.prefill_ops, 2 * 96 * 32);
        let wide = count(Sample { cache: DType::F32, ..base });
        assert_eq!(wide.cache_bytes, 2 * once.cache_bytes);
        assert_eq!(wide.cache_bytes, 2 * 2 * (2 * 8) * 4);
    }

    #[test]
    fn a_layer_reads_no_more_than_its_window() {
        let sample = Sample { head: 8, width: 32, inner: 64, vocab: 96, ..Sample::gemma() };
        let module = sample.module().expect("a valid sample");
        let work = work(&module, &WeightLayout::new(&module, targets::Arch::HOST));
        assert_eq!((work.window, 2 * work.local_bytes), (7, work.cache_bytes));
        let each = work.local_bytes as f64;
        assert_eq!(work.cache_bytes_read(5.0), 10.0 * each);
        assert_eq!(work.cache_bytes_read(50.0), 57.0 * each);
    }
}
