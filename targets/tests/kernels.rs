//! Each kernel on rows of activations against its formula, over tables of shapes, on every target at
//! hand. Kernels over weights are in `panels.rs`, those over the cache in `attention.rs`.

mod support;

use ir::Gate;
use support::Arg::{At, Int};
use support::{Case, bytes, everywhere, floats, noise, ulps};
use targets::kernels::{elementwise, rms_norm, rope};
use targets::{Emitter, Func};

#[test]
fn element_wise_kernels_touch_their_columns_only() {
    let define = |e: &mut Emitter| {
        let [silu, gelu] = Gate::ALL.map(|gate| elementwise::define_gate_mul(e, gate));
        vec![silu, gelu, elementwise::define_add(e)]
    };
    let (rows, stride) = (5, 24);
    let mut cases = vec![];
    for (which, scale) in [(0, 1.0), (0, 100.0), (1, 1.0), (1, 6.0), (1, 100.0), (2, 1.0)] {
        for (first, end) in [(0, 96), (0, 16), (16, 48), (80, 96), (32, 32)] {
            let mut case = Case::default();
            let scaled = |seed| -> Vec<f32> {
                noise(seed, rows * stride).iter().map(|x| x * scale).collect()
            };
            let (a, b) = (case.floats(&scaled(1)), case.floats(&scaled(2)));
            let y = case.room(rows * stride);
            let (rows, bytes) = (Int(rows as i64), Int(stride as i64 * 4));
            case.call(which, &[At(a), At(b), At(y), rows, bytes, Int(first), Int(end)]);
            cases.push(case);
        }
    }
    everywhere(&define, &cases, &|target, found| {
        for (case, found) in cases.iter().zip(found) {
            let (which, args) = &case.calls[0];
            let [At(a), At(b), At(y), _, _, Int(first), Int(end)] = args[..] else {
                unreachable!("as above")
            };
            let part = |memory, at| floats(memory, at, rows * stride);
            let (a, b) = (part(&case.memory, a), part(&case.memory, b));
            let (before, after) = (part(&case.memory, y), part(found, y));
            assert!(case.only_changes(found, &[(y, rows * stride * 4)]));
            for i in 0..rows * stride {
                let column = (i % stride * 4) as i64;
                if !(first..end).contains(&column) {
                    assert_eq!(after[i].to_bits(), before[i].to_bits(), "column {column}");
                } else if *which == 2 {
                    assert_eq!(after[i], a[i] + b[i]);
                } else {
                    let gate = Gate::ALL[*which];
                    let expected = elementwise::gate_mul_reference(gate, a[i], b[i]);
                    // Where the exponential is clamped, hardly anything is left of the product.
                    let tiny = (after[i] - expected).abs() < 1e-30;
                    let off = ulps(after[i], expected);
                    // An argument that is rounded is off by as much as it is large.
                    let cube = if gate == Gate::Gelu { a[i].abs().powi(3) } else { 0.0 };
                    let near = off < 8.0 + cube || tiny;
                    assert!(near, "{}: {gate:?} {} {}: {off}", target.cpu, a[i], b[i]);
                }
            }
        }
    });
}

#[test]
fn scale_multiplies_its_columns() {
    let define = |e: &mut Emitter| vec![elementwise::define_scale(e)];
    let (rows, stride, by) = (3, 24, 25.298_222f32);
    let bits = Int(by.to_bits().into());
    let mut case = Case::default();
    let x = case.floats(&noise(1, rows * stride));
    let y = case.room(rows * stride);
    let (count, bytes) = (Int(rows as i64), Int(stride as i64 * 4));
    case.call(0, &[At(x), At(y), count, bytes, Int(16), Int(80), bits]);
    everywhere(&define, &[case.clone()], &|_, found| {
        assert!(case.only_changes(&found[0], &[(y, rows * stride * 4)]));
        let part = |memory, at| floats(memory, at, rows * stride);
        let (before, after) = (part(&case.memory, y), part(&found[0], y));
        for (i, x) in part(&case.memory, x).iter().enumerate() {
            let within = (4..20).contains(&(i % stride));
            let expected = if within { x * by } else { before[i] };
            assert_eq!(after[i].to_bits(), expected.to_bits(), "element {i}");
        }
    });
}

