//! `--emit cmake,pkgconfig,cargo,cpp`: libraries as other tools take them, with the examples as users.

use ingot_tests::machine::{Language, Machine, is_installed, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::reference::{Prompt, read};
use ingot_tests::{folder, lacking, root};
use std::fs;
use std::path::Path;
use std::process::Command;

fn prompt() -> Prompt {
    read(&shipped(SHIPPED[0]).join("reference.json")).remove(0)
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}\n{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a `continue` program adds the reference's tokens.
fn check(program: &Path) {
    let prompt = prompt();
    let args = words(&[&[prompt.greedy.len() as i32], &prompt.ids[..]].concat());
    let printed = output(Command::new(program).args(args));
    let ids = printed.lines().next().expect("a line of ids");
    assert_eq!(ids.split_whitespace().collect::<Vec<_>>(), words(&prompt.greedy));
}

#[test]
fn cmake_finds_the_package() {
    if !is_installed("cmake") {
        return lacking("cmake");
    }
    let (library, build_dir) = (folder(), folder());
    build(&shipped(SHIPPED[0]), library.path(), "--name smol --emit lib,header,cpp,cmake");
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", library.path().display());
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(root().join("examples/cmake")).arg("-B").arg(build_dir.path());
    output(configure.arg(prefix));
    output(Command::new("cmake").arg("--build").arg(build_dir.path()));
    check(&build_dir.path().join("continue_c"));
    check(&build_dir.path().join("continue_cpp"));
}

#[test]
fn pkg_config_finds_the_package() {
    if !is_installed("pkg-config") {
        return lacking("pkg-config");
    }
    let dir = folder();
    build(&shipped(SHIPPED[0]), dir.path(), "--name smol --emit lib,header,pkgconfig");
    let mut ask = Command::new("pkg-config");
    let flags = output(ask.args(["--cflags", "--libs", "smol"]).env("PKG_CONFIG_PATH", dir.path()));
    let program = dir.path().join("continue");
    let mut compile = Command::new("gcc");
    compile.arg(root().join("examples/c/continue.c")).args(flags.split_whitespace());
    output(compile.arg("-o").arg(&program));
    check(&program);
}

#[test]
fn cargo_builds_with_the_crate() {
    let dir = folder();
    let example = dir.path().join("rust");
    fs::create_dir_all(example.join("src")).expect("a folder");
    for file in ["Cargo.toml", "src/main.rs"] {
        fs::copy(root().join("examples/rust").join(file), example.join(file)).expect("a copy");
    }
    build(&shipped(SHIPPED[0]), &example.join("smol"), "--name smol --emit lib,header,cargo");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--quiet", "--target-dir"]).arg(example.join("target"));
    output(cargo.current_dir(&example).env("RUSTFLAGS", "-D warnings"));
    check(&example.join("target/debug/continue"));
}

#[test]
fn the_wrapper_does_what_the_functions_do() {
    let (dir, host) = (folder(), Machine::host());
    build(&shipped(SHIPPED[0]), dir.path(), "--name smol --emit lib,header,cpp");
    let inputs = ["tests/c/wrapper.cpp", "libsmol.a"];
    let program = host.compile(Language::Cpp, dir.path(), "wrapper", &inputs);
    assert_eq!(host.run(&program, "", &[]), "ok\n");
}

#[test]
fn where_external_weights_are_is_said() {
    let dir = folder();
    let line = "--name smol --weights external --emit lib,header,cmake,pkgconfig";
    build(&shipped(SHIPPED[0]), dir.path(), line);
    let text = |file: &str| fs::read_to_string(dir.path().join(file)).expect("it was written");
    assert!(
        text("smol-config.cmake")
            .contains("set(smol_WEIGHTS \"${CMAKE_CURRENT_LIST_DIR}/smol.weights\")")
    );
    assert!(text("smol.pc").starts_with("weights=${pcfiledir}/smol.weights\n"));
}
