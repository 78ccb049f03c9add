//! Speed of the integer panel kernels out of the cache: `cargo bench -p ingot-targets --bench int_panel`.
//!
//! Per format and feature set, for 1 row (decode) and 128 rows (prefill): billions of operations per
//! second, and of weight bytes; medians of several runs. Arguments name formats.

mod support;

use ir::quant::Quantised;
use ir::{IntFormat, RowRange, Tensor};
use std::time::Instant;
use support::noise;
use targets::kernels::int_panel::{self, Shape};
use targets::kernels::panel::PANEL_ROWS;
use targets::kernels::quant_rows;
use targets::{Emitter, Target, jit};

type QuantRows = extern "sysv64" fn(*const f32, *mut u8, u64, u64, u64, u64);
type PanelKernel =
    extern "sysv64" fn(*const u8, *const u8, *mut f32, u64, u64, u64, *const f32, u64, *mut u8);

/// Format of weights, group of activations, columns; rows with one range are measured too where
/// there are kernels for them.
const SHAPES: [(&str, u64, u64); 11] = [
    ("i4g32n", 64, 576),
    ("i4g32n", 64, 1536),
    ("i4g32", 32, 576),
    ("i4g32", 32, 1536),
    ("i8row", 64, 576),
    ("i8g32", 32, 576),
    ("i2g32", 32, 576),
    ("i3g32", 32, 576),
    ("i5g32", 32, 576),
    ("i6g32", 32, 576),
    ("e2m1g32", 32, 576),
];

/// Rows of the matrix.
const WEIGHT_ROWS: u64 = 576;

const CPUS: [(&str, &str); 6] = [
    ("x86-64", ""),
    ("x86-64-v2", ""),
    ("x86-64-v3", ""),
    ("alderlake", ""),
    ("native", "-amx-tile,-amx-int8"),
    ("native", ""),
];

fn main() {
    println!("{:22} {:14} {:>5} {:>5} {:>9} {:>9}", "cpu", "format", "k", "rows", "GOP/s", "GB/s");
    let native = Target::native().expect("this machine is a target").features;
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    for (name, group, columns) in SHAPES.into_iter().filter(|(name, ..)| wanted(name)) {
        let format = IntFormat::from_name(name).expect("a format");
        for (cpu, features) in CPUS {
            let target = Target::new("x86_64-unknown-linux-gnu", Some(cpu), features);
            let target = target.expect("known");
            if !target.features.is_subset(&native) {
                continue;
            }
            let groups = Shape::new(format, group);
            let one_range = Some(groups.with_one_range()).filter(|shape| *shape != groups);
            for shape in [groups].into_iter().chain(one_range) {
                for rows in [1, 128] {
                    let (gops, gbs) = measure(&target, shape, columns, rows);
                    let (cpu, name) = (format!("{cpu} {features}"), shape.name());
                    println!("{cpu:22.22} {name:14} {columns:5} {rows:5} {gops:9.1} {gbs:9.1}");
                }
            }
        }
    }
}

fn measure(target: &Target, shape: Shape, columns: u64, rows: u64) -> (f64, f64) {
    let mut sink = jit::module(target);
    let mut e = Emitter::new(target, &mut sink, "b", false);
    let range = if shape.one_range { RowRange::Row } else { RowRange::Group };
    let (panel, quantise) =
        (int_panel::define(&mut e, shape), quant_rows::define(&mut e, shape.group, range));
    let code = jit::Code::new(sink);
    // SAFETY: the functions take the parameters that their docs name.
    let (panel, quantise) = unsafe {
        (
            std::mem::transmute::<*const u8, PanelKernel>(code.function(panel.id)),
            std::mem::transmute::<*const u8, QuantRows>(code.function(quantise.id)),
        )
    };
    let groups = columns / shape.group;
    let stride = quant_rows::row_stride(columns, shape.group);
    let matrix = Tensor { dims: vec![WEIGHT_ROWS, columns], data: noise(1, WEIGHT_ROWS * columns) };
    let matrix = Quantised::nearest(&matrix, shape.format);
    let panels = WEIGHT_ROWS / PANEL_ROWS;
    let weights: Vec<Vec<u8>> = (0..panels)
        .map(|p| int_panel::pack(&matrix, shape, p as usize, target.facts.arch))
        .collect();
    let panel_bytes = weights[0].len() as u64;
    let weights = weights.concat();
    let room_bytes = int_panel::room_bytes(&target.facts, columns) as usize;
    // Aligned as scratch and weights are.
    let mut memory = vec![0u8; weights.len() + (rows * stride) as usize + room_bytes + 256];
    let start = memory.as_ptr().align_offset(64);
    memory[start..][..weights.len()].copy_from_slice(&weights);
    let w = memory[start..].as_mut_ptr();
    let mut y = vec![0f32; (rows * WEIGHT_ROWS) as usize];
    let residual = y.clone();
    // SAFETY: offsets within `memory`.
    let (x, room) = unsafe {
        let x = w.add(weights.len().next_multiple_of(64));
        (x, x.add((rows * stride) as usize))
    };
    quantise(noise(2, rows * columns).as_ptr(), x, groups, rows, 4 * columns, stride);
    let run = |times: u64, y: &mut Vec<f32>| {
        let began = Instant::now();
        for _ in 0..times {
            for p in 0..panels {
                // SAFETY: offsets within weights and `y`.
                let (w, y, residual) = unsafe {
                    let column = (p * PANEL_ROWS) as usize;
                    let w = w.add((p * panel_bytes) as usize);
                    (w, y.as_mut_ptr().add(column), residual.as_ptr().add(column))
                };
                panel(w, x, y, groups, stride, 4 * WEIGHT_ROWS, residual, rows, room);
            }
        }
        began.elapsed().as_secs_f64() / times as f64
    };
    let times = (2e-3 / run(10, &mut y)).max(10.0) as u64;
    let mut seconds: Vec<f64> = (0..9).map(|_| run(times, &mut y)).collect();
    seconds.sort_by(f64::total_cmp);
    let ops = (2 * WEIGHT_ROWS * columns * rows) as f64;
    (ops / seconds[4] / 1e9, weights.len() as f64 / seconds[4] / 1e9)
}
