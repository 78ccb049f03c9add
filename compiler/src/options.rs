//! What every command that compiles a model can be asked: one set of flags, one meaning.

use crate::Error;
use crate::calib::CalibFlags;
use crate::recipe::{self, BudgetFlag};
use crate::simulate::SimulateFlags;
use crate::transforms::TransformFlags;
use clap::{Args, ValueEnum};
use ir::{Cache, DType, IntFormat, Module, RowRange, Type};
use std::path::PathBuf;
use std::str::FromStr;
use targets::Target;
use targets::target::VARIANTS;

/// Headings of `--help`.
const MODEL: &str = "Model and code";
const DUMP: &str = "Passes";
/// Group in which rows are quantised that meet matrices with one group a row.
const ACTIVATION_GROUP: u32 = 64;

/// Flags that shape the model and its code.
#[derive(Args, Clone, Debug)]
pub struct ModelFlags {
    /// Hugging Face directory, GGUF file, or IR text (.ingot, with --blobs)
    pub model: PathBuf,
    /// Checkpoint that an .ingot file takes its tensors and tokenizer from
    #[arg(help_heading = MODEL, long, value_name = "MODEL")]
    pub blobs: Option<PathBuf>,
    /// Storage format of the weights: f32, f16, bf16, or wNaM: integers of N bits (8: one scale a row;
    /// 2 to 6: in groups) and activations of 8 bits (M = 8) or f32 (M = 16) [default: f16; as it stands
    /// in IR text]
    #[arg(help_heading = MODEL, long, value_name = "FORMAT")]
    pub quant: Option<Quant>,
    /// Formats of weights by name, a TOML file ([weights], then lines as "*.wv" = "i5g64"); the
    /// others are as --quant says
    #[arg(help_heading = MODEL, long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Choose formats so that all weights take at most size=BYTES (80M) or bpw=BITS each, or a decoded
    /// token at most latency=TIME@BANDWIDTH (4ms@20GB/s; `ingot bench` measures it) or
    /// energy=ENERGY@ENERGY/B (2mJ@100pJ/B) for the weights it reads (,cache=2M stays between two calls
    /// of a layer); with ,ppl=+3% what comes of it is measured. Needs --calib
    #[arg(help_heading = MODEL, long, value_name = "KIND=LIMIT[,ppl=+X%]", requires = "calib")]
    pub budget: Option<BudgetFlag>,
    /// Storage format of the KV cache [default: f16; as it stands in IR text]
    #[arg(help_heading = MODEL, long, value_enum)]
    pub kv: Option<Kv>,
    /// Ranges of int8 activations [default: groups]
    #[arg(help_heading = MODEL, long, value_enum, value_name = "RANGES")]
    pub activations: Option<Activations>,
    /// What is rounded as if it were stored in fewer bits
    #[command(flatten)]
    pub simulate: SimulateFlags,
    /// Positions a conversation may hold [default: the model's, at most 2048]
    #[arg(help_heading = MODEL, long, value_name = "N")]
    pub context: Option<u64>,
    /// Tokens that prefill takes at a time
    #[arg(help_heading = MODEL, long, value_name = "N", default_value_t = 128)]
    pub prefill_chunk: u64,
    /// Target triple [default: this machine]
    #[arg(help_heading = MODEL, long, value_name = "TRIPLE")]
    pub target: Option<String>,
    /// Code generation: target-cpu=NAME|native, target-feature=+a,-b, threads=N,
    /// variants=baseline,avx2,… (several in one library, x86-64)
    #[arg(help_heading = MODEL, short = 'C', value_name = "KEY=VALUE")]
    pub codegen: Vec<String>,
    /// How weights are transformed
    #[command(flatten)]
    pub transforms: TransformFlags,
    /// What calibration looks at, and how weights are rounded
    #[command(flatten)]
    pub calib: CalibFlags,
    /// The IR on its way
    #[command(flatten)]
    pub dump: DumpFlags,
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

/// Presets of formats: of weights, and of the rows that they multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// Weights in floats, as are activations.
    Float(DType),
    /// `wNaM`: weights in N bits; activations in 8 bits, or (`a16`) in f32.
    Ints {
        /// Of a weight: a column of `PRESETS`.
        bits: u8,
        /// Whether activations are in 8 bits too.
        rows: bool,
    },
}

/// The format of weights in so many bits: 8 one scale a row; 4 in groups whose scales and zero points
/// are 4 bits each; fewer with low ends.
const PRESETS: [(u8, IntFormat); 6] = [
    (2, IntFormat { zero: true, ..IntFormat::symmetric(2, 64) }),
    (3, IntFormat { zero: true, ..IntFormat::symmetric(3, 64) }),
    (4, IntFormat { nested: true, zero: true, ..IntFormat::symmetric(4, 32) }),
    (5, IntFormat::symmetric(5, 64)),
    (6, IntFormat::symmetric(6, 64)),
    (8, IntFormat::symmetric(8, 0)),
];

