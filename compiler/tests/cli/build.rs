//! `build`: the files it writes, and that it writes all of them or none.

use crate::{copied, ingot, json, plain, printed, shared};
use std::fs;
use std::path::Path;
#[cfg(unix)]
use std::process::{Command, Stdio};

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_library_and_its_header() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/folder");
    let files = printed(&["build", &plain(), "-o", out.to_str().unwrap()]);
    assert_eq!(names(&out), ["libshakespeare.a", "shakespeare.h"]);
    let expected: String =
        names(&out).iter().map(|n| format!("{}\n", out.join(n).display())).collect();
    assert_eq!(files, expected);

    let library = out.join("libshakespeare.a");
    let found = json(&["inspect", library.to_str().unwrap(), "--json"]);
    let size = |key: &str| found[key].as_u64().unwrap();
    assert_eq!((found["undefined"].as_array().unwrap().len(), size("writable_bytes")), (0, 0));
    assert!(size("weights_bytes") > 100_000 && size("code_bytes") > 1_000);
    assert!(found["exported"].as_array().unwrap().contains(&"shakespeare_prefill".into()));
    assert!(printed(&["inspect", library.to_str().unwrap()]).contains("undefined  none"));
}

/// Of every object format, with weights inside and beside.
#[test]
fn sizes_that_a_build_tells_are_those_of_its_library() {
    for target in ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-gnu"] {
        for weights in ["embed", "external"] {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().to_str().unwrap();
            let build = ["build", &shared(), "-o", out, "--name", "m", "--target", target];
            let told = json(&[&build[..], &["--weights", weights, "--json"]].concat());
            let library = dir.path().join("libm.a").display().to_string();
            let found = json(&["inspect", &library, "--json"]);
            for key in ["code_bytes", "tables_bytes"] {
                assert_eq!(told[key], found[key], "{target} {weights} {key}");
            }
        }
    }
}

#[test]
fn every_kind_of_output() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let kinds = "lib,header,obj,weights,ir,clif,asm";
    printed(&["build", &shared(), "-o", out, "--name", "m", "--emit", kinds]);
    let all = ["libm.a", "m.clif", "m.h", "m.ingot", "m.o", "m.s", "m.weights"];
    assert_eq!(names(dir.path()), all);
    let file = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(json(&["inspect", &file("m.o"), "--json"])["kind"], "object");
    let weights = json(&["inspect", &file("m.weights"), "--json"]);
    assert_eq!((&weights["kind"], &weights["complete"]), (&"weights".into(), &true.into()));
}

#[test]
fn weights_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = ["build", &plain(), "-o", out, "--name", "m", "--weights", "external", "--json"];
    let found = json(&args);
    assert_eq!(names(dir.path()), ["libm.a", "m.h", "m.weights"]);
    let weights = fs::metadata(dir.path().join("m.weights")).unwrap().len();
    assert_eq!(found["weights_bytes"], weights);
    assert!(fs::metadata(dir.path().join("libm.a")).unwrap().len() < weights);
}

#[test]
fn sizes_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let ended = ingot(&["build", &plain(), "-o", out, "-v"]);
    let first: Vec<&str> =
        ended.stderr.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(first, ["code", "tables", "weights", "state", "scratch", "stack"]);
    assert_eq!(ended.stdout.lines().count(), 2);
}

#[test]
fn the_same_bytes_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut built = vec![];
    for out in ["a", "b"] {
        let out = dir.path().join(out);
        let target = ["--target", "aarch64-unknown-none"];
        let args = ["build", &shared(), "-o", out.to_str().unwrap(), "--name", "m"];
        printed(&[&args[..], &target].concat());
        built.push((fs::read(out.join("libm.a")).unwrap(), fs::read(out.join("m.h")).unwrap()));
    }
    assert!(built[0] == built[1]);
}

#[test]
fn long_names_fit_into_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let name = "longer_than_a_member_of_an_archive";
    printed(&["build", &plain(), "-o", dir.path().to_str().unwrap(), "--name", name]);
    let library = dir.path().join(format!("lib{name}.a"));
    let found = json(&["inspect", library.to_str().unwrap(), "--json"]);
    assert!(found["exported"].as_array().unwrap().contains(&format!("{name}_init").into()));
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    let model = copied("shakespeare", &broken);
    // The last element of the last tensor becomes a NaN.
    let weights = broken.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len() - 2;
    bytes[end..].copy_from_slice(&[0, 0x7e]);
    fs::write(&weights, bytes).unwrap();
    let out = dir.path().join("new/folder");
    let ended = ingot(&["build", &model, "-o", out.to_str().unwrap(), "--name", "m"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert!(ended.stderr.starts_with("error[IG0211]"), "{}", ended.stderr);
    assert!(!out.exists());
}

#[cfg(unix)]
#[test]
fn a_build_that_is_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // A build that was done before the signal says nothing: the next one may be slower.
        let interrupted = (0..50).any(|n| {
            let out = dir.path().join(format!("{signal}-{n}/folder"));
            interrupted(&out, signal)
        });
        assert!(interrupted, "no build lasted until signal {signal}");
    }
}

