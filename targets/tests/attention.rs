//! The cache, attention over it, and log-probabilities: against their plain references, and equal
//! bit for bit however the work is cut.

mod support;

use half::f16;
use ir::DType;
use support::Arg::{At, Int};
use support::{Case, everywhere, floats, noise};
use targets::kernels::kv_append::Slot;
use targets::kernels::{attention, kv_append, linear, panel, score};
use targets::{Emitter, Func};

/// Positions that are filled: more than a block of attention, no whole number of panels.
const FILLED: usize = 331;
const POSITIONS: u64 = 352;

fn slot(dtype: DType, heads: u64, head: u64) -> Slot {
    Slot { dtype, heads, head, positions: POSITIONS }
}

/// What the cache makes of a number.
fn rounded(x: f32, dtype: DType) -> f32 {
    if dtype == DType::F16 { f16::from_f32(x).to_f32() } else { x }
}

/// Numbers as the cache stores them.
fn element(bytes: &[u8], index: usize, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
        _ => floats(bytes, 4 * index, 1)[0],
    }
}

/// Where one element of a key or a value is, in elements.
fn places(slot: &Slot, head: usize, position: usize, i: usize) -> (usize, usize) {
    let (width, positions) = (slot.head as usize, slot.positions as usize);
    let start = head * positions * width;
    let panel = kv_append::PANEL_POSITIONS as usize;
    let key = start + (position / panel * width + i) * panel + position % panel;
    let block = slot.value_width() as usize;
    let value = start + (i / block * positions + position) * block + i % block;
    (key, value)
}

const SLOTS: [(u64, u64); 6] = [(1, 8), (2, 16), (1, 24), (3, 64), (1, 80), (1, 128)];

#[test]
fn kv_append_stores_each_element_in_its_place() {
    let slots: Vec<Slot> = [DType::F32, DType::F16]
        .into_iter()
        .flat_map(|dtype| SLOTS.map(|(heads, head)| slot(dtype, heads, head)))
        .collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let each = slots.iter().enumerate();
        each.map(|(i, slot)| kv_append::define(e, &format!("append_{i}"), *slot)).collect()
    };
    // Position of the first row, rows.
    const CALLS: [(usize, usize); 5] = [(0, 1), (1, 30), (31, 1), (32, 64), (96, 150)];
    let new = |slot: &Slot, seed| noise(seed, 246 * (slot.heads * slot.head) as usize);
    let case = |(which, slot): (usize, &Slot)| {
        let mut case = Case::default();
        let width = (slot.heads * slot.head) as usize;
        let (k, v) = (case.floats(&new(slot, 1)), case.floats(&new(slot, 2)));
        let keys = case.bytes(&vec![0xff; slot.half_bytes() as usize]);
        let values = case.bytes(&vec![0xff; slot.half_bytes() as usize]);
        for (position, rows) in CALLS {
            let (from_k, from_v) = (k + position * width * 4, v + position * width * 4);
            // Two workers, one after the other: panels before and from the middle one on.
            let (first, end) = (position / 32, (position + rows - 1) / 32 + 1);
            for (first, end) in [(first, (first + end) / 2), ((first + end) / 2, end)] {
                let (first, end) = (Int(first as i64), Int(end as i64));
                let (rows, at) = (Int(rows as i64), Int(position as i64));
                let stride = Int(width as i64 * 4);
                let args = [At(from_k), At(from_v), At(keys), At(values), rows, at, stride];
                case.call(which, &[&args[..], &[first, end]].concat());
            }
        }
        (case, keys, values)
    };
    let made: Vec<(Case, usize, usize)> = slots.iter().enumerate().map(case).collect();
    let cases: Vec<Case> = made.iter().map(|(case, ..)| case.clone()).collect();
    everywhere(&define, &cases, &|target, found| {
        for ((slot, (case, keys, values)), found) in slots.iter().zip(&made).zip(found) {
            let bytes = slot.half_bytes() as usize;
            assert!(case.only_changes(found, &[(*keys, bytes), (*values, bytes)]));
            let (k, v) = (new(slot, 1), new(slot, 2));
            let (heads, width) = (slot.heads as usize, slot.head as usize);
            for position in 0..256 {
                for at in 0..heads * width {
                    let (key, value) = places(slot, at / width, position, at % width);
                    let key = element(&found[*keys..], key, slot.dtype);
                    let value = element(&found[*values..], value, slot.dtype);
                    let source = position * heads * width + at;
                    // What follows the last position in its panel is zero.
                    let expected =
                        if position < 246 { rounded(k[source], slot.dtype) } else { 0.0 };
                    assert_eq!(key, expected, "{} {slot:?} key {position} {at}", target.cpu);
                    if position < 246 {
                        assert_eq!(value, rounded(v[source], slot.dtype), "{slot:?} {position}");
                    }
                }
            }
        }
    });
}

