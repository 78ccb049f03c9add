//! `init`, `prefill`, `decode`, `score`, `logits`, `verify`: from the caller's arguments to runs of the model.

use crate::abi::env;
use crate::cpu;
use crate::errors::*;
use crate::state::{self, StateLayout};
use cranelift_codegen::ir::types::*;
use cranelift_module::DataId;
use targets::compile::Compiled;
use targets::pack::{ALIGN, HASH_AT, MAGIC, WeightLayout};
use targets::records::{frame, worker};
use targets::sync::record;
use targets::{Emitter, Func, Kernel, Tuning, Val};

/// The model as one CPU runs it.
pub struct Model {
    /// Its code.
    pub compiled: Compiled,
    /// `task(frame, index)`: what one worker does in a call of the library.
    task: Func,
    /// What this machine lacks for it, see `cpu`.
    pub lacks: Option<Func>,
}

/// What the entry points are made of.
pub struct Parts<'a> {
    /// The emitted models, as `cpu::emit_variant` counts them.
    pub models: &'a [Model],
    /// Layout of a state.
    pub state: &'a StateLayout,
    /// Layout of the weights.
    pub weights: &'a WeightLayout,
    /// The embedded weights, if there are any.
    pub embedded: Option<DataId>,
    /// The hash of the weights that the library was built with: eight bytes, if it is known.
    pub hash: Option<DataId>,
    /// Workers at most.
    pub max_workers: u64,
    /// Scratch that a caller must give.
    pub scratch_bytes: u64,
}

/// Emits `checkpoint(record) -> i32`: asks the caller's `poll` between layers; 1 once it has
/// cancelled. Every worker gets the same answer.
pub fn emit_checkpoint(e: &mut Emitter, checkpoint: &Func, barrier: &Func, chunk: u64, calls: u64) {
    let poll_signature = e.target.c_signature(&[I64, I32, I32], &[I32]);
    e.define(checkpoint, Tuning::Optimised, |k, args| {
        let record = args[0];
        let at = record.load(I64, worker::FRAME);
        let done = record.load(I32, worker::DONE) + 1;
        record.store(worker::DONE, done);
        let environment = at.load(I64, frame::ENV);
        let poll = environment.load(I64, env::POLL);
        let asks = poll.is_not(0) & record.load(I64, worker::INDEX).is(0);
        k.if_(asks, || {
            let count = at.load(I64, frame::COUNT);
            let total = (count + (chunk as i64 - 1)) / chunk as i64 * calls as i64;
            let user = environment.load(I64, env::USER);
            let answer = k.call_pointer(poll_signature, poll, &[user, done, total.truncate(I32)]);
            k.if_(answer[0].is_not(0), || at.store(frame::CANCEL, k.i32(1)));
        });
        k.call(barrier, &[record]);
        k.ret(&[at.load(I32, frame::CANCEL)]);
    });
}

/// Emits what a call needs of one model beside its code: runs of up to `chunk` rows, `logits` bytes
/// into the state for the last one's.
pub fn emit_model(e: &mut Emitter, compiled: Compiled, chunk: u64, logits: u32) -> Model {
    let task = e.declare_callback("task", &[I64, I32], &[]);
    e.define(&task, Tuning::Optimised, |k, args| task_body(k, args, &compiled, chunk, logits));
    Model { compiled, task, lacks: cpu::emit_lacks(e) }
}

/// Emits all entry points; the exported functions are returned in the order of the header.
pub fn emit(e: &mut Emitter, parts: &Parts, checksum: &Func, variant: &Func) -> Vec<Func> {
    let check_env = emit_check_env(e, parts);
    let run = emit_run(e, parts, &check_env);
    vec![
        emit_init(e, parts, &check_env, variant),
        emit_prefill(e, &run),
        emit_decode(e, &run),
        emit_logits(e, parts),
        emit_score(e, &run),
        emit_verify(e, parts, &check_env, checksum),
    ]
}

