//! What the tests of this crate share: models, builds, machines that run C programs, references.

pub mod codec;
pub mod image;
pub mod lab;
pub mod machine;
pub mod model;
pub mod reference;
pub mod said;
pub mod terminal;
pub mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Data beside the project, which it does not carry; `None`, and said so, where there is none.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!("no {}", path.display()));
    None
}

/// Says what a test leaves out; seen although the test passes.
pub fn skipped(why: &str) {
    // Not eprintln!, which the test harness keeps to itself.
    let written = writeln!(std::io::stderr(), "skipped: {why}");
    written.expect("standard error takes a line");
}

/// Says that something which every test machine can have is missing here; in CI it must be there.
pub fn lacking(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "missing: {what}; scripts/test installs it");
    skipped(&format!("{what} is missing; scripts/test installs it"));
}

/// An empty folder beside the test's program, gone when dropped.
pub fn folder() -> tempfile::TempDir {
    // Not the system's own place, which may be memory: libraries of models are large.
    let parent = std::env::current_exe().expect("a test is a program");
    tempfile::tempdir_in(parent.parent().expect("in a folder")).expect("a folder can be made")
}