/// Rows of a call: position of the first, how many.
const QUERIES: [(usize, usize); 8] =
    [(0, 1), (0, 5), (30, 4), (31, 1), (250, 13), (255, 2), (256, 1), (330, 1)];

/// KV heads, width of a head, query heads per KV head.
const SHAPES: [(u64, u64, u64); 8] = [
    (1, 8, 4),
    (2, 16, 1),
    (1, 24, 13),
    (2, 32, 3),
    (3, 64, 3),
    (1, 64, 1),
    (1, 80, 4),
    (2, 128, 3),
];

/// One shape: fills a cache, then asks for rows in several ways.
struct Attention {
    shape: attention::Shape,
    case: Case,
    /// Address of the queries, one row per position.
    q: usize,
    /// Results: position of the first row, rows, address.
    outs: Vec<(usize, usize, usize)>,
}

impl Attention {
    fn width(&self) -> usize {
        (self.shape.heads * self.shape.slot.head) as usize
    }

    fn new(index: usize, shape: attention::Shape) -> Attention {
        let slot = shape.slot;
        let mut case = Case::default();
        let kv = (slot.heads * slot.head) as usize;
        let (k, v) = (noise(index, FILLED * kv), noise(index + 99, FILLED * kv));
        let (k, v) = (case.floats(&k), case.floats(&v));
        let width = (shape.heads * slot.head) as usize;
        // Large enough for weights that differ much, small enough for many that count.
        let q: Vec<f32> = noise(index + 7, FILLED * width).iter().map(|x| x * 4.0).collect();
        let q = case.floats(&q);
        let keys = case.bytes(&vec![0xff; slot.half_bytes() as usize]);
        let values = case.bytes(&vec![0xff; slot.half_bytes() as usize]);
        let private = case.bytes(&vec![0xff; shape.private_bytes() as usize]);
        let append = [At(k), At(v), At(keys), At(values), Int(FILLED as i64), Int(0)];
        let panels = [Int(kv as i64 * 4), Int(0), Int(POSITIONS as i64 / 32)];
        case.call(2 * index, &[&append[..], &panels].concat());
        let mut outs = vec![];
        for (position, rows) in QUERIES {
            for workers in [1, 3] {
                let out = case.room(rows * width);
                let from = At(q + position * width * 4);
                for worker in 0..workers {
                    let (rows, at) = (Int(rows as i64), Int(position as i64));
                    let args = [from, At(out), At(keys), At(values), rows, at];
                    let more = [Int(width as i64 * 4), At(private), Int(worker), Int(workers)];
                    case.call(2 * index + 1, &[&args[..], &more].concat());
                }
                outs.push((position, rows, out));
            }
        }
        Attention { shape, case, q, outs }
    }

    /// What one query head sees: keys, or values, of the positions up to its own.
    fn seen(&self, seed: usize, head: usize, position: usize) -> Vec<f32> {
        let slot = self.shape.slot;
        let (kv, width) = ((slot.heads * slot.head) as usize, slot.head as usize);
        let kv_head = head / (self.shape.heads / slot.heads) as usize;
        let all = noise(seed, FILLED * kv);
        let row = |p: usize| all[p * kv + kv_head * width..][..width].to_vec();
        let seen = (0..=position).flat_map(row);
        seen.map(|x| rounded(x, slot.dtype)).collect()
    }

    fn check(&self, index: usize, cpu: &str, found: &[u8]) {
        let (width, head) = (self.width(), self.shape.slot.head as usize);
        let mut by_position = std::collections::HashMap::new();
        for &(first, rows, out) in &self.outs {
            for row in 0..rows {
                let position = first + row;
                let result = floats(found, out + row * width * 4, width);
                let bits: Vec<u32> = result.iter().map(|x| x.to_bits()).collect();
                let before = by_position.entry(position).or_insert_with(|| bits.clone());
                assert_eq!(*before, bits, "{cpu} {:?}: another cut at {position}", self.shape);
            }
        }
        let scale = self.shape.scale;
        for (position, bits) in by_position {
            for h in 0..self.shape.heads as usize {
                let q = floats(&self.case.memory, self.q + (position * width + h * head) * 4, head);
                let (keys, values) =
                    (self.seen(index, h, position), self.seen(index + 99, h, position));
                let expected = attention::reference(&q, &keys, &values, scale);
                for (bits, expected) in bits[h * head..][..head].iter().zip(expected) {
                    let off = (f32::from_bits(*bits) - expected).abs();
                    assert!(off < 3e-6, "{cpu} {:?} at {position}: {off}", self.shape);
                }
            }
        }
    }
}