/// Address of the weights: the caller's, else the embedded ones, else 0.
fn weights_at<'k>(k: &'k Kernel<'k>, parts: &Parts, environment: Val<'k>) -> Val<'k> {
    let given = environment.load(I64, env::WEIGHTS);
    match parts.embedded {
        Some(id) => given.is(0).select(k.data(id), given),
        None => given,
    }
}

/// `check_env(env) -> status`.
fn emit_check_env(e: &mut Emitter, parts: &Parts) -> Func {
    let f = e.declare("check_env", &[I64], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let environment = args[0];
        fail_if(k, environment.is(0), E_ENV, I32);
        let size = environment.load(I32, env::SIZE).uext(I64);
        fail_if(k, size.lt(k.i64(env::BYTES)), E_ENV, I32);
        let scratch = environment.load(I64, env::SCRATCH);
        fail_if(k, scratch.is(0) | misaligned(scratch), E_SCRATCH, I32);
        let bytes = environment.load(I64, env::SCRATCH_BYTES);
        fail_if(k, bytes.ult(k.i64(parts.scratch_bytes as i64)), E_SCRATCH, I32);
        let weights = weights_at(k, parts, environment);
        fail_if(k, weights.is(0) | misaligned(weights), E_WEIGHTS, I32);
        let magic = weights.load(I64, 0).is_not(i64::from_le_bytes(MAGIC));
        let identity = weights.load(I64, 8).is_not(parts.weights.identity as i64);
        fail_if(k, magic | identity, E_WEIGHTS, I32);
        if let Some(id) = parts.hash {
            // Other numbers in the same shapes.
            let expected = k.data(id).load_constant(I64, 0);
            fail_if(k, weights.load(I64, HASH_AT as i32).ne(expected), E_WEIGHTS, I32);
        }
        k.ret(&[k.i32(OK)]);
    });
    f
}

fn misaligned(address: Val<'_>) -> Val<'_> {
    (address & (ALIGN as i64 - 1)).is_not(0)
}

/// `int32_t init(const env *, void *state, size_t state_bytes)`.
fn emit_init(e: &mut Emitter, parts: &Parts, check_env: &Func, variant: &Func) -> Func {
    let f = e.declare_export("init", &[I64; 3], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let (at, bytes) = (args[1], args[2]);
        // Before anything that a lesser CPU could not run.
        let variant = k.call(variant, &[])[0];
        fail_if(k, variant.lt(k.i32(0)), E_CPU, I32);
        let status = k.call(check_env, &[args[0]])[0];
        k.return_if(status.is_not(0), &[status]);
        fail_if(k, at.is(0), E_STATE, I32);
        fail_if(k, misaligned(at), E_ALIGN, I32);
        fail_if(k, bytes.ult(k.i64(parts.state.bytes as i64)), E_SIZE, I32);
        for offset in (0..state::HEADER_BYTES as i32).step_by(8) {
            at.store(offset, k.i64(0));
        }
        at.store(state::VARIANT, variant);
        at.store(state::MAGIC, k.i64(parts.state.identity as i64));
        k.ret(&[k.i32(OK)]);
    });
    f
}

/// Address of the task of the model that `init` chose for a state.
fn task_of<'k>(k: &'k Kernel<'k>, models: &[Model], state: Val<'k>) -> Val<'k> {
    let (first, others) = models.split_first().expect("a library has a model");
    let variant = state.load(I32, state::VARIANT);
    others.iter().enumerate().fold(k.address(&first.task), |other, (i, model)| {
        variant.is(i as i64 + 1).select(k.address(&model.task), other)
    })
}

/// `int32_t prefill(const env *, void *state, const int32_t *tokens, size_t count)`.
fn emit_prefill(e: &mut Emitter, run: &Func) -> Func {
    let f = e.declare_export("prefill", &[I64; 4], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let status = k.call(run, &[args[0], args[1], args[2], args[3], k.i64(0)]);
        k.ret(&status);
    });
    f
}

