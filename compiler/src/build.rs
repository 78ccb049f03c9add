//! `ingot build`: the files of a library.
//!
//! Everything is written beside its place first and moved there at the end, so a failed build
//! leaves nothing behind.

mod files;
mod memory;
mod report;

pub use memory::Region;
pub use report::build_and_report;

use crate::Error;
use crate::model::{Model, prepare};
use crate::options::ModelFlags;
use crate::progress;
use crate::recipe;
use crate::text::Known;
use clap::{Args, ValueEnum};
use files::{Files, cannot_write};
use memmap2::{Mmap, UncheckedAdvice};
use passes::select::Recipe;
use runtime::header::{HeaderFacts, check_name, header};
use runtime::{Library, Options, packages};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use targets::pack::PackError;
use targets::{Target, archive, object};
use tempfile::NamedTempFile;

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
    /// What to write
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
    memory::check(&library, &flags.mem)?;
    let mut files = Files::new(&flags.output)?;

    let external = flags.weights == Weights::External;
    let in_code = options.embed && (has(Emit::Lib) || has(Emit::Obj));
    let weights_file = (in_code || external || has(Emit::Weights))
        .then(|| write_weights(&files, &model, &library))
        .transpose()?;
    let (weights_file, hash) = weights_file.unzip();
    let product = sink.finish();
    let object_file = (has(Emit::Lib) || has(Emit::Obj))
        .then(|| write_object(&files, product, &library, weights_file.as_ref(), hash))
        .transpose()?;
    if let (Some(file), true) = (&object_file, has(Emit::Lib)) {
        let to = target.library_file(&name);
        files.add(&to, |to| write_library(to, file, &name, &library, &target))?;
    }
    if let (Some(file), true) = (object_file, has(Emit::Obj)) {
        files.keep(&format!("{name}.{}", target.object_extension()), file);
    }
    let facts = facts(&name, &model, &known, &library, &target, &options);
    if has(Emit::Header) {
        files.text(&format!("{name}.h"), &header(&facts).map_err(|e| usage_name(&e))?)?;
    }
    write_packages(&mut files, flags, &facts, &target)?;
    if let (Some(file), true) = (weights_file, external || has(Emit::Weights)) {
        files.keep(&format!("{name}.weights"), file);
    }
    write_texts(&mut files, flags, &name, &model, &library)?;
    let warnings = known.iter().flat_map(Known::warnings).collect();
    Ok(Built { files: files.finish()?, library, target, warnings })
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

/// Packed weights, and their hash, which is in them too.
fn write_weights(
    files: &Files,
    model: &Model,
    library: &Library,
) -> Result<(NamedTempFile, u64), Error> {
    let file = files.temporary()?;
    let bar = progress::bytes("packing weights", library.weights.bytes);
    let mut to = BufWriter::with_capacity(1 << 20, file.as_file());
    let written =
        library.weights.write(&model.module, &model.blobs, &mut to, &|n| bar.set_position(n));
    bar.finish_and_clear();
    written.map_err(|e| match e {
        PackError::Io(e) => cannot_write(files.dir, &e),
        PackError::Blob(_) => pack_error(e, &model.path),
    })?;
    to.flush().map_err(|e| cannot_write(files.dir, &e))?;
    drop(to);
    let hash = add_hash(file.as_file()).map_err(|e| cannot_write(files.dir, &e))?;
    Ok((file, hash))
}

fn add_hash(mut file: &File) -> io::Result<u64> {
    // SAFETY: the file is ours alone and is not written while it is mapped.
    let hash = targets::pack::hash(&unsafe { Mmap::map(file) }?);
    file.seek(SeekFrom::Start(targets::pack::HASH_AT))?;
    file.write_all(&hash.to_le_bytes())?;
    Ok(hash)
}

/// What packing reports, placed at the model.
pub fn pack_error(e: PackError, model: &Path) -> Error {
    match e {
        PackError::Blob(e) => Error::from(e).file(model),
        PackError::Io(e) => Error::new("IG0601", "cannot write the weights").note(e.to_string()),
    }
}

