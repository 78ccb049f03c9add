//! A model made ready: checkpoint opened, pipeline run, every flag that shapes it applied.

use crate::Error;
use crate::calib::search::{self, Axis, Setting};
use crate::calib::{Laboratory, Round, Rounded, learn, needs_statistics};
use crate::frontend::{self, BlobSource};
use crate::options::ModelFlags;
use crate::output::say;
use crate::pipeline;
use crate::tokenizer::Tokenizer;
use crate::transforms::{Rotate, TransformFlags};
use ir::{Module, Op};
use passes::rotate::Matrices;
use passes::round::Gptq;
use passes::select::{self, Budget};
use passes::stats::Lab;
use passes::{Context, PassError};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Positions of a conversation unless the user says otherwise.
const DEFAULT_CONTEXT: u64 = 2048;
/// Formats for all matrices that are tried beside what a budget chooses for each.
const UNIFORM: usize = 3;

/// A model, ready for code generation.
pub struct Model {
    /// The verified module after all passes.
    pub module: Module,
    /// Where its weights come from.
    pub blobs: BlobSource,
    /// Text to tokens and back.
    pub tokenizer: Option<Tokenizer>,
    /// The path the user gave.
    pub path: PathBuf,
}

/// Opens a model and runs the pipeline as the flags say, which must go together.
pub fn prepare(flags: &ModelFlags) -> Result<Model, Error> {
    flags.check()?;
    let (mut module, mut blobs, tokenizer) = open(flags)?;
    set_context(&mut module, flags)?;
    check_chunk(flags)?;
    let mut context = flags.context()?;
    context.cache = flags.cache_beside(&context, &module);
    let transforms = learned(flags, &module, &blobs, &tokenizer)?;
    transforms.apply(&mut context, Some(&mut blobs))?;
    let lab = laboratory(flags, &module, &blobs, &tokenizer)?;
    context.blobs = Some(&blobs);
    context.lab = lab.as_ref().map(|lab| lab as &dyn Lab);
    let round = settle(flags, lab.as_ref(), &module, &mut context)?;
    pipeline::run(&mut module, &pipeline::wanted(&context), &context, &blobs, &flags.dump)?;
    let rounded = lab.as_ref().map(|lab| lab.round(&module, round)).transpose()?;
    if let (Some(lab), Some(rounded)) = (&lab, &rounded) {
        check_worse(flags, lab, &module, rounded)?;
    }
    drop(lab);
    blobs.rounded = rounded.unwrap_or_default();
    Ok(Model { module, blobs, tokenizer, path: flags.model.clone() })
}

/// An error if perplexity rises by more than the budget allows.
fn check_worse(
    flags: &ModelFlags,
    lab: &Laboratory<'_>,
    module: &Module,
    rounded: &Rounded,
) -> Result<(), Error> {
    let Some(most) = flags.budget.and_then(|flag| flag.worse) else { return Ok(()) };
    let error = |e: PassError| Error::new("IG0501", e.to_string());
    let [before, after] = lab.perplexities(module, rounded).map_err(error)?;
    let rise = 100.0 * (after / before - 1.0);
    let what = format!("perplexity {after:.3} instead of {before:.3}, {rise:+.2} %");
    if rise > 100.0 * most {
        return Err(Error::new("IG0508", what)
            .note(format!("the budget allows {:+.2} %", 100.0 * most))
            .help("a larger budget, or a transform: --rotate hadamard, --round gptq"));
    }
    if flags.dump.log_passes {
        say(&format!("{what} on text that is held back"));
    }
    Ok(())
}

/// The transforms that are asked for, with a file of rotations in the place of those to be learned.
fn learned(
    flags: &ModelFlags,
    module: &Module,
    blobs: &BlobSource,
    tokenizer: &Option<Tokenizer>,
) -> Result<TransformFlags, Error> {
    let mut transforms = flags.transforms.clone();
    let Rotate::Learned(flag) = transforms.rotate else { return Ok(transforms) };
    let Some(lab) = laboratory(flags, module, blobs, tokenizer)? else { return Ok(transforms) };
    let seed = best_seed(flags, module, blobs, &lab, flag.seeds)?;
    let mut from = flags.clone();
    from.transforms.seed = seed;
    let path = learn::rotations(&from, module, blobs, &lab, flag, &teller(flags))?;
    teller(flags)(format!("rotations are kept in {}", path.display()));
    transforms.rotate = Rotate::File(path);
    Ok(transforms)
}

/// The seed whose rotations diverge least, of so many.
fn best_seed(
    flags: &ModelFlags,
    module: &Module,
    blobs: &BlobSource,
    lab: &Laboratory<'_>,
    seeds: u64,
) -> Result<u64, Error> {
    let rotate = Rotate::Hadamard { seeds };
    let transforms = TransformFlags { rotate, ..flags.transforms.clone() };
    let mut context = flags.context()?;
    transforms.apply(&mut context, None)?;
    context.cache = flags.cache_beside(&context, module);
    context.budget = None;
    context.blobs = Some(blobs);
    context.lab = Some(lab);
    let [rotate, _] = transforms.axes();
    search::settle(lab, module, &mut context, flags.calib.round(), &[rotate], &teller(flags));
    Ok(match context.rotate.map(|r| r.matrices) {
        Some(Matrices::Hadamard { seed }) => seed,
        _ => flags.transforms.seed,
    })
}

