//! `--probe`: the interpreter before and after each pass, on a prompt of tokens by seed.

use crate::Error;
use ir::random::mix;
use ir::{Blobs, DType, EvalError, Interpreter, Module};
use passes::{Context, Pass};

/// Tokens of the prompt.
const PROMPT: u64 = 12;
/// How far, relative to the largest logit, a pass that claims to be exact may move logits.
const EXACT: f32 = 1e-4;

/// The numbers a probe runs on, and what it saw last.
pub(super) struct Probe<'b> {
    blobs: &'b dyn Blobs,
    last: Option<(Module, Vec<f32>)>,
}

impl Probe<'_> {
    pub(super) fn new(blobs: &dyn Blobs) -> Probe<'_> {
        Probe { blobs, last: None }
    }

    /// The largest difference of logits, relative to the largest logit before. For a pass that
    /// claims to be exact both sides keep their cache in f32: what it turns would be rounded to
    /// other halves.
    pub(super) fn distance(
        &mut self,
        before: &Module,
        after: &Module,
        exact: bool,
    ) -> Result<f32, Error> {
        let (before, after) = match exact {
            true => (wide(before), wide(after)),
            false => (before.clone(), after.clone()),
        };
        let expected = self.logits(before)?;
        let found = self.logits(after)?;
        let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        Ok(differences.fold(0.0, f32::max) / largest)
    }

    fn logits(&mut self, module: Module) -> Result<Vec<f32>, Error> {
        if let Some((known, logits)) = &self.last
            && *known == module
        {
            return Ok(logits.clone());
        }
        let vocab = module.meta.vocab;
        let prompt: Vec<u32> =
            (0..PROMPT.min(module.meta.context)).map(|i| (mix(i + 1) % vocab) as u32).collect();
        let logits = Interpreter::new(&module, self.blobs)
            .and_then(|mut interpreter| interpreter.run(&prompt))
            .map_err(refused)?;
        self.last = Some((module, logits.clone()));
        Ok(logits)
    }
}

fn refused(e: EvalError) -> Error {
    match e {
        EvalError::Blob(e) => Error::from(e),
        other => Error::new("IG0502", other.to_string()),
    }
}

/// The module with its cache in f32.
fn wide(module: &Module) -> Module {
    let mut module = module.clone();
    let context = Context { cache: Some(DType::F32), ..Context::default() };
    passes::cache::run(&mut module, &context).expect("a cache can be f32");
    module
}

/// An error if a pass that claims to be exact moved logits by more than rounding.
pub(super) fn check(pass: &Pass, distance: f32) -> Result<(), Error> {
    if !pass.exact || distance <= EXACT {
        return Ok(());
    }
    let what = format!("pass {} claims to be exact and moved the logits", pass.name);
    Err(Error::new("IG0505", what)
        .note(format!("by {distance:.1e} of the largest, at most {EXACT:.0e} is rounding"))
        .help("--pass-limit and --dump-before show the module it ran on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::sample::{Sample, Seeded};
    use passes::PASSES;

    #[test]
    fn a_pass_that_is_not_exact_is_found_out() {
        let before = Sample { dtype: DType::F32, ..Sample::default() }.module().unwrap();
        let blobs = Seeded::new(&before, 7);
        let mut after = before.clone();
        let context = Context { weights: Some(DType::F16), ..Context::default() };
        passes::select::run(&mut after, &context).unwrap();
        let mut probe = Probe::new(&blobs);
        assert_eq!(probe.distance(&before, &before, true).unwrap(), 0.0);
        let moved = probe.distance(&before, &after, true).unwrap();
        assert!(moved > EXACT, "{moved}");
        let named = |name| PASSES.iter().find(|pass| pass.name == name).unwrap();
        let error = check(named("rotate"), moved).unwrap_err();
        assert_eq!((error.code, error.exit_code()), ("IG0505", 3));
        check(named("rotate"), EXACT).unwrap();
        check(named("select"), moved).unwrap();
    }
}
