//! How many products of bytes this machine makes at best: the bound on prefill with int8 activations.

use crate::pool::Pool;
use std::ffi::c_void;
use std::time::{Duration, Instant};
use targets::{Emitter, Target, jit, peak};

/// How long one measurement takes.
const MEASURE: Duration = Duration::from_millis(100);
/// How long one pass takes, about.
const PASS: Duration = Duration::from_millis(5);

/// Operations per second of all threads together in the fastest pass, a product and its sum being two.
pub fn int8_peak(target: &Target, threads: u32) -> f64 {
    let mut sink = jit::module(target);
    let (function, ops) = peak::define(&mut Emitter::new(target, &mut sink, "bench", false));
    let code = jit::Code::new(sink);
    // SAFETY: the function takes the number of rounds alone.
    let run = unsafe { std::mem::transmute::<*const u8, Run>(code.function(function.id)) };
    let pool = Pool::new(threads);
    let seconds = |rounds: u64| {
        let began = Instant::now();
        let pass = Pass { run, rounds };
        // SAFETY: `task` takes a Pass, which outlives the call and is shared safely.
        unsafe { pool.run(threads, task, (&raw const pass).cast_mut().cast()) };
        began.elapsed().as_secs_f64()
    };
    const FIRST: u64 = 10_000;
    let rounds = (FIRST as f64 * PASS.as_secs_f64() / seconds(FIRST)).max(1.0) as u64;
    let (began, mut best) = (Instant::now(), f64::MAX);
    while began.elapsed() < MEASURE {
        best = best.min(seconds(rounds));
    }
    (rounds * ops) as f64 * f64::from(threads) / best
}

type Run = extern "sysv64" fn(u64);

struct Pass {
    run: Run,
    rounds: u64,
}

/// # Safety
/// `argument` points to a `Pass`.
unsafe extern "C" fn task(argument: *mut c_void, _: u32) {
    // SAFETY: by contract.
    let pass = unsafe { &*argument.cast::<Pass>() };
    (pass.run)(pass.rounds);
}
