//! `--rotate learned`: rotations that calibration finds, kept as a file that `--rotate FILE` takes.

use super::Laboratory;
use crate::Error;
use crate::options::ModelFlags;
use crate::pipeline;
use crate::progress;
use crate::transforms::{Rotate, SEEDS_MAX, TransformFlags};
use ir::{Blobs, Module, Tensor};
use passes::learn::{Learned, Learning, learn};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tempfile::NamedTempFile;

/// What `learned` may be followed by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnFlag {
    /// Steps and their length.
    pub how: Learning,
    /// Tokens of a step.
    pub tokens: u64,
    /// Seeds of which the best is where learning starts.
    pub seeds: u64,
}

/// Windows that are gone through again and again: their predictions are kept in memory.
const WINDOWS: usize = 12;
/// Steps after which what was learned is kept, so that a run that is cut short can go on.
const KEEP: usize = 5;

impl Default for LearnFlag {
    fn default() -> LearnFlag {
        LearnFlag { how: Learning { steps: 36, rate: 0.1 }, tokens: 256, seeds: 4 }
    }
}

impl FromStr for LearnFlag {
    type Err = String;

    /// `steps=N,tokens=N,rate=X,seeds=N`, in any order, each optional.
    fn from_str(text: &str) -> Result<LearnFlag, String> {
        let mut flag = LearnFlag::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let count = || value.parse().ok().filter(|n: &u64| (1..=100_000).contains(n));
            let wrong = || format!("`{part}`: expected steps=N, tokens=N, rate=X or seeds=N");
            match key {
                "steps" => flag.how.steps = count().ok_or_else(wrong)? as usize,
                "tokens" => flag.tokens = count().ok_or_else(wrong)?,
                "seeds" => {
                    flag.seeds = count().filter(|n| *n <= SEEDS_MAX).ok_or_else(wrong)?;
                }
                "rate" => {
                    let rate = value.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0);
                    flag.how.rate = rate.ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(flag)
    }
}

/// A file of rotations, learned now or before.
pub fn rotations(
    flags: &ModelFlags,
    original: &Module,
    blobs: &dyn Blobs,
    lab: &Laboratory<'_>,
    flag: LearnFlag,
) -> Result<PathBuf, Error> {
    let mut module = original.clone();
    let mut context = flags.context()?;
    // From Hadamard matrices on; factors behind them are found when they are as they stay.
    let rotate = Rotate::Hadamard { seeds: 1 };
    let transforms = TransformFlags { rotate, ..flags.transforms.clone() };
    transforms.apply(&mut context, None)?;
    if let Some(smoothing) = &mut context.smooth {
        smoothing.norms = false;
    }
    (context.budget, context.blobs) = (None, Some(blobs));
    context.lab = Some(lab);
    let chosen = pipeline::wanted(&context);
    let error = |e: passes::PassError| Error::new("IG0501", e.to_string());
    passes::run(&mut module, &chosen, &context, &mut |_| ControlFlow::Continue(()))
        .map_err(error)?;
    let windows: Vec<Vec<i32>> = lab.windows().iter().take(WINDOWS).cloned().collect();
    let windows: Vec<Vec<i32>> =
        windows.into_iter().map(|w| w[..w.len().min(flag.tokens as usize)].to_vec()).collect();
    let key = lab.key(&format!("{module} {:?} {windows:?}", flag.how));
    let cache = lab.cache();
    let path = cache.path("safetensors", key);
    if path.exists() {
        return Ok(path);
    }
    let begun = cache.load("learning", key).and_then(|bytes| unpack(&bytes));
    let bar = progress::steps("learning rotations", flag.how.steps as u64);
    let mut show = |step: usize, loss: f64, learned: &Learned| {
        bar.set_position(step as u64 + 1);
        bar.set_message(format!("learning rotations, {loss:.4} nats"));
        if (step + 1).is_multiple_of(KEEP) {
            cache.store("learning", key, &pack(step + 1, learned));
        }
    };
    let learned = learn(&module, original, blobs, &windows, flag.how, begun, &mut show);
    bar.finish_and_clear();
    write(&learned.map_err(error)?, &path)?;
    Ok(path)
}

/// The rotations as SpinQuant names them.
fn write(learned: &Learned, path: &Path) -> Result<(), Error> {
    let named: Vec<(String, Vec<u8>, &Tensor)> = learned
        .iter()
        .map(|(name, tensor)| {
            let name = match name.strip_prefix("r2.") {
                Some(layer) => format!("model.layers.{layer}.self_attn.R2"),
                None => "R1".to_string(),
            };
            (name, tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect(), tensor)
        })
        .collect();
    let cannot = |why: String| Error::new("IG0601", "cannot write").file(path).note(why);
    let views = named.iter().map(|(name, bytes, tensor)| {
        let dims = tensor.dims.iter().map(|&d| d as usize).collect();
        Ok((name, TensorView::new(Dtype::F32, dims, bytes).map_err(|e| cannot(e.to_string()))?))
    });
    let views = views.collect::<Result<Vec<_>, Error>>()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| cannot(e.to_string()))?;
    let file = NamedTempFile::new_in(folder).map_err(|e| cannot(e.to_string()))?;
    serialize_to_file(views, None, file.path()).map_err(|e| cannot(e.to_string()))?;
    file.persist(path).map_err(|e| cannot(e.to_string()))?;
    Ok(())
}

/// Steps done; of each rotation its order and its numbers.
fn pack(steps: usize, learned: &Learned) -> Vec<u8> {
    let mut bytes = (steps as u64).to_le_bytes().to_vec();
    for (_, tensor) in learned {
        bytes.extend(tensor.dims[0].to_le_bytes());
        bytes.extend(tensor.data.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

/// The same back, without names: rotations are in the order of the module.
fn unpack(bytes: &[u8]) -> Option<(usize, Learned)> {
    let (steps, mut bytes) = bytes.split_at_checked(8)?;
    let mut learned = vec![];
    while !bytes.is_empty() {
        let (order, rest) = bytes.split_at_checked(8)?;
        let order = u64::from_le_bytes(order.try_into().ok()?);
        let (data, rest) = rest.split_at_checked(usize::try_from(order * order * 4).ok()?)?;
        let data = data.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        learned.push((String::new(), Tensor { dims: vec![order; 2], data: data.collect() }));
        bytes = rest;
    }
    Some((u64::from_le_bytes(steps.try_into().ok()?) as usize, learned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_comes_back() {
        let tensor = |n: u64| Tensor { dims: vec![n; 2], data: vec![0.5; (n * n) as usize] };
        let learned: Learned = vec![(String::new(), tensor(4)), (String::new(), tensor(2))];
        let bytes = pack(7, &learned);
        assert_eq!(unpack(&bytes), Some((7, learned)));
        assert_eq!(unpack(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn flags_say_what_they_leave_out() {
        let flag: LearnFlag = "tokens=64,steps=3,seeds=1".parse().expect("a flag");
        assert_eq!((flag.how.steps, flag.tokens, flag.seeds), (3, 64, 1));
        assert_eq!(flag.how.rate, LearnFlag::default().how.rate);
        for wrong in ["steps", "steps=0", "rate=-1", "seeds=65", "speed=3"] {
            assert!(wrong.parse::<LearnFlag>().is_err(), "{wrong}");
        }
    }
}
