//! Graphs to functions: every step is a call of a kernel on this worker's share, with barriers
//! where one step needs what another worker did.

use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::frame::{frame, worker};
use crate::kernels::kv_append::Slot;
use crate::kernels::{
    attention, elementwise, embed, kv_append, linear, panel, rms_norm, rope, score,
};
use crate::pack::{WeightLayout, padded_rows};
use crate::plan::{GraphPlan, Place, Step, plan, row_stride};
use crate::sync::{define_barrier, share};
use cranelift_codegen::ir::types::*;
use cranelift_module::DataId;
use ir::{Arg, DType, Graph, GraphId, Module, Op, Param, Rope, Type, ValueId};
use std::collections::HashMap;

/// What a library is compiled from.
pub struct Inputs<'a> {
    /// The verified module.
    pub module: &'a Module,
    /// Where its weights are.
    pub weights: &'a WeightLayout,
    /// Keys and values of each cache slot: offsets in the state.
    pub slots: &'a [(u64, u64)],
    /// Rows that one run of the model takes at most.
    pub chunk: u64,
    /// Workers that may take part at most.
    pub max_workers: u64,
    /// First free offset of scratch.
    pub scratch_start: u64,
}

/// The emitted model.
pub struct Compiled {
    /// `model(record, out)`: the record's tokens to hidden states; 1 if cancelled, else 0.
    pub model: Func,
    /// `head(record, x, out)`: the record's rows of hidden states to logits.
    pub head: Func,
    /// `score(record, x, targets, logprobs)`: log-probabilities of one target per row.
    pub score: Func,
    /// `barrier(record)`.
    pub barrier: Func,
    /// Hidden states of a chunk: offset in scratch.
    pub hidden: u64,
    /// Bytes from row to row of hidden states.
    pub hidden_stride: u64,
    /// Private memory of worker 0: offset in scratch; the others follow.
    pub private: u64,
    /// Private memory of each worker.
    pub private_bytes: u64,
    /// Scratch in all.
    pub scratch_bytes: u64,
    /// Calls between two checkpoints, for `poll`: the total per run of the model.
    pub calls: u32,
}

/// A module that code cannot be made for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct CompileError {
    /// What was found, and what is supported.
    pub what: String,
}

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
    Place(Place),
    Cache(Arg),
    Angles,
    Private,
}

/// Kernels by what they are specialised for.
struct Kernels {
    panels: HashMap<(DType, u64), panel::Panel>,
    linear: HashMap<DType, Func>,
    embed: HashMap<DType, Func>,
    rms_norm: Vec<(rms_norm::Shape, Func)>,
    rope: HashMap<(u64, u64), Func>,
    angles: Vec<(Rope, Func, u64)>,
    kv_append: HashMap<Slot, Func>,
    attention: Vec<(attention::Shape, Func)>,
    silu_mul: Func,
    add: Func,
    barrier: Func,
}

/// Emits the model. `checkpoint(record) -> i32` is called after each graph call of `@model`; it is a
/// barrier, and nonzero ends the run.
pub fn compile(
    e: &mut Emitter,
    inputs: &Inputs,
    checkpoint: &Func,
) -> Result<Compiled, CompileError> {
    let module = inputs.module;
    check(module)?;
    let mut scratch = inputs.scratch_start.next_multiple_of(64);
    let kernels = define_kernels(e, inputs, &mut scratch);
    let root = |name: &str| module.graph_named(name).expect("the verifier wants both roots");
    let (model, head) = (root("model"), root("head"));
    let mut functions: HashMap<GraphId, Func> = HashMap::new();
    let rows = bind_rows(e, inputs, model);
    for (i, graph) in module.graphs.iter().enumerate() {
        let id = GraphId(i as u32);
        if id == model || id == head {
            continue;
        }
        let plan = plan(module, graph, scratch, inputs.chunk);
        scratch = plan.end.next_multiple_of(64);
        let writer = Writer { inputs, kernels: &kernels, graph, plan: &plan };
        functions.insert(id, define_graph(e, &writer));
    }
    let plan_model = plan(module, module.graph(model), scratch, inputs.chunk);
    scratch = plan_model.end.next_multiple_of(64);
    let writer =
        Writer { inputs, kernels: &kernels, graph: module.graph(model), plan: &plan_model };
    let model_function = define_model(e, &writer, &functions, &rows, checkpoint);

    let plan_head = plan(module, module.graph(head), scratch, inputs.chunk);
    scratch = plan_head.end.next_multiple_of(64);
    let writer = Writer { inputs, kernels: &kernels, graph: module.graph(head), plan: &plan_head };
    let head_function = define_graph(e, &writer);
    let score = define_score(e, &writer, &mut scratch)?;

    let hidden = scratch;
    let width = hidden_width(module.graph(model));
    scratch += inputs.chunk * row_stride(width);
    let private = scratch;
    let private_bytes = private_bytes(&kernels, inputs).next_multiple_of(64);
    Ok(Compiled {
        model: model_function,
        head: head_function,
        score,
        barrier: kernels.barrier.clone(),
        hidden,
        hidden_stride: row_stride(width),
        private,
        private_bytes,
        scratch_bytes: private + private_bytes * inputs.max_workers,
        calls: rows.by_call.len() as u32,
    })
}

