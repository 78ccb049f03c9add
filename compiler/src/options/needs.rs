//! Flags that say nothing without another one, or against it: refused before anything is read.

use super::{Activations, DumpFlags, ModelFlags};
use crate::Error;
use crate::calib::Round;
use crate::simulate::SimulateFlags;
use crate::transforms::TransformFlags;

impl ModelFlags {
    /// Refuses flags that do not go together.
    pub fn check(&self) -> Result<(), Error> {
        if self.blobs.is_some() && !self.is_text() {
            return Err(Error::new("IG0401", "--blobs is for .ingot models only"));
        }
        self.simulate.check()?;
        check_dumps(&self.dump)?;
        let budget = self.budget.map(|_| "--budget");
        let asked =
            needs_text(&self.transforms, &self.simulate, self.activations, self.calib.round);
        match (&self.calib.calib, budget.or(asked)) {
            (None, Some(flag)) => Err(Error::new("IG0401", format!("{flag} needs a text"))
                .note("it follows from what the model makes of one")
                .help("say which: --calib FILE, or --calib self for one that the model writes")),
            _ => Ok(()),
        }
    }
}

/// A flag that asks for what only a text can show.
pub fn needs_text(
    transforms: &TransformFlags,
    simulate: &SimulateFlags,
    activations: Option<Activations>,
    round: Round,
) -> Option<&'static str> {
    let gptq = matches!(round, Round::Gptq { .. }).then_some("--round gptq");
    let fixed = fixed_ranges(simulate, activations);
    transforms.tried().or(transforms.smoothed()).or(fixed).or(gptq)
}

/// The flag that fixes the ranges of rows, if one does.
pub fn fixed_ranges(
    simulate: &SimulateFlags,
    activations: Option<Activations>,
) -> Option<&'static str> {
    let fixed = (activations == Some(Activations::Static)).then_some("--activations static");
    simulate.fixed().or(fixed)
}

/// Refuses a folder for dumps that nobody asked for.
pub fn check_dumps(dump: &DumpFlags) -> Result<(), Error> {
    match dump.dump_dir.is_some() && dump.dump_after.is_empty() && dump.dump_before.is_empty() {
        false => Ok(()),
        true => Err(Error::new("IG0401", "--dump-dir, and nothing to dump")
            .help("say what: --dump-after all, changed or the name of a pass")),
    }
}
