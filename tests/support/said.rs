//! What a library says of prompts, and how near that must be to a reference.

use crate::folder;
use crate::machine::{A64, Language, Machine, R64, RISCV_CORES, X64, words};
use crate::model::build;
use crate::reference::Prompt;
use std::path::Path;

/// What `tests/c/driver.c` prints of one prompt, floats as bits.
#[derive(Debug, PartialEq)]
pub struct Said {
    /// Logits after the prompt.
    pub logits: Vec<u32>,
    /// Tokens that follow, always the likeliest.
    pub greedy: Vec<i32>,
    /// Log-probabilities of the prompt's tokens from the second on.
    pub logprobs: Vec<u32>,
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

/// A way to build, and how near to the reference it must come.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Flags of `ingot build`.
    pub line: &'static str,
    /// Tokens after each prompt that are the reference's.
    pub tokens: usize,
    /// Largest difference of a logit.
    pub logits: f32,
    /// Largest difference of the log-likelihood, per token.
    pub score: f64,
}

impl Way {
    fn check(&self, who: &str, said: &[Said], prompts: &[Prompt]) {
        for (said, prompt) in said.iter().zip(prompts) {
            let (logits, score) = (said.logits_off(prompt), said.score_off(prompt));
            let line = self.line;
            assert!(logits <= self.logits, "{who} {line}: logits are {logits} off");
            assert!(score <= self.score, "{who} {line}: the score is {score} off");
            let greedy = &prompt.greedy[..self.tokens.min(prompt.greedy.len())];
            assert_eq!(said.greedy, greedy, "{who} {line}");
        }
    }

    /// What a build for a machine and a CPU says, checked. Where it is emulated, `posing` names the
    /// cores that the emulator poses as: the first for all prompts, the others for one.
    pub fn say(
        &self,
        model: &Path,
        (machine, cpu): (&Machine, &str),
        posing: &[&str],
        prompts: &[Prompt],
    ) -> Vec<Said> {
        let dir = folder();
        let target = format!("--target {} -C target-cpu={cpu}", machine.triple);
        build(model, dir.path(), &format!("--name smol {target} {}", self.line));
        let inputs = ["tests/c/driver.c", "libsmol.a"];
        let program = machine.compile(Language::C, dir.path(), "driver", &inputs);
        let one = |core: &str, prompt: &Prompt| {
            let args = words(&[&[self.tokens as i32], &prompt.ids[..]].concat());
            Said::parse(&machine.run(&program, core, &args))
        };
        let said: Vec<Said> = prompts.iter().map(|prompt| one(posing[0], prompt)).collect();
        for core in &posing[1..] {
            assert_eq!(one(core, &prompts[0]), said[0], "{core}");
        }
        self.check(cpu, &said, prompts);
        said
    }

    /// Every CPU of this machine, AArch64 and RISC-V says what the reference says, and those that fuse
    /// multiplication and addition say it with the same bits.
    pub fn check_machines(&self, model: &Path, prompts: &[Prompt]) {
        let cpus = Machine::host_cpus().into_iter();
        let mut said: Vec<(&str, Vec<Said>)> = cpus
            .map(|cpu| (cpu, self.say(model, (Machine::host(), cpu), &[""], prompts)))
            .collect();
        said.retain(|(cpu, _)| Machine::host().fuses(cpu));
        if X64.is_host() && A64.available() {
            let cores = ["max", "cortex-a53"];
            said.push(("aarch64", self.say(model, (&A64, "generic"), &cores, prompts)));
        }
        if X64.is_host() && R64.available() {
            said.push(("riscv64", self.say(model, (&R64, "rv64gcv"), &RISCV_CORES, prompts)));
        }
        for pair in said.windows(2) {
            assert!(pair[0].1 == pair[1].1, "{}: {} and {}", self.line, pair[0].0, pair[1].0);
        }
    }
}
