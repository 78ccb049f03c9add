//! Formats of every target: read and linked by the tools of its system, and run where this machine
//! can: Windows' and macOS' x86-64 code in this process, static ELF of every libc or none, emulated
//! where need be.

use ingot_tests::image::Image;
use ingot_tests::machine::{A64, Machine, R64, X64, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::reference::{Prompt, read};
use ingot_tests::{folder, lacking};
use std::path::{Path, PathBuf};
use std::process::Command;
use targets::target::TRIPLES;
use targets::{Arch, Target};

/// How the tokens of the references come out.
const EXACT: &str = "--quant f32 --kv f32";

/// Functions of the header.
const EXPORTS: [&str; 15] = [
    "init", "prefill", "decode", "logits", "score", "verify", "sample", "position", "truncate",
    "save", "load", "encode", "piece", "chat", "error",
];

fn tools_are_there() -> bool {
    let missing = ["lld", "llvm-nm", "llvm-readobj"].into_iter().find(|tool| !is_there(tool));
    missing.inspect(|tool| lacking(tool)).is_none()
}

/// `lld` itself has no `--version`.
fn is_there(tool: &str) -> bool {
    let args: &[&str] =
        if tool == "lld" { &["-flavor", "gnu", "--version"] } else { &["--version"] };
    Command::new(tool).args(args).output().is_ok_and(|o| o.status.success())
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let (printed, said) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{said}");
    assert!(!said.contains("warning"), "{command:?}\n{said}");
    String::from_utf8_lossy(&printed).into_owned()
}

/// What `llvm-readobj` calls a format.
fn format(triple: &str) -> &'static str {
    match (triple.split('-').next(), triple) {
        (Some("x86_64"), _) if triple.contains("windows") => "COFF-x86-64",
        (Some("x86_64"), _) if triple.contains("apple") => "Mach-O 64-bit x86-64",
        (Some("aarch64"), _) if triple.contains("apple") => "Mach-O arm64",
        (Some("x86_64"), _) => "elf64-x86-64",
        (Some("aarch64"), _) => "elf64-littleaarch64",
        _ => "elf64-littleriscv",
    }
}

/// Everything of a library linked into one image that must not lack anything nor need its code changed
/// where it is loaded.
fn link(triple: &str, library: &Path, dir: &Path) -> PathBuf {
    let image = dir.join("image");
    let mut command = Command::new("lld");
    if triple.contains("windows") {
        command.args(["-flavor", "link", "/dll", "/noentry", "/machine:x64", "/nodefaultlib"]);
        command.args(EXPORTS.map(|name| format!("/export:smol_{name}")));
        command.arg(format!("/out:{}", image.display())).arg(library);
    } else if triple.contains("apple") {
        let arch = if triple.starts_with("x86_64") { "x86_64" } else { "arm64" };
        command.args(["-flavor", "darwin", "-dylib", "-arch", arch, "-platform_version", "macos"]);
        command.args(["11.0", "11.0", "-all_load", "-o"]).arg(&image).arg(library);
    } else {
        command.args([
            "-flavor",
            "gnu",
            "-shared",
            "--no-undefined",
            "-z",
            "text",
            "--fatal-warnings",
        ]);
        command.arg("--whole-archive").arg("-o").arg(&image).arg(library);
    }
    output(&mut command);
    image
}

fn built(model: &str, dir: &Path, triple: &str, line: &str) -> PathBuf {
    let line = format!("--name smol --target {triple} {line}");
    let files = build(&shipped(model), dir, &line).files;
    files.into_iter().next().expect("the library comes first")
}