#[test]
fn attention_is_softmax_of_scores_however_it_is_cut() {
    let shapes = [DType::F32, DType::F16].into_iter().flat_map(|dtype| {
        SHAPES.map(|(kv_heads, head, group)| attention::Shape {
            slot: slot(dtype, kv_heads, head),
            heads: kv_heads * group,
            scale: 1.0 / (head as f32).sqrt(),
        })
    });
    let all: Vec<Attention> =
        shapes.enumerate().map(|(i, shape)| Attention::new(i, shape)).collect();
    let define = |e: &mut Emitter| -> Vec<Func> {
        let mut functions = vec![];
        let mut panels = std::collections::HashMap::new();
        for (i, one) in all.iter().enumerate() {
            let slot = one.shape.slot;
            let mut of = |width| {
                let made = panels.entry((slot.dtype, width));
                made.or_insert_with(|| panel::define(e, slot.dtype, width)).clone()
            };
            let (keys, values) = (of(kv_append::PANEL_POSITIONS), of(slot.value_width()));
            functions.push(kv_append::define(e, &format!("append_{i}"), slot));
            let name = format!("attention_{i}");
            functions.push(attention::define(e, &name, one.shape, &keys, &values));
        }
        functions
    };
    let cases: Vec<Case> = all.iter().map(|one| one.case.clone()).collect();
    everywhere(&define, &cases, &|target, found| {
        for (i, (one, found)) in all.iter().zip(found).enumerate() {
            one.check(i, &target.cpu, found);
        }
    });
}

const VOCABS: [usize; 5] = [5, 77, 128, 129, 1000];
const WIDTH: usize = 24;
const ROWS: usize = 6;

/// A head of `vocab` rows, scored by two workers. Address of the results, and the targets.
fn score_case(index: usize, vocab: usize) -> (Case, usize, Vec<i32>) {
    let mut case = Case::default();
    let pieces = score::pieces(vocab as u64) as usize;
    // As panels; which numbers are in them is the same for any order.
    let w = case.floats(&noise(index, vocab.next_multiple_of(32) * WIDTH));
    let x = case.floats(&noise(index + 9, ROWS * WIDTH));
    let targets: Vec<i32> = (0..ROWS).map(|t| ((t * 53 + vocab - 1) % vocab) as i32).collect();
    let target_bytes: Vec<u8> = targets.iter().flat_map(|t| t.to_le_bytes()).collect();
    let targets_at = case.bytes(&target_bytes);
    let (chosen, partial) = (case.room(ROWS), case.room(pieces * ROWS * 2));
    let private = case.room(ROWS * score::PIECE as usize);
    let out = case.room(ROWS);
    let (rows, stride) = (Int(ROWS as i64), Int(WIDTH as i64 * 4));
    for (first, end) in [(0, pieces / 2), (pieces / 2, pieces)] {
        let args = [At(w), At(x), Int(WIDTH as i64), stride, rows, At(targets_at), At(chosen)];
        // Panels of floats want no room.
        let shares = [Int(0), Int(first as i64), Int(end as i64)];
        let more = [At(partial), At(private), shares[0], shares[1], shares[2]];
        case.call(0, &[&args[..], &more].concat());
    }
    for (first, end) in [(0, 2), (2, ROWS as i64)] {
        let args = [At(chosen), At(partial), rows, Int(first), Int(end), At(out)];
        case.call(1, &args);
    }
    (case, out, targets)
}

/// The log-probability of a target, in f64.
fn log_probability(index: usize, vocab: usize, row: usize, target: usize) -> f64 {
    let w = noise(index, vocab.next_multiple_of(32) * WIDTH);
    let x = noise(index + 9, ROWS * WIDTH);
    let logit = |r: usize| -> f64 {
        let weight = |k: usize| f64::from(w[(r / 32 * WIDTH + k) * 32 + r % 32]);
        (0..WIDTH).map(|k| weight(k) * f64::from(x[row * WIDTH + k])).sum()
    };
    let sum: f64 = (0..vocab).map(|r| logit(r).exp()).sum();
    logit(target) - sum.ln()
}

#[test]
fn score_is_log_softmax_of_the_targets() {
    for (i, vocab) in VOCABS.into_iter().enumerate() {
        let define = |e: &mut Emitter| -> Vec<Func> {
            let panel = panel::define(e, DType::F32, panel::PANEL_ROWS);
            let linear = linear::define(e, &linear::Panels::floats(&panel));
            let pieces = score::define_pieces(e, &linear, vocab as u64);
            vec![pieces, score::define_merge(e, vocab as u64)]
        };
        let (case, out, targets) = score_case(i, vocab);
        everywhere(&define, &[case], &|target, found| {
            let scores = floats(&found[0], out, ROWS);
            for (row, (found, token)) in scores.iter().zip(&targets).enumerate() {
                let expected = log_probability(i, vocab, row, *token as usize);
                let off = (f64::from(*found) - expected).abs();
                assert!(off < 2e-6, "{} {vocab}: {off}", target.cpu);
            }
        });
    }
}
