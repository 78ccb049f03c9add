//! A model compiled into this process: what `run`, `eval` and `bench` share.
//!
//! The code is the code that a build writes; the memory is what a careful host program would give
//! it, weights in huge pages included.

use crate::Error;
use crate::build::pack_error;
use crate::model::{Model, prepare};
use crate::options::{ModelFlags, WORKERS_MAX};
use crate::progress;
use crate::session::{Session, StartError, Status};
use clap::Args;
use runtime::{Options, Text};
use std::num::NonZero;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Flags of commands that run a model.
#[derive(Args, Clone, Debug)]
pub struct HostFlags {
    /// The model and its code
    #[command(flatten)]
    pub model: ModelFlags,
    /// Threads that work together [default: all cores, at most 64]
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX as i64)
    )]
    pub threads: Option<u32>,
}

/// A model that runs in this process.
pub struct Host {
    /// The model after all passes.
    pub model: Model,
    /// One conversation with it.
    pub session: Session,
    /// Threads that work together.
    pub threads: u32,
    /// From the flags to the first call: reading, compiling, packing.
    pub start: Duration,
}

impl HostFlags {
    /// Threads that work together.
    pub fn threads(&self) -> u32 {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        self.threads.unwrap_or(cores.min(WORKERS_MAX as usize) as u32)
    }
}

/// Compiles a model into this process.
pub fn start(flags: &HostFlags) -> Result<Host, Error> {
    start_with(flags, false, |_| Ok(None))
}

/// As `start`, with what `text` finds of the model's text; with `profile` the code measures its steps.
pub fn start_with(
    flags: &HostFlags,
    profile: bool,
    text: impl FnOnce(&Model) -> Result<Option<Text>, Error>,
) -> Result<Host, Error> {
    let began = Instant::now();
    let target = flags.model.host_target()?;
    let threads = flags.threads();
    let max_workers = flags.model.codegen()?.max_workers.max(threads.into());
    let model = prepare(&flags.model)?;
    let chunk = flags.model.prefill_chunk.min(model.module.meta.context);
    let options = Options { chunk, max_workers, profile, ..Options::default() };
    let bytes = targets::pack::WeightLayout::new(&model.module, targets::Arch::HOST).bytes;
    let bar = progress::bytes("packing weights", bytes);
    let heard = |n| bar.set_position(n);
    let (module, blobs) = (&model.module, &model.blobs);
    let text = text(&model)?;
    let session =
        Session::with_text(module, text.as_ref(), blobs, &target, &options, threads, &heard);
    bar.finish_and_clear();
    let session = session.map_err(|e| start_error(e, &model.path))?;
    Ok(Host { model, session, threads, start: began.elapsed() })
}

/// What keeps a model from starting, placed at the model.
pub fn start_error(error: StartError, model: &Path) -> Error {
    match error {
        StartError::Library(e) => Error::new("IG0503", e.to_string()).file(model),
        StartError::Pack(e) => pack_error(e, model),
        StartError::Memory(e) => Error::new("IG0602", "no memory for the model")
            .file(model)
            .note(e.to_string())
            .help("a smaller --context needs less"),
    }
}

/// What the compiled model refuses.
pub fn refused(status: Status) -> Error {
    Error::new("IG0504", status.message).note(format!("status {}", status.status))
}

/// Token ids that a user gave, as the C interface takes them.
pub fn checked_tokens(tokens: &[u32], vocab: u64) -> Result<Vec<i32>, Error> {
    match tokens.iter().find(|&&t| u64::from(t) >= vocab) {
        Some(token) => Err(Error::new("IG0401", format!("no token {token}"))
            .note(format!("the model's tokens are 0 to {}", vocab - 1))),
        None => Ok(tokens.iter().map(|&t| t as i32).collect()),
    }
}
