//! Which of a library's models a machine can run.

use cranelift_codegen::ir::types::{I32, I64};
use targets::asm::x64_cpu;
use targets::{Arch, Emitter, Func, Tuning};

/// Emits `lacks() -> u64` for the emitter's CPU: 0 if the machine has the features that its code uses;
/// `None` where code uses nothing that a machine of the target could lack, or cannot ask.
pub fn emit_lacks(e: &mut Emitter) -> Option<Func> {
    if e.target.facts.arch != Arch::X64 {
        return None;
    }
    let f = e.declare("lacks", &[], &[I64]);
    let code = x64_cpu::lacks(&e.target.features, e.target.is_linux());
    e.define_assembled(&f, &code.bytes, code.frame_bytes, code.text);
    Some(f)
}

/// Emits `variant() -> i32`: of models with these `lacks`, worst first, the last that the machine can
/// run; -1 if there is none.
pub fn emit_variant(e: &mut Emitter, models: &[Option<Func>]) -> Func {
    let f = e.declare("variant", &[], &[I32]);
    e.define(&f, Tuning::Optimised, |k, _| {
        let none = k.i32(-1);
        let best = models.iter().enumerate().fold(none, |worse, (i, lacks)| {
            let index = k.i32(i as i32);
            match lacks {
                Some(lacks) => k.call(lacks, &[])[0].is(0).select(index, worse),
                None => index,
            }
        });
        k.ret(&[best]);
    });
    f
}
