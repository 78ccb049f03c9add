//! `score`: `@head` over many rows, its last `linear` taken piece by piece.

use super::CompileError;
use super::steps::cap_of;
use super::writer::{Scope, Writer};
use crate::builder::Func;
use crate::emit::{Emitter, Tuning};
use crate::kernels::score;
use crate::plan::{Step, row_stride};
use crate::records::worker;
use crate::sync::share;
use cranelift_codegen::ir::types::*;

/// `score`: `@head` with its last `linear` taken piece by piece. Parameters record, x, targets,
/// logprobs.
pub(super) fn define_score(
    e: &mut Emitter,
    w: &Writer,
    scratch: &mut u64,
) -> Result<Func, CompileError> {
    let module = w.inputs.module;
    let head = module.graph_named(&w.graph.name).expect("the graph is the module's");
    if w.inputs.observer.is_some_and(|o| o.watches(head)) {
        return Ok(define_observed(e, w, scratch));
    }
    let (index, cap) = logits(w).ok_or_else(|| CompileError {
        what: "@head must end in a linear without bias, or a softcap of one".into(),
    })?;
    let (inst, product) = (&w.graph.insts[index], w.product(index));
    let softcap = cap.map(|cap| (w.softcap(), cap));
    let pieces = score::define_pieces(e, product.kernel, softcap, module.meta.vocab);
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
        for step in 0..w.plan.steps.len() - 1 {
            w.step(&mut s, step);
        }
        w.barrier(&mut s);
        let (chosen, partial) = (s.scratch + chosen as i64, s.scratch + partial as i64);
        let (first, end) = share(*record, k.i64(count as i64));
        let args = [
            w.weight(&s, inst.args[1]),
            w.at(&s, w.operand(index, 0)),
            k.i64(product.steps as i64),
            k.i64(product.x_stride as i64),
            s.rows,
            *targets,
            chosen,
            partial,
            record.load(I64, worker::PRIVATE) + w.kernels.room_bytes as i64,
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

/// The `linear` of the logits, where it and their cap are all of the last step, and the cap.
fn logits(w: &Writer) -> Option<(usize, Option<f64>)> {
    let (linear, cap) = match *w.plan.steps.last()? {
        Step::Inst(linear) => (linear, None),
        Step::LinearSoftcap { linear, softcap } => {
            (linear, Some(cap_of(&w.graph.insts[softcap].op)))
        }
        _ => return None,
    };
    let plain = w.graph.logits() == Some(linear) && w.graph.insts[linear].args.len() == 2;
    (plain && w.params_are_rows()).then_some((linear, cap))
}

/// `score` for who watches values of `@head`: the head of every row, logits and all; leaves no
/// log-probabilities. Parameters as those of `score`.
fn define_observed(e: &mut Emitter, w: &Writer, scratch: &mut u64) -> Func {
    let logits = *scratch;
    *scratch += w.inputs.chunk * row_stride(w.inputs.module.meta.vocab);
    let f = e.declare("score_rows", &[I64; 4], &[]);
    e.define(&f, Tuning::Optimised, |k, args| {
        let zero = k.i64(0);
        let mut s = Scope::new(k, args[0], zero, vec![args[1]], zero);
        s.result = s.scratch + logits as i64;
        w.observe_params(&mut s);
        for step in 0..w.plan.steps.len() {
            w.step(&mut s, step);
        }
        w.barrier(&mut s);
        k.ret(&[]);
    });
    f
}

impl Writer<'_> {
    pub(super) fn params_are_rows(&self) -> bool {
        self.value_params().all(|v| self.graph.value(v).ty.row_width().is_some())
    }
}
