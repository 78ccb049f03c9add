//! Integer panels, `quant_rows`, and what reads integers as floats, against their references, bit for
//! bit.

mod support;

use ir::quant::{Quantised, quant_group};
use ir::{DType, IntFormat, RowRange, Tensor};
use support::Arg::{At, Int};
use support::{Case, emulated, floats, noise, run};
use targets::kernels::int_panel::{self, Shape, unpack};
use targets::kernels::{embed, panel, quant_rows};
use targets::{Arch, Emitter, Func, Target};

/// Formats, and the group of the activations they meet.
const FORMATS: [(&str, u64); 33] = [
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
    ("i4g32n", 32),
    ("i4g32n", 64),
    ("i4g32n", 96),
    ("i2g16", 16),
    ("i2g32z", 32),
    ("i2g96", 96),
    ("i2row", 64),
    ("i3g32", 32),
    ("i3g96z", 96),
    ("i3row", 64),
    ("i5g32z", 32),
    ("i5g64", 64),
    ("i5g96", 96),
    ("i5row", 32),
    ("i6g16", 16),
    ("i6g32z", 32),
    ("i6g64", 64),
    ("i6row", 48),
    ("e2m1g32", 32),
    ("e1m2g96", 96),
    ("e3m0g64", 64),
    ("nf4row", 32),
    ("lut80c0e0f0f8fcfe00020406081020407fg16", 16),
];

/// Of those, the ones that meet rows with one range.
const ONE_RANGE: [(&str, u64); 8] = [
    ("i8row", 32),
    ("i8row", 64),
    ("i4row", 32),
    ("i4g32n", 32),
    ("i4g32n", 64),
    ("i4g32n", 96),
    ("i5row", 32),
    ("nf4row", 32),
];

/// A CPU and features for each kind of kernel; x86-64 ones that this machine lacks are left out.
const MACHINES: [(&str, &str, &str); 10] = [
    ("x86_64-unknown-linux-gnu", "x86-64", ""),
    ("x86_64-unknown-linux-gnu", "x86-64-v2", ""),
    ("x86_64-unknown-linux-gnu", "x86-64-v3", ""),
    ("x86_64-unknown-linux-gnu", "alderlake", ""),
    ("x86_64-unknown-linux-gnu", "x86-64-v4", ""),
    ("x86_64-unknown-linux-gnu", "icelake-server", ""),
    ("x86_64-unknown-linux-gnu", "icelake-server", "+amx-tile,+amx-int8"),
    ("aarch64-unknown-linux-gnu", "cortex-a53", ""),
    ("aarch64-unknown-linux-gnu", "cortex-a76", ""),
    ("aarch64-unknown-linux-gnu", "neoverse-v1", ""),
];

/// Rows and columns of the matrix: the second panel is not full.
const ROWS: usize = 40;
const COLUMNS: usize = 192;
/// Rows of activations: two tiles, one, and more than any other kernel takes.
const TOKENS: usize = 57;

/// Those that can run here.
fn machines() -> Vec<Target> {
    let native = Target::native().expect("this machine is a target");
    let target = |(triple, cpu, features)| Target::new(triple, Some(cpu), features).expect("known");
    let can_run = |target: &Target| match target.triple.architecture == native.triple.architecture {
        true => target.features.is_subset(&native.features),
        false => target.facts.arch == Arch::A64 && emulated::available(),
    };
    MACHINES.into_iter().map(target).filter(can_run).collect()
}

#[test]
fn integer_panels_equal_their_reference() {
    machines().iter().for_each(check);
}

