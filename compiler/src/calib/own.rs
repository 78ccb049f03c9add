//! Text that the model writes itself, to calibrate with (LLM-QAT, arXiv 2305.17888): a first token at
//! random, a few of the likeliest ones after it, then tokens drawn as they come.

use crate::progress;
use crate::session::{Sampling, Session, StartError, Status};
use crate::spread::spread;
use ir::random::mix;
use ir::{Blobs, DType, Module};
use passes::{Context, PassError};
use runtime::Options;
use targets::Target;

/// Tokens at the start of a window that are the likeliest, after the first one: 2 to 4 of them.
const GREEDY: [u64; 3] = [2, 3, 4];

/// `count` windows of `length` tokens, the same for the same seed on any number of threads. A window
/// that comes to its end begins anew, with another first token. Matrices in f32 are read as bf16: a
/// token is drawn at the speed of memory, and what is likely stays so.
pub fn write(
    module: &Module,
    blobs: &dyn Blobs,
    target: &Target,
    [count, length]: [usize; 2],
    seed: u64,
    threads: u32,
) -> Result<Vec<Vec<i32>>, WriteError> {
    let mut module = module.clone();
    module.meta.context = length as u64;
    if module.weights.iter().all(|weight| weight.dtype == DType::F32) {
        passes::select::run(
            &mut module,
            &Context { weights: Some(DType::BF16), ..Context::default() },
        )?;
    }
    let options = Options::default();
    let one = |_| Session::new(&module, blobs, target, &options, 1, &|_| {});
    let mut sessions = (0..threads).map(one).collect::<Result<Vec<_>, _>>()?;
    let bar = progress::steps("writing text", count as u64);
    let windows = spread(&mut sessions, count, |session, at| {
        bar.inc(1);
        window(session, &module, length, mix(seed) ^ at as u64)
    })?;
    bar.finish_and_clear();
    Ok(windows)
}

/// Text that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The model does not compile, or its weights cannot be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its matrices cannot be read as bf16.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The model refused a token.
    #[error(transparent)]
    Refused(#[from] Status),
}

fn window(
    session: &mut Session,
    module: &Module,
    length: usize,
    seed: u64,
) -> Result<Vec<i32>, Status> {
    let meta = &module.meta;
    let (mut draw, mut tokens) = (mix(seed), vec![]);
    while tokens.len() < length {
        draw = mix(draw.wrapping_add(1));
        session.reset()?;
        let first = (draw % meta.vocab) as i32;
        let greedy = GREEDY[(draw >> 40) as usize % GREEDY.len()];
        tokens.push(first);
        let mut token = first;
        for n in 0.. {
            if tokens.len() == length {
                break;
            }
            session.decode(token)?;
            let temperature = if n < greedy { 0.0 } else { 1.0 };
            let sampling = Sampling { temperature, seed: draw, ..Sampling::default() };
            token = session.sample(&sampling)?;
            tokens.push(token);
            if meta.eos.contains(&(token as u32)) {
                break;
            }
        }
    }
    Ok(tokens)
}
