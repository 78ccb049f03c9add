//! The memory bandwidth of this machine, as far as a program can use it: the bound on decoding.
//!
//! Every thread sums its share of a buffer that is larger than the caches and lies in huge pages,
//! front to back, as decoding reads weights.

use crate::pool::Pool;
use crate::session::Memory;
use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes that are read: more than the caches of current machines.
const BUFFER_BYTES: usize = 256 << 20;
/// How long one measurement reads.
const MEASURE: Duration = Duration::from_millis(250);
/// Words that are summed side by side: one cache line. With more of them compilers load lines in an
/// order of their own, which keeps the hardware from fetching ahead.
const LANES: usize = 8;

/// A buffer and the threads that read it.
pub struct Probe {
    memory: Memory,
    pool: Pool,
}

/// What each task of a pass reads.
struct Pass<'p> {
    words: &'p [u64],
    workers: usize,
    sum: AtomicU64,
}

impl Probe {
    /// Allocates the buffer.
    pub fn new(threads: u32) -> io::Result<Probe> {
        let mut memory = Memory::new(BUFFER_BYTES)?;
        // Pages that were never written are all the same page of zeros.
        memory.bytes_mut().fill(1);
        Ok(Probe { memory, pool: Pool::new(threads) })
    }

    /// Bytes per second of the fastest pass: other programs can only slow one down.
    pub fn measure(&self) -> f64 {
        let (began, mut best) = (Instant::now(), Duration::MAX);
        while began.elapsed() < MEASURE {
            let pass = Instant::now();
            self.pass();
            best = best.min(pass.elapsed());
        }
        BUFFER_BYTES as f64 / best.as_secs_f64()
    }

    fn pass(&self) {
        // SAFETY: any eight bytes are a u64.
        let (_, words, _) = unsafe { self.memory.bytes().align_to::<u64>() };
        let workers = self.pool.workers();
        let pass = Pass { words, workers: workers as usize, sum: AtomicU64::new(0) };
        // SAFETY: `task` takes a Pass, which outlives the call and is shared safely.
        unsafe { self.pool.run(workers, task, (&raw const pass).cast_mut().cast()) };
        std::hint::black_box(pass.sum.into_inner());
    }
}

/// # Safety
/// `argument` points to a `Pass` of more than `index` workers.
unsafe extern "C" fn task(argument: *mut c_void, index: u32) {
    // SAFETY: by contract.
    let pass = unsafe { &*argument.cast::<Pass>() };
    let share = pass.words.len() / pass.workers;
    pass.sum.fetch_add(sum(&pass.words[share * index as usize..][..share]), Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
fn sum(words: &[u64]) -> u64 {
    #[target_feature(enable = "avx2")]
    fn wide(words: &[u64]) -> u64 {
        lanes(words)
    }
    match std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has the feature.
        true => unsafe { wide(words) },
        false => lanes(words),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn sum(words: &[u64]) -> u64 {
    lanes(words)
}

/// Independent sums, which become vectors of whatever width the caller is compiled for.
#[inline(always)]
fn lanes(words: &[u64]) -> u64 {
    let mut sums = [0u64; LANES];
    for block in words.chunks_exact(LANES) {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
