//! A model made ready: checkpoint opened, pipeline run, every flag that shapes it applied.

use crate::Error;
use crate::calib::{self, Rounded};
use crate::frontend::{self, BlobSource};
use crate::options::{DumpFlags, ModelFlags};
use crate::tokenizer::Tokenizer;
use ir::quant::Quantised;
use ir::{BlobError, Blobs, Module, Tensor};
use std::path::{Path, PathBuf};

/// Positions of a conversation unless the user says otherwise.
const DEFAULT_CONTEXT: u64 = 2048;

/// A model, ready for code generation.
pub struct Model {
    /// The verified module after all passes.
    pub module: Module,
    /// Where its weights come from.
    pub blobs: Source,
    /// Text to tokens and back.
    pub tokenizer: Option<Tokenizer>,
    /// The path the user gave.
    pub path: PathBuf,
}

/// A checkpoint, and what was made of it with statistics.
pub struct Source {
    /// The checkpoint.
    pub checkpoint: BlobSource,
    /// Integers of weights whose history needs statistics.
    pub rounded: Rounded,
}

impl Blobs for Source {
    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        self.checkpoint.load(blob)
    }

    fn rounded(&self, weight: &str) -> Option<Quantised> {
        self.rounded.get(weight).cloned()
    }
}

/// Opens a model and runs the pipeline as the flags say.
pub fn prepare(flags: &ModelFlags) -> Result<Model, Error> {
    let (mut module, checkpoint, tokenizer) = open(flags)?;
    set_context(&mut module, flags)?;
    check_chunk(flags)?;
    let context = flags.context();
    let all: Vec<&passes::Pass> = passes::PASSES.iter().collect();
    pipeline(&mut module, &all, &context, &flags.dump)?;
    let blobs = Source { checkpoint, rounded: Rounded::new() };
    let mut model = Model { module, blobs, tokenizer, path: flags.model.clone() };
    model.blobs.rounded = calib::rounded(flags, &model)?;
    Ok(model)
}

/// Runs passes over a verified module and dumps it as the flags say.
pub fn pipeline(
    module: &mut Module,
    chosen: &[&passes::Pass],
    context: &passes::Context,
    flags: &DumpFlags,
) -> Result<(), Error> {
    check_names(flags)?;
    let mut dumps = Dumps { flags, count: 0 };
    dumps.after("import", module, true)?;
    let mut failed = None;
    passes::run(module, chosen, context, &mut |step| {
        let dumped = match step {
            passes::Seen::Before(pass, module) => dumps.before(pass.name, module),
            passes::Seen::After(pass, module, changed) => dumps.after(pass.name, module, changed),
        };
        failed = failed.take().or(dumped.err());
    })
    .map_err(|e| Error::new("IG0501", e.to_string()))?;
    failed.map_or(Ok(()), Err)
}

fn open(flags: &ModelFlags) -> Result<(Module, BlobSource, Option<Tokenizer>), Error> {
    if !flags.is_text() {
        if flags.blobs.is_some() {
            return Err(Error::new("IG0401", "--blobs is for .ingot models only"));
        }
        let checkpoint = frontend::open(&flags.model)?;
        return Ok((checkpoint.module, checkpoint.blobs, checkpoint.tokenizer));
    }
    let Some(source) = &flags.blobs else {
        return Err(Error::new("IG0401", "an .ingot file holds no weights")
            .help("name the checkpoint that has them: --blobs MODEL"));
    };
    let checkpoint = frontend::open(source)?;
    let module = read_text(&flags.model)?;
    for weight in &module.weights {
        if checkpoint.blobs.get(&weight.blob).is_none() {
            return Err(Error::new("IG0502", "a weight's blob is not in the checkpoint")
                .file(&flags.model)
                .at(format!("${}", weight.name))
                .note(format!("\"{}\" is not in {}", weight.blob, source.display())));
        }
    }
    Ok((module, checkpoint.blobs, checkpoint.tokenizer))
}

/// Reads and verifies IR text.
pub fn read_text(path: &Path) -> Result<Module, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::new("IG0101", "cannot read the file").file(path).note(e.to_string()))?;
    let (module, lines) = ir::parse_with_lines(&text).map_err(|e| {
        Error::new("IG0502", e.what.clone()).file(path).at(format!("{}:{}", e.line, e.column))
    })?;
    match ir::verify(&module) {
        Ok(()) => Ok(module),
        Err(violations) => {
            let mut error = Error::new("IG0502", "the module breaks rules of the IR").file(path);
            for violation in &violations {
                error = error.note(violation.in_text(&lines));
            }
            Err(error.help("the rules are in ir/README.md"))
        }
    }
}

fn set_context(module: &mut Module, flags: &ModelFlags) -> Result<(), Error> {
    let most = module.meta.context;
    let wanted = flags.context.unwrap_or(most.min(DEFAULT_CONTEXT));
    if wanted == 0 || wanted > most {
        return Err(Error::new("IG0401", format!("--context {wanted}"))
            .note(format!("expected a number from 1 to {most}, the model's own")));
    }
    module.meta.context = wanted;
    Ok(())
}

fn check_chunk(flags: &ModelFlags) -> Result<(), Error> {
    if (1..=4096).contains(&flags.prefill_chunk) {
        return Ok(());
    }
    Err(Error::new("IG0401", format!("--prefill-chunk {}", flags.prefill_chunk))
        .note("expected a number from 1 to 4096"))
}

/// Names of passes that dumps may ask for.
fn check_names(flags: &DumpFlags) -> Result<(), Error> {
    let known: Vec<&str> = ["import", "all", "changed"]
        .into_iter()
        .chain(passes::PASSES.iter().map(|p| p.name))
        .collect();
    for name in flags.dump_after.iter().chain(&flags.dump_before) {
        if !known.contains(&name.as_str()) {
            return Err(Error::new("IG0401", format!("no pass `{name}` to dump"))
                .help(format!("known: {}", known.join(", "))));
        }
    }
    Ok(())
}

/// Writes dumps: to standard error, or numbered into a folder.
struct Dumps<'f> {
    flags: &'f DumpFlags,
    count: u32,
}

impl Dumps<'_> {
    fn before(&mut self, pass: &str, module: &Module) -> Result<(), Error> {
        let wanted = self.flags.dump_before.iter().any(|n| n == pass || n == "all");
        if wanted { self.write(&format!("before-{pass}"), module) } else { Ok(()) }
    }

    fn after(&mut self, pass: &str, module: &Module, changed: bool) -> Result<(), Error> {
        let asked = &self.flags.dump_after;
        let wanted = asked.iter().any(|n| n == pass || n == "all" || (n == "changed" && changed));
        if wanted { self.write(pass, module) } else { Ok(()) }
    }

    fn write(&mut self, name: &str, module: &Module) -> Result<(), Error> {
        let Some(dir) = &self.flags.dump_dir else {
            eprintln!("; {name}\n{module}");
            return Ok(());
        };
        let path = dir.join(format!("{:02}-{name}.ingot", self.count));
        self.count += 1;
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&path, module.to_string()))
            .map_err(|e| Error::new("IG0601", "cannot write").file(&path).note(e.to_string()))
    }
}
