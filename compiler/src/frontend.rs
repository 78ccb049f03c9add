//! From a checkpoint to a module: which files there are, what they say, and the IR that follows.
//!
//! ```text
//! safetensors ─┐             ┌─ config ── names ── check ── lower ─→ ir::Module
//!              ├─ store ─────┤
//! gguf ────────┘             └─ tokenizer
//! ```

mod check;
pub mod config;
pub mod gguf;
pub mod json;
mod lower;
pub(crate) mod map;
mod names;
mod rotations;
mod safetensors;
mod store;

pub use config::Config;
pub use rotations::add_rotations;
pub use safetensors::add as add_tensors;
pub use store::{BlobSource, Stored};

use crate::Error;
use crate::tokenizer::Tokenizer;
use names::Naming;
use std::fmt;
use std::path::{Path, PathBuf};

/// A model as its author published it.
pub struct Checkpoint {
    /// The path it was opened from.
    pub path: PathBuf,
    /// Hyper-parameters.
    pub config: Config,
    /// The model in IR, every weight a reference into `blobs`.
    pub module: ir::Module,
    /// Text to tokens and back, if the checkpoint has it.
    pub tokenizer: Option<Tokenizer>,
    /// The numbers.
    pub blobs: BlobSource,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Opens a model: a directory in Hugging Face layout, or a `.gguf` file.
pub fn open(path: &Path) -> Result<Checkpoint, Error> {
    if path.is_dir() {
        return open_directory(path);
    }
    let file = map::Mapped::open(path)?;
    if file.bytes().starts_with(b"GGUF") {
        return open_gguf(path, file);
    }
    let error = Error::new("IG0102", "the file is no GGUF model").file(path);
    Err(match path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
        true => error.help("name the directory that holds config.json and model.safetensors"),
        false => error.help("a model is a directory in Hugging Face layout or a .gguf file"),
    })
}

/// Opens the tokenizer of a model alone: without its weights, and for a `.gguf` file whatever the
/// model's architecture.
pub fn open_tokenizer(path: &Path) -> Result<Option<Tokenizer>, Error> {
    if path.is_dir() {
        return Tokenizer::from_directory(path, &config::hf::read(path)?.ids());
    }
    let file = map::Mapped::open(path)?;
    if !file.bytes().starts_with(b"GGUF") {
        return Ok(open(path)?.tokenizer);
    }
    let (metadata, _) = gguf::open(file)?;
    Tokenizer::from_gguf(&metadata, &config::gguf::ids(&metadata)?)
}

fn open_directory(dir: &Path) -> Result<Checkpoint, Error> {
    if !dir.join("config.json").exists() {
        let error = Error::new("IG0102", "the directory has no config.json").file(dir);
        return Err(error.help("a model directory holds config.json and model.safetensors"));
    }
    let config = config::hf::read(dir)?;
    let blobs = safetensors::open(dir)?;
    check::tensors(&blobs, &config, Naming::HuggingFace)?;
    let tokenizer = Tokenizer::from_directory(dir, &config.ids())?;
    let module = lower::lower(&config, Naming::HuggingFace);
    Ok(Checkpoint { path: dir.to_path_buf(), config, module, tokenizer, blobs })
}

fn open_gguf(path: &Path, file: map::Mapped) -> Result<Checkpoint, Error> {
    let (metadata, blobs) = gguf::open(file)?;
    let config = config::gguf::read(&metadata, &blobs)?;
    check::tensors(&blobs, &config, Naming::Gguf)?;
    let tokenizer = Tokenizer::from_gguf(&metadata, &config.ids())?;
    let module = lower::lower(&config, Naming::Gguf);
    Ok(Checkpoint { path: path.to_path_buf(), config, module, tokenizer, blobs })
}
