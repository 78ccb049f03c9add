//! AArch64 under qemu: an object with the kernels, a C program around it, cases in a file.

use super::{ARGUMENTS, Arg, Case, export};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use targets::{Emitter, Func, Target, object};

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";

/// Whether there is a compiler and an emulator; says what is missing, which in CI nothing may be.
pub fn available() -> bool {
    [COMPILER, EMULATOR].iter().all(|tool| {
        let there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !there {
            assert!(
                std::env::var_os("CI").is_none(),
                "{tool} is missing; scripts/test installs it"
            );
            // Not eprintln!, which the test harness keeps to itself.
            let written = writeln!(std::io::stderr(), "skipped: {tool} is missing");
            written.expect("standard error takes a line");
        }
        there
    })
}

/// As `super::run`.
pub fn run(
    target: &Target,
    define: &dyn Fn(&mut Emitter) -> Vec<Func>,
    cases: &[Case],
) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a folder can be made");
    let functions = write_object(dir.path(), target, define);
    write_table(dir.path(), functions);
    std::fs::write(dir.path().join("cases"), serialised(cases)).expect("cases can be written");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/call.c");
    let mut compile = Command::new(COMPILER);
    compile.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-static"]);
    compile.args(["-I.", source, "kernels.o", "-o", "call"]).current_dir(&dir);
    let output = compile.output().expect("it is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(EMULATOR).args(["./call", "cases"]).current_dir(&dir).output();
    let output = output.expect("it is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = &output.stdout[..];
    let memory = |case: &Case| {
        let (memory, after) = rest.split_at(case.memory.len());
        rest = after;
        memory.to_vec()
    };
    cases.iter().map(memory).collect()
}

fn write_object(dir: &Path, target: &Target, define: &dyn Fn(&mut Emitter) -> Vec<Func>) -> usize {
    let mut sink = object::module(target, "kernels");
    let mut e = Emitter::new(target, &mut sink, "kernels", false);
    let functions = define(&mut e);
    export(&mut e, &functions);
    let mut file = std::fs::File::create(dir.join("kernels.o")).expect("the folder is ours");
    object::write(sink.finish(), None, None, &mut file).expect("objects can be written");
    functions.len()
}

fn write_table(dir: &Path, functions: usize) {
    let declare = |i| format!("extern void kernels_call_{i}();\n");
    let mut text: String = (0..functions).map(declare).collect();
    let names: Vec<String> =
        (0..functions).map(|i| format!("(function *)kernels_call_{i}")).collect();
    text += &format!("#define FUNCTIONS {}\n", names.join(", "));
    std::fs::write(dir.join("functions.h"), text).expect("the folder is ours");
}

fn serialised(cases: &[Case]) -> Vec<u8> {
    let mut to = vec![];
    let number = |to: &mut Vec<u8>, x: u64| to.extend(x.to_le_bytes());
    number(&mut to, cases.len() as u64);
    for case in cases {
        number(&mut to, case.memory.len() as u64);
        number(&mut to, case.calls.len() as u64);
        to.extend(&case.memory);
        for (which, args) in &case.calls {
            number(&mut to, *which as u64);
            for i in 0..ARGUMENTS {
                let (is_offset, x) = match args.get(i) {
                    Some(Arg::At(offset)) => (1, *offset as u64),
                    Some(Arg::Int(x)) => (0, *x as u64),
                    None => (0, 0),
                };
                number(&mut to, is_offset);
                number(&mut to, x);
            }
        }
    }
    to
}
