//! What machine code is for: triple, CPU, features; and the facts that kernels ask about.

mod cpus;

pub use cpus::cpus;

use crate::archive::Flavour;
use crate::builder::signature;
#[cfg(target_arch = "x86_64")]
use crate::tiles;
use cpus::{AMX, AVX512_VNNI, cpu_table, feature_table};
use cranelift_codegen::ir::types::I32;
use cranelift_codegen::ir::{Signature, Type};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa, TargetFrontendConfig};
use cranelift_codegen::settings::{self, Configurable};
use std::collections::BTreeSet;
use std::str::FromStr;
use target_lexicon::{Architecture, BinaryFormat, Environment, OperatingSystem, Triple};

/// Instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    X64,
    /// AArch64.
    A64,
    /// RISC-V of 64 bits.
    R64,
}

impl Arch {
    /// The instruction set that the compiler runs on.
    pub const HOST: Arch = if cfg!(target_arch = "aarch64") { Arch::A64 } else { Arch::X64 };

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X64 => "x86-64",
            Arch::A64 => "AArch64",
            Arch::R64 => "RISC-V",
        }
    }
}

/// What kernels may use.
#[derive(Clone)]
pub struct Facts {
    /// Instruction set.
    pub arch: Arch,
    /// Fused multiply-add.
    pub fma: bool,
    /// 128-bit dot products of bytes that Cranelift can be made to emit.
    pub dot_i8: bool,
    /// Products of two rows of bytes by two (`smmla`).
    pub i8mm: bool,
    /// `pmaddubsw`.
    pub ssse3: bool,
    /// 256-bit floats with FMA and half-precision conversion (x86-64-v3).
    pub avx2: bool,
    /// 512-bit floats (x86-64-v4).
    pub avx512: bool,
    /// 256-bit integer dot products.
    pub avxvnni: bool,
    /// 512-bit integer dot products.
    pub avx512vnni: bool,
    /// Tiles of integers, with 512-bit vectors around them.
    pub amx: bool,
    /// Cranelift's view of calls and pointers.
    pub frontend: TargetFrontendConfig,
}

/// A target: where code runs, and the two ways to compile for it.
#[derive(Clone)]
pub struct Target {
    /// As the user spelled it.
    pub name: String,
    /// As Cranelift spells it.
    pub triple: Triple,
    /// CPU name.
    pub cpu: String,
    /// Features in LLVM's spelling.
    pub features: BTreeSet<&'static str>,
    /// What kernels may use.
    pub facts: Facts,
    /// Keeps the order of instructions as written.
    pub ordered: OwnedTargetIsa,
    /// Optimises.
    pub optimised: OwnedTargetIsa,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).field("cpu", &self.cpu).finish()
    }
}

/// Kinds of x86-64 kernels that one library may hold side by side, each better than those before it:
/// name, CPU, features.
pub const VARIANTS: [(&str, &str, &str); 5] = [
    ("baseline", "x86-64", ""),
    ("avx2", "x86-64-v3", ""),
    ("avxvnni", "alderlake", ""),
    ("avx512vnni", "icelake-server", ""),
    ("amx", "icelake-server", "+amx-tile,+amx-int8"),
];

/// A target that is not to be had, and what is.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct TargetError {
    /// What was found, and what is supported.
    pub what: String,
}

fn err<T>(what: String) -> Result<T, TargetError> {
    Err(TargetError { what })
}

/// Triples that are built for and tested: the user's spelling, Cranelift's.
pub const TRIPLES: &[(&str, &str)] = &[
    ("x86_64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"),
    ("x86_64-unknown-linux-musl", "x86_64-unknown-linux-musl"),
    ("x86_64-linux-android", "x86_64-linux-android"),
    ("x86_64-apple-darwin", "x86_64-apple-darwin"),
    ("x86_64-pc-windows-msvc", "x86_64-pc-windows-msvc"),
    ("x86_64-pc-windows-gnu", "x86_64-pc-windows-gnu"),
    ("x86_64-unknown-none", "x86_64-unknown-none-elf"),
    ("aarch64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"),
    ("aarch64-unknown-linux-musl", "aarch64-unknown-linux-musl"),
    ("aarch64-linux-android", "aarch64-linux-android"),
    ("aarch64-apple-darwin", "aarch64-apple-darwin"),
    ("aarch64-unknown-none", "aarch64-unknown-none-elf"),
    ("riscv64gc-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu"),
    ("riscv64gc-unknown-none-elf", "riscv64gc-unknown-none-elf"),
];

