//! The kernels that a module needs, each emitted once.

use super::Inputs;
use crate::builder::Func;
use crate::emit::Emitter;
use crate::kernels::kv_append::Slot;
use crate::kernels::{
    attention, elementwise, embed, fake_quant, gated, hadamard, int_panel, kv_append, linear,
    panel, quant_rows, rms_norm, rope,
};
use crate::plan::{Step, steps};
use crate::sync::define_barrier;
use ir::{Arg, DType, Gate, Graph, Inst, Module, Op, Rope, RowRange, Type};
use std::collections::HashMap;

/// Kernels by what they are specialised for.
pub(super) struct Kernels {
    panels: HashMap<(DType, u64), panel::Panel>,
    int_panels: HashMap<int_panel::Shape, Func>,
    pub(super) linear: HashMap<Operands, Func>,
    pub(super) embed: HashMap<DType, Func>,
    pub(super) quant_rows: HashMap<(u64, RowRange), Func>,
    pub(super) fake_quant: HashMap<fake_quant::Shape, Func>,
    /// By size of a block.
    pub(super) hadamard: HashMap<u64, Func>,
    pub(super) rms_norm: Vec<(rms_norm::Shape, Func)>,
    /// With the group that follows.
    pub(super) rms_norm_quant: Vec<(rms_norm::Shape, u64, Func)>,
    /// With the group that follows.
    pub(super) gate_mul_quant: HashMap<(Gate, u64), Func>,
    /// By rows, matrix, activation, and the group of the result.
    pub(super) gated: HashMap<(Operands, Gate, u64), Func>,
    /// Private memory that `gated` wants behind the room of products.
    pub(super) gated_bytes: u64,
    pub(super) rope: HashMap<(u64, u64), Func>,
    pub(super) angles: Vec<(Rope, Func, u64)>,
    pub(super) kv_append: HashMap<Slot, Func>,
    pub(super) attention: Vec<(attention::Shape, Func)>,
    /// Private memory that attention wants.
    pub(super) private_bytes: u64,
    pub(super) gate_mul: HashMap<Gate, Func>,
    pub(super) scale: Option<Func>,
    pub(super) softcap: Option<Func>,
    pub(super) add: Func,
    pub(super) barrier: Func,
    /// Private memory that products want, at its start.
    pub(super) room_bytes: u64,
}

/// The group of a `quant_rows`.
pub(super) fn group_of(op: &Op) -> u64 {
    let Op::QuantRows { group, .. } = op else { unreachable!("the plan names a quant_rows") };
    u64::from(*group)
}

/// What a `linear` multiplies, as far as its kernel depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Operands {
    rows: DType,
    matrix: DType,
    /// Whether each row was quantised within one range.
    one_range: bool,
}

impl Operands {
    pub(super) fn of(module: &Module, graph: &Graph, linear: &Inst) -> Operands {
        let (rows, _) = graph.arg_type(module, linear.args[0]).as_rows().expect("verified");
        let (matrix, _) = graph.arg_type(module, linear.args[1]).as_weight().expect("verified");
        let made = graph.insts.iter().find(|inst| Arg::Value(inst.result) == linear.args[0]);
        let range = made.and_then(|inst| match inst.op {
            Op::QuantRows { range, .. } => Some(range),
            _ => None,
        });
        let one_range = range.is_some_and(|range| range != RowRange::Group);
        Operands { rows, matrix, one_range }
    }
}

/// The activation of a `silu_mul` or `gelu_mul`.
pub(super) fn gate_of(op: &Op) -> Gate {
    let Op::GateMul(gate) = op else { unreachable!("the plan names a gate") };
    *gate
}

/// Slot of a cache type, for a context.
pub fn slot(ty: &Type, context: u64) -> Slot {
    let Type::Kv { dtype, heads, head } = *ty else { unreachable!("caches have cache types") };
    Slot { dtype, heads, head, positions: context.next_multiple_of(kv_append::PANEL_POSITIONS) }
}