/// Ranges of int8 activations, each of which has one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// Each group of a row, as it comes
    Groups,
    /// Each row, as it comes: one scale a token
    Token,
    /// Fixed, one for each place where rows meet matrices: needs --calib
    Static,
}

/// Formats of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// Single precision
    F32,
    /// Half precision
    F16,
    /// 8 bits, one scale for each head of each token; queries and weights of attention in 8 bits too
    I8,
    /// 4 bits, the same otherwise
    I4,
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
    /// Names of the kinds of kernels that a library holds side by side, worst first; none: those of
    /// the CPU.
    pub variants: Vec<&'static str>,
}

/// The largest number of workers a library is made for.
pub const WORKERS_MAX: u64 = 64;

impl Quant {
    /// Names of all of them.
    pub fn names() -> Vec<String> {
        let floats = ["f32", "f16", "bf16"].map(String::from);
        let ints = |rows| PRESETS.map(|(bits, _)| format!("w{bits}a{rows}"));
        floats.into_iter().chain(ints(8)).chain(ints(16)).collect()
    }

    /// Element type of matrices.
    pub fn dtype(self) -> DType {
        match self {
            Quant::Float(dtype) => dtype,
            Quant::Ints { bits, .. } => {
                let preset = PRESETS.iter().find(|(known, _)| *known == bits);
                DType::Int(preset.expect("only presets are read").1)
            }
        }
    }

    /// Group in which activations are quantised.
    pub fn activation_group(self) -> Option<u32> {
        matches!(self, Quant::Ints { rows: true, .. }).then_some(ACTIVATION_GROUP)
    }
}

impl FromStr for Quant {
    type Err = String;

    fn from_str(name: &str) -> Result<Quant, String> {
        if let Some(dtype) = DType::from_name(name).filter(|dtype| dtype.is_float()) {
            return Ok(Quant::Float(dtype));
        }
        let (bits, rows) =
            name.strip_prefix('w').and_then(|n| n.split_once('a')).unwrap_or_default();
        let preset = PRESETS.iter().find(|(known, _)| known.to_string() == bits);
        match (preset, rows) {
            (Some((bits, _)), "8") => Ok(Quant::Ints { bits: *bits, rows: true }),
            (Some((bits, _)), "16") => Ok(Quant::Ints { bits: *bits, rows: false }),
            (Some((bits, _)), "4") => Err(format!(
                "no kernel takes activations of 4 bits; --quant w{bits}a8 --simulate a4 measures what \
                 they lose"
            )),
            _ => Err(format!("expected one of {}", Quant::names().join(", "))),
        }
    }
}

impl Activations {
    /// What the range of a group is.
    pub fn range(self) -> RowRange {
        match self {
            Activations::Groups => RowRange::Group,
            Activations::Token => RowRange::Row,
            Activations::Static => RowRange::Fixed,
        }
    }
}

impl Kv {
    /// Element type of the cache.
    pub fn dtype(self) -> DType {
        match self {
            Kv::F32 => DType::F32,
            Kv::F16 => DType::F16,
            Kv::I8 => DType::Int(IntFormat::symmetric(8, 0)),
            Kv::I4 => DType::Int(IntFormat::symmetric(4, 0)),
        }
    }
}

/// What the pipeline is asked for.
pub fn context(quant: Option<Quant>, kv: Option<Kv>) -> passes::Context<'static> {
    passes::Context {
        weights: quant.map(Quant::dtype),
        activation_group: quant.and_then(Quant::activation_group),
        cache: kv.map(Kv::dtype),
        ..passes::Context::default()
    }
}

