//! Integer panels against their reference, bit for bit.

use cranelift_codegen::ir::types::I64;
use ir::quant::Quantised;
use ir::{IntFormat, Tensor};
use targets::kernels::int_panel::{self, Shape};
use targets::kernels::quant_rows;
use targets::{Arch, Emitter, Target, jit};

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((s >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.0
        })
        .collect()
}

#[test]
fn equals_the_reference() {
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        for name in
            ["i8g32", "i4g32", "i4g32z", "i8g96", "i8row", "i4row", "i4g16", "i8g64z", "i4g96"]
        {
            let format = IntFormat::from_name(name).expect("a format");
            let group = if format.group == 0 { 32 } else { u64::from(format.group) };
            check(cpu, format, Shape { format, group });
        }
    }
}

fn check(cpu: &str, format: IntFormat, shape: Shape) {
    let target = Target::new("x86_64-unknown-linux-gnu", Some(cpu), "").expect("known");
    let (rows, columns) = (40usize, 192usize);
    let tensor = Tensor { dims: vec![40, 192], data: noise(rows * columns, 5) };
    let matrix = Quantised::round(&tensor, format);
    let mut sink = jit::module(&target);
    let mut e = Emitter::new(&target, &mut sink, "t", false);
    let (panel, quant) =
        (int_panel::define(&mut e, shape), quant_rows::define(&mut e, shape.group));
    let code = jit::Code::new(sink);
    // SAFETY: the functions take the parameters that their docs name.
    let (panel, quant): (
        extern "sysv64" fn(*const u8, *const u8, *mut f32, u64, u64, u64, *const f32, u64),
        extern "sysv64" fn(*const f32, *mut u8, u64, u64, u64, u64),
    ) = unsafe {
        (std::mem::transmute(code.function(panel.id)), std::mem::transmute(code.function(quant.id)))
    };
    let _ = I64;
    let m = 9usize;
    let x = noise(m * columns, 77);
    let stride = quant_rows::row_stride(columns as u64, shape.group);
    let groups = columns as u64 / shape.group;
    let mut xq = vec![0u8; m * stride as usize];
    quant(x.as_ptr(), xq.as_mut_ptr(), groups, m as u64, columns as u64 * 4, stride);
    for p in 0..2 {
        let w = int_panel::pack(&matrix, shape, p, Arch::X64);
        assert_eq!(w.len() as u64, shape.panel_bytes(groups));
        for residual in [false, true] {
            let r = noise(m * 32, 3);
            let mut y = vec![0f32; m * 32];
            let at = if residual { r.as_ptr() } else { std::ptr::null() };
            panel(w.as_ptr(), xq.as_ptr(), y.as_mut_ptr(), groups, stride, 128, at, m as u64);
            for t in 0..m {
                for row in 0..32 {
                    let n = p * 32 + row;
                    let x = &x[t * columns..][..columns];
                    let mut expected = if n < rows {
                        int_panel::reference(&matrix, shape, n, x, target.facts.fma)
                    } else {
                        0.0
                    };
                    if residual {
                        expected += r[t * 32 + row];
                    }
                    let found = y[t * 32 + row];
                    assert!(
                        found == expected,
                        "{cpu} {format} row {n} token {t}: {found} {expected}"
                    );
                }
            }
        }
    }
}
