//! Emitted code against the reference interpreter, on small random models.

use ingot::model::prepare;
use ingot::session::Session;
use ingot_tests::machine::Machine;
use ingot_tests::model::{SHIPPED, distance, flags, shipped, tokens};
use ir::sample::{Sample, Seeded};
use ir::{DType, Interpreter, Module};
use runtime::Options;
use std::path::Path;
use targets::Target;

fn options() -> Options {
    Options { chunk: 8, max_workers: 4, ..Options::default() }
}

fn session(module: &Module, target: &Target, chunk: u64, workers: u32) -> Session {
    let blobs = Seeded::new(module, 7);
    let options = Options { chunk, ..options() };
    let mut session =
        Session::new(module, &blobs, target, &options, workers, &|_| {}).expect("compiles");
    session.reset().expect("starts");
    session
}

fn signed(tokens: &[u32]) -> Vec<i32> {
    tokens.iter().map(|&t| t as i32).collect()
}

fn cpus() -> Vec<Target> {
    let cpus = Machine::host_cpus().into_iter();
    cpus.map(|cpu| Machine::host().target(cpu)).collect()
}

fn shapes() -> Vec<(&'static str, Sample)> {
    let base = Sample { head: 8, width: 36, inner: 44, vocab: 77, ..Sample::default() };
    vec![
        ("plain", base.clone()),
        ("bias", Sample { bias: true, ..base.clone() }),
        ("qk norm", Sample { qk_norm: true, ..base.clone() }),
        ("f16", Sample { dtype: DType::F16, cache: DType::F16, ..base.clone() }),
        ("bf16", Sample { dtype: DType::BF16, ..base.clone() }),
        ("untied", Sample { tied: false, ..base.clone() }),
        ("gemma", Sample { head: 8, width: 36, inner: 44, vocab: 77, ..Sample::gemma() }),
        ("gemma 2", Sample { head: 8, width: 36, inner: 44, vocab: 77, ..Sample::gemma2() }),
    ]
}

#[test]
fn logits_agree_with_the_interpreter() {
    for (name, sample) in shapes() {
        let module = sample.module().expect("a valid sample");
        let blobs = Seeded::new(&module, 7);
        let mut interpreter = Interpreter::new(&module, &blobs).expect("runs");
        let prompt = tokens(&module, 21.min(module.meta.context as u32 - 1));
        let all = interpreter.run(&prompt).expect("fits");
        let vocab = module.meta.vocab as usize;
        let expected = &all[all.len() - vocab..];
        for target in cpus() {
            let mut session = session(&module, &target, 8, 1);
            session.prefill(&signed(&prompt)).expect("fits");
            let found = session.logits().expect("there are logits");
            let d = distance(found, expected);
            assert!(d < 1e-4, "{name} on {}: {d}", target.cpu);
        }
    }
}

/// The shipped models, as text prepares them: how `ingot build` is asked, and the distance allowed.
const WAYS: [(&str, f32); 13] = [
    ("--quant f32 --kv f32", 1e-4),
    ("--quant f16 --kv f32", 1e-4),
    ("--quant bf16 --kv f32", 1e-4),
    // A key or value at the border between two halves may be rounded to either.
    ("--quant f16 --kv f16", 1e-3),
    // An activation at the border between two integers may be rounded to either.
    ("--quant w8a8 --kv f32", 3e-2),
    ("--quant w4a8 --kv f32", 3e-2),
    ("--quant w8a8 --kv f32 --activations token", 5e-2),
    ("--quant w4a8 --kv f32 --activations token", 5e-2),
    ("--quant w8a16 --kv f32", 1e-4),
    ("--quant w4a16 --kv f32", 1e-4),
    ("--quant f32 --kv i8", 3e-2),
    ("--quant f32 --kv i4", 1e-1),
    ("--quant f32 --kv f32 --simulate a8,kv8", 8e-2),
];

#[test]
fn shipped_models_agree_with_the_interpreter() {
    for path in SHIPPED.map(shipped) {
        for (line, limit) in WAYS {
            let flags = flags(&path, Path::new("unused"), line).model;
            let model = prepare(&flags).expect("a model that ships");
            let prompt = tokens(&model.module, 45);
            let mut interpreter = Interpreter::new(&model.module, &model.blobs).expect("runs");
            let expected = interpreter.run(&prompt).expect("fits");
            for target in cpus() {
                let options = Options { chunk: 16, ..options() };
                let session =
                    Session::new(&model.module, &model.blobs, &target, &options, 1, &|_| {});
                let mut session = session.expect("compiles");
                session.reset().expect("starts");
                for (t, row) in expected.chunks(model.module.meta.vocab as usize).enumerate() {
                    session.decode(prompt[t] as i32).expect("fits");
                    let d = distance(session.logits().expect("there are logits"), row);
                    assert!(d < limit, "{line} on {}: {d} at token {t}", target.cpu);
                }
            }
        }
    }
}
