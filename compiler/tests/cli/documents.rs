//! What documents say of files and of flags is so.

use crate::printed;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "ir/README.md",
    "passes/README.md",
    "examples/README.md",
    "examples/models/README.md",
    "tests/bench/README.md",
];

/// Folders that a path may begin with.
const FOLDERS: [&str; 8] =
    ["ir", "passes", "targets", "runtime", "compiler", "tests", "examples", "scripts"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

#[test]
fn files_that_documents_name_are_there() {
    let mut named = 0;
    for name in DOCUMENTS {
        let text = document(name);
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        for word in quoted.flat_map(str::split_whitespace) {
            let path = word.split(':').next().unwrap();
            let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let folder = path.split_once('/').map_or("", |(folder, _)| folder);
            if FOLDERS.contains(&folder) && path.chars().all(is_path) {
                assert!(root().join(path).exists(), "{name}: there is no {path}");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named} files are named");
}

#[test]
fn flags_that_documents_give_to_a_command_are_its_own() {
    let mut helps = BTreeMap::new();
    let mut given = 0;
    for name in DOCUMENTS {
        let text = document(name).replace("\\\n", " ");
        for line in text.lines() {
            for (at, _) in line.match_indices("ingot ") {
                let said = line[at..].split(['`', '#']).next().unwrap();
                let mut words = said.split_whitespace().skip(1);
                let command = words.next().unwrap_or_default();
                if !["build", "run", "eval", "bench", "inspect", "opt"].contains(&command) {
                    continue;
                }
                let help = helps.entry(command.to_string()).or_insert_with(|| {
                    let help = printed(&["help", command]);
                    help.split_whitespace().map(|w| w.trim_end_matches(',').to_string()).collect()
                });
                let known: &Vec<String> = help;
                for flag in words.filter(|word| word.starts_with("--")) {
                    assert!(known.iter().any(|w| w == flag), "{name}: {command} has no {flag}");
                    given += 1;
                }
            }
        }
    }
    assert!(given > 20, "{given} flags are given");
}