pub(super) fn define_kernels(e: &mut Emitter, inputs: &Inputs, scratch: &mut u64) -> Kernels {
    let mut kernels = Kernels {
        panels: HashMap::new(),
        int_panels: HashMap::new(),
        linear: HashMap::new(),
        embed: HashMap::new(),
        quant_rows: HashMap::new(),
        fake_quant: HashMap::new(),
        hadamard: HashMap::new(),
        rms_norm: vec![],
        rms_norm_quant: vec![],
        gate_mul_quant: HashMap::new(),
        gated: HashMap::new(),
        gated_bytes: 0,
        rope: HashMap::new(),
        angles: vec![],
        kv_append: HashMap::new(),
        attention: vec![],
        private_bytes: 0,
        gate_mul: HashMap::new(),
        scale: None,
        softcap: None,
        add: elementwise::define_add(e),
        barrier: define_barrier(e),
        room_bytes: 0,
    };
    let module = inputs.module;
    for graph in &module.graphs {
        let types = |i: usize| -> Vec<Type> {
            graph.insts[i].args.iter().map(|a| graph.arg_type(module, *a)).collect()
        };
        let operands = |i: usize| Operands::of(module, graph, &graph.insts[i]);
        let columns = |i: usize| types(i)[0].as_rows().expect("verified").1;
        for step in steps(graph) {
            match step {
                Step::Inst(i) | Step::LinearAdd { linear: i, .. } => match graph.insts[i].op {
                    Op::Linear => kernels.need_linear(e, operands(i), columns(i)),
                    ref op => kernels.need(e, inputs, op, &types(i), scratch),
                },
                Step::LinearSoftcap { linear, softcap } => {
                    kernels.need_linear(e, operands(linear), columns(linear));
                    kernels.need(e, inputs, &graph.insts[softcap].op, &types(softcap), scratch);
                }
                Step::Quantised { inst, quant } => {
                    let group = group_of(&graph.insts[quant].op);
                    kernels.need_quantised(e, &graph.insts[inst].op, &types(inst), group);
                }
                Step::Gated { gate, up, mul, quant } => {
                    let op = &graph.insts[mul].op;
                    let group = group_of(&graph.insts[quant].op);
                    kernels.need_quantised(e, op, &types(mul), group);
                    for linear in [gate, up] {
                        kernels.need_linear(e, operands(linear), columns(linear));
                        let gate = (gate_of(op), group);
                        kernels.need_gated(e, operands(linear), gate, inputs.chunk);
                    }
                }
            }
        }
    }
    kernels
}

impl Kernels {
    fn panel(&mut self, e: &mut Emitter, dtype: DType, width: u64) -> panel::Panel {
        let made = self.panels.entry((dtype, width));
        made.or_insert_with(|| panel::define(e, dtype, width)).clone()
    }

    fn int_panel(&mut self, e: &mut Emitter, shape: int_panel::Shape) -> Func {
        let made = self.int_panels.entry(shape);
        made.or_insert_with(|| int_panel::define(e, shape)).clone()
    }

    /// The panels of a matrix that multiplies rows.
    fn panels_of(&mut self, e: &mut Emitter, operands: Operands) -> linear::Panels {
        match (operands.rows, operands.matrix) {
            (DType::Int(x), DType::Int(format)) => {
                let groups = int_panel::Shape::new(format, x.group.into());
                let shape = if operands.one_range { groups.with_one_range() } else { groups };
                linear::Panels::ints(shape, self.int_panel(e, shape))
            }
            (_, DType::Int(format)) => {
                let shape = int_panel::Shape::packed(format);
                let floats = self.panel(e, DType::F32, panel::PANEL_ROWS);
                let rows = int_panel::unpack::define(e, shape, &floats.rows);
                linear::Panels::weights_only(shape, rows)
            }
            (_, matrix) => linear::Panels::floats(&self.panel(e, matrix, panel::PANEL_ROWS)),
        }
    }