fn write_object(
    files: &Files,
    product: object::ObjectProduct,
    library: &Library,
    weights: Option<&NamedTempFile>,
    hash: Option<u64>,
) -> Result<NamedTempFile, Error> {
    let file = files.temporary()?;
    let map = match (library.embedded, weights) {
        (Some(id), Some(weights)) => {
            // SAFETY: the file is ours alone and is not written again.
            let map = unsafe { Mmap::map(weights.as_file()) };
            Some((id, map.map_err(|e| cannot_write(files.dir, &e))?))
        }
        _ => None,
    };
    let mut sink = Releasing {
        to: BufWriter::with_capacity(1 << 20, file.as_file()),
        map: map.as_ref().map(|(_, map)| map),
    };
    let weights = map.as_ref().map(|(id, map)| (*id, &map[..]));
    object::write(product, weights, library.hash.zip(hash), &mut sink)
        .and_then(|()| sink.flush())
        .map_err(|e| cannot_write(files.dir, &e))?;
    drop(sink);
    Ok(file)
}

/// Bytes that are written and released at a time.
const RELEASE_BYTES: usize = 16 << 20;

/// A sink that gives the pages of a mapping back once they are written, so that an object with a
/// gigabyte of weights does not need a gigabyte of memory.
struct Releasing<'f> {
    to: BufWriter<&'f File>,
    map: Option<&'f Mmap>,
}

impl Write for Releasing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(RELEASE_BYTES)];
        self.to.write_all(bytes)?;
        if let Some(map) = self.map {
            let start = (bytes.as_ptr() as usize).wrapping_sub(map.as_ptr() as usize);
            if bytes.len() == RELEASE_BYTES && start < map.len() {
                // SAFETY: the mapping is read-only and backed by its file: dropped pages come back
                // with the same bytes. Advice that is refused costs memory only.
                let _ = unsafe {
                    map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes.len())
                };
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn write_library(
    to: &mut BufWriter<&File>,
    object_file: &NamedTempFile,
    name: &str,
    library: &Library,
    target: &Target,
) -> io::Result<()> {
    let prefix = target.symbol_prefix();
    let symbol = |export: &str| format!("{prefix}{name}_{export}");
    let symbols: Vec<String> = library.exports.iter().map(|(export, _)| symbol(export)).collect();
    // The name of an archive's member has 15 bytes at most; ours are ASCII.
    let member = format!("{}.{}", &name[..name.len().min(11)], target.object_extension());
    archive::write(to, target.archive(), &member, &symbols, |to| {
        io::copy(&mut object_file.reopen()?, to).map(|_| ())
    })
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

fn write_packages(
    files: &mut Files,
    flags: &BuildFlags,
    facts: &HeaderFacts,
    target: &Target,
) -> Result<(), Error> {
    let name = &facts.name;
    for kind in &flags.emit {
        match kind {
            Emit::Cpp => {
                let text = packages::cpp(facts).map_err(|e| usage_name(&e))?;
                files.text(&format!("{name}.hpp"), &text)?;
            }
            Emit::Cmake => {
                let text = packages::cmake(facts, &target.library_file(name));
                files.text(&format!("{name}-config.cmake"), &text)?;
            }
            Emit::Pkgconfig => files.text(&format!("{name}.pc"), &packages::pkgconfig(facts))?,
            Emit::Cargo => {
                packages::cargo(facts).iter().try_for_each(|(path, text)| files.text(path, text))?
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_texts(
    files: &mut Files,
    flags: &BuildFlags,
    name: &str,
    model: &Model,
    library: &Library,
) -> Result<(), Error> {
    for kind in &flags.emit {
        match kind {
            Emit::Ir => {
                let text = model.module.to_string();
                files.text(&format!("{name}.ingot"), &text)?;
            }
            Emit::Recipe => {
                let text = recipe::write(&Recipe::resolved(&model.module));
                files.text(&format!("{name}.recipe.toml"), &text)?;
            }
            Emit::Clif => files.add(&format!("{name}.clif"), |to| {
                let clif = library.listings.iter().filter(|l| !l.clif.is_empty());
                clif.clone().try_for_each(|l| writeln!(to, "; {}\n{}", l.name, l.clif))
            })?,
            Emit::Asm => files.add(&format!("{name}.s"), |to| {
                library.listings.iter().try_for_each(|l| writeln!(to, "{}:\n{}", l.name, l.asm))
            })?,
            Emit::MemoryMap => {
                let text = memory::map(&model.module, library, &flags.mem);
                files.text(&format!("{name}.memory-map"), &text)?;
            }
            _ => {}
        }
    }
    Ok(())
}
