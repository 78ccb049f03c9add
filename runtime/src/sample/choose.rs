//! From logits to a token: candidates, filters, temperature, the walk to the draw.
//!
//! Candidates come from a heap, the best first. Without `top_k` that heap at first holds only those
//! near the best; the others follow in a second heap if the walk ever needs them.

use super::heap::{Heap, at, logit, pop, token};
use super::options::Options;
use super::scan;
use super::weight::{ONE, weight};
use cranelift_codegen::ir::types::{F32, F64, I64};
use targets::emit::Tuning;
use targets::{Emitter, Func, Kernel, Val};

/// What `next` remembers, at the start of scratch.
mod work {
    /// `u64`: address of the logits.
    pub const LOGITS: i32 = 0;
    /// `u64`: address of the heap.
    pub const HEAP: i32 = 8;
    /// `u64`: keys left in the heap.
    pub const LEFT: i32 = 16;
    /// `u64`: candidates that are in no heap yet.
    pub const REST: i32 = 24;
    /// `u64`: keys that the first heap had.
    pub const FIRST: i32 = 32;
    /// `f32`: logits above it went to the first heap.
    pub const THRESHOLD: i32 = 40;
}

/// Bytes of `work`.
pub const WORK_BYTES: u64 = 64;

/// How far below the best the first heap reaches, in units of the temperature.
const NEAR: f32 = 8.0;

/// Functions that choose.
pub struct Chooser {
    vocab: i64,
    heap: Heap,
    max: Func,
    find: Func,
    sum: Func,
    collect: Func,
    top_k: Func,
    weight_of: Func,
    sum_keys: Func,
    next: Func,
}

impl Chooser {
    /// Emits the functions.
    pub fn emit(emitter: &mut Emitter<'_>, vocab: i64) -> Chooser {
        let heap = Heap::emit(emitter);
        let collect = scan::emit_collect(emitter, vocab);
        let weight_of = emit_weight_of(emitter);
        Chooser {
            vocab,
            max: scan::emit_max(emitter, vocab),
            find: scan::emit_find(emitter, vocab),
            sum: scan::emit_sum(emitter, vocab),
            top_k: scan::emit_top_k(emitter, &heap, vocab),
            sum_keys: emit_sum_keys(emitter, &weight_of),
            next: emit_next(emitter, &heap, &collect),
            heap,
            collect,
            weight_of,
        }
    }

    /// The token that `options` and the draw `u` choose, an `i32`.
    pub fn token<'k>(
        &self,
        k: &'k Kernel<'k>,
        options: Options<'k>,
        work: Val<'k>,
        logits: Val<'k>,
        keys: Val<'k>,
        u: Val<'k>,
    ) -> Val<'k> {
        let max = k.call(&self.max, &[logits])[0];
        let greedy = options.temperature.feq(k.f32(0.0));
        let best = || k.call(&self.find, &[logits, max])[0];
        k.choose(greedy, best, || {
            // The reciprocal of a tiny temperature is infinite, and 0 · ∞ is no number.
            let inverse = (k.f32(1.0) / options.temperature).pmin(k.f32(f32::MAX));
            let few = options.top_k.is_not(0) & options.top_k.ult(k.i64(self.vocab));
            let n = few.select(options.top_k, k.i64(self.vocab));
            let walk = Walk { k, chooser: self, work, logits, keys, max, inverse, few, n };
            walk.start(options.temperature);
            walk.choose(options, u)
        })
    }
}

/// One walk through the candidates.
#[derive(Clone, Copy)]
struct Walk<'k, 'c> {
    k: &'k Kernel<'k>,
    chooser: &'c Chooser,
    work: Val<'k>,
    logits: Val<'k>,
    keys: Val<'k>,
    max: Val<'k>,
    /// The reciprocal of the temperature.
    inverse: Val<'k>,
    /// Whether `top_k` cuts the candidates.
    few: Val<'k>,
    /// `i64`: how many candidates there are.
    n: Val<'k>,
}

