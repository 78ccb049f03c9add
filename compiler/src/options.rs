//! What every command that compiles a model can be asked: one set of flags, one meaning.

use crate::Error;
use crate::transforms::TransformFlags;
use clap::{Args, ValueEnum};
use ir::{DType, IntFormat, Rounding};
use passes::round::Gptq;
use std::path::PathBuf;
use std::str::FromStr;
use targets::Target;

/// Headings of `--help`.
const MODEL: &str = "Model and code";
const DUMP: &str = "Passes";

/// Flags that shape the model and its code.
#[derive(Args, Clone, Debug)]
pub struct ModelFlags {
    /// Hugging Face directory, GGUF file, or IR text (.ingot, with --blobs)
    pub model: PathBuf,
    /// Checkpoint that an .ingot file takes its tensors and tokenizer from
    #[arg(help_heading = MODEL, long, value_name = "MODEL")]
    pub blobs: Option<PathBuf>,
    /// Storage format of the weights [default: f16; as it stands in IR text]
    #[arg(help_heading = MODEL, long, value_enum)]
    pub quant: Option<Quant>,
    /// Storage format of the KV cache [default: f16; as it stands in IR text]
    #[arg(help_heading = MODEL, long, value_enum)]
    pub kv: Option<Kv>,
    /// Positions a conversation may hold [default: the model's, at most 2048]
    #[arg(help_heading = MODEL, long, value_name = "N")]
    pub context: Option<u64>,
    /// Tokens that prefill takes at a time
    #[arg(help_heading = MODEL, long, value_name = "N", default_value_t = 64)]
    pub prefill_chunk: u64,
    /// Target triple [default: this machine]
    #[arg(help_heading = MODEL, long, value_name = "TRIPLE")]
    pub target: Option<String>,
    /// Code generation: target-cpu=NAME|native, target-feature=+a,-b, threads=N
    #[arg(help_heading = MODEL, short = 'C', value_name = "KEY=VALUE")]
    pub codegen: Vec<String>,
    /// How weights are transformed
    #[command(flatten)]
    pub transforms: TransformFlags,
    /// What calibration looks at
    #[command(flatten)]
    pub calib: CalibFlags,
    /// The IR on its way
    #[command(flatten)]
    pub dump: DumpFlags,
}

/// Flags of everything that looks at activations.
#[derive(Args, Clone, Debug)]
pub struct CalibFlags {
    /// Text to calibrate with
    #[arg(help_heading = MODEL, long, value_name = "FILE")]
    pub calib: Option<PathBuf>,
    /// Tokens of it to use
    #[arg(
        help_heading = MODEL, long, value_name = "N", default_value_t = 16384,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub calib_tokens: u64,
    /// How weights of integers are rounded: auto, nearest, mse, or gptq, which needs --calib and
    /// takes act-order, cover, damp=X, sweeps=N, correct=X after commas
    #[arg(help_heading = MODEL, long, value_name = "HOW", default_value = "auto")]
    pub round: Round,
}

/// How weights of integers are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Round {
    /// `Gptq` with a text, else `Mse`.
    Auto,
    /// The scale just covers each group.
    Nearest,
    /// The scale of least squared error.
    Mse,
    /// By the activations.
    Gptq(Gptq),
}

impl FromStr for Round {
    type Err = String;

    fn from_str(text: &str) -> Result<Round, String> {
        let mut parts = text.split(',');
        let mut gptq = match parts.next() {
            Some("auto") => return only(Round::Auto, parts),
            Some("nearest") => return only(Round::Nearest, parts),
            Some("mse") => return only(Round::Mse, parts),
            Some("gptq") => Gptq::default(),
            _ => return Err("expected auto, nearest, mse or gptq".into()),
        };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = || value.parse().map_err(|_| format!("`{part}`: expected {key}=NUMBER"));
            match key {
                "act-order" => gptq.act_order = true,
                "cover" => gptq.clip = false,
                "damp" => gptq.damp = number()?,
                "sweeps" => gptq.sweeps = number()? as u32,
                "correct" => gptq.correct = Some(number()?),
                _ => return Err(format!("gptq has no `{key}`")),
            }
        }
        Ok(Round::Gptq(gptq))
    }
}