    /// Emits `linear` of two operands, unless it is there already.
    fn need_linear(&mut self, e: &mut Emitter, operands: Operands, columns: u64) {
        let room = match (operands.rows, operands.matrix) {
            (DType::Int(_), _) => int_panel::room_bytes(&e.target.facts, columns),
            (_, DType::Int(_)) => int_panel::unpack::room_bytes(columns),
            _ => 0,
        };
        self.room_bytes = self.room_bytes.max(room.next_multiple_of(64));
        if !self.linear.contains_key(&operands) {
            let panels = self.panels_of(e, operands);
            self.linear.insert(operands, linear::define(e, &panels));
        }
    }

    /// What multiplies the keys and values of a slot.
    fn products(&mut self, e: &mut Emitter, slot: &Slot) -> attention::Products {
        attention::Products::ints(slot, |shape| self.int_panel(e, shape)).unwrap_or_else(|| {
            let keys = self.panel(e, slot.dtype, kv_append::PANEL_POSITIONS);
            let values = self.panel(e, slot.dtype, slot.value_width());
            attention::Products::floats(&keys, &values)
        })
    }

    /// Emits the kernel of an operation unless it is there already.
    fn need(
        &mut self,
        e: &mut Emitter,
        inputs: &Inputs,
        op: &Op,
        types: &[Type],
        scratch: &mut u64,
    ) {
        let context = inputs.module.meta.context;
        match op {
            Op::Embed => {
                let (dtype, _) = types[1].as_weight().expect("verified");
                self.embed.entry(dtype).or_insert_with(|| match dtype {
                    DType::Int(format) => embed::define_int(e, format),
                    dtype => embed::define(e, dtype),
                });
            }
            Op::QuantRows { group, range } => {
                let group = u64::from(*group);
                let made = self.quant_rows.entry((group, *range));
                made.or_insert_with(|| quant_rows::define(e, group, *range));
            }
            Op::FakeQuant { levels, group } => {
                let fixed = types.len() > 1;
                let shape = fake_quant::Shape { levels: *levels, group: *group, fixed };
                let made = self.fake_quant.entry(shape);
                made.or_insert_with(|| fake_quant::define(e, shape));
            }
            Op::Hadamard { size } => {
                let made = self.hadamard.entry(*size);
                made.or_insert_with(|| hadamard::define(e, *size));
            }
            Op::RmsNorm { eps, group } => {
                let shape = rms_norm_shape(*eps, *group, types);
                if !self.rms_norm.iter().any(|(s, _)| *s == shape) {
                    let name = format!("rms_norm_{}", self.rms_norm.len());
                    self.rms_norm.push((shape, rms_norm::define(e, &name, shape)));
                }
            }
            Op::Rope(r) => {
                let width = types[0].row_width().expect("verified");
                let name = format!("rope_{width}_{}", r.head);
                let made = self.rope.entry((width, r.head));
                made.or_insert_with(|| rope::define(e, &name, width, r.head));
                self.need_angles(e, r, inputs.chunk, scratch);
            }
            Op::KvAppend => {
                let slot = slot(&types[0], context);
                let name = format!("kv_append_{}", self.kv_append.len());
                let made = self.kv_append.entry(slot);
                made.or_insert_with(|| kv_append::define(e, &name, slot));
            }
            Op::Attention { .. } => self.need_attention(e, op, slot(&types[1], context)),
            Op::Scale { .. } => {
                self.scale.get_or_insert_with(|| elementwise::define_scale(e));
            }
            Op::Softcap { .. } => {
                self.need_softcap(e);
            }
            Op::GateMul(gate) => {
                let made = self.gate_mul.entry(*gate);
                made.or_insert_with(|| elementwise::define_gate_mul(e, *gate));
            }
            // `linear` depends on more than its types: `need_linear`.
            Op::Add | Op::Call(_) | Op::Linear => {}
        }
    }