#[test]
fn softcap_is_a_hyperbolic_tangent_of_its_columns() {
    let define = |e: &mut Emitter| vec![elementwise::define_softcap(e)];
    let (rows, stride, by, cap) = (3, 24, 0.125f32, 30.0f32);
    let mut case = Case::default();
    let x: Vec<f32> = noise(1, rows * stride).iter().map(|x| (x * 12.0).powi(3)).collect();
    let (x_at, y) = (case.floats(&x), case.room(rows * stride));
    let (count, bytes) = (Int(rows as i64), Int(stride as i64 * 4));
    let bits = [by, cap].map(|x| Int(x.to_bits().into()));
    let args = [At(x_at), At(y), count, bytes, Int(16), Int(80), bits[0], bits[1]];
    case.call(0, &args);
    everywhere(&define, &[case.clone()], &|target, found| {
        assert!(case.only_changes(&found[0], &[(y, rows * stride * 4)]));
        let part = |memory| floats(memory, y, rows * stride);
        let (before, after) = (part(&case.memory), part(&found[0]));
        for (i, x) in x.iter().enumerate() {
            if !(4..20).contains(&(i % stride)) {
                assert_eq!(after[i].to_bits(), before[i].to_bits(), "element {i}");
                continue;
            }
            let expected = f64::from(cap) * f64::from(x * by).tanh();
            let off = (f64::from(after[i]) - expected).abs();
            assert!(off <= 2e-7 * f64::from(cap), "{} {x}: {off}", target.cpu);
        }
    });
}

#[test]
fn rms_norm_is_near_its_formula_for_every_width() {
    let widths = [(1, 1), (3, 3), (4, 4), (6, 6), (16, 16), (36, 36), (172, 172), (576, 576)];
    let groups = [(64, 16), (96, 8), (192, 64), (20, 5)];
    let shapes: Vec<rms_norm::Shape> = widths
        .into_iter()
        .chain(groups)
        .flat_map(|(width, group)| {
            [true, false].map(|gain| rms_norm::Shape { width, group, eps: 1e-5, gain })
        })
        .collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let each = shapes.iter().enumerate();
        each.map(|(i, shape)| rms_norm::define(e, &format!("rms_norm_{i}"), *shape)).collect()
    };
    let rows = 3;
    let mut cases = vec![];
    for (which, shape) in shapes.iter().enumerate() {
        for in_place in [false, true] {
            let mut case = Case::default();
            let stride = shape.width as usize + 3;
            let x = case.floats(&noise(which, rows * stride));
            let gain = case.floats(&noise(which + 50, shape.group as usize));
            let y = case.room(rows * stride);
            let to = if in_place { x } else { y };
            let gain = if shape.gain { At(gain) } else { Int(0) };
            case.call(which, &[At(x), At(to), gain, Int(rows as i64), Int(stride as i64 * 4)]);
            cases.push(case);
        }
    }
    everywhere(&define, &cases, &|target, found| {
        for (case, found) in cases.iter().zip(found) {
            let (which, args) = &case.calls[0];
            let shape = &shapes[*which];
            let (At(x), At(y)) = (args[0], args[1]) else { unreachable!("as above") };
            let (width, group) = (shape.width as usize, shape.group as usize);
            let gain = match args[2] {
                At(gain) => Some(floats(&case.memory, gain, group)),
                Int(_) => None,
            };
            let mut rest = vec![];
            for row in 0..rows {
                let at = row * (width + 3) * 4;
                rest.push((y + at, width * 4));
                let x = floats(&case.memory, x + at, width);
                let found = floats(found, y + at, width);
                for (x, found) in x.chunks(group).zip(found.chunks(group)) {
                    let expected = rms_norm::reference(x, gain.as_deref(), shape.eps);
                    for (found, expected) in found.iter().zip(expected) {
                        let off = ulps(*found, expected);
                        assert!(off < 16.0, "{} {shape:?}: {off}", target.cpu);
                    }
                }
            }
            assert!(case.only_changes(found, &rest), "{} {shape:?}", target.cpu);
        }
    });
}

