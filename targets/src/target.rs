//! What machine code is for: triple, CPU, features; and the facts that kernels ask about.

#[cfg(target_arch = "x86_64")]
use crate::tiles;
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa, TargetFrontendConfig};
use cranelift_codegen::settings::{self, Configurable};
use std::collections::BTreeSet;
use std::str::FromStr;
use target_lexicon::{Architecture, BinaryFormat, OperatingSystem, Triple};

/// Instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    X64,
    /// AArch64.
    A64,
}

impl Arch {
    /// The instruction set that the compiler runs on.
    pub const HOST: Arch = if cfg!(target_arch = "aarch64") { Arch::A64 } else { Arch::X64 };
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
    ("aarch64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"),
    ("x86_64-unknown-none", "x86_64-unknown-none-elf"),
    ("aarch64-unknown-none", "aarch64-unknown-none-elf"),
];

/// Features: LLVM's spelling, Cranelift's flag if it has one.
const X64_FEATURES: &[(&str, &str)] = &[
    ("sse3", "has_sse3"),
    ("ssse3", "has_ssse3"),
    ("sse4.1", "has_sse41"),
    ("sse4.2", "has_sse42"),
    ("popcnt", "has_popcnt"),
    ("avx", "has_avx"),
    ("avx2", "has_avx2"),
    ("fma", "has_fma"),
    ("bmi1", "has_bmi1"),
    ("bmi2", "has_bmi2"),
    ("lzcnt", "has_lzcnt"),
    ("f16c", ""),
    ("avx512f", "has_avx512f"),
    ("avx512vl", "has_avx512vl"),
    ("avx512dq", "has_avx512dq"),
    ("avx512bw", ""),
    ("avx512vnni", "has_avx512vnni"),
    ("avx512bf16", ""),
    ("avxvnni", "has_avx_vnni"),
    ("amx-tile", ""),
    ("amx-int8", ""),
];

/// What the 512-bit integer kernels use.
const AVX512_VNNI: &[&str] = &["f16c", "avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512vnni"];
/// What the kernels in tiles use. No CPU name has them: the operating system must let a process use
/// tiles first, so a user says that they are wanted.
const AMX: &[&str] = &["amx-tile", "amx-int8"];

const A64_FEATURES: &[(&str, &str)] = &[
    ("neon", ""),
    ("lse", "has_lse"),
    ("dotprod", "has_dotprod"),
    ("i8mm", "has_i8mm"),
    ("fp16", "has_fp16"),
    ("bf16", ""),
];

const V2: &[&str] = &["popcnt", "sse3", "ssse3", "sse4.1", "sse4.2"];
const V3: &[&str] = &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt"];
const V4: &[&str] = &["avx512f", "avx512vl", "avx512dq", "avx512bw"];

/// CPU names: the groups of features that each has.
const X64_CPUS: &[(&str, &[&[&str]])] = &[
    ("x86-64", &[]),
    ("x86-64-v2", &[V2]),
    ("x86-64-v3", &[V2, V3]),
    ("x86-64-v4", &[V2, V3, V4]),
    ("haswell", &[V2, V3]),
    ("skylake", &[V2, V3]),
    ("alderlake", &[V2, V3, &["avxvnni"]]),
    ("skylake-avx512", &[V2, V3, V4]),
    ("icelake-server", &[V2, V3, V4, &["avx512vnni"]]),
    ("sapphirerapids", &[V2, V3, V4, &["avx512vnni", "avx512bf16", "avxvnni"]]),
    ("znver2", &[V2, V3]),
    ("znver3", &[V2, V3]),
    ("znver4", &[V2, V3, V4, &["avx512vnni", "avx512bf16"]]),
    ("znver5", &[V2, V3, V4, &["avx512vnni", "avx512bf16", "avxvnni"]]),
];

