//! `ingot build`: the files of a library.
//!
//! Everything is written beside its place first and moved there at the end, so a build that fails or
//! is interrupted leaves nothing behind.

mod files;
mod memory;
mod report;
mod scratch;
mod write;

pub use memory::Region;
pub use report::build_and_report;
pub use scratch::clean_up_on_signals;
pub use write::pack_error;

use crate::Error;
use crate::model::{Model, prepare};
use crate::options::ModelFlags;
use crate::text::Known;
use clap::{Args, ValueEnum};
use runtime::header::{HeaderFacts, check_name};
use runtime::{Library, Options};
use std::path::{Path, PathBuf};
use targets::Target;
use targets::object::{self, Sizes};
use write::{Parts, write};

const EXAMPLES: &str = "\
Examples:
  ingot build SmolLM2-135M -o out --name smol
  ingot build model.gguf -o out --target aarch64-unknown-none -C target-cpu=cortex-a55 -v";

/// Flags of `build`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BuildFlags {
    /// The model and its code
    #[command(flatten)]
    pub model: ModelFlags,
    /// Folder to write into
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Prefix of every symbol and file [default: from the model's name]
    #[arg(long)]
    pub name: Option<String>,
    /// What to write, with commas between
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["lib", "header"])]
    pub emit: Vec<Emit>,
    /// Weights in the library, or in a file of their own
    #[arg(long, value_enum, default_value_t = Weights::Embed)]
    pub weights: Weights,
    /// Memory that the library must fit, such as flash:128M,ro and ram:32M; may be repeated
    #[arg(long, value_name = "NAME:SIZE[,ro]")]
    pub mem: Vec<Region>,
    /// Say how large everything is, also where standard error is no terminal
    #[arg(short, long)]
    pub verbose: bool,
    /// Print files and sizes as JSON
    #[arg(long)]
    pub json: bool,
}

/// Kinds of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// libNAME.a, or NAME.lib
    Lib,
    /// NAME.h
    Header,
    /// NAME.o, or NAME.obj
    Obj,
    /// NAME.weights
    Weights,
    /// NAME.ingot, the IR after all passes
    Ir,
    /// NAME.recipe.toml, the format of every matrix, for --recipe
    Recipe,
    /// NAME.clif, Cranelift's IR of every function
    Clif,
    /// NAME.s, machine code as text
    Asm,
    /// NAME.hpp, the interface in C++17
    Cpp,
    /// NAME-config.cmake, for find_package(NAME)
    Cmake,
    /// NAME.pc, for pkg-config
    Pkgconfig,
    /// NAME-sys, a Rust crate
    Cargo,
    /// NAME.memory-map, where everything goes and how large it is
    MemoryMap,
}

/// Where weights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// Into the library
    Embed,
    /// Into NAME.weights; the program gives their address
    External,
}

/// A library that was written.
pub struct Built {
    /// Files, in the order written.
    pub files: Vec<PathBuf>,
    /// What was emitted.
    pub library: Library,
    /// Code and tables.
    pub sizes: Sizes,
    /// The target.
    pub target: Target,
    /// What the checkpoint has and the library lacks.
    pub warnings: Vec<String>,
}

/// Builds a library.
pub fn build(flags: &BuildFlags) -> Result<Built, Error> {
    let name = name(flags)?;
    memory::check_names(&flags.mem)?;
    let target = flags.model.target()?;
    let max_workers = flags.model.codegen()?.max_workers;
    let model = prepare(&flags.model)?;
    let has = |kind| flags.emit.contains(&kind);
    let options = Options {
        name: name.clone(),
        chunk: flags.model.prefill_chunk.min(model.module.meta.context),
        max_workers,
        variants: flags.model.variants()?,
        embed: flags.weights == Weights::Embed,
        check_hash: true,
        keep_text: has(Emit::Clif) || has(Emit::Asm),
        profile: false,
        observer: None,
    };
    let known = model.tokenizer.as_ref().map(Known::new);
    let text = known.as_ref().map(|known| &known.text);
    let mut sink = object::module(&target, &name);
    let emitted = runtime::emit(&mut sink, &target, &model.module, text, &options);
    let library = emitted.map_err(|e| Error::new("IG0503", e.to_string()))?;
    let product = sink.finish();
    let sizes = object::sizes(&product, library.hash.is_some())
        .map_err(|e| Error::new("IG0503", e.to_string()))?;
    memory::check(&library, sizes, &flags.mem)?;
    let facts = facts(&name, &model, &known, &library, &target, &options);
    let parts =
        Parts { flags, model: &model, library: &library, sizes, facts: &facts, target: &target };
    let files = write(&parts, product)?;
    let warnings = match &known {
        Some(known) => known.warnings(),
        None => vec!["the library has no text: the checkpoint has no tokenizer".into()],
    };
    Ok(Built { files, library, sizes, target, warnings })
}

fn name(flags: &BuildFlags) -> Result<String, Error> {
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => default_name(&flags.model.model),
    };
    check_name(&name).map_err(|e| usage_name(&e))?;
    Ok(name)
}

fn usage_name(e: &runtime::header::NameError) -> Error {
    Error::new("IG0401", e.to_string()).help("choose one with --name, as in --name smol")
}

/// The model's file name in lower case, everything but letters and digits an underscore.
fn default_name(model: &Path) -> String {
    let model = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
    let stem = if model.is_dir() { model.file_name() } else { model.file_stem() };
    let stem = stem.unwrap_or_default().to_string_lossy().to_lowercase();
    let words = stem.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    let name = words.collect::<Vec<_>>().join("_");
    if name.starts_with(|c: char| c.is_ascii_lowercase()) { name } else { format!("model_{name}") }
}

fn facts(
    name: &str,
    model: &Model,
    known: &Option<Known>,
    library: &Library,
    target: &Target,
    options: &Options,
) -> HeaderFacts {
    let meta = &model.module.meta;
    let end_of_turn = known.as_ref().and_then(|known| known.end_of_turn);
    let warnings = known.iter().flat_map(Known::warnings).map(|why| ("text".to_string(), why));
    let architecture = ("architecture".to_string(), meta.arch.clone());
    let tokenizer = model.tokenizer.as_ref();
    HeaderFacts {
        name: name.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        triple: target.name.clone(),
        cpu: match &options.variants[..] {
            [] => target.cpu.clone(),
            several => several.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or "),
        },
        features: match &options.variants[..] {
            [] => target.features.iter().map(ToString::to_string).collect(),
            _ => vec![],
        },
        notes: std::iter::once(architecture).chain(warnings).collect(),
        identity: library.state.identity,
        vocab: meta.vocab,
        context: meta.context,
        bos: meta.bos,
        eos: stops(&meta.eos, end_of_turn),
        weights_bytes: library.weights.bytes,
        state_bytes: library.state.bytes,
        scratch_bytes: library.scratch_bytes,
        stack_bytes: library.stack_bytes,
        max_workers: options.max_workers as u32,
        prefill_chunk: options.chunk as u32,
        weights_external: !options.embed,
        add_bos: tokenizer.is_some_and(|tokenizer| tokenizer.settings.add_bos),
        has_encode: known.as_ref().is_some_and(|known| known.text.encoder.is_some()),
        has_chat: known.as_ref().is_some_and(|known| !known.text.turns.is_empty()),
    }
}

/// Tokens that end an answer: those of the model, and the chat template's own.
pub fn stops(eos: &[u32], end_of_turn: Option<u32>) -> Vec<u32> {
    let own = end_of_turn.filter(|token| !eos.contains(token));
    eos.iter().copied().chain(own).collect()
}