#[test]
fn every_format_is_read_and_linked_by_the_tools_of_its_system() {
    if !tools_are_there() {
        return;
    }
    for (triple, _) in TRIPLES {
        let dir = folder();
        let library = built(SHIPPED[1], dir.path(), triple, "");
        let headers = output(Command::new("llvm-readobj").arg("--file-headers").arg(&library));
        assert!(headers.contains(&format!("Format: {}\n", format(triple))), "{triple}: {headers}");
        let undefined = output(Command::new("llvm-nm").arg("-u").arg(&library));
        let member = undefined.lines().find(|line| !line.is_empty()).expect("the member's name");
        assert_eq!(undefined.trim(), member, "{triple}: nothing is undefined");

        let map = output(Command::new("llvm-nm").arg("--print-armap").arg(&library));
        let prefix = if triple.contains("apple") { "_" } else { "" };
        for export in EXPORTS {
            let row = format!("{prefix}smol_{export} in ");
            assert!(map.lines().any(|line| line.starts_with(&row)), "{triple}: {row}");
        }
        link(triple, &library, dir.path());
    }
}

#[test]
fn what_cannot_be_made_is_refused_with_the_reason() {
    let refused = |triple: &str, features: &str| {
        Target::new(triple, None, features).expect_err("it is refused").to_string()
    };
    assert!(
        refused("aarch64-pc-windows-msvc", "")
            .contains("is not known; supported: x86_64-unknown-linux-gnu")
    );
    assert!(refused("riscv64gc-unknown-linux-gnu", "-v").contains("need vectors (+v)"));
    assert!(refused("wasm32-unknown-unknown", "").contains("supported: x86_64-unknown-linux-gnu"));
}

/// Addresses, as functions of the C interface take them.
type At = *const u8;

/// `smol_env`.
#[repr(C)]
struct Env {
    size: u32,
    workers: u32,
    weights: At,
    scratch: *mut u8,
    scratch_bytes: usize,
    user: *mut u8,
    parallel: At,
    poll: At,
}

/// A macro of a library's header.
fn size(dir: &Path, name: &str) -> usize {
    let header = std::fs::read_to_string(dir.join("smol.h")).expect("it was written");
    let start = format!("#define SMOL_{name} ");
    let value = header.lines().find_map(|line| line.strip_prefix(&start)).expect("it is there");
    let digits = value.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>();
    digits.parse().expect("a number")
}

fn memory(bytes: usize) -> (Vec<u8>, usize) {
    let memory = vec![0u8; bytes + 64];
    let skip = memory.as_ptr().align_offset(64);
    (memory, skip)
}

