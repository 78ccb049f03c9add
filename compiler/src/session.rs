//! A library in this process: the same functions that a build writes, called through the same C
//! interface, with memory and threads as a host program would give them.

use crate::pool::{Pool, Task, parallel};
use ir::{Blobs, Module, WeightId};
use memmap2::MmapMut;
use runtime::chat::Role;
pub use runtime::sample::reference::Sampling;
use runtime::{Library, Options, Text};
use std::ffi::c_void;
use std::io::{self, Cursor};
use std::ptr;
use targets::pack::PackError;
use targets::{Target, jit};

/// `struct NAME_env` as the header has it.
#[repr(C)]
pub struct Env {
    size: u32,
    workers: u32,
    weights: *const u8,
    scratch: *mut u8,
    scratch_bytes: usize,
    user: *mut c_void,
    parallel: Option<unsafe extern "C" fn(*mut c_void, u32, Task, *mut c_void)>,
    poll: Option<unsafe extern "C" fn(*mut c_void, u32, u32) -> i32>,
}

/// A negative status of the library, with the library's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("status {status}: {message}")]
pub struct Status {
    /// As in the header.
    pub status: i32,
    /// From `NAME_error`.
    pub message: &'static str,
}

/// A session that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No library for this model.
    #[error(transparent)]
    Library(#[from] runtime::LibraryError),
    /// Weights that could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Memory that could not be had.
    #[error(transparent)]
    Memory(#[from] io::Error),
}

/// Zeroed memory, aligned to huge pages, which the system is asked for.
pub struct Memory {
    map: MmapMut,
    start: usize,
    len: usize,
}

/// Alignment that lets the system use huge pages.
const HUGE_PAGE: usize = 2 << 20;

impl Memory {
    /// `len` bytes.
    pub fn new(len: usize) -> io::Result<Memory> {
        let map = MmapMut::map_anon(len + HUGE_PAGE)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        // Not every kernel offers huge pages; ordinary ones serve, only slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Memory { map, start, len })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

// SAFETY: code and memory are the session's own, and nothing of them is tied to a thread.
unsafe impl Send for Session {}

type Prefill = unsafe extern "C" fn(*const Env, *mut u8, *const i32, usize) -> i32;
type Chat = unsafe extern "C" fn(u32, u32, *const u8, usize, *mut i32, usize) -> i32;
type Score = unsafe extern "C" fn(*const Env, *mut u8, *const i32, usize, *mut f32) -> i32;

struct Functions {
    init: unsafe extern "C" fn(*const Env, *mut u8, usize) -> i32,
    prefill: Prefill,
    decode: unsafe extern "C" fn(*const Env, *mut u8, i32) -> i32,
    logits: unsafe extern "C" fn(*const Env, *const u8) -> *const f32,
    score: Score,
    sample: unsafe extern "C" fn(*const Env, *mut u8, *const Sampling) -> i32,
    position: unsafe extern "C" fn(*const u8) -> u32,
    truncate: unsafe extern "C" fn(*mut u8, u32) -> i32,
    save: unsafe extern "C" fn(*const u8, *mut u8, usize) -> i64,
    load: unsafe extern "C" fn(*mut u8, *const u8, usize) -> i32,
    chat: Chat,
    error: unsafe extern "C" fn(i32) -> *const std::ffi::c_char,
}

/// One conversation with a compiled model.
pub struct Session {
    // Fields drop in this order: nothing runs once the code is gone.
    pool: Option<Box<Pool>>,
    functions: Functions,
    state: Memory,
    scratch: Memory,
    weights: Memory,
    /// What was emitted.
    pub library: Library,
    vocab: usize,
    _code: jit::Code,
}

impl Session {
    /// Compiles a verified module for this machine (or what `target` leaves of it) and packs its
    /// weights into memory; `progress` hears the bytes packed.
    pub fn new(
        module: &Module,
        blobs: &dyn Blobs,
        target: &Target,
        options: &Options,
        workers: u32,
        progress: &dyn Fn(u64),
    ) -> Result<Session, StartError> {
        Session::with_text(module, None, blobs, target, options, workers, progress)
    }

    /// As `new`, with what is known of text.
    pub fn with_text(
        module: &Module,
        text: Option<&Text>,
        blobs: &dyn Blobs,
        target: &Target,
        options: &Options,
        workers: u32,
        progress: &dyn Fn(u64),
    ) -> Result<Session, StartError> {
        let mut sink = jit::module(target);
        let library = runtime::emit(&mut sink, target, module, text, options)?;
        let mut weights = Memory::new(library.weights.bytes as usize)?;
        library.weights.write(module, blobs, &mut Cursor::new(weights.bytes_mut()), progress)?;
        let code = jit::Code::new(sink);
        Ok(Session {
            pool: (workers > 1).then(|| Box::new(Pool::new(workers))),
            functions: functions(&library, &code),
            state: Memory::new(library.state.bytes as usize)?,
            scratch: Memory::new(library.scratch_bytes as usize)?,
            weights,
            vocab: module.meta.vocab as usize,
            library,
            _code: code,
        })
    }

    /// Packs other numbers of the same module into the same places.
    pub fn repack(&mut self, module: &Module, blobs: &dyn Blobs) -> Result<(), StartError> {
        let mut sink = Cursor::new(self.weights.bytes_mut());
        Ok(self.library.weights.write(module, blobs, &mut sink, &|_| {})?)
    }

    /// Packs other numbers of one weight into its place.
    pub fn repack_one(
        &mut self,
        module: &Module,
        id: WeightId,
        blobs: &dyn Blobs,
    ) -> Result<(), StartError> {
        let layout = &self.library.weights;
        let start = layout.offset(id) as usize;
        let mut sink = Cursor::new(&mut self.weights.bytes_mut()[start..]);
        Ok(layout.write_one(module, id, blobs, &mut sink)?)
    }

    fn env(&self) -> Env {
        let pool = self.pool.as_deref();
        Env {
            size: size_of::<Env>() as u32,
            workers: pool.map_or(1, Pool::workers),
            weights: self.weights.bytes().as_ptr(),
            scratch: self.scratch.bytes().as_ptr().cast_mut(),
            scratch_bytes: self.scratch.len,
            user: pool.map_or(ptr::null_mut(), |p| ptr::from_ref(p).cast_mut().cast()),
            parallel: pool.map(|_| parallel as _),
            poll: None,
        }
    }

    fn check(&self, status: i32) -> Result<i32, Status> {
        if status >= 0 {
            return Ok(status);
        }
        // SAFETY: the library returns a string constant for every status.
        let text = unsafe { std::ffi::CStr::from_ptr((self.functions.error)(status)) };
        Err(Status { status, message: text.to_str().unwrap_or("unreadable") })
    }

    fn state_at(&mut self) -> *mut u8 {
        self.state.bytes_mut().as_mut_ptr()
    }

    /// A new conversation.
    pub fn reset(&mut self) -> Result<(), Status> {
        let (env, bytes) = (self.env(), self.state.len);
        let at = self.state_at();
        // SAFETY: environment and state have the sizes that the library asked for.
        let status = unsafe { (self.functions.init)(&env, at, bytes) };
        self.check(status).map(|_| ())
    }

    /// Appends tokens.
    pub fn prefill(&mut self, tokens: &[i32]) -> Result<(), Status> {
        let env = self.env();
        let at = self.state_at();
        // SAFETY: as in `reset`; the library reads `tokens` only.
        let status = unsafe { (self.functions.prefill)(&env, at, tokens.as_ptr(), tokens.len()) };
        self.check(status).map(|_| ())
    }

    /// Appends one token.
    pub fn decode(&mut self, token: i32) -> Result<(), Status> {
        let env = self.env();
        let at = self.state_at();
        // SAFETY: as in `reset`.
        let status = unsafe { (self.functions.decode)(&env, at, token) };
        self.check(status).map(|_| ())
    }

    /// Appends tokens; the log-probability of each but the first.
    pub fn score(&mut self, tokens: &[i32]) -> Result<Vec<f32>, Status> {
        let mut logprobs = vec![0f32; tokens.len().max(1) - 1];
        let env = self.env();
        let at = self.state_at();
        let to = logprobs.as_mut_ptr();
        // SAFETY: as in `prefill`; `logprobs` has a place for every token but the first.
        let status = unsafe { (self.functions.score)(&env, at, tokens.as_ptr(), tokens.len(), to) };
        self.check(status).map(|_| logprobs)
    }

    /// The logits after the last token, once there is one.
    pub fn logits(&self) -> Option<&[f32]> {
        let env = self.env();
        // SAFETY: as in `reset`; the result is null or points to `vocab` floats of the state.
        unsafe {
            let at = (self.functions.logits)(&env, self.state.bytes().as_ptr());
            (!at.is_null()).then(|| std::slice::from_raw_parts(at, self.vocab))
        }
    }

    /// Draws the next token.
    pub fn sample(&mut self, sampling: &Sampling) -> Result<i32, Status> {
        let sampling = Sampling { size: size_of::<Sampling>() as u32, ..*sampling };
        let env = self.env();
        let at = self.state_at();
        // SAFETY: as in `reset`.
        let status = unsafe { (self.functions.sample)(&env, at, &sampling) };
        self.check(status)
    }

    /// A turn of a conversation as tokens: `role` says `text` after a turn of `after`.
    pub fn chat(&self, after: Role, role: Role, text: &str) -> Result<Vec<i32>, Status> {
        let (after, role, at, bytes) = (after as u32, role as u32, text.as_ptr(), text.len());
        // SAFETY: with no room for tokens nothing is written.
        let room = unsafe { (self.functions.chat)(after, role, at, bytes, ptr::null_mut(), 0) };
        let mut tokens = vec![0; self.check(room)? as usize];
        let to = tokens.as_mut_ptr();
        // SAFETY: `tokens` has the room that the first call asked for.
        let count = unsafe { (self.functions.chat)(after, role, at, bytes, to, tokens.len()) };
        tokens.truncate(self.check(count)? as usize);
        Ok(tokens)
    }

    /// Tokens held.
    pub fn position(&self) -> u32 {
        // SAFETY: as in `reset`.
        unsafe { (self.functions.position)(self.state.bytes().as_ptr()) }
    }

    /// Forgets all tokens from `position` on.
    pub fn truncate(&mut self, position: u32) -> Result<(), Status> {
        let at = self.state_at();
        // SAFETY: as in `reset`.
        let status = unsafe { (self.functions.truncate)(at, position) };
        self.check(status).map(|_| ())
    }

    /// The conversation as a blob.
    pub fn save(&self) -> Result<Vec<u8>, Status> {
        let at = self.state.bytes().as_ptr();
        // SAFETY: as in `reset`; the second call has the room that the first one asked for.
        let size = unsafe { (self.functions.save)(at, ptr::null_mut(), 0) };
        self.check(size.min(0) as i32)?;
        let mut blob = vec![0; size as usize];
        // SAFETY: as above.
        let status = unsafe { (self.functions.save)(at, blob.as_mut_ptr(), blob.len()) };
        self.check(status.min(0) as i32).map(|_| blob)
    }

    /// Continues a saved conversation.
    pub fn load(&mut self, blob: &[u8]) -> Result<(), Status> {
        let at = self.state_at();
        // SAFETY: as in `reset`.
        let status = unsafe { (self.functions.load)(at, blob.as_ptr(), blob.len()) };
        self.check(status).map(|_| ())
    }

    /// Ticks of each site (columns) in each call of the model (rows; the last is outside of calls)
    /// since the table was last taken; empty unless the library measures its steps.
    pub fn take_profile(&mut self) -> Vec<Vec<u64>> {
        let Some(profile) = &self.library.profile else { return vec![] };
        let scratch = self.scratch.bytes_mut();
        let mut take = |row, site| {
            let at = profile.place(row, site) as usize;
            let word = &mut scratch[at..at + 8];
            let ticks = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            word.fill(0);
            ticks
        };
        let sites = profile.sites.len() as u64;
        (0..profile.rows).map(|row| (0..sites).map(|site| take(row, site)).collect()).collect()
    }

    /// Bytes of weights, all read once per decoded token.
    pub fn weights_bytes(&self) -> u64 {
        self.library.weights.bytes
    }
}

fn functions(library: &Library, code: &jit::Code) -> Functions {
    // SAFETY: each function was emitted with exactly the C signature of its field.
    unsafe {
        Functions {
            init: function(library, code, "init"),
            prefill: function(library, code, "prefill"),
            decode: function(library, code, "decode"),
            logits: function(library, code, "logits"),
            score: function(library, code, "score"),
            sample: function(library, code, "sample"),
            position: function(library, code, "position"),
            truncate: function(library, code, "truncate"),
            save: function(library, code, "save"),
            load: function(library, code, "load"),
            chat: function(library, code, "chat"),
            error: function(library, code, "error"),
        }
    }
}

/// The exported function of that name.
///
/// # Safety
/// `F` is a function pointer type with the signature that the function was emitted with.
unsafe fn function<F: Copy>(library: &Library, code: &jit::Code, name: &str) -> F {
    const { assert!(size_of::<F>() == size_of::<*const u8>()) };
    let found = library.exports.iter().find(|(n, _)| *n == name);
    let at = code.function(found.expect("every function of the header is emitted").1);
    // SAFETY: by contract the address is of a function of type `F`.
    unsafe { std::mem::transmute_copy(&at) }
}