const A64_CPUS: &[(&str, &[&[&str]])] = &[
    ("generic", &[&["neon"]]),
    ("cortex-a53", &[&["neon"]]),
    ("cortex-a55", &[&["neon", "lse", "dotprod", "fp16"]]),
    ("cortex-a72", &[&["neon"]]),
    ("cortex-a76", &[&["neon", "lse", "dotprod", "fp16"]]),
    ("cortex-a78", &[&["neon", "lse", "dotprod", "fp16"]]),
    ("cortex-a510", &[&["neon", "lse", "dotprod", "fp16", "i8mm", "bf16"]]),
    ("cortex-a710", &[&["neon", "lse", "dotprod", "fp16", "i8mm", "bf16"]]),
    ("cortex-x2", &[&["neon", "lse", "dotprod", "fp16", "i8mm", "bf16"]]),
    ("neoverse-n1", &[&["neon", "lse", "dotprod", "fp16"]]),
    ("neoverse-v1", &[&["neon", "lse", "dotprod", "fp16", "i8mm", "bf16"]]),
    ("neoverse-n2", &[&["neon", "lse", "dotprod", "fp16", "i8mm", "bf16"]]),
    ("apple-m1", &[&["neon", "lse", "dotprod", "fp16"]]),
    ("apple-m2", &[&["neon", "lse", "dotprod", "fp16", "i8mm", "bf16"]]),
];

/// The CPU names of an instruction set.
pub fn cpus(arch: Arch) -> impl Iterator<Item = &'static str> {
    cpu_table(arch).iter().map(|(name, _)| *name)
}

fn cpu_table(arch: Arch) -> &'static [(&'static str, &'static [&'static [&'static str]])] {
    match arch {
        Arch::X64 => X64_CPUS,
        Arch::A64 => A64_CPUS,
    }
}

fn feature_table(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::X64 => X64_FEATURES,
        Arch::A64 => A64_FEATURES,
    }
}

/// The triple of the machine that the compiler runs on.
pub fn host_triple() -> String {
    Triple::host().to_string()
}

impl Target {
    /// A target from triple, CPU (`None` for the baseline, `native` for this machine's) and
    /// features as in `+avx2,-fma`.
    pub fn new(name: &str, cpu: Option<&str>, features: &str) -> Result<Target, TargetError> {
        let spelled = TRIPLES.iter().find(|(user, _)| *user == name).map_or(name, |(_, ours)| ours);
        let triple = Triple::from_str(spelled)
            .map_err(|e| TargetError { what: format!("target `{name}`: {e}; {}", supported()) })?;
        let arch = match triple.architecture {
            Architecture::X86_64 => Arch::X64,
            Architecture::Aarch64(_) => Arch::A64,
            other => return err(format!("target `{name}`: no code for {other}; {}", supported())),
        };
        if triple.binary_format != BinaryFormat::Elf {
            return err(format!("target `{name}`: not an ELF target; {}", supported()));
        }
        let cpu = cpu.unwrap_or(match arch {
            Arch::X64 => "x86-64",
            Arch::A64 => "generic",
        });
        let mut set = cpu_features(arch, cpu)?;
        change_features(arch, &mut set, features)?;
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
            fma: arch == Arch::A64 || has(&["fma", "avx"]),
            dot_i8: match arch {
                Arch::A64 => has(&["dotprod"]),
                Arch::X64 => has(&["avxvnni"]) || has(&["avx512vnni", "avx512vl"]),
            },
            ssse3: has(&["ssse3"]),
            avx2: has(&["avx", "avx2", "fma", "f16c"]),
            avx512: has(&["avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512dq"]),
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
        let (sign, name) = change.split_at(1);
        match (sign, known.clone().find(|k| *k == name)) {
            ("+", Some(name)) => _ = set.insert(name),
            ("-", Some(name)) => _ = set.remove(name),
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
    for (name, value) in [
        ("opt_level", opt_level),
        ("is_pic", "false"),
        ("enable_verifier", "true"),
        ("unwind_info", "false"),
        ("log2_min_function_alignment", "5"),
        ("enable_probestack", "false"),
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
