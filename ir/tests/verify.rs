//! The verifier: files with `; error V4: substring` on the offending line, nothing missing and
//! nothing more; and modules whose handles no text can spell.

use ir::sample::Sample;
use ir::*;
use std::path::PathBuf;

#[test]
fn files_break_the_rules_they_say() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verify");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (module, lines) =
            parse_with_lines(&text).unwrap_or_else(|e| panic!("{}:{e}", file.display()));
        let mut found = verify(&module).err().unwrap_or_default();
        for (line, expected) in expectations(&text) {
            let fits = |v: &Violation| {
                let place = lines.line(v.place) == Some(line);
                let text = format!("V{}: {}", v.rule, v.what);
                place
                    && expected.split_once(": ").is_some_and(|(rule, what)| {
                        text.starts_with(&format!("{rule}: ")) && text.contains(what)
                    })
            };
            match found.iter().position(fits) {
                Some(i) => drop(found.remove(i)),
                None => panic!("{}:{line}: expected {expected}, left {found:#?}", file.display()),
            }
        }
        let rest: Vec<String> = found.iter().map(|v| v.in_text(&lines)).collect();
        assert!(rest.is_empty(), "{}: not expected: {rest:#?}", file.display());
    }
}

/// Line and `V4: substring` of every `; error V4: substring`.
fn expectations(text: &str) -> Vec<(u32, &str)> {
    let lines = text.lines().zip(1..);
    lines.flat_map(|(line, n)| line.split("; error ").skip(1).map(move |e| (n, e.trim()))).collect()
}

#[test]
fn every_rule_has_a_file_or_a_test() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verify");
    let mut texts = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        texts.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let readme = include_str!("../README.md");
    for rule in 1..=17 {
        assert!(readme.contains(&format!("| V{rule} |")), "V{rule} is not in the README");
        // No text can number values out of order: the test below does.
        assert!(rule == 14 || texts.contains(&format!("; error V{rule}: ")), "V{rule} has no file");
    }
}

fn broken(change: impl FnOnce(&mut Module)) -> Vec<String> {
    let mut module = Sample::default().module().unwrap();
    change(&mut module);
    let found = verify(&module).expect_err("the module is broken");
    let _ = module.to_string();
    let _ = def_use::dot(&module);
    found.iter().map(Violation::to_string).collect()
}

/// Makes @block use a weight of the module that has the name of a parameter.
fn hide(module: &mut Module) {
    module.weights[2].name = "wq".into();
    module.graphs[0].insts[1].args[1] = WeightId(2).into();
}

/// A step that names no weight.
fn far_scale() -> Step {
    Step::Scale { side: Side::In, by: WeightId(u32::MAX), inverse: false }
}

#[test]
fn handles_out_of_range_are_reported() {
    let far = u32::MAX;
    let cases: Vec<(&str, Vec<String>)> = vec![
        ("V2 at @block %h1", broken(|m| m.graphs[0].insts[0].args[0] = ValueId(far).into())),
        ("V2 at @block %h1", broken(|m| m.graphs[0].insts[0].args[1] = WeightId(far).into())),
        ("V2 at @block %h1", broken(|m| m.graphs[0].insts[0].args[1] = Arg::FormalWeight(far))),
        ("V2 at @block %c", broken(|m| m.graphs[0].insts[6].args[0] = CacheId(far).into())),
        ("V2 at @block %c", broken(|m| m.graphs[0].insts[6].args[0] = Arg::FormalCache(far))),
        ("V9 at @block", broken(|m| m.graphs[0].result = ValueId(far))),
        ("V10 at @model %x1", broken(|m| m.graphs[1].insts[1].op = Op::Call(GraphId(far)))),
        ("V10 at @model %x1", broken(|m| m.graphs[1].insts[1].op = Op::Call(GraphId(1)))),
        ("V14 at @block %?", broken(|m| m.graphs[0].params[0] = Param::Value(ValueId(far)))),
        ("V14 at @block $norm1", broken(|m| m.graphs[0].params[4] = m.graphs[0].params[3])),
        ("V14 at @block ^?", broken(|m| m.graphs[0].params[2] = Param::Cache(far))),
        ("V14 at @block %?", broken(|m| m.graphs[0].insts[0].result = ValueId(far))),
        ("V14 at @block: 17 values", broken(|m| drop(m.graphs[0].values.pop()))),
        ("V14 at @block", broken(|m| drop(m.graphs[0].insts.pop()))),
        ("V14 at @block %h1", broken(|m| m.graphs[0].insts.swap(0, 1))),
        ("V17 at $embed", broken(|m| m.weights[0].via.push(far_scale()))),
        ("V1 at $", broken(|m| m.weights[0].name.clear())),
        ("V1 at @block %q: `$wq` of the module is hidden", broken(hide)),
        ("V1 at @block %a b", broken(|m| m.graphs[0].values[0].name = "a b".into())),
    ];
    for (expected, found) in cases {
        assert!(found.iter().any(|v| v.starts_with(expected)), "{expected}: {found:#?}");
    }
}

#[test]
fn a_module_without_anything_lacks_its_roots_and_facts() {
    let found = verify(&Module::default()).unwrap_err();
    let rules: Vec<u32> = found.iter().map(|v| v.rule).collect();
    assert_eq!(rules, [11, 11, 15, 15]);
}

#[test]
fn shared_layers_need_a_slot_each() {
    let sample = Sample { shared: 2, ..Sample::default() };
    let mut module = sample.module().unwrap();
    verify(&module).unwrap();
    let calls = &mut module.graphs[1].insts;
    calls[2].args[2] = calls[1].args[2];
    let found: Vec<String> =
        verify(&module).unwrap_err().iter().map(Violation::to_string).collect();
    assert_eq!(
        found,
        [
            "V12 at ^l0: @model appends to this slot 2 times, expected once",
            "V12 at ^l1: @model appends to this slot 0 times, expected once",
        ]
    );
}