    /// Emits attention over a slot, unless it is there already.
    fn need_attention(&mut self, e: &mut Emitter, op: &Op, slot: Slot) {
        let shape = attention_shape(op, slot);
        if self.attention.iter().any(|(known, _)| *known == shape) {
            return;
        }
        let products = self.products(e, &slot);
        let name = format!("attention_{}", self.attention.len());
        let softcap = shape.cap.map(|_| self.need_softcap(e));
        let f = attention::define(e, &name, shape, &products, softcap);
        self.private_bytes = self.private_bytes.max(shape.private_bytes(&e.target.facts));
        self.attention.push((shape, f));
    }

    fn need_softcap(&mut self, e: &mut Emitter) -> &Func {
        self.softcap.get_or_insert_with(|| elementwise::define_softcap(e))
    }

    /// Emits the kernel of an operation together with `quant_rows`, unless it is there already.
    fn need_quantised(&mut self, e: &mut Emitter, op: &Op, types: &[Type], group: u64) {
        match op {
            Op::RmsNorm { eps, group: whole } => {
                let shape = rms_norm_shape(*eps, *whole, types);
                if !self.rms_norm_quant.iter().any(|(s, g, _)| (*s, *g) == (shape, group)) {
                    let name = format!("rms_norm_quant_{}", self.rms_norm_quant.len());
                    let f = rms_norm::define_quant(e, &name, shape, group);
                    self.rms_norm_quant.push((shape, group, f));
                }
            }
            Op::GateMul(gate) => {
                let made = self.gate_mul_quant.entry((*gate, group));
                made.or_insert_with(|| elementwise::define_gate_mul_quant(e, *gate, group));
            }
            _ => unreachable!("the plan quantises these"),
        }
    }

    /// Emits `gated` for one of its matrices, after the kernels that it calls.
    fn need_gated(
        &mut self,
        e: &mut Emitter,
        operands: Operands,
        (gate, group): (Gate, u64),
        chunk: u64,
    ) {
        self.gated_bytes = self.gated_bytes.max(gated::products_bytes(chunk, group));
        if self.gated.contains_key(&(operands, gate, group)) {
            return;
        }
        let panels = self.panels_of(e, operands);
        let (linear, quant) = (&self.linear[&operands], &self.gate_mul_quant[&(gate, group)]);
        let name = format!("gated_{}_{}_g{group}", gate.name(), panels.name);
        let f = gated::define(e, &name, group, linear, quant);
        self.gated.insert((operands, gate, group), f);
    }

    fn need_angles(&mut self, e: &mut Emitter, r: &Rope, chunk: u64, scratch: &mut u64) {
        if self.angles.iter().any(|(known, ..)| known == r) {
            return;
        }
        let n = self.angles.len();
        let bytes = r.frequencies().iter().flat_map(|f| f.to_le_bytes()).collect();
        let data = e.constant(&format!("frequencies_{n}"), bytes, 64);
        let f = rope::define_table(e, &format!("angles_{n}"), r.head, data);
        self.angles.push((r.clone(), f, *scratch));
        *scratch += (chunk * r.head * 4).next_multiple_of(64);
    }

    pub(super) fn angles_at(&self, r: &Rope) -> u64 {
        self.angles.iter().find(|(known, ..)| known == r).expect("kernels were collected").2
    }
}

pub(super) fn attention_shape(op: &Op, slot: Slot) -> attention::Shape {
    let Op::Attention { heads, scale, window, cap } = *op else { unreachable!("attention only") };
    // One that holds all positions hides none.
    let window = window.filter(|window| *window < slot.positions);
    attention::Shape { slot, heads, scale: scale as f32, window, cap: cap.map(|cap| cap as f32) }
}

pub(super) fn rms_norm_shape(eps: f64, group: Option<u64>, types: &[Type]) -> rms_norm::Shape {
    let width = types[0].row_width().expect("verified");
    let group = group.unwrap_or(width);
    rms_norm::Shape { width, group, eps: eps as f32, gain: types.len() == 2 }
}
