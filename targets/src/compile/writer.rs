//! Writing the function of a graph: its steps one after the other, with barriers where one needs what
//! another worker did.

use super::kernels::Kernels;
use super::{Clock, Inputs};
use crate::builder::{Kernel, Val};
use crate::plan::{GraphPlan, Place, Step, row_bytes};
use crate::profile;
use crate::records::{frame, worker};
use crate::sync::share;
use cranelift_codegen::ir::types::*;
use ir::{Arg, Graph, Op, Param, Type, ValueId};

/// How a step is cut into shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// By rows: two such steps in a row need no barrier.
    Rows,
    /// Some other way.
    Other,
}

/// Memory that steps share, for finding out where barriers are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Rows of a value: where they are, and bytes from one to the next.
    Value(Place, u64),
    Cache(Arg),
    Angles,
}

impl Memory {
    /// Whether both have a byte in common, if values have up to `rows` rows. Places of scratch are
    /// used again by other values, of other widths, so that they may overlap in part.
    fn meets(self, other: Memory, rows: u64) -> bool {
        match (self, other) {
            (
                Memory::Value(Place::Scratch(a), a_stride),
                Memory::Value(Place::Scratch(b), b_stride),
            ) => a < b + rows * b_stride && b < a + rows * a_stride,
            (Memory::Value(a, _), Memory::Value(b, _)) => a == b,
            _ => self == other,
        }
    }
}

/// Writes the function of one graph.
pub(super) struct Writer<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) kernels: &'a Kernels,
    pub(super) graph: &'a Graph,
    pub(super) plan: &'a GraphPlan,
    /// What measures the steps, and the graph's first site.
    pub(super) clock: Option<(&'a Clock, u64)>,
}

/// Where a function's parameters are while its body is written.
pub(super) struct Scope<'k> {
    pub(super) k: &'k Kernel<'k>,
    pub(super) record: Val<'k>,
    pub(super) row: Val<'k>,
    pub(super) params: Vec<Val<'k>>,
    pub(super) result: Val<'k>,
    pub(super) scratch: Val<'k>,
    pub(super) weights: Val<'k>,
    pub(super) state: Val<'k>,
    pub(super) rows: Val<'k>,
    pub(super) position: Val<'k>,
    /// What steps since the last barrier touched: memory, cut, whether written.
    since: Vec<(Memory, Cut, bool)>,
}

impl<'k> Scope<'k> {
    pub(super) fn new(
        k: &'k Kernel<'k>,
        record: Val<'k>,
        row: Val<'k>,
        params: Vec<Val<'k>>,
        result: Val<'k>,
    ) -> Scope<'k> {
        let scratch = record.load(I64, worker::FRAME);
        Scope {
            k,
            record,
            row,
            params,
            result,
            scratch,
            weights: scratch.load(I64, frame::WEIGHTS),
            state: scratch.load(I64, frame::STATE),
            rows: record.load(I64, worker::ROWS),
            position: record.load(I64, worker::POSITION),
            since: vec![],
        }
    }
}

