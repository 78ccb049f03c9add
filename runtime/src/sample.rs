//! `NAME_sample`: a token from the logits of a state.
//!
//! In this order:
//!
//! 1. penalties, each once per distinct token of the last `penalty_window` ones (0: of all):
//!    `repeat_penalty` r turns a logit l into l / r if it is positive, else into l · r (CTRL, Keskar
//!    et al. 2019; r = 0 counts as 1); then `frequency_penalty` times the number of occurrences and
//!    `presence_penalty` are subtracted;
//! 2. `top_k`: the k best, of equal logits those of the lowest tokens;
//! 3. `top_p`: the fewest best whose share of the weight of what is left reaches it;
//! 4. `min_p`: what weighs at least this share of the best; weights of both are those of
//!    temperature 1;
//! 5. temperature; 0 is the best token, whatever 2 to 4 say;
//! 6. one draw from SplitMix64 (Steele, Lea, Flood 2014), walking the candidates from the best.
//!
//! Every call that succeeds takes one draw. Weights are integers (`weight.rs`), so the same logits,
//! options and seed choose the same token on every target. The logits in the state stay as they
//! are: penalties work on a copy. Only as many candidates are sorted as the walk asks for.

mod choose;
mod heap;
mod options;
mod penalty;
pub mod reference;
mod scan;
pub mod weight;

use crate::abi::env;
use crate::errors::{E_ENV, E_SCRATCH, E_STATE, fail_if};
use crate::state::{ALIGN, DRAWS, LOGITS_VALID, POSITION, SEED, StateLayout, check};
use choose::{Chooser, WORK_BYTES};
use cranelift_codegen::ir::types::{F64, I32, I64};
use options::Options;
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// Where the copy of the logits lies in scratch.
const COPY: u64 = WORK_BYTES;

/// Where the keys lie in scratch: one per token, and one that is written but never counts.
/// Occurrences of tokens are counted in the same place, before there are keys.
fn keys_offset(vocab: u64) -> u64 {
    COPY + vocab.next_multiple_of(32) * 4
}

/// Bytes of scratch that sampling needs.
pub fn scratch_bytes(vocab: u64) -> u64 {
    (keys_offset(vocab) + (vocab + 1) * 8).next_multiple_of(ALIGN)
}

/// Emits `NAME_sample`.
pub fn emit(emitter: &mut Emitter<'_>, layout: &StateLayout) -> Func {
    let vocab = layout.vocab as i64;
    let penalise = penalty::emit_penalise(emitter, vocab);
    let chooser = Chooser::emit(emitter, vocab);
    let f = emitter.declare_export("sample", &[I64; 3], &[I32]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let (env, state) = (args[0], args[1]);
        fail_if(k, env.is(0), E_ENV, I32);
        fail_if(k, env.load(I32, env::SIZE).uext(I64).ult(k.i64(env::BYTES)), E_ENV, I32);
        check(k, layout, state, I32);
        fail_if(k, state.load(I32, LOGITS_VALID).is(0), E_STATE, I32);
        let scratch = scratch(k, env, scratch_bytes(layout.vocab));
        let options = Options::read(k, args[2]);
        let u = draw(k, state, options);
        let logits = penalised(k, layout, &penalise, state, scratch, options);
        let keys = scratch + keys_offset(layout.vocab) as i64;
        k.ret(&[chooser.token(k, options, scratch, logits, keys, u)]);
    });
    f
}

/// The scratch of an environment; leaves the function with an error unless it is aligned and has
/// `bytes`.
fn scratch<'k>(k: &'k Kernel<'k>, env: Val<'k>, bytes: u64) -> Val<'k> {
    let scratch = env.load(I64, env::SCRATCH);
    let misplaced = scratch.is(0) | (scratch & (ALIGN as i64 - 1)).is_not(0);
    let small = env.load(I64, env::SCRATCH_BYTES).ult(k.i64(bytes as i64));
    fail_if(k, misplaced | small, E_SCRATCH, I32);
    scratch
}

/// One draw from the state's generator: an `f64` in [0, 1).
fn draw<'k>(k: &'k Kernel<'k>, state: Val<'k>, options: Options<'k>) -> Val<'k> {
    let anew = options.seeded & options.seed.ne(state.load(I64, SEED));
    k.if_(anew, || {
        state.store(SEED, options.seed);
        state.store(DRAWS, k.i64(0));
    });
    let draws = state.load(I64, DRAWS) + 1;
    state.store(DRAWS, draws);
    let z = state.load(I64, SEED) + draws * 0x9e37_79b9_7f4a_7c15_u64 as i64;
    let z = (z ^ (z >> 30)) * 0xbf58_476d_1ce4_e5b9_u64 as i64;
    let z = (z ^ (z >> 27)) * 0x94d0_49bb_1331_11eb_u64 as i64;
    let z = z ^ (z >> 31);
    (z >> 11).to_float(F64) * (1.0 / (1u64 << 53) as f32)
}

/// The address of the logits: those of the state, or a copy with penalties.
fn penalised<'k>(
    k: &'k Kernel<'k>,
    layout: &StateLayout,
    penalise: &Func,
    state: Val<'k>,
    scratch: Val<'k>,
    options: Options<'k>,
) -> Val<'k> {
    let logits = state + i64::from(layout.logits);
    let copy = scratch + COPY as i64;
    let counts = scratch + keys_offset(layout.vocab) as i64;
    let with_penalties = || {
        let position = state.load(I32, POSITION).uext(I64).umin(k.i64(layout.context as i64));
        let window = options.window.is(0).select(position, options.window.umin(position));
        let tokens = state + ((position - window) << 2) + i64::from(layout.tokens);
        let Options { repeat, frequency, presence, .. } = options;
        k.call(penalise, &[logits, copy, tokens, window, counts, repeat, frequency, presence]);
        copy
    };
    k.choose(options.penalises(k), with_penalties, || logits)
}
