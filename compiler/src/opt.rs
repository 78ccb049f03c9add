//! `ingot opt`: IR in, passes, IR text out. Without passes it checks and formats.

use crate::frontend::{self, BlobSource};
use crate::model::{check_blobs, read_text};
use crate::options::{self, Activations, DumpFlags, Kv, Quant};
use crate::simulate::SimulateFlags;
use crate::transforms::TransformFlags;
use crate::{Error, output, pipeline};
use clap::Args;
use ir::sample::Seeded;
use ir::{Blobs, Module, RowRange};
use passes::Context;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ingot opt block.ingot --passes select --quant bf16
  ingot opt model.ingot --passes fold_norms,rotate --probe
  ingot opt SmolLM2-135M --rotate hadamard --log-passes
  ingot opt model.ingot --no-passes";

/// Flags of `opt`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OptFlags {
    /// IR text (.ingot), or a checkpoint
    pub file: PathBuf,
    /// Checkpoint that holds the numbers of IR text; without one --probe makes some up
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
    let named = pipeline::named(&flags.passes)?;
    let (mut module, mut blobs) = open(flags)?;
    let mut context = context(flags);
    flags.transforms.apply(&mut context, blobs.as_mut())?;
    context.blobs = blobs.as_ref().map(|blobs| blobs as &dyn Blobs);
    let chosen = match (flags.no_passes, &flags.passes[..]) {
        (true, _) => vec![],
        (false, []) => pipeline::wanted(&context),
        (false, _) => named,
    };
    let made_up = Seeded::new(&module, flags.transforms.seed);
    let numbers = context.blobs.unwrap_or(&made_up);
    pipeline::run(&mut module, &chosen, &context, numbers, &flags.dump)?;
    Ok(module)
}

/// What the formats say; transforms need the numbers too.
pub fn context(flags: &OptFlags) -> Context<'static> {
    let mut context = options::context(flags.quant, flags.kv);
    context.activation_range = flags.activations.map_or(RowRange::Group, Activations::range);
    flags.simulate.apply(&mut context);
    context
}

fn open(flags: &OptFlags) -> Result<(Module, Option<BlobSource>), Error> {
    if flags.file.extension().is_none_or(|e| e != "ingot") {
        let checkpoint = frontend::open(&flags.file)?;
        return Ok((checkpoint.module, Some(checkpoint.blobs)));
    }
    let module = read_text(&flags.file)?;
    let Some(source) = &flags.blobs else { return Ok((module, None)) };
    let blobs = frontend::open(source)?.blobs;
    check_blobs(&module, &blobs, &flags.file, source)?;
    Ok((module, Some(blobs)))
}