fn hidden_width(model: &Graph) -> u64 {
    model.value(model.result).ty.row_width().expect("@model returns rows")
}

fn private_bytes(kernels: &Kernels, inputs: &Inputs) -> u64 {
    let attention = kernels.attention.iter().map(|(shape, _)| shape.private_bytes()).max();
    attention.unwrap_or(0).max(inputs.chunk * score::PIECE * 4)
}

/// What the code generator asks beyond the verifier.
fn check(module: &Module) -> Result<(), CompileError> {
    for graph in &module.graphs {
        for inst in &graph.insts {
            let nested = matches!(inst.op, Op::Call(_)) && graph.name != "model";
            if nested {
                let what = format!("@{} calls a graph; only @model may", graph.name);
                return Err(CompileError { what });
            }
        }
    }
    for cache in &module.caches {
        if let Type::Kv { head, .. } = cache.ty
            && head % 8 != 0
        {
            let what = format!("heads of {head} in ^{}: a multiple of 8 is needed", cache.name);
            return Err(CompileError { what });
        }
    }
    Ok(())
}

/// Slot of a cache type, for a context.
pub fn slot(ty: &Type, context: u64) -> Slot {
    let Type::Kv { dtype, heads, head } = *ty else { unreachable!("caches have cache types") };
    Slot { dtype, heads, head, positions: context.next_multiple_of(kv_append::PANEL_POSITIONS) }
}

fn define_kernels(e: &mut Emitter, inputs: &Inputs, scratch: &mut u64) -> Kernels {
    let mut kernels = Kernels {
        panels: HashMap::new(),
        linear: HashMap::new(),
        embed: HashMap::new(),
        rms_norm: vec![],
        rope: HashMap::new(),
        angles: vec![],
        kv_append: HashMap::new(),
        attention: vec![],
        silu_mul: elementwise::define_silu_mul(e),
        add: elementwise::define_add(e),
        barrier: define_barrier(e),
    };
    let module = inputs.module;
    for graph in &module.graphs {
        for inst in &graph.insts {
            let types: Vec<Type> = inst.args.iter().map(|a| graph.arg_type(module, *a)).collect();
            kernels.need(e, inputs, &inst.op, &types, scratch);
        }
    }
    kernels
}

impl Kernels {
    fn panel(&mut self, e: &mut Emitter, dtype: DType, width: u64) -> panel::Panel {
        let made = self.panels.entry((dtype, width));
        made.or_insert_with(|| panel::define(e, dtype, width)).clone()
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
                self.embed.entry(dtype).or_insert_with(|| embed::define(e, dtype));
            }
            Op::Linear => {
                let (dtype, _) = types[1].as_weight().expect("verified");
                let panel = self.panel(e, dtype, panel::PANEL_ROWS);
                self.linear.entry(dtype).or_insert_with(|| linear::define(e, &panel));
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
            Op::Attention { heads, scale } => {
                let slot = slot(&types[1], context);
                let shape = attention::Shape { slot, heads: *heads, scale: *scale as f32 };
                if !self.attention.iter().any(|(s, _)| *s == shape) {
                    let keys = self.panel(e, slot.dtype, kv_append::PANEL_POSITIONS);
                    let values = self.panel(e, slot.dtype, slot.value_width());
                    let name = format!("attention_{}", self.attention.len());
                    let f = attention::define(e, &name, shape, &keys, &values);
                    self.attention.push((shape, f));
                }
            }
            Op::Add | Op::SiluMul | Op::Call(_) => {}
        }
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