/// The triple of the machine that the compiler runs on.
pub fn host_triple() -> String {
    Triple::host().to_string()
}

impl Target {
    /// A target from triple, CPU (`None` for the baseline, `native` for this machine's) and
    /// features as in `+avx2,-fma`.
    pub fn new(name: &str, cpu: Option<&str>, features: &str) -> Result<Target, TargetError> {
        let Some((_, spelled)) = TRIPLES.iter().find(|(user, ours)| [*user, ours].contains(&name))
        else {
            return err(format!("target `{name}` is not known; {}", supported()));
        };
        let triple = Triple::from_str(spelled).expect("triples of ours are triples");
        let arch = match triple.architecture {
            Architecture::X86_64 => Arch::X64,
            Architecture::Aarch64(_) => Arch::A64,
            _ => Arch::R64,
        };
        let cpu = cpu.unwrap_or(cpu_table(arch)[0].0);
        let mut set = cpu_features(arch, cpu)?;
        change_features(arch, &mut set, features)?;
        if arch == Arch::R64 && !set.contains("v") {
            return err(format!("target `{name}`: kernels for RISC-V need vectors (+v)"));
        }
        Target::with(name, triple, arch, cpu, set)
    }

    /// This machine, with all it can do.
    pub fn native() -> Result<Target, TargetError> {
        Target::new(&host_triple(), Some("native"), "")
    }

    fn with(
        name: &str,
        triple: Triple,
        arch: Arch,
        cpu: &str,
        features: BTreeSet<&'static str>,
    ) -> Result<Target, TargetError> {
        let ordered = isa(&triple, arch, &features, "none")?;
        let optimised = isa(&triple, arch, &features, "speed")?;
        let has = |names: &[&str]| names.iter().all(|n| features.contains(n));
        let facts = Facts {
            arch,
            fma: arch != Arch::X64 || has(&["fma", "avx"]),
            dot_i8: match arch {
                Arch::A64 => has(&["dotprod"]),
                Arch::X64 => has(&["avxvnni"]) || has(&["avx512vnni", "avx512vl"]),
                Arch::R64 => false,
            },
            i8mm: arch == Arch::A64 && has(&["dotprod", "i8mm"]),
            ssse3: has(&["ssse3"]),
            avx2: has(&["avx", "avx2", "fma", "f16c"]),
            avx512: has(&[
                "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512dq", "avx512bw",
            ]),
            avxvnni: has(&["avx", "avx2", "fma", "f16c", "avxvnni"]),
            avx512vnni: has(AVX512_VNNI),
            amx: has(AVX512_VNNI) && has(AMX),
            frontend: ordered.frontend_config(),
        };
        let name = name.to_string();
        Ok(Target { name, triple, cpu: cpu.into(), features, facts, ordered, optimised })
    }

    /// Whether code runs under Linux.
    pub fn is_linux(&self) -> bool {
        self.triple.operating_system == OperatingSystem::Linux
    }

    /// The convention of exported functions, as a C compiler for this target has it.
    pub fn c_call_conv(&self) -> CallConv {
        self.ordered.default_call_conv()
    }

    /// The signature of a function of the C interface, or of one that a caller provides.
    pub fn c_signature(&self, params: &[Type], results: &[Type]) -> Signature {
        let mut signature = signature(params, results, self.c_call_conv());
        if self.facts.arch == Arch::R64 {
            // RISC-V's convention: 32 bits are sign-extended, those of unsigned types too.
            let all = signature.params.iter_mut().chain(&mut signature.returns);
            all.filter(|p| p.value_type == I32).for_each(|p| *p = p.sext());
        }
        signature
    }