/// Talks with an image whose functions have a calling convention: greedy tokens after a prompt, with
/// two workers, `poll`, and a score that takes five arguments.
macro_rules! conversation {
    ($name:ident, $abi:literal) => {
        fn $name(image: &Image, dir: &Path, prompt: &Prompt, count: usize) -> Vec<i32> {
            type Task = extern $abi fn(At, u32);
            extern $abi fn parallel(_: At, n: u32, task: Task, arg: At) {
                let arg = arg as usize;
                std::thread::scope(|scope| {
                    (0..n).for_each(|i| _ = scope.spawn(move || task(arg as At, i)));
                });
            }
            extern $abi fn poll(user: *mut u8, done: u32, total: u32) -> i32 {
                // SAFETY: `user` is the counter below.
                unsafe { *user.cast::<u32>() += u32::from(done <= total) };
                0
            }
            type Init = extern $abi fn(&Env, *mut u8, usize) -> i32;
            type Prefill = extern $abi fn(&Env, *mut u8, *const i32, usize) -> i32;
            type Decode = extern $abi fn(&Env, *mut u8, i32) -> i32;
            type Sample = extern $abi fn(&Env, *mut u8, At) -> i32;
            type Score = extern $abi fn(&Env, *mut u8, *const i32, usize, *mut f32) -> i32;
            type Chat = extern $abi fn(u32, u32, At, usize, *mut i32, usize) -> i32;
            // SAFETY: the header declares them so.
            let (init, prefill, decode, sample, score, chat) = unsafe {
                (
                    std::mem::transmute::<At, Init>(image.function("smol_init")),
                    std::mem::transmute::<At, Prefill>(image.function("smol_prefill")),
                    std::mem::transmute::<At, Decode>(image.function("smol_decode")),
                    std::mem::transmute::<At, Sample>(image.function("smol_sample")),
                    std::mem::transmute::<At, Score>(image.function("smol_score")),
                    std::mem::transmute::<At, Chat>(image.function("smol_chat")),
                )
            };
            let (scratch_bytes, state_bytes) = (size(dir, "SCRATCH_BYTES"), size(dir, "STATE_BYTES"));
            let (mut scratch, at) = memory(scratch_bytes);
            let (mut state, state_at) = memory(state_bytes);
            let mut polled = 0u32;
            let env = Env {
                size: size_of::<Env>() as u32,
                workers: 2,
                weights: std::ptr::null(),
                scratch: scratch[at..].as_mut_ptr(),
                scratch_bytes,
                user: (&raw mut polled).cast(),
                parallel: parallel as At,
                poll: poll as At,
            };
            let state = state[state_at..].as_mut_ptr();
            let ids = &prompt.ids;
            assert_eq!(init(&env, state, state_bytes), 0);
            let mut logprobs = vec![0f32; ids.len()];
            assert_eq!(score(&env, state, ids.as_ptr(), ids.len(), logprobs.as_mut_ptr()), 0);
            let nll: f64 = logprobs[..ids.len() - 1].iter().map(|p| -f64::from(*p)).sum();
            assert!((nll - prompt.nll).abs() < 1e-3 * ids.len() as f64, "{nll} {}", prompt.nll);
            assert_eq!(init(&env, state, state_bytes), 0);
            assert_eq!(prefill(&env, state, ids.as_ptr(), ids.len()), 0);
            assert!(polled > 0);
            // Six arguments, the sixth of them looked at: this model has no template.
            assert_eq!(chat(0, 2, "x".as_ptr(), 1, std::ptr::null_mut(), 0), -14);
            (0..count)
                .map(|_| {
                    let token = sample(&env, state, std::ptr::null());
                    assert_eq!(decode(&env, state, token), 0);
                    token
                })
                .collect()
        }
    };
}
conversation!(talk_in_c, "C");
#[cfg(target_arch = "x86_64")]
conversation!(talk_in_win64, "win64");

fn image_of(triple: &str, dir: &Path, line: &str) -> Image {
    let library = built(SHIPPED[0], dir, triple, line);
    Image::new(&std::fs::read(link(triple, &library, dir)).expect("it was linked"))
}

#[test]
#[cfg(target_arch = "x86_64")]
fn windows_code_speaks_its_convention() {
    if !tools_are_there() {
        return;
    }
    let prompt = &read(&shipped(SHIPPED[0]).join("reference.json"))[0];
    for triple in ["x86_64-pc-windows-msvc", "x86_64-pc-windows-gnu"] {
        for cpu in Machine::host_cpus().into_iter().filter(|cpu| *cpu != "native") {
            let dir = folder();
            let image = image_of(triple, dir.path(), &format!("{EXACT} -C target-cpu={cpu}"));
            assert_eq!(talk_in_win64(&image, dir.path(), prompt, 12), prompt.greedy[..12], "{cpu}");
            assert_eq!(lost_registers(&image, dir.path(), prompt), 0, "{cpu}");
        }
    }
}

