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
use crate::options::calibration_target;
use crate::predict::{Kept, mean_divergence, perplexity, predictions};
use crate::run::need_tokenizer;
use crate::tokenizer::Tokenizer;
use ir::quant::Quantised;
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
    /// What statistics are of.
    windows: Vec<Vec<i32>>,
    /// What models are compared on: text that nothing is fitted to, unless there is one window only.
    held: Vec<Vec<i32>>,
    target: Target,
    threads: u32,
    cache: Cache,
    /// A hash of the model's tensors.
    model: u128,
    /// The model as it was.
    original: Module,
    /// Its predictions for the windows held back.
    reference: OnceLock<Kept>,
}

impl<'a> Laboratory<'a> {
    /// The laboratory with `count` tokens of a source. `checkpoint` is where `blobs` are from, and where
    /// findings are kept.
    pub fn new(
        source: &Calib,
        count: u64,
        seed: u64,
        checkpoint: &Path,
        module: &Module,
        blobs: &'a dyn Blobs,
        tokenizer: &Option<Tokenizer>,
    ) -> Result<Laboratory<'a>, Error> {
        let model = identity(module, blobs).map_err(|e| Error::from(e).file(checkpoint))?;
        let mut lab = Laboratory {
            blobs,
            path: checkpoint.to_path_buf(),
            windows: vec![],
            held: vec![],
            target: calibration_target()?,
            threads: threads(),
            cache: Cache::beside(checkpoint),
            model,
            original: float_view(module),
            reference: OnceLock::new(),
        };
        let windows = match source {
            Calib::Text(text) => {
                let tokenizer = need_tokenizer(tokenizer, checkpoint)?;
                text::windows(count, text, tokenizer, module.meta.context)?
            }
            Calib::Own => lab.own_windows(module, count, seed)?,
        };
        (lab.windows, lab.held) = hold_back(windows);
        Ok(lab)
    }

    /// Text that the model writes, now or before.
    fn own_windows(&self, module: &Module, count: u64, seed: u64) -> Result<Vec<Vec<i32>>, Error> {
        let length = text::WINDOW.min(module.meta.context) as usize;
        let shape = [(count as usize).div_ceil(length), length];
        let key = hash(format!("{:x} {shape:?} {seed}", self.model).as_bytes());
        let kept = self.cache.load("tokens", key);
        if let Some(windows) = kept.and_then(|bytes| tokens(&bytes, shape)) {
            return Ok(windows);
        }
        let written = own::write(module, self.blobs, &self.target, shape, seed, self.threads);
        let windows = written.map_err(|e| write_error(e, &self.path))?;
        let bytes: Vec<u8> = windows.iter().flatten().flat_map(|t| t.to_le_bytes()).collect();
        self.cache.store("tokens", key, &bytes);
        Ok(windows)
    }

    /// The weights of a module whose history needs statistics, rounded.
    pub fn round(&self, module: &Module, round: Round) -> Result<Rounded, Error> {
        if !needs_statistics(module) {
            return Ok(Rounded::new());
        }
        let key = self.key(&format!("{module} {round:?}"));
        if let Some(kept) = self.cache.load("rounded", key).and_then(|b| kept::unpack(&b)) {
            return Ok(kept);
        }
        let rounded = self.round_on(module, round, &self.windows);
        let rounded = rounded.map_err(|e| observe_error(e, &self.path))?;
        self.cache.store("rounded", key, &kept::pack(&rounded));
        Ok(rounded)
    }

    /// Mean divergence in nats from the model as it was, of the module emitted and rounded as it
    /// says, over windows that are held back. Rounding looks at a few windows only, so that many
    /// modules can be tried.
    pub fn divergence(&self, module: &Module, round: Round) -> Result<f64, PassError> {
        let key = format!("{module} {round:?} {TRIED} {:?}", self.held);
        let found = self.remember("divergence", &key, &mut || {
            let few = &self.windows[..self.windows.len().min(TRIED)];
            let rounded = self.round_on(module, round, few).map_err(not_run)?;
            let blobs = WithRounded { checkpoint: self.blobs, rounded: &rounded };
            let seen = self.predict(module, &blobs)?;
            let reference = match self.reference.get() {
                Some(known) => known,
                None => {
                    let found = self.predict(&self.original, self.blobs)?;
                    self.reference.get_or_init(|| found)
                }
            };
            let mean = mean_divergence(reference, &seen, module.meta.vocab as usize);
            Ok(mean.to_le_bytes().to_vec())
        })?;
        Ok(found.try_into().map_or(f64::INFINITY, f64::from_le_bytes))
    }

    /// Perplexity on windows that are held back, of the model as it was and of a module as it was rounded.
    pub fn perplexities(&self, module: &Module, rounded: &Rounded) -> Result<[f64; 2], PassError> {
        let vocab = module.meta.vocab as usize;
        let before = perplexity(&self.predict(&self.original, self.blobs)?, &self.held, vocab);
        let blobs = WithRounded { checkpoint: self.blobs, rounded };
        Ok([before, perplexity(&self.predict(module, &blobs)?, &self.held, vocab)])
    }

    fn predict(&self, module: &Module, blobs: &dyn Blobs) -> Result<Kept, PassError> {
        predictions(module, blobs, &self.target, &self.held, self.threads).map_err(not_run)
    }

    fn round_on(
        &self,
        module: &Module,
        round: Round,
        windows: &[Vec<i32>],
    ) -> Result<Rounded, ObserveError> {
        let Round::Gptq { gptq, fine } = round else { return Ok(Rounded::new()) };
        if !needs_statistics(module) {
            return Ok(Rounded::new());
        }
        let how = How { gptq, target: &self.target, threads: self.threads, fine };
        round_all(module, self.blobs, windows, how)
    }

    /// What nothing is compared on.
    pub fn windows(&self) -> &[Vec<i32>] {
        &self.windows
    }

    /// What is compared on.
    pub fn held(&self) -> &[Vec<i32>] {
        &self.held
    }

    /// What was found before.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// A key of the cache: the model, the text, and `text`.
    pub fn key(&self, text: &str) -> u128 {
        hash(format!("{:x} {:?} {text}", self.model, self.windows).as_bytes())
    }
}

