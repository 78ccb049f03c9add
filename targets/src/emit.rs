//! Functions and data into a module, whichever kind it is: object file or process memory.
//!
//! Each function is compiled here and handed over as bytes, so that its way of compiling can be
//! chosen one by one, and its frame, its text and its listing are known.

use crate::builder::{Func, Kernel, Val, build, signature};
use crate::target::Target;
use cranelift_codegen::Context;
use cranelift_codegen::FinalizedMachReloc;
use cranelift_codegen::ir::{Signature, Type, UserFuncName};
use cranelift_codegen::isa::CallConv;
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleReloc};
use std::collections::BTreeMap;

/// How a function is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// Instructions stay in the order written: hand-ordered kernels.
    Ordered,
    /// Cranelift optimises: everything else.
    Optimised,
}

/// What is known of an emitted function.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Symbol.
    pub name: String,
    /// Machine code bytes.
    pub code_bytes: usize,
    /// Stack of one activation, return address included.
    pub frame_bytes: u32,
    /// Our functions that it calls.
    pub callees: Vec<FuncId>,
    /// CLIF, empty for assembled code.
    pub clif: String,
    /// Machine code as text.
    pub asm: String,
}

/// Collects functions and data of one library.
pub struct Emitter<'m> {
    /// The target.
    pub target: &'m Target,
    module: &'m mut dyn Module,
    prefix: String,
    listings: BTreeMap<FuncId, Listing>,
    keep_text: bool,
}

