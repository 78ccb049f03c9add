//! The reference interpreter: the meaning of the IR, slow and obvious.
//!
//! Activations are stored as f32; every sum, exponential and quotient is taken in f64 and rounded
//! once, when it is stored. Sums have a fixed order, so neither the number of threads nor the
//! cutting of a prompt into calls changes a bit. `ops` holds one short function per operation;
//! this file follows graphs, calls and bindings. Knows nothing of packing, of formats of the
//! target, or of speed.

mod ops;

use self::ops::{
    KvHead, Scores, Slot, attend, embed, fake_quant, gate_mul, hadamard, linear, rms_norm, rope,
    scale, softcap, zip,
};
use crate::module::{Arg, Graph, GraphId, Inst, Module, Param, ValueId, WeightId};
use crate::op::Op;
use crate::quant::quantised_rows;
use crate::types::Type;
use crate::uses::read_by_graphs;
use crate::verify::{Violation, verify};
use crate::weights::{BlobError, Blobs, Tensor, materialise};
use rayon::prelude::*;

/// Why a module or a prompt could not be evaluated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EvalError {
    /// The module breaks rules of the IR.
    #[error("the module is not valid: {}", listed(.0))]
    Invalid(Vec<Violation>),
    /// A weight could not be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A call without tokens.
    #[error("found no tokens, expected at least one")]
    Empty,
    /// A token outside the vocabulary.
    #[error("token {token} is not below vocab {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// More tokens than the context holds.
    #[error("{tokens} tokens at position {position} exceed the context of {context}")]
    Context {
        /// Tokens of the call.
        tokens: usize,
        /// Position before the call.
        position: usize,
        /// Positions the model holds.
        context: u64,
    },
    /// Hidden states that are no rows of the model's width.
    #[error("{found} numbers are no rows of width {width}")]
    Rows {
        /// How many numbers came.
        found: usize,
        /// Width of one row.
        width: usize,
    },
}

/// Evaluates one module on one conversation.
pub struct Interpreter<'m> {
    module: &'m Module,
    weights: Vec<Tensor>,
    slots: Vec<Slot>,
    position: usize,
}

/// A value during evaluation.
#[derive(Clone)]
enum Data {
    Ints(Vec<i32>),
    /// `[T][width]`, row-major.
    Rows(Vec<f32>),
    /// Index of a module slot.
    Slot(usize),
}

/// One run of a graph: what its parameters are bound to, and its values so far.
struct Frame<'g> {
    graph: &'g Graph,
    weights: Vec<usize>,
    slots: Vec<usize>,
    values: Vec<Option<Data>>,
}

/// Violations on one line.
fn listed(violations: &[Violation]) -> String {
    let texts: Vec<String> = violations.iter().map(Violation::to_string).collect();
    texts.join("; ")
}

