//! Models that tests run on, and builds of them, asked for as on the command line.

use crate::{root, skipped};
use clap::Parser;
use ingot::build::{BuildFlags, Built, build as build_library};
use ir::Module;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The models that ship with the project.
pub const SHIPPED: [&str; 2] =
    ["examples/models/shakespeare", "examples/models/shakespeare-shared"];

#[derive(Parser)]
struct Build {
    #[command(flatten)]
    flags: BuildFlags,
}

/// Flags of `ingot build`; `line` is split at spaces.
pub fn flags(model: &Path, output: &Path, line: &str) -> BuildFlags {
    let start = ["build".as_ref(), model.as_os_str(), "-o".as_ref(), output.as_os_str()];
    let words = start.into_iter().chain(line.split_whitespace().map(AsRef::as_ref));
    Build::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}")).flags
}

/// `ingot build MODEL -o OUTPUT LINE`.
pub fn build(model: &Path, output: &Path, line: &str) -> Built {
    build_library(&flags(model, output, line)).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// A model that ships with the project.
pub fn shipped(name: &str) -> PathBuf {
    root().join(name)
}

/// SmolLM2-135M, fetched unless it is there; `None`, and said so, where it cannot be had.
pub fn smollm2() -> Option<PathBuf> {
    // Tests that run at the same time wait for one download.
    static FETCHED: OnceLock<Option<PathBuf>> = OnceLock::new();
    FETCHED.get_or_init(fetch_smollm2).clone()
}

fn fetch_smollm2() -> Option<PathBuf> {
    let output = Command::new(root().join("scripts/fetch-smollm2")).output();
    let output = output.expect("scripts/fetch-smollm2 starts");
    if output.status.success() {
        return Some(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    skipped(&format!("no SmolLM2: {}", why.trim().lines().last().unwrap_or("unknown why")));
    None
}

/// A prompt of `n` tokens.
pub fn tokens(module: &Module, n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 11) % module.meta.vocab as u32).collect()
}

/// Largest difference, relative to the largest expected value.
pub fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
}
