//! Emits what stands beside the kernels into this process, or into an object, and calls it.

#![allow(dead_code, reason = "each test uses its part of it")]

use cranelift_module::Module;
use cranelift_object::{ObjectBuilder, ObjectModule};
use ir::{Cache, DType, Meta, Type};
use object::{Object, ObjectSymbol};
use runtime::sample::reference::Sampling;
use runtime::sample::scratch_bytes;
use runtime::state::{self, StateLayout};
use runtime::{cpu, errors, pieces, sample, save};
use std::ffi::CStr;
use targets::jit::{self, Code};
use targets::{Arch, Emitter, Func, Target};

/// This machine with all it has, and with what every machine of its kind has.
pub fn hosts() -> Vec<Target> {
    let native = Target::native().unwrap();
    let baseline = Target::new(&targets::target::host_triple(), None, "").unwrap();
    vec![native, baseline]
}

/// A layout for a model of two equal caches, and one unlike them.
pub fn layout(context: u64, vocab: u64, dtype: DType) -> StateLayout {
    let cache =
        |name: &str, heads, head| Cache { name: name.into(), ty: Type::Kv { dtype, heads, head } };
    let meta = Meta { context, vocab, ..Meta::default() };
    let caches = vec![cache("a", 3, 64), cache("b", 3, 64), cache("c", 2, 48)];
    let module = ir::Module { meta, caches, ..Default::default() };
    StateLayout::new(&module, Arch::HOST, 1).unwrap()
}

/// Emits everything; the functions come in the order of the fields of `Runtime`.
pub fn emit(
    module: &mut dyn Module,
    target: &Target,
    layout: &StateLayout,
    tokens: Option<&[Vec<u8>]>,
) -> Vec<Func> {
    let mut emitter = Emitter::new(target, module, "smol", false);
    let checksum = save::emit_checksum(&mut emitter);
    let variant = cpu::emit_variant(&mut emitter, &[None]);
    let mut functions = save::emit(&mut emitter, layout, &checksum, &variant).to_vec();
    functions.push(sample::emit(&mut emitter, layout));
    functions.push(pieces::emit(&mut emitter, tokens));
    functions.push(errors::emit(&mut emitter));
    functions
}

/// An object of everything; that it needs nothing from outside is checked.
pub fn object(target: &Target, layout: &StateLayout) -> Vec<u8> {
    let names = cranelift_module::default_libcall_names();
    let builder = ObjectBuilder::new(target.optimised.clone(), "smol", names).unwrap();
    let mut module = ObjectModule::new(builder);
    emit(&mut module, target, layout, Some(&[b"piece".to_vec()]));
    let bytes = module.finish().emit().unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let undefined: Vec<&str> =
        file.symbols().filter(|s| s.is_undefined()).filter_map(|s| s.name().ok()).collect();
    assert!(undefined.iter().all(|name| name.is_empty()), "{}: {undefined:?}", target.name);
    bytes
}

/// `NAME_env`.
#[repr(C)]
pub struct Env {
    pub size: u32,
    pub workers: u32,
    pub weights: *const u8,
    pub scratch: *mut u8,
    pub scratch_bytes: usize,
    pub user: *mut u8,
    pub parallel: *const u8,
    pub poll: *const u8,
}

/// Bytes that start on a cache line.
pub struct Memory {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Memory {
    pub fn new(bytes: usize, fill: u8) -> Memory {
        Memory { lines: vec![Line([fill; 64]); bytes.div_ceil(64)] }
    }

