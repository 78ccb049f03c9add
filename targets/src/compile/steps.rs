//! Steps as calls of their kernels, each on this worker's share.

use super::kernels::{Operands, attention_shape, gate_of, group_of, rms_norm_shape, slot};
use super::writer::{Scope, Writer};
use crate::builder::Func;
use crate::kernels::elementwise::softcap_bits;
use crate::kernels::{fake_quant, int_panel, kv_append, panel};
use crate::pack::padded_rows;
use crate::plan::{row_bytes, row_stride};
use crate::records::worker;
use crate::sync::share;
use cranelift_codegen::ir::types::*;
use ir::{DType, Op, Rope, ValueId};

/// One matrix product: its kernel, rows of the matrix, steps of a panel, bytes between rows of `x`.
pub(super) struct Product<'k> {
    pub(super) kernel: &'k Func,
    pub(super) rows: u64,
    pub(super) steps: u64,
    pub(super) x_stride: u64,
}

/// The cap of a `softcap`.
pub(super) fn cap_of(op: &Op) -> f64 {
    let Op::Softcap { cap } = *op else { unreachable!("the plan names a softcap") };
    cap
}

impl Writer<'_> {
    pub(super) fn linear(
        &self,
        s: &Scope,
        index: usize,
        result: ValueId,
        residual: Option<ValueId>,
    ) {
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

    /// `linear`, and of the columns that this worker has made `softcap`.
    pub(super) fn linear_softcap(&self, s: &Scope, linear: usize, softcap: usize) {
        let (k, result) = (s.k, self.graph.insts[softcap].result);
        self.linear(s, linear, result, None);
        let rows = self.product(linear).rows;
        let panel = 4 * panel::PANEL_ROWS as i64;
        let (first, end) = share(s.record, k.i64((padded_rows(rows) / panel::PANEL_ROWS) as i64));
        let (y, stride) = (self.at(s, result), k.i64(row_stride(rows) as i64));
        let cap = cap_of(&self.graph.insts[softcap].op);
        let [by, cap] = softcap_bits(k, 1.0 / cap, cap);
        let args = [y, y, s.rows, stride, first * panel, end * panel, by, cap];
        k.call(self.softcap(), &args);
    }

    pub(super) fn softcap(&self) -> &Func {
        self.kernels.softcap.as_ref().expect("kernels were collected")
    }

    /// What a `linear` multiplies, and with which kernel.
    pub(super) fn product(&self, index: usize) -> Product<'_> {
        let types = self.types(index);
        let (dtype, width) = types[0].as_rows().expect("verified");
        let (matrix, dims) = types[1].as_weight().expect("verified");
        let steps = match (dtype, matrix) {
            (DType::Int(format), _) => width / format.group_of(width),
            (_, DType::Int(format)) => width / int_panel::Shape::packed(format).group,
            _ => width,
        };
        Product {
            kernel: &self.kernels.linear[&self.operands(index)],
            rows: dims[0],
            steps,
            x_stride: row_bytes(&types[0]).expect("rows have strides"),
        }
    }

    fn operands(&self, linear: usize) -> Operands {
        Operands::of(self.inputs.module, self.graph, &self.graph.insts[linear])
    }

    pub(super) fn row_wise(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let (k, x) = (s.k, self.operand(index, 0));
        let (first, end) = share(s.record, s.rows);
        let stride = self.stride(inst.result);
        let y = self.at(s, inst.result) + first * stride;
        let rows = end - first;
        match &inst.op {
            Op::Embed => {
                let (dtype, dims) = self.types(index)[1].as_weight().expect("verified");
                let tokens = self.at(s, x) + (first << 2);
                let table = self.weight(s, inst.args[1]);
                let args = [table, tokens, y, rows, k.i64(dims[1] as i64), k.i64(stride)];
                k.call(&self.kernels.embed[&dtype], &args);
            }
            Op::RmsNorm { eps, group } => {
                let shape = rms_norm_shape(*eps, *group, &self.types(index));
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
            Op::FakeQuant { levels, group } => {
                let fixed = inst.args.len() > 1;
                let shape = fake_quant::Shape { levels: *levels, group: *group, fixed };
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
    pub(super) fn quantised(&self, s: &Scope, index: usize, quant: usize) {
        let (inst, result) = (&self.graph.insts[index], self.graph.insts[quant].result);
        let (k, x) = (s.k, self.operand(index, 0));
        let group = group_of(&self.graph.insts[quant].op);
        let (x_stride, y_stride) = (self.stride(x), self.stride(result));
        let (x_at, y_at) = (self.at(s, x), self.at(s, result));
        let strides = [k.i64(x_stride), k.i64(y_stride)];
        if let Op::RmsNorm { eps, group: whole } = &inst.op {
            let shape = rms_norm_shape(*eps, *whole, &self.types(index));
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
    pub(super) fn gated(&self, s: &Scope, [gate, up]: [usize; 2], mul: usize, quant: usize) {
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
        let act = gate_of(&self.graph.insts[mul].op);
        k.call(&self.kernels.gated[&(self.operands(gate), act, group)], &args);
    }

    pub(super) fn rope(&self, s: &Scope, index: usize, r: &Rope) {
        let (x, y) = (self.operand(index, 0), self.graph.insts[index].result);
        let width = self.width(x);
        let (first, end) = share(s.record, s.rows);
        let table = s.scratch + self.kernels.angles_at(r) as i64;
        let stride = s.k.i64(row_stride(width) as i64);
        let f = &self.kernels.rope[&(width, r.head)];
        s.k.call(f, &[self.at(s, x), self.at(s, y), table, first, end, stride]);
    }

    pub(super) fn element_wise(&self, s: &Scope, index: usize) {
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
            Op::Softcap { cap } => {
                let [by, cap] = softcap_bits(s.k, 1.0 / cap, *cap);
                s.k.call(self.softcap(), &[a, y, s.rows, stride, first, end, by, cap]);
                return;
            }
            Op::GateMul(gate) => &self.kernels.gate_mul[gate],
            _ => &self.kernels.add,
        };
        let b = self.at(s, self.operand(index, 1));
        s.k.call(f, &[a, b, y, s.rows, stride, first, end]);
    }

    pub(super) fn kv_append(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let (keys, values) = self.cache(s, inst.args[0]);
        let (new_k, new_v) = (self.operand(index, 1), self.operand(index, 2));
        let slot = slot(&self.types(index)[0], self.inputs.module.meta.context);
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

    pub(super) fn attention(&self, s: &Scope, index: usize) {
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