/// Heads and their width: one that is no multiple of 8 is turned one pair at a time.
const ROPES: [(usize, usize); 5] = [(1, 8), (3, 64), (2, 6), (5, 4), (1, 128)];
/// Rows of each case; the first one belongs to another worker.
const ROPE_ROWS: usize = 6;

fn frequencies(head: usize) -> Vec<f32> {
    (0..head / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / head as f32)).collect()
}

/// The table of angles for some positions, then rows turned by it.
struct Turned {
    heads: usize,
    head: usize,
    position: i64,
    case: Case,
    x: usize,
    y: usize,
    table: usize,
}

impl Turned {
    fn new(index: usize, position: i64) -> Turned {
        let (heads, head) = ROPES[index];
        let stride = heads * head + 4;
        let mut case = Case::default();
        let x = case.floats(&noise(index, ROPE_ROWS * stride));
        let (y, table) = (case.room(ROPE_ROWS * stride), case.room(ROPE_ROWS * head));
        let (first, end) = (Int(1), Int(ROPE_ROWS as i64));
        case.call(2 * index, &[At(table), first, end, Int(position)]);
        let stride = Int(stride as i64 * 4);
        case.call(2 * index + 1, &[At(x), At(y), At(table), first, end, stride]);
        Turned { heads, head, position, case, x, y, table }
    }

    fn check(&self, cpu: &str, found: &[u8]) {
        let head = self.head;
        let mut parts = vec![(self.table + head * 4, (ROPE_ROWS - 1) * head * 4)];
        for row in 1..ROPE_ROWS {
            let position = (self.position + row as i64) as f32;
            let angles: Vec<f32> = frequencies(head).iter().map(|f| position * f).collect();
            let table = floats(found, self.table + row * head * 4, head);
            for (i, angle) in angles.iter().enumerate() {
                let (sin, cos) = f64::from(*angle).sin_cos();
                let off = (f64::from(table[i]) - cos).abs();
                let off = off.max((f64::from(table[i + head / 2]) - sin).abs());
                assert!(off < 6.1e-8, "{cpu}: angle {angle}: {off}");
            }
            for h in 0..self.heads {
                let at = (row * (self.heads * head + 4) + h * head) * 4;
                parts.push((self.y + at, head * 4));
                let expected =
                    rope::reference(&floats(&self.case.memory, self.x + at, head), &angles);
                for (found, expected) in floats(found, self.y + at, head).iter().zip(expected) {
                    assert!((found - expected).abs() < 5e-7, "{cpu} {head} {row}");
                }
            }
        }
        assert!(self.case.only_changes(found, &parts), "{cpu} {head}");
    }
}

#[test]
fn rope_turns_pairs_by_angles_of_the_table() {
    let define = |e: &mut Emitter| -> Vec<Func> {
        let mut functions = vec![];
        for (i, (heads, head)) in ROPES.into_iter().enumerate() {
            let data = e.constant(&format!("frequencies_{i}"), bytes(&frequencies(head)), 64);
            let (heads, head) = (heads as u64, head as u64);
            functions.push(rope::define_table(e, &format!("table_{i}"), head, data));
            functions.push(rope::define(e, &format!("rope_{i}"), heads * head, head));
        }
        functions
    };
    let positions = [0, 1, 500, 8190, 1_000_000];
    let all: Vec<Turned> =
        (0..ROPES.len()).flat_map(|i| positions.map(|position| Turned::new(i, position))).collect();
    let cases: Vec<Case> = all.iter().map(|one| one.case.clone()).collect();
    everywhere(&define, &cases, &|target, found| {
        all.iter().zip(found).for_each(|(one, found)| one.check(&target.cpu, found));
    });
}