#[test]
fn tables_and_unpacked_panels_are_what_integers_stand_for() {
    let shapes: Vec<Shape> = FORMATS.iter().map(|(name, _)| packed(name)).collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let floats = panel::define(e, DType::F32, panel::PANEL_ROWS).rows;
        let mut made = std::collections::HashMap::new();
        let mut both = |shape: &Shape| {
            let define =
                || [embed::define_int(e, shape.format), unpack::define(e, *shape, &floats)];
            made.entry(*shape).or_insert_with(define).clone()
        };
        shapes.iter().flat_map(&mut both).collect()
    };
    for target in machines() {
        let made: Vec<_> =
            shapes.iter().enumerate().map(|(i, shape)| weights_only(&target, i, *shape)).collect();
        let (cases, places): (Vec<Case>, Vec<[usize; 2]>) = made.into_iter().unzip();
        let found = run(&target, &define, &cases);
        for ((shape, places), memory) in shapes.iter().zip(&places).zip(&found) {
            let meant = matrix(*shape).dequantise().data;
            let what = format!("{shape:?} on {}", target.cpu);
            let rows = floats(memory, places[0], TOKENS_EMBEDDED.len() * COLUMNS);
            for (row, &token) in rows.chunks(COLUMNS).zip(&TOKENS_EMBEDDED) {
                assert_eq!(row, &meant[token as usize * COLUMNS..][..COLUMNS], "{what}: {token}");
            }
            // The panel's rows, side by side.
            let of = |k: usize, r: usize| meant[r * COLUMNS + k];
            let panel: Vec<f32> = (0..COLUMNS * 32).map(|i| of(i / 32, i % 32)).collect();
            let products = floats(memory, places[1], 3 * 32);
            for (t, y) in products.chunks(32).enumerate() {
                let x = &activations()[t * COLUMNS..][..COLUMNS];
                let expected = panel::reference(&panel, 32, x, target.facts.fma);
                assert_eq!(y, expected, "{what}: row {t}");
            }
        }
    }
}

fn packed(name: &str) -> Shape {
    Shape::packed(IntFormat::from_name(name).expect("a format"))
}

const TOKENS_EMBEDDED: [i32; 5] = [0, 31, 32, 39, 7];

/// Rows are taken by functions `2 i`, the first panel is multiplied by functions `2 i + 1`: where both
/// results are.
fn weights_only(target: &Target, i: usize, shape: Shape) -> (Case, [usize; 2]) {
    let mut case = Case::default();
    let matrix = matrix(shape);
    let pack = |p| int_panel::pack(&matrix, shape, p, target.facts.arch);
    let table = case.bytes(&(0..ROWS.div_ceil(32)).flat_map(pack).collect::<Vec<u8>>());
    let tokens: Vec<u8> = TOKENS_EMBEDDED.iter().flat_map(|t| t.to_le_bytes()).collect();
    let tokens = case.bytes(&tokens);
    let taken = case.room(TOKENS_EMBEDDED.len() * COLUMNS);
    let (columns, row_bytes) = (Int(COLUMNS as i64), Int(COLUMNS as i64 * 4));
    let count = Int(TOKENS_EMBEDDED.len() as i64);
    case.call(2 * i, &[At(table), At(tokens), At(taken), count, columns, row_bytes]);
    let (x, y) = (case.floats(&activations()[..3 * COLUMNS]), case.room(3 * 32));
    let room = case.bytes(&vec![0; unpack::room_bytes(COLUMNS as u64) as usize]);
    let groups = Int(COLUMNS as i64 / shape.group as i64);
    let product = [At(table), At(x), At(y), groups, row_bytes, Int(128), Int(0), Int(3), At(room)];
    case.call(2 * i + 1, &product);
    (case, [taken, y])
}

fn shape(name: &str, group: u64) -> Shape {
    Shape::new(IntFormat::from_name(name).expect("a format"), group)
}

fn matrix(shape: Shape) -> Quantised {
    let tensor = Tensor { dims: vec![ROWS as u64, COLUMNS as u64], data: noise(5, ROWS * COLUMNS) };
    Quantised::round(&tensor, shape.format)
}

fn activations() -> Vec<f32> {
    noise(77, TOKENS * COLUMNS)
}

fn added() -> Vec<f32> {
    noise(3, TOKENS * 32)
}

/// Where a case holds what.
struct Places {
    rows: usize,
    /// Per panel: the product, and the product with something added.
    y: Vec<[usize; 2]>,
}