impl<'m> Interpreter<'m> {
    /// Verifies the module and reads the weights that its graphs read, as f32.
    pub fn new(module: &'m Module, blobs: &dyn Blobs) -> Result<Interpreter<'m>, EvalError> {
        verify(module).map_err(EvalError::Invalid)?;
        let read = read_by_graphs(module);
        let weight = |i: usize| match read[i] {
            true => materialise(module, WeightId(i as u32), blobs),
            false => Ok(Tensor { dims: vec![], data: vec![] }),
        };
        let weights = (0..read.len()).into_par_iter().map(weight);
        let weights = weights.collect::<Result<Vec<Tensor>, BlobError>>()?;
        let slots = module.caches.iter().map(|cache| {
            let (heads, width) = kv_shape(&cache.ty);
            Slot { heads, width, ..Slot::default() }
        });
        Ok(Interpreter { module, weights, slots: slots.collect(), position: 0 })
    }

    /// Tokens in the cache.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets every position from this one on; one not reached yet changes nothing.
    pub fn truncate(&mut self, position: usize) {
        self.position = self.position.min(position);
        self.slots.iter_mut().for_each(|slot| slot.truncate(self.position));
    }

    /// Appends the tokens to the conversation; their logits, `[T][vocab]`.
    pub fn run(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EvalError> {
        let hidden = self.hidden(tokens)?;
        self.logits(&hidden)
    }

    /// Appends the tokens to the conversation; what `@model` returns for them, `[T][D]`.
    /// An error leaves the conversation as it was.
    pub fn hidden(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EvalError> {
        let ids = self.check_tokens(tokens)?;
        let positions = (self.position..).take(ids.len()).map(|p| p as i32).collect();
        let hidden = self.root("model", vec![Data::Ints(ids), Data::Ints(positions)]);
        self.position += tokens.len();
        Ok(hidden)
    }

    /// The logits of hidden states, `[T][D]` to `[T][vocab]`; leaves the conversation alone.
    pub fn logits(&mut self, hidden: &[f32]) -> Result<Vec<f32>, EvalError> {
        let head = self.module.graph_named("head").expect("verified: there is @head");
        let width = row_width(&self.module.graph(head).values[0].ty);
        if hidden.is_empty() || !hidden.len().is_multiple_of(width) {
            return Err(EvalError::Rows { found: hidden.len(), width });
        }
        Ok(self.root("head", vec![Data::Rows(hidden.to_vec())]))
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<Vec<i32>, EvalError> {
        let (vocab, context) = (self.module.meta.vocab, self.module.meta.context);
        if tokens.is_empty() {
            return Err(EvalError::Empty);
        }
        if let Some(&token) = tokens.iter().find(|&&t| u64::from(t) >= vocab) {
            return Err(EvalError::Token { token, vocab });
        }
        let (position, count) = (self.position, tokens.len());
        if count as u64 > context - position as u64 {
            return Err(EvalError::Context { tokens: count, position, context });
        }
        Ok(tokens.iter().map(|&t| t as i32).collect())
    }

    fn root(&mut self, name: &str, params: Vec<Data>) -> Vec<f32> {
        let graph = self.module.graph_named(name).expect("verified: the roots are there");
        let graph = self.module.graph(graph);
        let mut values: Vec<Option<Data>> = params.into_iter().map(Some).collect();
        values.resize(graph.values.len(), None);
        self.graph(Frame { graph, weights: vec![], slots: vec![], values })
    }

    fn graph(&mut self, mut frame: Frame<'_>) -> Vec<f32> {
        for inst in &frame.graph.insts {
            let data = self.inst(&frame, inst);
            frame.values[inst.result.0 as usize] = Some(data);
        }
        frame.rows(Arg::Value(frame.graph.result)).to_vec()
    }

    fn inst(&mut self, frame: &Frame<'_>, inst: &Inst) -> Data {
        let (x, args) = (inst.args.first(), &inst.args);
        let x = || frame.rows(*x.expect("verified: V3"));
        let width = || row_width(&frame.graph.arg_type(self.module, args[0]));
        match &inst.op {
            Op::Embed => Data::Rows(embed(frame.ints(args[0]), self.weight(frame, args[1]))),
            Op::RmsNorm { eps, group } => {
                let group = group.map_or_else(width, |g| g as usize);
                let gain = args.get(1).map(|&gain| &self.weight(frame, gain).data[..]);
                Data::Rows(rms_norm(x(), gain, group, *eps))
            }
            Op::Linear => {
                let bias = args.get(2).map(|&bias| &self.weight(frame, bias).data[..]);
                Data::Rows(linear(x(), self.weight(frame, args[1]), bias))
            }
            Op::QuantRows { group, range } => {
                let fixed = args.get(1).map(|&range| self.weight(frame, range).data[0]);
                Data::Rows(quantised_rows(x(), width(), *group as usize, *range, fixed))
            }
            Op::FakeQuant { levels, group } => {
                let range = args.get(1).map(|&range| self.weight(frame, range).data[0]);
                Data::Rows(fake_quant(x(), *levels, *group as usize, range))
            }
            Op::Hadamard { size } => Data::Rows(hadamard(x(), *size)),
            Op::Rope(r) => Data::Rows(rope(x(), frame.ints(args[1]), width(), r)),
            Op::KvAppend => self.kv_append(frame, args),
            Op::Attention { heads, scale, window, cap } => {
                let scores = Scores { scale: *scale, cap: *cap };
                self.attention(frame, args, *heads as usize, scores, *window)
            }
            Op::Add => Data::Rows(zip(x(), frame.rows(args[1]), |a, b| a + b)),
            Op::Scale { by } => Data::Rows(scale(x(), *by)),
            Op::Softcap { cap } => Data::Rows(softcap(x(), *cap)),
            Op::GateMul(gate) => {
                let one = |a, b| gate_mul(*gate, a, b);
                Data::Rows(zip(x(), frame.rows(args[1]), one))
            }
            Op::Call(callee) => Data::Rows(self.call(frame, *callee, args)),
        }
    }

    /// `call`: the callee's parameters are bound to the arguments.
    fn call(&mut self, frame: &Frame<'_>, callee: GraphId, args: &[Arg]) -> Vec<f32> {
        let graph = self.module.graph(callee);
        let mut inner = Frame { graph, weights: vec![], slots: vec![], values: vec![] };
        for (param, &arg) in graph.params.iter().zip(args) {
            match param {
                Param::Value(_) => inner.values.push(Some(frame.data(arg).clone())),
                Param::Weight(_) => inner.weights.push(frame.weight(arg)),
                Param::Cache(_) => inner.slots.push(frame.slot(arg)),
            }
        }
        inner.values.resize(graph.values.len(), None);
        self.graph(inner)
    }

    fn weight(&self, frame: &Frame<'_>, arg: Arg) -> &Tensor {
        &self.weights[frame.weight(arg)]
    }

    /// `kv_append`: rounds keys and values to the slot's type and stores them at their positions.
    fn kv_append(&mut self, frame: &Frame<'_>, args: &[Arg]) -> Data {
        let index = frame.slot(args[0]);
        let dtype = match self.module.caches[index].ty {
            Type::Kv { dtype, .. } => dtype,
            Type::Tensor { .. } => unreachable!("verified: V13"),
        };
        let start = frame.ints(args[3])[0] as usize;
        self.slots[index].append(dtype, start, frame.rows(args[1]), frame.rows(args[2]));
        Data::Slot(index)
    }

    /// `attention`: each head of each token by itself.
    fn attention(
        &self,
        frame: &Frame<'_>,
        args: &[Arg],
        heads: usize,
        scores: Scores,
        window: Option<u64>,
    ) -> Data {
        let slot = &self.slots[frame.slot(args[1])];
        let queries = frame.rows(args[0]);
        let positions = frame.ints(args[2]);
        let head = queries.len() / (positions.len() * heads);
        let queries_per_kv = heads * head / slot.width;
        let mut out = vec![0.0; queries.len()];
        out.par_chunks_mut(head).zip(queries.par_chunks(head)).enumerate().for_each(
            |(i, (out, query))| {
                let (t, h) = (i / heads, i % heads);
                let kv = KvHead { slot, offset: h / queries_per_kv * head, head };
                let end = positions[t] as usize + 1;
                let start = window.map_or(0, |window| end.saturating_sub(window as usize));
                attend(query, &kv, start..end, scores, out);
            },
        );
        Data::Rows(out)
    }
}

impl Frame<'_> {
    fn data(&self, arg: Arg) -> &Data {
        let Arg::Value(ValueId(v)) = arg else { unreachable!("verified: V3") };
        self.values[v as usize].as_ref().expect("verified: V2")
    }

    fn rows(&self, arg: Arg) -> &[f32] {
        let Data::Rows(rows) = self.data(arg) else { unreachable!("verified: V4") };
        rows
    }

    fn ints(&self, arg: Arg) -> &[i32] {
        let Data::Ints(ints) = self.data(arg) else { unreachable!("verified: V4") };
        ints
    }

    /// Index of a module weight.
    fn weight(&self, arg: Arg) -> usize {
        match arg {
            Arg::Weight(w) => w.0 as usize,
            Arg::FormalWeight(i) => self.weights[i as usize],
            _ => unreachable!("verified: V3"),
        }
    }

    /// Index of a module slot, also behind the value of a `kv_append`.
    fn slot(&self, arg: Arg) -> usize {
        match arg {
            Arg::Cache(c) => c.0 as usize,
            Arg::FormalCache(i) => self.slots[i as usize],
            Arg::Value(_) => match self.data(arg) {
                Data::Slot(index) => *index,
                _ => unreachable!("verified: V4"),
            },
            _ => unreachable!("verified: V3"),
        }
    }
}

/// Heads of a slot, and their width together.
fn kv_shape(ty: &Type) -> (usize, usize) {
    match ty {
        Type::Kv { heads, head, .. } => (*heads as usize, (heads * head) as usize),
        Type::Tensor { .. } => unreachable!("verified: V13"),
    }
}

fn row_width(ty: &Type) -> usize {
    ty.row_width().expect("verified: V4") as usize
}