/// Whether a weight's history ends in integers that it does not hold.
pub fn needs_statistics(module: &Module) -> bool {
    let asked = |w: &Weight| matches!(w.via.last(), Some(Step::Round { how: Rounding::Gptq, .. }));
    module.weights.iter().any(asked)
}

fn not_run(error: impl std::fmt::Display) -> PassError {
    PassError { pass: "calibration", why: error.to_string() }
}

/// A checkpoint, and integers found for it.
struct WithRounded<'a> {
    checkpoint: &'a dyn Blobs,
    rounded: &'a Rounded,
}

impl Blobs for WithRounded<'_> {
    fn load(&self, blob: &str) -> Result<Tensor, BlobError> {
        self.checkpoint.load(blob)
    }

    fn rounded(&self, weight: &str) -> Option<Quantised> {
        self.rounded.get(weight).cloned()
    }
}

impl Lab for Laboratory<'_> {
    fn observe(&self, module: &Module, sites: &[Site], second: bool) -> Result<Stats, PassError> {
        observe(module, self.blobs, &self.target, &self.windows, sites, second, self.threads)
            .map_err(not_run)
    }

    fn probe(
        &self,
        module: &Module,
        weights: &[WeightId],
        replaced: &dyn Fn(WeightId) -> Result<Tensor, BlobError>,
    ) -> Result<Vec<f64>, PassError> {
        probe(module, self.blobs, &self.target, &self.held, self.threads, weights, replaced)
            .map_err(not_run)
    }

    fn remember(
        &self,
        kind: &str,
        key: &str,
        make: &mut dyn FnMut() -> Result<Vec<u8>, PassError>,
    ) -> Result<Vec<u8>, PassError> {
        let key = self.key(key);
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

/// Windows that models are compared on, at most; a quarter of all if that is less.
const HELD: usize = 4;
/// Windows that models are rounded by while many are tried.
const TRIED: usize = 8;

/// Windows to fit to, and windows to compare on, taken evenly from the text.
fn hold_back(windows: Vec<Vec<i32>>) -> (Vec<Vec<i32>>, Vec<Vec<i32>>) {
    let count = windows.len();
    let held = HELD.min(count / 4);
    if held == 0 {
        return (windows.clone(), windows);
    }
    let step = count / held;
    let (mut fitted, mut compared) = (vec![], vec![]);
    for (at, window) in windows.into_iter().enumerate() {
        let back = at % step == step - 1 && compared.len() < held;
        if back { &mut compared } else { &mut fitted }.push(window);
    }
    (fitted, compared)
}

fn threads() -> u32 {
    thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// A hash of all that a model's tensors are, and of who asks: another version may find something else.
fn identity(module: &Module, blobs: &dyn Blobs) -> Result<u128, BlobError> {
    let mut text = format!("{} {module}", env!("CARGO_PKG_VERSION"));
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
        WriteError::Pass(e) => Error::new("IG0501", e.to_string()).file(model),
        WriteError::Refused(status) => refused(status),
    }
}

fn observe_error(error: ObserveError, model: &Path) -> Error {
    match error {
        ObserveError::Start(e) => start_error(e, model),
        ObserveError::Refused(status) => refused(status),
        ObserveError::Blob(e) => pack_error(e.into(), model),
        ObserveError::Shape(why) => Error::new("IG0501", why).file(model),
        ObserveError::NotFinite(_) => Error::new("IG0501", error.to_string())
            .file(model)
            .note("expected finite activations")
            .help("check the checkpoint, or calibrate with another text"),
    }
}