fn only<'t>(round: Round, mut rest: impl Iterator<Item = &'t str>) -> Result<Round, String> {
    rest.next().map_or(Ok(round), |part| Err(format!("`{part}` is for gptq")))
}

impl CalibFlags {
    /// How to round, `auto` decided.
    pub fn round(&self) -> Round {
        match self.round {
            Round::Auto if self.calib.is_some() => Round::Gptq(Gptq::default()),
            Round::Auto => Round::Mse,
            asked => asked,
        }
    }

    /// The step of a weight's history; none for the search that `cast` does.
    pub fn rounding(&self) -> Option<Rounding> {
        match self.round() {
            Round::Nearest => Some(Rounding::Nearest),
            Round::Gptq(_) => Some(Rounding::Gptq),
            Round::Auto | Round::Mse => None,
        }
    }
}

/// Flags that show and stop the IR between passes.
#[derive(Args, Clone, Debug, Default)]
pub struct DumpFlags {
    /// Print the IR after this pass, `import`, `all` or `changed`
    #[arg(help_heading = DUMP, long, value_name = "PASS")]
    pub dump_after: Vec<String>,
    /// Print the IR before this pass or `all`
    #[arg(help_heading = DUMP, long, value_name = "PASS")]
    pub dump_before: Vec<String>,
    /// Write dumps into this folder as numbered files instead of standard error
    #[arg(help_heading = DUMP, long, value_name = "DIR")]
    pub dump_dir: Option<PathBuf>,
    /// Say what each pass did and how long it took, on standard error
    #[arg(help_heading = DUMP, long)]
    pub log_passes: bool,
    /// Run the interpreter before and after each pass; one that claims to be exact must be
    #[arg(help_heading = DUMP, long)]
    pub probe: bool,
    /// Run the first N passes only
    #[arg(help_heading = DUMP, long, value_name = "N")]
    pub pass_limit: Option<usize>,
}

/// Presets of weight formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quant {
    /// Single precision
    F32,
    /// Half precision
    F16,
    /// The upper half of single precision
    Bf16,
    /// 8-bit weights, one scale a row; 8-bit activations in groups of 64
    W8a8,
    /// 4-bit weights in groups of 32; 8-bit activations in groups of 32
    W4a8,
}

/// Formats of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// Single precision
    F32,
    /// Half precision
    F16,
}

/// What `-C` may hold, read.
#[derive(Clone, Debug)]
pub struct Codegen {
    /// CPU name, `None` for the baseline.
    pub cpu: Option<String>,
    /// Changes to its features.
    pub features: String,
    /// Workers that may take part at most.
    pub max_workers: u64,
}

/// The largest number of workers a library is made for.
pub const WORKERS_MAX: u64 = 64;

impl Quant {
    /// Element type of matrices.
    pub fn dtype(self) -> DType {
        match self {
            Quant::F32 => DType::F32,
            Quant::F16 => DType::F16,
            Quant::Bf16 => DType::BF16,
            Quant::W8a8 => DType::Int(IntFormat { bits: 8, group: 0, zero: false }),
            Quant::W4a8 => DType::Int(IntFormat { bits: 4, group: 32, zero: false }),
        }
    }

    /// Group in which activations are quantised.
    pub fn activation_group(self) -> Option<u32> {
        match self {
            Quant::F32 | Quant::F16 | Quant::Bf16 => None,
            Quant::W8a8 => Some(64),
            Quant::W4a8 => Some(32),
        }
    }
}

impl Kv {
    /// Element type of the cache.
    pub fn dtype(self) -> DType {
        match self {
            Kv::F32 => DType::F32,
            Kv::F16 => DType::F16,
        }
    }
}

