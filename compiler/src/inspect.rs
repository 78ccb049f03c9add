//! `ingot inspect`: what is in a file, whichever kind of ours it is.

mod checkpoint;
mod library;
mod text;
mod weights;

use crate::frontend::map::Mapped;
use crate::{Error, output};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  ingot inspect model.gguf
  ingot inspect out/libsmol.a --json";

/// Flags of `inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InspectFlags {
    /// Checkpoint (directory or .gguf), IR text (.ingot), library (.a, .o) or packed weights
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was found: for people, and for programs.
struct Found {
    text: String,
    json: Value,
}

/// Runs `ingot inspect`.
pub fn inspect(flags: &InspectFlags) -> Result<(), Error> {
    let found = found(&flags.file)?;
    match flags.json {
        true => output::json(&found.json),
        false => output::print(&found.text),
    }
}

/// What objects begin with: ELF, Mach-O of 64 bits, COFF of x86-64.
const OBJECTS: [&[u8]; 3] = [b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\x64\x86"];

fn found(path: &Path) -> Result<Found, Error> {
    if path.is_dir() {
        return checkpoint::inspect(path);
    }
    if path.extension().is_some_and(|e| e == "ingot") {
        return text::inspect(path);
    }
    let file = Mapped::open(path)?;
    match file.bytes() {
        b if b.starts_with(b"GGUF") => checkpoint::inspect(path),
        b if b.starts_with(b"!<arch>\n") => library::archive(path, b),
        b if OBJECTS.iter().any(|magic| b.starts_with(magic)) => library::object(path, b),
        b if b.starts_with(&targets::pack::MAGIC) => weights::inspect(path, b),
        _ => Err(Error::new("IG0109", "unknown kind of file").file(path).help(
            "known are checkpoints (a directory or .gguf), .ingot, .a, .o and packed weights",
        )),
    }
}
