//! `ingot explain`, `ingot targets`, `ingot passes`: the tables of the compiler, for reading.

use crate::error::{CODES, explain as row_of};
use crate::{Error, output};
use clap::Args;
use passes::{ORDER, PASSES};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use targets::target::{TRIPLES, VARIANTS, cpus};
use targets::{Arch, Target};

/// Flags of `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainFlags {
    /// A code, as in IG0207; all of them if left out
    pub code: Option<String>,
}

/// Flags of commands that only print a table.
#[derive(Args, Clone, Debug)]
pub struct TableFlags {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Width of what is printed, in characters.
const COLUMNS: usize = 80;

/// Runs `ingot explain`.
pub fn explain(flags: &ExplainFlags) -> Result<(), Error> {
    let Some(code) = &flags.code else {
        let rows: Vec<(&str, String)> =
            CODES.iter().map(|row| (row.code, sentence(row.text).into())).collect();
        return output::print(&output::pairs(&rows));
    };
    match row_of(code) {
        Some(row) => {
            output::print(&format!("{}\n", wrap(&format!("{}: {}", row.code, row.text), 0)))
        }
        None => Err(Error::new("IG0401", format!("no error code `{code}`"))
            .help("`ingot explain` lists them")),
    }
}

/// Up to the first full stop, colon or semicolon.
fn sentence(text: &str) -> &str {
    let ends = [". ", ": ", "; "].iter().filter_map(|end| text.find(end));
    text[..ends.min().unwrap_or(text.len())].trim_end_matches('.')
}

/// Lines of at most `COLUMNS`; all but the first are indented.
fn wrap(text: &str, indent: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), 0);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column == 0 {
            column = width;
        } else if column + 1 + width <= COLUMNS {
            wrapped.push(' ');
            column += 1 + width;
        } else {
            wrapped.push_str(&format!("\n{:indent$}", ""));
            column = indent + width;
        }
        wrapped.push_str(word);
    }
    wrapped
}

/// Instruction sets, each with a triple of it.
const ARCHITECTURES: [(Arch, &str); 3] = [
    (Arch::X64, "x86_64-unknown-none"),
    (Arch::A64, "aarch64-unknown-none"),
    (Arch::R64, "riscv64gc-unknown-none-elf"),
];

/// Runs `ingot targets`.
pub fn targets(flags: &TableFlags) -> Result<(), Error> {
    let host = targets::target::host_triple();
    let native = Target::native().ok();
    if flags.json {
        let described = ARCHITECTURES.iter().map(|&(arch, triple)| {
            let cpus: Map<String, Value> = cpu_features(arch, triple)
                .into_iter()
                .map(|(cpu, features)| (cpu.into(), json!(features)))
                .collect();
            (arch.name().to_string(), Value::from(cpus))
        });
        return output::json(&json!({
            "triples": TRIPLES.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "host": host,
            "native": native.map(|target| target.features),
            "cpus": described.collect::<Map<_, _>>(),
        }));
    }
    let mut text = String::from("Triples, for --target:\n");
    TRIPLES.iter().for_each(|(name, _)| text += &format!("  {name}\n"));
    text += &format!("\nThis machine is {host}; here -C target-cpu=native means\n  ");
    text += &native.map_or("nothing: it is no target".into(), |t| wrap(&joined(&t.features), 2));
    for (arch, triple) in ARCHITECTURES {
        let name = arch.name();
        text += &format!("\n\nCPUs of {name} and their features, the baseline first:");
        for (cpu, features) in cpu_features(arch, triple) {
            text += &format!("\n  {}", wrap(&format!("{cpu}: {}", joined(&features)), 6));
        }
    }
    text += "\n\nKinds of x86-64 kernels that one library may hold, for -C variants:";
    for (name, cpu, features) in VARIANTS {
        text += &format!("\n  {name}: {cpu} {features}");
    }
    output::print(&(text + "\n"))
}

fn cpu_features(arch: Arch, triple: &str) -> Vec<(&'static str, BTreeSet<&'static str>)> {
    let features = |cpu| Target::new(triple, Some(cpu), "").map(|t| t.features).unwrap_or_default();
    cpus(arch).map(|cpu| (cpu, features(cpu))).collect()
}

fn joined(features: &BTreeSet<&str>) -> String {
    match features.is_empty() {
        true => "none".into(),
        false => features.iter().copied().collect::<Vec<_>>().join(" "),
    }
}

/// Runs `ingot passes`.
pub fn passes(flags: &TableFlags) -> Result<(), Error> {
    if flags.json {
        let pass = |pass: &passes::Pass| json!({ "name": pass.name, "what": pass.what });
        let order = |o: &(&str, &str, &str)| json!({ "before": o.0, "after": o.1, "why": o.2 });
        return output::json(&json!({
            "passes": PASSES.iter().map(pass).collect::<Vec<_>>(),
            "order": ORDER.iter().map(order).collect::<Vec<_>>(),
        }));
    }
    let rows: Vec<(&str, String)> = PASSES.iter().map(|p| (p.name, p.what.into())).collect();
    let mut text = format!("{}\nThe order, because\n", output::pairs(&rows));
    for (before, after, why) in ORDER {
        text += &format!("  {}\n", wrap(&format!("{before} before {after}: {why}"), 6));
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped() {
        let text = wrap(&"word ".repeat(40), 4);
        assert!(text.lines().all(|line| line.len() <= COLUMNS));
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word")));
    }

    #[test]
    fn every_code_has_a_headline() {
        for row in CODES {
            let headline = sentence(row.text);
            assert!((10..200).contains(&headline.len()), "{}: {headline}", row.code);
        }
    }
}
