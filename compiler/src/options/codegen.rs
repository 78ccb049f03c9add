//! `--target` and `-C`: which machine code is for.

use super::ModelFlags;
use crate::Error;
use targets::target::{VARIANTS, host_triple};
use targets::{Arch, Target};

/// What `-C` may hold, read.
#[derive(Clone, Debug)]
pub struct Codegen {
    /// CPU name, `None` for the baseline.
    pub cpu: Option<String>,
    /// Changes to its features.
    pub features: String,
    /// Workers that may take part at most.
    pub max_workers: u64,
    /// Names of the kinds of kernels that a library holds side by side, worst first; none: those of
    /// the CPU.
    pub variants: Vec<&'static str>,
}

/// The largest number of workers a library is made for.
pub const WORKERS_MAX: u64 = 64;

impl ModelFlags {
    /// The `-C` options, read.
    pub fn codegen(&self) -> Result<Codegen, Error> {
        let mut codegen =
            Codegen { cpu: None, features: String::new(), max_workers: 8, variants: vec![] };
        for option in &self.codegen {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "target-cpu" => codegen.cpu = Some(value.into()),
                "target-feature" => {
                    codegen.features.push(',');
                    codegen.features.push_str(value);
                }
                "threads" => codegen.max_workers = threads(value)?,
                "variants" => codegen.variants = variants(value)?,
                _ => {
                    let error = Error::new("IG0401", format!("-C {key} is not an option"));
                    return Err(error.help("known: target-cpu, target-feature, variants, threads"));
                }
            }
        }
        if !codegen.variants.is_empty() && (codegen.cpu.is_some() || !codegen.features.is_empty()) {
            return Err(Error::new("IG0401", "-C variants beside target-cpu or target-feature")
                .help("variants are CPUs by themselves; leave one of the two out"));
        }
        Ok(codegen)
    }

    /// The CPUs of the triple that `-C variants` names, worst first.
    pub fn variants(&self) -> Result<Vec<(&'static str, Target)>, Error> {
        let triple = self.triple();
        let named = self.codegen()?.variants;
        if !named.is_empty() && new_target(&triple, None, "")?.facts.arch != Arch::X64 {
            return Err(Error::new("IG0401", format!("-C variants for {triple}")).help(
                "variants are CPUs of x86-64: leave it out, or choose one with -C target-cpu",
            ));
        }
        let chosen = VARIANTS.into_iter().filter(|(name, ..)| named.contains(name));
        chosen
            .map(|(name, cpu, features)| Ok((name, new_target(&triple, Some(cpu), features)?)))
            .collect()
    }

    fn triple(&self) -> String {
        self.target.clone().unwrap_or_else(host_triple)
    }

    /// The target of a build: a triple, and its baseline CPU unless `-C` says otherwise.
    pub fn target(&self) -> Result<Target, Error> {
        if let Some((_, least)) = self.variants()?.into_iter().next() {
            return Ok(least);
        }
        let codegen = self.codegen()?;
        let triple = self.triple();
        new_target(&triple, codegen.cpu.as_deref(), &codegen.features)
    }

    /// The target of code that runs in this process: all that this machine can do unless `-C` says
    /// otherwise.
    pub fn host_target(&self) -> Result<Target, Error> {
        let host = host_triple();
        if self.target.as_ref().is_some_and(|t| *t != host) {
            let error = Error::new("IG0402", "code for another machine cannot run in this process");
            return Err(error.help(format!("leave --target out, or say {host}")));
        }
        let codegen = self.codegen()?;
        if !codegen.variants.is_empty() {
            let error = Error::new("IG0401", "-C variants is for libraries");
            return Err(error.help("leave it out: code that runs here is made for this machine"));
        }
        let cpu = codegen.cpu.as_deref().unwrap_or("native");
        let target = new_target(&host, Some(cpu), &codegen.features)?;
        let here = new_target(&host, Some("native"), "")?.features;
        let missing: Vec<&str> = target.features.difference(&here).copied().collect();
        match missing.is_empty() {
            true => Ok(target),
            false => Err(Error::new("IG0402", "this machine cannot run the code")
                .note(format!("it has no {}", missing.join(", ")))
                .help("leave -C target-cpu and target-feature out, or `ingot build` for there")),
        }
    }
}

/// The target of code that calibrates: this machine, whatever a build is for.
pub fn calibration_target() -> Result<Target, Error> {
    new_target(&host_triple(), Some("native"), "")
}

fn new_target(triple: &str, cpu: Option<&str>, features: &str) -> Result<Target, Error> {
    Target::new(triple, cpu, features).map_err(|e| {
        Error::new("IG0402", e.what).help("`ingot targets` lists triples, CPUs and features")
    })
}

/// Names in any order; of several, each once.
fn variants(value: &str) -> Result<Vec<&'static str>, Error> {
    let all = VARIANTS.map(|(name, ..)| name);
    let known = |name: &str| all.into_iter().find(|known| *known == name);
    value.split(',').map(|name| known(name.trim()).ok_or(name)).collect::<Result<_, _>>().map_err(
        |name| {
            Error::new("IG0401", format!("-C variants={value}: `{name}` is not a variant"))
                .help(format!("known: {}", all.join(", ")))
        },
    )
}

fn threads(value: &str) -> Result<u64, Error> {
    match value.parse() {
        Ok(n) if (1..=WORKERS_MAX).contains(&n) => Ok(n),
        _ => Err(Error::new("IG0401", format!("-C threads={value}"))
            .note(format!("expected a number from 1 to {WORKERS_MAX}"))),
    }
}
