//! The kernel `hadamard` against its reference, here and under qemu.

mod support;

use support::{Arg::At, Arg::Int, Case, everywhere, floats, noise};
use targets::kernels::hadamard;
use targets::{Emitter, Func};

/// Sizes: powers of two, Paley's orders alone and with every kind of power, the widths of models.
const SIZES: [usize; 16] = [1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 512, 576, 1536];
/// Rows, and blocks of a row.
const ROWS: usize = 2;
const BLOCKS: usize = 3;

#[test]
fn blocks_are_turned_in_place_or_not() {
    let define = |e: &mut Emitter| -> Vec<Func> {
        SIZES.iter().map(|&size| hadamard::define(e, size as u64)).collect()
    };
    let mut cases = vec![];
    for (which, size) in SIZES.into_iter().enumerate() {
        for in_place in [false, true] {
            let stride = BLOCKS * size + 5;
            let mut case = Case::default();
            let x = case.floats(&noise(which, ROWS * stride));
            let y = case.room(ROWS * stride);
            let to = if in_place { x } else { y };
            let counts = [Int(BLOCKS as i64), Int(ROWS as i64), Int(stride as i64 * 4)];
            case.call(which, &[&[At(x), At(to)], &counts[..]].concat());
            cases.push(case);
        }
    }
    everywhere(&define, &cases, &|target, found| {
        for (case, found) in cases.iter().zip(found) {
            let (which, args) = &case.calls[0];
            let (At(x), At(y)) = (args[0], args[1]) else { unreachable!("as above") };
            let size = SIZES[*which];
            let mut parts = vec![];
            for row in 0..ROWS {
                let at = row * (BLOCKS * size + 5) * 4;
                parts.push((y + at, BLOCKS * size * 4));
                for block in 0..BLOCKS {
                    let at = at + block * size * 4;
                    let x = floats(&case.memory, x + at, size);
                    let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
                    let expected = hadamard::reference(&x);
                    for (found, expected) in floats(found, y + at, size).iter().zip(expected) {
                        let off = (found - expected).abs() / length;
                        assert!(off < 1e-6, "{} {size}: {off}", target.cpu);
                    }
                }
            }
            assert!(case.only_changes(found, &parts), "{} {size}", target.cpu);
        }
    });
}
