//! A module run on one conversation in f32, every value kept, and the way back to the rotations.

use super::ops::{
    Attention, add, gate_mul, gate_mul_back, product, rms_norm, rms_norm_back, rope, scale,
    softcap, softcap_back, view,
};
use super::weights::{Weights, ends, mean_price};
use ir::hadamard::Hadamard;
use ir::quant::{FakeGrid, quantised_rows};
use ir::{Arg, Graph, GraphId, Module, Op, Param, Side, Type, ValueId, WeightId};
use rayon::prelude::*;
use std::collections::HashMap;

/// What a value is while the module runs.
#[derive(Clone, Debug)]
enum Data {
    Rows(Vec<f32>),
    /// Keys and values of all positions.
    Cache(Vec<f32>, Vec<f32>),
}

/// One activation of a graph.
pub(super) struct Frame {
    graph: GraphId,
    weights: Vec<WeightId>,
    values: Vec<Option<Data>>,
    /// Frames of calls, by what they define.
    calls: HashMap<ValueId, Frame>,
}

/// A module and the conversation that it reads.
pub(super) struct Tape<'m> {
    pub module: &'m Module,
    pub tokens: &'m [i32],
    /// Dense matrices of `hadamard` by order.
    pub turns: HashMap<u64, Vec<f32>>,
}

