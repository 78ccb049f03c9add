//! Workers: shares of the work and barriers between steps.

use crate::builder::{Func, Kernel, Val};
use crate::emit::{Emitter, Tuning};
use crate::records::{frame, worker};
use cranelift_codegen::ir::types::*;

/// Emits `barrier(record)`: returns when every worker has called it as often.
///
/// Arrivals are counted up and never reset within a call, so there is no second phase; one worker
/// alone does not touch the counter.
pub fn define_barrier(e: &mut Emitter) -> Func {
    let f = e.declare("barrier", &[I64], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let record = args[0];
        let workers = record.load(I64, worker::WORKERS).truncate(I32);
        k.return_if(workers.is(1), &[]);
        let passed = record.load(I32, worker::PASSED) + workers;
        record.store(worker::PASSED, passed);
        let arrived = record.load(I64, worker::FRAME) + i64::from(frame::ARRIVED);
        arrived.atomic_add(k.i32(1));
        // The difference is signed, so a wrapped counter still compares well.
        k.while_(|| (arrived.atomic_load(I32) - passed).lt(k.i32(0)), || {});
        k.ret(&[]);
    });
    f
}

/// This worker's contiguous share of `count` pieces: first and end. The pieces are fixed; who gets
/// which never changes a result.
pub fn share<'k>(record: Val<'k>, count: Val<'k>) -> (Val<'k>, Val<'k>) {
    let index = record.load(I64, worker::INDEX);
    let workers = record.load(I64, worker::WORKERS);
    (count * index / workers, count * (index + 1) / workers)
}

/// Address of the worker record `index` of a frame.
pub fn record<'k>(k: &'k Kernel<'k>, frame_at: Val<'k>, index: Val<'k>) -> Val<'k> {
    frame_at + index * i64::from(worker::BYTES) + k.i64(i64::from(frame::RECORDS))
}
