//! Writing the function of a graph: each step a call of its kernel on this worker's share, with
//! barriers where one step needs what another worker did.

use super::kernels::{Kernels, Operands, attention_shape, gate_of, group_of, rms_norm_shape, slot};
use super::{Clock, Inputs};
use crate::builder::{Func, Kernel, Val};
use crate::kernels::{fake_quant, int_panel, kv_append, panel};
use crate::pack::padded_rows;
use crate::plan::{GraphPlan, Place, Step, row_bytes, row_stride};
use crate::profile;
use crate::records::{frame, worker};
use crate::sync::share;
use cranelift_codegen::ir::types::*;
use ir::{Arg, DType, Graph, Op, Param, Rope, Type, ValueId};

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
    Private,
}

/// One matrix product: its kernel, rows of the matrix, steps of a panel, bytes between rows of `x`.
pub(super) struct Product<'k> {
    pub(super) kernel: &'k Func,
    pub(super) rows: u64,
    pub(super) steps: u64,
    pub(super) x_stride: u64,
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

    /// Address of an optional weight, or 0.
    fn optional_weight<'k>(&self, s: &Scope<'k>, arg: Option<&Arg>) -> Val<'k> {
        arg.map_or_else(|| s.k.i64(0), |a| self.weight(s, *a))
    }

    /// Addresses of keys and values of a slot.
    fn cache<'k>(&self, s: &Scope<'k>, arg: Arg) -> (Val<'k>, Val<'k>) {
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
    fn cache_of(&self, v: ValueId) -> Arg {
        let inst = self.graph.insts.iter().find(|i| i.result == v);
        inst.expect("a cache value comes from kv_append").args[0]
    }

    fn width(&self, v: ValueId) -> u64 {
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
            Op::Add | Op::Scale { .. } | Op::GateMul(_) => {
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
                let writes = [&writes[..], &[Memory::Private]].concat();
                self.meet(s, Cut::Other, &reads, &writes);
                self.attention(s, index);
            }
            Op::Call(_) => unreachable!("only @model calls, and it writes calls itself"),
        }
    }

    pub(super) fn operand(&self, index: usize, n: usize) -> ValueId {
        match self.graph.insts[index].args[n] {
            Arg::Value(v) => v,
            _ => unreachable!("operand kinds are verified"),
        }
    }

    fn linear(&self, s: &Scope, index: usize, result: ValueId, residual: Option<ValueId>) {
        let inst = &self.graph.insts[index];
        let k = s.k;
        let product = self.product(index);
        let panels = k.i64((padded_rows(product.rows) / panel::PANEL_ROWS) as i64);
        let (first, end) = share(s.record, panels);
        let args = [
            self.weight(s, inst.args[1]),
            self.at(s, self.operand(index, 0)),
            self.at(s, result),
            self.optional_weight(s, inst.args.get(2)),
            residual.map_or_else(|| k.i64(0), |v| self.at(s, v)),
            k.i64(product.steps as i64),
            k.i64(product.x_stride as i64),
            k.i64(row_stride(product.rows) as i64),
            s.rows,
            first,
            end,
            s.record.load(I64, worker::PRIVATE),
        ];
        k.call(product.kernel, &args);
    }

    /// What a `linear` multiplies, and with which kernel.
    pub(super) fn product(&self, index: usize) -> Product<'_> {
        let inst = &self.graph.insts[index];
        let module = self.inputs.module;
        let x = self.graph.arg_type(module, inst.args[0]);
        let (dtype, width) = x.as_rows().expect("verified");
        let (matrix, dims) =
            self.graph.arg_type(module, inst.args[1]).as_weight().expect("verified");
        let steps = match (dtype, matrix) {
            (DType::Int(format), _) => width / format.group_of(width),
            (_, DType::Int(format)) => width / int_panel::Shape::packed(format).group,
            _ => width,
        };
        Product {
            kernel: &self.kernels.linear[&Operands::of(module, self.graph, inst)],
            rows: dims[0],
            steps,
            x_stride: row_bytes(&x).expect("rows have strides"),
        }
    }

    fn row_wise(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let (k, x) = (s.k, self.operand(index, 0));
        let (first, end) = share(s.record, s.rows);
        let stride = self.stride(inst.result);
        let y = self.at(s, inst.result) + first * stride;
        let rows = end - first;
        match &inst.op {
            Op::Embed => {
                let ty = self.graph.arg_type(self.inputs.module, inst.args[1]);
                let (dtype, dims) = ty.as_weight().expect("verified");
                let tokens = self.at(s, x) + (first << 2);
                let table = self.weight(s, inst.args[1]);
                let args = [table, tokens, y, rows, k.i64(dims[1] as i64), k.i64(stride)];
                k.call(&self.kernels.embed[&dtype], &args);
            }
            Op::RmsNorm { eps, group } => {
                let types: Vec<Type> =
                    inst.args.iter().map(|a| self.graph.arg_type(self.inputs.module, *a)).collect();
                let shape = rms_norm_shape(*eps, *group, &types);
                let made = self.kernels.rms_norm.iter().find(|(known, _)| *known == shape);
                let gain = self.optional_weight(s, inst.args.get(1));
                let x = self.at(s, x) + first * stride;
                let f = &made.expect("kernels were collected").1;
                k.call(f, &[x, y, gain, rows, k.i64(stride)]);
            }
            Op::QuantRows { group, range } => {
                let x_stride = self.stride(x);
                let groups = self.width(x) / u64::from(*group);
                let x = self.at(s, x) + first * x_stride;
                let strides = [k.i64(x_stride), k.i64(stride)];
                let given = self.optional_weight(s, inst.args.get(1));
                let args = [x, y, k.i64(groups as i64), rows, strides[0], strides[1], given];
                let f = &self.kernels.quant_rows[&(u64::from(*group), *range)];
                k.call(f, &args[..f.signature.params.len()]);
            }
            Op::FakeQuant { bits, group } => {
                let shape =
                    fake_quant::Shape { bits: *bits, group: *group, fixed: inst.args.len() > 1 };
                let groups = k.i64((self.width(x) / u64::from(*group)) as i64);
                let range = self.optional_weight(s, inst.args.get(1));
                let x = self.at(s, x) + first * stride;
                let args = [x, y, range, groups, rows, k.i64(stride)];
                k.call(&self.kernels.fake_quant[&shape], &args);
            }
            Op::Hadamard { size } => {
                let blocks = k.i64((self.width(x) / size) as i64);
                let x = self.at(s, x) + first * stride;
                k.call(&self.kernels.hadamard[size], &[x, y, blocks, rows, k.i64(stride)]);
            }
            _ => unreachable!("row_wise serves the operations above"),
        }
    }

    /// `rms_norm`, `silu_mul` or `gelu_mul` together with the `quant_rows` that takes its result.
    fn quantised(&self, s: &Scope, index: usize, quant: usize) {
        let (inst, result) = (&self.graph.insts[index], self.graph.insts[quant].result);
        let (k, x) = (s.k, self.operand(index, 0));
        let group = group_of(&self.graph.insts[quant].op);
        let (x_stride, y_stride) = (self.stride(x), self.stride(result));
        let (x_at, y_at) = (self.at(s, x), self.at(s, result));
        let strides = [k.i64(x_stride), k.i64(y_stride)];
        if let Op::RmsNorm { eps, group: whole } = &inst.op {
            let types: Vec<Type> =
                inst.args.iter().map(|a| self.graph.arg_type(self.inputs.module, *a)).collect();
            let shape = rms_norm_shape(*eps, *whole, &types);
            let mut made = self.kernels.rms_norm_quant.iter();
            let made = made.find(|(known, g, _)| (*known, *g) == (shape, group));
            let gain = self.optional_weight(s, inst.args.get(1));
            let (first, end) = share(s.record, s.rows);
            let (x, y) = (x_at + first * x_stride, y_at + first * y_stride);
            let args = [x, y, gain, end - first, strides[0], strides[1]];
            k.call(&made.expect("kernels were collected").2, &args);
        } else {
            let up = self.at(s, self.operand(index, 1));
            let (first, end) = share(s.record, k.i64((self.width(x) / group) as i64));
            let args = [x_at, up, y_at, s.rows, strides[0], strides[1], first, end];
            k.call(&self.kernels.gate_mul_quant[&(gate_of(&inst.op), group)], &args);
        }
    }

    /// Two products, `silu_mul` or `gelu_mul`, and `quant_rows`; a worker takes whole groups.
    fn gated(&self, s: &Scope, [gate, up]: [usize; 2], mul: usize, quant: usize) {
        let (k, result) = (s.k, self.graph.insts[quant].result);
        let group = group_of(&self.graph.insts[quant].op);
        let product = self.product(gate);
        let (first, end) = share(s.record, k.i64((product.rows / group) as i64));
        let private = s.record.load(I64, worker::PRIVATE);
        let args = [
            self.weight(s, self.graph.insts[gate].args[1]),
            self.weight(s, self.graph.insts[up].args[1]),
            self.at(s, self.operand(gate, 0)),
            self.at(s, result),
            k.i64(product.steps as i64),
            k.i64(product.x_stride as i64),
            k.i64(self.stride(result)),
            s.rows,
            first,
            end,
            private,
            private + self.kernels.room_bytes as i64,
        ];
        let operands = Operands::of(self.inputs.module, self.graph, &self.graph.insts[gate]);
        let act = gate_of(&self.graph.insts[mul].op);
        k.call(&self.kernels.gated[&(operands, act, group)], &args);
    }

    fn rope(&self, s: &Scope, index: usize, r: &Rope) {
        let (x, y) = (self.operand(index, 0), self.graph.insts[index].result);
        let width = self.width(x);
        let (first, end) = share(s.record, s.rows);
        let table = s.scratch + self.kernels.angles_at(r) as i64;
        let stride = s.k.i64(row_stride(width) as i64);
        let f = &self.kernels.rope[&(width, r.head)];
        s.k.call(f, &[self.at(s, x), self.at(s, y), table, first, end, stride]);
    }

    fn element_wise(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let a = self.operand(index, 0);
        let stride = row_stride(self.width(a)) as i64;
        // Shares are whole vectors of four.
        let (first, end) = share(s.record, s.k.i64(stride / 16));
        let (first, end) = (first << 4, end << 4);
        let (a, y, stride) = (self.at(s, a), self.at(s, inst.result), s.k.i64(stride));
        let f = match &inst.op {
            Op::Scale { by } => {
                let f = self.kernels.scale.as_ref().expect("kernels were collected");
                let by = s.k.i64((*by as f32).to_bits().into());
                s.k.call(f, &[a, y, s.rows, stride, first, end, by]);
                return;
            }
            Op::GateMul(gate) => &self.kernels.gate_mul[gate],
            _ => &self.kernels.add,
        };
        let b = self.at(s, self.operand(index, 1));
        s.k.call(f, &[a, b, y, s.rows, stride, first, end]);
    }

    fn kv_append(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let (keys, values) = self.cache(s, inst.args[0]);
        let (new_k, new_v) = (self.operand(index, 1), self.operand(index, 2));
        let slot = slot(
            &self.graph.arg_type(self.inputs.module, inst.args[0]),
            self.inputs.module.meta.context,
        );
        let panel = kv_append::PANEL_POSITIONS as i64;
        let before = s.position / panel;
        let all = (s.position + s.rows - 1) / panel + 1 - before;
        let (first, end) = share(s.record, all);
        let stride = s.k.i64(row_stride(self.width(new_k)) as i64);
        let (new_k, new_v) = (self.at(s, new_k), self.at(s, new_v));
        let args =
            [new_k, new_v, keys, values, s.rows, s.position, stride, before + first, before + end];
        s.k.call(&self.kernels.kv_append[&slot], &args);
    }

    fn attention(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let (q, kv) = (self.operand(index, 0), self.operand(index, 1));
        let (q_stride, out_stride) = (self.stride(q), self.stride(inst.result));
        let slot = slot(&self.graph.value(kv).ty, self.inputs.module.meta.context);
        let shape = attention_shape(&inst.op, slot);
        let made = self.kernels.attention.iter().find(|(known, _)| *known == shape);
        let (keys, values) = self.cache(s, self.cache_of(kv));
        let args = [
            self.at(s, q),
            self.at(s, inst.result),
            keys,
            values,
            s.rows,
            s.position,
            s.k.i64(q_stride),
            s.k.i64(out_stride),
            s.record.load(I64, worker::PRIVATE),
            s.record.load(I64, worker::INDEX),
            s.record.load(I64, worker::WORKERS),
        ];
        s.k.call(&made.expect("kernels were collected").1, &args);
    }
}
