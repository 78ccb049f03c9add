//! `ingot opt`: IR in, passes, IR text out. Without passes it checks and formats.

use crate::calib::{CalibFlags, Laboratory};
use crate::frontend::{self, BlobSource, Checkpoint};
use crate::model::{check_blobs, read_text};
use crate::options::{self, Activations, DumpFlags, Kv, Quant, check_dumps, needs_text};
use crate::simulate::SimulateFlags;
use crate::tokenizer::Tokenizer;
use crate::transforms::TransformFlags;
use crate::{Error, output, pipeline};
use clap::Args;
use ir::sample::Seeded;
use ir::{Blobs, Module, RowRange};
use passes::Context;
use passes::stats::Lab;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ingot opt block.ingot --passes select --quant bf16
  ingot opt model.ingot --passes fold_norms,rotate --probe
  ingot opt SmolLM2-135M --rotate hadamard --log-passes
  ingot opt SmolLM2-135M --smooth 0.5 --calib wiki.txt
  ingot opt model.ingot --no-passes";

/// Flags of `opt`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OptFlags {
    /// IR text (.ingot), or a checkpoint
    pub file: PathBuf,
    /// Checkpoint that IR text takes its tensors and tokenizer from; without one --probe makes numbers
    /// up
    #[arg(long, value_name = "MODEL")]
    pub blobs: Option<PathBuf>,
    /// Passes to run, in this order [default: those that the other flags ask for]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "no_passes")]
    pub passes: Vec<String>,
    /// Run no pass: check the text and format it
    #[arg(long)]
    pub no_passes: bool,
    /// Storage format of the weights [default: as it stands]
    #[arg(long, value_name = "FORMAT")]
    pub quant: Option<Quant>,
    /// Storage format of the KV cache [default: as it stands]
    #[arg(long, value_enum)]
    pub kv: Option<Kv>,
    /// Ranges of int8 activations [default: groups]
    #[arg(long, value_enum, value_name = "RANGES")]
    pub activations: Option<Activations>,
    /// What is rounded as if it were stored in fewer bits
    #[command(flatten)]
    pub simulate: SimulateFlags,
    /// How weights are transformed
    #[command(flatten)]
    pub transforms: TransformFlags,
    /// What calibration looks at, and how weights are rounded
    #[command(flatten)]
    pub calib: CalibFlags,
    /// The IR on its way
    #[command(flatten)]
    pub dump: DumpFlags,
}

/// Runs `ingot opt`.
pub fn opt(flags: &OptFlags) -> Result<(), Error> {
    output::print(&optimised(flags)?.to_string())
}

/// The module after the passes.
pub fn optimised(flags: &OptFlags) -> Result<Module, Error> {
    check(flags)?;
    let named = pipeline::named(&flags.passes)?;
    let Opened { mut module, mut blobs, tokenizer } = open(flags)?;
    let mut context = context(flags);
    flags.transforms.apply(&mut context, blobs.as_mut())?;
    let seed = flags.transforms.seed;
    let checkpoint = flags.blobs.as_ref().unwrap_or(&flags.file);
    let tokens = flags.calib.tokens(&flags.simulate, flags.activations);
    let lab = flags.calib.calib.as_ref().zip(blobs.as_ref()).map(|(source, blobs)| {
        Laboratory::new(source, tokens, seed, checkpoint, &module, blobs, &tokenizer)
    });
    let lab = lab.transpose()?;
    context.lab = lab.as_ref().map(|lab| lab as &dyn Lab);
    context.blobs = blobs.as_ref().map(|blobs| blobs as &dyn Blobs);
    let chosen = match (flags.no_passes, &flags.passes[..]) {
        (true, _) => vec![],
        (false, []) => pipeline::wanted(&context),
        (false, _) => named,
    };
    let made_up = Seeded::new(&module, seed);
    let numbers = context.blobs.unwrap_or(&made_up);
    pipeline::run(&mut module, &chosen, &context, numbers, &flags.dump)?;
    Ok(module)
}

/// What the formats say; transforms need the numbers too.
pub fn context(flags: &OptFlags) -> Context<'static> {
    let mut context = options::context(flags.quant, flags.kv);
    context.round = flags.calib.round().step();
    context.activation_range = flags.activations.map_or(RowRange::Group, Activations::range);
    flags.simulate.apply(&mut context);
    context
}

/// Refuses flags that do not go together.
fn check(flags: &OptFlags) -> Result<(), Error> {
    let refused = |what: String| Error::new("IG0401", what);
    if flags.blobs.is_some() && !is_text(flags) {
        return Err(refused("--blobs is for .ingot files only".into()));
    }
    flags.simulate.check()?;
    check_dumps(&flags.dump)?;
    if flags.activations.is_some() && flags.quant.and_then(Quant::activation_group).is_none() {
        return Err(refused("--activations where activations are floats".into())
            .help("say --quant w8a8 or w4a8"));
    }
    if let Some(flag) = flags.transforms.tried() {
        return Err(refused(format!("{flag} is decided by trying, which `opt` does not")).help(
            "`ingot build MODEL --emit ir -o DIR` with the same flags writes what came of it",
        ));
    }
    let asked =
        needs_text(&flags.transforms, &flags.simulate, flags.activations, flags.calib.round);
    match (asked, &flags.calib.calib, is_text(flags) && flags.blobs.is_none()) {
        (Some(flag), None, _) => Err(refused(format!("{flag} needs a text"))
            .help("say which: --calib FILE, or --calib self for one that the model writes")),
        (_, Some(_), true) => Err(refused("--calib needs the numbers of the model".into())
            .help("name the checkpoint that has them: --blobs MODEL")),
        _ => Ok(()),
    }
}

fn is_text(flags: &OptFlags) -> bool {
    flags.file.extension().is_some_and(|e| e == "ingot")
}

/// A module, and what is known of the checkpoint it is of.
struct Opened {
    module: Module,
    blobs: Option<BlobSource>,
    tokenizer: Option<Tokenizer>,
}

fn open(flags: &OptFlags) -> Result<Opened, Error> {
    if !is_text(flags) {
        let Checkpoint { module, blobs, tokenizer, .. } = frontend::open(&flags.file)?;
        return Ok(Opened { module, blobs: Some(blobs), tokenizer });
    }
    let module = read_text(&flags.file)?;
    let Some(source) = &flags.blobs else {
        return Ok(Opened { module, blobs: None, tokenizer: None });
    };
    let Checkpoint { blobs, tokenizer, .. } = frontend::open(source)?;
    check_blobs(&module, &blobs, &flags.file, source)?;
    Ok(Opened { module, blobs: Some(blobs), tokenizer })
}
