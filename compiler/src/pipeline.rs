//! The pipeline as the command line drives it: which passes, dumps between them, what each did, and
//! whether it moved the logits.

mod dump;
mod probe;

use crate::Error;
use crate::options::DumpFlags;
use crate::output::say;
use dump::Dumps;
use ir::{Blobs, Module};
use passes::{Context, Outcome, PASSES, Pass, Seen};
use probe::Probe;
use std::ops::ControlFlow;
use targets::pack::WeightLayout;

/// Passes that what the user asked for needs, in the order of the table.
pub fn wanted(context: &Context<'_>) -> Vec<&'static Pass> {
    PASSES.iter().filter(|pass| pass.is_wanted(context)).collect()
}

/// Passes by name, in the order given, which must be one that the table allows.
pub fn named(names: &[String]) -> Result<Vec<&'static Pass>, Error> {
    let one = |name: &String| {
        PASSES.iter().find(|pass| pass.name == *name).ok_or_else(|| {
            let known: Vec<&str> = PASSES.iter().map(|pass| pass.name).collect();
            Error::new("IG0401", format!("no pass `{name}`"))
                .help(format!("known: {}", known.join(", ")))
        })
    };
    let chosen = names.iter().map(one).collect::<Result<Vec<&Pass>, Error>>()?;
    passes::check_order(&chosen).map_err(|e| Error::new("IG0401", e.to_string()))?;
    Ok(chosen)
}

/// Runs passes over a verified module, the first `--pass-limit` of them; dumps, tells and probes as
/// the flags say. `blobs` are the numbers that a probe runs on.
pub fn run(
    module: &mut Module,
    chosen: &[&Pass],
    context: &Context<'_>,
    blobs: &dyn Blobs,
    flags: &DumpFlags,
) -> Result<(), Error> {
    dump::check_names(flags)?;
    let mut observer = Observer {
        flags,
        dumps: Dumps::new(flags),
        probe: flags.probe.then(|| Probe::new(blobs)),
        before: None,
        bytes: 0,
    };
    observer.dumps.after("import", module, true)?;
    let limit = flags.pass_limit.unwrap_or(chosen.len()).min(chosen.len());
    let mut failed = None;
    passes::run(module, &chosen[..limit], context, &mut |step| match observer.see(step) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })
    .map_err(|e| match e.pass {
        passes::select::BUDGET => Error::new("IG0506", e.why),
        _ => Error::new("IG0501", e.to_string()),
    })?;
    if let (true, Some(pass)) = (observer.tells(), chosen.get(limit)) {
        say(&format!("stopped before {}, pass {} of {}", pass.name, limit + 1, chosen.len()));
    }
    failed.map_or(Ok(()), Err)
}

/// Sees every step of the pipeline.
struct Observer<'f> {
    flags: &'f DumpFlags,
    dumps: Dumps<'f>,
    probe: Option<Probe<'f>>,
    /// The module before the pass that runs, where a probe needs it.
    before: Option<Module>,
    /// Bytes of its weights.
    bytes: u64,
}

impl Observer<'_> {
    /// Whether passes are told of.
    fn tells(&self) -> bool {
        self.flags.log_passes || self.flags.probe
    }

    fn see(&mut self, step: Seen<'_>) -> Result<(), Error> {
        match step {
            Seen::Before(pass, module) => {
                if self.tells() {
                    self.bytes = weight_bytes(module);
                    self.before = self.probe.is_some().then(|| module.clone());
                }
                self.dumps.before(pass.name, module)
            }
            Seen::After(pass, module, outcome) => {
                self.dumps.after(pass.name, module, outcome.changed)?;
                if self.tells() {
                    self.tell(pass, module, outcome)?;
                }
                Ok(())
            }
        }
    }

    /// What a pass did, a line each, on standard error.
    fn tell(&mut self, pass: &Pass, module: &Module, outcome: &Outcome) -> Result<(), Error> {
        let millis = outcome.time.as_secs_f64() * 1e3;
        let mut lines = outcome.log.clone();
        if !outcome.changed {
            lines.push("unchanged".into());
        }
        let (before, after) = (self.bytes, weight_bytes(module));
        if before != after {
            lines.push(format!("weights {before} -> {after} bytes"));
        }
        let mut moved = Ok(());
        if let (Some(probe), Some(before)) = (&mut self.probe, self.before.take()) {
            let distance = probe.distance(&before, module, pass.exact)?;
            lines.push(format!("logits moved by {distance:.1e} of the largest"));
            moved = probe::check(pass, distance);
        }
        for (i, line) in lines.iter().enumerate() {
            match i {
                0 => say(&format!("{:<12} {millis:9.2} ms  {line}", pass.name)),
                _ => say(&format!("{:26}{line}", "")),
            }
        }
        moved
    }
}

fn weight_bytes(module: &Module) -> u64 {
    WeightLayout::new(module, targets::Arch::HOST).bytes
}