/// `int32_t decode(const env *, void *state, int32_t token)`.
fn emit_decode(e: &mut Emitter, run: &Func) -> Func {
    let f = e.declare_export("decode", &[I64, I64, I32], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let token = k.stack(16);
        token.store(0, args[2]);
        let status = k.call(run, &[args[0], args[1], token, k.i64(1), k.i64(0)]);
        k.ret(&status);
    });
    f
}

/// `int32_t score(const env *, void *state, const int32_t *tokens, size_t count, float *logprobs)`.
fn emit_score(e: &mut Emitter, run: &Func) -> Func {
    let f = e.declare_export("score", &[I64; 5], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        fail_if(k, args[4].is(0) & k.i64(1).ult(args[3]), E_ARG, I32);
        let status = k.call(run, args);
        k.ret(&status);
    });
    f
}

/// `const float *logits(const env *, const void *state)`: NULL before the first token.
fn emit_logits(e: &mut Emitter, parts: &Parts) -> Func {
    let f = e.declare_export("logits", &[I64; 2], &[I64]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let at = args[1];
        k.return_if(at.is(0) | misaligned(at), &[k.i64(0)]);
        let known = at.load(I64, state::MAGIC).is(parts.state.identity as i64);
        let valid = known & at.load(I32, state::LOGITS_VALID).is(1);
        k.ret(&[valid.select(at + i64::from(parts.state.logits), k.i64(0))]);
    });
    f
}

/// `int32_t verify(const env *)`: reads all weights.
fn emit_verify(e: &mut Emitter, parts: &Parts, check_env: &Func, checksum: &Func) -> Func {
    let f = e.declare_export("verify", &[I64], &[I32]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let status = k.call(check_env, &[args[0]])[0];
        k.return_if(status.is_not(0), &[status]);
        let weights = weights_at(k, parts, args[0]);
        let found = k.call(checksum, &[weights, k.i64(parts.weights.bytes as i64)])[0];
        fail_if(k, weights.load(I64, HASH_AT as i32).ne(found), E_DAMAGED, I32);
        k.ret(&[k.i32(OK)]);
    });
    f
}

/// `run(env, state, tokens, count, logprobs) -> status`: checks everything, then runs the model
/// over all tokens. Nothing of the state changes unless the run ends well.
fn emit_run(e: &mut Emitter, parts: &Parts, check_env: &Func) -> Func {
    let f = e.declare("run", &[I64; 5], &[I32]);
    let task_signature = e.target.c_signature(&[I64, I32], &[]);
    let parallel_signature = e.target.c_signature(&[I64, I32, I64, I64], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let [environment, at, tokens, count, logprobs] = args else {
            unreachable!("five parameters are declared")
        };
        let status = k.call(check_env, &[*environment])[0];
        k.return_if(status.is_not(0), &[status]);
        state::check(k, parts.state, *at, I32);
        fail_if(k, count.is(0) | tokens.is(0), E_ARG, I32);
        let position = at.load(I32, state::POSITION).uext(I64);
        let room = k.i64(parts.state.context as i64) - position;
        fail_if(k, room.lt(k.i64(0)), E_STATE, I32);
        fail_if(k, room.ult(*count), E_CONTEXT, I32);
        let vocab = k.i32(parts.state.vocab as i32);
        k.each(k.i64(0), *count << 2, 4, |i| {
            let token = (*tokens + i).load(I32, 0);
            fail_if(k, !token.ult(vocab), E_TOKEN, I32);
        });
        let scratch = environment.load(I64, env::SCRATCH);
        let workers = workers(k, parts, *environment);
        for (offset, value) in [
            (frame::WEIGHTS, weights_at(k, parts, *environment)),
            (frame::STATE, *at),
            (frame::TOKENS, *tokens),
            (frame::COUNT, *count),
            (frame::ENV, *environment),
            (frame::LOGPROBS, *logprobs),
            (frame::POSITION, position),
            (frame::WORKERS, workers),
            (frame::CANCEL, k.i32(0)),
            (frame::ARRIVED, k.i32(0)),
        ] {
            scratch.store(offset, value);
        }
        let task = task_of(k, parts.models, *at);
        k.if_else(
            workers.is(1),
            || {
                k.call_pointer(task_signature, task, &[scratch, k.i32(0)]);
            },
            || {
                let user = environment.load(I64, env::USER);
                let parallel = environment.load(I64, env::PARALLEL);
                let arguments = [user, workers, task, scratch];
                k.call_pointer(parallel_signature, parallel, &arguments);
            },
        );
        let cancelled = scratch.load(I32, frame::CANCEL).is_not(0);
        fail_if(k, cancelled, E_CANCELLED, I32);
        let history = *at + i64::from(parts.state.tokens) + (position << 2);
        k.each(k.i64(0), *count << 2, 4, |i| (history + i).store(0, (*tokens + i).load(I32, 0)));
        at.store(state::POSITION, (position + *count).truncate(I32));
        at.store(state::LOGITS_VALID, k.i32(1));
        k.ret(&[k.i32(OK)]);
    });
    f
}

