//! `ingot opt`: IR text in, passes, IR text out. Without passes it checks and formats.

use crate::model::{pipeline, read_text};
use crate::options::{DumpFlags, Kv, Quant, context};
use crate::{Error, output};
use clap::Args;
use passes::{PASSES, Pass};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ingot opt block.ingot --passes select --quant bf16
  ingot opt model.ingot --no-passes";

/// Flags of `opt`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OptFlags {
    /// IR text (.ingot)
    pub file: PathBuf,
    /// Passes to run, in the order of `ingot passes` [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "no_passes")]
    pub passes: Vec<String>,
    /// Run no pass: check the text and format it
    #[arg(long)]
    pub no_passes: bool,
    /// Storage format of the weights [default: as it stands]
    #[arg(long, value_enum)]
    pub quant: Option<Quant>,
    /// Storage format of the KV cache [default: as it stands]
    #[arg(long, value_enum)]
    pub kv: Option<Kv>,
    /// The IR on its way
    #[command(flatten)]
    pub dump: DumpFlags,
}

/// Runs `ingot opt`.
pub fn opt(flags: &OptFlags) -> Result<(), Error> {
    let chosen = chosen(flags)?;
    let mut module = read_text(&flags.file)?;
    let context = context(flags.quant, flags.kv, None);
    pipeline(&mut module, &chosen, &context, &flags.dump)?;
    output::print(&module.to_string())
}

fn chosen(flags: &OptFlags) -> Result<Vec<&'static Pass>, Error> {
    let known = || PASSES.iter().map(|pass| pass.name);
    if let Some(name) = flags.passes.iter().find(|name| !known().any(|k| k == *name)) {
        let known: Vec<&str> = known().collect();
        return Err(Error::new("IG0401", format!("no pass `{name}`"))
            .help(format!("known: {}", known.join(", "))));
    }
    let wanted = |pass: &&Pass| match flags.passes.is_empty() {
        true => !flags.no_passes,
        false => flags.passes.iter().any(|name| name == pass.name),
    };
    Ok(PASSES.iter().filter(wanted).collect())
}
