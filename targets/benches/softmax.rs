//! Speed of `softmax` over a tile of rows: `cargo bench -p ingot-targets --bench softmax`.
//!
//! Nanoseconds a score, for rows that see a whole block, and for the block on the diagonal; medians of
//! several runs.

use std::time::Instant;
use targets::kernels::softmax::{self, SCORE_STRIDE, running};
use targets::{Emitter, Target, jit};

type Softmax = extern "sysv64" fn(*mut f32, u64, i64, u64, u64, *mut u8, *const f32, *mut u8);

const ROWS: u64 = 32;
const POSITIONS: u64 = 256;

fn main() {
    let target = Target::native().expect("this machine is a target");
    for (r, g) in [(16, 1), (16, 2), (16, 4), (16, 8), (32, 8), (64, 8)] {
        println!("values {r} rows {g} groups {} ns", values(&target, r, g));
    }

    for (name, quantised) in [("floats", false), ("integers", true)] {
        for (sees, first, step) in [("whole", POSITIONS as i64, 0), ("diagonal", 113, 1)] {
            println!("{name:8} {sees:8} {:.3} ns", measure(&target, quantised, first, step));
        }
    }
}

fn values(target: &Target, rows: u64, groups: u64) -> f64 {
    use targets::kernels::int_panel::{self, Scales, Shape};
    let format = ir::IntFormat::symmetric(8, 0);
    let shape = Shape { format, group: 32, scales: Scales::None };
    let mut sink = jit::module(target);
    let mut e = Emitter::new(target, &mut sink, "b", false);
    let panel = int_panel::define(&mut e, shape);
    let code = jit::Code::new(sink);
    type PanelKernel =
        extern "sysv64" fn(*const u8, *const u8, *mut f32, u64, u64, u64, *const f32, u64, *mut u8);
    let panel = unsafe { std::mem::transmute::<*const u8, PanelKernel>(code.function(panel.id)) };
    let stride = softmax::weight_stride();
    let mut w = vec![3u8; 8192 * 4];
    let mut x = vec![1u8; (stride * 64) as usize + 64];
    for t in 0..rows {
        for g in 0..8 {
            let at = (t * stride + g * 48 + 32) as usize;
            x[at..at + 4].copy_from_slice(&1f32.to_le_bytes());
            x[at + 8..at + 12].copy_from_slice(&1f32.to_le_bytes());
        }
    }
    let mut y = vec![0f32; 64 * 64];
    let mut room = vec![0u8; 65536];
    let al = |p: *mut u8| unsafe { p.add(p.align_offset(64)) };
    let mut run = |times: u64| {
        let began = Instant::now();
        for _ in 0..times {
            panel(
                al(w.as_mut_ptr()),
                al(x.as_mut_ptr()),
                y.as_mut_ptr(),
                groups,
                stride,
                256,
                std::ptr::null(),
                rows,
                al(room.as_mut_ptr()),
            );
        }
        began.elapsed().as_secs_f64() / times as f64
    };
    let times = (2e-3 / run(10)).max(10.0) as u64;
    let mut seconds: Vec<f64> = (0..9).map(|_| run(times)).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[4] * 1e9
}

fn measure(target: &Target, quantised: bool, first: i64, step: u64) -> f64 {
    let mut sink = jit::module(target);
    let mut e = Emitter::new(target, &mut sink, "b", false);
    let softmax = softmax::define(&mut e, "softmax", 0.125, quantised, None);
    let code = jit::Code::new(sink);
    // SAFETY: the function takes the parameters that its docs name.
    let softmax = unsafe { std::mem::transmute::<*const u8, Softmax>(code.function(softmax.id)) };
    let mut scores = vec![0f32; (ROWS * SCORE_STRIDE / 4) as usize];
    let mut kept = vec![0f32; (ROWS * running::BYTES / 4) as usize];
    let scales = vec![0.01f32; POSITIONS as usize];
    let mut weights = vec![0u8; (ROWS * softmax::weight_stride()) as usize];
    let mut run = |times: u64| {
        let began = Instant::now();
        for _ in 0..times {
            kept.chunks_mut(running::BYTES as usize / 4).for_each(|row| {
                row[running::MAX as usize / 4] = running::NOTHING.0;
                row[running::SUM as usize / 4] = running::NOTHING.1;
            });
            softmax(
                scores.as_mut_ptr(),
                ROWS,
                first,
                step,
                POSITIONS,
                kept.as_mut_ptr().cast(),
                scales.as_ptr(),
                weights.as_mut_ptr(),
            );
        }
        began.elapsed().as_secs_f64() / times as f64
    };
    let times = (2e-3 / run(10)).max(10.0) as u64;
    let mut seconds: Vec<f64> = (0..9).map(|_| run(times)).collect();
    seconds.sort_by(f64::total_cmp);
    let scores: i64 =
        (0..ROWS as i64).map(|t| (first + t * step as i64).min(POSITIONS as i64)).sum();
    seconds[4] * 1e9 / scores as f64
}
