//! Machines that C programs are compiled for and run on: x86-64, AArch64 and RISC-V, one of them this
//! one, the others under qemu.

use crate::{lacking, root};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use targets::Target;

/// A kind of machine.
#[derive(Debug)]
pub struct Machine {
    /// As `--target` takes it.
    pub triple: &'static str,
    /// As Rust and tools spell it.
    pub arch: &'static str,
}

/// x86-64 under Linux.
pub const X64: Machine = Machine { triple: "x86_64-unknown-linux-gnu", arch: "x86_64" };
/// AArch64 under Linux.
pub const A64: Machine = Machine { triple: "aarch64-unknown-linux-gnu", arch: "aarch64" };

/// RISC-V with vectors under Linux.
pub const R64: Machine = Machine { triple: "riscv64gc-unknown-linux-gnu", arch: "riscv64" };

/// A language, as strict as it can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// C99.
    C,
    /// C++17.
    Cpp,
}

/// Vectors of the shortest kind, and of a longer one, in qemu's words.
pub const RISCV_CORES: [&str; 2] =
    ["rv64,v=true,vext_spec=v1.0,vlen=128", "rv64,v=true,vext_spec=v1.0,vlen=512"];

/// Every program of ours must compile without a word.
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

impl Machine {
    /// The machine that the test runs on.
    pub fn host() -> &'static Machine {
        if X64.is_host() { &X64 } else { &A64 }
    }

    /// Whether it is this one.
    pub fn is_host(&self) -> bool {
        self.arch == std::env::consts::ARCH
    }

    /// The target of code for one of its CPUs.
    pub fn target(&self, cpu: &str) -> Target {
        Target::new(self.triple, Some(cpu), "").expect("a CPU of this machine")
    }

    /// Whether a CPU multiplies and adds with one rounding. Those that do have the same results, and
    /// so have those that do not.
    pub fn fuses(&self, cpu: &str) -> bool {
        self.target(cpu).facts.fma
    }

    fn compiler(&self, language: Language) -> String {
        let name = if language == Language::C { "gcc" } else { "g++" };
        if self.is_host() { name.into() } else { format!("{}-linux-gnu-{name}", self.arch) }
    }

    fn emulator(&self) -> String {
        format!("qemu-{}-static", self.arch)
    }

    /// Whether programs can be compiled for it and run; says what is missing.
    pub fn available(&self) -> bool {
        let mut tools = vec![self.compiler(Language::C)];
        tools.extend((!self.is_host()).then(|| self.emulator()));
        tools.iter().all(|tool| {
            let there = is_installed(tool);
            if !there {
                lacking(tool);
            }
            there
        })
    }

    /// Names for `-C target-cpu` of code that this machine can run, plainest first.
    pub fn host_cpus() -> Vec<&'static str> {
        #[cfg(target_arch = "x86_64")]
        let table = [
            ("x86-64", true),
            ("x86-64-v2", is_x86_feature_detected!("sse4.2")),
            ("x86-64-v3", has_v3()),
            ("x86-64-v4", has_v3() && is_x86_feature_detected!("avx512vl")),
            ("native", true),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let table = [("generic", true), ("native", true)];
        table.iter().filter(|(_, runs)| *runs).map(|(name, _)| *name).collect()
    }

    /// A program of sources and libraries: `inputs` are files of the project (`.c`, `.cpp`) or of
    /// `dir` (`.a`), other words are flags. Headers are looked for in `dir` and `examples/c`.
    pub fn compile(&self, language: Language, dir: &Path, name: &str, inputs: &[&str]) -> PathBuf {
        let mut command = Command::new(self.compiler(language));
        command.arg(if language == Language::C { "-std=c99" } else { "-std=c++17" });
        command.args(WARNINGS).args(["-O1", "-static", "-I"]).arg(dir);
        command.arg("-I").arg(root().join("examples/c"));
        for input in inputs {
            match Path::new(input).extension().and_then(|e| e.to_str()) {
                Some("c" | "cpp") => command.arg(root().join(input)),
                Some("a") => command.arg(dir.join(input)),
                _ => command.arg(input),
            };
        }
        let program = dir.join(name);
        let output = command.arg("-o").arg(&program).output().expect("the compiler starts");
        assert!(output.status.success(), "{command:?}\n{}", text(&output.stderr));
        program
    }

    /// What qemu emulates where nothing else is asked for.
    pub fn core(&self) -> &'static str {
        if self.arch == R64.arch { RISCV_CORES[0] } else { "max" }
    }

    /// As `compile` for a C program with a start of its own and no libc.
    pub fn compile_bare(&self, dir: &Path, name: &str, inputs: &[&str]) -> PathBuf {
        let alone = ["-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fno-pic", "-no-pie"];
        let flags = ["-fno-tree-loop-distribute-patterns", "-fno-builtin"];
        self.compile(Language::C, dir, name, &[inputs, &alone, &flags].concat())
    }

    /// Runs a program, here or emulated as `cpu` (a name of qemu's).
    pub fn output(&self, program: &Path, cpu: &str, args: &[String]) -> Output {
        let mut command = Command::new(if self.is_host() { program.into() } else { self.tool() });
        if !self.is_host() {
            command.args(["-cpu", cpu]).arg(program);
        }
        command.args(args).stdin(Stdio::null()).output().expect("the program starts")
    }

    fn tool(&self) -> PathBuf {
        self.emulator().into()
    }

    /// What a program prints, which must end well and complain of nothing.
    pub fn run(&self, program: &Path, cpu: &str, args: &[String]) -> String {
        let output = self.output(program, cpu, args);
        let (printed, complaint) = (text(&output.stdout), text(&output.stderr));
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        assert!(
            output.status.success(),
            "{name} {args:?}: {}\n{complaint}{printed}",
            output.status
        );
        assert_eq!(complaint, "", "{name} {args:?}");
        printed
    }
}

#[cfg(target_arch = "x86_64")]
fn has_v3() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Whether a command can be started.
pub fn is_installed(tool: &str) -> bool {
    let version = Command::new(tool).arg("--version").stdin(Stdio::null()).output();
    version.is_ok_and(|o| o.status.success())
}

/// Words of a command line.
pub fn words<T: ToString>(words: &[T]) -> Vec<String> {
    words.iter().map(T::to_string).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
