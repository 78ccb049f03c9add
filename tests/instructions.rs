//! Instructions that one token takes on AArch64, counted by qemu: no clock is needed to see which code
//! is shorter. Printed with `--nocapture`.

use ingot_tests::folder;
use ingot_tests::machine::{A64, Language};
use ingot_tests::model::{SHIPPED, build, shipped};
use std::io::{BufRead, BufReader};
use std::path::Path;
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

/// Instructions of the second token: those of two less those of one.
fn per_token(core: &str, quant: &str) -> u64 {
    let dir = folder();
    let line = format!(
        "--name smol --target {} -C target-cpu={core} --quant {quant} --context 64",
        A64.triple
    );
    build(&shipped(SHIPPED[0]), dir.path(), &line);
    let inputs = ["tests/c/count.c", "libsmol.a"];
    let program = A64.compile(Language::C, dir.path(), "count", &inputs);
    let [one, two] = [1, 2].map(|tokens| instructions(&program, tokens));
    two - one
}

/// Lines of qemu's log of what it executes, an instruction at a time.
fn instructions(program: &Path, tokens: u32) -> u64 {
    let mut command = Command::new(EMULATOR);
    command.args(["-cpu", "max", one_by_one(), "-d", "exec,nochain"]);
    command.arg(program).arg(tokens.to_string()).stdin(Stdio::null());
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
