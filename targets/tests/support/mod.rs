//! Kernels called on memory made up by a test: in this process for every CPU it can run, and as
//! AArch64 under qemu.

#![allow(dead_code, reason = "each test uses its part of it")]

pub mod emulated;

use cranelift_codegen::ir::types::I64;
use targets::{Emitter, Func, Target, Tuning, jit};

/// Most arguments of a kernel.
pub const ARGUMENTS: usize = 12;
/// What is between the parts of a memory, and must stay.
const GUARD: [u8; 64] = [0x5a; 64];

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A number.
    Int(i64),
    /// An address: offset into the case's memory.
    At(usize),
}

use Arg::{At, Int};

/// Memory, and calls on it in order: which function, with what.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Parts, each aligned to 64, with guards between them.
    pub memory: Vec<u8>,
    /// Calls.
    pub calls: Vec<(usize, Vec<Arg>)>,
    /// Parts that kernels may use as each target likes: zeroed after the calls.
    pub private: Vec<(usize, usize)>,
}

impl Case {
    /// A part with these bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> usize {
        self.memory.extend(GUARD);
        let at = self.memory.len();
        self.memory.extend(bytes);
        let used = self.memory.len();
        self.memory.resize(used.next_multiple_of(64), GUARD[0]);
        self.memory.extend(GUARD);
        at
    }

    /// A part with these floats.
    pub fn floats(&mut self, values: &[f32]) -> usize {
        self.bytes(&bytes(values))
    }

    /// A part that a kernel writes: not-a-number until then.
    pub fn room(&mut self, floats: usize) -> usize {
        self.bytes(&vec![0xff; floats * 4])
    }

    /// A part that kernels may use as each target likes.
    pub fn private(&mut self, bytes: usize) -> usize {
        let at = self.bytes(&vec![0xff; bytes]);
        self.private.push((at, bytes));
        at
    }

    /// Calls function `which`.
    pub fn call(&mut self, which: usize, args: &[Arg]) {
        assert!(args.len() <= ARGUMENTS);
        self.calls.push((which, args.to_vec()));
    }

    /// The memory with one part overwritten: what a correct kernel leaves.
    pub fn with(&self, at: usize, values: &[f32]) -> Vec<u8> {
        let mut memory = self.memory.clone();
        memory[at..at + 4 * values.len()].copy_from_slice(&bytes(values));
        memory
    }

    /// Whether `after` differs from the memory within these parts only.
    pub fn only_changes(&self, after: &[u8], parts: &[(usize, usize)]) -> bool {
        let mut allowed = self.memory.clone();
        for &(at, len) in parts {
            allowed[at..at + len].copy_from_slice(&after[at..at + len]);
        }
        allowed == after
    }
}

/// Little-endian bytes.
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// `count` floats of a memory.
pub fn floats(memory: &[u8], at: usize, count: usize) -> Vec<f32> {
    let bytes = memory[at..at + 4 * count].chunks_exact(4);
    bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Numbers in [-1, 1) that look random, the same everywhere.
pub fn noise(seed: usize, count: usize) -> Vec<f32> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let x = (state ^ (state >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Distance in units of the last place of `expected`.
pub fn ulps(found: f32, expected: f32) -> f32 {
    let place = f32::from_bits(expected.abs().to_bits() + 1) - expected.abs();
    (found - expected).abs() / place
}

/// Targets that code can be called for here.
pub fn targets() -> Vec<Target> {
    let target = |triple, cpu| Target::new(triple, Some(cpu), "").expect("known");
    let mut targets = vec![];
    #[cfg(target_arch = "x86_64")]
    {
        targets.push(target("x86_64-unknown-linux-gnu", "x86-64"));
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            targets.push(target("x86_64-unknown-linux-gnu", "x86-64-v3"));
        }
        targets.push(target("x86_64-unknown-linux-gnu", "native"));
    }
    if cfg!(target_arch = "aarch64") || emulated::available() {
        targets.push(target("aarch64-unknown-linux-gnu", "generic"));
    }
    targets
}

/// Exports the functions under names that can be called from outside: `call_0` and so on.
fn export(e: &mut Emitter, functions: &[Func]) -> Vec<Func> {
    let one = |(i, f): (usize, &Func)| {
        let outer =
            e.declare_export(&format!("call_{i}"), &vec![I64; f.signature.params.len()], &[]);
        e.define(&outer, Tuning::Optimised, |k, args| {
            k.call(f, args);
            k.ret(&[]);
        });
        outer
    };
    functions.iter().enumerate().map(one).collect()
}

/// What the memory of each case holds after its calls of the functions that `define` emits.
pub fn run(
    target: &Target,
    define: &dyn Fn(&mut Emitter) -> Vec<Func>,
    cases: &[Case],
) -> Vec<Vec<u8>> {
    let here = std::env::consts::ARCH == target.triple.architecture.to_string();
    let mut found =
        if here { in_process(target, define, cases) } else { emulated::run(target, define, cases) };
    for (memory, case) in found.iter_mut().zip(cases) {
        case.private.iter().for_each(|&(at, bytes)| memory[at..at + bytes].fill(0));
    }
    found
}

type Function = extern "C" fn(i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);

/// Bytes on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn in_process(
    target: &Target,
    define: &dyn Fn(&mut Emitter) -> Vec<Func>,
    cases: &[Case],
) -> Vec<Vec<u8>> {
    let mut sink = jit::module(target);
    let mut e = Emitter::new(target, &mut sink, "kernels", false);
    let functions = define(&mut e);
    let functions = export(&mut e, &functions);
    let code = jit::Code::new(sink);
    let function = |which: usize| {
        let at = code.function(functions[which].id);
        // SAFETY: an emitted function takes at most twelve integers; the caller cleans up.
        unsafe { std::mem::transmute::<*const u8, Function>(at) }
    };
    let one = |case: &Case| {
        let mut lines = vec![Line([0; 64]); case.memory.len().div_ceil(64)];
        // SAFETY: lines are bytes without padding.
        let memory = unsafe {
            std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), case.memory.len())
        };
        memory.copy_from_slice(&case.memory);
        let base = memory.as_mut_ptr() as i64;
        for (which, args) in &case.calls {
            let mut a = [0i64; ARGUMENTS];
            for (value, arg) in a.iter_mut().zip(args) {
                *value = match *arg {
                    Int(x) => x,
                    At(offset) => base + offset as i64,
                };
            }
            let [a, b, c, d, e, f, g, h, i, j, k, l] = a;
            function(*which)(a, b, c, d, e, f, g, h, i, j, k, l);
        }
        memory.to_vec()
    };
    cases.iter().map(one).collect()
}

/// Runs the cases on every target and hands each result to `check`; results of targets with fused
/// multiply-add must be equal bit for bit.
pub fn everywhere(
    define: &dyn Fn(&mut Emitter) -> Vec<Func>,
    cases: &[Case],
    check: &dyn Fn(&Target, &[Vec<u8>]),
) {
    let mut fused: Option<(String, Vec<Vec<u8>>)> = None;
    for target in targets() {
        let found = run(&target, define, cases);
        check(&target, &found);
        if !target.facts.fma {
            continue;
        }
        let name = format!("{} {}", target.name, target.cpu);
        match &fused {
            None => fused = Some((name, found)),
            Some((other, expected)) => {
                let differs = (0..cases.len()).find(|&i| found[i] != expected[i]);
                assert_eq!(differs, None, "{name} and {other}: case");
            }
        }
    }
}
