//! What goes wrong: one clear message on standard error, nothing on standard output, and an exit
//! code that says whose fault it is.

use crate::{ingot, plain};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program fails with this exit code, and its message has every one of these words.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let ended = ingot(args);
    assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{args:?}: {}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no `{word}` in\n{}", ended.stderr);
    }
}

#[test]
fn no_such_model() {
    for command in ["build", "run", "eval", "bench", "inspect", "tokenize"] {
        let more: &[&str] = match command {
            "build" => &["-o", "unused"],
            "run" | "tokenize" => &["--file=Cargo.toml", "-pword"][(command == "run") as usize..],
            "eval" => &["--text", "Cargo.toml"],
            _ => &[],
        };
        let more = if command == "tokenize" { &more[..1] } else { more };
        let args = [&[command, "no/such/model"], more].concat();
        fails(&args, 1, &["error[IG0101]", "no/such/model"]);
    }
    fails(&["run", "Cargo.toml", "-p", "x"], 1, &["error[IG0102]", "GGUF"]);
    fails(&["inspect", "Cargo.toml"], 1, &["error[IG0109]"]);
}

#[test]
fn flags_that_do_not_exist() {
    let model = plain();
    fails(&[], 2, &["Usage"]);
    fails(&["bulid"], 2, &["bulid", "build"]);
    fails(&["run", &model], 2, &["--prompt"]);
    fails(&["run", &model, "-p", "x", "--tokens", "1"], 2, &["cannot be used with"]);
    fails(&["run", &model, "-p", "x", "--quant", "w3"], 2, &["w3", "f16"]);
    fails(&["run", &model, "-p", "x", "--top-p", "2"], 2, &["0 to 1"]);
    fails(&["run", &model, "-p", "x", "--temp", "-1"], 2, &["--temp"]);
    fails(&["run", &model, "-p", "x", "--threads", "0"], 2, &["1..=64"]);
    fails(&["bench", &model, "--repeat", "0"], 2, &["--repeat"]);
    fails(&["tokenize", &model], 2, &["TEXT"]);
}

#[test]
fn flags_that_need_a_text() {
    let model = plain();
    for flags in [
        "--smooth 0.5",
        "--smooth search",
        "--smooth auto",
        "--rotate auto",
        "--rotate learned,steps=3",
        "--rotate hadamard,seeds=3",
        "--simulate s8",
        "--quant w8a8 --activations static",
        "--quant w4a8 --round gptq",
        "--budget bpw=5",
    ] {
        let words: Vec<&str> = flags.split(' ').collect();
        let flag = words[words.len() - 2];
        let eval = ["eval", &model, "--text", "Cargo.toml"];
        let expected = ["error[IG0401]", flag, "needs a text", "--calib FILE"];
        fails(&[&eval[..], &words].concat(), 2, &expected);
        // Those that are tried are for `build`; budgets are not for `opt` at all.
        let opt = [&["opt", &model][..], &words].concat();
        match words[1].contains("auto") || flags.contains("--rotate") {
            true => fails(&opt, 2, &["error[IG0401]", flag, "ingot build MODEL --emit ir"]),
            false if flag == "--budget" => fails(&opt, 2, &["unexpected argument"]),
            false => fails(&opt, 2, &expected),
        }
    }
}