/// Like what passes tell: where it was asked for, or somebody watches.
fn teller(flags: &ModelFlags) -> impl Fn(String) {
    let tells = flags.dump.log_passes || std::io::stderr().is_terminal();
    move |line| {
        if tells {
            say(&line);
        }
    }
}

/// The laboratory that `--calib` asks for.
fn laboratory<'a>(
    flags: &ModelFlags,
    module: &Module,
    blobs: &'a BlobSource,
    tokenizer: &Option<Tokenizer>,
) -> Result<Option<Laboratory<'a>>, Error> {
    let Some(source) = &flags.calib.calib else { return Ok(None) };
    let tokens = flags.calib.tokens(&flags.simulate, flags.activations);
    let (seed, checkpoint) = (flags.transforms.seed, flags.checkpoint());
    Laboratory::new(source, tokens, seed, checkpoint, module, blobs, tokenizer).map(Some)
}

/// Decides what is left to `auto`; how to round then.
fn settle(
    flags: &ModelFlags,
    lab: Option<&Laboratory<'_>>,
    module: &Module,
    context: &mut Context<'_>,
) -> Result<Round, Error> {
    let [rotate, smooth] = flags.transforms.axes();
    let Some(lab) = lab else { return Ok(flags.calib.round()) };
    // IR text that was rounded by gptq already leaves nothing to compare.
    if needs_statistics(module) && flags.calib.round == Round::Auto {
        return Ok(Round::Gptq { gptq: Gptq::default(), fine: false });
    }
    let round = flags.calib.axis(context);
    let mut axes = match [&rotate, &smooth].iter().all(|axis| axis.settings.is_empty()) {
        true => vec![round],
        // Before the transforms, because which of them helps depends on the rounding, and after them.
        false => vec![round.clone(), rotate, smooth, round],
    };
    axes.extend(context.budget.map(|budget| uniform(module, budget)));
    Ok(search::settle(lab, module, context, flags.calib.round(), &axes, &teller(flags)))
}

/// Formats that were chosen one by one, and the largest within the budget for all matrices: what is
/// predicted leaves out that rows are quantised in the groups of matrices.
fn uniform(module: &Module, budget: Budget) -> Axis {
    let formats = select::uniform_within(module, budget).into_iter().take(UNIFORM).map(Some);
    let settings = [None].into_iter().chain(formats).map(Setting::Uniform).collect();
    Axis { name: "budget", settings }
}

fn open(flags: &ModelFlags) -> Result<(Module, BlobSource, Option<Tokenizer>), Error> {
    if !flags.is_text() {
        let checkpoint = frontend::open(&flags.model)?;
        return Ok((checkpoint.module, checkpoint.blobs, checkpoint.tokenizer));
    }
    let Some(source) = &flags.blobs else {
        return Err(Error::new("IG0401", "an .ingot file holds no weights")
            .help("name the checkpoint that has them: --blobs MODEL"));
    };
    let mut checkpoint = frontend::open(source)?;
    if let Some(file) = &flags.tensors {
        frontend::add_tensors(&mut checkpoint.blobs, file)?;
    }
    let module = read_text(&flags.model)?;
    check_blobs(&module, &checkpoint.blobs, &flags.model, source)?;
    Ok((module, checkpoint.blobs, checkpoint.tokenizer))
}

/// Every tensor that text names must be in the checkpoint.
pub fn check_blobs(
    module: &Module,
    blobs: &BlobSource,
    text: &Path,
    source: &Path,
) -> Result<(), Error> {
    for weight in &module.weights {
        let Some(blob) = weight.source.blob() else { continue };
        if blobs.get(blob).is_none() {
            return Err(Error::new("IG0502", "a weight's blob is not in the checkpoint")
                .file(text)
                .at(format!("${}", weight.name))
                .note(format!("\"{blob}\" is not in {}", source.display()))
                .help("tensors of another file, such as rotations, come by --tensors FILE"));
        }
    }
    Ok(())
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
    show_all(module);
    Ok(())
}

/// Windows that hide no position of the context are none, so that layers which differ in nothing else
/// are one graph (`share`).
fn show_all(module: &mut Module) {
    let context = module.meta.context;
    for inst in module.graphs.iter_mut().flat_map(|graph| &mut graph.insts) {
        if let Op::Attention { window, .. } = &mut inst.op {
            *window = window.filter(|window| *window < context);
        }
    }
}

fn check_chunk(flags: &ModelFlags) -> Result<(), Error> {
    if (1..=4096).contains(&flags.prefill_chunk) {
        return Ok(());
    }
    Err(Error::new("IG0401", format!("--prefill-chunk {}", flags.prefill_chunk))
        .note("expected a number from 1 to 4096"))
}
