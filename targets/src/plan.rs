//! The plan of a graph: its instructions as steps, and where each value lives in scratch.

use crate::kernels::panel::PANEL_ROWS;
use crate::kernels::{gated, quant_rows};
use ir::{Arg, DType, Graph, Op, Param, RowRange, Type, ValueId};

/// One step: an instruction, or several that are done in one.
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
    /// `linear` and the `softcap` that alone takes its result.
    LinearSoftcap {
        /// Index of the `linear`.
        linear: usize,
        /// Index of the `softcap`.
        softcap: usize,
    },
    /// `rms_norm` of whole rows, `silu_mul` or `gelu_mul`, and the `quant_rows` that alone takes its result.
    Quantised {
        /// Index of the first.
        inst: usize,
        /// Index of the `quant_rows`.
        quant: usize,
    },
    /// Two `linear` of the same quantised rows without bias, the `silu_mul` or `gelu_mul` that alone
    /// takes both, and the `quant_rows` that alone takes that.
    Gated {
        /// Index of the `linear` through which the sigmoid goes.
        gate: usize,
        /// Index of the other `linear`.
        up: usize,
        /// Index of the `silu_mul` or `gelu_mul`.
        mul: usize,
        /// Index of the `quant_rows`.
        quant: usize,
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
    /// Nowhere: a slot of the cache, or what a step of several makes on its way.
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

/// The steps of a graph, in order.
pub fn steps(graph: &Graph) -> Vec<Step> {
    let mut taken = vec![false; graph.insts.len()];
    let mut steps = vec![];
    for i in 0..graph.insts.len() {
        let several = linear_add(graph, i).or_else(|| linear_softcap(graph, i));
        let several = several.or_else(|| gated(graph, i)).or_else(|| quantised(graph, i));
        let step = several.unwrap_or(Step::Inst(i));
        step.insts().into_iter().filter(|inst| *inst != i).for_each(|inst| taken[inst] = true);
        steps.push(step);
    }
    // What stood before as a step of several belongs to a larger one.
    let taken_by = |s: &Step| s.insts().iter().all(|i| taken[*i]);
    steps.retain(|s| !taken_by(s));
    steps
}

/// The instruction that defines a value, if nothing but one operand reads it.
fn only_read_once(graph: &Graph, v: ValueId) -> Option<usize> {
    let args = graph.insts.iter().flat_map(|i| &i.args).filter(|a| **a == Arg::Value(v));
    let reads = args.count() + usize::from(graph.result == v);
    graph.insts.iter().position(|i| i.result == v).filter(|_| reads == 1)
}

/// An `add` whose operand is a `linear` without bias.
fn linear_add(graph: &Graph, add: usize) -> Option<Step> {
    let (Op::Add, [Arg::Value(a), Arg::Value(b)]) =
        (&graph.insts[add].op, &graph.insts[add].args[..])
    else {
        return None;
    };
    [(*b, *a), (*a, *b)].into_iter().find_map(|(product, residual)| {
        let linear = only_read_once(graph, product)?;
        let plain = graph.insts[linear].op == Op::Linear && graph.insts[linear].args.len() == 2;
        plain.then_some(Step::LinearAdd { linear, add, residual })
    })
}

/// A `softcap` of a `linear`.
fn linear_softcap(graph: &Graph, softcap: usize) -> Option<Step> {
    let (Op::Softcap { .. }, [Arg::Value(product)]) =
        (&graph.insts[softcap].op, &graph.insts[softcap].args[..])
    else {
        return None;
    };
    let linear = only_read_once(graph, *product)?;
    let plain = graph.insts[linear].op == Op::Linear;
    plain.then_some(Step::LinearSoftcap { linear, softcap })
}

/// A `quant_rows` of a `silu_mul` or `gelu_mul` of two products of the same quantised rows.
fn gated(graph: &Graph, quant: usize) -> Option<Step> {
    let Step::Quantised { inst: mul, quant } = quantised(graph, quant)? else { return None };
    let (Op::GateMul(_), &[Arg::Value(a), Arg::Value(b)]) =
        (&graph.insts[mul].op, &graph.insts[mul].args[..])
    else {
        return None;
    };
    let Op::QuantRows { group, .. } = graph.insts[quant].op else { return None };
    let (gate, up) = (only_read_once(graph, a)?, only_read_once(graph, b)?);
    // One kernel serves both matrices.
    let operands = [gate, up].map(|i| match (&graph.insts[i].op, &graph.insts[i].args[..]) {
        (Op::Linear, &[Arg::Value(x), Arg::FormalWeight(w)]) => {
            Some((x, &graph.weights[w as usize].ty))
        }
        _ => None,
    });
    let ints = |x: ValueId| matches!(graph.value(x).ty.as_rows(), Some((DType::Int(_), _)));
    let same = operands[0] == operands[1] && operands[0].is_some_and(|(x, _)| ints(x));
    (same && gated::fits(group.into())).then_some(Step::Gated { gate, up, mul, quant })
}

/// A `quant_rows` whose operand can be quantised as it is made: each group by itself.
fn quantised(graph: &Graph, quant: usize) -> Option<Step> {
    let (Op::QuantRows { range: RowRange::Group, .. }, [Arg::Value(x)]) =
        (&graph.insts[quant].op, &graph.insts[quant].args[..])
    else {
        return None;
    };
    let inst = only_read_once(graph, *x)?;
    let takes = matches!(graph.insts[inst].op, Op::RmsNorm { group: None, .. } | Op::GateMul(_));
    takes.then_some(Step::Quantised { inst, quant })
}

impl Step {
    /// The instructions that the step does.
    pub fn insts(self) -> Vec<usize> {
        match self {
            Step::Inst(i) => vec![i],
            Step::LinearAdd { linear, add, .. } => vec![linear, add],
            Step::LinearSoftcap { linear, softcap } => vec![linear, softcap],
            Step::Quantised { inst, quant } => vec![inst, quant],
            Step::Gated { gate, up, mul, quant } => vec![gate, up, mul, quant],
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
            Step::LinearAdd { add: last, .. }
            | Step::LinearSoftcap { softcap: last, .. }
            | Step::Quantised { quant: last, .. }
            | Step::Gated { quant: last, .. } => graph.insts[last].result,
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
            Step::LinearSoftcap { linear, .. } => values(linear).collect(),
            Step::Quantised { inst, .. } => values(inst).collect(),
            Step::Gated { gate, .. } => values(gate).collect(),
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