impl<'k> Walk<'k, '_> {
    /// Builds the first heap.
    fn start(self, temperature: Val<'k>) {
        let (k, work) = (self.k, self.work);
        let near = temperature.pmax(k.f32(1.0)) * NEAR;
        let threshold = (self.max - near).pmax(k.f32(-f32::MAX));
        let first = k.choose(
            self.few,
            || {
                k.call(&self.chooser.top_k, &[self.logits, self.keys, self.n]);
                self.n
            },
            || {
                let args = [self.logits, self.keys, threshold, k.i32(0)];
                let n = k.call(&self.chooser.collect, &args)[0];
                k.call(&self.chooser.heap.heapify, &[self.keys, n]);
                n
            },
        );
        work.store(work::LOGITS, self.logits);
        work.store(work::HEAP, self.keys);
        work.store(work::LEFT, first);
        work.store(work::REST, self.n - first);
        work.store(work::FIRST, first);
        work.store(work::THRESHOLD, threshold);
    }

    /// The next candidate's key.
    fn next(self) -> Val<'k> {
        self.k.call(&self.chooser.next, &[self.work])[0]
    }

    /// The key that `next` gave the `i`th time, from 0: where `pop` left it.
    fn again(self, i: Val<'k>) -> Val<'k> {
        let k = self.k;
        let first = self.work.load(I64, work::FIRST);
        let place = i.ult(first).select(first, k.i64(self.chooser.vocab) + first) - i - 1;
        at(self.keys, place).load(I64, 0)
    }

    fn weight(self, key: Val<'k>, inverse: Val<'k>) -> Val<'k> {
        self.k.call(&self.chooser.weight_of, &[key, self.max, inverse])[0]
    }

    /// The weight of all candidates; none has been taken yet.
    fn weight_of_all(self, inverse: Val<'k>) -> Val<'k> {
        let k = self.k;
        let Chooser { sum, sum_keys, .. } = self.chooser;
        k.choose(
            self.few,
            || k.call(sum_keys, &[self.keys, self.n, self.max, inverse])[0],
            || k.call(sum, &[self.logits, self.max, inverse])[0],
        )
    }

    fn choose(self, options: Options<'k>, u: Val<'k>) -> Val<'k> {
        let (k, zero, one) = (self.k, self.k.f32(0.0), self.k.f32(1.0));
        let top_p = zero.flt(options.top_p) & options.top_p.flt(one);
        let filtered = top_p | zero.flt(options.min_p);
        let kept = k.var(self.n);
        let all = k.choose(
            filtered,
            || {
                let (n, all) = self.filter(options, top_p);
                kept.set(n);
                all
            },
            || self.weight_of_all(self.inverse),
        );
        let target = (u * all.to_float(F64)).to_int(I64).umin(all - 1);
        let (i, sum) = (k.var(k.i64(0)), k.var(k.i64(0)));
        let chosen = k.var(k.i64(0));
        k.loop_(|| {
            let key = k.choose(filtered, || self.again(i.get()), || self.next());
            chosen.set(key);
            sum.add(self.weight(key, self.inverse));
            i.add(k.i64(1));
            // The second condition is for machines whose arithmetic is not what it should be.
            k.break_if(target.ult(sum.get()) | i.get().eq(kept.get()));
        });
        token(chosen.get())
    }

    /// Takes candidates until `top_p` or `min_p` ends it; returns how many are kept and their
    /// weight at the temperature asked for.
    fn filter(self, options: Options<'k>, top_p: Val<'k>) -> (Val<'k>, Val<'k>) {
        let k = self.k;
        let one = k.f32(1.0);
        let share = || options.top_p.promote() * self.weight_of_all(one).to_float(F64);
        let enough = k.choose(top_p, share, || k.f64(f64::INFINITY));
        let least = options.min_p.promote() * ONE as f32;
        let (n, sum, all) = (k.var(k.i64(0)), k.var(k.i64(0)), k.var(k.i64(0)));
        k.loop_(|| {
            let key = self.next();
            let weight = self.weight(key, one);
            k.break_if(weight.to_float(F64).flt(least));
            n.add(k.i64(1));
            sum.add(weight);
            all.add(self.weight(key, self.inverse));
            k.break_if(enough.fle(sum.get().to_float(F64)) | n.get().eq(self.n));
        });
        (n.get(), all.get())
    }
}

/// `weight_of(key, max, inverse) -> i64`.
fn emit_weight_of(emitter: &mut Emitter<'_>) -> Func {
    let f = emitter.declare("sample.weight", &[I64, F32, F32], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        k.ret(&[weight(k, logit(args[0]), args[1], args[2]).uext(I64)]);
    });
    f
}

/// `sum_keys(keys, n, max, inverse) -> i64`: the weight of `n` candidates.
fn emit_sum_keys(emitter: &mut Emitter<'_>, weight_of: &Func) -> Func {
    let f = emitter.declare("sample.sum_keys", &[I64, I64, F32, F32], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let sum = k.var(k.i64(0));
        k.each(k.i64(0), args[1], 1, |i| {
            let key = at(args[0], i).load(I64, 0);
            sum.add(k.call(weight_of, &[key, args[2], args[3]])[0]);
        });
        k.ret(&[sum.get()]);
    });
    f
}

/// `next(work) -> i64`: the best candidate that has not been taken yet; there is one.
fn emit_next(emitter: &mut Emitter<'_>, heap: &Heap, collect: &Func) -> Func {
    let f = emitter.declare("sample.next", &[I64], &[I64]);
    emitter.define(&f, Tuning::Optimised, |k, args| {
        let work = args[0];
        k.if_(work.load(I64, work::LEFT).is(0), || {
            let keys = at(work.load(I64, work::HEAP), work.load(I64, work::FIRST));
            let (logits, threshold) =
                (work.load(I64, work::LOGITS), work.load(F32, work::THRESHOLD));
            let n = k.call(collect, &[logits, keys, threshold, k.i32(-1)])[0];
            k.call(&heap.heapify, &[keys, n]);
            work.store(work::HEAP, keys);
            work.store(work::LEFT, n);
        });
        let left = work.load(I64, work::LEFT);
        let best = pop(k, heap, work.load(I64, work::HEAP), left);
        work.store(work::LEFT, left - 1);
        k.ret(&[best]);
    });
    f
}
