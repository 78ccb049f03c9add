//! CPUs and features of each instruction set.

use super::Arch;

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
pub(super) const AVX512_VNNI: &[&str] =
    &["f16c", "avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512vnni"];
/// What the kernels in tiles use. No CPU name has them: the operating system must let a process use
/// tiles first, so a user says that they are wanted.
pub(super) const AMX: &[&str] = &["amx-tile", "amx-int8"];

const A64_FEATURES: &[(&str, &str)] = &[
    ("neon", ""),
    ("lse", "has_lse"),
    ("dotprod", "has_dotprod"),
    ("i8mm", "has_i8mm"),
    ("fp16", "has_fp16"),
    ("bf16", ""),
];

/// Beside what `riscv64gc` means. Kernels are written in 128-bit vectors, so there is no code
/// without `v`.
const R64_FEATURES: &[(&str, &str)] =
    &[("v", "has_v"), ("zba", "has_zba"), ("zbb", "has_zbb"), ("zbs", "has_zbs")];

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

const R64_CPUS: &[(&str, &[&[&str]])] = &[
    ("rv64gcv", &[&["v"]]),
    ("rva22v", &[&["v", "zba", "zbb", "zbs"]]),
    ("sifive-x280", &[&["v", "zba", "zbb"]]),
    ("spacemit-x60", &[&["v", "zba", "zbb", "zbs"]]),
];

/// The CPU names of an instruction set, the baseline first.
pub fn cpus(arch: Arch) -> impl Iterator<Item = &'static str> {
    cpu_table(arch).iter().map(|(name, _)| *name)
}

/// CPU names: the groups of features that each has; the baseline first.
pub(super) fn cpu_table(
    arch: Arch,
) -> &'static [(&'static str, &'static [&'static [&'static str]])] {
    match arch {
        Arch::X64 => X64_CPUS,
        Arch::A64 => A64_CPUS,
        Arch::R64 => R64_CPUS,
    }
}

/// Features: LLVM's spelling, Cranelift's flag if it has one.
pub(super) fn feature_table(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::X64 => X64_FEATURES,
        Arch::A64 => A64_FEATURES,
        Arch::R64 => R64_FEATURES,
    }
}