impl<'m> Tape<'m> {
    pub fn new(module: &'m Module, tokens: &'m [i32]) -> Tape<'m> {
        let ops = module.graphs.iter().flat_map(|g| &g.insts).map(|inst| &inst.op);
        let orders = ops.filter_map(|op| match op {
            Op::Hadamard { size } => Some(*size),
            _ => None,
        });
        let turns = orders.map(|n| (n, dense(n))).collect();
        Tape { module, tokens, turns }
    }

    /// Logits of every token, and the frames of the two roots.
    pub fn run(&self, weights: &Weights) -> (Vec<f32>, [Frame; 2]) {
        let root = |name| self.module.graph_named(name).expect("verified: V11");
        let model = self.graph(root("model"), vec![], vec![None, None], weights);
        let hidden = model.result(self.module).clone();
        let head = self.graph(root("head"), vec![], vec![Some(hidden)], weights);
        let Data::Rows(logits) = head.result(self.module).clone() else {
            unreachable!("verified: V9")
        };
        (logits, [model, head])
    }

    /// Adds what a gradient by the logits means for the rotations.
    pub fn back(&self, weights: &mut Weights, frames: &[Frame; 2], gradient: Vec<f32>) {
        let [model, head] = frames;
        let through = self.graph_back(weights, head, gradient);
        if let Some(Data::Rows(hidden)) = through.into_iter().flatten().next() {
            self.graph_back(weights, model, hidden);
        }
    }

    /// Runs a graph on its value parameters, `None` for tokens and positions.
    fn graph(
        &self,
        id: GraphId,
        bound: Vec<WeightId>,
        args: Vec<Option<Data>>,
        weights: &Weights,
    ) -> Frame {
        let graph = self.module.graph(id);
        let values = vec![None; graph.values.len()];
        let mut frame = Frame { graph: id, weights: bound, values, calls: HashMap::new() };
        for (value, data) in value_params(graph).zip(args) {
            frame.values[value.0 as usize] = data;
        }
        for inst in &graph.insts {
            let data = match inst.op {
                Op::Call(callee) => {
                    let bound = inst.args.iter().filter_map(|&arg| frame.weight(arg)).collect();
                    let args = values_of(&inst.args).map(|v| frame.values[v].clone()).collect();
                    let inner = self.graph(callee, bound, args, weights);
                    let result = inner.result(self.module).clone();
                    frame.calls.insert(inst.result, inner);
                    result
                }
                _ => self.inst(graph, &frame, inst, weights),
            };
            frame.values[inst.result.0 as usize] = Some(data);
        }
        frame
    }

    fn inst(&self, graph: &Graph, frame: &Frame, inst: &ir::Inst, weights: &Weights) -> Data {
        let args = &inst.args;
        let width =
            |n: usize| graph.arg_type(self.module, args[n]).row_width().unwrap_or(1) as usize;
        Data::Rows(match &inst.op {
            Op::Embed => {
                let table = frame.weight(args[1]).expect("verified: V3");
                let [_, columns] = weights.dims(table);
                let row = |&t: &i32| &weights.get(table)[t as usize * columns..][..columns];
                self.tokens.iter().flat_map(row).copied().collect()
            }
            Op::RmsNorm { eps, group } => {
                let group = group.map_or_else(|| width(0), |g| g as usize);
                let gain = args.get(1).and_then(|&a| frame.weight(a)).map(|w| weights.get(w));
                rms_norm(frame.rows(args[0]), gain, group, *eps)
            }
            Op::Linear => {
                let matrix = frame.weight(args[1]).expect("verified: V3");
                let [rows, columns] = weights.dims(matrix);
                let w = view(weights.get(matrix), columns).transpose();
                let mut y = product(view(frame.rows(args[0]), columns), w);
                if let Some(bias) = args.get(2).and_then(|&a| frame.weight(a)) {
                    y.chunks_mut(rows).for_each(|y| add(y, weights.get(bias)));
                }
                y
            }
            Op::QuantRows { group, range } => {
                let fixed = args.get(1).and_then(|&a| frame.weight(a)).map(|w| weights.get(w)[0]);
                quantised_rows(frame.rows(args[0]), width(0), *group as usize, *range, fixed)
            }
            Op::FakeQuant { levels, group } => {
                let range = args.get(1).and_then(|&a| frame.weight(a)).map(|w| weights.get(w)[0]);
                let one = |x: &[f32]| {
                    let grid = match range {
                        Some(range) => FakeGrid::fixed(range, *levels),
                        None => FakeGrid::of(x, *levels),
                    };
                    x.iter().map(|&x| grid.nearest(x)).collect::<Vec<f32>>()
                };
                frame.rows(args[0]).par_chunks(*group as usize).flat_map_iter(one).collect()
            }
            Op::Hadamard { size } => {
                let size = *size as usize;
                product(view(frame.rows(args[0]), size), view(&self.turns[&(size as u64)], size))
            }
            Op::Rope(r) => rope(frame.rows(args[0]), width(0), r, false),
            Op::KvAppend => {
                let [keys, values] = [1, 2].map(|n| frame.rows(args[n]).to_vec());
                return Data::Cache(keys, values);
            }
            Op::Attention { .. } => {
                let (keys, values) = frame.cache(args[1]);
                self.attention(graph, inst).run(frame.rows(args[0]), keys, values)
            }
            Op::Add => {
                let mut sum = frame.rows(args[0]).to_vec();
                add(&mut sum, frame.rows(args[1]));
                sum
            }
            Op::Scale { by } => scale(frame.rows(args[0]), *by),
            Op::Softcap { cap } => softcap(frame.rows(args[0]), *cap),
            Op::GateMul(gate) => gate_mul(*gate, frame.rows(args[0]), frame.rows(args[1])),
            Op::Call(_) => unreachable!("calls are run by `graph`"),
        })
    }

    fn attention(&self, graph: &Graph, inst: &ir::Inst) -> Attention {
        let Op::Attention { heads, scale, window, cap } = inst.op else {
            unreachable!("asked for attention")
        };
        let Type::Kv { heads: kv_heads, head, .. } = graph.arg_type(self.module, inst.args[1])
        else {
            unreachable!("verified: V4")
        };
        let [heads, kv_heads, head] = [heads, kv_heads, head].map(|n| n as usize);
        let window = window.map_or(usize::MAX, |window| window as usize);
        Attention { heads, kv_heads, head, scale: scale as f32, cap, window }
    }

    /// Gradients by the value parameters of a graph.
    fn graph_back(
        &self,
        weights: &mut Weights,
        frame: &Frame,
        gradient: Vec<f32>,
    ) -> Vec<Option<Data>> {
        let graph = self.module.graph(frame.graph);
        let mut slopes: Vec<Option<Data>> = vec![None; graph.values.len()];
        slopes[graph.result.0 as usize] = Some(Data::Rows(gradient));
        for inst in graph.insts.iter().rev() {
            let Some(slope) = slopes[inst.result.0 as usize].take() else { continue };
            let passed = match (&inst.op, slope) {
                (Op::Call(_), Data::Rows(dy)) => {
                    self.graph_back(weights, &frame.calls[&inst.result], dy)
                }
                (_, slope) => self.inst_back(graph, frame, inst, slope, weights),
            };
            for (value, passed) in values_of(&inst.args).zip(passed) {
                if let Some(passed) = passed {
                    merge(&mut slopes[value], passed);
                }
            }
        }
        value_params(graph).map(|v| slopes[v.0 as usize].take()).collect()
    }

    /// Gradients by the values that an instruction reads, in their order.
    fn inst_back(
        &self,
        graph: &Graph,
        frame: &Frame,
        inst: &ir::Inst,
        slope: Data,
        weights: &mut Weights,
    ) -> Vec<Option<Data>> {
        let args = &inst.args;
        let width =
            |n: usize| graph.arg_type(self.module, args[n]).row_width().unwrap_or(1) as usize;
        let dy = match slope {
            // Of `kv_append`: keys and values.
            Data::Cache(keys, values) => {
                return vec![Some(Data::Rows(keys)), Some(Data::Rows(values))];
            }
            Data::Rows(dy) => dy,
        };
        let rows = |x: Vec<f32>| Some(Data::Rows(x));
        match &inst.op {
            Op::Embed => vec![],
            Op::RmsNorm { eps, group } => {
                let group = group.map_or_else(|| width(0), |g| g as usize);
                let gain = args.get(1).and_then(|&a| frame.weight(a)).map(|w| weights.get(w));
                vec![rows(rms_norm_back(frame.rows(args[0]), gain, group, *eps, &dy))]
            }
            Op::Linear => {
                let matrix = frame.weight(args[1]).expect("verified: V3");
                let [count, columns] = weights.dims(matrix);
                let dy_rows = view(&dy, count);
                let dx = product(dy_rows, view(weights.get(matrix), columns));
                if weights.is_rounded(matrix) {
                    let x = view(frame.rows(args[0]), columns);
                    weights.back(matrix, product(dy_rows.transpose(), x));
                }
                vec![rows(dx)]
            }
            Op::QuantRows { .. } => vec![rows(dy)],
            Op::FakeQuant { group, .. } => {
                if let (1, Some(by)) = (args.len(), basis(graph, frame, inst, weights)) {
                    let (x, y) = (frame.rows(args[0]), frame.rows(Arg::Value(inst.result)));
                    let price = price_of_range(x, y, &dy, *group as usize);
                    weights.see(by, x, *group as usize, price);
                }
                vec![rows(dy)]
            }
            Op::Hadamard { size } => {
                let turn = view(&self.turns[size], *size as usize);
                vec![rows(product(view(&dy, *size as usize), turn.transpose()))]
            }
            Op::Rope(r) => vec![rows(rope(&dy, width(0), r, true))],
            Op::Attention { .. } => {
                let (keys, values) = frame.cache(args[1]);
                let shape = self.attention(graph, inst);
                let [dq, dk, dv] = shape.back(frame.rows(args[0]), keys, values, &dy);
                vec![rows(dq), Some(Data::Cache(dk, dv))]
            }
            Op::Add => vec![rows(dy.clone()), rows(dy)],
            Op::Scale { by } => vec![rows(scale(&dy, *by))],
            Op::Softcap { cap } => {
                vec![rows(softcap_back(frame.rows(Arg::Value(inst.result)), *cap, &dy))]
            }
            Op::GateMul(kind) => {
                let (gate, up) = (frame.rows(args[0]), frame.rows(args[1]));
                let (gate, up) = gate_mul_back(*kind, gate, up, &dy);
                vec![rows(gate), rows(up)]
            }
            Op::KvAppend | Op::Call(_) => unreachable!("handled before"),
        }
    }
}