    pub fn at(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    pub fn bytes(&self) -> &[u8] {
        let len = self.lines.len() * 64;
        // SAFETY: lines are bytes without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.lines.len() * 64;
        // SAFETY: lines are bytes without padding.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }
}

/// The emitted functions in this process.
pub struct Runtime {
    pub layout: StateLayout,
    pub position: unsafe extern "C" fn(*const u8) -> u32,
    pub truncate: unsafe extern "C" fn(*mut u8, u32) -> i32,
    pub save: unsafe extern "C" fn(*const u8, *mut u8, usize) -> i64,
    pub load: unsafe extern "C" fn(*mut u8, *const u8, usize) -> i32,
    pub sample: unsafe extern "C" fn(*const Env, *mut u8, *const Sampling) -> i32,
    pub piece: unsafe extern "C" fn(i32, *mut u8, usize) -> i32,
    error: unsafe extern "C" fn(i32) -> *const std::ffi::c_char,
    _code: Code,
}

impl Runtime {
    #[allow(clippy::missing_transmute_annotations, reason = "the fields have the annotations")]
    pub fn new(target: &Target, layout: StateLayout, tokens: Option<&[Vec<u8>]>) -> Runtime {
        let mut module = jit::module(target);
        let functions = emit(&mut module, target, &layout, tokens);
        let code = Code::new(module);
        macro_rules! function {
            ($i:expr) => {
                // SAFETY: the field has the signature that the function was emitted with.
                unsafe { std::mem::transmute(code.function(functions[$i].id)) }
            };
        }
        Runtime {
            layout,
            position: function!(0),
            truncate: function!(1),
            save: function!(2),
            load: function!(3),
            sample: function!(4),
            piece: function!(5),
            error: function!(6),
            _code: code,
        }
    }

    pub fn error(&self, status: i32) -> String {
        // SAFETY: texts are constants that end in zero.
        let text = unsafe { CStr::from_ptr((self.error)(status)) };
        text.to_str().unwrap().into()
    }

    pub fn piece(&self, token: i32, cap: usize) -> (i32, Vec<u8>) {
        let mut out = vec![0xee; cap + 1];
        // SAFETY: there is room for `cap` bytes.
        let n = unsafe { (self.piece)(token, out.as_mut_ptr(), cap) };
        assert_eq!(out.pop(), Some(0xee), "nothing is written behind the end");
        (n, out)
    }
}

/// One conversation, and scratch to sample with.
pub struct Conversation<'r> {
    pub runtime: &'r Runtime,
    pub state: Memory,
    pub scratch: Memory,
}

/// What memory holds before anyone writes it.
pub const GARBAGE: u8 = 0xa5;

impl<'r> Conversation<'r> {
    /// An initialised state without tokens; the rest of its memory is garbage.
    pub fn new(runtime: &'r Runtime) -> Conversation<'r> {
        let scratch = scratch_bytes(runtime.layout.vocab) as usize;
        let mut c = Conversation {
            runtime,
            state: Memory::new(runtime.layout.bytes as usize + 64, GARBAGE),
            scratch: Memory::new(scratch + 64, GARBAGE),
        };
        c.state.bytes_mut()[..64].fill(0);
        c.put(state::MAGIC as usize, &runtime.layout.identity.to_le_bytes());
        c
    }

    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.state.bytes_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn put_u32(&mut self, offset: i32, x: u32) {
        self.put(offset as usize, &x.to_le_bytes());
    }

    /// Makes the tokens the history.
    pub fn set_history(&mut self, tokens: &[i32]) {
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        self.put(self.runtime.layout.tokens as usize, &bytes);
        self.put_u32(state::POSITION, tokens.len() as u32);
    }

    /// Makes the logits valid, and hostile what follows them.
    pub fn set_logits(&mut self, logits: &[f32]) {
        let padding = [f32::INFINITY, f32::NAN, 3e38, -1.0].into_iter().cycle();
        let padded = logits.len().next_multiple_of(32);
        let all = logits.iter().copied().chain(padding).take(padded);
        let bytes: Vec<u8> = all.flat_map(f32::to_le_bytes).collect();
        self.put(self.runtime.layout.logits as usize, &bytes);
        self.put_u32(state::LOGITS_VALID, 1);
    }

    pub fn word(&self, offset: i32) -> u64 {
        u64::from_le_bytes(self.state.bytes()[offset as usize..][..8].try_into().unwrap())
    }

    pub fn env(&mut self) -> Env {
        Env {
            size: size_of::<Env>() as u32,
            workers: 0,
            weights: std::ptr::null(),
            scratch: self.scratch.at(),
            scratch_bytes: scratch_bytes(self.runtime.layout.vocab) as usize,
            user: std::ptr::null_mut(),
            parallel: std::ptr::null(),
            poll: std::ptr::null(),
        }
    }

    pub fn sample(&mut self, how: Option<&Sampling>) -> i32 {
        let env = self.env();
        let how = how.map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: state and scratch are as large as they must be.
        unsafe { (self.runtime.sample)(&env, self.state.at(), how) }
    }

    pub fn position(&mut self) -> u32 {
        // SAFETY: the state is one.
        unsafe { (self.runtime.position)(self.state.at()) }
    }

    pub fn truncate(&mut self, position: u32) -> i32 {
        // SAFETY: the state is one.
        unsafe { (self.runtime.truncate)(self.state.at(), position) }
    }

    /// The saved conversation, or a status; that nothing is written behind it is checked.
    pub fn save(&mut self) -> Result<Vec<u8>, i64> {
        let state = self.state.at();
        // SAFETY: `cap` 0 writes nothing.
        let needed = unsafe { (self.runtime.save)(state, std::ptr::null_mut(), 0) };
        if needed < 0 {
            return Err(needed);
        }
        let mut blob = vec![GARBAGE; needed as usize + 1];
        // SAFETY: there is room for `needed` bytes.
        let saved = unsafe { (self.runtime.save)(state, blob.as_mut_ptr(), needed as usize) };
        assert_eq!((saved, blob.pop()), (needed, Some(GARBAGE)));
        Ok(blob)
    }

    pub fn load(&mut self, blob: &[u8]) -> i32 {
        // SAFETY: both are as long as they say.
        unsafe { (self.runtime.load)(self.state.at(), blob.as_ptr(), blob.len()) }
    }
}

/// Numbers that look random and are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let x = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^ (x >> 32)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal.
    pub fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0) as f32
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
