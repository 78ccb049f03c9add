//! One library: everything that is emitted for a model, in one place.

use crate::entry::{self, Parts};
use crate::state::{LayoutError, StateLayout};
use crate::text::{self, Text, TextError};
use crate::{cpu, errors, sample, save};
use cranelift_codegen::ir::types::*;
use cranelift_module::{DataId, FuncId, Module as Sink};
use ir::Module;
use targets::compile::{CompileError, Inputs, Observer, compile};
use targets::pack::WeightLayout;
use targets::profile::Profile;
use targets::records::{frame, worker};
use targets::{Emitter, Listing, Target};

/// How a library is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Prefix of every symbol.
    pub name: String,
    /// Rows of one run of the model.
    pub chunk: u64,
    /// Workers that may take part at most.
    pub max_workers: u64,
    /// CPUs of the same triple that have a model of their own in the library, worst first, with the
    /// names of `targets::target::VARIANTS`; none: that of the target alone.
    pub variants: Vec<(&'static str, Target)>,
    /// Whether the weights are in the library.
    pub embed: bool,
    /// Whether weights with another hash than those of the build are refused. The hash is placed by
    /// whoever finishes the module.
    pub check_hash: bool,
    /// Whether CLIF and listings are kept.
    pub keep_text: bool,
    /// Whether the code measures its steps.
    pub profile: bool,
    /// Who watches values, in this process only.
    pub observer: Option<Observer>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: "model".into(),
            chunk: 64,
            max_workers: 8,
            variants: vec![],
            embed: false,
            check_hash: false,
            keep_text: false,
            profile: false,
            observer: None,
        }
    }
}

/// What was emitted.
pub struct Library {
    /// Layout of the weights.
    pub weights: WeightLayout,
    /// Layout of a state.
    pub state: StateLayout,
    /// The data that the weights become, if they are embedded.
    pub embedded: Option<DataId>,
    /// The data that their hash becomes, if it is checked.
    pub hash: Option<DataId>,
    /// Exported functions: name without prefix, id.
    pub exports: Vec<(&'static str, FuncId)>,
    /// All functions.
    pub listings: Vec<Listing>,
    /// Scratch that a caller must give.
    pub scratch_bytes: u64,
    /// Stack of the deepest call chain.
    pub stack_bytes: u64,
    /// Calls of graphs in one run of the model.
    pub calls: u32,
    /// The table of measured steps in scratch, if there is one.
    pub profile: Option<Profile>,
}

/// A model that no library can be made of.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LibraryError {
    /// No code.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// No state.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No tables.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Names of the exported functions, in the order of the header.
const EXPORTS: &[&str] = &[
    "init", "prefill", "decode", "logits", "score", "verify", "sample", "position", "truncate",
    "save", "load", "encode", "piece", "chat", "error",
];

/// Emits the library of a verified module into `sink`, with what is known of text.
pub fn emit<'t>(
    sink: &'t mut dyn Sink,
    target: &'t Target,
    module: &Module,
    text: Option<&Text>,
    options: &'t Options,
) -> Result<Library, LibraryError> {
    let weights = WeightLayout::new(module, target.facts.arch);
    let state = StateLayout::new(module, target.facts.arch, weights.identity)?;
    let mut e = Emitter::new(target, sink, &options.name, options.keep_text);
    let e = &mut e;
    let embedded = options.embed.then(|| e.constant("weights", vec![0], 64));
    let hash = options.check_hash.then(|| e.constant("weights.hash", vec![0; 8], 8));
    let checksum = save::emit_checksum(e);
    let slots: Vec<(u64, u64)> =
        state.caches.iter().map(|c| (c.key_offset, c.value_offset)).collect();
    let records = worker::BYTES as u64 * options.max_workers;
    let inputs = Inputs {
        module,
        weights: &weights,
        slots: &slots,
        chunk: options.chunk,
        max_workers: options.max_workers,
        scratch_start: frame::RECORDS as u64 + records,
        profile: options.profile,
        observer: options.observer.as_ref(),
        call_conv: target.c_call_conv(),
    };
    let mut models = emit_models(e, &inputs, options, state.logits)?;
    let scratch = models.iter().map(|model| model.compiled.scratch_bytes);
    let scratch_bytes = scratch.fold(sample::scratch_bytes(state.vocab), u64::max);
    let parts = Parts {
        models: &models,
        state: &state,
        weights: &weights,
        embedded,
        hash,
        max_workers: options.max_workers,
        scratch_bytes,
    };
    let lacks: Vec<_> = models.iter().map(|model| model.lacks.clone()).collect();
    let variant = cpu::emit_variant(e, &lacks);
    let mut functions = entry::emit(e, &parts, &checksum, &variant);
    functions.push(sample::emit(e, &state));
    functions.extend(save::emit(e, &state, &checksum, &variant));
    functions.extend(text::emit(e, text)?);
    functions.push(errors::emit(e));
    let ids: Vec<FuncId> = functions.iter().map(|f| f.id).collect();
    Ok(Library {
        embedded,
        hash,
        exports: EXPORTS.iter().copied().zip(ids.iter().copied()).collect(),
        stack_bytes: e.stack_bytes(&ids).into(),
        calls: models[0].compiled.calls,
        listings: e.listings().cloned().collect(),
        scratch_bytes,
        weights,
        state,
        profile: models.swap_remove(0).compiled.profile,
    })
}

/// The model for each variant, or for the one CPU.
fn emit_models<'t>(
    e: &mut Emitter<'t>,
    inputs: &Inputs,
    options: &'t Options,
    logits: u32,
) -> Result<Vec<entry::Model>, CompileError> {
    if options.variants.is_empty() {
        return Ok(vec![emit_model(e, inputs, logits)?]);
    }
    let one = |(name, target): &'t (&'static str, Target)| {
        e.with(target, name, |e| emit_model(e, inputs, logits))
    };
    options.variants.iter().map(one).collect()
}

/// The model for the emitter's CPU.
fn emit_model(e: &mut Emitter, inputs: &Inputs, logits: u32) -> Result<entry::Model, CompileError> {
    let checkpoint = e.declare("checkpoint", &[I64], &[I32]);
    let compiled = compile(e, inputs, &checkpoint)?;
    let calls = compiled.calls.into();
    entry::emit_checkpoint(e, &checkpoint, &compiled.barrier, inputs.chunk, calls);
    Ok(entry::emit_model(e, compiled, inputs.chunk, logits))
}
