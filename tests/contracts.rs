//! The promises of the header, tested from C: memory, stack, refusals, cancelling.

use ingot_tests::machine::{A64, Language, Machine, is_installed, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::{folder, lacking};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of `tests/c` with a library, threads included.
fn program(machine: &Machine, dir: &Path, source: &str) -> PathBuf {
    let path = format!("tests/c/{source}.c");
    let inputs = [path.as_str(), "examples/c/pool.c", "libsmol.a", "-pthread"];
    machine.compile(Language::C, dir, source, &inputs)
}

/// Every machine that can be had, with the CPUs whose code it runs.
fn machines() -> Vec<(&'static Machine, Vec<&'static str>)> {
    let host = Machine::host();
    let mut machines = vec![(host, Machine::host_cpus())];
    if !A64.is_host() && A64.available() {
        machines.push((&A64, vec!["generic"]));
    }
    machines
}

fn line(machine: &Machine, cpu: &str, more: &str) -> String {
    format!("--name smol --target {} -C target-cpu={cpu} {more}", machine.triple)
}

/// A small context and small chunks: several of each kind of piece, and little to compute.
const SMALL: &str = "--context 80 --prefill-chunk 8";

/// Workers, and what memory is filled with; results must not tell them apart.
const FILLS: [(u32, &str); 3] = [(1, "00"), (1, "a5"), (1, "ff")];
/// Workers that wait for each other take long where there are fewer processors, and longer under an
/// emulator: one build does, and there the first row.
const MORE_WORKERS: [(u32, &str); 2] = [(2, "ff"), (3, "a5")];

#[test]
fn exactly_the_memory_of_the_header_is_used_and_garbage_in_it_is_not() {
    for (machine, cpus) in machines() {
        let best = *cpus.last().expect("there is one");
        for cpu in cpus {
            for kind in ["--quant f16 --kv f16", "--quant f32 --kv f32", "--quant w4a8"] {
                let dir = folder();
                let more = format!("{SMALL} --weights external {kind}");
                build(&shipped(SHIPPED[1]), dir.path(), &line(machine, cpu, &more));
                let program = program(machine, dir.path(), "exact");
                let weights = dir.path().join("smol.weights").display().to_string();
                let hash = |(workers, fill): &(u32, &str)| {
                    let args = [workers.to_string(), fill.to_string(), weights.clone()];
                    machine.run(&program, "max", &args)
                };
                let mut hashes: BTreeSet<String> = FILLS.iter().map(hash).collect();
                if cpu == best && kind.contains("w4a8") {
                    let few = if machine.is_host() { MORE_WORKERS.len() } else { 1 };
                    hashes.extend(MORE_WORKERS[..few].iter().map(hash));
                }
                assert_eq!(hashes.len(), 1, "{cpu} {kind}: {hashes:?}");
            }
        }
    }
}

#[test]
fn wrong_arguments_are_refused_and_change_nothing() {
    for (machine, _) in machines() {
        let dir = folder();
        let more = format!("{SMALL} --weights external --target {}", machine.triple);
        build(&shipped(SHIPPED[1]), dir.path(), &format!("--name smol {more}"));
        let program = program(machine, dir.path(), "arguments");
        let weights = dir.path().join("smol.weights").display().to_string();
        let output = machine.output(&program, "max", &[weights]);
        let wrong = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && wrong.is_empty(), "{:?}\n{wrong}", output.status);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_cpu_that_lacks_what_the_code_was_made_for_is_refused() {
    const EMULATOR: &str = "qemu-x86_64-static";
    if !is_installed(EMULATOR) {
        return lacking(EMULATOR);
    }
    // What the library was made for, what qemu emulates, whether that is enough.
    let table = [
        ("x86-64", "Nehalem", true),
        ("x86-64-v2", "Nehalem", true),
        ("x86-64-v3", "Nehalem", false),
        ("x86-64-v3", "Haswell", true),
        ("x86-64-v4", "Haswell", false),
    ];
    for (cpu, emulated, enough) in table {
        let dir = folder();
        build(&shipped(SHIPPED[1]), dir.path(), &line(Machine::host(), cpu, SMALL));
        let inputs = ["tests/c/lesser.c", "libsmol.a"];
        let program = Machine::host().compile(Language::C, dir.path(), "lesser", &inputs);
        let output = Command::new(EMULATOR).args(["-cpu", emulated]).arg(&program).output();
        let output = output.expect("the emulator starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let first = said.split(' ').next();
        let expected = if enough { "0" } else { "-16" };
        assert_eq!(first, Some(expected), "{cpu} on {emulated}: {said}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_library_of_several_variants_runs_the_best_that_the_cpu_has() {
    const EMULATOR: &str = "qemu-x86_64-static";
    if !is_installed(EMULATOR) {
        return lacking(EMULATOR);
    }
    let hash = |flags: &str, emulated: &str| {
        let dir = folder();
        let line = format!("--name smol --quant w4a8 {SMALL} {flags}");
        build(&shipped(SHIPPED[1]), dir.path(), &line);
        let program = program(Machine::host(), dir.path(), "exact");
        let output = Command::new(EMULATOR)
            .args(["-cpu", emulated])
            .arg(program)
            .args(["1", "a5"])
            .output()
            .expect("the emulator starts");
        // The emulator has warnings of its own.
        let said = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8(said).expect("a hash, or why there is none")
    };
    // Without fused multiply-add the last places differ, so the hash says which code ran.
    let [baseline, avx2] =
        ["x86-64", "x86-64-v3"].map(|cpu| hash(&format!("-C target-cpu={cpu}"), "max"));
    assert_ne!(baseline, avx2);
    let several = "-C variants=avx512vnni,baseline,avx2";
    assert_eq!(hash(several, "Nehalem"), baseline);
    assert_eq!(hash(several, "Haswell"), avx2);
    let without_baseline = hash("-C variants=avx512vnni,avx2", "Nehalem");
    assert!(without_baseline.contains("the CPU or the system lacks"), "{without_baseline}");
}

#[test]
fn a_cancelled_call_leaves_the_state_as_it_was() {
    for (machine, _) in machines() {
        let dir = folder();
        let more = format!("{SMALL} --target {}", machine.triple);
        build(&shipped(SHIPPED[1]), dir.path(), &format!("--name smol {more}"));
        let program = program(machine, dir.path(), "cancel");
        // Workers that wait for each other take long under an emulator.
        for workers in if machine.is_host() { 1..=2 } else { 1..=1 } {
            assert_eq!(machine.run(&program, "max", &words(&[workers])), "");
        }
    }
}

#[test]
fn no_function_takes_more_stack_than_the_header_says() {
    for (machine, cpus) in machines() {
        for cpu in cpus {
            let dir = folder();
            build(&shipped(SHIPPED[0]), dir.path(), &line(machine, cpu, ""));
            let program = program(machine, dir.path(), "stack");
            let printed = machine.run(&program, "max", &[]);
            let row = |l: &str| -> Option<(String, u64)> {
                let (name, bytes) = l.split_once(' ')?;
                Some((name.into(), bytes.parse().ok()?))
            };
            let mut rows: Vec<(String, u64)> = printed.lines().filter_map(row).collect();
            let (last, bound) = rows.pop().expect("the bound is the last row");
            assert_eq!(last, "bound");
            for (name, bytes) in &rows {
                assert!(*bytes <= bound, "{cpu}: {name} takes {bytes}, more than {bound}");
            }
            let most = rows.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
            assert!(most > bound / 2, "{cpu}: {most} of {bound}: nothing was measured");
        }
    }
}
