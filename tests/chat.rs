//! `examples/c/chat.c` and `ingot run --chat` at a terminal, with SmolLM2-135M-Instruct: a person
//! types, the model answers.

use ingot_tests::machine::{A64, Language, Machine};
use ingot_tests::model::{build, smollm2};
use ingot_tests::terminal::Terminal;
use ingot_tests::{folder, skipped};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const QUESTION: &str = "What is the capital of France?";

fn chat(model: &Path, machine: &Machine, dir: &Path, quant: &str) -> PathBuf {
    build(model, dir, &format!("--name smol --quant {quant} --target {}", machine.triple));
    machine.compile(Language::C, dir, "chat", &["examples/c/chat.c", "libsmol.a"])
}

fn start(machine: &Machine, program: &Path, args: &[&str]) -> Terminal {
    let mut command = match machine.is_host() {
        true => Command::new(program),
        false => {
            let mut command = Command::new(format!("qemu-{}-static", machine.arch));
            command.args(["-cpu", "max"]).arg(program);
            command
        }
    };
    Terminal::start(command.args(args))
}

/// Types a line and returns the answer, once there is another prompt.
fn ask(terminal: &mut Terminal, question: &str) -> String {
    terminal.until("> ");
    terminal.type_in(&format!("{question}\n"));
    terminal.until(&format!("{question}\r\n"));
    let answer = terminal.until("\r\n");
    assert!(!answer.is_empty());
    answer
}

fn says_paris(machine: &Machine) {
    let Some(model) = smollm2().filter(|_| machine.available()) else { return };
    for quant in ["w8a8", "w4a8"] {
        let dir = folder();
        let program = chat(&model, machine, dir.path(), quant);
        let mut terminal = start(machine, &program, &[]);
        let answer = ask(&mut terminal, QUESTION);
        assert!(answer.starts_with("The capital of France is Paris"), "{quant}: {answer}");
        terminal.until("> ");
        terminal.type_in("/quit\n");
        assert!(terminal.end().success());
    }
}

#[test]
fn the_capital_of_france_is_paris() {
    says_paris(Machine::host());
}

#[test]
fn on_aarch64_too() {
    if !A64.is_host() {
        says_paris(&A64);
    }
}

#[test]
fn conversations_are_saved_restored_stopped_and_seeded() {
    let Some(model) = smollm2() else { return };
    let (dir, host) = (folder(), Machine::host());
    let program = chat(&model, host, dir.path(), "w8a8");
    let saved = dir.path().join("france").display().to_string();

    let mut terminal = start(host, &program, &[]);
    ask(&mut terminal, QUESTION);
    terminal.until("> ");
    terminal.type_in(&format!("/save {saved}\n"));
    let italy = ask(&mut terminal, "And of Italy?");
    assert!(italy.contains("Rome"), "it remembers what is asked for: {italy}");

    // Ctrl-C ends an answer, not the program.
    terminal.until("> ");
    terminal.type_in("Write a long story about a dragon and a princess in a castle.\n");
    terminal.until("castle.\r\n");
    terminal.until(" ");
    terminal.type_in("\u{3}");
    terminal.until("\r\n> ");
    // Where there is no answer it ends the program.
    terminal.type_in("\u{3}");
    assert_eq!(terminal.end().signal(), Some(2), "SIGINT");

    let mut restored = start(host, &program, &["--resume", &saved]);
    assert_eq!(ask(&mut restored, "And of Italy?"), italy);
    restored.until("> ");
    restored.type_in("/quit\n");
    restored.end();

    let story = |seed: &str| {
        let args = ["--seed", seed, "--temp", "1", "--system", "You answer with one word."];
        let mut terminal = start(host, &program, &args);
        let answer =
            ask(&mut terminal, "Name an animal that lives in the sea, and say why you like it.");
        terminal.until("> ");
        terminal.type_in("/quit\n");
        terminal.end();
        answer
    };
    assert_eq!(story("7"), story("7"), "a seed is an answer");
    assert_ne!(story("7"), story("8"), "another seed is another");
}

#[test]
fn run_chat_is_the_same_in_process() {
    let Some(model) = smollm2() else { return };
    let test = std::env::current_exe().expect("a test is a program");
    let ingot = test.ancestors().nth(2).expect("in a folder of cargo").join("ingot");
    if !ingot.exists() {
        return skipped("the command is not built: cargo build --release --bin ingot");
    }
    let mut command = Command::new(ingot);
    command.arg("run").arg(&model).args(["--chat", "--quant", "w8a8"]);
    let mut terminal = Terminal::start(&mut command);
    assert!(ask(&mut terminal, QUESTION).starts_with("The capital of France is Paris"));
    assert!(ask(&mut terminal, "And of Italy?").contains("Rome"));
    terminal.until("> ");
    terminal.type_in("\u{4}");
    assert!(terminal.end().success());
}
