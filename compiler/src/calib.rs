//! Calibration: what the activations of a model look like on a text, and what that is good for.

mod lab;
pub mod observe;
pub mod sequential;
mod text;

pub use lab::laboratory;
pub use sequential::Rounded;

use crate::Error;
use crate::build::pack_error;
use crate::host::{refused, start_error};
use crate::model::Model;
use crate::options::{ModelFlags, Round};
use crate::run::need_tokenizer;
use ir::{Module, Rounding, Step};
use observe::ObserveError;
use sequential::How;
use std::thread;

/// Whether some weight is rounded with statistics.
fn needs_statistics(module: &Module) -> bool {
    module.weights.iter().any(|w| w.via.last() == Some(&Step::Round(Rounding::Gptq)))
}

/// The weights of a model that are rounded with statistics, rounded.
pub fn rounded(flags: &ModelFlags, model: &Model) -> Result<Rounded, Error> {
    let Round::Gptq(gptq) = flags.calib.round() else { return Ok(Rounded::new()) };
    if !needs_statistics(&model.module) {
        return Ok(Rounded::new());
    }
    let Some(text) = &flags.calib.calib else {
        return Err(Error::new("IG0401", "rounding by gptq needs a text to calibrate with")
            .help("--calib FILE"));
    };
    let tokenizer = need_tokenizer(&model.tokenizer, &model.path)?;
    let windows = text::windows(&flags.calib, text, tokenizer, model.module.meta.context)?;
    let target = flags.calibration_target()?;
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let how = How { gptq, target: &target, threads };
    let found = sequential::round_all(&model.module, &model.blobs, &windows, how);
    found.map_err(|e| observe_error(e, model))
}

fn observe_error(error: ObserveError, model: &Model) -> Error {
    match error {
        ObserveError::Start(e) => start_error(e, model),
        ObserveError::Refused(status) => refused(status),
        ObserveError::Blob(e) => pack_error(e.into(), &model.path),
        ObserveError::Shape(why) => Error::new("IG0501", why).file(&model.path),
    }
}
