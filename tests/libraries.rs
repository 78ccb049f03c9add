//! What is in a library: nothing undefined, its own names only, the same bytes each time.

use clap::ValueEnum;
use ingot::options::Quant;
use ingot_tests::folder;
use ingot_tests::machine::{A64, Language, Machine, R64, X64, words};
use ingot_tests::model::{SHIPPED, build, shipped};
use ingot_tests::reference::read;
use object::read::archive::ArchiveFile;
use object::{BinaryFormat, Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use targets::object::weights_section;
use targets::target::{TRIPLES, VARIANTS};

const X64_CPUS: &[&str] = &["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4"];
const A64_CPUS: &[&str] = &["generic", "cortex-a76", "neoverse-v1"];
const R64_CPUS: &[&str] = &["rv64gcv"];

/// Functions of the header.
const EXPORTS: [&str; 15] = [
    "init", "prefill", "decode", "logits", "score", "verify", "sample", "position", "truncate",
    "save", "load", "encode", "piece", "chat", "error",
];

/// Largest that the code and tables of a small model may become, bytes; the classes of all characters,
/// by which text is cut, are 25 thousand of them.
const CODE_CEILING: usize = 224 << 10;
/// The same for RISC-V, which has no dot products and says the shape of vectors again and again.
const RISCV_CODE_CEILING: usize = 400 << 10;

/// Every triple; all CPUs of one system, of the others one, as they differ in the system alone.
fn every_target() -> Vec<(&'static str, &'static str)> {
    let cpus = |triple: &str| match triple.split_once('-') {
        Some(("x86_64", "unknown-none")) => X64_CPUS,
        Some(("x86_64", _)) => &X64_CPUS[3..4],
        Some(("aarch64", "unknown-none")) => A64_CPUS,
        Some(("aarch64", _)) => &A64_CPUS[1..],
        _ => R64_CPUS,
    };
    let triples = TRIPLES.iter().map(|(name, _)| *name);
    triples.flat_map(|t| cpus(t).iter().map(move |cpu| (t, *cpu))).collect()
}

/// The one member of an archive.
fn member(archive: &[u8]) -> Vec<u8> {
    let file = ArchiveFile::parse(archive).expect("an archive");
    let members: Vec<_> = file.members().map(|m| m.expect("readable")).collect();
    assert_eq!(members.len(), 1);
    members[0].data(archive).expect("whole").to_vec()
}

fn check_object(what: &str, bytes: &[u8], name: &str) {
    let file = object::File::parse(bytes).expect("an object");
    let named = || file.symbols().filter(|s| s.name().is_ok_and(|n| !n.is_empty()));
    let undefined: Vec<&str> =
        named().filter(|s| s.is_undefined()).filter_map(|s| s.name().ok()).collect();
    assert!(undefined.is_empty(), "{what}: {undefined:?}");

    let global = named().filter(|s| s.is_global() && s.kind() != SymbolKind::File);
    let prefix = if file.format() == BinaryFormat::MachO { "_" } else { "" };
    let global: BTreeSet<String> =
        global.filter_map(|s| s.name().ok()?.strip_prefix(prefix)).map(String::from).collect();
    let exports: BTreeSet<String> = EXPORTS.iter().map(|e| format!("{name}_{e}")).collect();
    assert_eq!(global, exports, "{what}");

    let sections: Vec<&str> = file.sections().filter_map(|s| s.name().ok()).collect();
    let elf = file.format() == BinaryFormat::Elf;
    assert!(
        !elf || sections.contains(&".note.GNU-stack"),
        "{what}: no executable stack: {sections:?}"
    );
    let writable = sections.iter().find(|s| [".data", ".bss", "__data", "__bss"].contains(s));
    assert!(writable.is_none(), "{what}: no globals: {writable:?}");
}

fn code_bytes(bytes: &[u8]) -> usize {
    let file = object::File::parse(bytes).expect("an object");
    let (_, weights) = weights_section(file.format());
    let sections = file.sections().filter(|s| s.name() != Ok(weights));
    sections.map(|s| s.size() as usize).sum()
}

fn library(model: &Path, dir: &Path, line: &str) -> (Vec<u8>, Vec<u8>) {
    let built = build(model, dir, &format!("--name smol {line}"));
    let read = |file: &str| fs::read(dir.join(file)).expect("it was written");
    (read(&built.target.library_file("smol")), read("smol.h"))
}

#[test]
fn several_variants_are_one_library_without_undefined_names() {
    let names = VARIANTS.map(|(name, ..)| name).join(",");
    for triple in ["x86_64-unknown-none", "x86_64-pc-windows-msvc"] {
        let dir = folder();
        let line = format!("--target {triple} -C variants={names} --quant w4a8");
        let (archive, header) = library(&shipped(SHIPPED[1]), dir.path(), &line);
        check_object(&line, &member(&archive), "smol");
        let header = String::from_utf8(header).expect("text");
        assert!(header.contains("baseline or avx2 or avxvnni or avx512vnni or amx"), "{header}");
    }
}

#[test]
fn nothing_is_undefined_on_any_target() {
    let model = shipped(SHIPPED[1]);
    for (triple, cpu) in every_target() {
        let quants = Quant::value_variants().iter().map(|quant| {
            let quant = quant.to_possible_value().expect("none is hidden");
            format!("--quant {}", quant.get_name())
        });
        let turned = "--quant w4a8 --rotate hadamard --rotations r1,r2,r3,r4".to_string();
        for asked in quants.chain([turned]) {
            let dir = folder();
            let line = format!("--target {triple} -C target-cpu={cpu} {asked}");
            let (archive, _) = library(&model, dir.path(), &line);
            let object = member(&archive);
            check_object(&line, &object, "smol");
            let bytes = code_bytes(&object);
            let ceiling = if cpu == R64_CPUS[0] { RISCV_CODE_CEILING } else { CODE_CEILING };
            assert!(bytes < ceiling, "{line}: {bytes} bytes beside the weights");
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    for model in SHIPPED.map(shipped) {
        let formats = ["x86_64-pc-windows-msvc", "aarch64-apple-darwin", R64.triple];
        for triple in [X64.triple, A64.triple].into_iter().chain(formats) {
            let (one, two) = (folder(), folder());
            let line = format!("--target {triple}");
            assert!(library(&model, one.path(), &line) == library(&model, two.path(), &line));
            let (archive, _) = library(&model, one.path(), &line);
            let here = one.path().to_string_lossy().into_owned();
            let found = archive.windows(here.len()).any(|w| w == here.as_bytes());
            assert!(!found, "a path of the machine that built it");
        }
    }
}

#[test]
fn two_models_are_one_program() {
    let models = SHIPPED.map(shipped);
    let [first, second] = models.each_ref().map(|m| read(&m.join("reference.json")).remove(0));
    assert_eq!(first.ids, second.ids, "both references have the same prompts");
    for machine in [Machine::host(), &A64].into_iter().filter(|m| m.available()) {
        let dir = folder();
        for (model, name) in models.iter().zip(["first", "second"]) {
            let line = format!("--name {name} --target {}", machine.triple);
            build(model, dir.path(), &line);
        }
        let inputs = ["tests/c/two.c", "libfirst.a", "libsecond.a"];
        let program = machine.compile(Language::C, dir.path(), "two", &inputs);
        let args = words(&[&[10], &first.ids[..]].concat());
        let printed = machine.run(&program, "max", &args);
        let tokens: Vec<Vec<&str>> =
            printed.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(tokens, [words(&first.greedy[..10]), words(&second.greedy[..10])]);
    }
}
