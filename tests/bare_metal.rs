//! `examples/bare-metal-aarch64`: an image of code and weights in flash, memory of exact sizes, no
//! operating system, no libc; booted by qemu and compared with the same model here.

use ingot_tests::machine::{Language, Machine, is_installed, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::{folder, lacking, root};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a small device has: `examples/bare-metal-aarch64/run` says the same.
const LINE: &str = "--name smol --context 128 --prefill-chunk 16 -C threads=1";
/// Ceilings of the whole image by format of weights: machine code.
const TEXT_CEILINGS: [(&str, u64); 3] = [("f16", 46 << 10), ("w8a8", 70 << 10), ("w4a8", 70 << 10)];
/// Memory with stack.
const RAM_CEILING: u64 = 320 << 10;

fn image(dir: &Path, quant: &str) {
    let line = format!("{LINE} --target aarch64-unknown-none --quant {quant}");
    build(&shipped(SHIPPED[0]), dir, &line);
    let script = root().join("examples/bare-metal-aarch64/build");
    let output = Command::new(script).arg(dir).output().expect("the script starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What an image says over its serial line, by the first words of each line.
fn boot(dir: &Path, cpu: &str) -> BTreeMap<String, String> {
    let mut command = Command::new("timeout");
    command.args(["120", "qemu-system-aarch64", "-M", "virt", "-cpu", cpu, "-m", "64M"]);
    command.args(["-nic", "none", "-nographic", "-bios"]).arg(dir.join("image.bin"));
    let output = command.stdin(Stdio::null()).output().expect("qemu starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.ends_with("done\n"), "{cpu}: {said}");
    let names =
        ["prompt", "tokens", "canaries harmed", "static bytes", "stack bytes used", "error"];
    let rest = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|rest| (name.to_string(), rest.to_string()))
    };
    names.into_iter().filter_map(rest).collect()
}

/// What the same model says here.
fn host_tokens(quant: &str, prompt: &str, count: usize) -> String {
    let (dir, host) = (folder(), Machine::host());
    let cpu = Machine::host_cpus().into_iter().rfind(|cpu| host.fuses(cpu));
    let cpu = cpu.expect("a CPU that rounds as AArch64 does");
    build(&shipped(SHIPPED[0]), dir.path(), &format!("{LINE} --quant {quant} -C target-cpu={cpu}"));
    let inputs = ["examples/c/continue.c", "libsmol.a"];
    let program = host.compile(Language::C, dir.path(), "continue", &inputs);
    let mut args = words(&[count]);
    args.extend(prompt.split_whitespace().map(String::from));
    let said = host.run(&program, "max", &args);
    said.lines().next().expect("a line of tokens").trim().to_string()
}

fn number(said: &BTreeMap<String, String>, name: &str) -> u64 {
    said[name].parse().expect("a number")
}

fn section_bytes(file: &object::File, name: &str) -> u64 {
    file.section_by_name(name).expect("it is in the image").size()
}

#[test]
fn the_image_boots_and_says_what_the_host_says() {
    for tool in ["qemu-system-aarch64", "aarch64-linux-gnu-gcc"] {
        if !is_installed(tool) {
            return lacking(tool);
        }
    }
    for (quant, text_ceiling) in TEXT_CEILINGS {
        let dir = folder();
        image(dir.path(), quant);
        let bytes = fs::read(dir.path().join("image.elf")).expect("it was written");
        let file = object::File::parse(&*bytes).expect("an image");
        let text = section_bytes(&file, ".text");
        for cpu in ["cortex-a72", "max"] {
            let said = boot(dir.path(), cpu);
            assert_eq!(said.get("error"), None);
            assert_eq!(said["canaries harmed"], "0", "{quant} {cpu}");
            let count = said["tokens"].split_whitespace().count();
            assert!(count > 30, "{said:?}");
            assert_eq!(said["tokens"], host_tokens(quant, &said["prompt"], count), "{quant} {cpu}");

            let (memory, stack) =
                (number(&said, "static bytes"), number(&said, "stack bytes used"));
            let ram = memory + section_bytes(&file, ".stack");
            assert_eq!(memory, section_bytes(&file, ".bss"));
            assert!(stack < section_bytes(&file, ".stack"));
            println!("{quant} on {cpu}: .text {text}, RAM {ram}, of it stack {stack} used");
            assert!(text <= text_ceiling, "{quant}: {text} bytes of code");
            assert!(ram <= RAM_CEILING, "{quant}: {ram} bytes of memory");
        }
    }
}
