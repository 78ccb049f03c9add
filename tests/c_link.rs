//! Libraries in C programs: compiled with all warnings, linked with nothing else, run natively and
//! under qemu, and compared with what PyTorch says of the same weights.

use ingot_tests::machine::{A64, Language, Machine, X64, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::reference::{Prompt, read};
use ingot_tests::said::Way;
use ingot_tests::{folder, shared};
use std::path::Path;

/// The shipped weights are stored as f16, so f32 and f16 hold the same numbers.
/// Integers of 2, 3, 5 and 6 bits, and tables.
const NARROW: &str =
    concat!("--kv f16 --recipe ", env!("CARGO_MANIFEST_DIR"), "/recipes/narrow.toml");

const WAYS: [Way; 10] = [
    Way { line: "--quant f32 --kv f32", tokens: 48, logits: 1e-4, score: 1e-4 },
    Way { line: "--quant f16 --kv f32", tokens: 8, logits: 1e-4, score: 1e-4 },
    Way { line: "--quant f16 --kv f16", tokens: 48, logits: 1e-2, score: 1e-3 },
    Way { line: "--quant bf16 --kv f16", tokens: 0, logits: 0.2, score: 2e-2 },
    Way { line: "--quant w8a8 --kv f16", tokens: 0, logits: 0.5, score: 5e-2 },
    Way { line: "--quant w8a8 --kv i8", tokens: 0, logits: 0.7, score: 7e-2 },
    Way { line: "--quant w8a8 --kv i8 --activations token", tokens: 0, logits: 0.7, score: 7e-2 },
    Way { line: "--quant w8a16 --kv f16", tokens: 0, logits: 0.5, score: 5e-2 },
    Way { line: "--quant w4a8 --kv i4", tokens: 0, logits: 7.0, score: 0.7 },
    Way { line: NARROW, tokens: 0, logits: 20.0, score: 3.0 },
];

#[test]
fn shakespeare_says_what_the_reference_says_on_every_machine() {
    let model = shipped(SHIPPED[0]);
    let prompts = read(&model.join("reference.json"));
    WAYS.iter().for_each(|way| way.check_machines(&model, &prompts));
}

#[test]
fn shakespeare_shared_says_what_the_reference_says_on_every_machine() {
    let model = shipped(SHIPPED[1]);
    let prompts = read(&model.join("reference.json"));
    WAYS.iter().for_each(|way| way.check_machines(&model, &prompts));
}

/// The weights of stories260K are stored as f32; heads are 8 wide.
const STORIES_WAYS: [Way; 3] = [
    Way { line: "--quant f32 --kv f32", tokens: 48, logits: 1e-3, score: 1e-3 },
    Way { line: "--quant f16 --kv f16", tokens: 48, logits: 5e-2, score: 5e-3 },
    Way { line: "--quant bf16 --kv f16", tokens: 0, logits: 0.5, score: 5e-2 },
];

#[test]
fn stories260k_says_what_the_reference_says_on_every_machine() {
    let (Some(model), Some(reference)) =
        (shared("data/stories260k"), shared("data/reference/stories260k.json"))
    else {
        return;
    };
    let prompts = read(&reference);
    STORIES_WAYS.iter().for_each(|way| way.check_machines(&model, &prompts));
}

/// What a program in `examples` adds to each prompt: ids, and text below.
fn continue_with(program: &Path, machine: &Machine, prompts: &[Prompt], text: &[String]) {
    for (prompt, text) in prompts.iter().zip(text) {
        let args = words(&[&[prompt.greedy.len() as i32], &prompt.ids[..]].concat());
        let printed = machine.run(program, "max", &args);
        let (ids, added) = printed.split_once('\n').expect("two parts");
        assert_eq!(words(&prompt.greedy), ids.split_whitespace().collect::<Vec<_>>());
        assert!(text.ends_with(added.strip_suffix('\n').expect("a line")), "{text}\n{added}");
        assert!(added.len() > prompt.greedy.len());
    }
}

#[test]
fn the_examples_continue_a_text_in_c99_and_cpp17() {
    for model in SHIPPED.map(shipped) {
        let prompts = read(&model.join("reference.json"));
        let texts: Vec<String> = prompts.iter().map(|p| p.text.clone()).collect();
        for machine in [&X64, &A64].into_iter().filter(|m| m.available()) {
            let dir = folder();
            let line = format!("--name smol --emit lib,header,cpp --target {}", machine.triple);
            build(&model, dir.path(), &line);
            let inputs = ["examples/c/continue.c", "libsmol.a"];
            let program = machine.compile(Language::C, dir.path(), "continue", &inputs);
            // Emulation is slow: one prompt is enough there.
            let few = if machine.is_host() { prompts.len() } else { 1 };
            continue_with(&program, machine, &prompts[..few], &texts);
            if machine.is_host() {
                let inputs = ["examples/cpp/continue.cpp", "libsmol.a"];
                let program = machine.compile(Language::Cpp, dir.path(), "continue++", &inputs);
                continue_with(&program, machine, &prompts, &texts);
            }
        }
    }
}

#[test]
fn the_examples_write_a_story_use_threads_and_map_weights() {
    let host = Machine::host();
    let model = shipped(SHIPPED[0]);
    let dir = folder();
    build(&model, dir.path(), "--name shakespeare");
    let inputs = ["examples/c/story.c", "libshakespeare.a"];
    let story = host.compile(Language::C, dir.path(), "story", &inputs);
    let tell = |seed: u32| host.run(&story, "max", &words(&[seed, 80]));
    assert_eq!(tell(1), tell(1), "a seed is a story");
    assert_ne!(tell(1), tell(2), "another seed is another");
    assert!(tell(1).len() > 100);

    build(&model, dir.path(), "--name smol --weights external");
    let inputs = ["examples/c/threads.c", "examples/c/pool.c", "-pthread", "libsmol.a"];
    let program = host.compile(Language::C, dir.path(), "threads", &inputs);
    let mapped =
        host.compile(Language::C, dir.path(), "mapped", &["examples/c/mapped.c", "libsmol.a"]);
    let prompt = read(&model.join("reference.json")).remove(0);
    let weights = dir.path().join("smol.weights").display().to_string();
    for workers in [1, 2, 3] {
        let numbers = [&[workers, prompt.greedy.len() as i32], &prompt.ids[..]].concat();
        let printed = host.run(&program, "max", &[vec![weights.clone()], words(&numbers)].concat());
        assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), words(&prompt.greedy));
    }
    let numbers = [&[prompt.greedy.len() as i32], &prompt.ids[..]].concat();
    let printed = host.run(&mapped, "", &[vec![weights.clone()], words(&numbers)].concat());
    assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), words(&prompt.greedy));

    // Weights of another build, and the right ones with a bit turned.
    let other = folder();
    build(&model, other.path(), "--name smol --weights external --rotate hadamard");
    let refused = |weights: &Path, why: &str| {
        let args = [vec![weights.display().to_string()], words(&numbers)].concat();
        let output = host.output(&mapped, "", &args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("mapped: {why}\n"));
    };
    refused(
        &other.path().join("smol.weights"),
        "the weights are missing, misaligned or of another model",
    );
    let mut bytes = std::fs::read(&weights).expect("it was written");
    bytes[100_000] ^= 1;
    let damaged = dir.path().join("damaged");
    std::fs::write(&damaged, bytes).expect("it can be written");
    refused(&damaged, "the weights are not as they were written");
}