impl Frame {
    fn result(&self, module: &Module) -> &Data {
        let result = module.graph(self.graph).result;
        self.values[result.0 as usize].as_ref().expect("a graph defines its result")
    }

    fn weight(&self, arg: Arg) -> Option<WeightId> {
        match arg {
            Arg::Weight(id) => Some(id),
            Arg::FormalWeight(i) => self.weights.get(i as usize).copied(),
            _ => None,
        }
    }

    fn data(&self, arg: Arg) -> &Data {
        let Arg::Value(v) = arg else { unreachable!("verified: V3") };
        self.values[v.0 as usize].as_ref().expect("verified: V2")
    }

    fn rows(&self, arg: Arg) -> &[f32] {
        let Data::Rows(rows) = self.data(arg) else { unreachable!("verified: V4") };
        rows
    }

    fn cache(&self, arg: Arg) -> (&[f32], &[f32]) {
        let Data::Cache(keys, values) = self.data(arg) else { unreachable!("verified: V4") };
        (keys, values)
    }
}

/// The rotation that turned the rows that an instruction rounds: that of what reads the result, or
/// of what made them.
fn basis(graph: &Graph, frame: &Frame, inst: &ir::Inst, weights: &Weights) -> Option<usize> {
    let of = |linear: &ir::Inst, side| match linear.op {
        Op::Linear => weights.basis(frame.weight(linear.args[1])?, side),
        _ => None,
    };
    let made = |i: &&ir::Inst| inst.args[0] == Arg::Value(i.result);
    let readers = reads(graph, inst.result);
    let mut readers = readers.iter().copied().chain(readers.iter().flat_map(|i| {
        // Rows may be rounded again on their way.
        let again = matches!(i.op, Op::QuantRows { .. });
        if again { reads(graph, i.result) } else { vec![] }
    }));
    let reader = readers.find_map(|i| of(i, Side::In));
    reader.or_else(|| graph.insts.iter().filter(made).find_map(|i| of(i, Side::Out)))
}