impl<'m> Emitter<'m> {
    /// An emitter of symbols that start with `prefix`; `keep_text` keeps CLIF and listings.
    pub fn new(
        target: &'m Target,
        module: &'m mut dyn Module,
        prefix: &str,
        keep_text: bool,
    ) -> Emitter<'m> {
        let (prefix, listings) = (prefix.into(), BTreeMap::new());
        Emitter { target, module, prefix, listings, keep_text }
    }

    /// Emits for another CPU of the same triple; `name` goes into the symbols of what is emitted.
    pub fn with<R>(
        &mut self,
        target: &'m Target,
        name: &str,
        emit: impl FnOnce(&mut Emitter<'m>) -> R,
    ) -> R {
        let prefix = format!("{}_{name}", self.prefix);
        let prefix = std::mem::replace(&mut self.prefix, prefix);
        let own = std::mem::replace(&mut self.target, target);
        let result = emit(self);
        (self.prefix, self.target) = (prefix, own);
        result
    }

    /// Declares an internal function.
    pub fn declare(&mut self, name: &str, params: &[Type], results: &[Type]) -> Func {
        self.declare_as(name, signature(params, results, CallConv::SystemV), Linkage::Local)
    }

    /// Declares a function of the C interface.
    pub fn declare_export(&mut self, name: &str, params: &[Type], results: &[Type]) -> Func {
        self.declare_as(name, self.target.c_signature(params, results), Linkage::Export)
    }

    /// Declares an internal function that a caller's code calls back.
    pub fn declare_callback(&mut self, name: &str, params: &[Type], results: &[Type]) -> Func {
        self.declare_as(name, self.target.c_signature(params, results), Linkage::Local)
    }

    fn declare_as(&mut self, name: &str, signature: Signature, linkage: Linkage) -> Func {
        let symbol = format!("{}_{name}", self.prefix);
        let id = self
            .module
            .declare_function(&symbol, linkage, &signature)
            .expect("symbols are declared once, with one signature");
        Func { id, signature }
    }

    /// Writes and compiles the body of a declared function.
    pub fn define(
        &mut self,
        f: &Func,
        tuning: Tuning,
        body: impl for<'k> FnOnce(&'k Kernel<'k>, &[Val<'k>]),
    ) {
        let mut context = Context::new();
        context.func.signature = f.signature.clone();
        context.func.name = UserFuncName::user(0, f.id.as_u32());
        build(&mut context.func, &self.target.facts, body);
        context.set_disasm(self.keep_text);
        let isa = match tuning {
            Tuning::Ordered => &self.target.ordered,
            Tuning::Optimised => &self.target.optimised,
        };
        let clif = if self.keep_text { context.func.display().to_string() } else { String::new() };
        let name = self.symbol(f.id);
        let code = match context.compile(&**isa, &mut Default::default()) {
            Ok(code) => code,
            Err(e) => panic!("{name}: {:?}\n{}", e.inner, e.func.display()),
        };
        let bytes = code.buffer.data().to_vec();
        let align = u64::from(code.buffer.alignment);
        let frame = code.buffer.frame_layout().map_or(0, |l| l.frame_to_fp_offset) + 16;
        let asm = code.vcode.clone().unwrap_or_default();
        let raw: Vec<FinalizedMachReloc> = code.buffer.relocs().to_vec();
        let relocs: Vec<ModuleReloc> =
            raw.iter().map(|r| ModuleReloc::from_mach_reloc(r, &context.func, f.id)).collect();
        self.add(f, align, &bytes, &relocs, frame, clif, asm);
    }

    /// Takes assembled code as the body of a declared function; it calls nothing and uses
    /// `frame_bytes` of stack.
    pub fn define_assembled(&mut self, f: &Func, bytes: &[u8], frame_bytes: u32, asm: String) {
        self.add(f, 64, bytes, &[], frame_bytes + 16, String::new(), asm);
    }

    #[allow(clippy::too_many_arguments, reason = "one place where a function's facts meet")]
    fn add(
        &mut self,
        f: &Func,
        align: u64,
        bytes: &[u8],
        relocs: &[ModuleReloc],
        frame_bytes: u32,
        clif: String,
        asm: String,
    ) {
        self.module
            .define_function_bytes(f.id, align.max(32), bytes, relocs)
            .expect("a function is defined once");
        let callees = relocs.iter().filter_map(callee).collect();
        let name = self.symbol(f.id);
        let code_bytes = bytes.len();
        self.listings.insert(f.id, Listing { name, code_bytes, frame_bytes, callees, clif, asm });
    }

    /// Read-only data.
    pub fn constant(&mut self, name: &str, bytes: Vec<u8>, align: u64) -> DataId {
        let id = self.declare_data(name);
        let mut description = DataDescription::new();
        description.define(bytes.into_boxed_slice());
        description.set_align(align);
        self.module.define_data(id, &description).expect("data is defined once");
        id
    }

    /// Read-only data that is declared here and placed by whoever finishes the module.
    pub fn declare_data(&mut self, name: &str) -> DataId {
        let symbol = format!("{}_{name}", self.prefix);
        self.module
            .declare_data(&symbol, Linkage::Local, false, false)
            .expect("data is declared once")
    }

    fn symbol(&self, id: FuncId) -> String {
        self.module.declarations().get_function_decl(id).linkage_name(id).to_string()
    }

    /// All functions so far, in order of declaration.
    pub fn listings(&self) -> impl Iterator<Item = &Listing> {
        self.listings.values()
    }

    /// Stack of the deepest call chain from `roots`.
    pub fn stack_bytes(&self, roots: &[FuncId]) -> u32 {
        let mut known = BTreeMap::new();
        roots.iter().map(|r| self.depth(*r, &mut known)).max().unwrap_or(0)
    }

    fn depth(&self, id: FuncId, known: &mut BTreeMap<FuncId, u32>) -> u32 {
        if let Some(&depth) = known.get(&id) {
            return depth;
        }
        let Some(listing) = self.listings.get(&id) else { return 0 };
        let below = listing.callees.iter().map(|c| self.depth(*c, known)).max().unwrap_or(0);
        let depth = listing.frame_bytes + below;
        known.insert(id, depth);
        depth
    }
}

fn callee(reloc: &ModuleReloc) -> Option<FuncId> {
    match reloc.name {
        cranelift_module::ModuleRelocTarget::User { namespace: 0, index } => {
            Some(FuncId::from_u32(index))
        }
        _ => None,
    }
}