/// What the pipeline is asked for.
pub fn context(
    quant: Option<Quant>,
    kv: Option<Kv>,
    round: Option<Rounding>,
) -> passes::Context<'static> {
    passes::Context {
        weights: quant.map(Quant::dtype),
        round,
        activation_group: quant.and_then(Quant::activation_group),
        cache: kv.map(Kv::dtype),
        ..passes::Context::default()
    }
}

impl ModelFlags {
    /// What the pipeline is asked for; a checkpoint becomes f16 unless the user says otherwise.
    pub fn context(&self) -> passes::Context<'static> {
        if self.is_text() {
            return context(self.quant, self.kv, self.calib.rounding());
        }
        let (quant, kv) = (self.quant.or(Some(Quant::F16)), self.kv.or(Some(Kv::F16)));
        context(quant, kv, self.calib.rounding())
    }

    /// Whether the model is IR text.
    pub fn is_text(&self) -> bool {
        self.model.extension().is_some_and(|e| e == "ingot")
    }

    /// Formats of weights and cache, in words.
    pub fn formats(&self) -> [String; 2] {
        let name = |dtype: Option<DType>| dtype.map_or("as written".into(), |d| d.to_string());
        let context = self.context();
        [name(context.weights), name(context.cache)]
    }

    /// The `-C` options, read.
    pub fn codegen(&self) -> Result<Codegen, Error> {
        let mut codegen = Codegen { cpu: None, features: String::new(), max_workers: 8 };
        for option in &self.codegen {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "target-cpu" => codegen.cpu = Some(value.into()),
                "target-feature" => {
                    codegen.features.push(',');
                    codegen.features.push_str(value);
                }
                "threads" => codegen.max_workers = threads(value)?,
                _ => {
                    let error = Error::new("IG0401", format!("-C {key} is not an option"));
                    return Err(error.help("known: target-cpu, target-feature, threads"));
                }
            }
        }
        Ok(codegen)
    }

    /// The target of a build: a triple, and its baseline CPU unless `-C` says otherwise.
    pub fn target(&self) -> Result<Target, Error> {
        let codegen = self.codegen()?;
        let triple = self.target.clone().unwrap_or_else(targets::target::host_triple);
        self.make_target(&triple, codegen.cpu.as_deref(), &codegen.features)
    }

    /// The target of code that runs in this process: all that this machine can do unless `-C` says
    /// otherwise.
    pub fn host_target(&self) -> Result<Target, Error> {
        let host = targets::target::host_triple();
        if self.target.as_ref().is_some_and(|t| *t != host) {
            let error = Error::new("IG0402", "code for another machine cannot run in this process");
            return Err(error.help(format!("leave --target out, or say {host}")));
        }
        let codegen = self.codegen()?;
        let cpu = codegen.cpu.as_deref().unwrap_or("native");
        let target = self.make_target(&host, Some(cpu), &codegen.features)?;
        let here = self.make_target(&host, Some("native"), "")?.features;
        let missing: Vec<&str> = target.features.difference(&here).copied().collect();
        match missing.is_empty() {
            true => Ok(target),
            false => Err(Error::new("IG0402", "this machine cannot run the code")
                .note(format!("it has no {}", missing.join(", ")))
                .help("leave -C target-cpu and target-feature out, or `ingot build` for there")),
        }
    }

    /// The target of code that calibrates: this machine, whatever the build is for.
    pub fn calibration_target(&self) -> Result<Target, Error> {
        self.make_target(&targets::target::host_triple(), Some("native"), "")
    }

    fn make_target(
        &self,
        triple: &str,
        cpu: Option<&str>,
        features: &str,
    ) -> Result<Target, Error> {
        Target::new(triple, cpu, features).map_err(|e| {
            Error::new("IG0402", e.what).help("`ingot targets` lists triples, CPUs and features")
        })
    }
}

fn threads(value: &str) -> Result<u64, Error> {
    match value.parse() {
        Ok(n) if (1..=WORKERS_MAX).contains(&n) => Ok(n),
        _ => Err(Error::new("IG0401", format!("-C threads={value}"))
            .note(format!("expected a number from 1 to {WORKERS_MAX}"))),
    }
}
