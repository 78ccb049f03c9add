//! Graphs to functions: every step is a call of a kernel on this worker's share, with barriers
//! where one step needs what another worker did.

mod kernels;
mod observe;
mod score;
mod steps;
mod writer;

use crate::builder::{Func, Val};
use crate::emit::{Emitter, Tuning};
use crate::kernels::hadamard;
use crate::pack::WeightLayout;
use crate::plan::{GraphPlan, Step, plan, row_stride};
use crate::profile::{self, Profile};
use crate::records::worker;
use cranelift_codegen::ir::types::*;
use cranelift_codegen::isa::CallConv;
use cranelift_module::DataId;
use ir::hadamard::Hadamard;
use ir::{Arg, Graph, GraphId, Module, Op, Type};
use kernels::{Kernels, define_kernels};
pub use observe::{Observer, Watch};
use std::collections::HashMap;
use writer::{Scope, Writer};

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
    /// Whether the code measures its steps.
    pub profile: bool,
    /// Who watches values, in this process only.
    pub observer: Option<&'a Observer>,
    /// How C functions are called.
    pub call_conv: CallConv,
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
    /// The table of measured steps, if there is one.
    pub profile: Option<Profile>,
}

/// A module that code cannot be made for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct CompileError {
    /// What was found, and what is supported.
    pub what: String,
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
    // Values of a called graph, of @model and of @head are alive at the same time.
    let plans: Vec<GraphPlan> = module
        .graphs
        .iter()
        .map(|graph| {
            let plan = plan(graph, scratch, inputs.chunk);
            scratch = plan.end.next_multiple_of(64);
            plan
        })
        .collect();
    let clock =
        inputs.profile.then(|| Clock::new(e, module, &plans, rows.by_call.len(), &mut scratch));
    let writer = |id: GraphId| Writer {
        inputs,
        kernels: &kernels,
        graph: module.graph(id),
        plan: &plans[id.0 as usize],
        clock: clock.as_ref().map(|clock| (clock, clock.first[id.0 as usize])),
    };
    for i in 0..module.graphs.len() {
        let id = GraphId(i as u32);
        if id != model && id != head {
            functions.insert(id, define_graph(e, &writer(id)));
        }
    }
    let model_function = define_model(e, &writer(model), &functions, &rows, checkpoint);
    let writer = writer(head);
    let head_function = define_graph(e, &writer);
    let score = score::define_score(e, &writer, &mut scratch)?;

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
        profile: clock.map(|clock| clock.profile),
    })
}

/// What measures the steps.
struct Clock {
    ticks: Func,
    profile: Profile,
    /// First site of each graph.
    first: Vec<u64>,
}

impl Clock {
    fn new(
        e: &mut Emitter,
        module: &Module,
        plans: &[GraphPlan],
        calls: usize,
        scratch: &mut u64,
    ) -> Clock {
        let mut profile = Profile { offset: *scratch, rows: calls as u64 + 1, sites: vec![] };
        let graphs = module.graphs.iter().zip(plans);
        let first = graphs.map(|(graph, plan)| profile.add(graph, plan)).collect();
        *scratch = (*scratch + profile.bytes()).next_multiple_of(64);
        Clock { ticks: profile::define_ticks(e), profile, first }
    }

    /// Starts in the row of a call, or with `None` in the one outside of calls.
    fn start(&self, record: Val, call: Option<u64>) {
        let row = call.unwrap_or(self.profile.rows - 1);
        profile::start(record, &self.ticks, &self.profile, row);
    }
}

fn hidden_width(model: &Graph) -> u64 {
    model.value(model.result).ty.row_width().expect("@model returns rows")
}

fn private_bytes(kernels: &Kernels, inputs: &Inputs) -> u64 {
    let pieces = inputs.chunk * crate::kernels::score::PIECE * 4;
    kernels.private_bytes.max(kernels.room_bytes + pieces.max(kernels.gated_bytes))
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
    for inst in module.graphs.iter().flat_map(|g| &g.insts) {
        if let Op::Hadamard { size } = inst.op
            && let Some(matrix) = Hadamard::new(size)
            && matrix.outer as u64 > hadamard::OUTER_MAX
        {
            let what = format!(
                "a hadamard of {size} is {} times a power of two, at most {} is supported",
                matrix.outer,
                hadamard::OUTER_MAX
            );
            return Err(CompileError { what });
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

/// A graph that is called: parameters record, row of bindings, value parameters, result.
fn define_graph(e: &mut Emitter, w: &Writer) -> Func {
    let values = w.value_params().count();
    // Kernels have no such prefix, whatever a graph is called.
    let f = e.declare(&format!("graph_{}", w.graph.name), &vec![I64; values + 3], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let params = args[2..2 + values].to_vec();
        let mut scope = Scope::new(k, args[0], args[1], params, args[2 + values]);
        w.observe_params(&mut scope);
        for step in 0..w.plan.steps.len() {
            w.step(&mut scope, step);
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
        w.start_clock(&scope, None);
        w.angles(&mut scope);
        for (at, step) in w.plan.steps.iter().enumerate() {
            let Step::Inst(i) = *step else {
                w.step(&mut scope, at);
                continue;
            };
            let Op::Call(callee) = w.graph.insts[i].op else {
                w.step(&mut scope, at);
                continue;
            };
            w.barrier(&mut scope);
            w.start_clock(&scope, Some(call_number(w.graph, i)));
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
            w.observe(&mut scope, w.graph.insts[i].result);
        }
        w.barrier(&mut scope);
        w.start_clock(&scope, None);
        k.ret(&[k.i32(0)]);
    });
    f
}

/// Which of a graph's calls an instruction is.
fn call_number(graph: &Graph, inst: usize) -> u64 {
    graph.insts[..inst].iter().filter(|i| matches!(i.op, Op::Call(_))).count() as u64
}
