//! Libraries in C programs: compiled with all warnings, linked with nothing else, run natively and
//! under qemu, and compared with what PyTorch says of the same weights.

use ingot_tests::folder;
use ingot_tests::machine::{A64, Language, Machine, X64, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::reference::{Prompt, read};
use std::path::Path;

/// What `tests/c/driver.c` prints.
#[derive(Debug, PartialEq)]
struct Said {
    logits: Vec<u32>,
    greedy: Vec<i32>,
    logprobs: Vec<u32>,
}

fn floats(bits: &[u32]) -> impl Iterator<Item = f32> {
    bits.iter().map(|b| f32::from_bits(*b))
}

impl Said {
    fn parse(printed: &str) -> Said {
        let line = |what: &str| {
            let found = printed.lines().find_map(|l| l.strip_prefix(what));
            found.unwrap_or_else(|| panic!("no {what} in {printed}")).split_whitespace()
        };
        let bits = |what| line(what).map(|w| u32::from_str_radix(w, 16).expect("bits")).collect();
        Said {
            logits: bits("logits"),
            greedy: line("greedy").map(|w| w.parse().expect("a token")).collect(),
            logprobs: bits("logprobs"),
        }
    }

    /// Largest difference from the reference's logits.
    fn logits_off(&self, prompt: &Prompt) -> f32 {
        assert_eq!(self.logits.len(), prompt.logits.len());
        let off = floats(&self.logits).zip(&prompt.logits).map(|(a, b)| (a - b).abs());
        off.fold(0.0, f32::max)
    }

    /// Difference from the reference's log-likelihood, per token.
    fn score_off(&self, prompt: &Prompt) -> f64 {
        assert_eq!(self.logprobs.len(), prompt.ids.len() - 1);
        let sum: f64 = floats(&self.logprobs).map(f64::from).sum();
        (sum + prompt.nll).abs() / self.logprobs.len() as f64
    }
}

/// What the driver says of every prompt and `count` tokens after it.
fn say(machine: &Machine, dir: &Path, prompts: &[Prompt], count: usize) -> Vec<Said> {
    let driver = ["tests/c/driver.c", "libsmol.a"];
    let program = machine.compile(Language::C, dir, "driver", &driver);
    let one = |cpu: &str, prompt: &Prompt| {
        let args = words(&[&[count as i32], &prompt.ids[..]].concat());
        Said::parse(&machine.run(&program, cpu, &args))
    };
    let said: Vec<Said> = prompts.iter().map(|prompt| one("max", prompt)).collect();
    if !machine.is_host() {
        assert_eq!(one("cortex-a53", &prompts[0]), said[0], "an old core");
    }
    said
}

/// A way to build, and how near to the reference it must come.
struct Way {
    line: &'static str,
    /// Tokens that are the reference's.
    tokens: usize,
    /// Largest difference of a logit.
    logits: f32,
    /// Difference of the log-likelihood, per token.
    score: f64,
}

/// The shipped weights are stored as f16, so f32 and f16 hold the same numbers.
const WAYS: [Way; 4] = [
    Way { line: "--quant f32 --kv f32", tokens: 48, logits: 1e-4, score: 1e-4 },
    Way { line: "--quant f16 --kv f32", tokens: 8, logits: 1e-4, score: 1e-4 },
    Way { line: "--quant f16 --kv f16", tokens: 48, logits: 1e-2, score: 1e-3 },
    Way { line: "--quant bf16 --kv f16", tokens: 0, logits: 0.2, score: 2e-2 },
];

impl Way {
    fn check(&self, who: &str, said: &[Said], prompts: &[Prompt]) {
        for (said, prompt) in said.iter().zip(prompts) {
            let (logits, score) = (said.logits_off(prompt), said.score_off(prompt));
            let line = self.line;
            assert!(logits <= self.logits, "{who} {line}: logits are {logits} off");
            assert!(score <= self.score, "{who} {line}: the score is {score} off");
            assert_eq!(said.greedy[..], prompt.greedy[..self.tokens], "{who} {line}");
        }
    }

    /// What a build for a machine and a CPU says, checked.
    fn say(&self, model: &Path, machine: &Machine, cpu: &str, prompts: &[Prompt]) -> Vec<Said> {
        let dir = folder();
        let target = format!("--target {} -C target-cpu={cpu}", machine.triple);
        build(model, dir.path(), &format!("--name smol {target} {}", self.line));
        let said = say(machine, dir.path(), prompts, self.tokens);
        self.check(cpu, &said, prompts);
        said
    }
}

fn libraries_say_what_the_reference_says(model: &Path) {
    let prompts = read(&model.join("reference.json"));
    for way in &WAYS {
        let host = Machine::host();
        let mut said: Vec<(&str, Vec<Said>)> = Machine::host_cpus()
            .into_iter()
            .map(|cpu| (cpu, way.say(model, host, cpu, &prompts)))
            .collect();
        if X64.is_host() && A64.available() {
            said.push(("aarch64", way.say(model, &A64, "generic", &prompts)));
        }
        // CPUs before x86-64-v3 round products before they are added; all others have one result.
        said.retain(|(cpu, _)| !["x86-64", "x86-64-v2"].contains(cpu));
        for pair in said.windows(2) {
            assert!(pair[0].1 == pair[1].1, "{}: {} and {} differ", way.line, pair[0].0, pair[1].0);
        }
    }
}

#[test]
fn shakespeare_says_what_the_reference_says_on_every_machine() {
    libraries_say_what_the_reference_says(&shipped(SHIPPED[0]));
}

#[test]
fn shakespeare_shared_says_what_the_reference_says_on_every_machine() {
    libraries_say_what_the_reference_says(&shipped(SHIPPED[1]));
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
            build(&model, dir.path(), &format!("--name smol --target {}", machine.triple));
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
fn the_examples_write_a_story_and_use_threads() {
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
    let prompt = read(&model.join("reference.json")).remove(0);
    let weights = dir.path().join("smol.weights").display().to_string();
    for workers in [1, 2, 3] {
        let numbers = [&[workers, prompt.greedy.len() as i32], &prompt.ids[..]].concat();
        let printed = host.run(&program, "max", &[vec![weights.clone()], words(&numbers)].concat());
        assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), words(&prompt.greedy));
    }
}
