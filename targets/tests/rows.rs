//! Kernels that quantise rows as they make them, against the kernels that they stand for.

mod support;

use ir::quant::{FakeGrid, quant_rows as rounded};
use ir::{Gate, Levels, RowRange};
use support::Arg::{At, Int};
use support::{Case, everywhere, floats, noise};
use targets::kernels::{elementwise, fake_quant, quant_rows, rms_norm};
use targets::{Emitter, Func};

/// Width of rows, and group.
const SHAPES: [(usize, usize); 6] =
    [(64, 16), (96, 32), (128, 64), (192, 96), (256, 128), (576, 192)];
const ROWS: usize = 3;

/// A case of two ways from floats to quantised rows, and where each leaves them.
struct Both {
    case: Case,
    apart: usize,
    together: usize,
    bytes: usize,
}

fn same_bits(define: &dyn Fn(&mut Emitter) -> Vec<Func>, all: Vec<Both>) {
    let cases: Vec<Case> = all.iter().map(|both| both.case.clone()).collect();
    everywhere(define, &cases, &|target, found| {
        for ((both, memory), shape) in all.iter().zip(found).zip(SHAPES) {
            let [apart, together] =
                [both.apart, both.together].map(|at| &memory[at..at + both.bytes]);
            let first = apart.iter().zip(together).position(|(a, b)| a != b);
            assert_eq!(first, None, "{shape:?} on {}: first byte that differs", target.cpu);
        }
    });
}

#[test]
fn rms_norm_quant_is_rms_norm_then_quant_rows() {
    let shape = |width: usize, gain| rms_norm::Shape {
        width: width as u64,
        group: width as u64,
        eps: 1e-5,
        gain,
    };
    for gain in [true, false] {
        let define = |e: &mut Emitter| -> Vec<Func> {
            let three = |(i, (width, group)): (usize, &(usize, usize))| {
                let (shape, group) = (shape(*width, gain), *group as u64);
                [
                    rms_norm::define(e, &format!("norm_{i}"), shape),
                    quant_rows::define(e, group, RowRange::Group),
                    rms_norm::define_quant(e, &format!("norm_quant_{i}"), shape, group),
                ]
            };
            SHAPES.iter().enumerate().flat_map(three).collect()
        };
        let both = |(i, (width, group)): (usize, (usize, usize))| {
            let mut case = Case::default();
            let stride = quant_rows::row_stride(width as u64, group as u64) as i64;
            let bytes = ROWS * stride as usize;
            let x = case.floats(&noise(i, ROWS * width));
            let gains = case.floats(&noise(i + 50, width));
            let gains = if gain { At(gains) } else { Int(0) };
            let middle = case.room(ROWS * width);
            let (apart, together) = (case.bytes(&vec![0; bytes]), case.bytes(&vec![0; bytes]));
            let (rows, groups) = (Int(ROWS as i64), Int((width / group) as i64));
            let (from, to) = (Int(width as i64 * 4), Int(stride));
            case.call(3 * i, &[At(x), At(middle), gains, rows, from]);
            case.call(3 * i + 1, &[At(middle), At(apart), groups, rows, from, to]);
            case.call(3 * i + 2, &[At(x), At(together), gains, rows, from, to]);
            Both { case, apart, together, bytes }
        };
        same_bits(&define, SHAPES.into_iter().enumerate().map(both).collect());
    }
}

#[test]
fn a_gate_and_quant_rows_are_the_same_together() {
    Gate::ALL.into_iter().for_each(a_gate_and_quant_rows);
}

fn a_gate_and_quant_rows(gate: Gate) {
    let define = |e: &mut Emitter| -> Vec<Func> {
        let mut all = vec![elementwise::define_gate_mul(e, gate)];
        for (_, group) in SHAPES {
            all.push(quant_rows::define(e, group as u64, RowRange::Group));
            all.push(elementwise::define_gate_mul_quant(e, gate, group as u64));
        }
        all
    };
    let both = |(i, (width, group)): (usize, (usize, usize))| {
        let mut case = Case::default();
        let stride = quant_rows::row_stride(width as u64, group as u64) as i64;
        let bytes = ROWS * stride as usize;
        let wide = |seed| noise(seed, ROWS * width).iter().map(|x| x * 20.0).collect::<Vec<f32>>();
        let (gate, up) = (case.floats(&wide(i)), case.floats(&wide(i + 50)));
        let middle = case.room(ROWS * width);
        let (apart, together) = (case.bytes(&vec![0; bytes]), case.bytes(&vec![0; bytes]));
        let (rows, groups) = (Int(ROWS as i64), (width / group) as i64);
        let (from, to) = (Int(width as i64 * 4), Int(stride));
        case.call(0, &[At(gate), At(up), At(middle), rows, from, Int(0), from]);
        case.call(2 * i + 1, &[At(middle), At(apart), Int(groups), rows, from, to]);
        // In two shares, as two workers do it.
        for (first, end) in [(0, 1), (1, groups)] {
            let shares = [Int(first), Int(end)];
            let operands = [At(gate), At(up), At(together), rows, from, to];
            case.call(2 * i + 2, &[&operands[..], &shares].concat());
        }
        Both { case, apart, together, bytes }
    };
    same_bits(&define, SHAPES.into_iter().enumerate().map(both).collect());
}