impl Writer<'_> {
    pub(super) fn value_params(&self) -> impl Iterator<Item = ValueId> {
        self.graph.params.iter().filter_map(|p| match p {
            Param::Value(v) => Some(*v),
            Param::Weight(_) | Param::Cache(_) => None,
        })
    }

    pub(super) fn place(&self, v: ValueId) -> Place {
        self.plan.places[v.0 as usize]
    }

    fn memory(&self, v: ValueId) -> Memory {
        let stride = row_bytes(&self.graph.value(v).ty);
        Memory::Value(self.place(v), stride.unwrap_or(0))
    }

    /// Address of a value.
    pub(super) fn at<'k>(&self, s: &Scope<'k>, v: ValueId) -> Val<'k> {
        match self.place(v) {
            Place::Param(i) => s.params[i as usize],
            Place::Result => s.result,
            Place::Scratch(offset) => s.scratch + offset as i64,
            Place::None => unreachable!("{} has no address", self.graph.value(v).name),
        }
    }

    /// Offset in the row of bindings of a formal: weights take one word, cache slots two.
    fn binding(&self, formal: Param) -> i32 {
        let mut at = 0;
        for param in &self.graph.params {
            if *param == formal {
                return at;
            }
            at += match param {
                Param::Value(_) => 0,
                Param::Weight(_) => 8,
                Param::Cache(_) => 16,
            };
        }
        unreachable!("formals are parameters")
    }

    /// Address of a weight.
    pub(super) fn weight<'k>(&self, s: &Scope<'k>, arg: Arg) -> Val<'k> {
        match arg {
            Arg::Weight(id) => s.weights + self.inputs.weights.offset(id) as i64,
            Arg::FormalWeight(i) => {
                s.weights + s.row.load_constant(I64, self.binding(Param::Weight(i)))
            }
            _ => unreachable!("operand kinds are verified"),
        }
    }

    /// Types of the operands of an instruction.
    pub(super) fn types(&self, index: usize) -> Vec<Type> {
        let args = self.graph.insts[index].args.iter();
        args.map(|arg| self.graph.arg_type(self.inputs.module, *arg)).collect()
    }

    /// An operand that is a value.
    pub(super) fn operand(&self, index: usize, n: usize) -> ValueId {
        match self.graph.insts[index].args[n] {
            Arg::Value(v) => v,
            _ => unreachable!("operand kinds are verified"),
        }
    }

    /// Address of an optional weight, or 0.
    pub(super) fn optional_weight<'k>(&self, s: &Scope<'k>, arg: Option<&Arg>) -> Val<'k> {
        arg.map_or_else(|| s.k.i64(0), |a| self.weight(s, *a))
    }

    /// Addresses of keys and values of a slot.
    pub(super) fn cache<'k>(&self, s: &Scope<'k>, arg: Arg) -> (Val<'k>, Val<'k>) {
        match arg {
            Arg::Cache(id) => {
                let (keys, values) = self.inputs.slots[id.0 as usize];
                (s.state + keys as i64, s.state + values as i64)
            }
            Arg::FormalCache(i) => {
                let at = self.binding(Param::Cache(i));
                (s.state + s.row.load_constant(I64, at), s.state + s.row.load_constant(I64, at + 8))
            }
            _ => unreachable!("operand kinds are verified"),
        }
    }

    /// The slot that a cache value stands for.
    pub(super) fn cache_of(&self, v: ValueId) -> Arg {
        let inst = self.graph.insts.iter().find(|i| i.result == v);
        inst.expect("a cache value comes from kv_append").args[0]
    }

    pub(super) fn width(&self, v: ValueId) -> u64 {
        self.graph.value(v).ty.row_width().expect("verified")
    }

    /// Bytes from row to row of a value.
    pub(super) fn stride(&self, v: ValueId) -> i64 {
        row_bytes(&self.graph.value(v).ty).expect("rows have strides") as i64
    }

    pub(super) fn barrier(&self, s: &mut Scope) {
        let record = s.record;
        s.k.call(&self.kernels.barrier, &[record]);
        self.mark(s, 0);
        s.since.clear();
    }

    /// Books the time since the last mark: 0 is waiting, then come the steps.
    fn mark(&self, s: &Scope, site: usize) {
        if let Some((clock, first)) = self.clock {
            profile::mark(s.record, &clock.ticks, &clock.profile, first + site as u64);
        }
    }

    /// From here on time counts for a call, or with `None` for what lies outside of calls.
    pub(super) fn start_clock(&self, s: &Scope, call: Option<u64>) {
        if let Some((clock, _)) = self.clock {
            clock.start(s.record, call);
        }
    }

    /// A barrier if this step meets memory that a step since the last one touched otherwise.
    fn meet(&self, s: &mut Scope, cut: Cut, reads: &[Memory], writes: &[Memory]) {
        let rows = self.inputs.chunk;
        let conflict = s.since.iter().any(|&(memory, before, written)| {
            let by_rows = cut == Cut::Rows && before == Cut::Rows;
            // The same rows in the same place: each worker meets only what it did itself.
            let met = |m: &Memory| m.meets(memory, rows) && !(by_rows && *m == memory);
            writes.iter().any(met) || (written && reads.iter().any(met))
        });
        if conflict {
            self.barrier(s);
        }
        s.since.extend(reads.iter().map(|m| (*m, cut, false)));
        s.since.extend(writes.iter().map(|m| (*m, cut, true)));
    }

    /// Tables of rotary angles, once per run.
    pub(super) fn angles(&self, s: &mut Scope) {
        for (_, f, offset) in &self.kernels.angles {
            let (first, end) = share(s.record, s.rows);
            let table = s.scratch + *offset as i64;
            s.k.call(f, &[table, first, end, s.position]);
        }
        self.meet(s, Cut::Rows, &[], &[Memory::Angles]);
    }

    /// A step of the plan, with the barrier that it needs before.
    pub(super) fn step(&self, s: &mut Scope, at: usize) {
        self.write_step(s, self.plan.steps[at]);
        self.mark(s, 1 + at);
        self.observe(s, self.plan.steps[at].result(self.graph));
    }

    fn write_step(&self, s: &mut Scope, step: Step) {
        let reads: Vec<Memory> = step.reads(self.graph).iter().map(|v| self.memory(*v)).collect();
        let result = step.result(self.graph);
        let writes = [self.memory(result)];
        let index = match step {
            Step::LinearAdd { linear, residual, .. } => {
                self.meet(s, Cut::Other, &reads, &writes);
                return self.linear(s, linear, result, Some(residual));
            }
            Step::LinearSoftcap { linear, softcap } => {
                self.meet(s, Cut::Other, &reads, &writes);
                return self.linear_softcap(s, linear, softcap);
            }
            Step::Quantised { inst, quant } => {
                let by_groups = matches!(self.graph.insts[inst].op, Op::GateMul(_));
                let cut = if by_groups { Cut::Other } else { Cut::Rows };
                self.meet(s, cut, &reads, &writes);
                return self.quantised(s, inst, quant);
            }
            Step::Gated { gate, up, mul, quant } => {
                self.meet(s, Cut::Other, &reads, &writes);
                return self.gated(s, [gate, up], mul, quant);
            }
            Step::Inst(i) => i,
        };
        let inst = &self.graph.insts[index];
        match &inst.op {
            Op::Linear => {
                self.meet(s, Cut::Other, &reads, &writes);
                self.linear(s, index, result, None);
            }
            Op::Embed
            | Op::RmsNorm { .. }
            | Op::QuantRows { .. }
            | Op::FakeQuant { .. }
            | Op::Hadamard { .. } => {
                self.meet(s, Cut::Rows, &reads, &writes);
                self.row_wise(s, index);
            }
            Op::Rope(r) => {
                let reads = [&reads[..], &[Memory::Angles]].concat();
                self.meet(s, Cut::Rows, &reads, &writes);
                self.rope(s, index, r);
            }
            Op::Add | Op::Scale { .. } | Op::Softcap { .. } | Op::GateMul(_) => {
                self.meet(s, Cut::Other, &reads, &writes);
                self.element_wise(s, index);
            }
            Op::KvAppend => {
                self.meet(s, Cut::Other, &reads, &[Memory::Cache(inst.args[0])]);
                self.kv_append(s, index);
            }
            Op::Attention { .. } => {
                let Arg::Value(kv) = inst.args[1] else { unreachable!("verified") };
                let reads = [&reads[..], &[Memory::Cache(self.cache_of(kv))]].concat();
                self.meet(s, Cut::Other, &reads, &writes);
                self.attention(s, index);
            }
            Op::Call(_) => unreachable!("only @model calls, and it writes calls itself"),
        }
    }
}
