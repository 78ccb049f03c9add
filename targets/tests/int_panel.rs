//! Integer panels and `quant_rows` against their references, bit for bit.

use ir::quant::{Quantised, quant_group};
use ir::{IntFormat, Tensor};
use targets::kernels::int_panel::{self, Shape};
use targets::kernels::quant_rows;
use targets::{Arch, Emitter, Target, jit};

/// Formats, and the group of the activations they meet.
const FORMATS: [(&str, u64); 10] = [
    ("i8g32", 32),
    ("i8g96", 96),
    ("i8g64z", 64),
    ("i8row", 32),
    ("i8row", 64),
    ("i4g16", 16),
    ("i4g32", 32),
    ("i4g32z", 32),
    ("i4g96", 96),
    ("i4row", 32),
];

/// A CPU and features for each kind of kernel; those that this machine lacks are left out.
const MACHINES: [(&str, &str); 7] = [
    ("x86-64", ""),
    ("x86-64-v2", ""),
    ("x86-64-v3", ""),
    ("alderlake", ""),
    ("x86-64-v4", ""),
    ("icelake-server", ""),
    ("icelake-server", "+amx-tile,+amx-int8"),
];

/// Rows and columns of the matrix: the second panel is not full.
const ROWS: usize = 40;
const COLUMNS: usize = 192;
/// Rows of activations: more than any one kernel takes.
const TOKENS: usize = 41;

type PanelKernel =
    extern "sysv64" fn(*const u8, *const u8, *mut f32, u64, u64, u64, *const f32, u64, *mut u8);
type QuantRows = extern "sysv64" fn(*const f32, *mut u8, u64, u64, u64, u64);

/// Reproducible numbers in ±1.5.
fn noise(n: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.0
    };
    (0..n).map(|_| next()).collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn integer_panels_equal_their_reference() {
    let native = Target::native().expect("this machine is a target").features;
    for (cpu, features) in MACHINES {
        let target = Target::new("x86_64-unknown-linux-gnu", Some(cpu), features).expect("known");
        if !target.features.is_subset(&native) {
            continue;
        }
        for (name, group) in FORMATS {
            let format = IntFormat::from_name(name).expect("a format");
            check(&target, Shape { format, group });
        }
    }
}

fn check(target: &Target, shape: Shape) {
    let tensor = Tensor { dims: vec![ROWS as u64, COLUMNS as u64], data: noise(ROWS * COLUMNS, 5) };
    let matrix = Quantised::round(&tensor, shape.format);
    let mut sink = jit::module(target);
    let mut e = Emitter::new(target, &mut sink, "t", false);
    let panel = int_panel::define(&mut e, shape);
    let quantise = quant_rows::define(&mut e, shape.group);
    let code = jit::Code::new(sink);
    // SAFETY: the functions take the parameters that their docs name.
    let (panel, quantise): (PanelKernel, QuantRows) = unsafe {
        (
            std::mem::transmute::<*const u8, PanelKernel>(code.function(panel.id)),
            std::mem::transmute::<*const u8, QuantRows>(code.function(quantise.id)),
        )
    };
    let x = noise(TOKENS * COLUMNS, 77);
    let stride = quant_rows::row_stride(COLUMNS as u64, shape.group);
    let groups = COLUMNS as u64 / shape.group;
    let mut rows = vec![0u8; TOKENS * stride as usize];
    quantise(x.as_ptr(), rows.as_mut_ptr(), groups, TOKENS as u64, COLUMNS as u64 * 4, stride);
    check_rows(&x, &rows, shape.group as usize, stride as usize);
    let residual = noise(TOKENS * 32, 3);
    let mut room = vec![0u8; int_panel::room_bytes(&target.facts, COLUMNS as u64) as usize];
    for p in 0..ROWS.div_ceil(32) {
        let w = int_panel::pack(&matrix, shape, p, Arch::X64);
        assert_eq!(w.len() as u64, shape.panel_bytes(groups), "{shape:?}");
        for residual in [None, Some(&residual)] {
            let mut y = vec![0f32; TOKENS * 32];
            let added = residual.map_or(std::ptr::null(), |r| r.as_ptr());
            let tokens = TOKENS as u64;
            let room = room.as_mut_ptr();
            panel(
                w.as_ptr(),
                rows.as_ptr(),
                y.as_mut_ptr(),
                groups,
                stride,
                128,
                added,
                tokens,
                room,
            );
            for (i, found) in y.iter().enumerate() {
                let (t, n) = (i / 32, p * 32 + i % 32);
                let x = &x[t * COLUMNS..][..COLUMNS];
                let product = match n < ROWS {
                    true => int_panel::reference(&matrix, shape, n, x, target.facts.fma),
                    false => 0.0,
                };
                let expected = product + residual.map_or(0.0, |r| r[i]);
                assert!(*found == expected, "{shape:?} on {}, row {n}, token {t}", target.cpu);
            }
        }
    }
}

/// Integers, scales and sums of quantised rows.
fn check_rows(x: &[f32], rows: &[u8], group: usize, stride: usize) {
    for (t, x) in x.chunks(COLUMNS).enumerate() {
        for (g, x) in x.chunks(group).enumerate() {
            let at = &rows[t * stride + g * quant_rows::group_bytes(group as u64) as usize..];
            let (q, scale, sum) = quant_group(x);
            let found: Vec<i8> = at[..group].iter().map(|&b| b as i8).collect();
            assert_eq!(found, q, "token {t}, group {g}");
            assert_eq!(at[group..group + 4], scale.to_le_bytes(), "scale of {t}, {g}");
            assert_eq!(at[group + 4..group + 8], (-sum).to_le_bytes(), "sum of {t}, {g}");
        }
    }
}