#[test]
fn fake_quant_is_its_definition_bit_for_bit() {
    const GROUP: usize = 48;
    const GROUPS: usize = 2;
    let levels =
        ["i2", "i4", "i8", "e2m1", "e3m0", "e4m3"].into_iter().filter_map(Levels::from_name);
    let shapes: Vec<(Levels, bool)> =
        levels.flat_map(|levels| [false, true].map(|fixed| (levels, fixed))).collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let shape =
            |&(levels, fixed): &(Levels, bool)| fake_quant::Shape { levels, group: 48, fixed };
        shapes.iter().map(|s| fake_quant::define(e, shape(s))).collect()
    };
    let range = 2.5f32;
    let mut cases = vec![];
    for which in 0..shapes.len() {
        let mut case = Case::default();
        // The last row is zero.
        let mut data = noise(which, 3 * GROUPS * GROUP);
        data[2 * GROUPS * GROUP..].fill(0.0);
        let (x, y) = (case.floats(&data), case.room(data.len()));
        let given = case.floats(&[range]);
        let stride = (GROUPS * GROUP * 4) as i64;
        case.call(which, &[At(x), At(y), At(given), Int(GROUPS as i64), Int(3), Int(stride)]);
        cases.push(case);
    }
    everywhere(&define, &cases, &|target, found| {
        for (case, found) in cases.iter().zip(found) {
            let (which, args) = &case.calls[0];
            let (At(x), At(y)) = (args[0], args[1]) else { unreachable!("as above") };
            let (levels, fixed) = shapes[*which];
            for group in 0..3 * GROUPS {
                let at = group * GROUP * 4;
                let x = floats(&case.memory, x + at, GROUP);
                let grid = match fixed {
                    true => FakeGrid::fixed(range, levels),
                    false => FakeGrid::of(&x, levels),
                };
                let expected: Vec<f32> = x.iter().map(|&x| grid.nearest(x)).collect();
                assert_eq!(
                    floats(found, y + at, GROUP),
                    expected,
                    "{} {levels} {fixed}",
                    target.cpu
                );
            }
        }
    });
}

/// The fixed range of the test: inside what the rows reach.
const FIXED: f32 = 0.625;

#[test]
fn one_range_for_all_groups_of_a_row() {
    let ranges = [RowRange::Row, RowRange::Fixed];
    let kinds = || SHAPES.into_iter().flat_map(|shape| ranges.map(|range| (shape, range)));
    let define = |e: &mut Emitter| -> Vec<Func> {
        kinds().map(|((_, group), range)| quant_rows::define(e, group as u64, range)).collect()
    };
    // The second row is empty: its range is 0.
    let values = |i: usize, width: usize| -> Vec<f32> {
        let mut x = noise(i, ROWS * width);
        x[width..2 * width].fill(0.0);
        x
    };
    let made: Vec<(Case, usize)> = kinds()
        .enumerate()
        .map(|(i, ((width, group), range))| {
            let mut case = Case::default();
            let stride = quant_rows::row_stride(width as u64, group as u64) as i64;
            let (x, y) =
                (case.floats(&values(i, width)), case.bytes(&vec![0; ROWS * stride as usize]));
            let given = case.floats(&[FIXED]);
            let counts = [Int((width / group) as i64), Int(ROWS as i64)];
            let args = [At(x), At(y), counts[0], counts[1], Int(width as i64 * 4), Int(stride)];
            match range {
                RowRange::Fixed => case.call(i, &[&args[..], &[At(given)]].concat()),
                RowRange::Group | RowRange::Row => case.call(i, &args),
            }
            (case, y)
        })
        .collect();
    let (cases, places): (Vec<Case>, Vec<usize>) = made.into_iter().unzip();
    everywhere(&define, &cases, &|target, found| {
        for (i, ((width, group), range)) in kinds().enumerate() {
            let stride = quant_rows::row_stride(width as u64, group as u64) as usize;
            let expected = rounded(&values(i, width), width, group, range, Some(FIXED));
            for (n, (q, scale, sum)) in expected.into_iter().enumerate() {
                let (row, g) = (n / (width / group), n % (width / group));
                let at =
                    places[i] + row * stride + g * quant_rows::group_bytes(group as u64) as usize;
                let group_found = &found[i][at..];
                let what = format!("{range:?}, {width} in {group} on {}: {row}, {g}", target.cpu);
                let found: Vec<i8> = group_found[..group].iter().map(|&b| b as i8).collect();
                assert_eq!(found, q, "{what}");
                assert_eq!(group_found[group..group + 4], scale.to_le_bytes(), "scale: {what}");
                assert_eq!(group_found[group + 4..group + 8], (-sum).to_le_bytes(), "sum: {what}");
            }
        }
    });
}
