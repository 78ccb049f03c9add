//! The laboratory of the pipeline: a model, a text, and this machine to run one on the other.

use super::cache::{Cache, hash};
use super::observe::{ObserveError, observe};
use super::own::{self, WriteError};
use super::probe::probe;
use super::sequential::{How, Rounded, round_all};
use super::{Calib, Round, kept, text};
use crate::Error;
use crate::build::pack_error;
use crate::host::{refused, start_error};
use crate::options::ModelFlags;
use crate::predict::{Kept, mean_divergence, predictions};
use crate::run::need_tokenizer;
use crate::tokenizer::Tokenizer;
use ir::{BlobError, Blobs, Module, Rounding, Source, Step, Tensor, Weight, WeightId};
use passes::PassError;
use passes::stats::{Lab, Site, Stats, float_view};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
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
    cache: Cache,
    /// A hash of the model's tensors.
    model: u128,
    /// The model as it was.
    original: Module,
    /// Its predictions for the first windows.
    reference: OnceLock<Kept>,
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
        let (target, threads) = (flags.calibration_target()?, threads());
        let cache = Cache::beside(flags.blobs.as_ref().unwrap_or(&flags.model));
        let model = identity(module, blobs).map_err(|e| Error::from(e).file(&flags.model))?;
        let context = module.meta.context;
        let windows = match source {
            Calib::Text(text) => {
                let tokenizer = need_tokenizer(tokenizer, &flags.model)?;
                text::windows(&flags.calib, text, tokenizer, context)?
            }
            Calib::Own => {
                let length = text::WINDOW.min(context) as usize;
                let shape = [(flags.calib.calib_tokens as usize).div_ceil(length), length];
                let seed = flags.transforms.seed;
                let key = hash(format!("{model:x} {shape:?} {seed}").as_bytes());
                let kept = cache.load("tokens", key).and_then(|bytes| tokens(&bytes, shape));
                match kept {
                    Some(windows) => windows,
                    None => {
                        let written = own::write(module, blobs, &target, shape, seed, threads);
                        let windows = written.map_err(|e| write_error(e, &flags.model))?;
                        let bytes: Vec<u8> =
                            windows.iter().flatten().flat_map(|t| t.to_le_bytes()).collect();
                        cache.store("tokens", key, &bytes);
                        windows
                    }
                }
            }
        };
        Ok(Some(Laboratory {
            blobs,
            path: flags.model.clone(),
            windows,
            target,
            threads,
            cache,
            model,
            original: float_view(module),
            reference: OnceLock::new(),
            round: flags.calib.round(),
        }))
    }

    /// The weights of a module whose history needs statistics, rounded.
    pub fn round(&self, module: &Module) -> Result<Rounded, Error> {
        let Round::Gptq { gptq, fine } = self.round else { return Ok(Rounded::new()) };
        let asked =
            |w: &Weight| matches!(w.via.last(), Some(Step::Round { how: Rounding::Gptq, .. }));
        if !module.weights.iter().any(asked) {
            return Ok(Rounded::new());
        }
        let key = hash(
            format!("{:x} {module} {:?} {:?}", self.model, self.windows, self.round).as_bytes(),
        );
        if let Some(kept) = self.cache.load("rounded", key).and_then(|b| kept::unpack(&b)) {
            return Ok(kept);
        }
        let how = How { gptq, target: &self.target, threads: self.threads, fine };
        let rounded = round_all(module, self.blobs, &self.windows, how);
        let rounded = rounded.map_err(|e| observe_error(e, &self.path))?;
        self.cache.store("rounded", key, &kept::pack(&rounded));
        Ok(rounded)
    }
}

impl Lab for Laboratory<'_> {
    fn observe(&self, module: &Module, sites: &[Site], second: bool) -> Result<Stats, PassError> {
        observe(module, self.blobs, &self.target, &self.windows, sites, second, self.threads)
            .map_err(|e| PassError { pass: "calibration", why: e.to_string() })
    }

    fn divergence(&self, module: &Module) -> Result<f64, PassError> {
        let windows = &self.windows[..self.windows.len().min(COMPARED)];
        let predict = |module: &Module| {
            predictions(module, self.blobs, &self.target, windows, self.threads)
                .map_err(|e| PassError { pass: "calibration", why: e.to_string() })
        };
        let reference = match self.reference.get() {
            Some(known) => known,
            None => {
                let found = predict(&self.original)?;
                self.reference.get_or_init(|| found)
            }
        };
        Ok(mean_divergence(reference, &predict(module)?, module.meta.vocab as usize))
    }

    fn probe(
        &self,
        module: &Module,
        weights: &[WeightId],
        replaced: &dyn Fn(WeightId) -> Result<Tensor, BlobError>,
    ) -> Result<Vec<f64>, PassError> {
        let windows = &self.windows[..self.windows.len().min(COMPARED)];
        probe(module, self.blobs, &self.target, windows, self.threads, weights, replaced)
            .map_err(|e| PassError { pass: "calibration", why: e.to_string() })
    }

    fn remember(
        &self,
        kind: &str,
        key: &str,
        make: &mut dyn FnMut() -> Result<Vec<u8>, PassError>,
    ) -> Result<Vec<u8>, PassError> {
        let key = hash(format!("{:x} {:?} {key}", self.model, self.windows).as_bytes());
        if let Some(kept) = self.cache.load(kind, key) {
            return Ok(kept);
        }
        let found = make()?;
        self.cache.store(kind, key, &found);
        Ok(found)
    }

    fn blobs(&self) -> &dyn Blobs {
        self.blobs
    }
}

/// Windows that models are compared on.
const COMPARED: usize = 2;

fn threads() -> u32 {
    thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// A hash of all that a model's tensors are.
fn identity(module: &Module, blobs: &dyn Blobs) -> Result<u128, BlobError> {
    let mut text = module.to_string();
    for weight in &module.weights {
        if let Source::Blob(name) = &weight.source {
            text += &format!("{:x}", blobs.digest(name)?);
        }
    }
    Ok(hash(text.as_bytes()))
}

/// Windows from their bytes, if these are as many as they should be.
fn tokens(bytes: &[u8], [count, length]: [usize; 2]) -> Option<Vec<Vec<i32>>> {
    let words = bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    let tokens: Vec<i32> = words.collect();
    (tokens.len() == count * length).then(|| tokens.chunks(length).map(<[i32]>::to_vec).collect())
}

fn write_error(error: WriteError, model: &Path) -> Error {
    match error {
        WriteError::Start(e) => start_error(e, model),
        WriteError::Refused(status) => refused(status),
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
