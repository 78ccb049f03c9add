//! The program as its users meet it: commands, exit codes, what goes to which stream.
//!
//! Runs the binary on the small checkpoints of `examples/models`. Their weights may be trained
//! again: no test depends on the words they say.

mod build;
mod calibration;
mod commands;
mod documents;
mod errors;
mod figures;
mod transforms;

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How the program ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs the program with `args` and nothing on standard input.
fn ingot(args: &[&str]) -> Ended {
    with_input(args, "")
}

/// Runs the program with `args` and `input` on standard input.
fn with_input(args: &[&str], input: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ingot"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that reads nothing may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What the program prints when all goes well, and says nothing else.
fn printed(args: &[&str]) -> String {
    let ended = ingot(args);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{args:?}");
    ended.stdout
}

/// What the program prints, as JSON.
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&printed(args)).unwrap()
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models")
}

/// A Llama of three layers.
fn plain() -> String {
    models().join("shakespeare").display().to_string()
}

/// The files of a model that ships, copied; what calibration keeps in a folder beside them is none
/// of it.
fn copied(model: &str, to: &Path) -> String {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(models().join(model)).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    to.display().to_string()
}

/// A Llama whose layers run twice.
fn shared() -> String {
    models().join("shakespeare-shared").display().to_string()
}
