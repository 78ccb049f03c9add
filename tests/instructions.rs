//! Instructions that a token takes on AArch64, decoded or in a prompt, counted by qemu: no clock is
//! needed to see which code is shorter. Printed with `--nocapture`.

use ingot_tests::folder;
use ingot_tests::machine::{A64, Language};
use ingot_tests::model::{SHIPPED, build, shipped};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const EMULATOR: &str = "qemu-aarch64-static";
/// Cores without and with dot products of bytes.
const CORES: [&str; 2] = ["cortex-a53", "cortex-a76"];

/// Formats, and by how many hundredths the dot product must shorten a token at least.
const FORMATS: [(&str, u64); 2] = [("w8a8", 40), ("w4a8", 20)];

#[test]
fn dot_products_shorten_a_token() {
    if !A64.available() || A64.is_host() {
        return;
    }
    for (quant, hundredths) in FORMATS {
        let [without, with] = CORES.map(|core| per_token(core, quant));
        println!("{quant}: {without} instructions a token on {}, {with} on {}", CORES[0], CORES[1]);
        assert!(with * 100 < without * (100 - hundredths), "{quant}: {with} against {without}");
    }
}

/// Tokens of a prompt.
const PROMPT: u64 = 16;

/// Formats, and by how many hundredths `smmla` must shorten a prompt at least.
const PROMPTS: [(&str, u64); 2] = [("w8a8", 25), ("w4a8", 40)];

#[test]
fn products_of_pairs_shorten_a_prompt() {
    if !A64.available() || A64.is_host() {
        return;
    }
    let cores = [CORES[1], "neoverse-v1"];
    for (quant, hundredths) in PROMPTS {
        let [without, with] = cores.map(|core| per_token_of_prompt(core, quant));
        println!(
            "{quant}: {without} instructions a token of {PROMPT} on {}, {with} on {}",
            cores[0], cores[1]
        );
        assert!(with * 100 < without * (100 - hundredths), "{quant}: {with} against {without}");
    }
}

/// Instructions of the second token: those of two less those of one.
fn per_token(core: &str, quant: &str) -> u64 {
    let dir = folder();
    let program = program(dir.path(), core, quant);
    let [one, two] = [1, 2].map(|tokens| instructions(&program, 0, tokens));
    two - one
}

/// Instructions of a prompt, by its tokens.
fn per_token_of_prompt(core: &str, quant: &str) -> u64 {
    let dir = folder();
    let program = program(dir.path(), core, quant);
    let [none, all] = [0, PROMPT].map(|prompt| instructions(&program, prompt, 0));
    (all - none) / PROMPT
}

fn program(dir: &Path, core: &str, quant: &str) -> PathBuf {
    let line = format!(
        "--name smol --target {} -C target-cpu={core} --quant {quant} --context 64",
        A64.triple
    );
    build(&shipped(SHIPPED[0]), dir, &line);
    A64.compile(Language::C, dir, "count", &["tests/c/count.c", "libsmol.a"])
}

/// Lines of qemu's log of what it executes, an instruction at a time.
fn instructions(program: &Path, prompt: u64, tokens: u64) -> u64 {
    let mut command = Command::new(EMULATOR);
    command.args(["-cpu", "max", one_by_one(), "-d", "exec,nochain"]);
    command.arg(program).args([prompt, tokens].map(|n| n.to_string())).stdin(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the emulator starts");
    let log = child.stderr.take().expect("it is piped");
    let mut log = BufReader::with_capacity(1 << 20, log);
    let (mut count, mut line) = (0, vec![]);
    while log.read_until(b'\n', &mut line).expect("the log is read") > 0 {
        count += u64::from(line.starts_with(b"Trace "));
        line.clear();
    }
    assert!(child.wait().expect("it ends").success());
    count
}

/// The flag has two names.
fn one_by_one() -> &'static str {
    let help = Command::new(EMULATOR).arg("--help").output().expect("the emulator starts");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    if help.contains("-one-insn-per-tb") { "-one-insn-per-tb" } else { "-singlestep" }
}