/// Registers that Windows wants back as they were and that `smol_prefill` changed.
#[cfg(target_arch = "x86_64")]
fn lost_registers(image: &Image, dir: &Path, prompt: &Prompt) -> usize {
    let (scratch_bytes, state_bytes) = (size(dir, "SCRATCH_BYTES"), size(dir, "STATE_BYTES"));
    let (mut scratch, at) = memory(scratch_bytes);
    let (mut state, state_at) = memory(state_bytes);
    let none = std::ptr::null;
    let env = Env {
        size: size_of::<Env>() as u32,
        workers: 1,
        weights: none(),
        scratch: scratch[at..].as_mut_ptr(),
        scratch_bytes,
        user: std::ptr::null_mut(),
        parallel: none(),
        poll: none(),
    };
    let state = state[state_at..].as_mut_ptr();
    type Init = extern "win64" fn(&Env, *mut u8, usize) -> i32;
    // SAFETY: the header declares it so.
    let init = unsafe { std::mem::transmute::<At, Init>(image.function("smol_init")) };
    assert_eq!(init(&env, state, state_bytes), 0);
    let before: Vec<u64> = (0..22).map(|i| 0x1111_2222_3333_4400 + i).collect();
    let mut after = vec![0u64; 22];
    let status: usize;
    // SAFETY: a call by Windows' convention: 32 bytes of home space, stack on 16 bytes.
    unsafe {
        std::arch::asm!(
            "mov r15, rsp",
            "and rsp, -16",
            "sub rsp, 32",
            "movups xmm6, [r13]", "movups xmm7, [r13 + 16]", "movups xmm8, [r13 + 32]",
            "movups xmm9, [r13 + 48]", "movups xmm10, [r13 + 64]", "movups xmm11, [r13 + 80]",
            "movups xmm12, [r13 + 96]", "movups xmm13, [r13 + 112]", "movups xmm14, [r13 + 128]",
            "movups xmm15, [r13 + 144]",
            "mov rsi, [r13 + 160]", "mov rdi, [r13 + 168]",
            "call rax",
            "movups [r14], xmm6", "movups [r14 + 16], xmm7", "movups [r14 + 32], xmm8",
            "movups [r14 + 48], xmm9", "movups [r14 + 64], xmm10", "movups [r14 + 80], xmm11",
            "movups [r14 + 96], xmm12", "movups [r14 + 112], xmm13", "movups [r14 + 128], xmm14",
            "movups [r14 + 144], xmm15",
            "mov [r14 + 160], rsi", "mov [r14 + 168], rdi",
            "mov rsp, r15",
            inlateout("rax") image.function("smol_prefill") as usize => status,
            in("rcx") &raw const env,
            in("rdx") state,
            in("r8") prompt.ids.as_ptr(),
            in("r9") prompt.ids.len(),
            in("r13") before.as_ptr(),
            in("r14") after.as_mut_ptr(),
            out("r15") _,
            clobber_abi("sysv64"),
        );
    }
    assert_eq!(status as u32, 0);
    before.iter().zip(&after).filter(|(before, after)| before != after).count()
}

#[test]
fn macos_code_runs_where_its_instructions_do() {
    if !tools_are_there() {
        return;
    }
    let prompt = &read(&shipped(SHIPPED[0]).join("reference.json"))[0];
    let dir = folder();
    let triple = format!("{}-apple-darwin", Machine::host().arch);
    let image = image_of(&triple, dir.path(), EXACT);
    assert_eq!(talk_in_c(&image, dir.path(), prompt, 12), prompt.greedy[..12]);
}

/// Static programs without any libc: what there is under Linux, of whatever kind, and on bare metal.
#[test]
fn static_programs_run_on_every_elf_target() {
    let prompt = &read(&shipped(SHIPPED[0]).join("reference.json"))[0];
    let machines = [(Arch::X64, &X64), (Arch::A64, &A64), (Arch::R64, &R64)];
    for (triple, _) in TRIPLES.iter().filter(|(triple, _)| format(triple).starts_with("elf")) {
        let arch = Target::new(triple, None, "").expect("it is listed").facts.arch;
        let (_, machine) = machines.iter().find(|(a, _)| *a == arch).expect("one of them");
        if !machine.available() {
            continue;
        }
        let dir = folder();
        built(SHIPPED[0], dir.path(), triple, EXACT);
        let program = machine.compile_bare(dir.path(), "bare", &["tests/c/bare.c", "libsmol.a"]);
        let args = words(&[&[12], &prompt.ids[..]].concat());
        let printed = machine.run(&program, machine.core(), &args);
        let found: Vec<&str> = printed.split_whitespace().collect();
        assert_eq!(found, words(&prompt.greedy[..12]), "{triple}");
    }
}