/// Workers that take part: the caller's wish within the limit, 1 without `parallel`.
fn workers<'k>(k: &'k Kernel<'k>, parts: &Parts, environment: Val<'k>) -> Val<'k> {
    let alone = environment.load(I64, env::PARALLEL).is(0);
    let wanted = environment.load(I32, env::WORKERS);
    let within = wanted.umin(k.i32(parts.max_workers as i32)).umax(k.i32(1));
    alone.select(k.i32(1), within)
}

fn task_body<'k>(k: &'k Kernel<'k>, args: &[Val<'k>], model: &Compiled, chunk: u64, logits: u32) {
    let chunk = chunk as i64;
    let (at, index) = (args[0], args[1].uext(I64));
    let own = record(k, at, index);
    let private = model.private as i64;
    own.store(worker::FRAME, at);
    own.store(worker::INDEX, index);
    own.store(worker::WORKERS, at.load(I32, frame::WORKERS).uext(I64));
    own.store(worker::PASSED, k.i32(0));
    own.store(worker::DONE, k.i32(0));
    own.store(worker::PRIVATE, at + index * model.private_bytes as i64 + private);
    let (count, tokens) = (at.load(I64, frame::COUNT), at.load(I64, frame::TOKENS));
    let (position, logprobs) = (at.load(I64, frame::POSITION), at.load(I64, frame::LOGPROBS));
    let hidden = at + model.hidden as i64;
    let rows = k.var(k.i64(0));
    k.each(k.i64(0), count, chunk, |first| {
        rows.set((count - first).umin(k.i64(chunk)));
        own.store(worker::ROWS, rows.get());
        own.store(worker::POSITION, position + first);
        own.store(worker::TOKENS, tokens + (first << 2));
        let cancelled = k.call(&model.model, &[own, hidden])[0];
        k.return_if(cancelled.is_not(0), &[]);
        // The last token of all has no successor to score.
        let scored = rows.get().umin(count - first - 1);
        k.if_(logprobs.is_not(0) & scored.is_not(0), || {
            own.store(worker::ROWS, scored);
            let targets = tokens + (first << 2) + 4;
            k.call(&model.score, &[own, hidden, targets, logprobs + (first << 2)]);
        });
    });
    own.store(worker::ROWS, k.i64(1));
    let last = hidden + (rows.get() - 1) * model.hidden_stride as i64;
    let state = at.load(I64, frame::STATE);
    let logits = state + i64::from(logits);
    k.call(&model.head, &[own, k.i64(0), last, logits]);
    k.ret(&[]);
}