    /// What a C compiler puts before the names of functions.
    pub fn symbol_prefix(&self) -> &'static str {
        if self.triple.binary_format == BinaryFormat::Macho { "_" } else { "" }
    }

    /// Whether libraries are called and made as Microsoft's compiler has it.
    fn is_msvc(&self) -> bool {
        self.triple.environment == Environment::Msvc
    }

    /// The file name of a static library.
    pub fn library_file(&self, name: &str) -> String {
        if self.is_msvc() { format!("{name}.lib") } else { format!("lib{name}.a") }
    }

    /// What the file names of objects end in.
    pub fn object_extension(&self) -> &'static str {
        if self.is_msvc() { "obj" } else { "o" }
    }

    /// How static libraries are written.
    pub fn archive(&self) -> Flavour {
        match self.triple.binary_format {
            BinaryFormat::Macho => Flavour::Darwin,
            _ if self.is_msvc() => Flavour::Coff,
            _ => Flavour::Gnu,
        }
    }
}

fn supported() -> String {
    let names: Vec<&str> = TRIPLES.iter().map(|(user, _)| *user).collect();
    format!("supported: {}", names.join(", "))
}

fn cpu_features(arch: Arch, cpu: &str) -> Result<BTreeSet<&'static str>, TargetError> {
    if cpu == "native" {
        return native_features(arch);
    }
    match cpu_table(arch).iter().find(|(name, _)| *name == cpu) {
        Some((_, groups)) => Ok(groups.iter().flat_map(|g| g.iter().copied()).collect()),
        None => {
            let known: Vec<&str> = cpus(arch).collect();
            err(format!("target-cpu `{cpu}` is not known; known: native, {}", known.join(", ")))
        }
    }
}

fn change_features(
    arch: Arch,
    set: &mut BTreeSet<&'static str>,
    changes: &str,
) -> Result<(), TargetError> {
    for change in changes.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        let known = feature_table(arch).iter().map(|(name, _)| *name);
        let named =
            |sign| change.strip_prefix(sign).and_then(|name| known.clone().find(|k| *k == name));
        match (named('+'), named('-')) {
            (Some(name), _) => _ = set.insert(name),
            (_, Some(name)) => _ = set.remove(name),
            _ => {
                let known: Vec<&str> = known.collect();
                return err(format!(
                    "target-feature `{change}`: write +name or -name with a name of: {}",
                    known.join(", ")
                ));
            }
        }
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn native_features(arch: Arch) -> Result<BTreeSet<&'static str>, TargetError> {
    if arch != Arch::X64 {
        return err("target-cpu `native` needs the target of this machine, x86-64".into());
    }
    macro_rules! detect {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let found = detect![
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "bmi1",
        "bmi2",
        "lzcnt",
        "f16c",
        "avx512f",
        "avx512vl",
        "avx512dq",
        "avx512bw",
        "avx512vnni",
        "avx512bf16",
        "avxvnni"
    ];
    let mut names: BTreeSet<&str> =
        found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    if tiles::permitted() {
        names.extend(AMX);
    }
    Ok(names)
}

#[cfg(target_arch = "aarch64")]
fn native_features(arch: Arch) -> Result<BTreeSet<&'static str>, TargetError> {
    if arch != Arch::A64 {
        return err("target-cpu `native` needs the target of this machine, AArch64".into());
    }
    macro_rules! detect {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
        };
    }
    let found = detect!["neon", "lse", "dotprod", "i8mm", "fp16", "bf16"];
    Ok(found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect())
}

fn isa(
    triple: &Triple,
    arch: Arch,
    features: &BTreeSet<&'static str>,
    opt_level: &str,
) -> Result<OwnedTargetIsa, TargetError> {
    let wrong = |e: &dyn std::fmt::Display| TargetError { what: format!("target `{triple}`: {e}") };
    let mut flags = settings::builder();
    // Windows grows a stack page by page, in order.
    let probes = triple.operating_system == OperatingSystem::Windows;
    for (name, value) in [
        ("opt_level", opt_level),
        ("is_pic", "false"),
        ("enable_verifier", "true"),
        ("unwind_info", "false"),
        ("log2_min_function_alignment", "5"),
        ("enable_probestack", if probes { "true" } else { "false" }),
        ("probestack_strategy", "inline"),
    ] {
        flags.set(name, value).map_err(|e| wrong(&e))?;
    }
    let mut builder = cranelift_codegen::isa::lookup(triple.clone()).map_err(|e| wrong(&e))?;
    for (name, flag) in feature_table(arch) {
        if features.contains(name) && !flag.is_empty() {
            builder.enable(flag).map_err(|e| wrong(&e))?;
        }
    }
    builder.finish(settings::Flags::new(flags)).map_err(|e| wrong(&e))
}