/// Whether the signal ended a build that had begun to write, and nothing is left of it then.
#[cfg(unix)]
fn interrupted(out: &Path, signal: i32) -> bool {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingot"));
    command.args(["build", &plain(), "--quant", "w4a8", "-o", out.to_str().unwrap()]);
    command.stdout(Stdio::null());
    // SAFETY: nothing but this one call, which may be made there. Whoever runs the tests may ignore
    // the signal.
    unsafe {
        command.pre_exec(move || {
            libc::signal(signal, libc::SIG_DFL);
            Ok(())
        })
    };
    let mut child = command.spawn().unwrap();
    while !out.exists() && child.try_wait().unwrap().is_none() {}
    // SAFETY: a child that nobody waited for is still ours, also if it is gone.
    unsafe { libc::kill(child.id() as i32, signal) };
    let status = child.wait().unwrap();
    if status.success() {
        return false;
    }
    assert_eq!(status.signal(), Some(signal), "{status}");
    assert!(!out.parent().unwrap().exists(), "something is left");
    true
}

#[cfg(unix)]
#[test]
fn signals_that_are_ignored_stay_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' HUP; \"$0\" build \"$1\" --quant w4a8 -o \"$2\" & sleep 0.05; \
                  kill -HUP $!; wait $!";
    let status = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_ingot"), &plain()])
        .arg(dir.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(names(dir.path()), ["libshakespeare.a", "shakespeare.h"]);
}

#[test]
fn where_everything_goes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = ["build", &shared(), "-o", out, "--name", "m", "--emit", "memory-map"];
    printed(&[&args[..], &["--mem", "flash:8M,ro", "--mem", "ram:8M"]].concat());
    assert_eq!(names(dir.path()), ["m.memory-map"]);
    let map = fs::read_to_string(dir.path().join("m.memory-map")).unwrap();
    for row in
        ["flash  weights", "flash   tables", "flash     code", "ram    state", "ram  scratch"]
    {
        let found =
            map.lines().any(|line| line.split_whitespace().take(2).eq(row.split_whitespace()));
        assert!(found, "{row}\n{map}");
    }
    assert!(map.contains("$embed : f16[") && map.contains("\nlogits "), "{map}");
}

#[test]
fn what_does_not_fit_is_not_built() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("none");
    let args = ["build", &shared(), "-o", out.to_str().unwrap(), "--mem", "flash:1K,ro"];
    let ended = ingot(&[&args[..], &["--mem", "ram:8K"]].concat());
    assert_eq!((ended.code, ended.stdout.as_str()), (4, ""));
    assert!(ended.stderr.starts_with("error[IG0507]: --mem has no room for weights, tables, code"));
    assert!(ended.stderr.contains("= (none)  weights"), "{}", ended.stderr);
    assert!(ended.stderr.contains("= ram       stack"), "{}", ended.stderr);
    assert!(!out.exists());
    assert_eq!(ingot(&["build", &shared(), "-o", "x", "--mem", "ram"]).code, 2);
    // Memory that can be written is missing altogether, or is there twice.
    let flash = ["build", &shared(), "-o", "x", "--mem", "flash:128M,ro"];
    assert!(ingot(&flash).stderr.contains("--mem ram:32M"));
    let twice = ingot(&[&flash[..], &["--mem", "flash:1M"]].concat());
    assert_eq!(twice.code, 2);
    assert!(twice.stderr.contains("--mem flash twice"), "{}", twice.stderr);
}

#[test]
fn objects_of_every_format_are_inspected() {
    for (triple, file) in [
        ("x86_64-pc-windows-msvc", "m.obj"),
        ("x86_64-pc-windows-msvc", "m.lib"),
        ("aarch64-apple-darwin", "m.o"),
        ("aarch64-apple-darwin", "libm.a"),
        ("riscv64gc-unknown-none-elf", "m.o"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_str().unwrap();
        let args = ["build", &shared(), "-o", out, "--name", "m", "--emit", "lib,obj"];
        printed(&[&args[..], &["--target", triple]].concat());
        let found = json(&["inspect", dir.path().join(file).to_str().unwrap(), "--json"]);
        let size = |key: &str| found[key].as_u64().unwrap();
        assert!(size("weights_bytes") > 1_000_000 && size("code_bytes") > 1_000, "{file} {found}");
        assert_eq!((size("writable_bytes"), found["undefined"].as_array().unwrap().len()), (0, 0));
    }
}
