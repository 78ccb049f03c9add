//! Pieces of work that do not need each other, spread over workers that each need a thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does the pieces `0..count`, each by whichever worker is free; results are in the order of the
/// pieces. The first error ends the worker it happens to.
pub fn spread<W: Send, R: Send, E: Send>(
    workers: &mut [W],
    count: usize,
    work: impl Fn(&mut W, usize) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let all = |worker: &mut W| -> Result<Vec<(usize, R)>, E> {
        let mut done = vec![];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(done);
            }
            done.push((at, work(worker, at)?));
        }
    };
    let parts: Vec<Result<Vec<(usize, R)>, E>> = thread::scope(|scope| {
        let threads: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(|| all(worker))).collect();
        threads.into_iter().map(|t| t.join().expect("a worker panicked")).collect()
    });
    let mut results = vec![];
    for part in parts {
        results.extend(part?);
    }
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_and_in_its_place() {
        for workers in 1..4 {
            let mut counts = vec![0; workers];
            let squares = spread(&mut counts, 50, |count, at| {
                *count += 1;
                Ok::<usize, ()>(at * at)
            });
            assert_eq!(squares, Ok((0..50).map(|at| at * at).collect()));
            assert_eq!(counts.iter().sum::<i32>(), 50);
        }
    }

    #[test]
    fn errors_come_out() {
        let odd = |_: &mut (), at: usize| if at == 7 { Err(at) } else { Ok(at) };
        assert_eq!(spread(&mut [(), ()], 10, odd), Err(7));
    }
}
