//! What every command that compiles a model can be asked: one set of flags, one meaning.

mod codegen;
mod formats;
mod needs;

pub use codegen::{Codegen, WORKERS_MAX, calibration_target};
pub use formats::{Activations, Kv, Quant};
pub use needs::{check_dumps, fixed_ranges, needs_text};

use crate::Error;
use crate::calib::CalibFlags;
use crate::recipe::{self, BudgetFlag};
use crate::simulate::SimulateFlags;
use crate::transforms::TransformFlags;
use clap::Args;
use formats::ACTIVATION_GROUP;
use ir::{Cache, DType, Module, RowRange, Type};
use std::path::{Path, PathBuf};

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
    /// Safetensors file with more tensors that an .ingot file names, as rotations of a file are
    #[arg(help_heading = MODEL, long, value_name = "FILE", requires = "blobs")]
    pub tensors: Option<PathBuf>,
    /// Storage format of the weights: f32, f16, bf16, or wNaM: integers of N bits (8: one scale a row;
    /// 2 to 6: in groups) and activations of 8 bits (M = 8) or f32 (M = 16) [default: f16; as it stands
    /// in IR text]
    #[arg(help_heading = MODEL, long, value_name = "FORMAT")]
    pub quant: Option<Quant>,
    /// Formats of weights by name, a TOML file ([weights], then lines as "*.wv" = "i5g64"); the
    /// others are as --quant says, and activations in 8 bits unless it says wNa16. What --rotate puts
    /// before a tied head, "middle", has 8 bits unless a line has its whole name
    #[arg(help_heading = MODEL, long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Choose formats so that all weights take at most size=BYTES (80M) or bpw=BITS each, or a decoded
    /// token at most latency=TIME@BANDWIDTH (4ms@20GB/s; `ingot bench` measures it) or
    /// energy=ENERGY@ENERGY/B (2mJ@100pJ/B) for the weights it reads (,cache=2M stays between two calls
    /// of a layer); with ,ppl=+3% what comes of it is measured. Activations are in 8 bits unless
    /// --quant says wNa16. Needs --calib
    #[arg(help_heading = MODEL, long, value_name = "KIND=LIMIT[,ppl=+X%]")]
    pub budget: Option<BudgetFlag>,
    /// Storage format of the KV cache [default: i8 beside int8 activations, else f16; as it stands in IR
    /// text]
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
    /// Code generation: target-cpu=NAME|native, target-feature=+a,-b, threads=N (at most; 8),
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
        let rows = self.quant.is_none_or(Quant::allows_rows);
        if rows && (context.budget.is_some() || self.recipe.is_some()) {
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
            return Err(error.help("say --quant w8a8 or w4a8, --recipe or --budget"));
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

    /// The checkpoint that has the numbers.
    pub fn checkpoint(&self) -> &Path {
        self.blobs.as_ref().unwrap_or(&self.model)
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
}
