//! Whether an x86-64 CPU has what code was made for, and whether the operating system lets it be used.
//!
//! `CPUID` and `XGETBV` as in Intel's Software Developer's Manual, volume 1, chapters 13 to 18.

use super::Code;
use super::x64::listing;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::collections::BTreeSet;

/// A register of a leaf of `CPUID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Leaf 1, `ecx`.
    Basic,
    /// Leaf 7, `ebx`.
    Leaf7Ebx,
    /// Leaf 7, `ecx`.
    Leaf7Ecx,
    /// Leaf 7, `edx`.
    Leaf7Edx,
    /// Leaf 7, subleaf 1, `eax`.
    Leaf7Sub1,
    /// Leaf 8000_0001h, `ecx`.
    Extended,
}

const WORDS: [Word; 6] =
    [Word::Basic, Word::Extended, Word::Leaf7Ebx, Word::Leaf7Ecx, Word::Leaf7Edx, Word::Leaf7Sub1];

/// Feature, where it is told, its bit, and the parts of state that the system must keep (XCR0).
const FEATURES: &[(&str, Word, u32, u32)] = &[
    ("sse3", Word::Basic, 0, 0),
    ("ssse3", Word::Basic, 9, 0),
    ("fma", Word::Basic, 12, YMM),
    ("sse4.1", Word::Basic, 19, 0),
    ("sse4.2", Word::Basic, 20, 0),
    ("popcnt", Word::Basic, 23, 0),
    ("avx", Word::Basic, 28, YMM),
    ("f16c", Word::Basic, 29, YMM),
    ("bmi1", Word::Leaf7Ebx, 3, 0),
    ("avx2", Word::Leaf7Ebx, 5, YMM),
    ("bmi2", Word::Leaf7Ebx, 8, 0),
    ("avx512f", Word::Leaf7Ebx, 16, ZMM),
    ("avx512dq", Word::Leaf7Ebx, 17, ZMM),
    ("avx512bw", Word::Leaf7Ebx, 30, ZMM),
    ("avx512vl", Word::Leaf7Ebx, 31, ZMM),
    ("avx512vnni", Word::Leaf7Ecx, 11, ZMM),
    ("amx-tile", Word::Leaf7Edx, 24, TILES),
    ("amx-int8", Word::Leaf7Edx, 25, TILES),
    ("avxvnni", Word::Leaf7Sub1, 4, YMM),
    ("avx512bf16", Word::Leaf7Sub1, 5, ZMM),
    ("lzcnt", Word::Extended, 5, 0),
];

/// Leaf 1, `ecx`: the system uses XCR0.
const OSXSAVE: u32 = 1 << 27;
const YMM: u32 = 0x6;
const ZMM: u32 = 0xe6;
const TILES: u32 = 0x6_0000;

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: the one question that Linux wants to be
/// asked before a process may use tiles.
const ARCH_PRCTL: i32 = 158;
const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
const XFEATURE_XTILEDATA: i32 = 18;

/// `lacks() -> u64`: 0 where all features are there; `linux` asks for tiles where they are among them.
pub fn lacks(features: &BTreeSet<&'static str>, linux: bool) -> Code {
    let mut a = assemble(features, linux).expect("the function's operands are encodable");
    let bytes = a.assemble(0).expect("branches are in range");
    let text = listing(&bytes);
    Code { bytes, frame_bytes: 8, text }
}

/// The bits of a word that the features want.
fn wanted(features: &BTreeSet<&'static str>, word: Word) -> u32 {
    let bits = FEATURES.iter().filter(|(name, at, ..)| *at == word && features.contains(name));
    bits.fold(0, |all, (_, _, bit, _)| all | 1 << bit)
}

fn assemble(features: &BTreeSet<&'static str>, linux: bool) -> Result<CodeAssembler, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let (mut missing, mut done) = (a.create_label(), a.create_label());
    let kept = FEATURES.iter().filter(|(name, ..)| features.contains(name));
    let kept = kept.fold(0, |all, (.., state)| all | state);
    a.push(rbx)?;
    for word in WORDS {
        let own = if word == Word::Basic && kept != 0 { OSXSAVE } else { 0 };
        let bits = wanted(features, word) | own;
        if bits != 0 {
            check(&mut a, word, bits, missing)?;
        }
    }
    if kept != 0 {
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.and(eax, kept as i32)?;
        a.cmp(eax, kept as i32)?;
        a.jne(missing)?;
    }
    if linux && kept & TILES != 0 {
        a.mov(eax, ARCH_PRCTL)?;
        a.mov(edi, ARCH_REQ_XCOMP_PERM)?;
        a.mov(esi, XFEATURE_XTILEDATA)?;
        a.syscall()?;
        a.test(rax, rax)?;
        a.jne(missing)?;
    }
    a.xor(eax, eax)?;
    a.jmp(done)?;
    a.set_label(&mut missing)?;
    a.mov(eax, 1)?;
    a.set_label(&mut done)?;
    a.pop(rbx)?;
    a.ret()?;
    Ok(a)
}

/// Leaves for `missing` unless all `bits` of a word are set and its leaf is there.
fn check(
    a: &mut CodeAssembler,
    word: Word,
    bits: u32,
    missing: CodeLabel,
) -> Result<(), IcedError> {
    let (leaf, subleaf, register) = match word {
        Word::Basic => (1u32, 0, ecx),
        Word::Leaf7Ebx => (7, 0, ebx),
        Word::Leaf7Ecx => (7, 0, ecx),
        Word::Leaf7Edx => (7, 0, edx),
        Word::Leaf7Sub1 => (7, 1, eax),
        Word::Extended => (0x8000_0001, 0, ecx),
    };
    // The highest leaf, and of leaf 7 the highest subleaf.
    a.mov(eax, leaf & 0x8000_0000)?;
    a.cpuid()?;
    a.cmp(eax, leaf as i32)?;
    a.jb(missing)?;
    if subleaf > 0 {
        a.mov(eax, leaf)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.cmp(eax, subleaf)?;
        a.jb(missing)?;
    }
    a.mov(eax, leaf)?;
    a.mov(ecx, subleaf)?;
    a.cpuid()?;
    a.and(register, bits as i32)?;
    a.cmp(register, bits as i32)?;
    a.jne(missing)
}