#[test]
fn flags_that_do_not_go_together() {
    let model = plain();
    let eval = ["eval", &model, "--text", "Cargo.toml"];
    for (flags, word) in [
        (
            "--simulate a4,s8 --calib self",
            "error[IG0401]: --simulate rounds the same numbers twice",
        ),
        ("--simulate kv4,kv8", "one kvN for keys and values"),
        ("--dump-dir unused", "--dump-after all"),
        ("--calib-tokens 512", "--calib <FILE|self>"),
        ("--activations token", "where activations are floats"),
        ("--activations token --quant w8a16", "where activations are floats"),
        ("--rotations r4", "--rotate"),
        ("--smooth-sites inner", "--smooth"),
        ("--kl-tokens 5", "--against"),
        ("--blobs elsewhere", ".ingot models only"),
    ] {
        let words: Vec<&str> = flags.split(' ').collect();
        fails(&[&eval[..], &words].concat(), 2, &[word]);
    }
    let args = ["run", &model, "--tokens", "1 2"];
    fails(&[&args[..], &["--echo"]].concat(), 2, &["--echo"]);
    fails(&[&args[..], &["--no-bos"]].concat(), 2, &["--no-bos"]);
    let args = ["bench", &model, "--profile", "--prefill", "0", "--decode", "0"];
    fails(&args, 2, &["error[IG0401]", "--profile"]);
    let args = ["build", &model, "-o", "unused", "-C", "variants=avx2"];
    let foreign = [&args[..], &["--target", "aarch64-unknown-none"]].concat();
    fails(&foreign, 2, &["error[IG0401]", "variants are CPUs of x86-64"]);
    fails(&["opt", &model, "--activations", "token"], 2, &["where activations are floats"]);
    fails(&["opt", &model, "--blobs", &model], 2, &["error[IG0401]", ".ingot files only"]);
}

#[test]
fn numbers_that_do_not_fit_the_model() {
    let model = plain();
    let run = ["run", &model, "--threads", "1", "-p", "x"];
    for context in ["0", "1000000"] {
        let args = [&run[..], &["--context", context]].concat();
        fails(&args, 2, &["error[IG0401]", "--context", "1 to 512"]);
    }
    fails(&[&run[..], &["--prefill-chunk", "0"]].concat(), 2, &["error[IG0401]", "4096"]);
    fails(&["run", &model, "--tokens", "1,1024"], 2, &["error[IG0401]", "1024", "0 to 1023"]);
    fails(&["run", &model, "-p", ""], 2, &["error[IG0401]", "empty"]);
    fails(&["run", &model, "--tokens", ""], 2, &["error[IG0401]", "empty"]);
    fails(&["run", &model, "--tokens", "1 x"], 2, &["`x` is no token id"]);
    let args = ["run", &model, "--tokens", "1,2,3,4,5", "--context", "4"];
    fails(&args, 2, &["error[IG0401]", "5 tokens", "holds 4"]);
    fails(&["bench", &model, "--depth", "500"], 2, &["error[IG0401]", "628 tokens"]);
    let eval = ["eval", &model, "--text", "Cargo.toml"];
    fails(&[&eval[..], &["--ctx", "1"]].concat(), 2, &["error[IG0401]", "2 to 512"]);
    fails(&[&eval[..], &["--tokens", "10"]].concat(), 2, &["error[IG0401]", "no window"]);
    fails(&["tokenize", &model, "--decode", "12 x"], 2, &["error[IG0401]", "`x`"]);
}

#[test]
fn targets_that_are_not_to_be_had() {
    let model = plain();
    let run = ["run", &model, "-p", "x"];
    let foreign = [&run[..], &["--target", "aarch64-unknown-none"]].concat();
    fails(&foreign, 2, &["error[IG0402]", "another machine", "--target"]);
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("avxvnni") {
        let newer = [&run[..], &["-C", "target-feature=+avxvnni"]].concat();
        fails(&newer, 2, &["error[IG0402]", "no avxvnni"]);
    }
    let build = ["build", &model, "-o", "unused"];
    for (flags, word) in [
        (["--target", "wasm32-unknown-unknown"], "supported"),
        (["--target", "aarch64-pc-windows-msvc"], "is not known"),
        (["--target", "aarch64_be-unknown-linux-gnu"], "is not known"),
        (["--target", "x86_64-unknown-uefi"], "is not known"),
        (["-C", "target-cpu=pentium"], "known"),
        (["-C", "target-feature=+warp"], "+warp"),
        (["-C", "target-feature=é"], "é"),
    ] {
        fails(&[&build[..], &flags].concat(), 2, &["error[IG0402]", word, "ingot targets"]);
    }
    fails(&[&build[..], &["-C", "speed=high"]].concat(), 2, &["error[IG0401]", "-C speed"]);
    fails(&[&build[..], &["-C", "threads=0"]].concat(), 2, &["error[IG0401]", "1 to 64"]);
    fails(&[&build[..], &["--name", "9 lives"]].concat(), 2, &["error[IG0401]", "--name"]);
    fails(&[&build[..], &["--dump-after", "warp"]].concat(), 2, &["error[IG0401]", "select"]);
    assert!(!Path::new("unused").exists());
}