    fn angles_at(&self, r: &Rope) -> u64 {
        self.angles.iter().find(|(known, ..)| known == r).expect("kernels were collected").2
    }
}

fn rms_norm_shape(eps: f64, group: Option<u64>, types: &[Type]) -> rms_norm::Shape {
    let width = types[0].row_width().expect("verified");
    let group = group.unwrap_or(width);
    rms_norm::Shape { width, group, eps: eps as f32, gain: types.len() == 2 }
}

/// What each call binds: one row of 64-bit offsets per call, in constant data.
struct Rows {
    data: DataId,
    /// Offset of each call's row, by index of the instruction in `@model`.
    by_call: HashMap<usize, i64>,
}

fn bind_rows(e: &mut Emitter, inputs: &Inputs, model: GraphId) -> Rows {
    let graph = inputs.module.graph(model);
    let mut bytes: Vec<u8> = vec![];
    let mut by_call = HashMap::new();
    for (i, inst) in graph.insts.iter().enumerate() {
        if !matches!(inst.op, Op::Call(_)) {
            continue;
        }
        by_call.insert(i, bytes.len() as i64);
        for arg in &inst.args {
            match *arg {
                Arg::Weight(w) => bytes.extend(inputs.weights.offset(w).to_le_bytes()),
                Arg::Cache(c) => {
                    let (keys, values) = inputs.slots[c.0 as usize];
                    bytes.extend(keys.to_le_bytes());
                    bytes.extend(values.to_le_bytes());
                }
                Arg::Value(_) | Arg::FormalWeight(_) | Arg::FormalCache(_) => {}
            }
        }
    }
    bytes.resize(bytes.len().max(8), 0);
    Rows { data: e.constant("calls", bytes, 64), by_call }
}

/// Writes the function of one graph.
struct Writer<'a> {
    inputs: &'a Inputs<'a>,
    kernels: &'a Kernels,
    graph: &'a Graph,
    plan: &'a GraphPlan,
}

/// Where a function's parameters are while its body is written.
struct Scope<'k> {
    k: &'k Kernel<'k>,
    record: Val<'k>,
    row: Val<'k>,
    params: Vec<Val<'k>>,
    result: Val<'k>,
    scratch: Val<'k>,
    weights: Val<'k>,
    state: Val<'k>,
    rows: Val<'k>,
    position: Val<'k>,
    /// What steps since the last barrier touched: memory, cut, whether written.
    since: Vec<(Memory, Cut, bool)>,
}

/// A graph that is called: parameters record, row of bindings, value parameters, result.
fn define_graph(e: &mut Emitter, w: &Writer) -> Func {
    let values = w.value_params().count();
    let f = e.declare(&w.graph.name, &vec![I64; values + 3], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let params = args[2..2 + values].to_vec();
        let mut scope = Scope::new(k, args[0], args[1], params, args[2 + values]);
        for step in &w.plan.steps {
            w.step(&mut scope, *step);
        }
        k.ret(&[]);
    });
    f
}

/// `@model`: parameters record and result; result 1 if cancelled.
fn define_model(
    e: &mut Emitter,
    w: &Writer,
    functions: &HashMap<GraphId, Func>,
    rows: &Rows,
    checkpoint: &Func,
) -> Func {
    let f = e.declare("model", &[I64; 2], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let zero = k.i64(0);
        let tokens = args[0].load(I64, worker::TOKENS);
        let mut scope = Scope::new(k, args[0], zero, vec![tokens, zero], args[1]);
        w.angles(&mut scope);
        for step in &w.plan.steps {
            let Step::Inst(i) = *step else {
                w.step(&mut scope, *step);
                continue;
            };
            let Op::Call(callee) = w.graph.insts[i].op else {
                w.step(&mut scope, *step);
                continue;
            };
            w.barrier(&mut scope);
            let binding = k.data(rows.data) + rows.by_call[&i];
            let mut call = vec![scope.record, binding];
            for arg in &w.graph.insts[i].args {
                if let Arg::Value(v) = arg {
                    call.push(w.at(&scope, *v));
                }
            }
            call.push(w.at(&scope, w.graph.insts[i].result));
            k.call(&functions[&callee], &call);
            let cancelled = k.call(checkpoint, &[scope.record])[0];
            k.return_if(cancelled.is_not(0), &[k.i32(1)]);
        }
        w.barrier(&mut scope);
        k.ret(&[k.i32(0)]);
    });
    f
}