fn reads(graph: &Graph, value: ValueId) -> Vec<&ir::Inst> {
    graph.insts.iter().filter(|i| i.args.first() == Some(&Arg::Value(value))).collect()
}

/// What a gradient by rounded rows says of each group's range: an error is a share of the step, and the
/// step is in proportion to the range.
fn price_of_range(x: &[f32], y: &[f32], dy: &[f32], group: usize) -> f32 {
    let groups = x.par_chunks(group).zip(y.par_chunks(group)).zip(dy.par_chunks(group));
    let costs: Vec<(f32, f32)> = groups
        .map(|((x, y), dy)| {
            let cost: f32 = y.iter().zip(x).zip(dy).map(|((y, x), dy)| dy * (y - x)).sum();
            let (low, high) = ends(x);
            (cost, x[high] - x[low])
        })
        .collect();
    mean_price(costs.into_iter())
}

fn values_of(args: &[Arg]) -> impl Iterator<Item = usize> {
    args.iter().filter_map(|arg| match arg {
        Arg::Value(v) => Some(v.0 as usize),
        _ => None,
    })
}

fn value_params(graph: &Graph) -> impl Iterator<Item = ValueId> {
    graph.params.iter().filter_map(|param| match param {
        Param::Value(v) => Some(*v),
        _ => None,
    })
}

fn merge(sum: &mut Option<Data>, more: Data) {
    match (sum, more) {
        (Some(Data::Rows(sum)), Data::Rows(more)) => add(sum, &more),
        (Some(Data::Cache(keys, values)), Data::Cache(k, v)) => {
            add(keys, &k);
            add(values, &v);
        }
        (sum, more) => *sum = Some(more),
    }
}

/// The matrix of `hadamard`.
fn dense(order: u64) -> Vec<f32> {
    let matrix = Hadamard::new(order).expect("verified: V6");
    let row = |i: usize| {
        let mut row = vec![0f64; order as usize];
        row[i] = 1.0;
        matrix.apply(&mut row);
        row.into_iter().map(|x| x as f32).collect::<Vec<f32>>()
    };
    (0..order as usize).into_par_iter().flat_map_iter(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cost_what_errors_do() {
        // Errors of one quarter of each range, that cost what they are.
        let x = [0.0f32, 1.0, 4.0, 2.0, 1.0, 1.0, 3.0, 2.0];
        let y: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + [1.0, 0.5][i / 4]).collect();
        let dy: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
        // 4 · (range / 4)², so a quarter of the squared range.
        assert_eq!(price_of_range(&x, &y, &dy, 4), 0.25);
    }
}
