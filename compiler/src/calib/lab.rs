//! Statistics for passes: the model as it is between two of them, run on the calibration text.

use super::observe::observe;
use super::text;
use crate::Error;
use crate::frontend::BlobSource;
use crate::options::ModelFlags;
use crate::run::need_tokenizer;
use crate::tokenizer::Tokenizer;
use crate::transforms::Smooth;
use ir::{Blobs, Module};
use passes::PassError;
use passes::stats::{Lab, Site, Stats};
use std::thread;
use targets::Target;

/// A checkpoint, and the text it is run on.
pub struct Laboratory<'a> {
    blobs: &'a BlobSource,
    windows: Vec<Vec<i32>>,
    target: Target,
    threads: u32,
}

/// The laboratory that the flags ask for; `None` if no pass will need one, or there is no text.
pub fn laboratory<'a>(
    flags: &ModelFlags,
    blobs: &'a BlobSource,
    tokenizer: &Option<Tokenizer>,
    context: u64,
) -> Result<Option<Laboratory<'a>>, Error> {
    let Some(text) = &flags.calib.calib else { return Ok(None) };
    if flags.transforms.smooth == Smooth::Off {
        return Ok(None);
    }
    let tokenizer = need_tokenizer(tokenizer, &flags.model)?;
    let windows = text::windows(&flags.calib, text, tokenizer, context)?;
    let target = flags.calibration_target()?;
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Ok(Some(Laboratory { blobs, windows, target, threads }))
}

impl Lab for Laboratory<'_> {
    fn observe(&self, module: &Module, sites: &[Site], second: bool) -> Result<Stats, PassError> {
        let (target, windows) = (&self.target, &self.windows);
        observe(module, self.blobs, target, windows, sites, second, self.threads)
            .map_err(|e| PassError { pass: "calibration", why: e.to_string() })
    }

    fn divergence(&self, _: &Module) -> Result<f64, PassError> {
        let why = "no pass asks for the divergence of a model that is not finished".to_string();
        Err(PassError { pass: "calibration", why })
    }

    fn blobs(&self) -> &dyn Blobs {
        self.blobs
    }
}