impl<'k> Scope<'k> {
    fn new(
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
    fn value_params(&self) -> impl Iterator<Item = ValueId> {
        self.graph.params.iter().filter_map(|p| match p {
            Param::Value(v) => Some(*v),
            Param::Weight(_) | Param::Cache(_) => None,
        })
    }

    fn place(&self, v: ValueId) -> Place {
        self.plan.places[v.0 as usize]
    }

    /// Address of a value.
    fn at<'k>(&self, s: &Scope<'k>, v: ValueId) -> Val<'k> {
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
    fn weight<'k>(&self, s: &Scope<'k>, arg: Arg) -> Val<'k> {
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

    fn barrier(&self, s: &mut Scope) {
        let record = s.record;
        s.k.call(&self.kernels.barrier, &[record]);
        s.since.clear();
    }

    /// A barrier if this step meets memory that a step since the last one touched otherwise.
    fn meet(&self, s: &mut Scope, cut: Cut, reads: &[Memory], writes: &[Memory]) {
        let conflict = s.since.iter().any(|(memory, before, written)| {
            let met = writes.contains(memory) || (*written && reads.contains(memory));
            met && !(cut == Cut::Rows && *before == Cut::Rows)
        });
        if conflict {
            self.barrier(s);
        }
        s.since.extend(reads.iter().map(|m| (*m, cut, false)));
        s.since.extend(writes.iter().map(|m| (*m, cut, true)));
    }

    /// Tables of rotary angles, once per run.
    fn angles(&self, s: &mut Scope) {
        for (_, f, offset) in &self.kernels.angles {
            let (first, end) = share(s.record, s.rows);
            let table = s.scratch + *offset as i64;
            s.k.call(f, &[table, first, end, s.position]);
        }
        self.meet(s, Cut::Rows, &[], &[Memory::Angles]);
    }

    fn step(&self, s: &mut Scope, step: Step) {
        let reads: Vec<Memory> =
            step.reads(self.graph).iter().map(|v| Memory::Place(self.place(*v))).collect();
        let result = step.result(self.graph);
        let writes = [Memory::Place(self.place(result))];
        let index = match step {
            Step::LinearAdd { linear, residual, .. } => {
                self.meet(s, Cut::Other, &reads, &writes);
                return self.linear(s, linear, result, Some(residual));
            }
            Step::Inst(i) => i,
        };
        let inst = &self.graph.insts[index];
        match &inst.op {
            Op::Linear => {
                self.meet(s, Cut::Other, &reads, &writes);
                self.linear(s, index, result, None);
            }
            Op::Embed | Op::RmsNorm { .. } => {
                self.meet(s, Cut::Rows, &reads, &writes);
                self.row_wise(s, index);
            }
            Op::Rope(r) => {
                let reads = [&reads[..], &[Memory::Angles]].concat();
                self.meet(s, Cut::Rows, &reads, &writes);
                self.rope(s, index, r);
            }
            Op::Add | Op::SiluMul => {
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

    fn operand(&self, index: usize, n: usize) -> ValueId {
        match self.graph.insts[index].args[n] {
            Arg::Value(v) => v,
            _ => unreachable!("operand kinds are verified"),
        }
    }

    fn linear(&self, s: &Scope, index: usize, result: ValueId, residual: Option<ValueId>) {
        let inst = &self.graph.insts[index];
        let (x, k) = (self.operand(index, 0), s.k);
        let ty = self.graph.arg_type(self.inputs.module, inst.args[1]);
        let (dtype, dims) = ty.as_weight().expect("verified");
        let panels = k.i64((padded_rows(dims[0]) / panel::PANEL_ROWS) as i64);
        let (first, end) = share(s.record, panels);
        let args = [
            self.weight(s, inst.args[1]),
            self.at(s, x),
            self.at(s, result),
            self.optional_weight(s, inst.args.get(2)),
            residual.map_or_else(|| k.i64(0), |v| self.at(s, v)),
            k.i64(dims[1] as i64),
            k.i64(row_stride(dims[1]) as i64),
            k.i64(row_stride(dims[0]) as i64),
            s.rows,
            first,
            end,
        ];
        k.call(&self.kernels.linear[&dtype], &args);
    }

    fn row_wise(&self, s: &Scope, index: usize) {
        let inst = &self.graph.insts[index];
        let (k, x) = (s.k, self.operand(index, 0));
        let (first, end) = share(s.record, s.rows);
        let stride = row_stride(self.width(inst.result)) as i64;
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
            _ => unreachable!("row_wise serves embed and rms_norm"),
        }
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
        let (a, b) = (self.operand(index, 0), self.operand(index, 1));
        let stride = row_stride(self.width(a)) as i64;
        // Shares are whole vectors of four.
        let (first, end) = share(s.record, s.k.i64(stride / 16));
        let f = if inst.op == Op::Add { &self.kernels.add } else { &self.kernels.silu_mul };
        let y = self.at(s, inst.result);
        let (a, b, stride) = (self.at(s, a), self.at(s, b), s.k.i64(stride));
        s.k.call(f, &[a, b, y, s.rows, stride, first << 4, end << 4]);
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
        let Op::Attention { heads, scale } = inst.op else { unreachable!("attention only") };
        let (q, kv) = (self.operand(index, 0), self.operand(index, 1));
        let slot = slot(&self.graph.value(kv).ty, self.inputs.module.meta.context);
        let shape = attention::Shape { slot, heads, scale: scale as f32 };
        let made = self.kernels.attention.iter().find(|(known, _)| *known == shape);
        let (keys, values) = self.cache(s, self.cache_of(kv));
        let args = [
            self.at(s, q),
            self.at(s, inst.result),
            keys,
            values,
            s.rows,
            s.position,
            s.k.i64(row_stride(self.width(q)) as i64),
            s.record.load(I64, worker::PRIVATE),
            s.record.load(I64, worker::INDEX),
            s.record.load(I64, worker::WORKERS),
        ];
        s.k.call(&made.expect("kernels were collected").1, &args);
    }
}

/// `score`: `@head` with its last `linear` taken piece by piece. Parameters record, x, targets,
/// logprobs.
fn define_score(e: &mut Emitter, w: &Writer, scratch: &mut u64) -> Result<Func, CompileError> {
    let module = w.inputs.module;
    let last = w.plan.steps.last().copied();
    let (Some(Step::Inst(index)), true) = (last, w.params_are_rows()) else {
        return Err(CompileError { what: "@head must end in a linear".into() });
    };
    let inst = &w.graph.insts[index];
    if inst.op != Op::Linear || inst.args.len() != 2 || inst.result != w.graph.result {
        return Err(CompileError { what: "@head must end in a linear without bias".into() });
    }
    let ty = w.graph.arg_type(module, inst.args[1]);
    let (dtype, dims) = ty.as_weight().expect("verified");
    let pieces = score::define_pieces(e, &w.kernels.linear[&dtype], module.meta.vocab);
    let merge = score::define_merge(e, module.meta.vocab);
    let chosen = *scratch;
    let partial = (chosen + 4 * w.inputs.chunk).next_multiple_of(64);
    let count = score::pieces(module.meta.vocab);
    *scratch = (partial + count * w.inputs.chunk * 8).next_multiple_of(64);
    let f = e.declare("score_rows", &[I64; 4], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [record, x, targets, logprobs] = args else {
            unreachable!("four parameters are declared")
        };
        let zero = k.i64(0);
        let mut s = Scope::new(k, *record, zero, vec![*x], zero);
        for step in &w.plan.steps[..w.plan.steps.len() - 1] {
            w.step(&mut s, *step);
        }
        w.barrier(&mut s);
        let (chosen, partial) = (s.scratch + chosen as i64, s.scratch + partial as i64);
        let (first, end) = share(*record, k.i64(count as i64));
        let args = [
            w.weight(&s, inst.args[1]),
            w.at(&s, w.operand(index, 0)),
            k.i64(dims[1] as i64),
            k.i64(row_stride(dims[1]) as i64),
            s.rows,
            *targets,
            chosen,
            partial,
            record.load(I64, worker::PRIVATE),
            first,
            end,
        ];
        k.call(&pieces, &args);
        w.barrier(&mut s);
        let (first, end) = share(*record, s.rows);
        k.call(&merge, &[chosen, partial, s.rows, first, end, *logprobs]);
        w.barrier(&mut s);
        k.ret(&[]);
    });
    Ok(f)
}

impl Writer<'_> {
    fn params_are_rows(&self) -> bool {
        self.value_params().all(|v| self.graph.value(v).ty.row_width().is_some())
    }
}
