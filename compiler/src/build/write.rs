//! The files of a library, written.

use super::files::{Files, cannot_write};
use super::{BuildFlags, Emit, Weights, memory, usage_name};
use crate::Error;
use crate::model::Model;
use crate::{progress, recipe};
use memmap2::{Mmap, UncheckedAdvice};
use passes::select::Recipe;
use runtime::header::{HeaderFacts, header};
use runtime::{Library, packages};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use targets::pack::PackError;
use targets::{Target, archive, object};
use tempfile::NamedTempFile;

/// What the files of a build are made of.
pub(super) struct Parts<'p> {
    pub flags: &'p BuildFlags,
    pub model: &'p Model,
    pub library: &'p Library,
    pub sizes: object::Sizes,
    pub facts: &'p HeaderFacts,
    pub target: &'p Target,
}

/// Writes all files that were asked for, or none; their paths.
pub(super) fn write(
    parts: &Parts<'_>,
    product: object::ObjectProduct,
) -> Result<Vec<PathBuf>, Error> {
    let Parts { flags, library, facts, target, .. } = *parts;
    let (has, name) = (|kind| flags.emit.contains(&kind), &facts.name);
    let mut files = Files::new(&flags.output)?;
    let external = flags.weights == Weights::External;
    let code = has(Emit::Lib) || has(Emit::Obj);
    let weights_file = (code || external || has(Emit::Weights))
        .then(|| write_weights(&files, parts.model, library))
        .transpose()?;
    let (weights_file, hash) = weights_file.unzip();
    let object_file = code
        .then(|| write_object(&files, product, library, weights_file.as_ref(), hash))
        .transpose()?;
    if let (Some(file), true) = (&object_file, has(Emit::Lib)) {
        let to = target.library_file(name);
        files.add(&to, |to| write_library(to, file, name, library, target))?;
    }
    if let (Some(file), true) = (object_file, has(Emit::Obj)) {
        files.keep(&format!("{name}.{}", target.object_extension()), file);
    }
    if has(Emit::Header) {
        files.text(&format!("{name}.h"), &header(facts).map_err(|e| usage_name(&e))?)?;
    }
    write_packages(&mut files, parts)?;
    if let (Some(file), true) = (weights_file, external || has(Emit::Weights)) {
        files.keep(&format!("{name}.weights"), file);
    }
    write_texts(&mut files, parts)?;
    files.finish()
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

fn write_packages(files: &mut Files, parts: &Parts<'_>) -> Result<(), Error> {
    let Parts { flags, facts, target, .. } = *parts;
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

fn write_texts(files: &mut Files, parts: &Parts<'_>) -> Result<(), Error> {
    let Parts { flags, model, library, .. } = *parts;
    let name = &parts.facts.name;
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
                let text = memory::map(&model.module, library, parts.sizes, &flags.mem);
                files.text(&format!("{name}.memory-map"), &text)?;
            }
            _ => {}
        }
    }
    Ok(())
}