/// Rows are quantised by functions `2 i`, multiplied by functions `2 i + 1`.
fn case(target: &Target, i: usize, shape: Shape) -> (Case, Places) {
    let mut case = Case::default();
    let matrix = matrix(shape);
    let groups = (COLUMNS as u64 / shape.group) as i64;
    let stride = quant_rows::row_stride(COLUMNS as u64, shape.group);
    let x = case.floats(&activations());
    let rows = case.bytes(&vec![0; TOKENS * stride as usize]);
    let added = case.floats(&added());
    let room_bytes = int_panel::room_bytes(&target.facts, COLUMNS as u64) as usize;
    let room = case.bytes(&vec![0; room_bytes]);
    let (tokens, stride) = (Int(TOKENS as i64), Int(stride as i64));
    let strides = [Int(COLUMNS as i64 * 4), stride];
    case.call(2 * i, &[At(x), At(rows), Int(groups), tokens, strides[0], strides[1]]);
    let mut y = vec![];
    for p in 0..ROWS.div_ceil(32) {
        let w = int_panel::pack(&matrix, shape, p, target.facts.arch);
        assert_eq!(w.len() as u64, shape.panel_bytes(groups as u64), "{shape:?}");
        let w = case.bytes(&w);
        y.push([Int(0), At(added)].map(|residual| {
            let y = case.room(TOKENS * 32);
            let product = [At(w), At(rows), At(y), Int(groups), stride, Int(128)];
            case.call(2 * i + 1, &[&product[..], &[residual, tokens, At(room)]].concat());
            y
        }));
    }
    (case, Places { rows, y })
}

fn check(target: &Target) {
    let shapes = FORMATS.iter().map(|(name, group)| shape(name, *group));
    let one_range = ONE_RANGE.iter().map(|(name, group)| shape(name, *group).with_one_range());
    let shapes: Vec<Shape> = shapes.chain(one_range).collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let mut quantise = std::collections::HashMap::new();
        let both = |shape: &Shape| {
            let group = shape.group;
            let range = if shape.one_range { RowRange::Row } else { RowRange::Group };
            let made = quantise
                .entry((group, range))
                .or_insert_with(|| quant_rows::define(e, group, range));
            [made.clone(), int_panel::define(e, *shape)]
        };
        shapes.iter().flat_map(both).collect()
    };
    let made: Vec<(Case, Places)> =
        shapes.iter().enumerate().map(|(i, shape)| case(target, i, *shape)).collect();
    let (cases, places): (Vec<Case>, Vec<Places>) = made.into_iter().unzip();
    let found = run(target, &define, &cases);
    for ((shape, places), memory) in shapes.iter().zip(&places).zip(&found) {
        if !shape.one_range {
            check_rows(&memory[places.rows..], shape.group as usize);
        }
        check_products(target, *shape, places, memory);
    }
}

fn check_products(target: &Target, shape: Shape, places: &Places, memory: &[u8]) {
    let (matrix, x, added) = (matrix(shape), activations(), added());
    for (p, [alone, sum]) in places.y.iter().enumerate() {
        let found = [*alone, *sum].map(|at| floats(memory, at, TOKENS * 32));
        for i in 0..TOKENS * 32 {
            let (t, n) = (i / 32, p * 32 + i % 32);
            let product = match n < ROWS {
                true => {
                    let x = &x[t * COLUMNS..][..COLUMNS];
                    int_panel::reference(&matrix, shape, n, x, target.facts.fma)
                }
                false => 0.0,
            };
            let expected = [product, product + added[i]];
            let what = format!("{shape:?} on {}, row {n}, token {t}", target.cpu);
            assert_eq!([found[0][i], found[1][i]], expected, "{what}");
        }
    }
}

/// Integers, scales and sums of quantised rows.
fn check_rows(rows: &[u8], group: usize) {
    let stride = quant_rows::row_stride(COLUMNS as u64, group as u64) as usize;
    for (t, x) in activations().chunks(COLUMNS).enumerate() {
        for (g, x) in x.chunks(group).enumerate() {
            let at = &rows[t * stride + g * quant_rows::group_bytes(group as u64) as usize..];
            let (q, scale, sum) = quant_group(x);
            let found: Vec<i8> = at[..group].iter().map(|&b| b as i8).collect();
            assert_eq!(found, q, "token {t}, group {g}");
            assert_eq!(at[group..group + 4], scale.to_le_bytes(), "scale of {t}, {g}");
            assert_eq!(at[group + 4..group + 8], (-sum).to_le_bytes(), "sum of {t}, {g}");
            for (part, q) in q.chunks(32).enumerate() {
                let place = group + quant_rows::negative_part(group as u64, part as u64) as usize;
                let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
                let what = format!("sum of {t}, {g}, {part}");
                let whole = group > 32 && !group.is_multiple_of(32);
                assert!(whole || at[place..place + 4] == (-sum).to_le_bytes(), "{what}");
            }
        }
    }
}
