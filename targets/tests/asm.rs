//! Instructions that must be in the loops of panel kernels, and what must not: a miss is silent,
//! only slow.

use ir::DType;
use targets::kernels::panel;
use targets::{Emitter, Target, jit, object};

/// Listings of the panel kernels of one format: symbol and text.
fn listings(triple: &str, cpu: &str, dtype: DType) -> Vec<(String, String)> {
    let target = Target::new(triple, Some(cpu), "").expect("known");
    let mut sink = object::module(&target, "m");
    let mut e = Emitter::new(&target, &mut sink, "m", true);
    panel::define(&mut e, dtype, panel::PANEL_ROWS);
    // The kernel over any number of rows only calls the others.
    let kernels = e.listings().filter(|l| l.callees.is_empty());
    kernels.map(|l| (l.name.clone(), l.asm.clone())).collect()
}

const X64: &str = "x86_64-unknown-linux-gnu";
const A64: &str = "aarch64-unknown-linux-gnu";

/// Target, format, instructions that every kernel has.
const MUST: &[(&str, &str, DType, &[&str])] = &[
    (X64, "x86-64-v3", DType::F32, &["vfmadd231ps ymm", "vbroadcastss ymm"]),
    (X64, "x86-64-v3", DType::F16, &["vfmadd231ps ymm", "vcvtph2ps ymm"]),
    (X64, "x86-64-v3", DType::BF16, &["vfmadd231ps ymm", "vpmovzxwd ymm"]),
    (X64, "x86-64-v4", DType::F32, &["vfmadd231ps zmm"]),
    (X64, "x86-64-v4", DType::F16, &["vfmadd231ps zmm", "vcvtph2ps zmm"]),
    (X64, "x86-64-v4", DType::BF16, &["vfmadd231ps zmm", "vpmovzxwd zmm"]),
    (X64, "x86-64", DType::F32, &["mulps", "addps"]),
    (X64, "x86-64", DType::F16, &["mulps", "addps", "psrad"]),
    (A64, "generic", DType::F32, &["fmla v", ".4s"]),
    (A64, "generic", DType::F16, &["fmla v", "sxtl"]),
    (A64, "generic", DType::BF16, &["fmla v", "uxtl"]),
];

#[test]
fn panels_use_the_units_of_their_target() {
    for (triple, cpu, dtype, instructions) in MUST {
        let all = listings(triple, cpu, *dtype);
        assert!(all.len() >= 4, "{cpu}: a kernel per number of rows");
        for (name, text) in all {
            for instruction in *instructions {
                assert!(text.contains(instruction), "{cpu}: {name} has no {instruction}\n{text}");
            }
        }
    }
}

/// The parts of a listing that jumps enter and leave.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        if !line.starts_with(' ') {
            blocks.push(String::new());
        }
        let block = blocks.last_mut().expect("there is one");
        block.push_str(line);
        block.push('\n');
    }
    blocks
}

/// AArch64 has 32 vector registers, which hold all sums and weights; x86-64 without AVX has 16, and
/// Cranelift spills some.
#[test]
fn loops_of_panels_keep_their_sums_in_registers_on_aarch64() {
    for cpu in ["generic", "cortex-a76"] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (name, text) in listings(A64, cpu, dtype) {
                let loops: Vec<String> =
                    blocks(&text).into_iter().filter(|b| b.contains("fmla v")).collect();
                assert!(loops.len() >= 2, "{name}: four at a time and one at a time\n{text}");
                for block in loops {
                    assert!(!block.contains("[sp") && !block.contains("[fp"), "{name}\n{block}");
                }
            }
        }
    }
}

#[test]
fn assembled_kernels_use_the_stack_only_to_enter_and_leave() {
    for cpu in ["x86-64-v3", "x86-64-v4"] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (name, text) in listings(X64, cpu, dtype) {
                let count = |word| text.matches(word).count();
                // One load: the residual's address, which is passed there, per part of the panel.
                assert!(count("rsp") <= 4, "{name}\n{text}");
                assert_eq!(count("push"), count("pop"), "{name}");
                assert_eq!(count("vzeroupper"), 1, "{name}");
            }
        }
    }
}

#[test]
fn a_listing_is_kept_only_if_asked_for() {
    let target = Target::native().expect("this machine is supported");
    let mut sink = jit::module(&target);
    let mut e = Emitter::new(&target, &mut sink, "m", false);
    panel::define(&mut e, DType::F32, 8);
    assert!(e.listings().all(|l| l.clif.is_empty() && l.code_bytes > 0));
}
