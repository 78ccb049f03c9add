//! The plan of a graph: its instructions as steps, and where each value lives in scratch.

use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::quant_rows;
use ir::{Arg, DType, Graph, Op, Param, Type, ValueId};

/// One step: an instruction, or a `linear` with the `add` that takes its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An instruction alone.
    Inst(usize),
    /// `linear` and `add` in one: the sum of `residual` and the product.
    LinearAdd {
        /// Index of the `linear`.
        linear: usize,
        /// Index of the `add`.
        add: usize,
        /// The other operand of the `add`.
        residual: ValueId,
    },
}

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The n-th value parameter of the emitted function.
    Param(u32),
    /// The address given for the result.
    Result,
    /// Offset in scratch.
    Scratch(u64),
    /// Nowhere: a slot of the cache, or a product that an `add` takes.
    None,
}

/// Steps and places of one graph.
#[derive(Clone, Debug)]
pub struct GraphPlan {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Place of each value.
    pub places: Vec<Place>,
    /// First offset in scratch after this graph's values.
    pub end: u64,
}

/// Bytes from row to row of an `f32[T, width]`: whole panels.
pub fn row_stride(width: u64) -> u64 {
    4 * width.next_multiple_of(PANEL_ROWS)
}

/// Bytes from row to row of a value that is rows; `None` for one that is not.
pub fn row_bytes(ty: &Type) -> Option<u64> {
    match ty.as_rows()? {
        (DType::F32, width) => Some(row_stride(width)),
        (DType::Int(format), width) => Some(quant_rows::row_stride(width, format.group_of(width))),
        _ => None,
    }
}

/// Plans a graph whose values may use scratch from `start` on, for up to `rows` rows.
pub fn plan(graph: &Graph, start: u64, rows: u64) -> GraphPlan {
    let steps = steps(graph);
    let mut plan = GraphPlan { steps, places: vec![Place::None; graph.values.len()], end: start };
    let mut params = 0;
    for param in &graph.params {
        if let Param::Value(v) = param {
            plan.places[v.0 as usize] = Place::Param(params);
            params += 1;
        }
    }
    place_values(graph, start, rows, &mut plan);
    plan
}

fn steps(graph: &Graph) -> Vec<Step> {
    let uses = |v: ValueId| {
        let args = graph.insts.iter().flat_map(|i| &i.args).filter(|a| **a == Arg::Value(v));
        args.count() + usize::from(graph.result == v)
    };
    let producer = |v: ValueId| graph.insts.iter().position(|i| i.result == v);
    let mut taken = vec![false; graph.insts.len()];
    let mut steps = vec![];
    for (i, inst) in graph.insts.iter().enumerate() {
        let mut step = Step::Inst(i);
        if let (Op::Add, [Arg::Value(a), Arg::Value(b)]) = (&inst.op, &inst.args[..]) {
            for (product, residual) in [(*b, *a), (*a, *b)] {
                let Some(linear) = producer(product) else { continue };
                let plain = graph.insts[linear].args.len() == 2;
                if graph.insts[linear].op == Op::Linear && plain && uses(product) == 1 {
                    taken[linear] = true;
                    step = Step::LinearAdd { linear, add: i, residual };
                    break;
                }
            }
        }
        steps.push(step);
    }
    steps.retain(|s| !matches!(s, Step::Inst(i) if taken[*i]));
    steps
}

impl Step {
    /// The instructions that the step does.
    pub fn insts(self) -> Vec<usize> {
        match self {
            Step::Inst(i) => vec![i],
            Step::LinearAdd { linear, add, .. } => vec![linear, add],
        }
    }

    /// What the step is called: its first operation.
    pub fn name(self, graph: &Graph) -> &'static str {
        graph.insts[self.insts()[0]].op.name()
    }

    /// The value that the step defines.
    pub fn result(self, graph: &Graph) -> ValueId {
        match self {
            Step::Inst(i) => graph.insts[i].result,
            Step::LinearAdd { add, .. } => graph.insts[add].result,
        }
    }

    /// The values that the step reads.
    pub fn reads(self, graph: &Graph) -> Vec<ValueId> {
        let values = |i: usize| {
            graph.insts[i].args.iter().filter_map(|a| match a {
                Arg::Value(v) => Some(*v),
                _ => None,
            })
        };
        match self {
            Step::Inst(i) => values(i).collect(),
            Step::LinearAdd { linear, residual, .. } => values(linear).chain([residual]).collect(),
        }
    }
}

/// First fit by step order: a place is free again after the last step that reads its value.
fn place_values(graph: &Graph, start: u64, rows: u64, plan: &mut GraphPlan) {
    let last_read = |v: ValueId| {
        plan.steps.iter().rposition(|s| s.reads(graph).contains(&v)).unwrap_or(usize::MAX)
    };
    let last: Vec<usize> = (0..graph.values.len()).map(|v| last_read(ValueId(v as u32))).collect();
    let mut live: Vec<(u64, u64, usize)> = vec![]; // start, end, last reading step
    for (at, step) in plan.steps.iter().enumerate() {
        live.retain(|(_, _, last)| *last >= at);
        let v = step.result(graph);
        if v == graph.result {
            plan.places[v.0 as usize] = Place::Result;
            continue;
        }
        let Some(stride) = row_bytes(&graph.value(v).ty) else { continue };
        let last_read = last[v.0 as usize].max(at);
        if let Some(place) = in_place(graph, *step, &plan.places)
            && let Some(own) =
                live.iter_mut().find(|(start, _, last)| (*start, *last) == (place, at))
        {
            own.2 = last_read;
            plan.places[v.0 as usize] = Place::Scratch(place);
            continue;
        }
        let size = (rows * stride).next_multiple_of(64);
        let offset = first_fit(&live, start, size);
        live.push((offset, offset + size, last_read));
        live.sort_unstable();
        plan.places[v.0 as usize] = Place::Scratch(offset);
        plan.end = plan.end.max(offset + size);
    }
}

/// Where a step may leave its result because nothing reads its operand any more: `rope` and
/// `hadamard` write each row over the one they have read, and so need no barrier before.
fn in_place(graph: &Graph, step: Step, places: &[Place]) -> Option<u64> {
    let Step::Inst(i) = step else { return None };
    match (&graph.insts[i].op, graph.insts[i].args.first()) {
        (Op::Rope(_) | Op::Hadamard { .. }, Some(Arg::Value(x))) => match places[x.0 as usize] {
            Place::Scratch(at) => Some(at),
            Place::Param(_) | Place::Result | Place::None => None,
        },
        _ => None,
    }
}

fn first_fit(live: &[(u64, u64, usize)], start: u64, size: u64) -> u64 {
    let mut at = start;
    for &(from, to, _) in live {
        if at + size <= from {
            break;
        }
        at = at.max(to);
    }
    at
}