impl ModelFlags {
    /// What the pipeline is asked for.
    pub fn context(&self) -> Result<passes::Context<'static>, Error> {
        let (quant, kv) = self.asked();
        let mut context = passes::Context {
            round: self.calib.round().step(),
            budget: self.budget.map(|flag| flag.budget),
            ..context(quant, kv)
        };
        if let Some(path) = &self.recipe {
            context.recipe = recipe::read(path)?;
        }
        if context.budget.is_some() || self.recipe.is_some() {
            context.activation_group.get_or_insert(ACTIVATION_GROUP);
        }
        context.activation_range = self.activation_range(&context)?;
        self.simulate.apply(&mut context);
        Ok(context)
    }

    /// What the ranges of activations are, if there are any that can have one.
    fn activation_range(&self, context: &passes::Context) -> Result<RowRange, Error> {
        let Some(asked) = self.activations else { return Ok(RowRange::Group) };
        if context.activation_group.is_none() {
            let error = Error::new("IG0401", "--activations where activations are floats");
            return Err(error.help("say --quant w8a8, w4a8, --recipe or --budget too"));
        }
        if asked == Activations::Static && self.calib.calib.is_none() {
            let error = Error::new("IG0401", "--activations static without a text");
            return Err(error
                .note("fixed ranges are the largest values seen on a text")
                .help("name one with --calib FILE, or say --calib self"));
        }
        Ok(asked.range())
    }

    /// Formats of weights and cache: a checkpoint's weights are f16 unless the user says otherwise, and
    /// its cache is what `cache_beside` says.
    fn asked(&self) -> (Option<Quant>, Option<Kv>) {
        match self.is_text() {
            true => (self.quant, self.kv),
            false => (self.quant.or(Some(Quant::Float(DType::F16))), self.kv),
        }
    }

    /// The cache of a checkpoint that nobody chose one for: int8 beside quantised rows, if heads allow
    /// it, else f16.
    pub fn cache_beside(&self, context: &passes::Context, module: &Module) -> Option<DType> {
        let heads = |c: &Cache| matches!(c.ty, Type::Kv { head, .. } if head.is_multiple_of(16));
        let small = context.activation_group.is_some() && module.caches.iter().all(heads);
        let kv = if small { Kv::I8 } else { Kv::F16 };
        context.cache.or_else(|| (!self.is_text()).then_some(kv.dtype()))
    }

    /// The same model in other formats, without anything else that changes its numbers.
    pub fn plain(&self, quant: Quant, kv: Kv) -> ModelFlags {
        ModelFlags {
            quant: Some(quant),
            kv: Some(kv),
            recipe: None,
            budget: None,
            activations: None,
            simulate: SimulateFlags::default(),
            transforms: TransformFlags::default(),
            calib: CalibFlags::default(),
            dump: DumpFlags::default(),
            ..self.clone()
        }
    }

    /// Whether the model is IR text.
    pub fn is_text(&self) -> bool {
        self.model.extension().is_some_and(|e| e == "ingot")
    }

    /// Formats of a model's weights and cache, in words.
    pub fn formats(&self, module: &Module) -> [String; 2] {
        let name = |dtype: Option<DType>| dtype.map_or("as written".into(), |d| d.to_string());
        let weights = match (&self.recipe, self.budget) {
            (None, None) => name(self.asked().0.map(Quant::dtype)),
            _ => "mixed".into(),
        };
        let cache = module.caches.first().and_then(|c| match c.ty {
            Type::Kv { dtype, .. } => Some(dtype),
            Type::Tensor { .. } => None,
        });
        [weights, cache.map_or("none".into(), |dtype| dtype.to_string())]
    }

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
        let triple = self.target.clone().unwrap_or_else(targets::target::host_triple);
        let named = self.codegen()?.variants;
        let chosen = VARIANTS.into_iter().filter(|(name, ..)| named.contains(name));
        chosen
            .map(|(name, cpu, features)| {
                Ok((name, self.make_target(&triple, Some(cpu), features)?))
            })
            .collect()
    }

    /// The target of a build: a triple, and its baseline CPU unless `-C` says otherwise.
    pub fn target(&self) -> Result<Target, Error> {
        if let Some((_, least)) = self.variants()?.into_iter().next() {
            return Ok(least);
        }
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
        if !codegen.variants.is_empty() {
            let error = Error::new("IG0401", "-C variants is for libraries");
            return Err(error.help("leave it out: code that runs here is made for this machine"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_say_bits_of_weights_and_of_activations() {
        let of = |name: &str| {
            let quant: Quant = name.parse().expect("a preset");
            (quant.dtype().to_string(), quant.activation_group())
        };
        assert_eq!(of("bf16"), ("bf16".into(), None));
        assert_eq!(of("w8a8"), ("i8row".into(), Some(64)));
        assert_eq!(of("w4a16"), ("i4g32n".into(), None));
        assert_eq!(of("w3a8"), ("i3g64z".into(), Some(64)));
        for name in Quant::names() {
            of(&name);
        }
        let refusal = |name: &str| name.parse::<Quant>().expect_err(name);
        assert!(refusal("w4a4").contains("--quant w4a8 --simulate a4"));
        for wrong in ["w7a8", "w4a6", "w4", "w04a8", "i32", "i4g32", ""] {
            assert!(refusal(wrong).starts_with("expected one of f32, f16, bf16, w2a8"), "{wrong}");
        }
    }
}
