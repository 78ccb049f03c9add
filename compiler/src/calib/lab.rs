//! The laboratory of the pipeline: a model, a text, and this machine to run one on the other.

use super::observe::{ObserveError, observe};
use super::sequential::{How, Rounded, round_all};
use super::{Round, text};
use crate::Error;
use crate::build::pack_error;
use crate::host::{refused, start_error};
use crate::options::ModelFlags;
use crate::run::need_tokenizer;
use crate::tokenizer::Tokenizer;
use ir::{Blobs, Module};
use passes::PassError;
use passes::stats::{Lab, Site, Stats};
use std::path::{Path, PathBuf};
use std::thread;
use targets::Target;

/// A checkpoint and a text to calibrate with.
pub struct Laboratory<'a> {
    blobs: &'a dyn Blobs,
    path: PathBuf,
    windows: Vec<Vec<i32>>,
    target: Target,
    threads: u32,
    round: Round,
}

impl<'a> Laboratory<'a> {
    /// The laboratory that `--calib` asks for, if it is there.
    pub fn new(
        flags: &ModelFlags,
        module: &Module,
        blobs: &'a dyn Blobs,
        tokenizer: &Option<Tokenizer>,
    ) -> Result<Option<Laboratory<'a>>, Error> {
        let Some(source) = &flags.calib.calib else { return Ok(None) };
        let tokenizer = need_tokenizer(tokenizer, &flags.model)?;
        Ok(Some(Laboratory {
            blobs,
            path: flags.model.clone(),
            windows: text::windows(&flags.calib, source, tokenizer, module.meta.context)?,
            target: flags.calibration_target()?,
            threads: thread::available_parallelism().map_or(1, |n| n.get() as u32),
            round: flags.calib.round(),
        }))
    }

    /// The weights of a module whose history needs statistics, rounded.
    pub fn round(&self, module: &Module) -> Result<Rounded, Error> {
        let Round::Gptq(gptq) = self.round else { return Ok(Rounded::new()) };
        let how = How { gptq, target: &self.target, threads: self.threads };
        let rounded = round_all(module, self.blobs, &self.windows, how);
        rounded.map_err(|e| observe_error(e, &self.path))
    }
}

impl Lab for Laboratory<'_> {
    fn observe(&self, module: &Module, sites: &[Site], second: bool) -> Result<Stats, PassError> {
        observe(module, self.blobs, &self.target, &self.windows, sites, second, self.threads)
            .map_err(|e| PassError { pass: "calibration", why: e.to_string() })
    }

    fn divergence(&self, module: &Module) -> Result<f64, PassError> {
        let _ = module;
        Err(PassError { pass: "calibration", why: "not yet".into() })
    }

    fn blobs(&self) -> &dyn Blobs {
        self.blobs
    }
}

fn observe_error(error: ObserveError, model: &Path) -> Error {
    match error {
        ObserveError::Start(e) => start_error(e, model),
        ObserveError::Refused(status) => refused(status),
        ObserveError::Blob(e) => pack_error(e.into(), model),
        ObserveError::Shape(why) => Error::new("IG0501", why).file(model),
    }
}