#[test]
fn a_model_of_another_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(Path::new(&plain()).join("config.json")).unwrap();
    let other = config.replace("LlamaForCausalLM", "GPT2LMHeadModel");
    fs::write(dir.path().join("config.json"), other).unwrap();
    let model = dir.path().to_str().unwrap();
    fails(&["inspect", model], 1, &["error[IG0201]", "GPT2LMHeadModel"]);
}

#[test]
fn a_model_without_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(Path::new(&plain()).join(name), dir.path().join(name)).unwrap();
    }
    let model = dir.path().to_str().unwrap();
    fails(&["run", model, "-p", "x", "--threads", "1"], 1, &["error[IG0304]"]);
    fails(&["tokenize", model, "x"], 1, &["error[IG0304]"]);
    let ended = ingot(&["run", model, "--tokens", "1", "-n", "2", "--threads", "1"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn text_that_cannot_be_read() {
    let model = plain();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("latin1");
    fs::write(&file, b"caf\xe9").unwrap();
    fails(&["run", &model, "--prompt-file", "no/file"], 2, &["error[IG0403]", "no/file"]);
    let args = ["tokenize", &model, "--file", file.to_str().unwrap()];
    fails(&args, 2, &["error[IG0403]", "UTF-8"]);
}

#[test]
fn ir_text_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.ingot");
    let path = file.to_str().unwrap();
    fs::write(&file, "ingot 1\nmodel oops\n").unwrap();
    fails(&["opt", path], 1, &["error[IG0502]", "m.ingot: 2:"]);
    fails(&["inspect", path], 1, &["error[IG0502]"]);
    fails(&["run", path, "-p", "x"], 2, &["error[IG0401]", "--blobs"]);
    fails(&["opt", path, "--passes", "warp"], 2, &["error[IG0401]", "select"]);
    let args = ["run", &plain(), "--blobs", &plain(), "-p", "x"];
    fails(&args, 2, &["error[IG0401]", ".ingot"]);
}

#[test]
fn output_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let out = file.join("folder");
    let args = ["build", &plain(), "-o", out.to_str().unwrap()];
    fails(&args, 1, &["error[IG0601]", "folder"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let args = ["build", &plain(), "-o", file.to_str().unwrap()];
    fails(&args, 1, &["error[IG0601]", "-o takes a folder"]);
}

#[cfg(unix)]
#[test]
fn files_that_may_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let limited = "ulimit -f 100; exec \"$0\" build \"$1\" -o \"$2\"";
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_ingot"), &plain()])
        .arg(&out)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[IG0601]") && said.contains("ulimit -f"), "{said}");
    assert!(!out.exists());
}

#[test]
fn libraries_that_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("cut.a", &b"!<arch>\nlib/"[..]),
        ("cut.o", b"\x7fELF\x02\x01"),
        ("cut.weights", b"INGOTWTS\x01"),
    ] {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        fails(&["inspect", file.to_str().unwrap()], 1, &["error[IG0110]", name]);
    }
}

#[test]
fn codes_that_do_not_exist() {
    fails(&["explain", "IG9999"], 2, &["error[IG0401]", "IG9999"]);
}

#[test]
fn nobody_need_read_standard_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ingot"))
        .args(["opt", &plain(), "--dump-after", "all", "--probe"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"ingot 1\n"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ingot"))
        .arg("targets")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}
