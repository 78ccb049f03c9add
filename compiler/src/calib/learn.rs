//! `--rotate learned`: rotations that calibration finds, kept as a file that `--rotate FILE` takes.

use super::Laboratory;
use crate::Error;
use crate::options::ModelFlags;
use crate::pipeline;
use crate::progress;
use crate::transforms::{Rotate, SEEDS_MAX, TransformFlags};
use ir::{Blobs, Module, Tensor};
use passes::learn::{CHECK, Learned, Learning, Run, Seen, Texts, learn};
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

impl Default for LearnFlag {
    fn default() -> LearnFlag {
        LearnFlag { how: Learning { steps: 24, rate: 0.02 }, tokens: 256, seeds: 4 }
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
                    let rate = value.parse().ok().filter(|x: &f64| *x > 0.0 && *x <= 1.0);
                    flag.how.rate = rate.ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(flag)
    }
}

/// A file of rotations, learned now or before; `tell` hears of each step.
pub fn rotations(
    flags: &ModelFlags,
    original: &Module,
    blobs: &dyn Blobs,
    lab: &Laboratory<'_>,
    flag: LearnFlag,
    tell: &dyn Fn(String),
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
    let short = |windows: &[Vec<i32>]| {
        let short = |w: &Vec<i32>| w[..w.len().min(flag.tokens as usize)].to_vec();
        windows.iter().take(WINDOWS).map(short).collect::<Vec<_>>()
    };
    let (fitted, held) = (short(lab.windows()), short(lab.held()));
    let key = lab.key(&format!("{module} {:?} {fitted:?} {held:?}", flag.how));
    let cache = lab.cache();
    let path = cache.path("safetensors", key);
    if path.exists() {
        return Ok(path);
    }
    let begun = cache.load("learning", key).and_then(|bytes| unpack(&bytes));
    let bar = progress::steps("learning rotations", flag.how.steps as u64);
    let mut show = |seen: Seen<'_>| {
        let Seen { run, loss, held } = seen;
        bar.set_position(run.steps as u64);
        bar.set_message(format!("learning rotations, {loss:.4} nats"));
        let held = held.map_or(String::new(), |held| {
            format!("; on text held back {held:.4}, at best {:.4}", run.least)
        });
        tell(format!("step {} of {}: {loss:.4} nats{held}", run.steps, flag.how.steps));
        if run.steps.is_multiple_of(CHECK) {
            cache.store("learning", key, &pack(run));
        }
    };
    let texts = Texts { fitted: &fitted, held: &held };
    let learned = learn(&module, original, blobs, texts, flag.how, begun, &mut show);
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

/// Steps done and the least loss; of each rotation its order and its numbers, now and at best.
fn pack(run: &Run) -> Vec<u8> {
    let mut bytes = (run.steps as u64).to_le_bytes().to_vec();
    bytes.extend(run.least.to_le_bytes());
    for ((name, now), (_, best)) in run.now.iter().zip(&run.best) {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(now.dims[0].to_le_bytes());
        bytes.extend(now.data.iter().chain(&best.data).flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

/// The same back; none if bytes are missing.
fn unpack(mut bytes: &[u8]) -> Option<Run> {
    let bytes = &mut bytes;
    let steps = usize::try_from(u64::from_le_bytes(*taken(bytes)?)).ok()?;
    let least = f64::from_le_bytes(*taken(bytes)?);
    let (mut now, mut best) = (vec![], vec![]);
    while !bytes.is_empty() {
        let name = usize::try_from(u64::from_le_bytes(*taken(bytes)?)).ok()?;
        let name = String::from_utf8(bytes.split_off(..name)?.to_vec()).ok()?;
        let order = u64::from_le_bytes(*taken(bytes)?);
        for learned in [&mut now, &mut best] {
            let data = bytes.split_off(..usize::try_from(order * order * 4).ok()?)?;
            let data = data.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
            learned.push((name.clone(), Tensor { dims: vec![order; 2], data: data.collect() }));
        }
    }
    Some(Run { steps, now, best, least })
}

fn taken<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8; 8]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_comes_back() {
        let tensor = |n: u64, x| Tensor { dims: vec![n; 2], data: vec![x; (n * n) as usize] };
        let learned = |x| vec![("r1".into(), tensor(4, x)), ("r2.0".into(), tensor(2, x))];
        let run = Run { steps: 7, now: learned(0.5), best: learned(0.25), least: 1.5 };
        let bytes = pack(&run);
        assert_eq!(unpack(&bytes), Some(run));
        assert_eq!(unpack(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn flags_say_what_they_leave_out() {
        let flag: LearnFlag = "tokens=64,steps=3,seeds=1".parse().expect("a flag");
        assert_eq!((flag.how.steps, flag.tokens, flag.seeds), (3, 64, 1));
        assert_eq!(flag.how.rate, LearnFlag::default().how.rate);
        for wrong in ["steps", "steps=0", "rate=-1", "rate=2", "seeds=65", "speed=3"] {
            assert!(wrong.parse::<LearnFlag>().is_err(), "{wrong}");
        }
    }
}
