//! The text form: files that print as they are (or as the part after `; ---- prints` says), and a
//! table of texts that are refused.

use ir::{Module, parse};
use std::path::PathBuf;

const SEPARATOR: &str = "; ---- prints\n";

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn files_print_as_expected() {
    let bless = std::env::var("BLESS").is_ok_and(|v| v == "1");
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let (input, expected) = match text.split_once(SEPARATOR) {
            Some((input, expected)) => (input, Some(expected)),
            None => (text.as_str(), None),
        };
        let module = parse(input).unwrap_or_else(|e| panic!("{}:{e}", file.display()));
        let printed = module.to_string();
        if bless {
            let head = expected.map(|_| format!("{input}{SEPARATOR}")).unwrap_or_default();
            std::fs::write(&file, format!("{head}{printed}")).unwrap();
        } else {
            assert_eq!(printed, expected.unwrap_or(input), "{}", file.display());
        }
        assert_eq!(parse(&printed).unwrap(), module, "{}", file.display());
        ir::verify(&module).unwrap_or_else(|v| panic!("{}: {v:?}", file.display()));
    }
}

const HEAD: &str = "ingot 1\nmodel \"t\" {vocab = 8, context = 4, eos = []}\n";

/// What follows `HEAD`, and the error it gives.
const REFUSED: &[(&str, &str)] = &[
    ("what", "3:1: found `what`, expected `weight`, `cache` or `graph`"),
    ("§", "3:1: found '§', which starts nothing"),
    ("weight w", "3:8: found `w`, expected a name with `$`"),
    ("weight $ : f32[2]", "3:8: found `$` alone, expected a name after it"),
    ("weight $w f32", "3:11: found `f32`, expected `:`"),
    ("weight $w : f31[2]", "3:13: found `f31`, expected one of f32, f16, bf16, i32"),
    ("weight $w : f32[T]", "3:13: found f32[T], expected constant dimensions"),
    ("weight $w : f32[-2]", "3:17: found `-2`, expected a whole number below 2^64"),
    (
        "weight $w : f32[18446744073709551616]",
        "3:17: found `18446744073709551616`, expected a whole number below 2^64",
    ),
    ("weight $w : f32[2] = bulb", "3:22: found `bulb`, expected `blob`, `hadamard`"),
    ("weight $w : f32[2] = blob", "3:26: found the end of the text, expected a tensor's name"),
    ("weight $w : f32[2] = blob \"x", "3:27: found a string without end"),
    ("weight $w : f32[2] = blob \"\\x\"", "3:28: found an unknown escape"),
    ("weight $w : i7g32[8, 32]", "3:13: found `i7g32`, expected one of f32, f16, bf16, i32"),
    ("weight $w : i3g16[8, 32]", "groups of a multiple of 16, of 32 for 3 and 5 bits"),
    ("weight $w : i04g32[8, 32]", "3:13: found `i04g32`"),
    ("weight $w : e2m1g32z[8, 32]", "3:13: found `e2m1g32z`"),
    ("weight $w : e4m3g32[8, 32]", "3:13: found `e4m3g32`"),
    ("weight $w : lut0001g32[8, 32]", "3:13: found `lut0001g32`"),
    ("weight $w : lut00000000000000000000000000000000g32[8, 32]", "3:13: found `lut0000"),
    ("weight $w : f32[2] = blob \"\\ud800x\"", "3:28: found half of a surrogate pair"),
    ("weight $w : f32[2] = blob \"\\udc00\"", "3:28: found an escape that is no character"),
    ("weight $w : f32[2] = blob \"x\" via spin(2)", "3:35: found `spin`, expected a step"),
    ("weight $w : f32[2] = factors \"ä\"", "3:30: found a character outside `!` to `~`"),
    ("weight $w : f32[2] = hadamard(x)", "3:31: found `x`, expected a whole number"),
    ("weight $w : f32[2] = ones via scale_in(2)", "3:40: found `2`, expected a name with `$`"),
    ("weight $w : f32[2] = ones via scale_in($v)", "3:40: found `$v`, which is defined nowhere"),
    ("cache ^c : kv.f16[2]", "3:20: found `]`, expected `,`"),
    ("graph @g(@h: f32[2])", "3:10: found `@h`, expected a parameter"),
    ("graph @g() -> f32[T, 2] { return %x }", "3:34: found `%x`, which is defined nowhere"),
    ("graph @g(%x: f32[T, 2]) -> f32[T, 3] { return %x }", "3:28: found f32[T, 3], but `%x`"),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = spin %x : f32[T, 2] return %y }",
        "3:45: found `spin`, expected an operation",
    ),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = call @h, %x : f32[T, 2] return %y }",
        "3:50: found `@h`, which is defined nowhere",
    ),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = rms_norm %x : f32[T, 2] return %y }",
        "3:45: rms_norm has no attribute `eps`",
    ),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = rms_norm %x {eps = 1e999} : f32[T, 2]",
        "3:64: found `1e999`, expected a finite number",
    ),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = add %x, %x {eps = 1.0} : f32[T, 2]",
        "3:57: found `eps`, which is no attribute of add here",
    ),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = rms_norm %x {eps = 1.0, eps = 1.0} : f32",
        "3:69: found `eps` a second time",
    ),
    (
        "graph @g(%x: f32[T, 2]) -> f32[T, 2] { %y = rms_norm %x {eps = [1.0]} : f32[T, 2]",
        "`eps` is a list, expected one value",
    ),
];

#[test]
fn errors_say_where_and_what() {
    for (text, expected) in REFUSED {
        let error = parse(&format!("{HEAD}{text}")).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}\n  gives    {error}\n  expected {expected}");
    }
}

#[test]
fn heads_are_checked() {
    for (text, expected) in [
        ("", "1:1: found the end of the text, expected `ingot`"),
        ("ingot 2", "1:7: found `2`, expected version 1 of the text form"),
        ("ingot 1\nmodel t", "2:7: found `t`, expected the architecture, a string"),
        ("ingot 1 model \"\" {}", "1:18: model has no attribute `vocab`"),
        (
            "ingot 1 model \"\" {vocab = 1, context = 1, eos = 1}",
            "1:49: found `1`, expected a list",
        ),
        (
            "ingot 1 model \"\" {vocab = 1, context = 1, bos = 4294967296, eos = []}",
            "1:49: found `4294967296`, expected a token id below 2^32",
        ),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}\n  gives    {error}\n  expected {expected}");
    }
}

#[test]
fn long_words_are_cut_in_errors() {
    let error = parse(&format!("{HEAD}{}", "x".repeat(100_000))).unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
}

#[test]
fn an_empty_module_prints() {
    let text = Module::default().to_string();
    assert_eq!(text, "ingot 1\nmodel \"\" {vocab = 0, context = 0, eos = []}\n");
    assert_eq!(parse(&text).unwrap(), Module::default());
}

#[test]
fn the_readme_shows_a_module_that_prints_so() {
    let shown = include_str!("../README.md").split("```").nth(1).unwrap().trim_start();
    let module = parse(shown).unwrap();
    ir::verify(&module).unwrap();
    assert_eq!(module.to_string(), shown);
}
