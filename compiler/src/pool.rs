//! Worker threads for a library that runs in this process: what a host program gives as `parallel`.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// `void (*task)(void *, uint32_t)`.
pub type Task = unsafe extern "C" fn(*mut c_void, u32);

/// How long a worker looks for the next job before it sleeps: decoding asks again at once.
const SPIN: Duration = Duration::from_micros(200);

/// Threads beside the calling one.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The job: its number and, in the lower half, its tasks, the calling thread's included. In one,
    /// for a worker that is not needed may be late.
    job: AtomicU64,
    task: AtomicUsize,
    argument: AtomicPtr<c_void>,
    left: AtomicU32,
    stop: AtomicBool,
}

impl Pool {
    /// A pool in which `workers` tasks run at the same time, the calling thread's included.
    pub fn new(workers: u32) -> Pool {
        let shared = Arc::new(Shared::default());
        let threads = (1..workers)
            .map(|index| {
                let shared = shared.clone();
                thread::spawn(move || shared.serve(index))
            })
            .collect();
        Pool { shared, threads }
    }

    /// Tasks that run at the same time.
    pub fn workers(&self) -> u32 {
        self.threads.len() as u32 + 1
    }

    /// Runs `task(argument, 0..n)`, each on a thread of its own, and returns when all have ended.
    ///
    /// # Safety
    /// `task` must be callable with `argument` from any thread; `n` at most the pool's workers.
    pub unsafe fn run(&self, n: u32, task: Task, argument: *mut c_void) {
        let shared = &self.shared;
        shared.task.store(task as usize, Ordering::Relaxed);
        shared.argument.store(argument, Ordering::Relaxed);
        shared.left.store(n - 1, Ordering::Relaxed);
        let number = (shared.job.load(Ordering::Relaxed) >> 32) + 1;
        shared.job.store(number << 32 | u64::from(n), Ordering::Release);
        self.threads.iter().for_each(|t| t.thread().unpark());
        // SAFETY: the caller vouches for task and argument.
        unsafe { task(argument, 0) };
        let start = Instant::now();
        while shared.left.load(Ordering::Acquire) != 0 {
            // A worker that is late has lost its core; it may need this one.
            if start.elapsed() < SPIN { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }
}

impl Shared {
    fn serve(&self, index: u32) {
        let mut seen = 0;
        while let Some(job) = self.next(seen) {
            seen = job;
            if index >= job as u32 {
                continue;
            }
            let task = self.task.load(Ordering::Relaxed);
            let argument = self.argument.load(Ordering::Relaxed);
            // SAFETY: `run` stored a Task and waits for it; its caller vouches for the call.
            unsafe { std::mem::transmute::<usize, Task>(task)(argument, index) };
            self.left.fetch_sub(1, Ordering::Release);
        }
    }

    /// The next job after `seen`, or `None` when the pool ends.
    fn next(&self, seen: u64) -> Option<u64> {
        let start = Instant::now();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let job = self.job.load(Ordering::Acquire);
            if job != seen {
                return Some(job);
            }
            if start.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                thread::park_timeout(Duration::from_millis(50));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A worker that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

/// The `parallel` of the C interface; `user` is a `Pool`.
///
/// # Safety
/// `user` points to a live `Pool` of at least `n` workers.
pub unsafe extern "C" fn parallel(user: *mut c_void, n: u32, task: Task, argument: *mut c_void) {
    // SAFETY: by contract `user` is a live pool, and the library vouches for its task.
    unsafe { (*user.cast::<Pool>()).run(n, task, argument) }
}
